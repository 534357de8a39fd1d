"""What a layer's channels do over a data set: in two passes, so that nothing is kept of the maps.

A layer here is one call of a module whose output is an activation function's, however that is
written; a module that is called several times in a pass, as rectifiers often are, is several.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from captum_deconv.engine import modes, rectifiers
from captum_deconv.engine.hooks import Hook, hooked
from captum_deconv.engine.structures import list_tensors
from captum_deconv.experiments.watching import watched
from captum_deconv.features.batches import plan_batches, read_batches

_LEAST_MAP = 8
"""Rows and columns of a map whose border, one place wide, is less than half of it."""

_CHANNELS_LAST = ("View", "UnsafeView", "Addmm", "Mm")
"""What a linear layer ends with: channels are its last dimension, otherwise the second."""


class Call(NamedTuple):
    """One call of a module in a forward pass."""

    layer: str
    number: int
    cuts: bool
    last: bool

    def __str__(self) -> str:
        """Name the call: the first like its module."""
        return self.layer if self.number == 0 else f"{self.layer} (call {self.number + 1})"


@dataclass
class Channels:
    """Of each of ``C`` channels, over all images and places.

    Attributes:
        call: Whose output.
        highest: The largest activation, ``(C,)``.
        lowest: The smallest, ``(C,)``.
        positive: The sum of what is above zero, ``(C,)``, float64.
        border: The part of it on the map's outermost places; None where the map is too small.
        full: The share of activations within 1 % of the channel's largest, ``(C,)``.
        values: How many activations of each channel there were.
    """

    call: Call
    highest: Tensor
    lowest: Tensor
    positive: Tensor
    border: Tensor | None
    full: Tensor
    values: int = 0

    @property
    def count(self) -> int:
        """How many there are."""
        return len(self.highest)


def find_activations(model: nn.Module, image: Tensor) -> list[Call]:
    """Find the modules that return what an activation function gives.

    Of modules inside each other that return the same the innermost is taken. What is computed
    inside a module and not returned by any, as the last rectifier of a DenseNet, is not found.

    Args:
        model: In evaluation mode.
        image: ``(1, C, H, W)``.

    Returns:
        Their calls, in order.
    """
    outputs: list[tuple[str, Any]] = []
    names = [name for name, _ in model.named_modules()]

    def work(held: modes.Pass) -> list[Call]:
        leaf = image.clone().requires_grad_()

        def keep(name: str) -> Any:
            def take(module: nn.Module, args: Any, output: Any) -> None:
                if isinstance(output, Tensor) and output.grad_fn is not None:
                    outputs.append((name, output.grad_fn))

            return take

        with hooked(*(Hook(model.get_submodule(name), keep(name)) for name in names)):
            result = model(leaf.clone())
        found = rectifiers.survey([t for _, t in list_tensors(result)], [leaf], "all")
        families = {rectifier.node: rectifier.family for rectifier in found.rectifiers}
        calls, counts, taken = [], Counter[str](), set()
        for name, node in outputs:
            number = counts[name]
            counts[name] += 1
            if node not in families or node in taken or not name:
                continue
            taken.add(node)
            last = _is_linear(node.next_functions[0][0])
            calls.append(Call(name, number, families[node] == "relu", last))
        return calls

    return modes.differentiably(model, work)


def _is_linear(node: Any) -> bool:
    if node is not None and node.name().startswith("Add"):  # a bias added by itself
        return _is_linear(node.next_functions[0][0])
    return node is not None and bool(node.name().startswith(_CHANNELS_LAST))


def measure_channels(
    model: nn.Module,
    calls: Sequence[Call],
    dataset: Any,
    batch_size: int = 16,
    workers: int = 0,
    unreadable: dict[int, str] | None = None,
) -> list[Channels]:
    """Measure what channels do over a data set.

    Args:
        model: In evaluation mode.
        calls: Of which layers.
        dataset: As for :func:`captum_deconv.features.scan`.
        batch_size: Images computed at a time.
        workers: Processes that read images.
        unreadable: Takes why samples cannot be read, by number; they are left out.

    Returns:
        One for each call.
    """
    found: dict[Call, Channels] = {}
    counts = Counter[Call]()
    how = model, calls, dataset, batch_size, workers, {} if unreadable is None else unreadable
    for call, maps in _run(*how):
        _add(found, call, maps)
    for call, maps in _run(*how):
        near = maps.flatten(2) >= 0.99 * found[call].highest.to(maps)[:, None]
        found[call].full += near.sum((0, 2)).double().cpu()
        counts[call] += maps.numel() // maps.shape[1]
    for call, count in counts.items():
        found[call].full /= count
        found[call].values = count
    return [found[call] for call in calls if call in found]


def _run(
    model: nn.Module,
    calls: Sequence[Call],
    dataset: Any,
    batch_size: int,
    workers: int,
    unreadable: dict[int, str],
) -> Iterator[tuple[Call, Tensor]]:
    """Yield each call's maps ``(N, C, *places)``, batch after batch."""
    wanted = {(call.layer, call.number): call for call in calls}
    like = next((p for p in model.parameters() if p.is_floating_point()), torch.zeros(()))
    done: list[tuple[Call, Tensor]] = []
    numbers = Counter[str]()

    def take(layer: str, output: Tensor) -> None:
        call = wanted.get((layer, numbers[layer]))
        numbers[layer] += 1
        if call is not None:
            maps = output.detach()
            maps = maps.movedim(-1, 1) if call.last else maps
            # A copy: what follows may write to it.
            done.append((call, maps.clone() if maps.dim() > 2 else maps[:, :, None].clone()))

    layers = list(dict.fromkeys(call.layer for call in calls))
    batches = plan_batches(len(dataset), batch_size, None)
    for batch in read_batches(dataset, batches, batch_size, workers, pin_memory=False):
        unreadable.update(batch.unreadable)
        if batch.images is None:
            continue
        images = batch.images[batch.samples >= 0].to(like.device, like.dtype)
        numbers.clear()
        with watched(model, layers, take), torch.no_grad():
            model(images)
        while done:
            yield done.pop(0)


def _add(found: dict[Call, Channels], call: Call, maps: Tensor) -> None:
    flat = maps.flatten(2)
    highest, lowest = flat.amax((0, 2)).float().cpu(), flat.amin((0, 2)).float().cpu()
    positive = flat.clamp(min=0).sum((0, 2), dtype=torch.float64).cpu()
    border = None
    if maps.dim() == 4 and min(maps.shape[2:]) >= _LEAST_MAP:
        inside = maps[:, :, 1:-1, 1:-1].clamp(min=0).sum((0, 2, 3), dtype=torch.float64).cpu()
        border = positive - inside
    known = found.get(call)
    if known is None:
        full = torch.zeros(len(highest), dtype=torch.float64)
        found[call] = Channels(call, highest, lowest, positive, border, full)
        return
    known.highest = torch.maximum(known.highest, highest)
    known.lowest = torch.minimum(known.lowest, lowest)
    known.positive = known.positive + positive
    both = known.border is not None and border is not None
    known.border = known.border + border if both else None  # type: ignore[operator]  # both are

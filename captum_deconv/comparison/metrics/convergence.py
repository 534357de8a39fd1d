"""How alike does the backward pass make what started as unlike, from layer to layer?"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity

from captum_deconv.comparison.cases import Case, Mixed, average
from captum_deconv.comparison.methods import CannotError
from captum_deconv.comparison.seeds import seeded

_PAIRS = 4
_DEPTHS = 8


def convergence(case: Case) -> dict[str, float]:
    r"""Send two random signals back from the outputs, and measure how parallel they become.

    Sixt et al. 2020, "When explanations lie", arXiv:1912.09818, section 4 (cosine similarity
    convergence): where they are parallel, what arrives no longer depends on what was sent. As in
    the authors' code, the cosine is that of the channels at each place, its magnitude is averaged,
    and places where nothing arrives do not count; theirs is the median over images, here it is the
    mean. Unlike theirs, the signal starts at the outputs only. Of the methods that are a rule at
    the rectifiers, since others send no signal back.

    Vectors of few channels are alike by chance: two random ones of :math:`d` channels have
    :math:`\Gamma(d/2) / (\sqrt\pi\,\Gamma((d + 1)/2))` on average, at an input of three 0.5. At the
    input the cosine of the whole maps is therefore given, too, of which chance is near 0.

    Args:
        case: An image and a method.

    Returns:
        ``"input"``, the whole maps' absolute cosine; ``"start"``, that of what was sent; ``"at
        LAYER"``, from the output down, the average over the places of the signal that arrives at
        the layer's output, and ``"at input"``; ``"chance LAYER"``, that of random vectors. At most
        eight convolutions and linear layers, evenly spaced.

    Raises:
        CannotError: If the method is no rule.
    """
    if case.method.rule is None:
        raise CannotError("it sends no signal back by a rule of its own")
    layers = choose_layers(case.model, case.image)
    starts: list[float] = []
    whole: list[float] = []
    at: dict[str, list[float]] = {name: [] for name in [*layers, "input"]}
    chance: dict[str, float] = {}
    for pair in range(_PAIRS):
        with seeded(*case.key, "convergence", pair):
            sent = torch.randn(2, *case.scores.shape).to(case.scores)
        one, other = (_send(case, signal, layers) for signal in sent)
        starts.append(_align(sent[0], sent[1]))
        whole.append(_align(one["input"], other["input"]))
        for name, found in at.items():
            if name in one and name in other:
                found.append(align_places(one[name], other[name]))
                chance[name] = expect_chance(one[name].shape[1])
    values = {"input": average(whole), "start": average(starts)}
    values |= {f"at {name}": average(found) for name, found in at.items()}
    return values | {f"chance {name}": value for name, value in chance.items()}


def choose_layers(model: nn.Module, image: Tensor) -> list[str]:
    """Choose convolutions and linear layers, evenly spaced in the order in which they run.

    Args:
        model: The network.
        image: ``(1, C, H, W)``.

    Returns:
        At most eight dotted names, the one next to the output first.
    """
    order: list[str] = []
    layers: dict[str, nn.Module] = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.Linear)
    }
    with _hooks(layers, lambda name, output: order.append(name)), torch.no_grad():
        model(image)
    names = list(dict.fromkeys(order))
    count = min(_DEPTHS, len(names))
    places = torch.linspace(0, len(names) - 1, count).round().int().tolist()
    return [names[place] for place in reversed(places)]


def _send(case: Case, signal: Tensor, layers: list[str]) -> dict[str, Tensor]:
    """Return what arrives at the layers' outputs and at the input, by the method's rule."""
    arrived: dict[str, Tensor] = {}

    def watch(name: str, output: Any) -> None:
        if isinstance(output, Tensor) and output.requires_grad:
            # A copy: what flows on from here may be changed in place.
            output.register_hook(  # type: ignore[no-untyped-call]  # torch gives it no types
                lambda found: arrived.update({name: found.detach().clone()})
            )

    with _hooks({name: case.model.get_submodule(name) for name in layers}, watch):
        found = case.explain(Mixed(case.model, signal), target=0)
    return {**arrived, "input": found}


@contextlib.contextmanager
def _hooks(layers: dict[str, nn.Module], look: Callable[[str, Any], None]) -> Iterator[None]:
    hooks = [
        module.register_forward_hook(lambda _, __, output, name=name: look(name, output))
        for name, module in layers.items()
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def align_places(one: Tensor, other: Tensor) -> float:
    """Return the mean magnitude of the cosine over places, of those where both have a signal.

    Args:
        one: ``(N, C, ...)``: a vector of channels at each place.
        other: Of the same shape.

    Returns:
        In [0, 1]; NaN where there is no such place.
    """
    there = (one != 0).any(1) & (other != 0).any(1)
    return float(cosine_similarity(one, other, dim=1, eps=0).abs()[there].mean())


def expect_chance(channels: int) -> float:
    """Return the expected magnitude of the cosine of two random vectors of so many channels."""
    log = math.lgamma(channels / 2) - math.lgamma((channels + 1) / 2)
    return math.exp(log) / math.sqrt(math.pi)


def _align(one: Tensor, other: Tensor) -> float:
    return float(cosine_similarity(one.flatten(), other.flatten(), dim=0).abs())

"""What is asked of a batch: of each image a class or a neuron, by all methods at once."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from captum_deconv.engine.methods import Method
from captum_deconv.engine.recording import ModelCall, Recording
from captum_deconv.features.ranking import unravel

Reduce = str | int | tuple[Any, ...] | None
TargetOf = str | int | Sequence[int] | Callable[[Tensor, Tensor], Tensor]
NONE = -1


@dataclass
class Answer:
    """Of ``N`` images.

    Attributes:
        attributions: By method, one for each input, ``(N, C, H, W)``.
        target: The class, or the neuron's channel, ``(N,)``.
        place: Of a neuron in its layer's map, ``(N, dimensions)``; without columns for a class.
        predicted: The likeliest class, ``(N,)``; -1 for a neuron, whose pass ends at its layer.
        score: The value that is explained, ``(N,)``.
    """

    attributions: dict[str, tuple[Tensor, ...]]
    target: Tensor
    place: Tensor
    predicted: Tensor
    score: Tensor


class OfClasses(Recording[Any]):
    """From each image's class to the image; the question chooses classes by the scores."""

    def _explain(self, question: Callable[[Tensor], Tensor], keep: bool) -> Any:
        scores = self._find_output()
        if scores.dim() != 2:
            raise TypeError(
                f"the model returns {tuple(scores.shape)}, and a class is found in (N, classes): "
                "choose a tensor with output=, or ask for a neuron with layer= and neuron="
            )
        detached = scores.detach()
        targets = question(detached)
        count = scores.shape[1]
        bad = (targets < -count) | (targets >= count)
        self.checks.require(
            ~bad.any(),
            lambda: IndexError(
                f"target {int(targets[bad][0])} is out of range: the model has {count} classes"
            ),
        )
        within = targets % count
        selected = scores.gather(1, within[:, None])[:, 0]
        gradients = self._differentiate(
            [selected], self.leaves, self.methods, whole=True, keep=keep
        )
        place = within.new_zeros(len(within), 0)
        found = within, place, detached.argmax(1), selected.detach()
        return gradients, found


class OfNeurons(Recording[Any]):
    """From a neuron of each image to the image; the pass ends at its layer."""

    def _prepare_capture(self) -> Any:
        return self.call.prepare_capture(stop=True)

    def _explain(self, question: str | int | tuple[int, ...], keep: bool) -> Any:
        captured = self._captured()
        if len(captured) != 1 or len(captured[0]) != 1 or captured[0][0].dim() < 2:
            raise TypeError(
                f"layer {self.call.layer!r} is not one tensor (N, C, ...): choose another layer"
            )
        layer = captured[0][0]
        shape = tuple(layer.shape[1:])
        flat = self._locate(layer.detach(), question)
        selected = layer.flatten(1).gather(1, flat[:, None])[:, 0]
        gradients = self._differentiate([selected], self.leaves, self.methods, keep=keep)
        channel, places = flat // math.prod(shape[1:]), unravel(flat, shape[1:])
        found = channel, places, torch.full_like(channel, NONE), selected.detach()
        return gradients, found

    def _locate(self, layer: Tensor, question: str | int | tuple[int, ...]) -> Tensor:
        """Return each image's neuron, as an index into its flattened activations."""
        shape = tuple(layer.shape[1:])
        if question == "strongest":
            return layer.flatten(1).argmax(1)
        parts = question if isinstance(question, tuple) else (question,)
        fits = len(parts) in (1, len(shape)) and all(isinstance(part, int) for part in parts)
        if not fits or any(not -n <= int(i) < n for i, n in zip(parts, shape, strict=False)):
            raise IndexError(
                f"neuron {question!r} does not fit layer {self.call.layer!r}, which is {shape}: "
                'give "strongest", a channel, or a channel and a place'
            )
        where = [int(i) % n for i, n in zip(parts, shape, strict=False)]
        size = layer[0, 0].numel()
        if len(where) < len(shape):
            return where[0] * size + layer[:, where[0]].flatten(1).argmax(1)
        flat = 0
        for index, length in zip(where, shape, strict=True):
            flat = flat * length + index
        return torch.full((len(layer),), flat, device=layer.device)


def answer(
    call: ModelCall, methods: Sequence[Method], question: Any, labels: Tensor, rows: Sequence[int]
) -> Answer:
    """Attribute a batch.

    Args:
        call: The model and the images.
        methods: By which methods.
        question: A neuron where the call has a layer, otherwise how classes are chosen.
        labels: Of the images, ``(N,)``.
        rows: Their numbers, for a sequence of targets.

    Returns:
        The answer.

    Raises:
        IndexError: If a target or a neuron is out of range.
        TypeError: If what the model or the layer returns is no tensor of classes or channels.
    """
    if call.layer:
        gradients, found = OfNeurons(call, methods).answer(question)
    else:
        choose = lambda scores: choose_targets(question, scores, labels, rows)  # noqa: E731
        gradients, found = OfClasses(call, methods).answer(choose)
    by_method = {m.method: g for m, g in zip(methods, gradients, strict=True)}
    return Answer(by_method, *found)


def choose_targets(target: TargetOf, scores: Tensor, labels: Tensor, rows: Sequence[int]) -> Tensor:
    """Choose a class of each image.

    Args:
        target: As for :func:`captum_deconv.collect`.
        scores: ``(N, classes)``.
        labels: ``(N,)``.
        rows: The images' numbers.

    Returns:
        ``(N,)``, on the scores' device.

    Raises:
        TypeError: If a function returns no integers ``(N,)``.
    """
    if target == "predicted":
        return scores.argmax(1)
    if callable(target):
        found = torch.as_tensor(target(scores, labels.to(scores.device)))
        if found.shape != labels.shape or found.is_floating_point() or found.is_complex():
            raise TypeError(
                f"target returned {tuple(found.shape)} of {found.dtype} for {len(labels)} images: "
                "it must return one integer for each"
            )
    elif target == "label":
        found = labels
    elif isinstance(target, int):
        found = torch.full_like(labels, target)
    else:
        found = torch.tensor([int(target[row]) for row in rows])
    return found.to(scores.device, torch.int64, non_blocking=True)


def reduce_maps(maps: Tensor, reduce: Reduce) -> Tensor:
    """Keep less of attributions ``(N, C, H, W)``: ``"sum"``, ``"abs_max"``, a size, or a sequence.

    Args:
        maps: The attributions.
        reduce: As for :func:`captum_deconv.collect`.

    Returns:
        ``(N, C or 1, h, w)``.

    Raises:
        ValueError: If it is none of these.
    """
    if reduce is None:
        return maps
    if reduce == "sum":
        return maps.sum(1, keepdim=True)
    if reduce == "abs_max":
        return maps.abs().amax(1, keepdim=True)
    if isinstance(reduce, int) and reduce > 0:
        reduce = (reduce, reduce)
    if isinstance(reduce, tuple) and len(reduce) == 2 and all(isinstance(n, int) for n in reduce):
        if min(reduce) < 1 or reduce[0] > maps.shape[2] or reduce[1] > maps.shape[3]:
            raise ValueError(f"reduce={reduce} does not fit attributions of {tuple(maps.shape)}")
        return torch.nn.functional.adaptive_avg_pool2d(maps, reduce)
    if isinstance(reduce, tuple) and reduce:
        for step in reduce:
            maps = reduce_maps(maps, step)
        return maps
    raise ValueError(
        f'reduce must be None, "sum", "abs_max", a size, or a tuple of these, not {reduce!r}'
    )


def answer_in_parts(
    call: ModelCall,
    methods: Sequence[Method],
    question: Any,
    labels: Tensor,
    rows: Sequence[int],
    halved: Callable[[int], None],
) -> Answer:
    """Attribute a batch; where memory does not suffice, in two halves, and so on.

    Args:
        call: As for :func:`answer`.
        methods: As there.
        question: As there.
        labels: As there.
        rows: As there.
        halved: Called with the number of images that were too many.

    Returns:
        The answer.
    """
    count = len(rows)
    try:
        return answer(call, methods, question, labels, rows)
    except (MemoryError, RuntimeError) as error:
        if not _is_for_want_of_memory(error) or count < 2:
            raise
    halved(count)
    one, other = (
        answer_in_parts(
            replace(call, inputs=tuple(each[part] for each in call.inputs)),
            *(methods, question, labels[part], rows[part], halved),
        )
        for part in (slice(0, count // 2), slice(count // 2, count))
    )
    return Answer(
        {
            name: tuple(map(torch.cat, zip(maps, other.attributions[name], strict=True)))
            for name, maps in one.attributions.items()
        },
        *(
            torch.cat([getattr(one, name), getattr(other, name)])
            for name in ("target", "place", "predicted", "score")
        ),
    )


def _is_for_want_of_memory(error: Exception) -> bool:
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return "can't allocate memory" in str(error)  # the CPU's allocator, in a RuntimeError

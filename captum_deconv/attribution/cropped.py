"""From a neuron to the part of the image that it sees.

Asked for many neurons, a pass over the whole image is made once, for their values; each neuron's
gradient is taken on the smallest crop that the neuron cannot tell from the image
(:mod:`captum_deconv.receptive_field.crops`). What the selector selects needs no knowledge of
selectors: its own gradient to the layer's tensor says which places it looks at, and how.
"""

import math
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import chain, islice
from typing import Any

import numpy as np
import torch
from torch import Tensor

from captum_deconv.engine._captum import NeuronSelector, select_neuron
from captum_deconv.engine.methods import Method
from captum_deconv.engine.recording import Gradients, ModelCall, OfCrops, OfNeuron
from captum_deconv.receptive_field import ReceptiveField, crops, trace
from captum_deconv.receptive_field.crops import Crop

_Parts = list[tuple[Crop, Tensor]]
"""Of one question, each image's crop and the gradient to it."""

_AHEAD = 8
"""Questions that are read ahead: small crops together take less than half the time."""

_PASS = 2 * 56**2
"""Pixels of an image whose backward pass takes about as long as a pass of next to none."""

_ROUNDING = 1e-4
"""How far a crop's activations may lie from the image's, of the largest of the layer."""


class _DiffersError(Exception):
    """The model tells a crop from its image, whatever its graph says."""


class OfCroppedNeuron(OfNeuron):
    """From a neuron of the layer to the inputs, by its crop where that is exact and worth it.

    That is so where the model takes images and nothing else, in full precision, and draws no random
    numbers, the neuron is at one place of the layer's map, and the graph of the pass over the whole
    image proves that it sees a small part of it. A model that computes something else on a crop,
    such as one that measures the whole image without autograd's knowledge, is seen by its
    activations. In every other case the neuron is asked in the whole image.
    """

    def __init__(self, call: ModelCall, methods: Sequence[Method], *, cropped: bool) -> None:
        super().__init__(call, methods)
        self._cropped = cropped and call.additional_forward_args is None
        self._field: ReceptiveField | None = None
        self._slack: Tensor
        self._ahead: deque[Any] = deque()
        self._found: deque[_Parts] = deque()

    def _record(self, held: Any) -> None:
        super()._record(held)
        captured = self._captured()
        self._cropped = self._cropped and len(captured) == len(captured[0]) == len(self.leaves) == 1
        if self._cropped:
            (layer,), (images,) = captured[0], self.leaves
            self._cropped = (
                layer.dim() == images.dim() > 2
                and len(layer) == len(images) > 0
                and layer.dtype in (torch.float32, torch.float64)
                and layer.requires_grad
                and not layer._backward_hooks  # which the gradient to it would pass twice
            )

    def _run(self, arguments: Sequence[Any], held: Any) -> None:
        before = _read_random_states(self.leaves[0].device)
        super()._run(arguments, held)
        after = _read_random_states(self.leaves[0].device)
        # A crop would get other random numbers.
        self._cropped = self._cropped and all(map(torch.equal, before, after))

    def answer_each(self, questions: Iterable[Any], name: str) -> Iterator[Gradients]:
        """As for every recording; some questions are read ahead, and their crops pass together."""
        return super().answer_each(self._read_ahead(iter(questions)), name)

    def _read_ahead(self, questions: Iterator[Any]) -> Iterator[Any]:
        failed: Exception | None = None
        while failed is None:
            try:
                self._ahead.extend(islice(questions, _AHEAD))
            except Exception as error:  # after those that were read before it
                failed = error
            if not self._ahead and failed is None:
                return
            yield from list(self._ahead)
        raise failed

    def _explain(self, question: NeuronSelector, keep: bool) -> Gradients:
        if self._cropped and not self._found:
            self._found.extend(self._explain_by_crops(list(self._ahead)))
        self._ahead.popleft()
        if not self._found:
            return super()._explain(question, keep)
        result = torch.zeros_like(self.leaves[0], requires_grad=False)
        for (cut, gradient), whole in zip(self._found.popleft(), result, strict=True):
            box = (slice(None), *map(slice, cut.starts, cut.stops))
            whole[box] = gradient
        return (result,)

    def _explain_by_crops(self, questions: Sequence[NeuronSelector]) -> list[_Parts]:
        """Return the crops' gradients of the first questions, as far as there are crops of them."""
        (layer,), (images,) = self._captured()[0], self.leaves
        starts: list[Tensor] = []
        places: list[Any] = []
        for number, question in enumerate(questions):
            try:
                start = self._start(layer, question)
            except (AssertionError, IndexError, TypeError):
                if number == 0:
                    raise
                break  # told when it is its turn
            if start is None:
                break
            starts.append(start)
            if number == 0:  # if it is at no one place, the others are not looked at
                places = _find_places(starts)
                if not places:
                    return []
        if not starts:
            return []
        places += _find_places(starts[1:])
        if self._field is None:
            try:
                self._field = trace(layer, images)
            except RuntimeError:  # no image leads to the layer
                self._cropped = False
                return []
            self._slack = _ROUNDING * layer.detach().abs().max()
        cuts = _cut_alike(self._field, places)
        if not cuts:
            return []
        return self._pass_back(cuts, starts, places)

    def _start(self, layer: Tensor, question: Any) -> Tensor | None:
        """Return what a question's gradient to the layer is, if it has one."""
        selected = select_neuron((layer,), question)
        if not selected.requires_grad:
            return None
        ((start,),) = self._differentiate([selected], [layer], self.methods, keep=True)
        return start

    def _pass_back(
        self, cuts: list[list[Crop]], starts: list[Tensor], places: list[list[list[int]]]
    ) -> list[_Parts]:
        """Run the model on the crops of some questions; none is returned if it takes none."""
        (layer,), (images,) = self._captured()[0], self.leaves
        known = list(zip(starts, places[: len(cuts)], strict=False))
        there = torch.cat([_take(layer.detach(), of_images) for _, of_images in known])
        counts = torch.cat([_take(start, of_images) for start, of_images in known])
        positions = [cut.position for of_images in cuts for cut in of_images]

        def select(of_crops: Tensor) -> tuple[Tensor, Tensor]:
            same = _take(of_crops, positions)
            near = (same.detach() - there).abs() <= self._slack
            recording.checks.require(near.all(), _DiffersError)
            return same, counts

        parts = [
            cut.cut_from(image)
            for of_images in cuts
            for cut, image in zip(of_images, images.detach(), strict=True)
        ]
        assert self.capture is not None
        capture = replace(self.capture, tensors={})
        call = replace(self.call, inputs=torch.stack(parts))
        recording = OfCrops(call, self.methods, capture)
        try:
            with self._held.begun_anew():
                ((gradients,),) = recording.answer_within(select, self._held)
        except torch.OutOfMemoryError:
            raise
        except Exception:
            self._cropped = False  # it takes no crops; whatever else is wrong, the image will say
            return []
        by_question = torch.split(gradients, len(layer))
        return [list(zip(*pair, strict=True)) for pair in zip(cuts, by_question, strict=True)]


def _read_random_states(device: torch.device) -> list[Tensor]:
    """Return what the next random numbers follow from, on the CPU and on a device."""
    read = getattr(torch.get_device_module(device), "get_rng_state", None)  # torch.cpu has none
    return [torch.get_rng_state(), *([] if read is None else [read(device)])]


def _find_places(starts: Sequence[Tensor]) -> list[list[list[int]]]:
    """Return the one place, in each example, that each gradient ``(N, C, *map)`` is not zero at.

    Up to the first gradient that has more places, or none; all are read from the device at once.
    """
    if not starts:
        return []
    found = []
    for start in starts:
        marked = start.abs().sum(1).flatten(1).ne(0)  # four times as fast as any()
        found.append(torch.stack([marked.sum(1), marked.int().argmax(1)]))
    shape = starts[0].shape[2:]
    places = []
    for counts, flat in torch.stack(found).tolist():
        if any(count != 1 for count in counts):
            break
        places.append(np.stack(np.unravel_index(flat, shape), 1).tolist())
    return places


def _take(maps: Tensor, places: Sequence[Sequence[int]]) -> Tensor:
    """Return all channels ``(N, C)`` of maps ``(N, C, *map)``, of each at its place."""
    of_each = torch.tensor(places).T.to(maps.device, non_blocking=True)
    where = (torch.arange(len(maps), device=maps.device), *of_each)
    return maps.movedim(1, -1)[where]


def _cut_alike(field: ReceptiveField, places: list[list[list[int]]]) -> list[list[Crop]]:
    """Return crops of one size, of as many questions as take no more than the images.

    None where they would save nothing.
    """
    cuts = [[crops.cut(field, place) for place in of_images] for of_images in places]
    size = tuple(max(lengths) for lengths in zip(*(cut.size for cut in chain(*cuts)), strict=True))
    cuts = [
        [
            cut if cut.size == size else crops.cut(field, place, size)
            for cut, place in zip(of_images, where, strict=True)
        ]
        for of_images, where in zip(cuts, places, strict=True)
    ]
    image, crop = math.prod(field.image_size), math.prod(size)
    saved = image - 2 * crop  # a crop goes forward as well
    if saved * len(cuts[0]) > _PASS and all(cut.size == size for cut in chain(*cuts)):
        return cuts[: image // crop]
    return _cut_alike(field, places[:1]) if len(places) > 1 else []

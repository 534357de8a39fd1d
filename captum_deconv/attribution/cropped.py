"""From a neuron to the part of the image that it sees.

Asked for many neurons, a pass over the whole image is made once, for their values; each neuron's
gradient is taken on the smallest crop that the neuron cannot tell from the image
(:mod:`captum_deconv.receptive_field.crops`). What the selector selects needs no knowledge of
selectors: its own gradient to the layer's tensor says which places it looks at, and how.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from captum_deconv.engine._captum import NeuronSelector, select_neuron
from captum_deconv.engine.methods import Method
from captum_deconv.engine.recording import Gradients, ModelCall, OfCrops, OfNeuron
from captum_deconv.receptive_field import ReceptiveField, crops, trace

_PASS = 2 * 56**2
"""Pixels of an image whose backward pass takes about as long as a pass of next to none."""

_ROUNDING = 1e-4
"""How far a crop's activations may lie from the image's, of the largest of the layer."""


class _DiffersError(Exception):
    """The model tells a crop from its image, whatever its graph says."""


class OfCroppedNeuron(OfNeuron):
    """From a neuron of the layer to the inputs, by its crop where that is exact and worth it.

    That is so where the model takes images and nothing else, in full precision, the neuron is at
    one place of the layer's map, and the graph of the pass over the whole image proves that it sees
    a small part of it. A model that computes something else on a crop, such as one that measures
    the whole image without autograd's knowledge, is seen by its activations. In every other case
    the neuron is asked in the whole image.
    """

    def __init__(self, call: ModelCall, methods: Sequence[Method], *, cropped: bool) -> None:
        super().__init__(call, methods)
        self._cropped = cropped and call.additional_forward_args is None
        self._field: ReceptiveField | None = None
        self._slack = 0.0

    def _record(self, held: Any) -> None:
        super()._record(held)
        captured = self._captured()
        self._cropped = self._cropped and len(captured) == len(captured[0]) == len(self.leaves) == 1
        if self._cropped:
            (layer,), (images,) = captured[0], self.leaves
            self._cropped = (
                layer.dim() == images.dim() > 2
                and len(layer) == len(images)
                and layer.dtype in (torch.float32, torch.float64)
                and layer.requires_grad
            )

    def _explain(self, question: NeuronSelector, keep: bool) -> Gradients:
        found = self._explain_by_crops(question) if self._cropped else None
        return super()._explain(question, keep) if found is None else (found,)

    def _explain_by_crops(self, question: NeuronSelector) -> Tensor | None:
        """Return the gradient, or None where it is to be had from the whole image only."""
        (layer,), (images,) = self._captured()[0], self.leaves
        selected = select_neuron((layer,), question)
        if not selected.requires_grad:
            return None
        ((start,),) = self._differentiate([selected], [layer], self.methods, keep=True)
        places = _find_places(start)
        if places is None:
            return None
        if self._field is None:
            self._field = trace(layer, images)
            self._slack = _ROUNDING * float(layer.detach().abs().max())
        cuts = _cut_alike(self._field, places)
        if not cuts:
            return None
        rows = torch.arange(len(layer))
        where = (rows, *torch.tensor(places).unbind(1))
        there, counts = layer.detach().movedim(1, -1)[where], start.movedim(1, -1)[where]

        def select(of_crops: Tensor) -> tuple[Tensor, Tensor]:
            where = (rows, *torch.tensor([cut.position for cut in cuts]).unbind(1))
            same = of_crops.movedim(1, -1)[where]
            if not bool(((same.detach() - there).abs() <= self._slack).all()):
                raise _DiffersError
            return same, counts

        parts = [cut.cut_from(image) for cut, image in zip(cuts, images.detach(), strict=True)]
        assert self.capture is not None
        capture = replace(self.capture, tensors={})
        call = replace(self.call, inputs=torch.stack(parts))
        try:
            ((gradients,),) = OfCrops(call, self.methods, capture).answer_within(select, self._held)
        except torch.OutOfMemoryError:
            raise
        except Exception:
            self._cropped = False  # it takes no crops; whatever else is wrong, the image will say
            return None
        result = torch.zeros_like(images, requires_grad=False)
        for cut, whole, gradient in zip(cuts, result, gradients, strict=True):
            box = (slice(None), *map(slice, cut.starts, cut.stops))
            whole[box] = gradient
        return result


def _find_places(start: Tensor) -> list[list[int]] | None:
    """Return each example's one place that a gradient ``(N, C, *map)`` is not zero at."""
    marked = start.abs().sum(1).flatten(1).ne(0)  # four times as fast as any()
    if not bool((marked.sum(1) == 1).all()):
        return None
    places = torch.unravel_index(marked.int().argmax(1), start.shape[2:])
    return torch.stack(places, 1).tolist()


def _cut_alike(field: ReceptiveField, places: list[list[int]]) -> list[crops.Crop]:
    """Return the crops of all places, of one size; none where they would save nothing."""
    cuts = [crops.cut(field, place) for place in places]
    size = tuple(map(max, zip(*(cut.size for cut in cuts), strict=True)))
    cuts = [
        cut if cut.size == size else crops.cut(field, place, size)
        for cut, place in zip(cuts, places, strict=True)
    ]
    saved = math.prod(field.image_size) - 2 * math.prod(size)  # a crop goes forward as well
    alike = all(cut.size == size for cut in cuts)
    return cuts if alike and saved * len(cuts) > _PASS else []

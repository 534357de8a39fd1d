"""The engine of :func:`captum_deconv.gallery.project`: crops in, projections out, by batches."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from captum_deconv.engine import forward
from captum_deconv.engine.fast import measure_difference
from captum_deconv.engine.lean import Memory
from captum_deconv.engine.methods import Method
from captum_deconv.engine.recording import ModelCall, OfCrops
from captum_deconv.gallery.samples import to_bytes
from captum_deconv.receptive_field import crops
from captum_deconv.receptive_field.shapes import find_field

Seed = Literal["activation", "one"]

_PIXELS_ON_CPU, _PIXELS_ON_GPU = 4 * 224**2, 64 * 224**2
"""Of one batch. A CPU gains nothing by more; on a GPU it is VGG-16 within about 8 GB."""

_PASS = 224**2 // 16
"""Pixels that take about as long as a pass more: crops are grown to one size for less than that."""

_EXACT, _MIXED = 1e-3, 5e-2
"""How far an activation may lie from the index's, of the largest there, by its precision."""


class FieldTooSmallError(Exception):
    """A neuron saw more of its image than its receptive field."""


@dataclass(frozen=True)
class Neurons:
    """What to project: of each of ``C`` channels up to ``k`` neurons.

    Attributes:
        channels: The channels' numbers in the layer.
        values: ``(C, k)``.
        samples: ``(C, k)``, -1 where there is none.
        positions: ``(C, k, spatial dims)``.
        exact: Whether the values were computed in full precision.
    """

    channels: Sequence[int]
    values: Tensor
    samples: Tensor
    positions: Tensor
    exact: bool = True

    def list_by_sample(self) -> dict[int, list[tuple[int, int]]]:
        """Return for each sample, in order, the (row, rank) of its neurons."""
        by_sample: dict[int, list[tuple[int, int]]] = defaultdict(list)
        for row, samples in enumerate(self.samples.tolist()):
            for rank, sample in enumerate(samples):
                if sample >= 0:
                    by_sample[sample].append((row, rank))
        return {sample: by_sample[sample] for sample in sorted(by_sample)}

    @property
    def slack(self) -> float:
        """How far an activation may be from its value here."""
        finite = self.values[self.values.isfinite()]
        largest = float(finite.abs().max()) if finite.numel() else 1.0
        return largest * (_EXACT if self.exact else _MIXED)


class _Job(NamedTuple):
    """One neuron, and the part of its image that it is given."""

    row: int
    rank: int
    crop: crops.Crop
    part: Tensor


_stops: WeakKeyDictionary[nn.Module, dict[str, bool]] = WeakKeyDictionary()
"""By model and layer, whether a pass may stop there; the proof reads the model's source."""


def _prepare_capture(model: nn.Module, layer: str) -> forward.Capture:
    """Prepare the capture of a layer.

    What was proved once is believed again. Had the model been changed meanwhile so that it no
    longer holds, the activations would not be the index's, and they are compared.
    """
    known = _stops.setdefault(model, {})
    capture = forward.capture(model, layer, stop=layer not in known)
    capture.stop = known.setdefault(layer, capture.stop)
    return capture


class Projector:
    """Collects crops until a batch of one size is full, projects it, and lays out the results.

    Args:
        model: The user's, which stays as it is.
        layer: Its dotted name.
        asked: The methods.
        seed: ``"activation"`` or ``"one"``.
        neurons: What to project.
        batch_size: Crops in one pass, or None to choose by their size.
        restore: For ``images``, as for :func:`captum_deconv.gallery.project`.
        reference: The model that a faster copy stands for: the first batch goes through both.
        whole: Whether to project from whole images, whatever the receptive field.
        memory: As for :func:`captum_deconv.gallery.project`.
    """

    def __init__(
        self,
        model: nn.Module,
        layer: str,
        asked: Sequence[Method],
        seed: Seed,
        neurons: Neurons,
        batch_size: int | None,
        restore: Callable[[Tensor], Tensor] | None,
        *,
        reference: nn.Module | None = None,
        whole: bool = False,
        memory: Memory = "light",
    ) -> None:
        self.model, self.layer, self.asked, self.seed = model, layer, asked, seed
        self.neurons, self.batch_size, self.restore = neurons, batch_size, restore
        self.whole, self.memory, self.reference = whole, memory, reference
        self.difference: float | None = None
        self.capture = _prepare_capture(model, layer)
        like = next((p for p in model.parameters() if p.is_floating_point()), torch.zeros(()))
        self.device, self.dtype = like.device, like.dtype
        self.images: dict[int, Tensor] = {}
        self.image_size: tuple[int, int] = (0, 0)
        shape = tuple(neurons.samples.shape)
        self.patches = torch.zeros(*shape, 3, 0, 0)
        self.projections = [self.patches for _ in asked]
        self.boxes = torch.zeros(*shape, 2, 2, dtype=torch.int64)
        self.fields = self.boxes.clone()

    def project_all(
        self, images: Iterator[Tensor], by_sample: dict[int, list[tuple[int, int]]]
    ) -> None:
        """Project every neuron of every image.

        Args:
            images: One for each sample, in their order.
            by_sample: The (row, rank) of each sample's neurons.

        Raises:
            FieldTooSmallError: If a crop makes a difference.
            ValueError: If images differ in size, or activations from the index's.
        """
        waiting: dict[tuple[int, ...], list[_Job]] = defaultdict(list)
        for (sample, places), given in zip(by_sample.items(), images, strict=True):
            image = given.to(self.dtype)
            if not self.images:
                self._prepare(image, by_sample)
            if tuple(image.shape[1:]) != self.image_size:
                raise ValueError(
                    f"sample {sample} is of {tuple(image.shape[1:])} pixels, others are of "
                    f"{self.image_size}: a gallery needs images of one size"
                )
            self.images[sample] = to_bytes(image, self.restore)
            for row, rank in places:
                self._place_patch(image, row, rank)
                crop = self.crops[row, rank]
                waiting[crop.size].append(_Job(row, rank, crop, crop.cut_from(image)))
                if len(waiting[crop.size]) >= self._limit(crop.size):
                    self._project(waiting.pop(crop.size))
        for batch in waiting.values():
            self._project(batch)

    def _prepare(self, image: Tensor, by_sample: dict[int, list[tuple[int, int]]]) -> None:
        """Find the crop of every neuron, and make room for the results."""
        self.image_size = (image.shape[1], image.shape[2])
        field = find_field(self.model, self.layer, image.to(self.device))
        self.field = replace(field, whole_image=True) if self.whole else field
        self.whole = self.field.whole_image
        places = {
            (row, rank): self.neurons.positions[row, rank].tolist()
            for neurons in by_sample.values()
            for row, rank in neurons
        }
        self.crops = {key: crops.cut(self.field, place) for key, place in places.items()}
        grown = crops.join_sizes((crop.size for crop in self.crops.values()), _PASS)
        for key, crop in self.crops.items():
            if grown[crop.size] != crop.size:
                self.crops[key] = crops.cut(self.field, places[key], grown[crop.size])
        self.frames = {key: crops.frame(self.field, place) for key, place in places.items()}
        if places:
            where = tuple(torch.tensor(numbers) for numbers in zip(*places, strict=True))
            self.boxes[where] = torch.tensor([patch for patch, _ in self.frames.values()])
            self.fields[where] = torch.tensor([seen for _, seen in self.frames.values()])
        shape = (*self.neurons.samples.shape, image.shape[0], *crops.patch_size(self.field))
        self.patches = torch.zeros(shape, dtype=self.dtype)
        self.projections = [torch.zeros(shape, dtype=self.dtype) for _ in self.asked]

    def _limit(self, size: tuple[int, ...]) -> int:
        if self.batch_size is not None:
            return max(1, self.batch_size)
        pixels = _PIXELS_ON_CPU if self.device.type == "cpu" else _PIXELS_ON_GPU
        return max(1, pixels // (size[0] * size[1]))

    def _place_patch(self, image: Tensor, row: int, rank: int) -> None:
        (top, bottom), (left, right) = self.frames[row, rank][0]
        self.patches[row, rank] = image[:, top:bottom, left:right]

    def _project(self, batch: Sequence[_Job]) -> None:
        """Project a batch of crops of one size: each is an example, with a neuron of its own."""
        images = torch.stack([job.part for job in batch]).to(self.device)
        call = ModelCall(self.model, images, memory=self.memory)
        recording = OfCrops(call, self.asked, self.capture)
        try:
            found = recording.answer(lambda layer: self._select(layer, batch))
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            if self.capture.tensors or batch[0].crop.size == self.image_size:
                raise
            # Such as a branch that pools by more than the crop has pixels.
            raise FieldTooSmallError(f"the model does not take its crops: {error}") from error
        finally:
            self.capture.tensors.clear()
        if self.reference is not None and self.difference is None:
            self.difference = self._measure_difference(self.reference, images, batch, found)
        for projections, (gradients,) in zip(self.projections, found, strict=True):
            self._place_projections(projections, gradients.cpu(), batch)

    def _measure_difference(
        self,
        reference: nn.Module,
        images: Tensor,
        batch: Sequence[_Job],
        found: Sequence[Sequence[Tensor]],
    ) -> float:
        """Return how far projections are from those by the reference, of the largest there."""
        call = ModelCall(reference, images, memory=self.memory)
        recording = OfCrops(call, self.asked, forward.capture(reference, self.layer, stop=True))
        exact = recording.answer(lambda layer: self._select(layer, batch))
        return max(
            measure_difference(fast, other) for (fast,), (other,) in zip(found, exact, strict=True)
        )

    def _select(self, layer: Tensor, batch: Sequence[_Job]) -> tuple[Tensor, Tensor]:
        """Return each example's neuron, of its channel, at its place; and what to start from."""
        channels = torch.tensor([self.neurons.channels[job.row] for job in batch])
        places = torch.tensor([job.crop.position for job in batch], dtype=torch.int64)
        if places.shape[1] != layer.dim() - 2 or (places >= torch.tensor(layer.shape[2:])).any():
            self._refuse(batch[0], f"the layer gives {tuple(layer.shape[1:])} for its crop")
        where = (torch.arange(len(layer)), channels, *places.unbind(1))
        selected = layer[tuple(numbers.to(layer.device) for numbers in where)]
        values = selected.detach()
        self._check_values(values.cpu(), batch)
        return selected, values if self.seed == "activation" else torch.ones_like(values)

    def _check_values(self, got: Tensor, batch: Sequence[_Job]) -> None:
        """Compare the activations with the index's: a crop must make no difference."""
        want = self.neurons.values[[job.row for job in batch], [job.rank for job in batch]]
        far = ~((got.double() - want.double()).abs() <= self.neurons.slack)
        if far.any():
            first = int(far.nonzero()[0])
            job, channel = batch[first], self.neurons.channels[batch[first].row]
            sample = int(self.neurons.samples[job.row, job.rank])
            text = f"channel {channel} on sample {sample} is {float(got[first]):.6g}"
            self._refuse(job, f"{text}, and {float(want[first]):.6g} in the index")

    def _refuse(self, job: _Job, text: str) -> None:
        if job.crop.size != self.image_size:
            raise FieldTooSmallError(text)
        raise ValueError(
            f"{text}: the data set must give the same image at every call (no random transforms), "
            "and the model must be as it was for the scan"
        )

    def _place_projections(
        self, projections: Tensor, gradients: Tensor, batch: Sequence[_Job]
    ) -> None:
        """Lay what each crop got into the box of its patch, outside of which it must be zero."""
        for job, gradient in zip(batch, gradients, strict=True):
            inside, place = gradient, projections[job.row, job.rank]
            box = self.frames[job.row, job.rank][0]
            edges = zip(box, job.crop.starts, job.crop.stops, strict=True)
            for axis, ((first, last), start, stop) in enumerate(edges, start=1):
                low, high = max(first, start), min(last, stop)
                inside = inside.narrow(axis, low - start, high - low)
                place = place.narrow(axis, low - first, high - low)
            if not self.whole and inside.count_nonzero() != gradient.count_nonzero():
                raise FieldTooSmallError("a projection reaches beyond it")
            place.copy_(inside)

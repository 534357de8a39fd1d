"""The engine of :func:`captum_deconv.gallery.project`: crops in, projections out, by batches."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from captum_deconv.engine import forward, modes
from captum_deconv.engine.fast import measure_difference
from captum_deconv.engine.hooks import Hook, hooked
from captum_deconv.engine.lean import Memory
from captum_deconv.engine.methods import Method
from captum_deconv.engine.recording import ModelCall, OfCrops
from captum_deconv.gallery.samples import to_bytes
from captum_deconv.receptive_field import ReceptiveField, crops
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
    """One neuron, and the part of its image that it is given; whether that is all of it."""

    row: int
    rank: int
    crop: crops.Crop
    part: Tensor
    whole: bool


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
        largest: Of images that differ in size, the largest height and width of all, so that the
            patches of other channels are of the same size.
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
        largest: Sequence[int] | None = None,
    ) -> None:
        self.model, self.layer, self.asked, self.seed = model, layer, asked, seed
        self.neurons, self.batch_size, self.restore = neurons, batch_size, restore
        self.whole, self.memory, self.reference = whole, memory, reference
        self.largest = largest
        self.difference: float | None = None
        self.capture = _prepare_capture(model, layer)
        like = next((p for p in model.parameters() if p.is_floating_point()), torch.zeros(()))
        self.device, self.dtype = like.device, like.dtype
        self.images: dict[int, Tensor] = {}
        self.image_size: tuple[int, int] = (0, 0)
        self.frames: dict[tuple[int, int], tuple[crops.Box, crops.Box]] = {}
        self._fields: dict[tuple[int, ...], ReceptiveField] = {}
        self._grown: dict[crops.Size, crops.Size] = {}
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
            ValueError: If activations differ from the index's.
        """
        waiting: dict[tuple[int, ...], list[_Job]] = defaultdict(list)
        for (sample, places), given in zip(by_sample.items(), images, strict=True):
            image = given.to(self.dtype)
            field = self._find_field(image, by_sample)
            self.images[sample] = to_bytes(image, self.restore)
            for row, rank in places:
                crop = self._cut(field, self.neurons.positions[row, rank].tolist())
                self._place_patch(field, image, row, rank)
                whole = crop.size == field.image_size
                waiting[crop.size].append(_Job(row, rank, crop, crop.cut_from(image), whole))
                if len(waiting[crop.size]) >= self._limit(crop.size):
                    self._project(waiting.pop(crop.size))
        for batch in waiting.values():
            self._project(batch)

    def _find_field(
        self, image: Tensor, by_sample: dict[int, list[tuple[int, int]]]
    ) -> ReceptiveField:
        """Find the receptive field in images of this size, and make room for their patches."""
        size = tuple(image.shape[1:])
        if size not in self._fields:
            field = self._look_up(image)
            if not self._fields:
                if not self.capture.stop:
                    # What follows the layer may not take a crop. That a crop's pass calls the layer
                    # as often is not believed: activations are compared.
                    self.capture.stop_at = self._count_calls(image)
                self._join_crops(field, by_sample)
                if self.largest is not None:
                    like = image.new_zeros(image.shape[0], *self.largest)
                    self._make_room(image.shape[0], self._look_up(like))
            self._fields[size] = field
            self._make_room(image.shape[0], field)
        return self._fields[size]

    def _count_calls(self, image: Tensor) -> int:
        """Return how often a pass of an image calls the layer."""
        calls: list[None] = []

        def work(held: modes.Pass) -> None:
            with torch.no_grad():
                forward.run(self.model, [image[None].to(self.device)], [], held)

        with hooked(Hook(self.capture.layer, lambda *_: calls.append(None))):
            modes.differentiably(self.model, work)
        return len(calls)

    def _look_up(self, image: Tensor) -> ReceptiveField:
        field = find_field(self.model, self.layer, image.to(self.device))
        return replace(field, whole_image=True) if self.whole else field

    def _join_crops(
        self, field: ReceptiveField, by_sample: dict[int, list[tuple[int, int]]]
    ) -> None:
        """Choose what sizes of crops to grow, as if all images were of the first one's size."""
        places = (
            self.neurons.positions[row, rank].tolist()
            for neurons in by_sample.values()
            for row, rank in neurons
        )
        sizes = []
        for place in places:
            with suppress(IndexError):  # it is in a larger image
                sizes.append(crops.cut(field, place).size)
        self._grown = crops.join_sizes(sizes, _PASS)

    def _cut(self, field: ReceptiveField, place: list[int]) -> crops.Crop:
        crop = crops.cut(field, place)
        least = self._grown.get(crop.size, crop.size)
        fits = all(a <= b for a, b in zip(least, field.image_size, strict=True))
        if least == crop.size or not fits:
            return crop
        on_grid = all(  # of images of another size the crops' ends are on another
            step <= 0 or (a - b) % step == 0
            for a, b, step in zip(least, crop.size, field.alignment, strict=True)
        )
        return crops.cut(field, place, least) if on_grid else crop

    def _make_room(self, channels: int, field: ReceptiveField) -> None:
        """Make the patches as large as those of the largest image."""
        size = crops.patch_size(field)
        old = tuple(self.patches.shape[3:])
        new = tuple(map(max, old, size))
        height, width = map(max, self.image_size, field.image_size)
        self.image_size = height, width
        if new == old:
            return
        shape = (*self.neurons.samples.shape, channels, *new)
        grown = [torch.zeros(shape, dtype=self.dtype) for _ in range(1 + len(self.projections))]
        if 0 not in old:
            for larger, smaller in zip(grown, (self.patches, *self.projections), strict=True):
                larger[..., : old[0], : old[1]] = smaller
        self.patches, *self.projections = grown

    def _limit(self, size: tuple[int, ...]) -> int:
        if self.batch_size is not None:
            return max(1, self.batch_size)
        pixels = _PIXELS_ON_CPU if self.device.type == "cpu" else _PIXELS_ON_GPU
        return max(1, pixels // (size[0] * size[1]))

    def _place_patch(self, field: ReceptiveField, image: Tensor, row: int, rank: int) -> None:
        patch, seen = crops.frame(field, self.neurons.positions[row, rank].tolist())
        self.frames[row, rank] = patch, seen
        self.boxes[row, rank], self.fields[row, rank] = torch.tensor(patch), torch.tensor(seen)
        (top, bottom), (left, right) = patch
        self.patches[row, rank, :, : bottom - top, : right - left] = image[
            :, top:bottom, left:right
        ]

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
            if batch[0].whole:
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
        rows = torch.arange(len(layer))
        where = torch.stack([rows, channels, *places.unbind(1)])
        selected = layer[tuple(where.to(layer.device, non_blocking=True))]
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
        if not job.whole:
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

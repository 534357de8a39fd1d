r"""Cut an image to what one neuron sees, so that the neuron cannot tell the difference.

A neuron's value, and any backward pass from it, runs only through neurons whose own receptive
fields lie inside its own. Two things could still tell a crop from the image:

* The grids of strided layers. Where the crop starts at a multiple of the layers' total stride
  (``ReceptiveField.alignment``), every layer has the same grid, shifted by whole steps.
* Padding. Where the neuron sees past an edge of the image, the crop ends where the image ends, so
  the same padding follows. At any other edge the field lies wholly inside, and what would see the
  padding of a crop's own edge also sees past that edge, so it is no part of the pass. (A slice
  leaves out neurons that see nothing of the kind, and of a crop it would leave out others: behind
  one the alignment is the whole image.)

A crop ends where it leaves the image's remainder of that stride, so that a network that pads by
what it is given ("same" padding, as in TensorFlow) pads the crop as it would the image.

>>> from captum_deconv.receptive_field import ReceptiveField
>>> field = ReceptiveField((7,), (4,), (-3,), (4,), (30,), False)
>>> cut(field, (3,))  # the neuron sees pixels 9 to 15, and 30 = 2 modulo 4
Crop(starts=(8,), stops=(18,), position=(1,))
>>> cut(field, (0,))
Crop(starts=(0,), stops=(6,), position=(0,))
"""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from torch import Tensor

from captum_deconv.receptive_field.field import ReceptiveField

Box = tuple[tuple[int, int], ...]
Size = tuple[int, ...]


@dataclass(frozen=True)
class Crop:
    """A part of an image.

    Attributes:
        starts: First pixel, for each spatial axis.
        stops: The pixel after the last.
        position: Where in the layer's output the neuron is when the model is given the crop.
    """

    starts: tuple[int, ...]
    stops: tuple[int, ...]
    position: tuple[int, ...]

    @property
    def size(self) -> tuple[int, ...]:
        """Pixels along each spatial axis."""
        return tuple(b - a for a, b in zip(self.starts, self.stops, strict=True))

    def cut_from(self, image: Tensor) -> Tensor:
        """Return this part of an image ``(channels, *spatial)``, as a copy."""
        part = image
        for axis, (start, stop) in enumerate(zip(self.starts, self.stops, strict=True), start=1):
            part = part.narrow(axis, start, stop - start)
        # A view would keep the whole image for as long as it lives.
        return part.clone()


def cut(field: ReceptiveField, position: Sequence[int], least: Sequence[int] | None = None) -> Crop:
    """Find the crop for one neuron.

    Args:
        field: The layer's receptive field.
        position: The neuron's, in the layer's output; empty for a layer without spatial axes.
        least: The size of another crop of the layer, to grow this one to at least.

    Returns:
        The smallest crop that the neuron cannot tell from the image.
    """
    if field.whole_image or not position:
        return Crop((0,) * len(field.image_size), tuple(field.image_size), tuple(position))
    starts, stops, places = [], [], []
    for axis, (start, stop) in enumerate(field.reach(position)):
        length, step, stride = field.image_size[axis], field.alignment[axis], field.stride[axis]
        first = start // step * step
        stop = length - (length - stop) // step * step
        if least is not None:
            # All crops' sizes differ by whole steps, so both ends stay on the grid.
            first = min(first, length - least[axis])
            stop = max(stop, first + least[axis])
        starts.append(first)
        stops.append(stop)
        # A whole number, as the alignment is one of strides.
        places.append(position[axis] - round(first / stride) if stride else position[axis])
    return Crop(tuple(starts), tuple(stops), tuple(places))


def join_sizes(sizes: Iterable[Size], price: int) -> dict[Size, Size]:
    """Choose which sizes of crops to grow to a common one, so that fewer passes are needed.

    Args:
        sizes: Of all crops.
        price: Of one pass more, in pixels.

    Returns:
        For each size what to grow it to: as large along every axis.
    """
    groups: list[tuple[Size, int, list[Size]]] = []
    for size, count in sorted(Counter(sizes).items(), key=lambda each: -math.prod(each[0])):
        best, cost = None, price
        for number, (other, others, _) in enumerate(groups):
            common = tuple(map(max, size, other))
            more = math.prod(common) * (count + others)
            more -= math.prod(size) * count + math.prod(other) * others
            if more < cost:
                best, cost = number, more
        if best is None:
            groups.append((size, count, [size]))
        else:
            other, others, members = groups[best]
            groups[best] = (tuple(map(max, size, other)), count + others, [*members, size])
    return {size: common for common, _, members in groups for size in members}


def frame(field: ReceptiveField, position: Sequence[int]) -> tuple[Box, Box]:
    """Find where in its image a neuron's patch is, and its receptive field.

    Args:
        field: The layer's receptive field.
        position: The neuron's, in the layer's output.

    Returns:
        The patch's box, of one size for the whole layer: at an edge of the image the field is
        clipped, and the patch, which is not, reaches further into the image instead. Then the
        field's own box, clipped.
    """
    everything = tuple((0, length) for length in field.image_size)
    if field.whole_image or not position:
        return everything, everything
    seen = tuple(field.box(position))
    patch = []
    for (start, _), size, length in zip(seen, patch_size(field), field.image_size, strict=True):
        first = min(start, length - size)
        patch.append((first, first + size))
    return tuple(patch), seen


def patch_size(field: ReceptiveField) -> tuple[int, ...]:
    """Return the pixels along each spatial axis of every patch of a layer."""
    if field.whole_image:
        return tuple(field.image_size)
    return tuple(min(a, b) for a, b in zip(field.size, field.image_size, strict=True))

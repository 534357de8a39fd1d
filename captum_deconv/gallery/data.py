"""What a gallery holds: for each channel its strongest neurons, their patches and projections."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

Normalise = Literal["projection", "channel"]


@dataclass(frozen=True, eq=False)
class GalleryData:
    """The strongest neurons of a layer's channels, as patches and projections.

    ``C`` channels, each with up to ``k`` neurons, strongest first; all tensors are on the CPU.
    Where a channel has fewer (the data set is smaller than ``k``), the sample is -1, the value
    -inf, and patch, projection and boxes are zero.

    Attributes:
        layer: The layer's dotted name.
        channels: The channels' numbers in the layer; row ``i`` of every tensor is ``channels[i]``.
        values: Activations, ``(C, k)``.
        samples: Which sample of the data set each is of, ``(C, k)``.
        positions: Where in the layer's output each neuron is, ``(C, k, spatial dims)``.
        patches: The images as the model took them, cut to ``boxes``, ``(C, k, 3, h, w)``.
        by_method: For each method the projections of those neurons, ``(C, k, 3, h, w)``. Outside
            its box a projection is zero.
        boxes: The place of each patch in its image, ``(C, k, 2, 2)``: for height, then for width,
            first pixel and the one after the last. At an edge of the image the patch reaches
            further in than the neuron sees, so that all are of one size, but where the image itself
            is smaller: then the patch is what there is, and zero below it and to its right.
        fields: What each neuron sees, its receptive field clipped to the image, ``(C, k, 2, 2)``.
        images: The whole images by sample, for looking at: ``uint8``, ``(3, H, W)``.
        names: What to call the samples.
        image_size: Height and width of the images; where they differ, the largest of each.
        seed: What the projections start from: ``"activation"`` or ``"one"``.
        about: A line on the model and data, for captions.
    """

    layer: str
    channels: tuple[int, ...]
    values: Tensor
    samples: Tensor
    positions: Tensor
    patches: Tensor
    by_method: Mapping[str, Tensor]
    boxes: Tensor
    fields: Tensor
    images: Mapping[int, Tensor]
    names: Mapping[int, str]
    image_size: tuple[int, int]
    seed: str = "activation"
    about: str = field(default="")

    @property
    def methods(self) -> tuple[str, ...]:
        """The methods' names, in the order they were asked for."""
        return tuple(self.by_method)

    @property
    def projections(self) -> Tensor:
        """The first method's projections, ``(C, k, 3, h, w)``."""
        return self.by_method[self.methods[0]]

    @property
    def k(self) -> int:
        """How many neurons a channel is shown by, at most."""
        return self.values.shape[1]

    @property
    def dead(self) -> Tensor:
        """Which channels were never above zero on the whole data set, ``(C,)``, bool."""
        return ~(self.values > 0).any(dim=1)

    def find_row(self, channel: int) -> int:
        """Find the row of the tensors that a channel is in.

        Args:
            channel: Its number in the layer.

        Returns:
            The row.

        Raises:
            IndexError: If the gallery does not show that channel.
        """
        try:
            return self.channels.index(channel)
        except ValueError:
            raise IndexError(
                f"channel {channel} is not in this gallery of {self.layer!r}, which holds "
                f"{_abridge(self.channels)}"
            ) from None

    def full(self, channel: int, method: str | None = None) -> Tensor:
        """Lay a channel's projections into whole images.

        Args:
            channel: Its number in the layer.
            method: One of ``methods``; the first where left out.

        Returns:
            ``(k, 3, H, W)``: zero where the neuron sees nothing.

        Raises:
            IndexError: If the gallery does not show that channel.
            KeyError: If it does not show that method.
        """
        projections = self.by_method[self.check_method(method)][self.find_row(channel)]
        laid = projections.new_zeros(self.k, projections.shape[1], *self.image_size)
        for rank, ((top, bottom), (left, right)) in enumerate(
            self.boxes[self.find_row(channel)].tolist()
        ):
            if bottom > top:
                inside = projections[rank, :, : bottom - top, : right - left]
                laid[rank, :, top:bottom, left:right] = inside
        return laid

    def check_method(self, method: str | None) -> str:
        """Check that the gallery shows a method.

        Args:
            method: Its name, or None for the first.

        Returns:
            Its name.

        Raises:
            KeyError: If the gallery does not show it.
        """
        if method is None:
            return self.methods[0]
        if method not in self.by_method:
            raise KeyError(f"no projections by {method!r}: there are {', '.join(self.methods)}")
        return method

    def show_patch(self, row: int, rank: int) -> Tensor:
        """Return a patch for looking at, ``uint8`` ``(3, h, w)``; mid-grey where there is none."""
        shown = torch.full((3, *self.patches.shape[3:]), 128, dtype=torch.uint8)
        sample = int(self.samples[row, rank])
        if sample >= 0:
            (top, bottom), (left, right) = self.boxes[row, rank].tolist()
            patch = self.images[sample][:, top:bottom, left:right]
            shown[:, : bottom - top, : right - left] = patch
        return shown


def _abridge(channels: Sequence[int]) -> str:
    shown = ", ".join(map(str, channels[:8]))
    return f"{len(channels)} channels: {shown}{', ...' if len(channels) > 8 else ''}"

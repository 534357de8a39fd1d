"""What a gallery holds: for each channel its strongest neurons, their patches and projections."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Normalise = Literal["projection", "channel"]


@dataclass(frozen=True, eq=False)
class Gallery:
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
            first pixel and the one after the last. All are of one size: at an edge of the image
            the patch reaches further in than the neuron sees.
        fields: What each neuron sees, its receptive field clipped to the image, ``(C, k, 2, 2)``.
        images: The whole images by sample, for looking at: ``uint8``, ``(3, H, W)``.
        names: What to call the samples.
        image_size: Height and width of the images.
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
                laid[rank, :, top:bottom, left:right] = projections[rank]
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
        sample = int(self.samples[row, rank])
        if sample < 0:
            return torch.full(self.patches.shape[2:], 128, dtype=torch.uint8)
        (top, bottom), (left, right) = self.boxes[row, rank].tolist()
        return self.images[sample][:, top:bottom, left:right]

    def figure(
        self,
        channels: Sequence[int] | None = None,
        *,
        methods: Sequence[str] | None = None,
        normalise: Normalise = "projection",
        columns: int | None = None,
        width: float = 7.0,
        title: str | None = None,
    ) -> Figure:
        """Draw a contact sheet: for each channel its patches, and beside them their projections.

        Projections are drawn around mid-grey, ``0.5 + a / (2 s)``, as the caption says. The figure
        belongs to nobody (no pyplot); ``captum_deconv.plotting.save_figure`` writes it as PNG,
        PDF or SVG at a print's 300 dpi.

        Args:
            channels: Their numbers, in the order to show them; where left out, the first ones of
                the gallery that are not dead, up to 24.
            methods: Among the gallery's; all where left out.
            normalise: Whether the scale ``s`` is each projection's own or one for the channel.
            columns: Channels side by side; where left out, as many as stay legible.
            width: In inches; 7 is a page's text.
            title: A line above all.

        Returns:
            The figure.

        Raises:
            IndexError: If the gallery does not show one of the channels.
            KeyError: If it does not show one of the methods.
            ValueError: If there is no channel to show, or more than 120.
        """
        from captum_deconv.gallery import sheet

        return sheet.draw_sheet(
            self,
            channels,
            methods=methods,
            normalise=normalise,
            columns=columns,
            width=width,
            title=title,
        )

    def save_html(
        self, folder: str | Path, *, title: str | None = None, normalise: Normalise = "projection"
    ) -> Path:
        """Write the gallery as a page that opens from disk: no server, no network.

        A page that is there already is replaced whole or not at all; other files in the folder
        are left alone.

        Args:
            folder: Made where it is missing.
            title: The page's heading.
            normalise: Whether each projection has its own scale or the channel one for all.

        Returns:
            The page's path, ``folder/index.html``.

        Raises:
            OutputError: If the folder cannot be made or written to.
        """
        from captum_deconv.gallery import page

        return page.write_page([self], folder, title=title, normalise=normalise)


def _abridge(channels: Sequence[int]) -> str:
    shown = ", ".join(map(str, channels[:8]))
    return f"{len(channels)} channels: {shown}{', ...' if len(channels) > 8 else ''}"

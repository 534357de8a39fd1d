"""A gallery: what was projected, with its two views, a contact sheet and a page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from captum_deconv.gallery import page, sheet
from captum_deconv.gallery.data import GalleryData, Normalise

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_CHANNELS = 8


class Gallery(GalleryData):
    """The strongest neurons of a layer's channels, as patches and projections, to be looked at.

    What it holds is said in :class:`captum_deconv.gallery.GalleryData`.
    """

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
        belongs to nobody (no pyplot); ``captum_deconv.drawing.figures.save_figure`` writes it as
        PNG, PDF or SVG at a print's 300 dpi.

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
        return page.write_page([self], folder, title=title, normalise=normalise)

    def __repr__(self) -> str:
        return (
            f"Gallery({self.layer!r}, {len(self.channels)} channels, k={self.k}, "
            f"{', '.join(self.methods)})"
        )

    def _repr_html_(self) -> str:
        """Show the first eight channels that are not dead, for a notebook."""
        from captum_deconv.drawing.notebook import lay_out, show_figure

        living = torch.tensor(self.channels)[~self.dead].tolist()[:_CHANNELS]
        if not living:
            return lay_out(f"{self!r}: every channel is dead")
        text = f"Patches and projections of the channels {', '.join(map(str, living))}"
        return lay_out(repr(self), [show_figure(self.figure(living), text)])

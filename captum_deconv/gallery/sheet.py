"""Contact sheets in print: for each channel its patches and, beside them, their projections.

After figure 2 of Zeiler & Fergus 2013 (arXiv:1311.2901), where each channel is a grid of nine
projections beside the grid of the nine patches they came from.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from captum_deconv.drawing.colours import TITLES
from captum_deconv.gallery import pictures

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from captum_deconv.gallery.data import GalleryData, Normalise

MOST_CHANNELS = 120
"""Of one sheet; a longer one is no picture any more."""

_DEFAULT_CHANNELS = 24

# Inches: a grid of nine is legible from one up.
_LEAST_GRID, _GAP, _GUTTER, _MARGIN, _HEAD = 1.0, 0.05, 0.2, 0.12, 0.2
_LINE, _INK, _FAINT = 0.115, "#222222", "#666666"
_DOTS = 110  # of a cell, at least: a third of an inch at 300 dpi


def draw_sheet(
    gallery: GalleryData,
    channels: Sequence[int] | None = None,
    *,
    methods: Sequence[str] | None = None,
    normalise: Normalise = "projection",
    columns: int | None = None,
    width: float = 7.0,
    title: str | None = None,
) -> Figure:
    """Draw a contact sheet; arguments and errors are those of ``Gallery.figure``."""
    from matplotlib.figure import Figure

    shown = _choose(gallery, channels)
    names = list(gallery.methods) if methods is None else [gallery.check_method(m) for m in methods]
    grids = 1 + len(names)
    inside = width - 2 * _MARGIN
    if columns is None:
        columns = int((inside + _GUTTER) / (grids * _LEAST_GRID + len(names) * _GAP + _GUTTER))
    columns = max(1, min(columns, len(shown)))
    grid = ((inside - (columns - 1) * _GUTTER) / columns - len(names) * _GAP) / grids
    grid = min(grid, 2.4)  # a single channel would else fill the page
    tall, wide = _measure_grid(gallery)
    height_of_grid = grid * tall / wide

    caption = textwrap.wrap(_describe(gallery, shown, names, normalise), max(40, int(width * 23)))
    block = _HEAD + height_of_grid + 0.1
    down = math.ceil(len(shown) / columns)
    head = _MARGIN + (0.3 if title else 0.0) + 0.17
    height = head + down * block + 0.06 + _LINE * len(caption) + 0.5 * _MARGIN
    figure = Figure(figsize=(width, height), facecolor="white")

    def write(x: float, y: float, text: str, size: float = 6.5, **how: Any) -> None:
        """Write at so many inches from the left and from the top."""
        # Names of layers and files are text, also where they hold a dollar sign.
        style: dict[str, Any] = {"va": "baseline", "color": _INK, "parse_math": False, **how}
        figure.text(x / width, 1 - y / height, text, fontsize=size, **style)

    if title:
        write(_MARGIN, _MARGIN + 0.14, title, 9)
    for number, channel in enumerate(shown):
        row = gallery.find_row(channel)
        left = _MARGIN + number % columns * (grids * grid + len(names) * _GAP + _GUTTER)
        top = head + number // columns * block
        if number < columns:
            for column, heading in enumerate(["Patches", *(TITLES.get(n, n) for n in names)]):
                write(left + column * (grid + _GAP), head - 0.04, heading, 6.5, color=_FAINT)
        write(left, top + _HEAD - 0.05, f"channel {channel}", 7, fontweight="bold")
        right = left + grids * grid + len(names) * _GAP
        write(right, top + _HEAD - 0.05, _describe_values(gallery, row), 6, ha="right")
        drawn = [pictures.draw_patches(gallery, row)]
        drawn += [pictures.draw_projections(gallery, row, name, normalise) for name in names]
        for column, cells in enumerate(drawn):
            x, y = left + column * (grid + _GAP), top + _HEAD + height_of_grid
            box = (x / width, 1 - y / height, grid / width, height_of_grid / height)
            _show(figure.add_axes(box), pictures.lay_grid(cells, _DOTS))
    for number, line in enumerate(caption):
        y = height - 0.5 * _MARGIN - _LINE * (len(caption) - 1 - number)
        write(_MARGIN, y, line, 5.8, color=_FAINT)
    return figure


def _choose(gallery: GalleryData, channels: Sequence[int] | None) -> list[int]:
    if channels is None:
        dead = gallery.dead.tolist()
        living = [c for c, is_dead in zip(gallery.channels, dead, strict=True) if not is_dead]
        channels = living[:_DEFAULT_CHANNELS]
        if not channels:
            raise ValueError(
                f"every channel of layer {gallery.layer!r} is dead on this data set (never above "
                "zero): name the channels to draw all the same"
            )
    if not 0 < len(channels) <= MOST_CHANNELS:
        raise ValueError(f"a sheet shows 1 to {MOST_CHANNELS} channels, not {len(channels)}")
    for channel in channels:
        gallery.find_row(channel)
    return list(channels)


def _measure_grid(gallery: GalleryData) -> tuple[int, int]:
    cells = torch.zeros(gallery.k, 3, *gallery.patches.shape[3:], dtype=torch.uint8)
    height, width = pictures.lay_grid(cells, _DOTS).shape[1:]
    return height, width


def _describe_values(gallery: GalleryData, row: int) -> str:
    values = gallery.values[row][gallery.samples[row] >= 0]
    if not len(values):
        return "no activation"
    text = f"{float(values[0]):.3g} to {float(values[-1]):.3g}"
    if values[0] == values[-1]:
        text = f"always {float(values[0]):.3g}"
    return f"dead: {text}" if gallery.dead[row] else text


def _describe(
    gallery: GalleryData, shown: Sequence[int], names: Sequence[str], normalise: Normalise
) -> str:
    height, width = gallery.patches.shape[3:]
    seed = "their activations" if gallery.seed == "activation" else "one"
    dead = int(gallery.dead.sum())
    parts = [
        f"Layer {gallery.layer}: {len(shown)} of {len(gallery.channels)} channels"
        + (f" ({dead} dead)" if dead else ""),
        f"each by its {gallery.k} strongest activations, strongest first (their range above), as "
        f"patches of {height} x {width} pixels of {gallery.image_size[0]} x "
        f"{gallery.image_size[1]}, and as projections of {seed} back to pixels",
    ]
    text = f"{', '.join(parts)}. Projections: {pictures.describe_scale(normalise)}."
    return f"{text} {gallery.about}".strip()


def _show(axes: Axes, picture: Tensor) -> None:
    # Nearest, because every pixel is a number somebody may want to see.
    axes.imshow(picture.permute(1, 2, 0).numpy(), interpolation="nearest", aspect="auto")
    axes.set_axis_off()

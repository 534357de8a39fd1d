"""Projections as pictures: signed values around mid-grey, and the grids that they are shown in."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from captum_deconv.drawing.colours import PERCENTILE, measure_scale
from captum_deconv.gallery.data import GalleryData, Normalise


def draw_projections(
    gallery: GalleryData, row: int, method: str, normalise: Normalise = "projection"
) -> Tensor:
    """Draw a channel's projections around mid-grey: ``0.5 + a / (2 s)``.

    Args:
        gallery: Where they are.
        row: The channel's row.
        method: Its name.
        normalise: Whether ``s``, the 99.5th percentile of the non-zero ``|a|``, is taken over each
            projection or over all of the channel's.

    Returns:
        ``uint8``, ``(k, 3, h, w)``; 128 is zero.

    Raises:
        ValueError: If ``normalise`` is neither.
    """
    projections = gallery.by_method[method][row]
    scales = measure_scales(projections, normalise)
    by = torch.tensor(scales).view(-1, 1, 1, 1)
    drawn = (0.5 + projections.float() / (2 * by)).clamp(0, 1)
    return (drawn * 255).round().to(torch.uint8).expand(-1, 3, -1, -1)


def measure_scales(projections: Tensor, normalise: Normalise = "projection") -> list[float]:
    """Measure the scale ``s`` of each of a channel's projections; as `draw_projections`."""
    if normalise == "channel":
        return [measure_scale(projections)] * len(projections)
    if normalise == "projection":
        return [measure_scale(projection) for projection in projections]
    raise ValueError(f"unknown normalise {normalise!r}: choose from projection, channel")


def draw_patches(gallery: GalleryData, row: int) -> Tensor:
    """Draw a channel's patches.

    Args:
        gallery: Where they are.
        row: The channel's row.

    Returns:
        ``uint8``, ``(k, 3, h, w)``; grey where the channel has fewer than ``k``.
    """
    return torch.stack([gallery.show_patch(row, rank) for rank in range(gallery.k)])


def describe_scale(normalise: Normalise) -> str:
    """Say how projections are drawn, for a caption."""
    of = "each projection" if normalise == "projection" else "the channel's projections"
    return (
        f"mid-grey is zero: 0.5 + a/(2s), with s the percentile {PERCENTILE:g} of the non-zero "
        f"|a| of {of}"
    )


def lay_grid(cells: Tensor, side: int, gap: float = 0.05, paper: int = 255) -> Tensor:
    """Lay pictures out in a square grid, row by row.

    Args:
        cells: ``uint8``, ``(k, 3, h, w)``.
        side: Pixels that a cell's longer side is at least enlarged to, by a whole factor, so that
            the gap can be thin.
        gap: Between cells, as a part of the longer side.
        paper: The grey between them.

    Returns:
        ``uint8``, ``(3, H, W)``.
    """
    factor = max(1, math.ceil(side / max(cells.shape[2:])))
    cells = cells.repeat_interleave(factor, 2).repeat_interleave(factor, 3)
    height, width = cells.shape[2:]
    across = count_across(len(cells))
    down = math.ceil(len(cells) / across)
    space = max(1, round(gap * max(height, width)))
    shape = (3, down * (height + space) - space, across * (width + space) - space)
    grid = torch.full(shape, paper, dtype=torch.uint8)
    for number, cell in enumerate(cells):
        top, left = number // across * (height + space), number % across * (width + space)
        grid[:, top : top + height, left : left + width] = cell
    return grid


def count_across(cells: int) -> int:
    """Return how many cells a grid has side by side: three for nine."""
    return max(1, math.ceil(math.sqrt(cells)))

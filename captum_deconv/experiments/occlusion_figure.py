"""An occlusion in print, after figure 7 of Zeiler & Fergus 2013."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch

from captum_deconv.drawing.colours import TITLES, as_picture
from captum_deconv.experiments import printing
from captum_deconv.experiments.printing import MARGIN, WIDTH, Sheet, name_class, shorten
from captum_deconv.gallery import pictures

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import Tensor

    from captum_deconv.experiments.occlusion import Occlusion
    from captum_deconv.gallery import Gallery

_NAMED = len(printing.COLOURS)
"""Classes that have a colour of their own; the others share one."""

_ACROSS, _GAP, _HEAD = 4, 0.1, 0.2
_PANEL = (WIDTH - 2 * MARGIN - (_ACROSS - 1) * _GAP) / _ACROSS


def draw_occlusion(
    found: Occlusion,
    *,
    restore: Callable[[Tensor], Tensor] | None = None,
    categories: Sequence[str] | None = None,
    about: str = "",
) -> Figure:
    """Draw the image with the square, and what the network makes of it by the square's place.

    Args:
        found: What was found.
        restore: Turns an image as the model takes it into one for looking at, in [0, 1]; where
            left out, it is stretched to that range.
        categories: The classes' names.
        about: A line on model and image, for the caption.

    Returns:
        The figure; `captum_deconv.drawing.figures.save_figure` writes it.
    """
    cells = [(g, rank) for g in found.projections for rank in range(g.k) if g.samples[0, rank] >= 0]
    tall = _PANEL * found.image.shape[1] / found.image.shape[2]
    classes, counts = torch.unique(found.likeliest, return_counts=True)
    known = classes[counts.argsort(descending=True, stable=True)][:_NAMED].tolist()
    entries = [shorten(name_class(categories, index), 26) for index in known]
    entries += [f"{len(classes) - _NAMED} others"] * (len(classes) > _NAMED)
    below = MARGIN + _HEAD + tall + max(0.3, 0.1 * len(entries) + 0.1)
    small = 0.0
    if cells:
        shape = cells[0][0].patches.shape
        small = (_PANEL - 0.04) / 2 * shape[3] / shape[4]
    down = math.ceil(len(cells) / _ACROSS)
    sheet = Sheet(below + down * (small + _HEAD), _describe(found, cells, categories, about))

    def place(column: int) -> tuple[float, float, float, float]:
        return MARGIN + column * (_PANEL + _GAP), MARGIN + _HEAD, _PANEL, tall

    names = (
        f"the square, {found.size} pixels wide",
        f"activation of channel {found.channel}",
        f"probability of {name_class(categories, found.target)}",
        "likeliest class",
    )
    for column, name in enumerate(names):
        sheet.write(place(column)[0], MARGIN + _HEAD - 0.05, shorten(name, 32))
    _draw_square(sheet.axes(*place(0)), found, restore)
    for column, values in ((1, found.activation), (2, found.probability)):
        image = _show_map(sheet.axes(*place(column)), values, found, cmap="viridis")
        left, top, _, _ = place(column)
        sheet.bar(image, left, top + tall + 0.05, _PANEL)
    _show_classes(sheet.axes(*place(3)), found, known)
    for number, entry in enumerate(entries):
        left, top, _, _ = place(3)
        y = top + tall + 0.12 + 0.1 * number
        colour = [*printing.COLOURS[: len(known)], _REST][number]
        sheet.write(left, y, "■", 6, color=colour)
        sheet.write(left + 0.1, y, entry, 5.5)
    for number, (gallery, rank) in enumerate(cells):
        left = MARGIN + number % _ACROSS * (_PANEL + _GAP)
        top = below + number // _ACROSS * (small + _HEAD) + _HEAD
        sheet.write(left, top - 0.05, shorten(gallery.names[int(gallery.samples[0, rank])], 32))
        drawn = pictures.draw_projections(gallery, 0, gallery.methods[0])[rank]
        for part, cell in enumerate((gallery.show_patch(0, rank), drawn)):
            side = (_PANEL - 0.04) / 2
            axes = sheet.axes(left + part * (side + 0.04), top, side, small)
            printing.show(axes, cell.permute(1, 2, 0).numpy())
    return sheet.figure


_REST = "#dddddd"


def _draw_square(axes: Any, found: Occlusion, restore: Callable[[Tensor], Tensor] | None) -> None:
    """Show the image with the square in its middle place, filled as it was."""
    image = found.image.clone()
    top, left = (starts[len(starts) // 2] for starts in found.starts)
    image[:, top : top + found.size, left : left + found.size] = found.value[:, None, None]
    low, high = (float(value) for value in image.aminmax())
    shown = restore(image) if restore else (image - low) / (high - low or 1.0)
    printing.show(axes, as_picture(shown).clip(0, 1))


def _show_map(axes: Any, values: Tensor, found: Occlusion, **how: Any) -> Any:
    """Show a map where the squares' middles are, on a panel of the image's size."""
    height, width = found.image.shape[1:]
    spans = []
    for starts in found.starts:
        step = starts[1] - starts[0] if len(starts) > 1 else found.size
        first = starts[0] + (found.size - step) / 2
        spans += [first - 0.5, first + len(starts) * step - 0.5]
    top, bottom, left, right = spans
    image = printing.show(axes, values.numpy(), extent=(left, right, bottom, top), **how)
    axes.set_xlim(-0.5, width - 0.5)
    axes.set_ylim(height - 0.5, -0.5)
    return image


def _show_classes(axes: Any, found: Occlusion, known: Sequence[int]) -> None:
    from matplotlib.colors import ListedColormap

    numbers = torch.full_like(found.likeliest, len(known))
    for number, index in enumerate(known):
        numbers[found.likeliest == index] = number
    colours = ListedColormap([*printing.COLOURS[: len(known)], _REST])
    _show_map(axes, numbers, found, cmap=colours, vmin=-0.5, vmax=len(known) + 0.5)


def _describe(
    found: Occlusion,
    cells: Sequence[tuple[Gallery, int]],
    categories: Sequence[str] | None,
    about: str,
) -> str:
    total, probability, likeliest = found.whole
    text = (
        f"By where the middle of the square stands: the total activation of channel "
        f"{found.channel} of layer {found.layer} ({total:.4g} in the whole image), the probability "
        f"of {name_class(categories, found.target)} ({probability:.3g}), and the likeliest class "
        f"({name_class(categories, likeliest)})."
    )
    if cells:
        method = TITLES[cells[0][0].methods[0]].lower()
        others = ", and in the images that excite it most" * (len(cells) > 1)
        text += (
            f" Below: where that channel is strongest in this image{others}, with the activation "
            f"projected back to pixels ({method}; {pictures.describe_scale('projection')})."
        )
    return f"{text} {about}".strip()

"""Invariance in print, after figure 5 of Zeiler & Fergus 2013."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from captum_deconv.drawing.colours import as_picture
from captum_deconv.experiments import printing
from captum_deconv.experiments.invariance import UNITS
from captum_deconv.experiments.printing import COLOURS, MARGIN, WIDTH, Sheet, name_class, shorten

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import Tensor

    from captum_deconv.experiments.invariance import Invariance

MOST_LAYERS = 4
_LEFT, _GAP, _HEAD, _FOOT, _TALL, _LINE = 0.75, 0.42, 0.25, 0.35, 1.1, 0.12


def draw_invariance(
    found: Invariance,
    *,
    names: Sequence[str] | None = None,
    restore: Callable[[Tensor], Tensor] | None = None,
    categories: Sequence[str] | None = None,
    about: str = "",
) -> Figure:
    """Draw a row for each kind of transformation: a chart for each layer, and one of the class.

    Args:
        found: What was found.
        names: The images'.
        restore: Turns an image as the model takes it into one for looking at, in [0, 1]; where
            left out, it is stretched to that range.
        categories: The classes' names.
        about: A line on the model, for the caption.

    Returns:
        The figure; `captum_deconv.drawing.figures.save_figure` writes it.

    Raises:
        ValueError: If there are more than four layers.
    """
    if len(found.layers) > MOST_LAYERS:
        raise ValueError(f"a figure shows at most {MOST_LAYERS} layers, not {len(found.layers)}")
    charts = len(found.layers) + 1
    wide = (WIDTH - 2 * MARGIN - _LEFT - charts * _GAP) / charts
    row = _HEAD + _TALL + _FOOT
    images = len(found.targets)
    labels = [
        shorten(f"{names[number] if names else number} ({name_class(categories, target)})", 40)
        for number, target in enumerate(found.targets)
    ]
    lines = -(-images // 3)
    sheet = Sheet(MARGIN + row * len(found.curves) + _LINE * lines, _describe(found, about))
    for number, (kind, curve) in enumerate(found.curves.items()):
        top = MARGIN + number * row + _HEAD
        side = (_TALL - 0.08) / 3
        for place, picture in enumerate(curve.pictures):
            low, high = (float(value) for value in picture.aminmax())
            shown = restore(picture) if restore else (picture - low) / (high - low or 1.0)
            axes = sheet.axes(MARGIN, top + place * (side + 0.04), side, side)
            printing.show(axes, as_picture(shown).clip(0, 1))
        titles = [*found.layers, "probability of the class"]
        for column, title in enumerate(titles):
            left = MARGIN + _LEFT + column * (wide + _GAP)
            axes = printing.chart(sheet.axes(left, top, wide, _TALL), UNITS[kind])
            values = curve.probability if column == charts - 1 else curve.distance[:, column]
            for image in range(images):
                colour = COLOURS[image % len(COLOURS)]
                axes.plot(curve.values, values[image].tolist(), color=colour, lw=0.9)
            axes.set_xlim(min(curve.values), max(curve.values))
            axes.set_ylim(0, 1.02 if column == charts - 1 else None)
            axes.locator_params(nbins=5)
            text = title if column == charts - 1 else f"distance, {title}"
            sheet.write(left, top - 0.06, shorten(text, int(wide * 19)), 6.5)
    top = MARGIN + row * len(found.curves) + 0.05
    for number, label in enumerate(labels):
        left = MARGIN + number % 3 * (WIDTH - 2 * MARGIN) / 3
        y = top + _LINE * (number // 3)
        sheet.write(left, y, "■", 6, color=COLOURS[number % len(COLOURS)])
        sheet.write(left + 0.12, y, label, 6)
    return sheet.figure


def _describe(found: Invariance, about: str) -> str:
    return (
        "Images moved, enlarged and turned (left, the first one), and for each the Euclidean "
        "distance of its feature vectors from those of the image as it is, and the probability of "
        "its class. Transformed about the middle with bilinear interpolation; what comes in from "
        f"beyond the border is of one colour. {about}"
    ).strip()

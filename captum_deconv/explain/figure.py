"""Answers as a figure for a paper: the photograph, and by each method what was attributed.

figure = plot_attributions([Row(image, {"guided_backprop": attribution}, label="tabby")])
save_figure(figure, "attributions.pdf")
"""

from __future__ import annotations

import functools
import operator
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from captum_deconv.drawing.colours import (
    PERCENTILE,
    TITLES,
    Array,
    as_picture,
    measure_scale,
    to_colour,
    to_magnitude,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from torch import Tensor

    from captum_deconv.explain.results import Result

Box = tuple[int, int, int, int]

MOST_ROWS = 32
"""Of one figure; a longer one is no picture any more, and in the end too large to render."""

# Inches. A panel of 1.62 makes four columns as wide as a page's text (7 inches).
_PANEL, _GAP, _MARGIN, _HEAD, _BETWEEN = 1.62, 0.07, 0.12, 0.26, 0.22
_INK, _ACCENT = "#222222", "#d62728"


@dataclass(frozen=True)
class Row:
    """One image and its attributions.

    ``image`` is ``(1 or 3, H, W)`` in [0, 1], each attribution ``(1 or 3, H, W)``. ``label`` is
    what is written beneath the image: its first line stands out, an empty line leaves a gap. Where
    ``box`` (top, left, bottom, right, in pixels) is given, image and attributions are drawn of its
    inside, and the whole image stands small beneath the label with the box outlined.
    """

    image: Tensor
    attributions: Mapping[str, Tensor]
    label: str = ""
    box: Box | None = None


def find_support(attributions: Sequence[Tensor], least: int = 24) -> Box | None:
    """Find the part of an image that its attributions live on, such as a neuron's receptive field.

    Args:
        attributions: Each ``(C, H, W)``.
        least: The shortest side the box is grown to, in pixels.

    Returns:
        The square around all non-zero values as (top, left, bottom, right), held inside the image;
        None where it is more than 0.7 of the image's side, or where all is zero.
    """
    touched = [attribution.detach().cpu().abs().amax(dim=0) > 0 for attribution in attributions]
    used = functools.reduce(operator.or_, touched)
    rows, columns = used.nonzero(as_tuple=True)
    if rows.numel() == 0:
        return None
    height, width = used.shape
    top, bottom = int(rows.min()), int(rows.max()) + 1
    left, right = int(columns.min()), int(columns.max()) + 1
    side = max(bottom - top, right - left, least)
    if side > 0.7 * min(height, width):
        return None
    top = min(max((top + bottom - side) // 2, 0), height - side)
    left = min(max((left + right - side) // 2, 0), width - side)
    return top, left, top + side, left + side


def describe_result(result: Result) -> Row:
    """Turn a result into a row of the figure, with what it shows written beneath the image.

    Args:
        result: Of one photograph.

    Returns:
        The row; a neuron's is boxed where it sees only a part of the image.
    """
    lines: list[str] = []
    box = None
    if result.neuron is not None:
        place = f" at ({', '.join(map(str, result.neuron.place))})" if result.neuron.place else ""
        lines += [
            f"Channel {result.neuron.channel}{place}",
            f"of {result.neuron.layer}, activation {result.neuron.activation:.3g}",
        ]
        box = find_support(list(result.attributions.values()))
    elif result.target is not None:
        lines += [
            result.target.label,
            f"class {result.target.index}, probability {result.target.probability:.3f}",
        ]
    lines.append(result.name)
    if result.top and result.neuron is None:
        lines += ["", "The network's answer:"]
        lines += [f"{score.probability:.3f}  {score.label}" for score in result.top]
    return Row(result.shown, result.attributions, "\n".join(lines), box)


def plot_attributions(
    rows: Sequence[Row], percentile: float = PERCENTILE, title: str | None = None
) -> Figure:
    """Draw images and their attributions: for each the image, and per method colour over magnitude.

    The figure belongs to nobody: no pyplot, no display, no global state.

    Args:
        rows: One per image; all with the same methods in the same order.
        percentile: What sets each panel's scale, see ``measure_scale``.
        title: A line above all.

    Returns:
        The figure, as wide as a page's text for three methods; see ``save_figure``.

    Raises:
        ValueError: If there are no rows, or more than 32, or their methods differ.
    """
    from matplotlib.figure import Figure

    if len(rows) > MOST_ROWS:
        raise ValueError(f"a figure holds at most {MOST_ROWS} rows, not {len(rows)}")
    if not rows or any(list(row.attributions) != list(rows[0].attributions) for row in rows):
        raise ValueError("plot_attributions needs at least one row, and the same methods in each")
    methods = list(rows[0].attributions)
    pair = 2 * _PANEL + _GAP
    head = _HEAD + (0.3 if title else 0.0)
    caption = _describe_scale(percentile, any(row.box for row in rows), len(methods))
    foot = 0.22 + 0.115 * (caption.count("\n") + 1)
    width = 2 * _MARGIN + (1 + len(methods)) * _PANEL + len(methods) * _GAP
    height = head + len(rows) * pair + (len(rows) - 1) * _BETWEEN + foot
    figure = Figure(figsize=(width, height), facecolor="white")

    def place(column: int, top: float, *, size: float = _PANEL, share: bool = False) -> Axes:
        left = _MARGIN + column * (_PANEL + _GAP)
        box = (left / width, 1 - (top + size) / height, size / width, size / height)
        axes = figure.add_axes(box)
        axes.set_xticks([])
        axes.set_yticks([])
        for spine in axes.spines.values():
            spine.set(linewidth=0.4, color="#888888", visible=not share)
        return axes

    for number, row in enumerate(rows):
        top = head + number * (pair + _BETWEEN)
        axes = place(0, top)
        _show(axes, as_picture(_crop(row.image, row.box)))
        if number == 0:
            _set_heading(axes, "Input")
        _write_label(place(0, top + _PANEL + _GAP, share=True), row.label)
        if row.box is not None:
            axes = place(0, top + _PANEL + _GAP + 0.55 * _PANEL, size=0.45 * _PANEL)
            _show(axes, as_picture(row.image))
            _outline(axes, row.box)
        for column, method in enumerate(methods, start=1):
            attribution = _crop(row.attributions[method], row.box)
            axes = place(column, top)
            _show(axes, to_colour(attribution, percentile))
            if number == 0:
                _set_heading(axes, TITLES.get(method, method))
            axes = place(column, top + _PANEL + _GAP)
            _show(axes, to_magnitude(attribution, percentile))
            scale = measure_scale(attribution, percentile)
            axes.text(
                0.97,
                0.03,
                f"s = {scale:.2g}" if attribution.any() else "zero everywhere",
                transform=axes.transAxes,
                ha="right",
                va="bottom",
                fontsize=5.5,
                color=_INK,
                bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 1.0},
            )
    if title:
        figure.text(_MARGIN / width, 1 - 0.1 / height, title, va="top", fontsize=9, color=_INK)
    figure.text(
        _MARGIN / width,
        0.1 / height,
        caption,
        va="bottom",
        fontsize=5.8,
        color="#555555",
        linespacing=1.4,
    )
    return figure


def _crop(tensor: Tensor, box: Box | None) -> Tensor:
    if box is None:
        return tensor
    top, left, bottom, right = box
    return tensor[:, top:bottom, left:right]


def _show(axes: Axes, picture: Array) -> None:
    # Nearest, because every pixel is a number somebody may want to see.
    if picture.ndim == 2:
        axes.imshow(picture, cmap="gray_r", vmin=0, vmax=1, interpolation="nearest")
    else:
        axes.imshow(picture, interpolation="nearest")
    axes.set_anchor("N")


def _set_heading(axes: Axes, heading: str) -> None:
    axes.set_title(heading, fontsize=8, color=_INK, pad=4)


def _outline(axes: Axes, box: Box) -> None:
    from matplotlib.patches import Rectangle

    top, left, bottom, right = box
    corner = (left - 0.5, top - 0.5)
    for colour, line in (("white", 2.0), (_ACCENT, 1.1)):
        axes.add_patch(
            Rectangle(corner, right - left, bottom - top, fill=False, edgecolor=colour, lw=line)
        )


def _write_label(axes: Axes, label: str) -> None:
    axes.patch.set_visible(False)
    y = 0.97
    for number, line in enumerate(label.split("\n")):
        if not line:
            y -= 0.06
            continue
        for piece in textwrap.wrap(line, 24 if number == 0 else 33):
            axes.text(
                0.0,
                y,
                piece,
                transform=axes.transAxes,
                va="top",
                fontsize=8 if number == 0 else 6,
                fontweight="bold" if number == 0 else "normal",
                color=_INK,
                # Names of classes and files are text, also where they hold a dollar sign.
                parse_math=False,
            )
            y -= 0.105 if number == 0 else 0.08


def _describe_scale(percentile: float, boxed: bool, methods: int) -> str:
    text = (
        "Above: signed, 0.5 + a/(2s), so mid-grey is zero. Below: max over channels of |a|/s, "
        f"white is zero. s: percentile {percentile:g} of the non-zero values in the panel."
    )
    if boxed:
        text += " Drawn is the outlined part of the image."
    # About 40 characters of this size go on one panel.
    return textwrap.fill(text, 40 * (1 + methods))

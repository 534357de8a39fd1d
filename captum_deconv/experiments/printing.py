"""What the experiments' figures have in common: a page's text wide, small type, a caption below."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDTH = 7.0
MARGIN = 0.12
INK, FAINT = "#222222", "#666666"
COLOURS = (
    *("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#997700", "#223344"),
)
"""Told apart by the colour-blind, too (Paul Tol's "bright", and two more)."""

_LINE = 0.115


class Sheet:
    """A figure, 7 inches wide, that belongs to nobody (no pyplot); its places are in inches.

    Args:
        height: Without the caption.
        caption: What stands below.
    """

    def __init__(self, height: float, caption: str) -> None:
        from matplotlib.figure import Figure

        lines = textwrap.wrap(caption, int(WIDTH * 23))
        self.height = height + _LINE * len(lines) + 0.14
        self.figure = Figure(figsize=(WIDTH, self.height), facecolor="white")
        for number, line in enumerate(lines):
            y = height + 0.16 + _LINE * number
            self.write(MARGIN, y, line, 5.8, color=FAINT)

    def write(self, x: float, y: float, text: str, size: float = 7, **how: Any) -> None:
        """Write at so many inches from the left and from the top."""
        # Names of layers and files are text, also where they hold a dollar sign.
        style: dict[str, Any] = {"va": "baseline", "color": INK, "parse_math": False, **how}
        self.figure.text(x / WIDTH, 1 - y / self.height, text, fontsize=size, **style)

    def axes(self, left: float, top: float, width: float, height: float) -> Axes:
        """Add axes."""
        bottom = 1 - (top + height) / self.height
        box = (left / WIDTH, bottom, width / WIDTH, height / self.height)
        return self.figure.add_axes(box)

    def bar(self, image: Any, left: float, top: float, width: float) -> None:
        """Add a bar of a picture's colours."""
        bar = self.figure.colorbar(
            image, cax=self.axes(left, top, width, 0.06), orientation="horizontal"
        )
        bar.ax.tick_params(labelsize=6, length=2, width=0.5, colors=INK)
        bar.ax.locator_params(nbins=4)
        bar.outline.set_linewidth(0.4)


def show(axes: Axes, picture: Any, **how: Any) -> Any:
    """Show a picture without ticks; nearest, as every pixel is a number one may want to see."""
    image = axes.imshow(picture, **{"interpolation": "nearest", "aspect": "auto", **how})
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_linewidth(0.3)
        spine.set_color(FAINT)
    return image


def chart(axes: Axes, x: str = "", y: str = "") -> Axes:
    """Set a chart's type small, and its frame light."""
    axes.tick_params(labelsize=6, colors=INK, length=2, width=0.5)
    axes.set_xlabel(x, fontsize=6.5, color=INK, labelpad=2, parse_math=False)
    axes.set_ylabel(y, fontsize=6.5, color=INK, labelpad=2, parse_math=False)
    for name, spine in axes.spines.items():
        spine.set_linewidth(0.5)
        spine.set_visible(name in ("left", "bottom"))
    return axes


def shorten(text: str, most: int = 20) -> str:
    """Shorten a name to what fits."""
    return text if len(text) <= most else f"{text[: most - 1]}…"


def name_class(categories: Any, number: int) -> str:
    """Return a class's first name, or its number where the classes have no names."""
    if categories and number < len(categories):
        return str(categories[number]).split(",")[0]
    return f"class {number}"

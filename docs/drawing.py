"""How the figures look: colours for light and dark pages, and matrices as squares."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Colormap, LinearSegmentedColormap

WIDTH = 7.6  # inches


@dataclass(frozen=True)
class Theme:
    """The colours of a page."""

    name: str
    ink: str
    faint: str
    signed: Colormap
    marks: tuple[str, str, str]


def _between(low: str, middle: str, high: str) -> Colormap:
    return LinearSegmentedColormap.from_list("signed", [low, middle, high])


THEMES = (
    Theme(
        "light", "#1c2128", "#9aa2ab", _between("#1f5fa8", "#f4f4f2", "#c8501e"),
        ("#c8501e", "#1f5fa8", "#2f7d4f"),
    ),
    Theme(
        "dark", "#d7dde4", "#6b7480", _between("#5aa2f0", "#22272e", "#f08a4b"),
        ("#f08a4b", "#5aa2f0", "#63c08a"),
    ),
)  # fmt: skip


@contextlib.contextmanager
def style_for(theme: Theme) -> Iterator[None]:
    """Draw what is drawn inside in a page's colours.

    Args:
        theme: The page.

    Yields:
        Nothing.
    """
    style = {
        "font.size": 8.5,
        "font.family": "DejaVu Sans",
        "svg.hashsalt": "captum_deconv",  # the same figure, the same file
        "savefig.transparent": True,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.facecolor": "none",
        "axes.titlesize": 8.5,
        "axes.edgecolor": theme.faint,
    }
    inked = ("text.color", "axes.labelcolor", "axes.titlecolor", "xtick.color", "ytick.color")
    with mpl.rc_context(style | dict.fromkeys(inked, theme.ink)):
        yield


def show_matrix(axes: Axes, values: np.ndarray, theme: Theme, grid: bool = True) -> None:
    """Show a small matrix, a square for each value, zero in the colour of the page."""
    scale = np.abs(values).max() or 1.0
    axes.imshow(values, cmap=theme.signed, vmin=-scale, vmax=scale, interpolation="nearest")
    axes.set(xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set(visible=True, color=theme.faint, linewidth=0.6)
    if grid:
        for edge in np.arange(0.5, values.shape[1] - 1):
            axes.axvline(edge, color=theme.faint, linewidth=0.3, alpha=0.5)
        for edge in np.arange(0.5, values.shape[0] - 1):
            axes.axhline(edge, color=theme.faint, linewidth=0.3, alpha=0.5)


def write_values(axes: Axes, values: np.ndarray, theme: Theme, plain: bool = False) -> None:
    """Write each value into its square, zeros faintly."""
    scale = np.abs(values).max() or 1.0
    strong = "white" if theme.name == "light" else "#14181d"
    for (row, column), value in np.ndenumerate(values):
        colour = theme.ink if plain or abs(value) <= 0.6 * scale else strong
        colour = theme.faint if value == 0 else colour
        text = f"{value:g}".replace("-", "\u2212")
        axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=8.5)

"""A comparison as a table and as a figure."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from captum_deconv.comparison.methods import METHODS
from captum_deconv.comparison.metrics.registry import METRICS
from captum_deconv.drawing.figures import save_figure

if TYPE_CHECKING:
    from rich.table import Table

    from captum_deconv.comparison.results import Comparison

ARROWS = {"higher": "↑", "lower": "↓", "neither": ""}
"""What says in a heading which way is better."""

CANNOT = "cannot"


def spell_cell(comparison: Comparison, metric: str, method: str) -> str:
    """Spell a cell of the table: the mean, ``cannot``, or nothing where nothing was asked."""
    found = comparison.find(metric, method)
    if found is not None:
        note = spell_missing(comparison, metric, method)
        return f"{found['mean']:.3g} ({note})" if note else f"{found['mean']:.3g}"
    return CANNOT if method in comparison.cannot.get(metric, {}) else ""


def spell_missing(comparison: Comparison, metric: str, method: str) -> str:
    """Say of how few images a mean is, where the method cannot explain them all.

    Such a mean is of other images than its neighbours are, and not to be held against them.

    Args:
        comparison: What was measured.
        metric: The metric.
        method: The method.

    Returns:
        Such as ``1 of 3 images``; nothing where it is of all.
    """
    found, missing = comparison.find(metric, method), comparison.cannot.get(metric, {}).get(method)
    if found is None or missing is None:
        return ""
    return f"{found['images']} of {found['images'] + missing['images']} images"


def spell_heading(metric: str) -> str:
    """Spell a metric's title, with the arrow of its better way."""
    return f"{METRICS[metric].title} {ARROWS[METRICS[metric].better]}".strip()


def make_table(comparison: Comparison) -> Table:
    """Make a table for the terminal: a row for each metric, a column for each method.

    Args:
        comparison: What was measured.

    Returns:
        The table, to print by rich.
    """
    from rich.table import Table

    table = Table(title=f"{len(comparison.targets)} images, means", show_lines=False)
    table.add_column("method")
    for metric in comparison.question.metrics:
        table.add_column(spell_heading(metric), justify="right")
    for method in comparison.question.methods:
        cells = [spell_cell(comparison, each, method) for each in comparison.question.metrics]
        table.add_row(METHODS[method].title, *cells)
    return table


def draw_figure(comparison: Comparison, path: str | Path) -> None:
    """Draw a panel for each metric: each method's mean and its 95 % interval over images.

    Args:
        comparison: What was measured.
        path: A ``.png``, ``.pdf`` or ``.svg`` file.
    """
    from matplotlib.figure import Figure

    metrics, methods = comparison.question.metrics, comparison.question.methods
    columns = min(4, len(metrics))
    rows = -(-len(metrics) // columns)
    size = (1.6 + 2.3 * columns, rows * (0.8 + 0.2 * len(methods)))
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(rows, columns, sharey=True, squeeze=False).ravel()
    for panel, metric in zip(panels, metrics, strict=False):
        _draw_panel(panel, comparison, metric)
        panel.set_yticks(range(len(methods)), [METHODS[name].title for name in methods])
        panel.tick_params(labelsize=7)
    panels[0].invert_yaxis()
    for panel in panels[len(metrics) :]:
        panel.set_visible(False)
    save_figure(figure, path, dpi=150)


def _draw_panel(panel: Any, comparison: Comparison, metric: str) -> None:
    for place, method in enumerate(comparison.question.methods):
        found = comparison.find(metric, method)
        if found is None:
            continue
        colour = "0.6" if method in ("random", "edges") else "C0"
        if found["low"] is not None:
            panel.plot([found["low"], found["high"]], [place, place], color=colour, linewidth=2)
        panel.plot(found["mean"], place, "o", color=colour, markersize=4)
    panel.set_title(spell_heading(metric), fontsize=8)
    panel.grid(axis="x", color="0.9")

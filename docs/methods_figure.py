"""The figure of the methods compared, drawn from the committed numbers when the pages are built."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from drawing import THEMES, WIDTH, Theme, style_for
from matplotlib.axes import Axes
from matplotlib.figure import Figure

RECORD = Path(__file__).parents[1] / "benchmarks" / "results" / "comparison-cpu.json"


def build(folder: Path) -> None:
    """Draw the figure for light and for dark pages.

    Args:
        folder: Where it goes: `methods-light.svg` and `methods-dark.svg`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    record = json.loads(RECORD.read_text(encoding="utf-8"))
    for theme in THEMES:
        with style_for(theme):
            draw(record, theme).savefig(
                folder / f"methods-{theme.name}.svg", metadata={"Date": None}
            )


def draw(record: dict[str, Any], theme: Theme) -> Figure:
    """Draw how the class is lost over depth, and how the methods do where the truth is known.

    Args:
        record: As the JSON file has it.
        theme: The colours.

    Returns:
        The figure.
    """
    results = record["results"]
    figure = Figure(figsize=(WIDTH, 6.4), layout="constrained")
    upper, lower = figure.subfigures(2, 1, height_ratios=[2.6, 3.6])
    panels = upper.subplots(1, len(results), sharey=True, squeeze=False)[0]
    for panel, (name, result) in zip(panels, results.items(), strict=True):
        _draw_depth(panel, name, result, theme)
    panels[0].set_ylabel("cosine of two signals")
    panels[0].legend(frameon=False, fontsize=7.5)
    _draw_truth(lower.subplots(), record["truth"], theme)
    return figure


def _draw_depth(axes: Axes, name: str, result: dict[str, Any], theme: Theme) -> None:
    found = result["summary"]["convergence"]
    layers = [value[3:] for value in found if value.startswith("at ")]
    for rule, colour in zip(found["input"], theme.marks, strict=True):
        means = [found[f"at {layer}"][rule]["mean"] for layer in layers]
        title = result["methods"][rule]["title"]
        axes.plot(range(len(layers)), means, "o-", color=colour, markersize=3, label=title)
    chance = [next(iter(found[f"chance {layer}"].values()))["mean"] for layer in layers]
    axes.plot(range(len(layers)), chance, ":", color=theme.faint, label="chance")
    axes.set(title=f"{name}: from the output to the input", ylim=(0, 1.03))
    axes.set_xticks(range(len(layers)), layers, rotation=40, ha="right", fontsize=6.5)


def _draw_truth(axes: Axes, truth: dict[str, Any], theme: Theme) -> None:
    methods = list(truth["methods"].values())
    asked, other, _ = theme.marks
    for place, each in enumerate(methods):
        ends = [each[what]["mean"] for what in ("background", "shape")]
        axes.plot(ends, [place, place], color=theme.faint, linewidth=1)
        for what, colour, shift in (("background", other, 0.12), ("shape", asked, -0.12)):
            low, high = each[what]["low"], each[what]["high"]
            axes.plot([low, high], [place + shift] * 2, color=colour, linewidth=1.4, alpha=0.5)
            label = f"the network names the {what}" if place == 0 else None
            axes.plot(each[what]["mean"], place, "o", color=colour, markersize=4.5, label=label)
    axes.axvline(truth["area"], color=theme.faint, linestyle=":", linewidth=1)
    axes.set_yticks(range(len(methods)), [each["title"] for each in methods])
    axes.set(title="share of the map on the shape (dotted: the shape's area)", xlim=(0, None))
    axes.invert_yaxis()
    axes.legend(
        frameon=False, fontsize=7.5, ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.07)
    )

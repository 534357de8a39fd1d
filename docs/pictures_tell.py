"""What stands in `what-pictures-tell.md`: its numbers, its picture, and a check of its claims.

The numbers are those of `benchmarks/results/comparison-cpu.json`; what the picture shows of one
photograph is computed when the pages are built. Where the numbers no longer show what the text
says, the pages cannot be built.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from drawing import THEMES, WIDTH, Theme, style_for
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor, nn

from captum_deconv.comparison import METHODS
from captum_deconv.comparison.metrics.similarity import compare_maps
from captum_deconv.comparison.randomising import Randomised
from captum_deconv.drawing.colours import to_magnitude
from captum_deconv.sources.images import read_demo_image
from captum_deconv.sources.models import load_model

RECORD = Path(__file__).parents[1] / "benchmarks" / "results" / "comparison-cpu.json"
NETWORKS = ("embedded", "efficientnet-lite0")
TOLD = ("input_gradient", "guided_backprop", "deconvnet", "guided_gradcam", "gradcam", "edges")
SHOWN = ("input_gradient", "guided_backprop", "deconvnet", "gradcam")
CLASS, OTHER, LAYER = "tiger cat", "espresso", "_conv_head"


class ClaimError(AssertionError):
    """A sentence that the numbers do not bear out."""


class Record:
    """The comparison, as the text asks for it."""

    def __init__(self, record: dict[str, Any]) -> None:
        self.results, self.truth = record["results"], record["truth"]

    def mean(self, metric: str, method: str, network: str, value: str | None = None) -> float:
        """Return a mean over images: of the metric's own value, where none is named."""
        result = self.results[network]
        values = result["summary"][metric][value or result["metrics"][metric]["value"]]
        return float(values[method]["mean"])

    def images(self, metric: str, method: str, network: str) -> int:
        """Return over how many images that mean is; none of a method that cannot be asked."""
        result = self.results[network]
        values = result["summary"][metric][result["metrics"][metric]["value"]]
        return int(values[method]["images"]) if method in values else 0

    def over_chance(self, method: str, network: str) -> float:
        """Return how much of a map lies in the box, over what chance puts there."""
        return self.mean("inside", method, network, "over box")

    def share(self, method: str, network: str) -> float:
        """Return what part of a map lies on the shape, where the truth is known."""
        return float(self.truth["methods"][method][network]["mean"])

    def show(self, metric: str, method: str) -> str:
        """Return a metric's means on the two networks as text."""
        said = []
        for network in NETWORKS:
            try:
                fewer = self.images(metric, method, network) < self.images(metric, "edges", network)
                said.append(f"{self.mean(metric, method, network):.2f}{'†' * fewer}")
            except KeyError:
                said.append("none")
        return ", ".join(said)


def read(record: Record) -> dict[str, str]:
    """Return what the text quotes, by name.

    Args:
        record: The comparison.

    Returns:
        Its tables, and its numbers.
    """
    titles = {method: record.results["embedded"]["methods"][method]["title"] for method in TOLD}
    depends = [
        f"| {titles[method]} | "
        + " | ".join(
            record.show(metric, method)
            for metric in ("other_class", "noise_start", "convergence", "sanity_cascading")
        )
        + " |"
        for method in TOLD
    ]
    where = [
        f"| {titles[method]} "
        f"| {', '.join(f'{record.over_chance(method, network):.2f}' for network in NETWORKS)} "
        f"| {record.share(method, 'shape'):.0%} | {record.share(method, 'background'):.0%} |"
        for method in TOLD
    ]
    images = record.results["embedded"]["summary"]
    over = record.share("guided_backprop", "shape") / record.truth["area"]
    return {
        "tell_depends": "\n".join(
            [
                "| | another class | start from noise | two unlike signals | the network random |",
                "|---|---|---|---|---|",
                *depends,
            ]
        ),
        "tell_where": "\n".join(
            [
                "| | in the box, over chance | on the shape: it is asked of | it is not |",
                "|---|---|---|---|",
                *where,
            ]
        ),
        "tell_images": str(images["other_class"]["ssim random"]["edges"]["images"]),
        "tell_few": str(images["sanity_cascading"]["spearman_abs"]["edges"]["images"]),
        "tell_boxes": str(images["inside"]["share"]["edges"]["images"]),
        "tell_area": f"{record.truth['area']:.0%}",
        "tell_guided_over": f"{over:.1f}",
        "tell_truths": str(record.truth["images"]),
        "tell_shape_accuracy": f"{record.truth['networks']['shape']['accuracy']:.0%}",
        "tell_background_accuracy": f"{record.truth['networks']['background']['accuracy']:.0%}",
    }


def check(record: Record, shown: dict[tuple[str, str], float]) -> None:
    """Hold what the text says against the numbers.

    Args:
        record: The comparison.
        shown: The rank correlations in the picture, by method and column.

    Raises:
        ClaimError: If they do not bear it out.
    """
    lite, small = "efficientnet-lite0", "embedded"
    rules = ("guided_backprop", "deconvnet")
    claims: dict[str, bool] = {
        "in the deep network, neither depends on the class": all(
            record.mean(metric, method, lite) > 0.95
            for method in rules
            for metric in ("other_class", "noise_start", "convergence")
        ),
        "the gradient and Grad-CAM do": all(
            record.mean("other_class", method, lite) < 0.6
            for method in ("input_gradient", "gradcam")
        ),
        "in the shallow one with pooling, the deconvnet does too": all(
            record.mean(metric, "deconvnet", small) < 0.4
            for metric in ("other_class", "noise_start", "convergence")
        ),
        "and guided backprop less": all(
            0.6 < record.mean(metric, "guided_backprop", small) < 0.95
            for metric in ("other_class", "noise_start", "convergence")
        ),
        "guided backprop keeps most when the network is random": all(
            record.mean("sanity_cascading", "guided_backprop", network)
            >= max(record.mean("sanity_cascading", m, network) for m in TOLD if m != "edges")
            for network in NETWORKS
        ),
        "an edge detector is as good in the box as guided backprop": all(
            abs(record.over_chance("edges", n) - record.over_chance("guided_backprop", n)) < 0.1
            for n in NETWORKS
        ),
        "where the truth is known, guided backprop finds it better than the gradient": (
            record.share("guided_backprop", "shape") > 2 * record.share("input_gradient", "shape")
            and record.share("guided_backprop", "shape") > 3 * record.truth["area"]
            and record.share("guided_backprop", "background") < record.truth["area"]
        ),
        "the picture shows it": all(
            shown[method, "class"] > 0.9 and shown[method, "all"] < 0.3 for method in rules
        )
        and shown["input_gradient", "class"] < 0.6
        and shown["guided_backprop", "later"] > 2 * shown["input_gradient", "later"],
    }
    broken = [claim for claim, holds in claims.items() if not holds]
    if broken:
        raise ClaimError("; ".join(broken))


def build(folder: Path) -> dict[str, str]:
    """Draw the picture for light and for dark pages, and check the page's claims.

    Args:
        folder: Where it goes: `tell-light.png` and `tell-dark.png`.

    Returns:
        What the text quotes, by name.

    Raises:
        ClaimError: If the numbers do not bear the text out.
    """
    folder.mkdir(parents=True, exist_ok=True)
    record = Record(json.loads(RECORD.read_text(encoding="utf-8")))
    photograph, maps = compute()
    first = {method: maps[method, "asked"] for method in SHOWN}
    shown = {
        (method, column): compare_maps(first[method], found)["spearman_abs"]
        for (method, column), found in maps.items()
        if column != "asked" and method in first
    }
    check(record, shown)
    for theme in THEMES:
        with style_for(theme):
            draw(photograph, maps, shown, theme).savefig(
                folder / f"tell-{theme.name}.png", dpi=150, metadata={"Software": None}
            )
    quoted = {
        f"tell_{method}_{column}": f"{value:.2f}" for (method, column), value in shown.items()
    }
    alike = compare_maps(first["guided_backprop"], maps["edges", "asked"])["spearman_abs"]
    return read(record) | quoted | {"tell_edges": f"{alike:.2f}"}


def compute() -> tuple[Tensor, dict[tuple[str, str], Tensor]]:
    """Explain one photograph four ways by four methods.

    Returns:
        The photograph ``(3, H, W)`` in [0, 1], and the attributions ``(1, C, H, W)`` by method and
        by what was asked: ``asked`` (the class), ``class`` (another one), ``later`` (the class,
        once the last two fifths of the layers are random), ``all`` (once all of them are).
    """
    loaded = load_model("efficientnet-lite0")
    if loaded.categories is None:
        raise ValueError("the network's classes have no names")
    images = loaded.preprocess(read_demo_image().image)[None]
    target, other = (torch.tensor([loaded.categories.index(name)]) for name in (CLASS, OTHER))
    asked: dict[str, tuple[nn.Module, Tensor]] = {
        "asked": (loaded.model, target),
        "class": (loaded.model, other),
        "later": (Randomised(loaded.model, stages=5, seed=0).cascade(1), target),
        "all": (Randomised(loaded.model, stages=5, seed=0).cascade(4), target),
    }
    maps = {
        (method, column): METHODS[method].explain(model, images, index, LAYER).detach()
        for column, (model, index) in asked.items()
        for method in SHOWN
    }
    maps["edges", "asked"] = METHODS["edges"].explain(loaded.model, images, target, None)
    return loaded.restore(images[0]), maps


def draw(
    photograph: Tensor,
    maps: dict[tuple[str, str], Tensor],
    shown: dict[tuple[str, str], float],
    theme: Theme,
) -> Figure:
    """Draw a row for each method, a column for each question.

    Args:
        photograph: ``(3, H, W)``, in [0, 1].
        maps: As :func:`compute` gives them.
        shown: How alike each is to the first of its row.
        theme: The colours.

    Returns:
        The figure.
    """
    columns = {
        "asked": f"class “{CLASS}”",
        "class": f"class “{OTHER}”",
        "later": "later layers random",
        "all": "all layers random",
    }
    figure = Figure(figsize=(WIDTH, 6.9), layout="constrained")
    panels = figure.subplots(len(SHOWN), 1 + len(columns))
    for panel in panels.flat:
        panel.set(xticks=[], yticks=[])
        for spine in panel.spines.values():
            spine.set(visible=True, color=theme.faint, linewidth=0.6)
    panels[0, 0].imshow(np.asarray(photograph.permute(1, 2, 0)))
    panels[0, 0].set_title("the photograph")
    _show(panels[1, 0], maps["edges", "asked"])
    panels[1, 0].set_title("its edges")
    for panel in panels[2:, 0]:
        panel.set_axis_off()
    for row, method in enumerate(SHOWN):
        panels[row, 1].set_ylabel(METHODS[method].title)
        for column, (name, title) in enumerate(columns.items(), start=1):
            panel = panels[row, column]
            _show(panel, maps[method, name])
            if row == 0:
                panel.set_title(title)
            if name != "asked":
                panel.set_xlabel(f"{shown[method, name]:.2f} alike".replace("-", "\u2212"))
    return figure


def _show(panel: Axes, found: Tensor) -> None:
    panel.imshow(to_magnitude(found[0]), cmap="gray_r", vmin=0, vmax=1)

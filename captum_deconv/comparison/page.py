"""A comparison as a page: methods by images, to look at, and the table, to sort; from disk."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from captum_deconv.comparison.cases import Case
from captum_deconv.comparison.methods import METHODS, CannotError
from captum_deconv.comparison.metrics.registry import METRICS
from captum_deconv.comparison.randomising import Randomised
from captum_deconv.comparison.report import ARROWS, CANNOT, spell_missing
from captum_deconv.comparison.results import Comparison
from captum_deconv.comparison.samples import name_all, read_images
from captum_deconv.drawing.colours import to_magnitude
from captum_deconv.drawing.page import replace_page, shrink

_SIDE = 160


def write_page(
    comparison: Comparison,
    model: nn.Module,
    data: Any,
    folder: str | Path,
    *,
    restore: Callable[[Tensor], Tensor],
    title: str,
    categories: list[str] | None = None,
    most: int = 24,
) -> Path:
    """Write ``index.html`` and the pictures that it shows.

    The pictures are computed for it: how much each pixel matters, bright where much.

    Args:
        comparison: What was measured.
        model: The network it was measured on.
        data: The data set.
        folder: Made where it is missing.
        restore: Turns an input ``(C, H, W)`` into a picture in [0, 1].
        title: Of the page.
        categories: The names of the classes, where they are known.
        most: How many images to show: the first ones.

    Returns:
        The page's file.
    """
    methods = comparison.question.methods
    names = list(comparison.targets)[:most]
    about = comparison.cells.about
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    rows: list[dict[str, Any]] = []
    with replace_page(Path(folder)) as page:
        for number, (name, image) in enumerate(_read_named(comparison, data)):
            if number == len(names):
                break
            target = comparison.targets[name]
            page.save(_as_bytes(restore(image).expand(3, -1, -1)), f"image-{number}")
            shown = []
            for method in methods:
                case = Case(
                    model=model,
                    randomised=_NONE,
                    method=METHODS[method],
                    image=image.to(device)[None],
                    target=target,
                    layer=about["layer"],
                    box=None,
                    key=(about["seed"], name),
                )
                try:
                    weights = case.weights
                except CannotError as error:
                    shown.append({"reason": str(error)})
                    continue
                picture = torch.from_numpy(to_magnitude(weights.clamp(min=0)[None]))
                page.save(_as_bytes(picture.expand(3, -1, -1)), f"{method}-{number}")
                shown.append({"file": f"{method}-{number}.webp"})
            rows.append(
                {
                    "name": name,
                    "number": number,
                    "class": categories[target] if categories else str(target),
                    "maps": shown,
                }
            )
        page.render(
            "captum_deconv.comparison",
            "comparison.html",
            title=title,
            methods=[METHODS[name] for name in methods],
            metrics=[METRICS[name] for name in comparison.question.metrics],
            arrows=ARROWS,
            cells=[_list_cells(comparison, method) for method in methods],
            rows=rows,
            data=[_list_values(comparison, row["name"]) for row in rows],
            count=len(comparison.targets),
            about=about,
        )
    return Path(folder) / "index.html"


_NONE = Randomised(nn.Identity(), 1, 0)  # a picture needs no random network


def _read_named(comparison: Comparison, data: Any) -> Iterator[tuple[str, Tensor]]:
    return (
        (name, image)
        for _, name, image, _ in read_images(data, name_all(data), strict=False)
        if name in comparison.targets
    )


def _list_cells(comparison: Comparison, method: str) -> list[dict[str, Any]]:
    cells: list[dict[str, Any]] = []
    for metric in comparison.question.metrics:
        found = comparison.find(metric, method)
        if found is not None:
            cells.append(found | {"few": spell_missing(comparison, metric, method)})
        else:
            missing = comparison.cannot.get(metric, {}).get(method)
            cells.append({"reason": missing["reason"], "text": CANNOT} if missing else {})
    return cells


def _list_values(comparison: Comparison, image: str) -> list[list[float | None]]:
    """Return by method and metric what was measured of one image."""
    question, values = comparison.question, comparison.cells.values
    return [
        [
            values.get((image, method, metric), {}).get(METRICS[metric].value)
            for metric in question.metrics
        ]
        for method in question.methods
    ]


def _as_bytes(picture: Tensor) -> Tensor:
    return shrink((picture * 255).round().clamp(0, 255).to(torch.uint8), _SIDE)

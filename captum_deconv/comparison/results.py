"""What a comparison found: cells, summed up over images, and written as JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from captum_deconv.comparison.cells import Cells
from captum_deconv.comparison.methods import METHODS
from captum_deconv.comparison.metrics.registry import METRICS
from captum_deconv.comparison.statistics import compare_pairs, summarise
from captum_deconv.drawing.files import replace_file


@dataclass(frozen=True)
class Question:
    """What was asked for.

    Attributes:
        methods: Their names, in the order of the table.
        metrics: Likewise.
        at_most: For a metric, how many images it is given.
    """

    methods: tuple[str, ...]
    metrics: tuple[str, ...]
    at_most: Mapping[str, int] = field(default_factory=dict)

    def limit(self, metric: str) -> float:
        """Return how many images a metric is given; infinity where nothing says so."""
        return self.at_most.get(metric, math.inf)


@dataclass(frozen=True)
class Comparison:
    """What a comparison found.

    Attributes:
        question: What was asked for.
        cells: All that was measured.
        targets: Of each image the class that was explained.
    """

    question: Question
    cells: Cells
    targets: dict[str, int]

    @cached_property
    def summary(self) -> dict[str, dict[str, dict[str, dict[str, Any]]]]:
        """By metric, value and method: mean, interval and number of images, as in the JSON."""
        found: dict[str, dict[str, dict[str, dict[str, Any]]]] = {}
        for metric in self.question.metrics:
            values = found[metric] = {}
            for name in self._list_values(metric):
                by_method = self._select(metric, name)
                values[name] = {
                    method: summarise(list(by_method[method].values()))
                    for method in self.question.methods
                    if method in by_method
                }
        return found

    @cached_property
    def tests(self) -> dict[str, list[dict[str, Any]]]:
        """By metric: which methods differ in the value that stands for it, as in the JSON."""
        return {
            metric: compare_pairs(self._select(metric, METRICS[metric].value))
            for metric in self.question.metrics
        }

    @cached_property
    def cannot(self) -> dict[str, dict[str, dict[str, Any]]]:
        """By metric and method: of how many images there is no value, and the first reason."""
        found: dict[str, dict[str, dict[str, Any]]] = {}
        for (image, method, metric), reason in self.cells.cannot.items():
            if self._is_asked(image, method, metric):
                cell = found.setdefault(metric, {}).setdefault(method, {"images": 0})
                cell["images"] += 1
                cell.setdefault("reason", reason)
        return found

    def find(self, metric: str, method: str) -> dict[str, Any] | None:
        """Return the summary of the value that stands for a metric; None where there is none."""
        return self.summary[metric].get(METRICS[metric].value, {}).get(method)

    def as_record(self) -> dict[str, Any]:
        """Return everything but the single cells, as JSON can hold it."""
        question = self.question
        return {
            "about": self.cells.about,
            "images": [{"name": name, "target": t} for name, t in self.targets.items()],
            "methods": {
                name: {"title": METHODS[name].title, "values": METHODS[name].values}
                for name in question.methods
            },
            "metrics": {
                name: {
                    "title": METRICS[name].title,
                    "value": METRICS[name].value,
                    "better": METRICS[name].better,
                    "source": METRICS[name].source,
                    "at most": question.at_most.get(name),
                }
                for name in question.metrics
            },
            "summary": self.summary,
            "tests": self.tests,
            "cannot": self.cannot,
        }

    def write_json(self, path: Path) -> None:
        """Write the record; an existing file is replaced whole or not at all."""
        text = json.dumps(self.as_record(), indent=1, allow_nan=False) + "\n"
        with replace_file(path) as temporary:
            temporary.write_text(text, encoding="utf-8")

    def _is_asked(self, image: str, method: str, metric: str) -> bool:
        question = self.question
        return (
            method in question.methods
            and metric in question.metrics
            and image in list(self.targets)[: self._count(metric)]
        )

    def _count(self, metric: str) -> int:
        return int(min(self.question.limit(metric), len(self.targets)))

    def _list_values(self, metric: str) -> list[str]:
        names: dict[str, None] = {}
        for (_, _, of), values in self.cells.values.items():
            if of == metric:
                names |= dict.fromkeys(values)
        return list(names)

    def _select(self, metric: str, value: str) -> dict[str, dict[str, float]]:
        images = set(list(self.targets)[: self._count(metric)])
        found = self.cells.select(metric, value)
        return {
            method: {image: v for image, v in found[method].items() if image in images}
            for method in self.question.methods
            if images & set(found.get(method, ()))
        }

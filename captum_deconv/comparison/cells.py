"""What was measured, kept cell by cell, so that a killed run goes on.

A JSON Lines file: first what the run is of, then a line for each image, method and metric with its
values, or with why there are none. A last line that was cut off is not counted.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from captum_deconv.features.records import find_differences

Key = tuple[str, str, str]
"""Image, method, metric."""

NAME = "cells.jsonl"


class ComparisonError(RuntimeError):
    """A folder with something else in it than what is to be compared; the message says what."""


@dataclass
class Cells:
    """The cells of one comparison.

    Attributes:
        about: What it is of: the model, the data set, the settings.
        values: Of each cell its values by their names; None where one is not defined.
        cannot: Of each cell without values the reason.
    """

    about: dict[str, Any]
    values: dict[Key, dict[str, float | None]] = field(default_factory=dict)
    cannot: dict[Key, str] = field(default_factory=dict)
    _file: TextIO | None = None

    def __contains__(self, key: Key) -> bool:
        return key in self.values or key in self.cannot

    def add(self, key: Key, values: Mapping[str, float] | str) -> None:
        """Keep a cell, on disk before anything else is done.

        Args:
            key: The cell.
            values: Its values, or why there are none.
        """
        line: dict[str, Any] = dict(zip(("image", "method", "metric"), key, strict=True))
        if isinstance(values, str):
            line["cannot"] = self.cannot[key] = values
        else:
            finite = {name: v if math.isfinite(v) else None for name, v in values.items()}
            line["values"] = self.values[key] = finite
        if self._file is not None:
            self._file.write(json.dumps(line) + "\n")
            self._file.flush()

    def select(self, metric: str, value: str) -> dict[str, dict[str, float]]:
        """Select one value of one metric.

        Args:
            metric: The metric.
            value: The value's name.

        Returns:
            By method, by image, where it is defined.
        """
        found: dict[str, dict[str, float]] = {}
        for (image, method, of), values in self.values.items():
            measured = values.get(value)
            if of == metric and measured is not None:
                found.setdefault(method, {})[image] = measured
        return found

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None


def open_cells(folder: Path, about: dict[str, Any]) -> Cells:
    """Open a folder's cells to go on with them, or begin anew where there are none.

    Args:
        folder: An existing folder.
        about: What is to be compared: ``model`` and ``dataset`` as
            :mod:`captum_deconv.features.records` describes them, and settings.

    Returns:
        The cells, to add to and to close.

    Raises:
        ComparisonError: If the folder's cells are of something else.
    """
    path = folder / NAME
    cells = Cells(about)
    whole = 0
    if path.exists():
        for line, end in _read_whole_lines(path):
            first, whole = not whole, end
            if first:
                _check_same(folder, line.get("about"), about)
                continue
            key = (line["image"], line["method"], line["metric"])
            if "cannot" in line:
                cells.cannot[key] = line["cannot"]
            else:
                cells.values[key] = line["values"]
        with path.open("r+b") as file:
            file.truncate(whole)
    cells._file = path.open("a", encoding="utf-8")
    if not whole:
        cells._file.write(json.dumps({"about": about}) + "\n")
        cells._file.flush()
    return cells


def _read_whole_lines(path: Path) -> Iterator[tuple[dict[str, Any], int]]:
    """Read lines that end, each with the place where it does."""
    place = 0
    for line in path.read_bytes().splitlines(keepends=True):
        place += len(line)
        if not line.endswith(b"\n"):
            return
        try:
            found = json.loads(line)
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise ComparisonError(f"{path}: not a file of cells; give another folder")
        yield found, place


def _check_same(folder: Path, found: Any, about: dict[str, Any]) -> None:
    if not isinstance(found, dict):
        raise ComparisonError(f"{folder / NAME}: not a file of cells; give another folder")
    differences = find_differences(found, about)
    if differences:
        raise ComparisonError(
            f"{folder} holds a comparison of something else ({'; '.join(differences)}): give "
            "another folder, or remove it"
        )

"""The reports on a subject: checked, written as a table for a person, saved as JSON.

Example:
    >>> from captum_deconv.cli.check.subjects import describe_convolution
    >>> reports = check_subject(describe_convolution("in=3,out=8,kernel=3,stride=2", (16, 16)))
    >>> reports[""].passed, reports[""].output_size
    (True, (7, 7))
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path

import torch
from torch import nn

from captum_deconv import adjoint
from captum_deconv.adjoint.geometry import SUPPORTED, Geometry, describe
from captum_deconv.adjoint.spectrum import is_small
from captum_deconv.cli.check.subjects import Subject
from captum_deconv.cli.check.typed import Size
from captum_deconv.drawing.files import replace_file
from captum_deconv.sources.names import ModelError


def check_subject(
    subject: Subject,
    dtype: str = "float64",
    spectrum: bool | None = None,
    advance: Callable[[], None] = lambda: None,
) -> dict[str, adjoint.AdjointReport]:
    """Check each convolution and linear layer at the size that it sees.

    Flipped filters are compared for a single layer only. At the stride of a vision transformer's
    first layer their stuffed map would take tens of gigabytes.

    Args:
        subject: The network or layer.
        dtype: The type to compute in, by torch's name.
        spectrum: Whether to measure singular values; None for a single layer that is small enough.
        advance: What to call with each layer.

    Returns:
        The reports by the layers' dotted names, ``""`` for the subject itself.

    Raises:
        ModelError: If the network fails on its input, or runs nothing that can be checked.
    """
    single = isinstance(subject.model, SUPPORTED)
    if spectrum is None:
        spectrum = single and is_small(describe(subject.model, _spatial(subject)))

    def transpose(layer: nn.Module, size: Size) -> nn.Module:
        advance()
        return adjoint.transpose_of(layer, size)

    try:
        reports = adjoint.layers(
            subject.model,
            subject.inputs,
            dtype=getattr(torch, dtype),
            spectrum=spectrum,
            flipped=single and _count_stuffed(describe(subject.model, _spatial(subject))) <= _MOST,
            transpose=transpose,
        )
    except Exception as error:  # whatever a network does with its input
        shape = " x ".join(map(str, subject.shape))
        raise ModelError(
            f"{subject.name}: cannot be checked on an input of {shape}: {error}"
        ) from error
    if not reports:
        raise ModelError(f"{subject.name}: no convolution and no linear layer ran")
    return reports


def format_reports(subject: Subject, reports: Mapping[str, adjoint.AdjointReport]) -> str:
    """Write the reports for a person: a table of a network's layers, or the one of a single layer.

    Args:
        subject: What was checked.
        reports: What ``check_subject`` found.

    Returns:
        Lines of text; the last ones name the worst layer and whatever failed.
    """
    if set(reports) == {""}:
        return str(reports[""])
    rows = [_HEADINGS, *(_describe_row(name, report) for name, report in reports.items())]
    if all(report.singular_max is None for report in reports.values()):
        rows = [row[: -len(_SPECTRUM)] for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(
            cell.ljust(width) if number < _WORDS else cell.rjust(width)
            for number, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    return "\n".join([*lines, "", *_summarise(subject, reports)])


def save_reports(
    path: str | Path, subject: Subject, reports: Mapping[str, adjoint.AdjointReport]
) -> None:
    """Write the reports as JSON; an existing file is replaced whole or not at all.

    Args:
        path: The file.
        subject: What was checked.
        reports: What ``check_subject`` found.
    """
    record = {
        "subject": subject.name,
        "passed": all(report.passed for report in reports.values()),
        "layers": {name: report.to_dict() for name, report in reports.items()},
        "versions": {p: metadata.version(p) for p in ("captum-deconv", "torch")},
    }
    with replace_file(path) as temporary:
        temporary.write_text(json.dumps(record, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def find_picturable(
    subject: Subject, reports: Mapping[str, adjoint.AdjointReport]
) -> tuple[nn.Module, Size]:
    """Find the layer whose figure is drawn: the first convolution that ran.

    Args:
        subject: What was checked.
        reports: What ``check_subject`` found.

    Returns:
        The layer and its input's spatial size.

    Raises:
        ModelError: If there are linear layers only.
    """
    for name, report in reports.items():
        layer = subject.model.get_submodule(name.partition("@")[0])
        if not isinstance(layer, nn.Linear):
            return layer, report.input_size
    raise ModelError(f"{subject.name}: no convolution ran, and a linear layer has no picture")


_SPECTRUM = ("largest", "smallest", "rank", "null space", "least squares")
_HEADINGS = (
    *("layer", "kind", "size", "bitwise", "passed"),
    *("error", "residual", "best factor", *_SPECTRUM),
)
_MOST = 2**27  # values of the zero-stuffed map, unfolded: 1 GiB in float64
_WORDS = 5
"""Columns of words stand at the left of their place, those of numbers at the right."""


def _describe_row(name: str, report: adjoint.AdjointReport) -> tuple[str, ...]:
    into, out = ("x".join(map(str, s)) for s in (report.input_size, report.output_size))
    null = report.null_fraction
    return (
        name,
        report.layer.partition("(")[0],
        f"{into} -> {out}" if into else "-",
        "yes" if report.bitwise else "no",
        "yes" if report.passed else "NO",
        f"{report.relative_error:.1e}",
        f"{report.residual:.3f}",
        f"{report.scaled_residual:.3f}",
        _say(report.singular_max),
        _say(report.singular_min),
        "-" if report.rank is None else str(report.rank),
        "-" if null is None else f"{null:.1%}",
        _say(report.least_squares_residual),
    )


def _say(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"


def _summarise(subject: Subject, reports: Mapping[str, adjoint.AdjointReport]) -> list[str]:
    every = list(reports.values())
    failed = {name: report.failures for name, report in reports.items() if not report.passed}
    worst = max(reports, key=lambda name: _share(reports[name]))
    verdict = f"{len(failed)} FAILED" if failed else "all passed"
    bitwise = sum(report.bitwise for report in every)
    inverting = sum(report.inverts for report in every)
    residuals = [report.residual for report in every]
    return [
        f"{len(every)} layers of {subject.name}, {every[0].dtype} on {every[0].device}: {verdict}",
        f"  worst: {worst or 'the layer'}, error {reports[worst].relative_error:.1e} where "
        f"{reports[worst].tolerance:.1e} is allowed; {bitwise} bit for bit the gradient",
        f"  ct(c(x)) is x for {inverting or 'none'} of them: residuals {min(residuals):.3g} to "
        f"{max(residuals):.3g}",
        *(f"  failed: {name}: {what}" for name, each in failed.items() for what in each),
    ]


def _share(report: adjoint.AdjointReport) -> float:
    share = report.relative_error / report.tolerance
    return math.inf if math.isnan(share) else share


def _count_stuffed(geometry: Geometry) -> int:
    """Count the values that an ordinary convolution of the zero-stuffed map works on."""
    large = max(geometry.input_size, geometry.output_size, key=math.prod)
    return geometry.taps * max(geometry.in_channels, geometry.out_channels) * math.prod(large)


def _spatial(subject: Subject) -> Size:
    return () if isinstance(subject.model, nn.Linear) else subject.shape[2:]

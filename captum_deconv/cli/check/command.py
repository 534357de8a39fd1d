"""``check``: is the transpose of a convolution its gradient, and is it an inverse?"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from captum_deconv.cli.options import DeviceName, check_network

if TYPE_CHECKING:
    from captum_deconv.cli.check.subjects import Subject


class Dtype(str, Enum):
    """What ``--dtype`` takes."""

    float64 = "float64"
    float32 = "float32"
    float16 = "float16"
    bfloat16 = "bfloat16"


def check(
    context: typer.Context,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            "-m",
            help="A network, as for attribute: each convolution and linear layer is checked at the "
            "size that it sees.",
        ),
    ] = None,
    conv: Annotated[
        str | None,
        typer.Option(
            metavar="KEY=VALUE,...",
            help="One convolution, with seeded random weights: in, out and kernel are needed; "
            "stride, padding (also same, valid), dilation, groups, mode (zeros, reflect, replicate,"
            " circular), dims (1, 2, 3), transposed (true, false) and output_padding are as usual "
            "otherwise. Where axes differ: kernel=3x5.",
        ),
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(
            "--weights",
            "-w",
            help="Of the network, as for attribute; random ones by default.",
        ),
    ] = None,
    size: Annotated[
        str | None,
        typer.Option(
            metavar="HxW",
            help="The input's spatial size, 224x224 or 224 224; one number stands for all axes.",
        ),
    ] = None,
    device: DeviceName = "auto",
    dtype: Annotated[Dtype, typer.Option(help="The type to compute in.")] = Dtype.float64,
    spectrum: Annotated[
        bool | None,
        typer.Option(
            "--spectrum/--no-spectrum",
            help="Measure singular values, rank and least squares; by default of a single "
            "convolution that is small enough.",
        ),
    ] = None,
    figure: Annotated[
        Path | None,
        typer.Option(
            "--figure",
            "-f",
            metavar="PICTURE",
            help="A photograph's way through the convolution (of a network: the first) and back, "
            "and the singular values: .png, .pdf or .svg.",
        ),
    ] = None,
    json: Annotated[
        Path | None, typer.Option("--json", metavar="FILE.json", help="The reports, for a program.")
    ] = None,
) -> None:
    """Check that a convolution's transpose is its gradient, and say how far it is from an inverse.

    The exit code is 1 if a check of the transpose failed. The comparison with flipped
    filters is made for a single convolution only: it is the costly one.

    [bold]Examples[/bold]

      captum-deconv check --conv in=3,out=8,kernel=3,stride=2 -f c.pdf
      captum-deconv check -m resnet50 --dtype float32 --json r.json
      captum-deconv check -m mypackage.nets:build --size 64x64
    """
    from captum_deconv.drawing.figures import PICTURES, save_figure
    from captum_deconv.drawing.files import check_output

    # Given as `--size 64 64`, the second number arrives as a word of its own.
    words = [*filter(None, [size]), *context.args]
    if size is None and words:
        raise typer.BadParameter(f"unexpected word {words[0]!r}: options begin with --")
    if figure is not None:
        check_output(figure, PICTURES)
    if json is not None:
        check_output(json, (".json",))
    numbers = _check(model, conv, weights, words, device)

    from captum_deconv.cli.check import figure as pictures
    from captum_deconv.cli.check.reports import (
        check_subject,
        find_picturable,
        format_reports,
        save_reports,
    )

    subject = _find_subject(model, conv, weights, numbers, device)
    with _show_progress() as advance:
        reports = check_subject(subject, dtype.value, spectrum, advance)
    typer.echo(format_reports(subject, reports))
    if json is not None:
        save_reports(json, subject, reports)
        typer.echo(f"reports: {json}")
    if figure is not None:
        layer, input_size = find_picturable(subject, reports)
        save_figure(pictures.draw_round_trip(layer, input_size), figure)
        typer.echo(f"picture: {figure}")
    if not all(report.passed for report in reports.values()):
        raise typer.Exit(1)


def _check(
    model: str | None, conv: str | None, weights: str | None, words: list[str], device: str
) -> tuple[int, ...] | None:
    """Find out before torch is loaded whether what was typed makes sense; return the size."""
    from captum_deconv.cli.check.typed import parse_size, read_convolution

    if (model is None) == (conv is None):
        raise typer.BadParameter("give either --model or --conv")
    if conv is not None and weights is not None:
        raise typer.BadParameter("--weights goes with --model")
    check_network(model, weights or "none", device)
    if conv is not None:
        read_convolution(conv)
    return parse_size(words)


def _find_subject(
    model: str | None,
    conv: str | None,
    weights: str | None,
    size: tuple[int, ...] | None,
    device: str,
) -> Subject:
    from captum_deconv.cli.check import subjects
    from captum_deconv.sources.models import choose_device, load_model

    where = choose_device(device)
    if conv is not None:
        return subjects.describe_convolution(conv, size, where)
    # That the weights are random needs no line: the table shows what they make no difference to.
    return subjects.describe_network(load_model(str(model), weights or "none", where), size)


@contextlib.contextmanager
def _show_progress() -> Iterator[Callable[[], None]]:
    """Count the layers on stderr where there is somebody to see it.

    Yields:
        What to call with each layer.
    """
    from rich.console import Console

    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda: None
        return
    numbers = itertools.count(1)
    with console.status("checking") as status:
        yield lambda: status.update(f"checking layer {next(numbers)}")

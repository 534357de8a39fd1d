"""``coverage``: which rectifiers the rules reach."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, cast

import typer

from captum_deconv.cli.options import (
    Activations,
    ActivationsOption,
    DeviceName,
    ModelName,
    check_network,
)


def coverage(
    image: Annotated[
        Path | None, typer.Argument(metavar="[IMAGE]", help="By default random numbers.")
    ] = None,
    model: ModelName = "resnet50",
    weights: Annotated[
        str,
        typer.Option(
            "--weights",
            "-w",
            help="As for attribute; random ones by default, because they make no difference here.",
        ),
    ] = "none",
    size: Annotated[
        tuple[int, int] | None,
        typer.Option(metavar="H W", help="Height and width of the random numbers."),
    ] = None,
    device: DeviceName = "auto",
    activations: ActivationsOption = Activations.relu,
    strict: Annotated[
        bool,
        typer.Option(
            "--strict", help="Exit with 1 unless there are rectifiers and all are reached."
        ),
    ] = False,
) -> None:
    """Say which rectifiers of a network the rules reach, and what is left as it is.

    [bold]Examples[/bold]

      captum-deconv coverage --model mobilenet_v2
      captum-deconv coverage --model mypackage.nets:build --size 64 64 --strict
    """
    from captum_deconv.sources.images import read_image

    check_network(model, weights, device)
    photograph = None if image is None else read_image(image)

    from captum_deconv.explain.answer import measure_coverage
    from captum_deconv.sources.models import choose_device, load_model

    # That the weights are random needs no line here: only the graph is looked at.
    loaded = load_model(model, weights, choose_device(device))
    report = measure_coverage(loaded, photograph, size, cast(Any, activations.value))
    typer.echo(str(report))
    if strict and not report.complete:
        raise typer.Exit(1)

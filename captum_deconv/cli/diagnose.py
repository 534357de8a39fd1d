"""``diagnose``: what is wrong with a network's features."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from captum_deconv.cli.attribute import load
from captum_deconv.cli.feature_maps import (
    DataFolder,
    NetworkName,
    Workers,
    check_inputs,
    open_folder,
)
from captum_deconv.cli.options import AtATime, DeviceName, WeightsName, write_figure, write_json

if TYPE_CHECKING:
    from captum_deconv.experiments import Diagnosis


def diagnose(
    data: DataFolder,
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            "-o",
            metavar="FOLDER",
            help="Gets diagnosis.json and the page diagnosis.png and .pdf.",
        ),
    ],
    model: NetworkName = "embedded",
    weights: WeightsName = "DEFAULT",
    layers: Annotated[
        str | None,
        typer.Option(
            metavar="PATH,...",
            help="Layers of activations and convolutions to look at; all where left out.",
        ),
    ] = None,
    batch_size: AtATime = 16,
    workers: Workers = 0,
    device: DeviceName = "auto",
) -> None:
    """Tell by its features what is wrong with a network, and what people do about it.

    Dead and saturated channels, channels that fire on borders only, rectifiers that never cut,
    filters that are near copies, frequencies that the first layer leaves out, and the grid that a
    large stride leaves in projections.

    [bold]Examples[/bold]

      captum-deconv diagnose --data photographs --out report
      captum-deconv diagnose -m alexnet --data imagenet/val --layers features.1,features.4 -o report
    """
    from captum_deconv.drawing.files import make_folder

    check_inputs(model, weights, data, device, [])
    make_folder(out)

    from captum_deconv import experiments
    from captum_deconv.experiments.diagnosis_figure import draw_diagnosis
    from captum_deconv.gallery.files import describe

    loaded = load(model, weights, device)
    dataset = open_folder(data, loaded)
    found = experiments.diagnose(
        loaded.model,
        dataset,
        layers=None if layers is None else [layer.strip() for layer in layers.split(",")],
        batch_size=batch_size,
        workers=workers,
    )
    _print(found)
    about = describe(loaded, f"{len(dataset)} images of {dataset.root.resolve().name}")
    for name in ("diagnosis.png", "diagnosis.pdf"):
        write_figure(draw_diagnosis(found, about=about), out / name)
    record = {"model": loaded.name, "weights": loaded.weights, **found.to_dict()}
    write_json(record, out / "diagnosis.json")


def _print(found: Diagnosis) -> None:
    """Print a table of the layers with a fault, then each finding and what people do about it."""
    faults = ("dead", "saturated", "border", "uncut", "copies")
    rows = [layer for layer in (*found.layers, *found.filters) if any(layer.faults.values())]
    if rows:
        typer.echo(f"{'layer':40} {'channels':>8} {' '.join(f'{fault:>9}' for fault in faults)}")
    for layer in rows:
        counts = [
            f"{len(layer.faults[fault]) if fault in layer.faults else '-':>9}" for fault in faults
        ]
        typer.echo(f"{layer.name:40} {layer.count:8} {' '.join(counts)}")
    for finding in found.findings:
        typer.echo(f"\n{finding.fault}, {finding.layer}: {finding.sentence}")
        typer.echo(textwrap.fill(f"What people do: {finding.advice}", 100, subsequent_indent="  "))
    if not found.findings:
        typer.echo("no finding")
    for note in found.notes:
        typer.echo(f"note: {note}")

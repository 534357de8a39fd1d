"""What ``scan``, ``gallery`` and ``features`` share: their options, and their steps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from captum_deconv.cli.console import print_line
from captum_deconv.cli.options import RuleName, check_network

if TYPE_CHECKING:
    from captum_deconv.features import ActivationIndex, Process
    from captum_deconv.sources.datasets import ImageFiles
    from captum_deconv.sources.models import LoadedModel


class SeedName(str, Enum):
    """What ``--seed`` takes."""

    activation = "activation"
    one = "one"


NetworkName = Annotated[
    str,
    typer.Option(
        "--model",
        "-m",
        help="embedded (a small trained network that comes along), a torchvision model (vgg16, "
        "...), timm/NAME for one of timm's, efficientnet-lite0, or package.module:factory for a "
        "network of your own.",
        show_default=True,
    ),
]
LayerNames = Annotated[
    list[str],
    typer.Option(
        "--layer",
        "-l",
        metavar="PATH",
        help="A layer's dotted name, such as features.15; may be given more than once.",
    ),
]
DataFolder = Annotated[
    Path,
    typer.Option(
        "--data",
        metavar="FOLDER",
        help="Images, in this folder and those below it; each is prepared as the network asks.",
    ),
]
Channels = Annotated[
    str,
    typer.Option(
        metavar="LIST",
        help="Which channels: all, or numbers and ranges such as 0,5,10-20.",
    ),
]
Methods = Annotated[
    list[RuleName] | None,
    typer.Option(
        metavar="METHOD",
        help="deconvnet (so if left out), guided_backprop, input_gradient or all; may be given "
        "more than once, to stand side by side.",
    ),
]
Seeds = Annotated[
    SeedName,
    typer.Option(help="What a projection starts from: the activation, as in the paper, or one."),
]
Top = Annotated[int, typer.Option(min=1, metavar="K", help="Images to keep for each channel.")]
BatchSize = Annotated[
    int,
    typer.Option(min=1, metavar="N", help="Images computed at a time. It belongs to the index."),
]
Workers = Annotated[
    int, typer.Option(min=0, metavar="N", help="Processes that read images; 0 for a thread.")
]
Checkpoint = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Keeps what was found so far: the same command, started again after it was "
        "killed, goes on from there.",
    ),
]
Fast = Annotated[
    bool,
    typer.Option(
        "--fast",
        help="Work with a faster copy of the network (batch norms folded, channels-last) and say "
        "how far that is from the network itself.",
    ),
]
ScanDevice = Annotated[
    str, typer.Option("--device", help="auto, cpu, cuda or cuda:N; auto gives each process a GPU.")
]


def check_inputs(model: str, weights: str, data: Path, device: str, layers: Sequence[str]) -> None:
    """Find out before torch is loaded whether what is to be scanned can be meant."""
    from captum_deconv.sources.images import check_is_folder

    check_network(model, weights, device)
    check_is_folder(data)
    if len(set(layers)) < len(layers):
        raise typer.BadParameter(f"--layer names one twice: {', '.join(layers)}")


def check_checkpoint(checkpoint: Path | None, out: Path) -> None:
    """Find out before the work whether the checkpoint can be written."""
    from captum_deconv.drawing.files import OutputError, check_output

    if checkpoint is None:
        return
    check_output(checkpoint, (checkpoint.suffix.lower(),))
    if checkpoint.resolve() == out.resolve():
        raise OutputError(f"{checkpoint}: the checkpoint and the index need a name each")


@contextmanager
def join(device: str) -> Iterator[Process]:
    """Join the processes that torchrun started, if it did."""
    from captum_deconv import features
    from captum_deconv.sources.models import choose_device

    with features.processes(None if device == "auto" else choose_device(device)) as process:
        yield process


def load_network(model: str, weights: str, layers: Sequence[str], process: Process) -> LoadedModel:
    """Load a network that has the layers; the first process prints what its user should know."""
    from captum_deconv.sources.models import find_layer, load_model

    loaded = load_model(model, weights, process.device)
    for layer in layers:
        find_layer(loaded.model, layer)
    if process.rank == 0:
        for note in loaded.notes:
            print_line("note", note)
    return loaded


def open_folder(data: Path, loaded: LoadedModel) -> ImageFiles:
    """Open a folder of images as a data set of what the network takes."""
    from captum_deconv.sources.datasets import ImageFiles

    return ImageFiles(data, loaded.preprocess)


def scan_folder(
    process: Process,
    model: str,
    weights: str,
    layers: Sequence[str],
    data: Path,
    out: Path,
    *,
    top: int,
    batch_size: int,
    workers: int,
    checkpoint: Path | None,
    strict: bool,
    fast: bool,
) -> tuple[LoadedModel, ImageFiles, ActivationIndex]:
    """Scan a folder of images; the first process writes the index and says what was found."""
    from captum_deconv import features

    loaded = load_network(model, weights, layers, process)
    dataset = open_folder(data, loaded)
    index = features.scan(
        loaded.model,
        layers,
        dataset,
        k=top,
        batch_size=batch_size,
        num_workers=workers,
        checkpoint=checkpoint,
        strict=strict,
        fast=fast,
        progress=process.rank == 0,
    )
    if process.rank == 0:
        index.save(out)
        _say_scanned(index, out)
    return loaded, dataset, index


def _say_scanned(index: ActivationIndex, path: Path) -> None:
    length = index.metadata["dataset"]["length"]
    skipped = f", {len(index.skipped)} of them unreadable" if index.skipped else ""
    typer.echo(f"scanned: {length} images{skipped}")
    for layer in index.layers:
        dead = int((index.values[layer] <= 0).all(dim=1).sum())
        difference = index.metadata.get("fast", {}).get(layer)
        told = "" if difference is None else f", on the first batch within {difference:.1e}"
        typer.echo(f"  {layer}: {len(index.values[layer])} channels, {dead} never above zero{told}")
    if "fast" in index.metadata:
        typer.echo(f"precision: {index.metadata['precision']}")
    typer.echo(f"index: {path}")


def show(
    loaded: LoadedModel,
    index: ActivationIndex,
    dataset: Any,
    folder: Path,
    layer: str,
    channels: list[int] | None,
    methods: list[str],
    seed: SeedName,
    workers: int,
    fast: bool,
) -> None:
    """Write a layer's page and contact sheets, and print where they are."""
    from captum_deconv.gallery.files import describe, show_layer

    exhibit = show_layer(
        loaded,
        index,
        dataset,
        folder,
        layer=layer,
        channels=channels,
        methods=methods,
        seed=cast(Any, seed.value),
        workers=workers,
        fast=fast,
        about=describe(loaded, f"{len(dataset)} images of {dataset.root.resolve().name}"),
    )
    for sheet in exhibit.sheets:
        typer.echo(f"sheet: {sheet}")
    typer.echo(f"page: {exhibit.page}")

"""``scan``, ``gallery`` and ``features``: what excites a layer's feature maps, as files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from captum_deconv.console import print_line

if TYPE_CHECKING:
    from captum_deconv.datasets import ImageFiles
    from captum_deconv.features import ActivationIndex, Process
    from captum_deconv.models import LoadedModel

INDEX = "index.safetensors"


class Projection(str, Enum):
    """What ``--method`` takes."""

    all = "all"
    input_gradient = "input_gradient"
    guided_backprop = "guided_backprop"
    deconvnet = "deconvnet"


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
        "...), efficientnet-lite0, or package.module:factory for a network of your own.",
        show_default=True,
    ),
]
WeightsName = Annotated[
    str,
    typer.Option(
        "--weights",
        "-w",
        help="DEFAULT (the trained ones), none (random, seeded) or a FILE, as for attribute.",
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
    list[Projection] | None,
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
    int, typer.Option(min=0, metavar="N", help="Processes that read images; 0 reads in this one.")
]
Checkpoint = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Keeps what was found so far: the same command, started again after it was "
        "killed, goes on from there.",
    ),
]
Strict = Annotated[
    bool, typer.Option("--strict", help="Stop at an image that cannot be read; else skip it.")
]
ScanDevice = Annotated[
    str, typer.Option("--device", help="auto, cpu, cuda or cuda:N; auto gives each process a GPU.")
]


def scan(
    layer: LayerNames,
    data: DataFolder,
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="INDEX.safetensors", help="The index.")
    ],
    model: NetworkName = "embedded",
    weights: WeightsName = "DEFAULT",
    top: Top = 9,
    batch_size: BatchSize = 32,
    workers: Workers = 0,
    device: ScanDevice = "auto",
    checkpoint: Checkpoint = None,
    strict: Strict = False,
) -> None:
    """Find the images that excite each channel of some layers most.

    The index that it writes is what the command gallery makes pictures from.

    [bold]Examples[/bold]

      Two layers of the network that comes along, over a folder of photographs:
        captum-deconv scan -l relu2 -l relu3 --data photographs -o index.safetensors

      A long scan, which goes on where it was if it is killed and started again:
        captum-deconv scan -m vgg16 -l features.29 --data imagenet/val --workers 8 --checkpoint
        part.ckpt -o vgg.safetensors

      The same on eight GPUs, with the same result:
        torchrun --nproc-per-node 8 -m captum_deconv scan -m vgg16 -l features.29
        --data imagenet/val --workers 8 --checkpoint part.ckpt -o vgg.safetensors
    """
    from captum_deconv.results import check_output

    check_output(out, (".safetensors",))
    _check_checkpoint(checkpoint, out)
    with _join(device) as process:
        loaded = _load(model, weights, layer, process)
        dataset = _open(data, loaded)
        index = _scan(loaded, dataset, layer, process, top, batch_size, workers, checkpoint, strict)
        if process.rank == 0:
            index.save(out)
            _say_scanned(index, out)


def gallery(
    index: Annotated[Path, typer.Argument(metavar="INDEX", help="What the command scan wrote.")],
    data: DataFolder,
    out: Annotated[
        Path,
        typer.Option(
            "--out", "-o", metavar="FOLDER", help="Gets index.html, sheet.png and sheet.pdf."
        ),
    ],
    model: NetworkName = "embedded",
    weights: WeightsName = "DEFAULT",
    layer: Annotated[
        str | None,
        typer.Option(
            "--layer", "-l", metavar="PATH", help="Needed where the index holds several layers."
        ),
    ] = None,
    channels: Channels = "all",
    method: Methods = None,
    seed: Seeds = SeedName.activation,
    workers: Workers = 0,
    device: ScanDevice = "auto",
) -> None:
    """Project what excites a layer's channels back to pixels: a page and a contact sheet.

    Model, weights and data must be those of the scan; the index knows them.

    [bold]Examples[/bold]

      captum-deconv gallery index.safetensors -l relu2 --data photographs -o relu2
      captum-deconv gallery vgg.safetensors -m vgg16 --data imagenet/val --channels 0,5,10-20
        --method deconvnet --method guided_backprop -o features29
    """
    from captum_deconv.exhibition import choose_layer, parse_channels
    from captum_deconv.features import ActivationIndex
    from captum_deconv.results import make_folder

    wanted = parse_channels(channels)
    found = ActivationIndex.load(index)
    name = choose_layer(found, layer)
    make_folder(out)
    _refuse_several_processes()
    with _join(device) as process:
        loaded = _load(model, weights, [name], process)
        dataset = _open(data, loaded)
        _show(loaded, found, dataset, out, name, wanted, _spell_out(method), seed, workers)


def features(
    layer: LayerNames,
    data: DataFolder,
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            "-o",
            metavar="FOLDER",
            help="Gets the index, and page and sheets, of several layers in a folder each.",
        ),
    ],
    model: NetworkName = "embedded",
    weights: WeightsName = "DEFAULT",
    channels: Channels = "all",
    method: Methods = None,
    seed: Seeds = SeedName.activation,
    top: Top = 9,
    batch_size: BatchSize = 32,
    workers: Workers = 0,
    device: ScanDevice = "auto",
    checkpoint: Checkpoint = None,
    strict: Strict = False,
) -> None:
    """Show what excites a layer's feature maps: scan and gallery in one.

    [bold]Examples[/bold]

      captum-deconv features -l relu2 --data photographs -o relu2
      captum-deconv features -m vgg16 -l features.15 --data photographs --channels 0-31
        --method deconvnet --method guided_backprop --top 9 -o vgg
    """
    from captum_deconv.exhibition import parse_channels
    from captum_deconv.results import make_folder

    wanted = parse_channels(channels)
    make_folder(out)
    _check_checkpoint(checkpoint, out / INDEX)
    with _join(device) as process:
        loaded = _load(model, weights, layer, process)
        dataset = _open(data, loaded)
        index = _scan(loaded, dataset, layer, process, top, batch_size, workers, checkpoint, strict)
        if process.rank != 0:
            return
        index.save(out / INDEX)
        _say_scanned(index, out / INDEX)
        for name in layer:
            folder = out if len(layer) == 1 else out / name
            _show(loaded, index, dataset, folder, name, wanted, _spell_out(method), seed, workers)


def _check_checkpoint(checkpoint: Path | None, out: Path) -> None:
    from captum_deconv.results import OutputError, check_output

    if checkpoint is None:
        return
    check_output(checkpoint, (checkpoint.suffix.lower(),))
    if checkpoint.resolve() == out.resolve():
        raise OutputError(f"{checkpoint}: the checkpoint and the index need a name each")


def _refuse_several_processes() -> None:
    import os

    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise typer.BadParameter("gallery is for one process: start it without torchrun")


@contextmanager
def _join(device: str) -> Iterator[Process]:
    """Join the processes that torchrun started, if it did."""
    from captum_deconv import features as package
    from captum_deconv.models import choose_device

    with package.processes(None if device == "auto" else choose_device(device)) as process:
        yield process


def _load(model: str, weights: str, layers: Sequence[str], process: Process) -> LoadedModel:
    from captum_deconv.models import find_layer, load_model

    if len(set(layers)) < len(layers):
        raise typer.BadParameter(f"--layer names one twice: {', '.join(layers)}")
    loaded = load_model(model, weights, process.device)
    for layer in layers:
        find_layer(loaded.model, layer)
    if process.rank == 0:
        for note in loaded.notes:
            print_line("note", note)
    return loaded


def _open(data: Path, loaded: LoadedModel) -> ImageFiles:
    from captum_deconv.datasets import ImageFiles

    return ImageFiles(data, loaded.preprocess)


def _scan(
    loaded: LoadedModel,
    dataset: ImageFiles,
    layers: Sequence[str],
    process: Process,
    top: int,
    batch_size: int,
    workers: int,
    checkpoint: Path | None,
    strict: bool,
) -> ActivationIndex:
    from captum_deconv import features as package

    return package.scan(
        loaded.model,
        layers,
        dataset,
        k=top,
        batch_size=batch_size,
        num_workers=workers,
        checkpoint=checkpoint,
        strict=strict,
        progress=process.rank == 0,
    )


def _say_scanned(index: ActivationIndex, path: Path) -> None:
    length = index.metadata["dataset"]["length"]
    skipped = f", {len(index.skipped)} of them unreadable" if index.skipped else ""
    typer.echo(f"scanned: {length} images{skipped}")
    for layer in index.layers:
        dead = int((index.values[layer] <= 0).all(dim=1).sum())
        typer.echo(f"  {layer}: {len(index.values[layer])} channels, {dead} never above zero")
    typer.echo(f"index: {path}")


def _spell_out(methods: Sequence[Projection] | None) -> list[str]:
    from captum_deconv.question import METHODS

    names: list[str] = []
    for method in methods or [Projection.deconvnet]:
        names += METHODS if method is Projection.all else (method.value,)
    return list(dict.fromkeys(names))


def _show(
    loaded: LoadedModel,
    index: ActivationIndex,
    dataset: Any,
    folder: Path,
    layer: str,
    channels: list[int] | None,
    methods: list[str],
    seed: SeedName,
    workers: int,
) -> None:
    from captum_deconv.exhibition import describe, show_layer

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
        about=describe(loaded, f"{len(dataset)} images of {dataset.root.resolve().name}"),
    )
    for sheet in exhibit.sheets:
        typer.echo(f"sheet: {sheet}")
    typer.echo(f"page: {exhibit.page}")

"""``collect``: the attributions of many photographs, kept for what comes later."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from captum_deconv.cli.feature_maps import Fast, ScanDevice, Workers, join, load_network
from captum_deconv.cli.options import (
    IMAGES,
    AtATime,
    ModelName,
    RuleName,
    Strict,
    WeightsName,
    check_network,
    spell_out,
)

if TYPE_CHECKING:
    from captum_deconv.collection import Collection
    from captum_deconv.sources.datasets import ImageFiles
    from captum_deconv.sources.models import LoadedModel


class Precision(str, Enum):
    """What ``--dtype`` takes."""

    float16 = "float16"
    bfloat16 = "bfloat16"
    float32 = "float32"


def collect(
    images: Annotated[
        str,
        typer.Argument(metavar="FOLDER", help=IMAGES),
    ],
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="FOLDER", help="Gets the collection.")
    ],
    model: ModelName = "resnet50",
    weights: WeightsName = "DEFAULT",
    method: Annotated[
        list[RuleName] | None,
        typer.Option(
            metavar="METHOD",
            help="all (so if left out), input_gradient, guided_backprop or deconvnet; may be given "
            "more than once.",
        ),
    ] = None,
    target: Annotated[
        str,
        typer.Option(
            "--target",
            "-t",
            metavar="predicted|label|INT|NAME",
            help="The class to explain: the likeliest, that of the image's folder (by its name, or "
            "by its number where there is one for each class), or one for all.",
        ),
    ] = "predicted",
    layer: Annotated[
        str | None,
        typer.Option(metavar="PATH", help="A layer's dotted name, to explain a neuron of it."),
    ] = None,
    neuron: Annotated[
        str | None,
        typer.Option(
            metavar="CHANNEL[:Y:X]|strongest",
            help="Of --layer: at a place, where its channel is strongest, or the strongest of all.",
        ),
    ] = None,
    dtype: Annotated[Precision, typer.Option(help="What is kept.")] = Precision.float16,
    reduce: Annotated[
        list[str] | None,
        typer.Option(
            metavar="sum|abs_max|SIZE",
            help="Keep less: the sum or the largest magnitude over channels, or averages on a grid "
            "of this size; may be given more than once, in order.",
        ),
    ] = None,
    batch_size: AtATime = 32,
    workers: Workers = 0,
    device: ScanDevice = "auto",
    strict: Strict = False,
    fast: Fast = False,
    pictures: Annotated[
        bool,
        typer.Option("--pictures", help="Draw them, too, and write a page that shows them."),
    ] = False,
) -> None:
    """Attribute many photographs, and keep the attributions.

    The same command, started again after it was killed, goes on from there. What it writes is read
    by captum_deconv.Collection.open, or by anything that reads safetensors.

    [bold]Examples[/bold]

      Three methods, the likeliest class of each photograph:
        captum-deconv collect photographs --model resnet50 --out attributions

      Less to keep: one value for each 4 x 4 pixels:
        captum-deconv collect photographs --reduce sum --reduce 56 -o small

      A page to look at them, attributions/index.html:
        captum-deconv collect photographs --out attributions --pictures

      On eight GPUs:
        torchrun --nproc-per-node 8 -m captum_deconv collect imagenet/val -t label -o kept
    """
    from captum_deconv.explain.question import QuestionError, parse_neurons

    check_network(model, weights, device)
    if (layer is None) != (neuron is None):
        raise QuestionError("a neuron needs its layer, and a layer a neuron: give both or neither")
    neurons = [] if neuron is None else parse_neurons(neuron)
    if len(neurons) > 1:
        raise QuestionError("a collection is of one neuron for each image: give one")
    methods = spell_out(method, RuleName.all)
    steps = tuple(_read_step(step) for step in reduce or ())

    import torch

    from captum_deconv.collection import collect as collect_data
    from captum_deconv.sources.datasets import ImageFiles, Labelled

    with join(device) as process:
        loaded = load_network(model, weights, [layer] if layer else [], process)
        files = ImageFiles(images, loaded.preprocess)
        labels = files.find_labels(loaded.categories)
        if target == "label" and labels is None:
            raise typer.BadParameter(
                f"--target label needs a folder for each class right below {files.root}, named as "
                f"the network names it, or as many folders as it has classes"
            )
        kept = collect_data(
            loaded.model,
            files if labels is None else Labelled(files, labels),
            out,
            methods=list(dict.fromkeys(methods)),
            target=_find_target(target, loaded),
            layer=layer,
            neuron=_as_neuron(*neurons[0]) if neurons else None,
            batch_size=batch_size,
            num_workers=workers,
            dtype=getattr(torch, dtype.value),
            reduce=steps or None,
            strict=strict,
            fast=fast,
            progress=process.rank == 0,
        )
        if process.rank == 0 and kept is not None:
            typer.echo(f"collected: {len(kept)} images, {', '.join(kept.methods)}")
            if kept.fast is not None:
                typer.echo(f"the first batch is off by {kept.fast:.1e} of its largest attribution")
            typer.echo(f"collection: {out}")
            if pictures:
                typer.echo(f"page: {_draw(kept, files, loaded)}")


def _draw(kept: Collection, files: ImageFiles, loaded: LoadedModel) -> Path:
    from captum_deconv.collection.pictures import write_pictures
    from captum_deconv.features.progress import show_progress

    with show_progress(len(kept), 0, shown=True, what="draw") as advance:
        return write_pictures(
            kept,
            (loaded.restore(files[row]) for row in kept.rows),
            kept.folder,
            title=f"{loaded.name} on {files.root.resolve().name}",
            categories=loaded.categories,
            report=advance,
        )


def _read_step(text: str) -> str | int:
    if text in ("sum", "abs_max"):
        return text
    if text.isdecimal() and int(text) > 0:
        return int(text)
    raise typer.BadParameter(f"--reduce is sum, abs_max or a size, not {text!r}")


def _find_target(text: str, loaded: LoadedModel) -> Any:
    from captum_deconv.explain.question import find_target

    if text in ("predicted", "label"):
        return text
    try:
        return int(text)
    except ValueError:
        import torch

        return find_target(text, loaded.categories, torch.zeros(len(loaded.categories or ())))


def _as_neuron(channel: int | None, place: tuple[int, ...]) -> str | int | tuple[int, ...]:
    if channel is None:
        return "strongest"
    return (channel, *place) if place else channel

"""``attribute``: pictures and numbers of photographs."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from captum_deconv.cli.console import print_line, track
from captum_deconv.cli.options import (
    Activations,
    ActivationsOption,
    DeviceName,
    ModelName,
    WeightsName,
    check_network,
)

if TYPE_CHECKING:
    from captum_deconv.explain.question import Question
    from captum_deconv.explain.results import Result
    from captum_deconv.sources.images import Photograph
    from captum_deconv.sources.models import LoadedModel


class Method(str, Enum):
    """What ``--method`` takes."""

    all = "all"
    input_gradient = "input_gradient"
    guided_backprop = "guided_backprop"
    deconvnet = "deconvnet"
    guided_gradcam = "guided_gradcam"


class Uncovered(str, Enum):
    """What ``--uncovered`` takes."""

    warn = "warn"
    raise_ = "raise"
    ignore = "ignore"


def attribute(
    images: Annotated[
        list[Path],
        typer.Argument(
            metavar="IMAGE...", help="Photographs in any common format, or folders of them."
        ),
    ],
    model: ModelName = "resnet50",
    weights: WeightsName = "DEFAULT",
    method: Annotated[
        list[Method] | None,
        typer.Option(
            metavar="METHOD",
            help="all, input_gradient, guided_backprop, deconvnet or guided_gradcam; may be given "
            "more than once. all (so if left out) is the three rules, and guided_gradcam too where "
            "a layer is given without a neuron.",
        ),
    ] = None,
    target: Annotated[
        str | None,
        typer.Option(
            "--target",
            "-t",
            metavar="auto|INT|LABEL|topN",
            help="The class to explain: auto (the likeliest; so if left out), its number, or any "
            "part of its name that no other class has. Several with commas between, or the N "
            "likeliest, have a row each.",
        ),
    ] = None,
    layer: Annotated[
        str | None,
        typer.Option(metavar="PATH", help="A layer's dotted name, such as layer4.1.relu."),
    ] = None,
    neuron: Annotated[
        str | None,
        typer.Option(
            metavar="CHANNEL[:Y:X]|FIRST-LAST|strongest",
            help="A neuron of --layer to explain in place of a class: at a place, where its "
            "channel is strongest, or the strongest of all. Several with commas between, or a "
            "range of channels, have a row each.",
        ),
    ] = None,
    device: DeviceName = "auto",
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="PICTURE", help="The figure: .png, .pdf or .svg."),
    ] = None,
    save: Annotated[
        Path | None,
        typer.Option(
            "--save",
            "-s",
            metavar="FILE.safetensors",
            help="The numbers: a tensor (N, C, H, W) per method, and a record of where from.",
        ),
    ] = None,
    activations: ActivationsOption = Activations.relu,
    uncovered: Annotated[
        Uncovered, typer.Option(help="What to do about nonlinearities that no rule applies to.")
    ] = Uncovered.warn,
) -> None:
    """Attribute a class, or a neuron, to the pixels of photographs.

    [bold]Examples[/bold]

      The likeliest class of a photograph, by all three methods:
        captum-deconv attribute cat.jpg --model resnet50 --out cat.pdf

      A class of your choice, by one method, as numbers:
        captum-deconv attribute cat.jpg -t tabby --method deconvnet -s t.safetensors

      The strongest neuron of a layer, and one channel where it is strongest:
        captum-deconv attribute cat.jpg --layer layer2 --neuron strongest -o a.png
        captum-deconv attribute cat.jpg --layer layer2 --neuron 42 -o b.png

      The five likeliest classes, and sixteen channels, a row for each:
        captum-deconv attribute cat.jpg -t top5 -o top.png
        captum-deconv attribute cat.jpg --layer layer2 --neuron 0-15 -o c.png

      A network and weights of your own:
        captum-deconv attribute *.png -m my.nets:build -w my.safetensors -o d.png
    """
    from captum_deconv.explain.question import Question
    from captum_deconv.sources.images import find_images, read_image

    question = Question(
        methods=tuple(m.value for m in method or [Method.all]),
        target=target,
        layer=layer,
        neuron=neuron,
        activations=cast(Any, activations.value),
        uncovered=cast(Any, uncovered.value),
    )
    check_network(model, weights, device)
    images = [file for path in images for file in (find_images(path) if path.is_dir() else [path])]
    _check_outputs(images, question, out, save)
    photographs = [read_image(path) for path in images]
    loaded = load(model, weights, device)
    results = explain(loaded, photographs, question, one_size=save is not None)
    print_results(results)
    write(loaded, results, question, out, save)


def load(model: str, weights: str, device: str) -> LoadedModel:
    """Load a network, and print what its user should know; as ``models.load_model``."""
    from captum_deconv.sources.models import choose_device, load_model

    loaded = load_model(model, weights, choose_device(device))
    for note in loaded.notes:
        print_line("note", note)
    return loaded


def _check_outputs(
    images: Sequence[Path], question: Question, out: Path | None, save: Path | None
) -> None:
    from captum_deconv.drawing.figures import PICTURES
    from captum_deconv.drawing.files import check_output
    from captum_deconv.explain.figure import MOST_ROWS

    if out is None and save is None:
        raise typer.BadParameter("there is nowhere to put the result: give --out, --save or both")
    if out is not None:
        check_output(out, PICTURES, keep=images)
        each = question.count()
        if len(images) * each > MOST_ROWS:
            asked = f"{len(images)} images" + f" with {each} rows each" * (each > 1)
            raise typer.BadParameter(
                f"a picture holds at most {MOST_ROWS} rows, one for each class or neuron of each "
                f"image, not {asked}: give fewer, or --save alone"
            )
    if save is not None:
        check_output(save, (".safetensors",), keep=images)


def explain(
    loaded: LoadedModel,
    photographs: Sequence[Photograph],
    question: Question,
    one_size: bool = True,
) -> list[Result]:
    """Attribute each photograph, under a bar; as ``explain.answer.explain_image``."""
    from captum_deconv.explain.answer import explain_image, prepare_inputs

    inputs = prepare_inputs(loaded, photographs, one_size)
    results: list[Result] = []
    with track(len(photographs)) as advance:
        for photograph, tensor in zip(photographs, inputs, strict=True):
            results += explain_image(loaded, photograph, tensor, question)
            advance()
    return results


def print_results(results: Sequence[Result]) -> None:
    """Print what the network saw in each photograph and what was attributed."""
    shown = None
    for result in results:
        if result.inputs is not shown:
            shown = result.inputs
            for note in result.notes:
                print_line("note", f"{result.name}: {note}")
            typer.echo(result.name)
            for score in result.top:
                typer.echo(f"  {score.probability:7.2%}  {score.index:5d}  {score.label}")
        if result.target is not None:
            target = result.target
            typer.echo(f"  target: {target.label} ({target.index}), {target.probability:.2%}")
        if result.neuron is not None:
            neuron = result.neuron
            place = ":".join(map(str, (neuron.channel, *neuron.place)))
            typer.echo(f"  neuron: {place} of {neuron.layer}, activation {neuron.activation:.4g}")


def write(
    loaded: LoadedModel,
    results: Sequence[Result],
    question: Question,
    out: Path | None,
    save: Path | None,
) -> None:
    """Write the figure and the numbers, where they are wanted, and print where they are."""
    from captum_deconv.drawing.figures import save_figure
    from captum_deconv.explain.answer import describe_run
    from captum_deconv.explain.figure import describe_result, plot_attributions
    from captum_deconv.explain.results import save_results

    if save is not None:
        save_results(results, save, describe_run(loaded, question))
        typer.echo(f"tensors: {save}")
    if out is not None:
        figure = plot_attributions([describe_result(result) for result in results])
        save_figure(figure, out)
        typer.echo(f"picture: {out}")

"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Activations(str, Enum):
    """What ``--activations`` takes."""

    relu = "relu"
    leaky = "leaky"
    all = "all"


class RuleName(str, Enum):
    """What ``--method`` takes."""

    all = "all"
    input_gradient = "input_gradient"
    guided_backprop = "guided_backprop"
    deconvnet = "deconvnet"


def spell_out(methods: Sequence[RuleName] | None, *otherwise: RuleName) -> list[str]:
    """Return the methods' names, with ``all`` spelled out; ``otherwise`` where none was given."""
    from captum_deconv.explain.question import METHODS

    names: list[str] = []
    for method in methods or otherwise:
        names += METHODS if method is RuleName.all else (method.value,)
    return list(dict.fromkeys(names))


ModelName = Annotated[
    str,
    typer.Option(
        "--model",
        "-m",
        help="A torchvision model (resnet50, vgg16, ...), timm/NAME for one of timm's, "
        "efficientnet-lite0, embedded (a small one that ships), or package.module:factory for a "
        "network of your own.",
        show_default=True,
    ),
]
WeightsName = Annotated[
    str,
    typer.Option(
        "--weights",
        "-w",
        help="DEFAULT (the trained ones), none (random, seeded) or a FILE: .safetensors, or a "
        "state dict saved by torch.save. No pickle is executed.",
    ),
]
IMAGES = (
    "Images, in this folder and those below it; or a pattern in quotes; or a .txt with a path on "
    "each line."
)
"""The help of what takes folders, patterns and lists of photographs."""

TrueClass = Annotated[
    str | None,
    typer.Option(
        "--target",
        "-t",
        metavar="auto|INT|LABEL",
        help="The true class: its number or name; each photograph's likeliest where left out.",
    ),
]
AtATime = Annotated[int, typer.Option(min=1, metavar="N", help="Images computed at a time.")]
Strict = Annotated[
    bool, typer.Option("--strict", help="Stop at an image that cannot be read; else skip it.")
]
ActivationsOption = Annotated[
    Activations,
    typer.Option(help="What the rules apply to: ReLUs, leaky ones too, or smooth ones too."),
]
DeviceName = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]

PictureOut = Annotated[
    Path, typer.Option("--out", "-o", metavar="PICTURE", help="The figure: .png, .pdf or .svg.")
]
Json = Annotated[Path | None, typer.Option("--json", metavar="FILE.json", help="The numbers, too.")]

_MOST_CHANNELS = 10**6  # more than any layer has; a range up to a typing error fills no memory


def parse_channels(text: str) -> list[int] | None:
    """Read channels as they are written on the command line.

    Args:
        text: ``all``, or numbers and ranges with both ends, such as ``0,5,10-20``.

    Returns:
        Their numbers, each once, in the order written; None for all.

    Raises:
        IndexError: If no layer has so many channels.
        BadParameter: If it is written otherwise.
    """
    if text.strip().lower() == "all":
        return None
    channels: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        ends = [first, last] if dash else [first, first]
        if not all(end.strip().isdecimal() for end in ends) or int(ends[0]) > int(ends[1]):
            raise typer.BadParameter(
                f"channels are `all`, or numbers and ranges such as 0,5,10-20, not {text!r}"
            )
        if int(ends[1]) >= _MOST_CHANNELS:
            raise IndexError(f"channel {ends[1].strip()} is out of range: no layer has so many")
        channels += range(int(ends[0]), int(ends[1]) + 1)
    return list(dict.fromkeys(channels))


def check_network(model: str | None, weights: str, device: str) -> None:
    """Find out before torch is loaded whether a network, weights and a device can be meant.

    Args:
        model: As for ``--model``; None where none was asked for.
        weights: As for ``--weights``.
        device: As for ``--device``.

    Raises:
        UnknownNameError: If no network, or no device, has this name.
        ModelError: If the network is one that cannot be attributed.
        WeightsError: If there is no such file of weights.
    """
    from captum_deconv.sources.names import check_device, check_model, check_weights

    if model is not None:
        check_model(model)
    check_weights(weights)
    check_device(device)


def check_results(out: Path, json: Path | None, keep: Sequence[Path] = ()) -> None:
    """Find out before the work whether a figure, and numbers where wanted, can be written.

    Args:
        out: The figure.
        json: The numbers; None where they are not wanted.
        keep: Files that neither may be.

    Raises:
        OutputError: If one cannot.
    """
    from captum_deconv.drawing.figures import PICTURES
    from captum_deconv.drawing.files import check_output

    check_output(out, PICTURES, keep=keep)
    if json is not None:
        check_output(json, (".json",), keep=keep)


def write_figure(figure: Figure, out: Path) -> None:
    """Write a figure, and print where it is."""
    from captum_deconv.drawing.figures import save_figure

    save_figure(figure, out)
    typer.echo(f"picture: {out}")


def write_json(numbers: Mapping[str, Any], path: Path | None) -> None:
    """Write numbers, where they are wanted, and print where they are."""
    import json

    from captum_deconv.drawing.files import replace_file

    if path is None:
        return
    with replace_file(path) as temporary:
        temporary.write_text(json.dumps(numbers, indent=1) + "\n", encoding="utf-8")
    typer.echo(f"numbers: {path}")

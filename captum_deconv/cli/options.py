"""Options that several commands share."""

from __future__ import annotations

from enum import Enum
from typing import Annotated

import typer


class Activations(str, Enum):
    """What ``--activations`` takes."""

    relu = "relu"
    leaky = "leaky"
    all = "all"


ModelName = Annotated[
    str,
    typer.Option(
        "--model",
        "-m",
        help="A torchvision model (resnet50, vgg16, ...), efficientnet-lite0, embedded (a small "
        "one that ships), or package.module:factory for a network of your own.",
        show_default=True,
    ),
]
ActivationsOption = Annotated[
    Activations,
    typer.Option(help="What the rules apply to: ReLUs, leaky ones too, or smooth ones too."),
]
DeviceName = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]

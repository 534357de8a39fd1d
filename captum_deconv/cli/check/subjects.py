"""Make a layer of what was typed, and give a network an input of the right shape.

Example:
    >>> describe_convolution("in=3,out=8,kernel=3,stride=2", (16, 16)).model
    Conv2d(3, 8, kernel_size=(3, 3), stride=(2, 2), bias=False)
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from captum_deconv.adjoint.geometry import SUPPORTED, AnyConvolution, describe
from captum_deconv.cli.check.typed import DEFAULT_SIZES, Size, read_convolution, spread_size
from captum_deconv.explain.question import QuestionError
from captum_deconv.sources.models import LoadedModel
from captum_deconv.sources.names import ModelError

FRAMES = 16
"""Of a clip, as torchvision's video networks were trained on."""
_MOST_VALUES = 2**28  # of a weight or a map; 2 GiB in float64


@dataclass(frozen=True)
class Subject:
    """What is to be checked: a network or a single layer, and what it is called with.

    ``name`` is how it was asked for, ``inputs`` its positional arguments.
    """

    name: str
    model: nn.Module
    inputs: tuple[Any, ...]

    @property
    def shape(self) -> Size:
        """The shape of the first input, with its batch axis."""
        given = self.inputs[0]
        return tuple(given.shape) if isinstance(given, Tensor) else (len(given), *given[0].shape)


def describe_convolution(
    text: str, size: Size | None = None, device: torch.device | str = "cpu"
) -> Subject:
    """Build the convolution that a text describes, with seeded random weights.

    Args:
        text: As for :func:`captum_deconv.cli.check.typed.read_convolution`.
        size: The spatial size of its input; one number stands for all axes.
        device: Where to put both.

    Returns:
        The layer without bias, and a random input.

    Raises:
        QuestionError: If the text cannot be read, or describes no convolution, or one that is too
            large, or that the size does not fit.
    """
    convolution = read_convolution(text)
    settings, dims = convolution.settings, convolution.dims
    weight = settings["in_channels"] * settings["out_channels"] * math.prod(settings["kernel_size"])
    _require_room("weight", weight // settings["groups"])
    family = nn.ConvTranspose2d if convolution.transposed else nn.Conv2d
    make = getattr(nn, family.__name__.replace("2", str(dims)))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        try:
            layer: nn.Module = make(**settings, bias=False)
        except (ValueError, RuntimeError) as error:
            raise QuestionError(f"--conv: no such convolution: {error}") from error
    whole = spread_size(size, dims) or DEFAULT_SIZES[dims]
    try:
        geometry = describe(layer, whole)
    except ValueError as error:
        raise QuestionError(f"--size: {error}") from error
    _require_room("input", math.prod(geometry.input_shape))
    _require_room("output", math.prod(geometry.output_shape))
    return Subject(text, layer.to(device), (_draw(geometry.input_shape).to(device),))


def describe_network(loaded: LoadedModel, size: Size | None = None) -> Subject:
    """Make a random input for a network, of the shape that its first layer takes.

    Args:
        loaded: The network.
        size: The spatial size, by default what its preprocessing gives; one number stands for
            height and width. A video network takes frames, height and width, or the last two.

    Returns:
        The network and its input: a batch of one, for a detector a list of one image.

    Raises:
        ModelError: If it has no convolution and no linear layer.
        QuestionError: If the size has another number of axes.
    """
    model = loaded.model
    first = next((part for part in model.modules() if isinstance(part, SUPPORTED)), None)
    if first is None:
        raise ModelError(f"{loaded.name} has no convolution and no linear layer to check")
    if isinstance(first, nn.Linear):
        if size is not None:
            raise QuestionError(f"{loaded.name} begins with a linear layer, so it takes no --size")
        shape: Size = (first.in_features,)
    else:
        layer = cast("AnyConvolution", first)
        side = getattr(loaded.preprocess, "crop_size", None) or (224, 224)
        usual = {1: (224,), 2: (int(side[0]), int(side[-1]))}
        dims = len(layer.kernel_size)
        if dims == 3 and (size is None or len(size) < 3):
            space = spread_size(size, 2) or usual[2]
            shape = (layer.in_channels, FRAMES, *space)
        else:
            shape = (layer.in_channels, *(spread_size(size, dims) or usual[dims]))
    _require_room("input", math.prod(shape))
    inputs = _draw(shape)
    weight = next((p for p in model.parameters() if p.is_floating_point()), None)
    if weight is not None:
        inputs = inputs.to(weight.device, weight.dtype)
    if ".detection." not in type(model).__module__:
        return Subject(loaded.name, model, (inputs,))
    heads: Any = getattr(model, "roi_heads", None)
    if heads is not None:
        # Random weights are sure of nothing, and the heads for masks and keypoints would see none.
        heads.score_thresh = 0.0
    return Subject(loaded.name, model, (list(inputs),))


def _draw(shape: Size) -> Tensor:
    return torch.rand(1, *shape, generator=torch.Generator().manual_seed(0))


def _require_room(what: str, count: int) -> None:
    if count > _MOST_VALUES:
        raise QuestionError(f"the {what} would have {count:,} values, more than {_MOST_VALUES:,}")

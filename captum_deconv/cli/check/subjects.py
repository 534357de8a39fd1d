"""What is to be checked, from how it is typed: a convolution in words, or a network's name.

    in=3,out=8,kernel=3,stride=2,padding=1

is what `nn.Conv2d(3, 8, 3, stride=2, padding=1)` is called on the command line.

Example:
    >>> describe_convolution("in=3,out=8,kernel=3,stride=2", (16, 16)).model
    Conv2d(3, 8, kernel_size=(3, 3), stride=(2, 2), bias=False)
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from captum_deconv.adjoint.geometry import SUPPORTED, AnyConvolution, describe
from captum_deconv.explain.question import QuestionError
from captum_deconv.sources.models import LoadedModel, ModelError
from captum_deconv.sources.names import suggest

Size = tuple[int, ...]

DEFAULT_SIZES: Mapping[int, Size] = {1: (256,), 2: (32, 32), 3: (8, 16, 16)}
"""By dimensions: large enough to see something, small enough for all singular values."""
FRAMES = 16
"""Of a clip, as torchvision's video networks were trained on."""
MODES = ("zeros", "reflect", "replicate", "circular")
_MOST_VALUES = 2**28  # of a weight or a map; 2 GiB in float64
_NUMBERS = {"in": 1, "out": 1, "groups": 1, "dims": 1}
_PER_AXIS = {"kernel": 1, "stride": 1, "padding": 0, "dilation": 1, "output_padding": 0}
_KEYS = (*_NUMBERS, *_PER_AXIS, "mode", "transposed")
_TRUTHS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


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


def parse_size(words: Sequence[str]) -> Size | None:
    """Read a size as it is typed: ``224x224``, ``224 224``, or ``224`` for all axes.

    Args:
        words: What was typed, in parts.

    Returns:
        The numbers, None where nothing was typed.

    Raises:
        QuestionError: If they are no positive integers.
    """
    parts = [part for word in words for part in re.split("[x×,]", word)]  # noqa: RUF001  # the sign
    if not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise QuestionError(f"a size is positive integers such as 224x224, not {' '.join(words)!r}")
    return tuple(map(int, parts)) or None


def describe_convolution(
    text: str, size: Size | None = None, device: torch.device | str = "cpu"
) -> Subject:
    """Build the convolution that a text describes, with seeded random weights.

    Args:
        text: ``key=value`` pairs between commas. ``in``, ``out`` and ``kernel`` are needed;
            ``stride``, ``padding`` (a number, ``same`` or ``valid``), ``dilation``, ``groups``,
            ``mode`` (of padding), ``dims`` (1, 2 or 3), ``transposed`` (``true`` or ``false``) and,
            with it, ``output_padding`` are as torch has them. Where axes differ: ``kernel=3x5``.
        size: The spatial size of its input; one number stands for all axes.
        device: Where to put both.

    Returns:
        The layer without bias, and a random input.

    Raises:
        QuestionError: If the text cannot be read, or describes no convolution, or one that is too
            large, or that the size does not fit.
    """
    values = _read_pairs(text)
    dims = _read_number(values, "dims", default=2)
    if dims not in DEFAULT_SIZES:
        raise QuestionError(f"--conv: dims is 1, 2 or 3, not {dims}")
    settings = _read_settings(values, dims)
    transposed = _read_truth(values)
    if not transposed and settings.pop("output_padding") != (0,) * dims:
        raise QuestionError("--conv: output_padding goes with transposed=true")
    if transposed and isinstance(settings["padding"], str):
        raise QuestionError(
            f"--conv: padding={settings['padding']} does not go with transposed=true"
        )
    weight = settings["in_channels"] * settings["out_channels"] * math.prod(settings["kernel_size"])
    _require_room("weight", weight // settings["groups"])
    family = nn.ConvTranspose2d if transposed else nn.Conv2d
    make = getattr(nn, family.__name__.replace("2", str(dims)))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        try:
            layer: nn.Module = make(**settings, bias=False)
        except (ValueError, RuntimeError) as error:
            raise QuestionError(f"--conv: no such convolution: {error}") from error
    whole = _spread_size(size, dims) or DEFAULT_SIZES[dims]
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
            space = _spread_size(size, 2) or usual[2]
            shape = (layer.in_channels, FRAMES, *space)
        else:
            shape = (layer.in_channels, *(_spread_size(size, dims) or usual[dims]))
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


def _spread_size(size: Size | None, dims: int) -> Size | None:
    if size is None or len(size) == dims:
        return size
    if len(size) == 1:
        return size * dims
    raise QuestionError(
        f"--size {'x'.join(map(str, size))} has {len(size)} axes where {dims} are needed"
    )


def _require_room(what: str, count: int) -> None:
    if count > _MOST_VALUES:
        raise QuestionError(f"the {what} would have {count:,} values, more than {_MOST_VALUES:,}")


def _read_pairs(text: str) -> dict[str, str]:
    values: dict[str, str] = {}
    for pair in text.split(","):
        key, equals, value = (part.strip().lower() for part in pair.partition("="))
        if not equals or not value:
            raise QuestionError(
                f"--conv is key=value pairs, such as in=3,out=8,kernel=3, and {pair!r} is none"
            )
        if key not in _KEYS:
            raise QuestionError(f"--conv has no key {key!r}{suggest(key, _KEYS)}")
        if key in values:
            raise QuestionError(f"--conv has {key} twice")
        values[key] = value
    missing = [key for key in ("in", "out", "kernel") if key not in values]
    if missing:
        raise QuestionError(f"--conv needs {' and '.join(missing)}, such as in=3,out=8,kernel=3")
    return values


def _read_settings(values: Mapping[str, str], dims: int) -> dict[str, Any]:
    mode = values.get("mode", "zeros")
    if mode not in MODES:
        raise QuestionError(f"--conv: mode is {', '.join(MODES[:-1])} or {MODES[-1]}, not {mode!r}")
    settings: dict[str, Any] = {
        "in_channels": _read_number(values, "in"),
        "out_channels": _read_number(values, "out"),
        "groups": _read_number(values, "groups", default=1),
        "padding_mode": mode,
    }
    for key, least in _PER_AXIS.items():
        name = "kernel_size" if key == "kernel" else key
        text = values.get(key, str(least))
        if key == "padding" and text in ("same", "valid"):
            settings[name] = text
            continue
        parts = text.split("x")
        if len(parts) not in (1, dims):
            raise QuestionError(f"--conv: {key}={text} has {len(parts)} axes, and dims is {dims}")
        numbers = [_to_number(key, part, least, text) for part in parts]
        settings[name] = tuple(numbers * dims if len(numbers) == 1 else numbers)
    return settings


def _read_number(values: Mapping[str, str], key: str, default: int = 1) -> int:
    return _to_number(key, values.get(key, str(default)), _NUMBERS[key])


def _to_number(key: str, text: str, least: int, typed: str = "") -> int:
    if not text.isdecimal() or int(text) < least:
        raise QuestionError(
            f"--conv: {key} is an integer of at least {least}, not {typed or text!r}"
        )
    return int(text)


def _read_truth(values: Mapping[str, str]) -> bool:
    text = values.get("transposed", "false")
    if text not in _TRUTHS:
        raise QuestionError(f"--conv: transposed is true or false, not {text!r}")
    return _TRUTHS[text]

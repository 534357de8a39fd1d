"""What is to be checked, as it is typed: a convolution in words, a size.

    in=3,out=8,kernel=3,stride=2,padding=1

is what `nn.Conv2d(3, 8, 3, stride=2, padding=1)` is called on the command line. Nothing here
imports torch: what was mistyped is answered at once.

Example:
    >>> read_convolution("in=3,out=8,kernel=3,stride=2").settings["stride"]
    (2, 2)
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from captum_deconv.explain.question import QuestionError
from captum_deconv.sources.names import suggest

Size = tuple[int, ...]

DEFAULT_SIZES: Mapping[int, Size] = {1: (256,), 2: (32, 32), 3: (8, 16, 16)}
"""By dimensions: large enough to see something, small enough for all singular values."""
MODES = ("zeros", "reflect", "replicate", "circular")
_NUMBERS = {"in": 1, "out": 1, "groups": 1, "dims": 1}
_PER_AXIS = {"kernel": 1, "stride": 1, "padding": 0, "dilation": 1, "output_padding": 0}
_KEYS = (*_NUMBERS, *_PER_AXIS, "mode", "transposed")
_TRUTHS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


@dataclass(frozen=True)
class Convolution:
    """A convolution in words.

    Attributes:
        text: The words.
        dims: How many spatial axes it has.
        transposed: Whether it is a transposed one.
        settings: What torch's class takes, by the names of its arguments.
    """

    text: str
    dims: int
    transposed: bool
    settings: Mapping[str, Any]


def read_convolution(text: str) -> Convolution:
    """Read a convolution.

    Args:
        text: ``key=value`` pairs between commas. ``in``, ``out`` and ``kernel`` are needed;
            ``stride``, ``padding`` (a number, ``same`` or ``valid``), ``dilation``, ``groups``,
            ``mode`` (of padding), ``dims`` (1, 2 or 3), ``transposed`` (``true`` or ``false``) and,
            with it, ``output_padding`` are as torch has them. Where axes differ: ``kernel=3x5``.

    Returns:
        What was typed.

    Raises:
        QuestionError: If the text cannot be read.
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
    return Convolution(text, dims, transposed, settings)


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


def spread_size(size: Size | None, dims: int) -> Size | None:
    """Return a size of so many axes; one number stands for all of them."""
    if size is None or len(size) == dims:
        return size
    if len(size) == 1:
        return size * dims
    raise QuestionError(
        f"--size {'x'.join(map(str, size))} has {len(size)} axes where {dims} are needed"
    )


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

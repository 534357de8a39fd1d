"""A data set's images, one by one, with their names."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor

from captum_deconv.features.records import UnreadableSampleError, name_sample, read_labelled


def name_all(data: Any) -> list[str]:
    """Name each image by its file, or, where the data set knows none, by its number."""
    found = [name_sample(data, number) for number in range(len(data))]
    names = [str(number) if name is None else name for number, name in enumerate(found)]
    return names if len(set(names)) == len(names) else [str(n) for n in range(len(names))]


def read_images(
    data: Any, names: Sequence[str], strict: bool
) -> Iterator[tuple[int, str, Tensor, Any]]:
    """Read the images one by one; those that cannot be read are skipped, with a warning.

    Args:
        data: The data set.
        names: Of its images.
        strict: Whether the first one that cannot be read ends it.

    Yields:
        Its number among those that can be read, its name, the image ``(C, H, W)`` and its label,
        None where there is none.

    Raises:
        UnreadableSampleError: If ``strict`` and one cannot be read.
    """
    number, skipped = 0, []
    for index, name in enumerate(names):
        try:
            (image, *_), label = read_labelled(data, index)
        except UnreadableSampleError as error:
            if strict:
                raise
            skipped.append(str(error))
            continue
        yield number, name, image.detach(), label
        number += 1
    if skipped:
        warnings.warn(
            f"{len(skipped)} images could not be read and were skipped: {skipped[0]}",
            UserWarning,
            stacklevel=3,
        )


def read_first(data: Any) -> Tensor:
    """Read the first image that can be read.

    Args:
        data: The data set.

    Returns:
        The image, ``(1, C, H, W)``.

    Raises:
        UnreadableSampleError: If none can be read.
    """
    reason = ""
    for index in range(len(data)):
        try:
            return read_labelled(data, index)[0][0].detach()[None]
        except UnreadableSampleError as error:
            reason = reason or str(error)
    raise UnreadableSampleError(f"none of the {len(data)} images can be read: {reason}")

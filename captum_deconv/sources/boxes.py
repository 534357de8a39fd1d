"""Boxes around the same part in several photographs, and the files they are kept in.

Nothing here imports torch: a box that is wrong is answered at once.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from pathlib import Path

Box = tuple[int, int, int, int]
"""Top, left, bottom and right, in pixels of the photograph."""

Boxes = Mapping[str, Mapping[str, Box]]
"""By part, then by photograph."""

RANDOM = "random"
"""What the masks at random places are called."""

_COLUMNS = ("image", "part", "top", "left", "bottom", "right")


class BoxError(ValueError):
    """A box, or a file of boxes, that means nothing; the message names it."""


def read_boxes(file: str | Path) -> dict[str, dict[str, Box]]:
    """Read boxes from a file.

    Args:
        file: A ``.csv`` with the columns ``image, part, top, left, bottom, right``, or a ``.json``
            that holds ``{part: {image: [top, left, bottom, right]}}``.

    Returns:
        The boxes by part, then by image as it is named there.

    Raises:
        BoxError: If the file is not there, or holds anything else.
    """
    file = Path(file)
    if not file.is_file():
        raise BoxError(f"{file}: no such file of boxes")
    try:
        text = file.read_text(encoding="utf-8")
        if file.suffix.lower() == ".json":
            rows = [
                (image, part, *numbers)
                for part, by_image in json.loads(text).items()
                for image, numbers in by_image.items()
            ]
        else:
            table = csv.DictReader(text.splitlines(), skipinitialspace=True)
            rows = [tuple(row[column] for column in _COLUMNS) for row in table]
        found: dict[str, dict[str, Box]] = {}
        for image, part, top, left, bottom, right in rows:
            box = int(top), int(left), int(bottom), int(right)
            found.setdefault(str(part), {})[str(image)] = box
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise BoxError(
            f"{file}: no boxes ({type(error).__name__}: {error}); a .csv has the columns "
            f"{','.join(_COLUMNS)}, a .json holds {{part: {{image: [top, left, bottom, right]}}}}"
        ) from error
    if not found:
        raise BoxError(f"{file}: no box in it")
    return found


def check_boxes(boxes: Boxes, sizes: Mapping[str, tuple[int, int]]) -> None:
    """Check that boxes are within their photographs, and each part in two of them.

    Args:
        boxes: By part, then by photograph.
        sizes: Width and height of each photograph.

    Raises:
        BoxError: If one is not.
    """
    for part, by_image in boxes.items():
        if part == RANDOM:
            raise BoxError(f"a part cannot be called {RANDOM!r}: that is what it is compared with")
        if len(by_image) < 2:
            raise BoxError(f"part {part!r} is in {len(by_image)} image, and pairs are compared")
        for image, (top, left, bottom, right) in by_image.items():
            width, height = sizes[image]
            if not (0 <= top < bottom <= height and 0 <= left < right <= width):
                raise BoxError(
                    f"{image}, {part}: the box {(top, left, bottom, right)} (top, left, bottom, "
                    f"right) is outside the image, which is {height} pixels high and {width} wide"
                )

"""What objects show of themselves in a notebook: a line, and below it pictures or a table.

A template fills it in, so that names are text whatever markup they hold. There is no script and no
style sheet, and nothing is asked of a network: pictures are part of the text.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from captum_deconv.drawing.colours import Array, to_colour, to_magnitude

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import Tensor

_LOSSLESS = 64
"""Pictures up to this side are kept to the bit, and enlarged as the squares that they are."""

_DOTS = 110
"""Of a figure, per inch: 7 inches are as wide as a notebook's cell."""


@dataclass(frozen=True)
class Picture:
    """A picture as an ``src``, and the text below it, which is also read aloud.

    ``rendering`` says how a browser scales it: as the squares that its pixels are, or smoothly.
    """

    source: str
    text: str
    width: int
    captioned: bool = True
    rendering: str = "auto"


def show_attribution(attribution: Tensor, text: str, width: int = 128) -> Picture:
    """Draw one attribution: in colour around mid-grey, or by magnitude where it has no colours.

    Args:
        attribution: ``(C, H, W)``.
        text: What it is of.
        width: On the screen, in pixels.

    Returns:
        The picture.
    """
    maps = attribution.detach().float()
    drawn: Array = to_colour(maps) if maps.shape[0] in (1, 3) else 1 - to_magnitude(maps)
    rendering = "pixelated" if drawn.shape[1] <= width else "auto"
    source = _embed((drawn * 255).round().astype(np.uint8))
    return Picture(source, text, width, rendering=rendering)


def show_figure(figure: Figure, text: str) -> Picture:
    """Draw a figure.

    Args:
        figure: Any figure.
        text: What is to be seen in it; it is read aloud, not written below.

    Returns:
        The picture.
    """
    from PIL import Image

    with io.BytesIO() as file:
        figure.savefig(file, format="png", dpi=_DOTS)
        with Image.open(file) as image:
            pixels = np.asarray(image.convert("RGB"))
    return Picture(_embed(pixels), text, pixels.shape[1], captioned=False)


def lay_out(
    heading: str,
    pictures: Sequence[Picture] = (),
    columns: Sequence[str] = (),
    rows: Sequence[Sequence[object]] = (),
) -> str:
    """Write what a notebook shows.

    Args:
        heading: What the object is, in a line.
        pictures: Side by side, as many as there is room for.
        columns: Of a table, their headings.
        rows: Its cells; the first of each says what the row is of.

    Returns:
        HTML, in which all of this is escaped.
    """
    from captum_deconv.drawing.page import render

    values = {"heading": heading, "pictures": pictures, "columns": columns, "rows": rows}
    return render([], "notebook.html", **values)


def _embed(pixels: npt.NDArray[np.uint8]) -> str:
    from PIL import Image

    with io.BytesIO() as file:
        lossless = max(pixels.shape[:2]) <= _LOSSLESS
        Image.fromarray(pixels).save(file, "WEBP", lossless=lossless)
        return "data:image/webp;base64," + base64.b64encode(file.getvalue()).decode()

"""A correspondence in print: table 1 of Zeiler & Fergus 2013 as bars, under the masked parts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from captum_deconv.experiments import printing
from captum_deconv.experiments.printing import COLOURS, FAINT, MARGIN, WIDTH, Sheet, shorten

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from PIL import Image

    from captum_deconv.experiments.correspondence import Correspondence
    from captum_deconv.sources.boxes import Boxes

_MOST_IMAGES, _MOST_ACROSS, _GAP, _HEAD, _TALL = 8, 4, 0.1, 0.2, 1.3


def draw_correspondence(
    found: Correspondence,
    photographs: Mapping[str, Image.Image],
    boxes: Boxes,
    *,
    about: str = "",
) -> Figure:
    """Draw the photographs with their parts, and for each layer how alike the changes are.

    Args:
        found: What was found.
        photographs: By name.
        boxes: By part, then by photograph.
        about: A line on the model, for the caption.

    Returns:
        The figure; `captum_deconv.drawing.figures.save_figure` writes it.
    """
    from matplotlib.patches import Rectangle

    names = list(dict.fromkeys(image for by_image in boxes.values() for image in by_image))
    shown = names[:_MOST_IMAGES]
    side = (WIDTH - 2 * MARGIN - (len(shown) - 1) * _GAP) / len(shown)
    side = min(side, 1.6)
    tall = side * max(photographs[n].height / photographs[n].width for n in shown)
    across = min(len(found.layers), _MOST_ACROSS)
    down = -(-len(found.layers) // across)
    block = _HEAD + _TALL + 0.5
    sheet = Sheet(MARGIN + _HEAD + tall + 0.15 + down * block, _describe(found, names, about))
    colours = {part: COLOURS[n % len(COLOURS)] for n, part in enumerate(boxes)}
    for number, name in enumerate(shown):
        photograph = photographs[name]
        height = side * photograph.height / photograph.width
        left = MARGIN + number * (side + _GAP)
        axes = sheet.axes(left, MARGIN + _HEAD, side, height)
        printing.show(axes, photograph)
        sheet.write(left, MARGIN + _HEAD - 0.05, shorten(name, int(side * 13)), 6)
        for part, by_image in boxes.items():
            if name in by_image:
                top, start, bottom, stop = by_image[name]
                corner = (start - 0.5, top - 0.5)
                for colour, line in (("white", 1.6), (colours[part], 0.9)):
                    box = Rectangle(corner, stop - start, bottom - top, fill=False)
                    box.set(edgecolor=colour, linewidth=line)
                    axes.add_patch(box)
    begin = MARGIN + _HEAD + tall + 0.15
    wide = (WIDTH - 2 * MARGIN - across * 0.55) / across
    for number, layer in enumerate(found.layers):
        left = MARGIN + 0.5 + number % across * (wide + 0.55)
        above = begin + number // across * block + _HEAD
        axes = printing.chart(
            sheet.axes(left, above, wide, _TALL), "", "share of signs that differ"
        )
        places = range(len(found.parts))
        errors = found.error[:, number].nan_to_num(0.0).tolist()
        bars = [colours.get(part, FAINT) for part in found.parts]
        axes.bar(
            places,
            found.mean[:, number].tolist(),
            color=bars,
            width=0.7,
            yerr=errors,
            error_kw={"lw": 0.7, "capsize": 2, "capthick": 0.7},
        )
        axes.set_xticks(list(places))
        axes.set_xticklabels(
            [shorten(part, 14) for part in found.parts],
            rotation=35,
            ha="right",
            rotation_mode="anchor",
            parse_math=False,
        )
        sheet.write(left, above - 0.06, shorten(layer, int(wide * 19)), 7)
    return sheet.figure


def _describe(found: Correspondence, names: list[str], about: str) -> str:
    return (
        f"The share of signs in which the changes that masking a part makes to a layer's features "
        f"differ between two images, mean and standard error over pairs of {len(names)} images; "
        f"random: masks of the parts' sizes at random places ({int(found.pairs[-1])} pairs). "
        f"Lower: the network takes the parts for the same. {about}"
    ).strip()

"""``correspond``: whether a network knows that parts of several photographs are the same part."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from captum_deconv.cli.attribute import load
from captum_deconv.cli.feature_maps import LayerNames, NetworkName
from captum_deconv.cli.options import (
    DeviceName,
    Json,
    PictureOut,
    WeightsName,
    check_network,
    check_results,
    write_figure,
    write_json,
)


def correspond(
    boxes: Annotated[
        Path,
        typer.Argument(
            metavar="BOXES",
            help="A .csv with the columns image,part,top,left,bottom,right, or a .json that holds "
            "{part: {image: [top, left, bottom, right]}}: in pixels of the photographs, whose "
            "paths begin at the file's folder.",
        ),
    ],
    layer: LayerNames,
    out: PictureOut,
    model: NetworkName = "embedded",
    weights: WeightsName = "DEFAULT",
    draws: Annotated[
        int, typer.Option(min=1, metavar="N", help="How often random places are masked.")
    ] = 10,
    json: Json = None,
    device: DeviceName = "auto",
) -> None:
    """Mask the same part in several photographs, and compare what that does to their features.

    For each layer and part the share of signs in which the changes differ between two photographs,
    mean and standard error over the pairs, beside masks at random places: the lower, the more the
    network takes the parts for the same.

    [bold]Examples[/bold]

      captum-deconv correspond dogs.csv -l relu3 -l relu4 --out parts.png
      captum-deconv correspond dogs.json -m vgg16 -l features.29 -l classifier.4 -o parts.pdf
        --json parts.json
    """
    from captum_deconv.sources.boxes import check_boxes, read_boxes
    from captum_deconv.sources.images import read_image

    check_network(model, weights, device)
    check_results(out, json, keep=[boxes])
    parts = read_boxes(boxes)
    names = list(dict.fromkeys(image for by_image in parts.values() for image in by_image))
    photographs = {name: read_image(boxes.parent / name).image for name in names}
    check_boxes(parts, {name: photograph.size for name, photograph in photographs.items()})

    from captum_deconv import experiments
    from captum_deconv.cli.console import track
    from captum_deconv.experiments.correspondence_figure import draw_correspondence
    from captum_deconv.sources.models import find_layer

    loaded = load(model, weights, device)
    for name in layer:
        find_layer(loaded.model, name)
    with track(len(parts) + draws, "masks") as advance:
        found = experiments.correspond(
            *(loaded.model, loaded.preprocess, photographs, parts, layer),
            draws=draws,
            report=advance,
        )
    wide = max(map(len, found.parts))
    typer.echo(f"{'':{wide}}  {'  '.join(f'{name:>22}' for name in found.layers)}")
    for row, part in enumerate(found.parts):
        cells = [
            f"{float(mean):12.4f} +/- {float(error):.4f}"
            for mean, error in zip(found.mean[row], found.error[row], strict=True)
        ]
        typer.echo(f"{part:{wide}}  {'  '.join(f'{cell:>22}' for cell in cells)}")
    figure = draw_correspondence(
        found, photographs, parts, about=f"{loaded.name} ({loaded.weights})."
    )
    write_figure(figure, out)
    record = {"model": loaded.name, "weights": loaded.weights, "draws": draws, **found.to_dict()}
    write_json(record, json)

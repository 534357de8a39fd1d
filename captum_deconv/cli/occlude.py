"""``occlude``: what a network makes of a photograph with a part of it covered."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from captum_deconv.cli.attribute import load
from captum_deconv.cli.feature_maps import NetworkName, open_folder
from captum_deconv.cli.options import (
    DeviceName,
    Json,
    PictureOut,
    TrueClass,
    WeightsName,
    check_network,
    check_results,
    write_figure,
    write_json,
)


def occlude(
    photo: Annotated[Path, typer.Argument(metavar="PHOTO", help="A photograph.")],
    layer: Annotated[
        str,
        typer.Option("--layer", "-l", metavar="PATH", help="A layer with space, such as relu3."),
    ],
    out: PictureOut,
    model: NetworkName = "embedded",
    weights: WeightsName = "DEFAULT",
    size: Annotated[
        int,
        typer.Option(min=1, metavar="PIXELS", help="The square's side, as the network sees it."),
    ] = 50,
    stride: Annotated[
        int, typer.Option(min=1, metavar="PIXELS", help="How far the square moves.")
    ] = 5,
    target: TrueClass = None,
    channel: Annotated[
        int | None,
        typer.Option(min=0, metavar="N", help="The feature map; the strongest one where left out."),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Images, of which the three that excite the map most are shown beside.",
        ),
    ] = None,
    json: Json = None,
    batch_size: Annotated[
        int, typer.Option(min=1, metavar="N", help="Places computed at a time.")
    ] = 36,
    device: DeviceName = "auto",
) -> None:
    """Slide a grey square over a photograph, and draw what the network makes of the rest.

    By the square's place: the total activation of the layer's strongest feature map, the true
    class's probability, the likeliest class; beside them that map's projection from this photograph
    and, with --data, from those that excite it most.

    [bold]Examples[/bold]

      captum-deconv occlude coffee.jpg --layer relu4 --out occluded.png
      captum-deconv occlude cat.jpg -m vgg16 -l features.29 --target tabby --data photographs
        --size 50 --stride 5 -o occluded.pdf
    """
    from captum_deconv.sources.images import check_is_folder, read_image

    check_network(model, weights, device)
    check_results(out, json, keep=[photo])
    if data is not None:
        check_is_folder(data)
    photograph = read_image(photo)

    from captum_deconv import experiments
    from captum_deconv.cli.console import track
    from captum_deconv.experiments import watching
    from captum_deconv.experiments.occlusion import count_passes, place_squares
    from captum_deconv.experiments.occlusion_figure import draw_occlusion
    from captum_deconv.explain.answer import prepare_input
    from captum_deconv.explain.question import find_target
    from captum_deconv.gallery.files import describe
    from captum_deconv.sources.models import find_layer

    loaded = load(model, weights, device)
    find_layer(loaded.model, layer)
    image = prepare_input(loaded, photograph)
    passes = count_passes(place_squares(image.shape[1:], size, stride), batch_size)
    scores = watching.find_scores(loaded.model, image[None])[0]
    with track(passes, "passes") as advance:
        found = experiments.occlude(
            loaded.model,
            image,
            layer,
            target=find_target(target, loaded.categories, scores),
            channel=channel,
            size=size,
            stride=stride,
            value=watching.find_grey(loaded, image),
            batch_size=batch_size,
            report=advance,
        )
    dataset = None if data is None else open_folder(data, loaded)
    found = experiments.add_projections(found, loaded.model, dataset, restore=loaded.restore)
    label = loaded.categories[found.target] if loaded.categories else f"class {found.target}"
    total, probability, _ = found.whole
    typer.echo(
        f"class: {label} ({found.target}), {probability:.2%}, falls to "
        f"{float(found.probability.min()):.2%}"
    )
    typer.echo(
        f"channel: {found.channel} of {layer}, {total:.4g}, falls to "
        f"{float(found.activation.min()):.4g}"
    )
    figure = draw_occlusion(
        found,
        restore=loaded.restore,
        categories=loaded.categories,
        about=describe(loaded, photograph.name),
    )
    write_figure(figure, out)
    write_json({"model": loaded.name, "weights": loaded.weights, **found.to_dict()}, json)

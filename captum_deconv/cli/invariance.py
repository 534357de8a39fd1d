"""``invariance``: how far features go when photographs are moved, enlarged and turned."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from captum_deconv.cli.attribute import load
from captum_deconv.cli.feature_maps import LayerNames, NetworkName
from captum_deconv.cli.options import (
    AtATime,
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


def invariance(
    photos: Annotated[
        list[Path],
        typer.Argument(metavar="PHOTO...", help="Photographs, or folders of them."),
    ],
    layer: LayerNames,
    out: PictureOut,
    model: NetworkName = "embedded",
    weights: WeightsName = "DEFAULT",
    target: TrueClass = None,
    steps: Annotated[
        int | None,
        typer.Option(min=2, metavar="N", help="Values of each kind; 25, 17 and 36 where left out."),
    ] = None,
    json: Json = None,
    batch_size: AtATime = 16,
    device: DeviceName = "auto",
) -> None:
    """Move, enlarge and turn photographs, and draw how far their features go.

    Vertical translations by up to 60 of 224 pixels, scales from 1 to 1.8, and a full turn, about
    the middle and bilinear; what comes in from beyond the border is mid-grey. For up to four layers
    the distance of the feature vectors from those of the photograph as it is, and the probability
    of the class.

    [bold]Examples[/bold]

      captum-deconv invariance coffee.jpg rocket.jpg -l relu1 -l relu4 --out invariance.png
      captum-deconv invariance photographs -m vgg16 -l features.1 -l classifier.4 -o invariance.pdf
    """
    from captum_deconv.sources.images import find_images, read_image

    check_network(model, weights, device)
    paths = [file for path in photos for file in (find_images(path) if path.is_dir() else [path])]
    check_results(out, json, keep=paths)
    if len(layer) > 4:
        raise typer.BadParameter(f"a figure shows at most 4 layers, not {len(layer)}")
    photographs = [read_image(path) for path in paths]

    import torch

    from captum_deconv import experiments
    from captum_deconv.cli.console import track
    from captum_deconv.experiments import watching
    from captum_deconv.experiments.invariance_figure import draw_invariance
    from captum_deconv.explain.answer import prepare_inputs
    from captum_deconv.explain.question import find_target
    from captum_deconv.sources.models import find_layer

    loaded = load(model, weights, device)
    for name in layer:
        find_layer(loaded.model, name)
    images = torch.stack(prepare_inputs(loaded, photographs, one_size=True))
    targets = None
    if target is not None:
        scores = watching.find_scores(loaded.model, images)
        targets = [find_target(target, loaded.categories, row) for row in scores]
    with track(len(images)) as advance:
        found = experiments.measure_invariance(
            loaded.model,
            images,
            layer,
            targets=targets,
            steps=steps,
            fill=watching.find_grey(loaded, images[0]),
            batch_size=batch_size,
            report=advance,
        )
    names = [photograph.name for photograph in photographs]
    for kind, curve in found.curves.items():
        lowest = curve.probability.amin(1)
        for name, probability in zip(names, lowest.tolist(), strict=True):
            typer.echo(f"{name}: {kind}, the class's probability falls to {probability:.2%}")
    figure = draw_invariance(
        found,
        names=names,
        restore=loaded.restore,
        categories=loaded.categories,
        about=f"{loaded.name} ({loaded.weights}).",
    )
    write_figure(figure, out)
    record = {"model": loaded.name, "weights": loaded.weights, "images": names, **found.to_dict()}
    write_json(record, json)

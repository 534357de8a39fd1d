"""``compare-methods``: methods of attribution side by side, on one's own network and images."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from captum_deconv.cli.console import print_line
from captum_deconv.cli.options import (
    IMAGES,
    DeviceName,
    ModelName,
    Strict,
    WeightsName,
    check_network,
)


def compare_methods(
    data: Annotated[
        str,
        typer.Option(
            "--data",
            metavar="FOLDER",
            help=IMAGES,
        ),
    ],
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="FOLDER", help="Gets everything that is written.")
    ],
    model: ModelName = "resnet50",
    weights: WeightsName = "DEFAULT",
    methods: Annotated[
        list[str] | None,
        typer.Option(
            "--method", metavar="NAME", help="All if left out; may be given more than once."
        ),
    ] = None,
    metrics: Annotated[
        str | None,
        typer.Option(metavar="LIST", help="Names with commas between; all if left out."),
    ] = None,
    target: Annotated[
        str,
        typer.Option("--target", "-t", metavar="predicted|label|INT", help="The class to explain."),
    ] = "predicted",
    layer: Annotated[
        str | None,
        typer.Option(metavar="PATH", help="Grad-CAM's; the last convolution if left out."),
    ] = None,
    images: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Take the first N only.")
    ] = None,
    seed: Annotated[int, typer.Option(help="What all randomness is drawn from.")] = 0,
    device: DeviceName = "auto",
    strict: Strict = False,
) -> None:
    """Compare methods by what the literature asks of them, two controls among them.

    The folder gets comparison.json, comparison.png and index.html (methods by images, to sort and
    to look at). The same command, started again after it was killed, goes on from there.

    [bold]Examples[/bold]

      captum-deconv compare-methods --model resnet50 --data photographs --out report

      captum-deconv compare-methods -m embedded --data photographs --metrics deletion,insertion -o r
    """
    check_network(model, weights, device)

    from rich.console import Console
    from torch.utils.data import Subset

    from captum_deconv import comparison
    from captum_deconv.comparison.page import write_page
    from captum_deconv.comparison.report import draw_figure, make_table
    from captum_deconv.sources.datasets import ImageFiles, Labelled
    from captum_deconv.sources.models import choose_device, load_model

    asked = None if metrics is None else [name.strip() for name in metrics.split(",")]
    comparison.check_names(methods, asked)
    if target not in ("predicted", "label") and not target.isdecimal():
        raise typer.BadParameter(f"--target is predicted, label or a number, not {target!r}")
    loaded = load_model(model, weights, choose_device(device))
    for note in loaded.notes:
        print_line("note", note)
    files = ImageFiles(data, loaded.preprocess)
    labels = files.find_labels(loaded.categories) if target == "label" else None
    if target == "label" and labels is None:
        raise typer.BadParameter(
            f"--target label needs a folder for each class right below {files.root}, named as the "
            "network names it, or as many folders as it has classes"
        )
    whole = files if labels is None else Labelled(files, labels)
    taken = whole if images is None else Subset(whole, range(min(images, len(files))))
    found = comparison.run(
        loaded.model,
        taken,
        methods=methods,
        metrics=asked,
        out=out,
        target=int(target) if target.isdecimal() else target,
        layer=layer,
        seed=seed,
        strict=strict,
        progress=True,
    )
    Console().print(make_table(found))
    draw_figure(found, out / "comparison.png")
    page = write_page(
        found,
        loaded.model,
        taken,
        out,
        restore=loaded.restore,
        title=f"{loaded.name} on {files.root.resolve().name}",
        categories=loaded.categories,
    )
    typer.echo(f"page: {page}")

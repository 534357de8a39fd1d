"""``gallery``: what excites a layer's channels, projected back to pixels, from an index."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from captum_deconv.cli.feature_maps import (
    Channels,
    DataFolder,
    Fast,
    Methods,
    NetworkName,
    ScanDevice,
    SeedName,
    Seeds,
    Workers,
    check_inputs,
    join,
    load_network,
    open_folder,
    show,
)
from captum_deconv.cli.options import RuleName, WeightsName, parse_channels, spell_out

if TYPE_CHECKING:
    from captum_deconv.features import ActivationIndex


def gallery(
    index: Annotated[Path, typer.Argument(metavar="INDEX", help="What the command scan wrote.")],
    data: DataFolder,
    out: Annotated[
        Path,
        typer.Option(
            "--out", "-o", metavar="FOLDER", help="Gets index.html, sheet.png and sheet.pdf."
        ),
    ],
    model: NetworkName = "embedded",
    weights: WeightsName = "DEFAULT",
    layer: Annotated[
        str | None,
        typer.Option(
            "--layer", "-l", metavar="PATH", help="Needed where the index holds several layers."
        ),
    ] = None,
    channels: Channels = "all",
    method: Methods = None,
    seed: Seeds = SeedName.activation,
    workers: Workers = 0,
    device: ScanDevice = "auto",
    fast: Fast = False,
) -> None:
    """Project what excites a layer's channels back to pixels: a page and a contact sheet.

    Model, weights and data must be those of the scan; the index knows them.

    [bold]Examples[/bold]

      captum-deconv gallery index.safetensors -l relu2 --data photographs -o relu2
      captum-deconv gallery vgg.safetensors -m vgg16 --data imagenet/val --channels 0,5,10-20
        --method deconvnet --method guided_backprop -o features29
    """
    from captum_deconv.drawing.files import make_folder

    wanted = parse_channels(channels)
    _refuse_several_processes()
    check_inputs(model, weights, data, device, [])
    if not index.exists():
        raise FileNotFoundError(f"{index}: no such activation index")

    from captum_deconv.features import ActivationIndex

    found = ActivationIndex.load(index)
    name = _choose_layer(found, layer)
    make_folder(out)
    with join(device) as process:
        loaded = load_network(model, weights, [name], process)
        dataset = open_folder(data, loaded)
        methods = spell_out(method, RuleName.deconvnet)
        show(loaded, found, dataset, out, name, wanted, methods, seed, workers, fast)


def _refuse_several_processes() -> None:
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise typer.BadParameter("gallery is for one process: start it without torchrun")


def _choose_layer(index: ActivationIndex, layer: str | None) -> str:
    from captum_deconv.gallery.projection import choose_layer

    try:
        return choose_layer(index, layer)
    except ValueError as error:
        raise typer.BadParameter(f"{error}: add --layer with one that it holds") from None

"""``features``: scan and gallery in one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from captum_deconv.cli.feature_maps import (
    BatchSize,
    Channels,
    Checkpoint,
    DataFolder,
    Fast,
    LayerNames,
    Methods,
    NetworkName,
    ScanDevice,
    SeedName,
    Seeds,
    Top,
    Workers,
    check_checkpoint,
    check_inputs,
    join,
    scan_folder,
    show,
)
from captum_deconv.cli.options import RuleName, Strict, WeightsName, parse_channels, spell_out

INDEX = "index.safetensors"
"""What the index is called in the folder."""


def features(
    layer: LayerNames,
    data: DataFolder,
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            "-o",
            metavar="FOLDER",
            help="Gets the index, and page and sheets, of several layers in a folder each.",
        ),
    ],
    model: NetworkName = "embedded",
    weights: WeightsName = "DEFAULT",
    channels: Channels = "all",
    method: Methods = None,
    seed: Seeds = SeedName.activation,
    top: Top = 9,
    batch_size: BatchSize = 32,
    workers: Workers = 0,
    device: ScanDevice = "auto",
    checkpoint: Checkpoint = None,
    strict: Strict = False,
    fast: Fast = False,
) -> None:
    """Show what excites a layer's feature maps: scan and gallery in one.

    [bold]Examples[/bold]

      captum-deconv features -l relu2 --data photographs -o relu2
      captum-deconv features -m vgg16 -l features.15 --data photographs --channels 0-31
        --method deconvnet --method guided_backprop --top 9 -o vgg
    """
    from captum_deconv.drawing.files import make_folder

    wanted = parse_channels(channels)
    make_folder(out)
    check_checkpoint(checkpoint, out / INDEX)
    check_inputs(model, weights, data, device, layer)
    with join(device) as process:
        loaded, dataset, index = scan_folder(
            *(process, model, weights, layer, data, out / INDEX),
            top=top,
            batch_size=batch_size,
            workers=workers,
            checkpoint=checkpoint,
            strict=strict,
            fast=fast,
        )
        if process.rank != 0:
            return
        methods = spell_out(method, RuleName.deconvnet)
        for name in layer:
            folder = out if len(layer) == 1 else out / name
            show(loaded, index, dataset, folder, name, wanted, methods, seed, workers, fast)

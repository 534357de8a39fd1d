"""``scan``: the images that excite each channel of some layers most, as an index."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from captum_deconv.cli.feature_maps import (
    BatchSize,
    Checkpoint,
    DataFolder,
    Fast,
    LayerNames,
    NetworkName,
    ScanDevice,
    Top,
    Workers,
    check_checkpoint,
    check_inputs,
    join,
    scan_folder,
)
from captum_deconv.cli.options import Strict, WeightsName


def scan(
    layer: LayerNames,
    data: DataFolder,
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="INDEX.safetensors", help="The index.")
    ],
    model: NetworkName = "embedded",
    weights: WeightsName = "DEFAULT",
    top: Top = 9,
    batch_size: BatchSize = 32,
    workers: Workers = 0,
    device: ScanDevice = "auto",
    checkpoint: Checkpoint = None,
    strict: Strict = False,
    fast: Fast = False,
) -> None:
    """Find the images that excite each channel of some layers most.

    The index that it writes is what the command gallery makes pictures from.

    [bold]Examples[/bold]

      Two layers of the network that comes along, over a folder of photographs:
        captum-deconv scan -l relu2 -l relu3 --data photographs -o index.safetensors

      A long scan, which goes on where it was if it is killed and started again:
        captum-deconv scan -m vgg16 -l features.29 --data imagenet/val --workers 8 --checkpoint
        part.ckpt -o vgg.safetensors

      The same on eight GPUs, with the same result:
        torchrun --nproc-per-node 8 -m captum_deconv scan -m vgg16 -l features.29
        --data imagenet/val --workers 8 --checkpoint part.ckpt -o vgg.safetensors
    """
    from captum_deconv.drawing.files import check_output

    check_output(out, (".safetensors",))
    check_checkpoint(checkpoint, out)
    check_inputs(model, weights, data, device, layer)
    with join(device) as process:
        scan_folder(
            *(process, model, weights, layer, data, out),
            top=top,
            batch_size=batch_size,
            workers=workers,
            checkpoint=checkpoint,
            strict=strict,
            fast=fast,
        )

"""``atlas``: a whole network as an offline site of what its layers have learned."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from captum_deconv.cli.feature_maps import (
    BatchSize,
    DataFolder,
    Fast,
    NetworkName,
    ScanDevice,
    Top,
    Workers,
    check_inputs,
    join,
    load_network,
    open_folder,
)
from captum_deconv.cli.options import RuleName, Strict, WeightsName, spell_out

if TYPE_CHECKING:
    from torch import nn

_WEIGHTS = (".safetensors", ".pt", ".pth", ".bin")


def atlas(
    data: DataFolder,
    out: Annotated[
        Path,
        typer.Option("--out", "-o", metavar="FOLDER", help="The site's folder, one of its own."),
    ],
    model: NetworkName = "embedded",
    weights: WeightsName = "DEFAULT",
    layers: Annotated[
        list[str] | None,
        typer.Option(
            "--layers",
            "-l",
            metavar="auto|NAME",
            help="auto (so if left out): the rectified outputs of the network's stages. Or a "
            "layer's dotted name, or a pattern such as 'layer?.*.relu'; may be given more than "
            "once.",
        ),
    ] = None,
    method: Annotated[
        list[RuleName] | None,
        typer.Option(
            metavar="METHOD",
            help="deconvnet and guided_backprop (so if left out), input_gradient or all; may be "
            "given more than once, to stand side by side.",
        ),
    ] = None,
    channels: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Show each layer's first N channels; else all."),
    ] = None,
    checkpoints: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Weights of the network at moments of its training, a file each, in the order of "
            "their names (numbers as numbers).",
        ),
    ] = None,
    top: Top = 9,
    batch_size: BatchSize = 32,
    workers: Workers = 0,
    device: ScanDevice = "auto",
    strict: Strict = False,
    fast: Fast = False,
) -> None:
    """Make an offline site that shows what every layer of a network has learned.

    The network as a drawing, a page for each layer, each channel's strongest patches and their
    projections, and the way back from a picture to the channels it excites. Where each image is in
    a folder of its class, the classes that excite a channel most are told. It opens from disk.

    The same command, started again after it was killed, goes on from there.

    [bold]Examples[/bold]

      captum-deconv atlas --data photographs --out site
      captum-deconv atlas --model resnet50 --data imagenet/val --channels 256 --out site
      captum-deconv atlas -m vgg16 -l 'features.2?' --method all --data photographs -o site

      On eight GPUs:
        torchrun --nproc-per-node 8 -m captum_deconv atlas -m resnet50 --data imagenet/val -o site
    """
    check_inputs(model, weights, data, device, [])
    files = None if checkpoints is None else _list_checkpoints(checkpoints)
    asked = layers or ["auto"]
    if "auto" in asked and len(asked) > 1:
        raise typer.BadParameter("--layers is auto, or names and patterns, not both")

    from captum_deconv import gallery
    from captum_deconv.gallery.files import describe
    from captum_deconv.sources.datasets import Labelled

    with join(device) as process:
        loaded = load_network(model, weights, [], process)
        images = open_folder(data, loaded)
        classes = {name: number for number, name in enumerate(images.classes)}
        folders = [path.relative_to(images.root).parts[0] for path in images.samples]
        labels = [classes[folder] for folder in folders] if classes else None
        first = process.rank == 0
        found = gallery.atlas(
            loaded.model,
            images if labels is None else Labelled(images, labels),
            out,
            "auto" if asked == ["auto"] else asked,
            methods=spell_out(method, RuleName.deconvnet, RuleName.guided_backprop),
            channels=channels,
            k=top,
            batch_size=batch_size,
            num_workers=workers,
            fast=fast,
            strict=strict,
            restore=loaded.restore,
            labels=images.classes,
            checkpoints=None if files is None else _Checkpoints(files, model, process.device),
            title=f"Atlas of {loaded.name}",
            about=describe(loaded, f"{len(images)} images of {images.root.resolve().name}"),
            report=typer.echo if first else _say_nothing,
            progress=first,
        )
        if first:
            typer.echo(f"page: {found.page}")


def _say_nothing(text: str) -> None:
    """The first process speaks for all."""


def _list_checkpoints(folder: Path) -> dict[str, Path]:
    """List the files of weights in a folder, the numbers in their names in order."""
    found = [path for path in folder.glob("*") if path.suffix in _WEIGHTS]
    if not found:
        raise typer.BadParameter(
            f"--checkpoints {folder}: no file of weights in it ({', '.join(_WEIGHTS)})"
        )

    def key(path: Path) -> list[tuple[int, str]]:
        parts = re.split(r"(\d+)", path.stem)
        return [(int(part), "") if part.isdigit() else (0, part) for part in parts]

    return {path.stem: path for path in sorted(found, key=key)}


class _Checkpoints(Mapping[str, "nn.Module"]):
    """The network with each file's weights, loaded when it is asked for."""

    def __init__(self, files: dict[str, Path], model: str, device: Any) -> None:
        self.files, self.model, self.device = files, model, device

    def __getitem__(self, name: str) -> nn.Module:
        from captum_deconv.sources.models import load_model

        return load_model(self.model, str(self.files[name]), self.device).model

    def __iter__(self) -> Iterator[str]:
        return iter(self.files)

    def __len__(self) -> int:
        return len(self.files)

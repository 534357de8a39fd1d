"""What the demo shows of feature maps: two networks, the training of one, and all of its layers.

Everything is there without a download: the embedded network with its checkpoints comes with this
package, EfficientNet-Lite0 and the photographs with those of the extra ``demo``.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import Subset

from captum_deconv import features
from captum_deconv.drawing.figures import save_figure
from captum_deconv.gallery.atlas import Atlas, atlas
from captum_deconv.gallery.evolution import evolution
from captum_deconv.gallery.files import Exhibit, describe, show_layer
from captum_deconv.sources import embedded
from captum_deconv.sources.datasets import Labelled, PhotographTiles
from captum_deconv.sources.models import LoadedModel, load_model
from captum_deconv.sources.names import EMBEDDED, LITE

METHODS = ("deconvnet", "guided_backprop")
EMBEDDED_LAYER = "relu2"
LITE_LAYER = "_blocks.3"
_TILE, _LITE_TILE = 64, 160
_EVOLVING = 24
_BATCH = 16
_ATLAS_CHANNELS, _ATLAS_EVERY = 32, 4
"""Of each layer, and one tile of so many: a few seconds."""

WITHOUT_SWITCHES = (
    "This network has no max-pooling, so nothing tells the deconvnet's way back which image it "
    "goes to: it gives a channel the same pattern for all nine, cut off at an image's edges. "
    "Guided backprop stops wherever the forward pass was zero, so that each of its pictures is of "
    "one image (Springenberg et al. 2014)."
)


def show_embedded(folder: Path, device: torch.device) -> Exhibit:
    """Show the second layer of the embedded network.

    Args:
        folder: Gets the page and the sheets.
        device: Where to compute.

    Returns:
        What was written.
    """
    loaded = load_model(EMBEDDED, device=device)
    return _show(loaded, EMBEDDED_LAYER, PhotographTiles(_TILE, embedded.prepare_tile()), folder)


def show_lite(folder: Path, device: torch.device) -> Exhibit:
    """Show a layer of EfficientNet-Lite0, which has strides where others have max-pooling.

    Args:
        folder: Gets the page and the sheets.
        device: Where to compute.

    Returns:
        What was written.
    """
    loaded = load_model(LITE, device=device)
    tiles = PhotographTiles(_LITE_TILE, loaded.preprocess)
    return _show(loaded, LITE_LAYER, tiles, folder, f" {WITHOUT_SWITCHES}")


def _show(
    loaded: LoadedModel, layer: str, tiles: PhotographTiles, folder: Path, note: str = ""
) -> Exhibit:
    index = features.scan(loaded.model, layer, tiles, batch_size=_BATCH, progress=False)
    return show_layer(
        loaded,
        index,
        tiles,
        folder,
        layer=layer,
        methods=METHODS,
        about=describe(loaded, f"{len(tiles)} tiles of photographs") + note,
    )


def show_evolution(folder: Path, device: torch.device) -> tuple[Path, ...]:
    """Show how the embedded network's second layer came about in its training.

    Args:
        folder: Gets the figure.
        device: Where to compute.

    Returns:
        The figure, as PNG and as PDF.
    """
    loaded = load_model(EMBEDDED)
    tiles = PhotographTiles(_TILE, embedded.prepare_tile())
    found = evolution(
        _Checkpoints(device),
        EMBEDDED_LAYER,
        tiles,
        channels=range(_EVOLVING),
        batch_size=_BATCH,
        restore=loaded.restore,
        about=describe(loaded, f"{len(tiles)} tiles of photographs")
        + " The numbers above are steps of its training.",
    )
    figure = found.figure()
    paths = (folder / "evolution.png", folder / "evolution.pdf")
    for path in paths:
        save_figure(figure, path)
    return paths


def show_atlas(folder: Path, device: torch.device) -> Atlas:
    """Show the whole embedded network as a site, some channels of each layer.

    Args:
        folder: Gets the site; one that is there is made anew.
        device: Where to compute.

    Returns:
        The atlas.
    """
    shutil.rmtree(folder, ignore_errors=True)
    loaded = load_model(EMBEDDED, device=device)
    tiles = PhotographTiles(_TILE, embedded.prepare_tile())
    photographs = [name.rpartition(" ")[0] for name in tiles.samples]
    names = sorted(set(photographs))
    some = range(0, len(tiles), _ATLAS_EVERY)
    return atlas(
        loaded.model,
        Subset(Labelled(tiles, [names.index(name) for name in photographs]), some),
        folder,
        methods=METHODS,
        channels=_ATLAS_CHANNELS,
        batch_size=_BATCH,
        restore=loaded.restore,
        labels=names,
        checkpoints=_Checkpoints(device),
        title="Atlas of the embedded network",
        about=describe(loaded, f"{len(some)} tiles of photographs"),
        progress=False,
    )


class _Checkpoints(Mapping[int, nn.Module]):
    """The embedded network's checkpoints by step, each loaded when it is asked for."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def __getitem__(self, step: int) -> nn.Module:
        return embedded.load_checkpoint(step).to(self.device)

    def __iter__(self) -> Iterator[int]:
        return iter(embedded.list_checkpoints())

    def __len__(self) -> int:
        return len(embedded.list_checkpoints())

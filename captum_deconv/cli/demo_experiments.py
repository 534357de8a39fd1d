"""What the demo shows of the paper's experiments."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image

from captum_deconv import experiments
from captum_deconv.drawing.figures import save_figure
from captum_deconv.experiments import watching
from captum_deconv.experiments.correspondence_figure import draw_correspondence
from captum_deconv.experiments.diagnosis_figure import draw_diagnosis
from captum_deconv.experiments.invariance_figure import draw_invariance
from captum_deconv.experiments.occlusion_figure import draw_occlusion
from captum_deconv.gallery.files import describe
from captum_deconv.sources.datasets import PhotographTiles, read_photograph
from captum_deconv.sources.embedded import prepare_tile
from captum_deconv.sources.models import load_model
from captum_deconv.sources.names import EMBEDDED, LITE

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_PHOTOGRAPHS = ("rocket", "astronaut", "coffee", "motorcycle", "chelsea")
_MOVED = _PHOTOGRAPHS[:3]
_TILE = 64
_FACES = (1, 2, 3, 6, 7, 8)
_PARTS = {
    "left eye": (6, 3, 11, 9),
    "right eye": (6, 12, 11, 18),
    "nose": (10, 8, 16, 14),
    "mouth": (16, 6, 21, 15),
}
"""Rows and columns of 25 x 25: the faces of Labeled Faces in the Wild are aligned."""


def show_occlusion(folder: Path, device: torch.device) -> Path:
    """Slide a square over a photograph.

    Args:
        folder: Gets the figure.
        device: Where to compute.

    Returns:
        The figure.
    """
    loaded = load_model(EMBEDDED, device=device)
    images = [loaded.preprocess(read_photograph(name)) for name in _PHOTOGRAPHS]
    image, *others = images
    found = experiments.occlude(
        loaded.model,
        image,
        "relu4",
        size=50,
        stride=10,
        value=watching.find_grey(loaded, image),
        target=loaded.categories.index(_PHOTOGRAPHS[0]) if loaded.categories else None,
    )
    found = experiments.add_projections(
        found,
        loaded.model,
        others,
        restore=loaded.restore,
        names=lambda sample: _PHOTOGRAPHS[1 + sample],
    )
    figure = draw_occlusion(
        found,
        restore=loaded.restore,
        categories=loaded.categories,
        about=describe(loaded, _PHOTOGRAPHS[0]),
    )
    return _save(figure, folder / "occlusion.png")


def show_invariance(folder: Path, device: torch.device) -> Path:
    """Move, enlarge and turn photographs; as :func:`show_occlusion`."""
    loaded = load_model(EMBEDDED, device=device)
    images = torch.stack([loaded.preprocess(read_photograph(name)) for name in _MOVED])
    found = experiments.measure_invariance(
        loaded.model,
        images,
        ["relu1", "relu4"],
        steps=13,
        fill=watching.find_grey(loaded, images[0]),
    )
    figure = draw_invariance(
        found,
        names=_MOVED,
        restore=loaded.restore,
        categories=loaded.categories,
        about=f"{loaded.name} ({loaded.weights}).",
    )
    return _save(figure, folder / "invariance.png")


def show_correspondence(folder: Path, device: torch.device) -> Path:
    """Ask EfficientNet-Lite0 whether faces have parts; as :func:`show_occlusion`."""
    loaded = load_model(LITE, device=device)
    photographs: Any = importlib.import_module("skimage.data")
    pixels = (255 * photographs.lfw_subset()).astype("uint8")
    faces = {f"face {n}": Image.fromarray(pixels[n]).convert("RGB") for n in _FACES}
    boxes = {part: dict.fromkeys(faces, box) for part, box in _PARTS.items()}
    layers = ["_blocks.4._swish", "_blocks.10._swish"]
    found = experiments.correspond(loaded.model, loaded.preprocess, faces, boxes, layers, draws=4)
    about = f"{loaded.name} ({loaded.weights})."
    return _save(draw_correspondence(found, faces, boxes, about=about), folder / "parts.png")


def show_diagnosis(folder: Path, device: torch.device) -> Path:
    """Tell what is wrong with the network; as :func:`show_occlusion`."""
    loaded = load_model(EMBEDDED, device=device)
    tiles = PhotographTiles(_TILE, prepare_tile(), names=_PHOTOGRAPHS)
    found = experiments.diagnose(loaded.model, tiles)
    about = describe(loaded, f"{len(tiles)} tiles of photographs")
    return _save(draw_diagnosis(found, about=about), folder / "diagnosis.png")


def _save(figure: Figure, path: Path) -> Path:
    save_figure(figure, path.with_suffix(".pdf"))
    save_figure(figure, path)
    return path

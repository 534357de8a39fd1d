"""Images as data sets for a network: a folder of files, or the photographs that packages ship.

What a data set here gives is what the network takes: the image after the network's own
preprocessing. Each sample has a name, so that a file that cannot be read can be called by it.

>>> tiles = PhotographTiles(size=64, names=("coffee",))
>>> len(tiles), tiles.samples[0], tiles[0].size
(54, 'coffee 0:0', (64, 64))
"""

from __future__ import annotations

import glob
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

from PIL import Image
from torch.utils.data import Dataset

from captum_deconv.sources.images import FolderError, ImageError, find_images, read_image

_OTHERS = {"motorcycle": "stereo_motorcycle"}
PHOTOGRAPHS = (
    *("astronaut", "brick", "camera", "cell", "chelsea", "clock", "coffee", "coins", "grass"),
    *("gravel", "hubble_deep_field", "immunohistochemistry", "moon", "motorcycle", "page"),
    *("retina", "rocket", "text"),
)
"""Those that scikit-image holds within its package; its other ones it would download."""

_MORE_PHOTOGRAPHS = ("china", "flower")  # scikit-learn's
_LONGEST = 800

Transform = Callable[[Image.Image], Any]


class ImageFiles(Dataset[Any]):
    """The images in a folder and in the folders below it, in the order of their paths.

    A file is an image by its name's ending, whether it can be read or not; names that begin with a
    dot are left out.

    Args:
        place: The folder; there need be no folder for each class. Or a pattern such as
            ``photographs/*.jpg``, or a text file (``.txt``) with a path on each line, beside it or
            absolute.
        transform: Turns an upright RGB Pillow image into what ``dataset[i]`` gives.

    Attributes:
        root: The folder that all files are below.
        samples: The files.
        classes: The names of the folders right below the root, sorted, where every file is in one;
            else empty.
        transform: The transform.

    Raises:
        FolderError: If there is no such folder, or no image in it.
    """

    def __init__(self, place: str | Path, transform: Transform) -> None:
        self.root, self.transform = Path(place), transform
        if self.root.suffix.lower() == ".txt" and self.root.is_file():
            self.root, self.samples = _read_list(self.root)
        elif any(sign in str(place) for sign in "*?[") and not self.root.exists():
            self.root, self.samples = _expand(str(place))
        else:
            self.samples = find_images(self.root)
        parts = [path.relative_to(self.root).parts for path in self.samples]
        self.classes = sorted({above[0] for above in parts}) if min(map(len, parts)) > 1 else []

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, number: int) -> Any:
        return self.transform(read_image(self.samples[number]).image)

    def find_labels(self, categories: Sequence[str] | None) -> list[int] | None:
        """Find each file's class of a network by the folder that it is in.

        Args:
            categories: The names of the network's classes; None where they are not known.

        Returns:
            Of each file its class: that of its folder's name, or, where there are as many folders
            as classes or the names are not known, the folder's number. None if neither is so.
        """
        folders = self.classes
        known = {_plain(name): number for number, name in enumerate(categories or ())}
        if folders and all(_plain(folder) in known for folder in folders):
            by_folder = {folder: known[_plain(folder)] for folder in folders}
        elif folders and len(folders) == len(known or folders):
            by_folder = {folder: number for number, folder in enumerate(folders)}
        else:
            return None
        return [by_folder[path.relative_to(self.root).parts[0]] for path in self.samples]


def _plain(name: str) -> str:
    return name.replace("_", " ").casefold()


class Labelled(Dataset[Any]):
    """Images with a label each.

    Args:
        files: The images.
        labels: One for each.
    """

    def __init__(self, files: ImageFiles | PhotographTiles, labels: Sequence[int]) -> None:
        self.files, self.labels = files, labels
        self.root, self.samples = getattr(files, "root", None), files.samples
        self.transform = files.transform

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, number: int) -> Any:
        return self.files[number], self.labels[number]


def _read_list(file: Path) -> tuple[Path, list[Path]]:
    lines = (line.strip() for line in file.read_text(encoding="utf-8").splitlines())
    paths = [Path(os.path.abspath(file.parent / line)) for line in lines if line]
    if not paths:
        raise FolderError(f"{file}: no path in it; a list of images has one on each line")
    return _common_folder(paths), paths


def _expand(pattern: str) -> tuple[Path, list[Path]]:
    endings = tuple(Image.registered_extensions())
    found = sorted(glob.glob(pattern, recursive=True))
    paths = [Path(os.path.abspath(path)) for path in found if path.lower().endswith(endings)]
    if not paths:
        raise FolderError(f"{pattern}: no image's path is like this")
    return _common_folder(paths), paths


def _common_folder(paths: Sequence[Path]) -> Path:
    return Path(os.path.commonpath([path.parent for path in paths]))


class PhotographTiles(Dataset[Any]):
    """Square tiles of the photographs that scikit-image ships, and of scikit-learn's two.

    They cover each photograph from its upper left corner on and do not overlap. The largest
    photographs are halved first, so that all show about as much in a tile.

    Args:
        size: The side of a tile, in pixels.
        transform: Turns a tile into what ``dataset[i]`` gives; None gives the Pillow image.
        names: Which photographs; all of scikit-image's where left out, and scikit-learn's where
            that is installed.

    Attributes:
        samples: The tiles' names: photograph, first row, first column.
        transform: The transform.

    Raises:
        ImageError: If scikit-image is not installed.
    """

    def __init__(
        self, size: int, transform: Transform | None = None, names: Sequence[str] | None = None
    ) -> None:
        self.size, self.transform = size, transform
        self.samples: list[str] = []
        self._places: list[tuple[Image.Image, int, int]] = []
        for name, photograph in _read_photographs(names):
            for top in range(0, photograph.height - size + 1, size):
                for left in range(0, photograph.width - size + 1, size):
                    self.samples.append(f"{name} {top}:{left}")
                    self._places.append((photograph, top, left))

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, number: int) -> Any:
        photograph, top, left = self._places[number]
        tile = photograph.crop((left, top, left + self.size, top + self.size))
        return tile if self.transform is None else self.transform(tile)


def read_photograph(name: str) -> Image.Image:
    """Read one of the photographs that scikit-image ships.

    Args:
        name: One of :data:`PHOTOGRAPHS`.

    Returns:
        It, in RGB; the largest ones halved.

    Raises:
        ImageError: If scikit-image is not installed.
    """
    return _read_photographs((name,))[0][1]


def _read_photographs(names: Sequence[str] | None) -> list[tuple[str, Image.Image]]:
    try:
        from skimage import data
    except ImportError:
        raise ImageError(
            "the photographs need the extra: pip install 'captum-deconv[demo]'"
        ) from None
    found = []
    for name in PHOTOGRAPHS if names is None else names:
        pixels = getattr(cast(Any, data), _OTHERS.get(name, name))()
        found.append((name, pixels[0] if isinstance(pixels, tuple) else pixels))
    if names is None:
        found += _read_more_photographs()
    return [(name, _shrink(Image.fromarray(pixels).convert("RGB"))) for name, pixels in found]


def _read_more_photographs() -> list[tuple[str, Any]]:
    try:
        from sklearn.datasets import load_sample_image
    except ImportError:
        return []
    return [(name, load_sample_image(f"{name}.jpg")) for name in _MORE_PHOTOGRAPHS]


def _shrink(photograph: Image.Image) -> Image.Image:
    return photograph.reduce(2) if max(photograph.size) > _LONGEST else photograph

"""Images as data sets for a network: a folder of files, or the photographs that packages ship.

What a data set here gives is what the network takes: the image after the network's own
preprocessing. Each sample has a name, so that a file that cannot be read can be called by it.

>>> tiles = PhotographTiles(size=64, names=("coffee",))
>>> len(tiles), tiles.samples[0], tiles[0].size
(54, 'coffee 0:0', (64, 64))
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

from PIL import Image
from torch.utils.data import Dataset

from captum_deconv.sources.images import ImageError, find_images, read_image

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
        folder: Where they are; there need be no folder for each class.
        transform: Turns an upright RGB Pillow image into what ``dataset[i]`` gives.

    Attributes:
        root: The folder.
        samples: The files.
        transform: The transform.

    Raises:
        FolderError: If there is no such folder, or no image in it.
    """

    def __init__(self, folder: str | Path, transform: Transform) -> None:
        self.root, self.transform = Path(folder), transform
        self.samples = find_images(self.root)

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, number: int) -> Any:
        return self.transform(read_image(self.samples[number]).image)


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

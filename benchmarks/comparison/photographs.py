"""The photographs of ``benchmarks/compare_methods.py``: which crops, and where the object is."""

import csv
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

TABLE = Path(__file__).parent / "images.csv"
SIDES = ("left", "top", "right", "bottom")


class Photographs(Dataset[Tensor]):
    """Square crops of photographs that scikit-image and scikit-learn ship, as a network takes them.

    Args:
        preprocess: The network's.

    Attributes:
        samples: Their names, those with a box first.
    """

    def __init__(self, preprocess: Any) -> None:
        with TABLE.open(encoding="utf-8", newline="") as file:
            self.rows = list(csv.DictReader(file))
        self.preprocess = preprocess
        self.samples = [row["name"] for row in self.rows]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, number: int) -> Tensor:
        row = self.rows[number]
        crop = tuple(int(row[f"crop_{side}"]) for side in SIDES)
        return self.preprocess(read(row["photograph"]).crop(crop))

    def find_boxes(self) -> dict[str, tuple[int, int, int, int]]:
        """Return the boxes in pixels of the network's input, of the images that have one.

        Each is drawn white on black and prepared as the photograph is: where it then lies is right
        whatever the network's preparation resizes and crops.
        """
        found = {}
        for row in self.rows:
            if not row["object"]:
                continue
            left, top, right, bottom = (int(row[f"crop_{side}"]) for side in SIDES)
            black = Image.new("RGB", (right - left, bottom - top))
            drawn = black.copy()
            box = [int(row[side]) for side in SIDES]
            drawn.paste("white", (box[0] - left, box[1] - top, box[2] - left, box[3] - top))
            shown, dark = (self.preprocess(each)[0] for each in (drawn, black))
            there = (shown - dark) > (shown - dark).max() / 2
            rows, columns = there.any(1).nonzero()[:, 0], there.any(0).nonzero()[:, 0]
            found[row["name"]] = tuple(
                int(edge) for edge in (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
            )
        return found


def read(name: str) -> Image.Image:
    """Return a photograph."""
    import skimage.data
    from sklearn.datasets import load_sample_image

    if name in ("china", "flower"):
        pixels = load_sample_image(f"{name}.jpg")
    else:
        pixels = getattr(skimage.data, "stereo_motorcycle" if name == "motorcycle" else name)()
    return Image.fromarray(pixels[0] if isinstance(pixels, tuple) else pixels).convert("RGB")

"""Images of which the truth is known: a drawn shape on a photograph; two networks that name one.

As BAM (Yang & Kim 2019, arXiv:1907.09701) has it: shape and background are drawn independently, one
network is trained to name the shape, one to name the background, both on the same images. What the
first goes by can only be on the shape's pixels, what the second goes by only beside them.
"""

import itertools
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from comparison.photographs import read
from PIL import Image, ImageDraw
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.data import Dataset

SHAPES = ("disc", "ring", "square", "triangle", "cross", "star")
BACKGROUNDS = (
    "brick",
    "grass",
    "gravel",
    "motorcycle",
    "immunohistochemistry",
    "hubble_deep_field",
)
ASKED = {"shape": len(SHAPES), "background": len(BACKGROUNDS)}
"""What the networks name, and how many there are."""
SIDE = 64
_RADII = (11, 15)
_FINER = 4
"""How much finer than a pixel a shape is drawn."""
_LEARNED = 0.7
"""Of each photograph's width: crops for training lie to the left, others to the right."""
_BATCH, _RATE = 64, 5e-3


@dataclass
class Pasted(Dataset[Tensor]):
    """Images ``(3, 64, 64)`` and what is on them.

    Attributes:
        images: ``(N, 3, 64, 64)``, in [-2, 2].
        masks: ``(N, 64, 64)``, true on the shape.
        labels: By what is asked, ``(N,)``.
        without: The same images without the shape.
        samples: Names.
    """

    images: Tensor
    masks: Tensor
    labels: dict[str, Tensor]
    without: Tensor

    def __post_init__(self) -> None:
        self.samples = [
            f"{number} {SHAPES[shape]} on {BACKGROUNDS[ground]}"
            for number, (shape, ground) in enumerate(
                zip(*(self.labels[what].tolist() for what in ASKED), strict=True)
            )
        ]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, number: int) -> Tensor:
        return self.images[number]

    def select(self, places: Tensor) -> "Pasted":
        """Return some of them."""
        labels = {what: found[places] for what, found in self.labels.items()}
        return Pasted(self.images[places], self.masks[places], labels, self.without[places])


def draw(count: int, seed: int, *, learned: bool) -> Pasted:
    """Draw images.

    Args:
        count: How many.
        seed: Of all that is random.
        learned: Whether the backgrounds are from the part of each photograph to train on.
    """
    rng = np.random.default_rng(seed)
    photographs = [np.asarray(read(name)) for name in BACKGROUNDS]
    images, masks, without = [], [], []
    shapes, grounds = (rng.integers(kinds, size=count) for kinds in ASKED.values())
    for shape, ground in zip(shapes, grounds, strict=True):
        background = _crop(photographs[ground], rng, learned)
        cover = _draw_shape(SHAPES[shape], rng)[..., None]
        colour = rng.uniform(0, 1, 3)
        images.append(cover * colour + (1 - cover) * background)
        masks.append(cover[..., 0] > 0)
        without.append(background)
    labels = {"shape": torch.from_numpy(shapes), "background": torch.from_numpy(grounds)}
    return Pasted(_as_input(images), torch.from_numpy(np.stack(masks)), labels, _as_input(without))


def _as_input(images: list[Any]) -> Tensor:
    return (torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() * 4 - 2).contiguous()


def _crop(photograph: Any, rng: np.random.Generator, learned: bool) -> Any:
    height, width = photograph.shape[:2]
    border = int(width * _LEARNED)
    first, last = (0, border) if learned else (border, width)
    side = int(rng.integers(SIDE, min(2 * SIDE, last - first) + 1))
    left = int(rng.integers(first, last - side + 1))
    top = int(rng.integers(0, height - side + 1))
    crop = Image.fromarray(photograph[top : top + side, left : left + side])
    return np.asarray(crop.resize((SIDE, SIDE), Image.Resampling.BILINEAR)) / 255


def _draw_shape(shape: str, rng: np.random.Generator) -> Any:
    """Return how much of each pixel the shape covers, ``(64, 64)`` in [0, 1]."""
    radius, turn = rng.uniform(*_RADII), rng.uniform(0, 2 * math.pi)
    x, y = rng.uniform(radius, SIDE - radius, 2)
    canvas = Image.new("L", (SIDE * _FINER, SIDE * _FINER))
    pen = ImageDraw.Draw(canvas)

    def place(share: float, angle: float) -> tuple[float, float]:
        far, angle = share * radius, angle + turn
        return (x + far * math.cos(angle)) * _FINER, (y + far * math.sin(angle)) * _FINER

    def circle(share: float, fill: int) -> None:
        far = share * radius
        pen.ellipse([(each * _FINER) for each in (x - far, y - far, x + far, y + far)], fill=fill)

    if shape in ("disc", "ring"):
        circle(0.9, 255)
        if shape == "ring":
            circle(0.5, 0)
    elif shape == "cross":
        for quarter in (0.0, math.pi / 2):
            arms = (0.3, math.pi - 0.3, math.pi + 0.3, -0.3)
            pen.polygon([place(1, quarter + angle) for angle in arms], fill=255)
    else:
        corners = {"square": [1.0] * 4, "triangle": [1.0] * 3, "star": [1.0, 0.45] * 5}[shape]
        step = 2 * math.pi / len(corners)
        pen.polygon([place(far, n * step) for n, far in enumerate(corners)], fill=255)
    return np.asarray(canvas.resize((SIDE, SIDE), Image.Resampling.BOX)) / 255


class Namer(nn.Sequential):
    """Four convolutions, each with its batch norm and rectifier, and three max-poolings.

    Args:
        kinds: How many names there are.
    """

    def __init__(self, kinds: int) -> None:
        layers: list[nn.Module] = []
        widths = (3, 16, 32, 64, 64)
        for number, (before, after) in enumerate(itertools.pairwise(widths)):
            layers += [nn.Conv2d(before, after, 3, padding=1, bias=False)]
            layers += [nn.BatchNorm2d(after), nn.ReLU()]
            layers += [nn.MaxPool2d(2)] if number < 3 else []
        super().__init__(
            *layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], kinds)
        )


def learn(what: str, data: Pasted, steps: int, seed: int, file: Path) -> Namer:
    """Train a network to name what is asked, or read the one that was kept.

    Args:
        what: ``"shape"`` or ``"background"``.
        data: To train on.
        steps: Of 64 images.
        seed: Of the weights and the batches.
        file: Where the weights are kept.

    Returns:
        The network, in evaluation mode.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = Namer(ASKED[what])
        if file.exists():
            model.load_state_dict(load_file(file))
            return model.eval()
        optimizer = torch.optim.Adam(model.parameters(), _RATE)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, _RATE, total_steps=steps)
        for _ in range(steps):
            places = torch.randint(len(data), (_BATCH,))
            images = data.images[places]
            # Neither what is asked changes when the image is mirrored, or brighter.
            images = images.flip(3) if torch.rand(()) < 0.5 else images
            images = images + 0.2 * torch.randn(_BATCH, 3, 1, 1)
            loss = nn.functional.cross_entropy(model(images), data.labels[what][places])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    model.zero_grad(set_to_none=True)
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_suffix(".partial")
    save_file(model.state_dict(), partial)
    partial.replace(file)  # whole or not at all
    return model.eval()


@torch.no_grad()
def name_all(model: nn.Module, images: Tensor) -> Tensor:
    """Return what a network calls each image, ``(N,)``."""
    return torch.cat([model(batch).argmax(1) for batch in images.split(256)])

"""A small network with a skip and two branches, labelled pictures with hostile names, an atlas."""

import time
import warnings
from pathlib import Path

import torch
from pages import HOSTILE
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import Dataset

from captum_deconv import features, gallery

LABELS = ("<b>ring</b>", "bar & 'stripe'", "日本語 🌀", "plain")
METHODS = ("deconvnet", "guided_backprop")
NAMES = {1: HOSTILE, 2: "ünïcödé/日本 🌀.png", 3: "quote\"s'`.png", 4: "x" * 255}


class Block(nn.Module):
    """A convolution with a skip around it."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.norm(self.conv(x)) + x)


class Branching(nn.Module):
    """A stem, two blocks that repeat, two branches that are joined, a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(inplace=True))
        self.blocks = nn.Sequential(Block(6), Block(6))
        self.pool = nn.MaxPool2d(2)
        self.left = nn.Sequential(nn.Conv2d(6, 20, 1), nn.ReLU())
        self.right = nn.Sequential(nn.Conv2d(6, 20, 3, padding=1), nn.ReLU())
        self.joined = nn.Identity()
        self.fc = nn.Linear(40, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(self.blocks(self.stem(x)))
        x = self.joined(torch.cat([self.left(x), self.right(x)], 1))
        return self.fc(x.mean((2, 3)))


def build_network(seed: int = 0) -> nn.Module:
    """Build it; channel 5 of the stem never fires."""
    torch.manual_seed(seed)
    network = Branching().eval()
    network.stem[0].bias.data[5] = -100
    return network


class Pictures(Dataset):
    """Pictures of two sizes, of which each label has its own kind of brightness."""

    classes = LABELS

    def __init__(self, pause: float = 0, count: int = 30) -> None:
        self.pause, self.count = pause, count
        self.samples = [NAMES.get(number, f"folder/photo {number}.png") for number in range(count)]

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, number: int) -> tuple[Tensor, int]:
        time.sleep(self.pause)
        size = (16, 20) if number % 3 else (24, 14)
        image = torch.rand(3, *size, generator=torch.Generator().manual_seed(number))
        return image * (1 + number % 4) / 4, number % 4


def make(folder: Path, pause: float = 0, **how: object) -> gallery.Atlas:
    """Make the atlas of the stem, the blocks and what is joined, with two moments of training."""
    settings = {
        "methods": METHODS,
        "batch_size": 4,
        "checkpoints": {"step 10": build_network(1), HOSTILE: build_network(2)},
        "about": f"About {HOSTILE}",
        "title": f"Atlas {HOSTILE}",
        "checkpoint_seconds": 0,
        "progress": False,
    }
    return gallery.atlas(build_network(), Pictures(pause), folder, **{**settings, **how})


def read_all(folder: Path) -> dict[str, bytes]:
    """Return every file below a folder by its path."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def run(folder: Path, pause: float) -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("error")
    with features.processes("cpu"):
        make(folder, pause)

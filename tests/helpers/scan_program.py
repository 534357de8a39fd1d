"""A scan in a process of its own, which the tests kill: ``scan_program.py FOLDER PAUSE``.

With the environment that ``torchrun`` sets it is one of several.
"""

import os
import sys
import time
import warnings
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from captum_deconv import features

LENGTH = 203


class Slow(Dataset):
    """Images made on the fly, each after a pause, and one that cannot be read."""

    def __init__(self, pause: float) -> None:
        self.pause = pause

    def __len__(self) -> int:
        return LENGTH

    def __getitem__(self, index: int) -> Tensor:
        time.sleep(self.pause)
        if index == 17:
            raise OSError("truncated")
        generator = torch.Generator().manual_seed(index % 50)  # so that there are ties
        return torch.rand(3, 8, 8, generator=generator)


class Killer(Slow):
    """Ends its process without a word when it comes to one sample for the first time."""

    def __init__(self, marker: Path, sample: int) -> None:
        super().__init__(0.002)
        self.marker, self.sample = marker, sample
        self.armed = False

    def __getitem__(self, index: int) -> Tensor:
        if self.armed and index == self.sample and not self.marker.exists():
            self.marker.touch()
            os.kill(os.getpid(), 9)
        self.armed = self.armed or index == LENGTH - 1  # the fingerprint has been taken
        return super().__getitem__(index)


def build_model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.MaxPool2d(2)).eval()


def scan(dataset: Dataset, checkpoint: Path | None) -> features.ActivationIndex:
    return features.scan(
        build_model(),
        ["0", "2"],
        dataset,
        batch_size=4,
        checkpoint=checkpoint,
        checkpoint_seconds=0,
        progress=False,
    )


def run(folder: Path, kind: str) -> None:
    warnings.simplefilter("ignore", features.ScanWarning)
    torch.set_num_threads(1)
    dataset = Killer(folder / "killed", 150) if kind == "killer" else Slow(float(kind))
    with features.processes("cpu") as process:
        index = scan(dataset, folder / "checkpoint")
        if process.rank == 0:
            index.save(folder / "index")


if __name__ == "__main__":
    run(Path(sys.argv[1]), sys.argv[2])

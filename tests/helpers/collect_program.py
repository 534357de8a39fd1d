"""A collection in a process of its own, which the tests kill."""

import sys
import time
import warnings
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from captum_deconv import collect, features

LENGTH = 601


class Slow(Dataset):
    """Images made on the fly, each after a pause, with a label; one cannot be read."""

    def __init__(self, pause: float) -> None:
        self.pause = pause

    def __len__(self) -> int:
        return LENGTH

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        if index == 40:
            raise OSError("damaged")
        time.sleep(self.pause)
        generator = torch.Generator().manual_seed(index)
        return torch.rand(3, 12, 12, generator=generator), index % 5


def build_model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(150, 5)
    ).eval()


def run(folder: Path, pause: str, **how: object) -> object:
    torch.set_num_threads(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return collect(
            build_model(),
            Slow(float(pause)),
            folder / "kept",
            batch_size=4,
            shard_bytes=50_000,
            checkpoint_seconds=0,
            progress=False,
            **how,
        )


if __name__ == "__main__":
    with features.processes("cpu"):
        run(Path(sys.argv[1]), sys.argv[2], by_size="by-size" in sys.argv)

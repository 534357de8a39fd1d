"""A small network to scan, and how scans are compared."""

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from captum_deconv import features

Places = list[list[tuple[float, int, tuple[int, ...]]]]


class Small(nn.Module):
    """Two convolutions, a pooling and a classifier; counts how often each part runs."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 5, 3, padding=1)
        self.pool = nn.MaxPool2d(2)
        self.conv2 = nn.Conv2d(5, 7, 3, stride=2)
        self.fc = nn.Linear(7, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x).relu_()
        x = self.conv2(self.pool(x)).relu()
        return self.fc(x.mean((2, 3)))


LAYERS = ("conv1", "pool", "conv2", "fc")


def assert_equal(one: features.ActivationIndex, other: features.ActivationIndex) -> None:
    assert one.layers == other.layers
    for kind in ("values", "samples", "positions", "nans"):
        ours, theirs = getattr(one, kind), getattr(other, kind)
        assert list(ours) == list(theirs)
        for layer in ours:
            assert torch.equal(ours[layer], theirs[layer]), (kind, layer)
    for kind in ("metadata", "skipped", "nan_samples", "covered"):
        assert getattr(one, kind) == getattr(other, kind), kind


class Damaged(Dataset):
    """Images of which some cannot be read."""

    def __init__(self, images: Tensor, unreadable: dict[int, object]) -> None:
        self.images, self.unreadable = images, unreadable

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> object:
        found = self.unreadable.get(index, self.images[index])
        if isinstance(found, Exception):
            raise found
        return found, index

"""Small seeded networks, and what the tests of several modules share."""

import os

import pytest
import torch
from command_fixtures import call, folder  # noqa: F401  # fixtures, by their names
from pages import browser  # noqa: F401  # likewise
from torch import nn
from torch.nn import functional as F

os.environ.setdefault("MPLBACKEND", "Agg")
torch.set_num_threads(1)  # the runner has a process per core


class SkipNet(nn.Module):
    """A shared ReLU module, a functional ReLU and a skip: what Captum misses."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 6, 3, padding=1)
        self.conv2 = nn.Conv2d(6, 6, 3, padding=1)
        self.relu = nn.ReLU()
        self.pool = nn.MaxPool2d(2)
        self.fc = nn.Linear(6 * 4 * 4, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv1(x)
        x = self.relu(x) + x
        x = self.relu(self.conv2(x))
        return self.fc(F.relu(self.pool(x)).flatten(1))


@pytest.fixture
def model() -> nn.Module:
    """Return a small network in eval mode."""
    torch.manual_seed(0)
    return SkipNet().eval()


@pytest.fixture
def images() -> torch.Tensor:
    """Return three images, ``(3, 3, 8, 8)``."""
    return torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(1))

"""A small network and a data set for the tests of scans."""

import pytest
import torch
from scans import Small
from torch import nn
from torch.utils.data import TensorDataset

Places = list[list[tuple[float, int, tuple[int, ...]]]]


@pytest.fixture
def small() -> nn.Module:
    torch.manual_seed(0)
    return Small().eval()


@pytest.fixture
def dataset() -> TensorDataset:
    """Return 45 images of few grey levels, several of them twice: activations are often equal."""
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(0, 2, (45, 3, 8, 8), generator=generator).float()
    images[30:40] = images[3:13]
    images[20] = 0
    return TensorDataset(images, torch.arange(45))

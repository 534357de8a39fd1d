"""A small network that learned something, and images of it."""

import pytest
import torch
from torch import nn


class Spot(nn.Sequential):
    """Says which colour the square in an image has; learned in seconds."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 5, padding=2)
        self.relu1 = nn.ReLU()
        self.pool1 = nn.MaxPool2d(2)
        self.conv2 = nn.Conv2d(8, 12, 3, padding=1)
        self.relu2 = nn.ReLU()
        self.average = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.head = nn.Linear(12, 4)


def draw(count, seed):
    """Return images ``(N, 3, 24, 24)`` of noise with a square, its colour and its box."""
    generator = torch.Generator().manual_seed(seed)
    images = 0.3 * torch.randn(count, 3, 24, 24, generator=generator)
    classes = torch.randint(4, (count,), generator=generator)
    places = torch.randint(18, (count, 2), generator=generator)
    colours = torch.tensor([[1.0, -1, -1], [-1, 1, -1], [-1, -1, 1], [1, 1, 1]])
    boxes = {}
    for number, (left, top) in enumerate(places.tolist()):
        square = images[number, :, top : top + 6, left : left + 6]
        square += 1.5 * colours[classes[number], :, None, None]
        boxes[str(number)] = (left, top, left + 6, top + 6)
    return images, classes, boxes


@pytest.fixture(scope="session")
def spot():
    """Return the trained network."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Spot()
        optimizer = torch.optim.Adam(model.parameters(), 1e-2)
        for step in range(80):
            images, classes, _ = draw(64, step)
            loss = nn.functional.cross_entropy(model(images), classes)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    model.zero_grad(set_to_none=True)
    images, classes, _ = draw(64, 999)
    assert (model(images).argmax(1) == classes).float().mean() > 0.95
    return model.eval()


@pytest.fixture(scope="session")
def squares():
    """Return eight images and their boxes."""
    images, _, boxes = draw(8, 1000)
    return list(images), boxes

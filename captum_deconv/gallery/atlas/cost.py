"""What an atlas will take, told before it begins: about how long, and about how large."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from rich import filesize
from torch import Tensor, nn

from captum_deconv.receptive_field.crops import patch_size
from captum_deconv.receptive_field.field import ReceptiveField

_BACKWARD = 3
"""A projection's passes through its crop, forward and back, in forward passes."""

_BYTES = 0.3
"""Of a pixel of a strip."""

_CELL = 144


@dataclass(frozen=True)
class Task:
    """What is to be projected of a layer."""

    neurons: int
    views: int
    size: tuple[int, ...]

    @property
    def pixels(self) -> int:
        """Of all crops together."""
        return self.neurons * math.prod(self.size)

    @property
    def bytes(self) -> float:
        """About what the pictures take."""
        by = min(1.0, _CELL / max(self.size))
        return self.neurons * self.views * math.prod(self.size) * by**2 * _BYTES


def plan_layer(field: ReceptiveField | None, image: Tensor, neurons: int, views: int) -> Task:
    """Say what a layer will take.

    Args:
        field: Of its neurons; None where each sees all.
        image: One of the images, ``(C, H, W)``.
        neurons: How many are projected.
        views: Pictures of each.

    Returns:
        The task.
    """
    size = tuple(image.shape[1:]) if field is None else patch_size(field)
    return Task(neurons, views, size)


def tell(model: nn.Module, image: Tensor, length: int, tasks: Sequence[Task], channels: int) -> str:
    """Tell what an atlas will take.

    Args:
        model: It is run on a few copies of the image, for the time.
        image: One of the images.
        length: How many there are.
        tasks: Of all layers.
        channels: Of all layers, the scan's maxima being of all.

    Returns:
        A sentence.
    """
    forward = measure_forward(model, image)
    area = math.prod(image.shape[1:])
    seconds = forward * (length + _BACKWARD * sum(task.pixels for task in tasks) / area)
    size = 4 * length * channels + sum(task.bytes for task in tasks)
    return (
        f"about {say_seconds(seconds)} and {filesize.decimal(int(size))}, for {length} images and "
        f"{sum(task.neurons for task in tasks)} projections; a pass of one image takes "
        f"{1000 * forward:.0f} ms"
    )


def measure_forward(model: nn.Module, image: Tensor, copies: int = 4) -> float:
    """Return the seconds that a forward pass takes of one image, in a batch of a few."""
    like: Any = next(model.parameters(), torch.empty(0))
    batch = image[None].repeat(copies, 1, 1, 1).to(like.device)
    times = []
    with torch.no_grad():
        for _ in range(3):
            begun = time.perf_counter()
            model(batch)
            if like.device.type == "cuda":
                torch.cuda.synchronize(like.device)
            times.append(time.perf_counter() - begun)
    return min(times) / copies


def say_seconds(seconds: float) -> str:
    """Say a time as a person does."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes / 60:.1f} h"


def say_nothing(text: str) -> None:
    """Tell nobody."""


Report = Callable[[str], None]

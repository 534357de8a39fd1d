"""Batches of a data set whose samples may be unreadable, all of one size.

A sample's activations may differ in their last bits with the size of its batch, and with nothing
else: not with its neighbours, nor with its place. So every batch has the full size; what is missing
at the end of the data set, or could not be read, is filled with zeros and marked as no sample.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from captum_deconv.features.ranking import MISSING
from captum_deconv.features.reading import read_in_batches
from captum_deconv.features.records import read_sample


@dataclass
class Batch:
    """Some of a data set's images.

    Attributes:
        images: ``(batch_size, *shape)``, or None where no sample of the batch could be read.
        samples: ``(batch_size,)``, their indices; -1 where the image is only padding.
        stop: The first sample after the batch.
        unreadable: Why samples could not be read, by index.
        problem: Why no batch can be made of what was read.
    """

    images: Tensor | None
    samples: Tensor
    stop: int
    unreadable: dict[int, str]
    problem: str | None = None

    def pin_memory(self) -> Batch:
        """Move the images to memory from which copies to a GPU are quick; the loader calls it."""
        if self.images is not None:
            self.images = self.images.pin_memory()
        return self


@dataclass
class _Collate:
    """Makes a batch of samples; a class, so that workers started afresh can be sent it."""

    batch_size: int

    def __call__(self, items: list[tuple[int, Tensor | str]]) -> Batch:
        stop = items[-1][0] + 1
        readable = [(index, item) for index, item in items if isinstance(item, Tensor)]
        unreadable = {index: item for index, item in items if isinstance(item, str)}
        samples = torch.full((self.batch_size,), MISSING)
        if not readable:
            return Batch(None, samples, stop, unreadable)
        first_index, first = readable[0]
        images = first.new_zeros((self.batch_size, *first.shape))
        for index, image in readable:
            if image.shape != first.shape or image.dtype != first.dtype:
                problem = (
                    f"samples {first_index} and {index} are of {_kind_of(first)} and "
                    f"{_kind_of(image)}: a batch needs one kind; give the data set a transform "
                    "that resizes and crops, or use batch_size=1"
                )
                return Batch(None, samples, stop, unreadable, problem)
            place = index - items[0][0]
            images[place] = image.detach()
            samples[place] = index
        return Batch(images, samples, stop, unreadable)


def _kind_of(image: Tensor) -> str:
    return f"shape {tuple(image.shape)} and type {image.dtype}"


def read_batches(
    dataset: Any, start: int, stop: int, batch_size: int, num_workers: int, *, pin_memory: bool
) -> Iterator[Batch]:
    """Read a range of samples, batch by batch in order.

    Args:
        dataset: A map-style data set of tensors, or of tuples that begin with one.
        start: The first sample.
        stop: The first sample after the last.
        batch_size: How many images a batch holds, padding included.
        num_workers: How many processes read; 0 reads in a thread of this one.
        pin_memory: Whether the images are for a GPU.

    Yields:
        The batches.

    Raises:
        ValueError: If samples of one batch differ in shape or type.
    """
    starts = range(start, stop, batch_size)
    batches = [range(first, min(first + batch_size, stop)) for first in starts]
    for batch in read_in_batches(
        *(dataset, read_sample, batches, _Collate(batch_size)),
        num_workers=num_workers,
        pin_memory=pin_memory,
    ):
        if batch.problem:
            raise ValueError(batch.problem)
        yield batch

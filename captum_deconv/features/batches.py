"""Batches of a data set whose samples may be unreadable, all of one size.

A sample's activations may differ in their last bits with the size of its batch, and with nothing
else: not with its neighbours, nor with its place. So every batch has the full size; what is missing
at the end of the data set, or could not be read, is filled with zeros and marked as no sample.
Where samples differ in size, so do batches: each holds samples of one size, and is as large as
there are of them, for there may be few.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from captum_deconv.features.ranking import MISSING
from captum_deconv.features.reading import batch_by_size, read_in_batches
from captum_deconv.features.records import read_labelled, read_sample


@dataclass
class Batch:
    """Some of a data set's images.

    Attributes:
        images: ``(batch_size, *shape)``, or None where no sample of the batch could be read.
        samples: ``(batch_size,)``, their indices; -1 where the image is only padding.
        labels: ``(batch_size,)``; -1 where there is none.
        count: How many samples it is of, the unreadable ones too.
        unreadable: Why samples could not be read, by index.
        problem: Why no batch can be made of what was read.
    """

    images: Tensor | None
    samples: Tensor
    labels: Tensor
    count: int
    unreadable: dict[int, str]
    problem: str | None = None

    def pin_memory(self) -> Batch:
        """Move the images to memory from which copies to a GPU are quick; the loader calls it."""
        if self.images is not None:
            self.images = self.images.pin_memory()
        return self


_Item = tuple[int, "tuple[Tensor, int] | str"]


@dataclass
class _Collate:
    """Makes a batch of samples; a class, so that workers started afresh can be sent it."""

    batch_size: int | None

    def __call__(self, items: list[_Item]) -> Batch:
        size = self.batch_size or len(items)
        samples, labels = torch.full((2, size), MISSING)
        unreadable = {index: item for index, item in items if isinstance(item, str)}
        batch = Batch(None, samples, labels, len(items), unreadable)
        first: tuple[int, Tensor] | None = None
        for place, (index, item) in enumerate(items):
            if isinstance(item, str):
                continue
            image, label = item
            if first is None or batch.images is None:
                first = index, image
                batch.images = image.new_zeros((size, *image.shape))
            if image.shape != first[1].shape or image.dtype != first[1].dtype:
                problem = (
                    f"samples {first[0]} and {index} are of {_kind_of(first[1])} and "
                    f"{_kind_of(image)}: a batch needs one kind; give by_size=True where sizes "
                    "differ, or the data set a transform that makes them alike"
                )
                return Batch(None, samples, labels, len(items), unreadable, problem)
            batch.images[place] = image.detach()
            samples[place], labels[place] = index, label
        return batch


def _kind_of(image: Tensor) -> str:
    return f"shape {tuple(image.shape)} and type {image.dtype}"


def _read(dataset: Any, index: int) -> tuple[Tensor, int]:
    (image,), label = read_labelled(dataset, index)
    try:
        return image, MISSING if label is None else int(label)
    except (TypeError, ValueError):  # such as a detector's boxes
        return image, MISSING


def read_shape(dataset: Any, index: int) -> tuple[int, ...]:
    """Read the shape of one sample's tensor."""
    return tuple(read_sample(dataset, index).shape)


def plan_batches(
    length: int, batch_size: int, shapes: Sequence[tuple[int, ...] | None] | None
) -> list[Sequence[int]]:
    """Say which samples make which batch.

    Args:
        length: Of the data set.
        batch_size: How many images a batch holds.
        shapes: Of each sample, where they differ; None of one that cannot be read.

    Returns:
        The samples' numbers, batch by batch.
    """
    if shapes is None:
        starts = range(0, length, batch_size)
        return [range(first, min(first + batch_size, length)) for first in starts]
    return list(batch_by_size(range(length), shapes, batch_size))


def read_batches(
    dataset: Any,
    batches: Sequence[Sequence[int]],
    batch_size: int | None,
    num_workers: int,
    *,
    pin_memory: bool,
) -> Iterator[Batch]:
    """Read samples, batch by batch in order.

    Args:
        dataset: A map-style data set of tensors, or of tuples that begin with one.
        batches: The samples' numbers.
        batch_size: How many images a batch holds, padding included; None where there is none.
        num_workers: How many processes read; 0 reads in a thread of this one.
        pin_memory: Whether the images are for a GPU.

    Yields:
        The batches.

    Raises:
        ValueError: If samples of one batch differ in shape or type.
    """
    for batch in read_in_batches(
        *(dataset, _read, batches, _Collate(batch_size)),
        num_workers=num_workers,
        pin_memory=pin_memory,
    ):
        if batch.problem:
            raise ValueError(batch.problem)
        yield batch

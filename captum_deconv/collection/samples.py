"""A data set's samples in batches: images, labels, and what could not be read.

Which samples make a batch is settled by their numbers alone, so that a run that was cut off, and
one of several processes, computes the same batches.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from captum_deconv.features.records import UnreadableSampleError, read_labelled

NO_LABEL = -1

Item = TypeVar("Item")


@dataclass
class Source:
    """A data set, the order in which its samples are taken, and how they are batched.

    Attributes:
        dataset: Map-style.
        batches: The samples' numbers, batch by batch; a row of the collection for each.
        num_workers: Processes that read; 0 reads in a thread of this one.
    """

    dataset: Any
    batches: list[list[int]]
    num_workers: int

    @property
    def order(self) -> list[int]:
        """The sample of each row."""
        return [number for batch in self.batches for number in batch]


def open_source(data: Any, batch_size: int, num_workers: int) -> Source:
    """Take a data set, or a loader's data set in the loader's batches.

    Args:
        data: Map-style, or a ``DataLoader`` of one.
        batch_size: How many samples make a batch, where no loader says so.
        num_workers: How many processes read, where no loader says so.

    Returns:
        The source.

    Raises:
        TypeError: If the data set has no length, or the loader puts its batches together in a way
            of its own.
        ValueError: If there is no sample.
    """
    if isinstance(data, DataLoader):
        if data.collate_fn is not default_collate or data.batch_sampler is None:
            raise TypeError(
                "the DataLoader has a collate_fn of its own, or makes no batches: give its data "
                "set itself, whose samples are read one by one"
            )
        batches, num_workers = [list(batch) for batch in data.batch_sampler], data.num_workers
        data = data.dataset
    else:
        if not (hasattr(data, "__len__") and hasattr(data, "__getitem__")):
            raise TypeError(
                f"data must be a data set with a length, or a DataLoader of one, not a "
                f"{type(data).__name__}"
            )
        numbers = range(len(data))
        starts = range(0, len(numbers), batch_size)
        batches = [list(numbers[start : start + batch_size]) for start in starts]
    if not batches:
        raise ValueError("the data set is empty")
    return Source(data, batches, num_workers)


@dataclass
class Sample:
    """One sample: its image ``(C, H, W)`` and its label, -1 where it has none."""

    image: Tensor
    label: int = NO_LABEL


@dataclass
class Batch:
    """Some samples: the readable ones with their rows, and why the others cannot be read."""

    rows: list[int]
    images: Tensor
    labels: list[int]
    unreadable: dict[int, str] = field(default_factory=dict)


def read(dataset: Any, number: int) -> Sample:
    """Read a sample; as :func:`captum_deconv.features.records.read_labelled`."""
    image, label = read_labelled(dataset, number)
    try:
        return Sample(image.detach(), NO_LABEL if label is None else int(label))
    except (TypeError, ValueError):  # such as a detector's boxes
        return Sample(image.detach())


class _Readable(Dataset["Sample | str"]):
    """A data set whose samples are what was read, or what went wrong."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __getitem__(self, number: int) -> Sample | str:
        try:
            return read(self.dataset, number)
        except UnreadableSampleError as error:
            return str(error)


def read_batches(source: Source, first: int, last: int) -> Iterator[Batch]:
    """Read batches in their order, the next one while the last one is at work.

    Args:
        source: What to read.
        first: The first batch.
        last: The batch after the last.

    Yields:
        The batches; one that nothing of could be read has no rows.

    Raises:
        ValueError: If images of a batch differ in shape or type.
    """
    loader = DataLoader(
        _Readable(source.dataset),
        batch_sampler=source.batches[first:last],
        num_workers=source.num_workers,
        collate_fn=list,
        generator=torch.Generator(),  # else the loader draws from the user's global one
    )
    row = sum(map(len, source.batches[:first]))
    for samples in _read_ahead(iter(loader)):
        yield _collate(samples, row)
        row += len(samples)


def _read_ahead(items: Iterator[Item]) -> Iterator[Item]:
    end: Any = object()
    with ThreadPoolExecutor(1) as reader:
        ahead = reader.submit(next, items, end)
        while (item := ahead.result()) is not end:
            ahead = reader.submit(next, items, end)
            yield item


def _collate(samples: Sequence[Sample | str], row: int) -> Batch:
    rows = [row + place for place, found in enumerate(samples) if isinstance(found, Sample)]
    read = [found for found in samples if isinstance(found, Sample)]
    unreadable = {row + place: f for place, f in enumerate(samples) if isinstance(f, str)}
    for other, sample in zip(rows, read, strict=True):
        first = read[0].image
        if sample.image.shape != first.shape or sample.image.dtype != first.dtype:
            raise ValueError(
                f"samples {rows[0]} and {other} are of shape {tuple(first.shape)} and type "
                f"{first.dtype}, and {tuple(sample.image.shape)} and {sample.image.dtype}: give "
                "the data set a transform that makes them alike"
            )
    images = torch.stack([sample.image for sample in read]) if read else torch.empty(0)
    return Batch(rows, images, [sample.label for sample in read], unreadable)

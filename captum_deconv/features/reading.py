"""Samples read in batches, by processes or in a thread; one that cannot be read ends nothing.

Which samples make a batch is settled by their numbers and sizes alone, so that a run that was cut
off, and one of several processes, computes the same batches.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Generic, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset

from captum_deconv.features.records import UnreadableSampleError

Item = TypeVar("Item")
Batch = TypeVar("Batch")
Size = TypeVar("Size", bound=Hashable)

_SURVEYED = 64
"""Samples whose sizes a worker reads at a time."""


class _Each(Dataset["tuple[int, Item | str]"], Generic[Item]):
    """What a function reads of each sample, or what went wrong; with the sample's number."""

    def __init__(self, dataset: Any, read: Callable[[Any, int], Item]) -> None:
        self.dataset, self.read = dataset, read

    def __getitem__(self, number: int) -> tuple[int, Item | str]:
        try:
            return number, self.read(self.dataset, number)
        except UnreadableSampleError as error:
            return number, str(error)


def read_in_batches(
    dataset: Any,
    read: Callable[[Any, int], Item],
    batches: Sequence[Sequence[int]],
    collate: Callable[[list[tuple[int, Item | str]]], Batch],
    *,
    num_workers: int,
    pin_memory: bool = False,
) -> Iterator[Batch]:
    """Read samples in batches, the next one while the last one is at work.

    Args:
        dataset: A map-style data set.
        read: Reads a sample by its number, or raises an ``UnreadableSampleError``.
        batches: The samples' numbers.
        collate: Makes a batch of each sample's number and what was read, or why it cannot be.
        num_workers: How many processes read; 0 reads in a thread of this one.
        pin_memory: Whether the batches are for a GPU.

    Yields:
        The batches, in their order.
    """
    loader = DataLoader(
        _Each(dataset, read),
        batch_sampler=[list(batch) for batch in batches],
        num_workers=num_workers,
        collate_fn=collate,
        pin_memory=pin_memory,
        generator=torch.Generator(),  # else the loader draws from the user's global one
    )
    end: Any = object()
    items = iter(loader)
    with ThreadPoolExecutor(1) as reader:
        ahead = reader.submit(next, items, end)
        while (item := ahead.result()) is not end:
            ahead = reader.submit(next, items, end)
            yield item


def read_sizes(
    dataset: Any,
    read: Callable[[Any, int], Size],
    numbers: Sequence[int],
    advance: Callable[[int], None],
    *,
    num_workers: int,
) -> list[Size | None]:
    """Read every sample for its size.

    Args:
        dataset: A map-style data set.
        read: Reads a sample's size, or raises an ``UnreadableSampleError``.
        numbers: The samples.
        advance: Called with the number of samples that were read.
        num_workers: As for :func:`read_in_batches`.

    Returns:
        Of each sample; None of one that cannot be read.
    """
    batches = [numbers[first : first + _SURVEYED] for first in range(0, len(numbers), _SURVEYED)]
    found: list[Size | None] = []
    for items in read_in_batches(dataset, read, batches, list, num_workers=num_workers):
        found += [None if isinstance(item, str) else item for _, item in items]
        advance(len(items))
    return found


def batch_by_size(
    rows: Sequence[int], sizes: Sequence[Hashable], batch_size: int
) -> list[list[int]]:
    """Make batches of samples of one size.

    Args:
        rows: Numbers into ``sizes``.
        sizes: Of each.
        batch_size: How many a batch holds at most.

    Returns:
        The batches, those of a size together, the sizes in the order of their first.
    """
    alike: dict[Hashable, list[int]] = defaultdict(list)
    for row in rows:
        alike[sizes[row]].append(row)
    return [
        same[first : first + batch_size]
        for same in alike.values()
        for first in range(0, len(same), batch_size)
    ]

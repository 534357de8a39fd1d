"""A data set's samples in batches: what the model takes, labels, and what could not be read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, default_collate

from captum_deconv.features.reading import batch_by_size, read_in_batches, read_sizes
from captum_deconv.features.records import UnreadableSampleError, read_labelled

NO_LABEL = -1
_PROBES = 16

Shapes = tuple[tuple[int, ...], ...]
"""Of each of a sample's inputs."""


@dataclass(frozen=True)
class Source:
    """A data set, the order in which its samples are taken, and how they are batched.

    Attributes:
        dataset: Map-style.
        order: The sample of each row of the collection.
        batches: Rows, batch by batch.
        num_workers: Processes that read; 0 reads in a thread of this one.
        inputs: How many tensors of a sample the model takes.
        own_batches: Whether the batches are those of a loader.
    """

    dataset: Any
    order: list[int]
    batches: list[list[int]]
    num_workers: int
    inputs: int
    own_batches: bool

    def by_size(self, shapes: Sequence[Shapes | None]) -> Source:
        """Return the source with batches of samples of one size.

        Args:
            shapes: Of each row; None of one that cannot be read.

        Returns:
            The source; a loader's batches are divided, else the samples are batched anew, in the
            order of each batch's first.
        """
        size = len(self.batches[0])
        whole = self.batches if self.own_batches else [list(range(len(self.order)))]
        batches = [same for batch in whole for same in batch_by_size(batch, shapes, size)]
        return replace(self, batches=batches if self.own_batches else sorted(batches))


def open_source(data: Any, batch_size: int, num_workers: int, inputs: int) -> Source:
    """Take a data set, or a loader's data set in the loader's batches.

    Args:
        data: Map-style, or a ``DataLoader`` of one.
        batch_size: How many samples make a batch, where no loader says so.
        num_workers: How many processes read, where no loader says so.
        inputs: How many tensors of a sample the model takes.

    Returns:
        The source.

    Raises:
        TypeError: If the data set has no length, or the loader puts its batches together in a way
            of its own.
        ValueError: If there is no sample.
    """
    own = isinstance(data, DataLoader)
    if own:
        if data.collate_fn is not default_collate or data.batch_sampler is None:
            raise TypeError(
                "the DataLoader has a collate_fn of its own, or makes no batches: give its data "
                "set itself, whose samples are read one by one"
            )
        numbers, num_workers = [list(batch) for batch in data.batch_sampler], data.num_workers
        data = data.dataset
    else:
        if not (hasattr(data, "__len__") and hasattr(data, "__getitem__")):
            raise TypeError(
                f"data must be a data set with a length, or a DataLoader of one, not a "
                f"{type(data).__name__}"
            )
        starts = range(0, len(data), batch_size)
        numbers = [list(range(len(data))[start : start + batch_size]) for start in starts]
    if not numbers:
        raise ValueError("the data set is empty")
    order = [number for batch in numbers for number in batch]
    rows = iter(range(len(order)))
    batches = [[next(rows) for _ in batch] for batch in numbers]
    return Source(data, order, batches, num_workers, inputs, own)


@dataclass
class Sample:
    """One sample: what the model takes, without a batch axis, and its label, -1 for none."""

    inputs: tuple[Tensor, ...]
    label: int = NO_LABEL

    @property
    def shapes(self) -> Shapes:
        """The inputs' shapes."""
        return tuple(tuple(each.shape) for each in self.inputs)


@dataclass
class Batch:
    """Some samples: the readable ones with their rows, and why the others cannot be read."""

    rows: list[int]
    inputs: tuple[Tensor, ...]
    labels: list[int]
    unreadable: dict[int, str] = field(default_factory=dict)


def read(dataset: Any, number: int, inputs: int) -> Sample:
    """Read a sample; as :func:`captum_deconv.features.records.read_labelled`."""
    tensors, label = read_labelled(dataset, number, inputs)
    found = Sample(tuple(each.detach() for each in tensors))
    try:
        return found if label is None else replace(found, label=int(label))
    except (TypeError, ValueError):  # such as a detector's boxes
        return found


def probe(source: Source) -> list[Sample]:
    """Read some samples, spread over the data set; if none of them can be read, one that can.

    Args:
        source: What to read.

    Returns:
        The samples, of zeros.

    Raises:
        UnreadableSampleError: If no sample can be read.
    """
    last = len(source.order) - 1
    spread = dict.fromkeys(last * step // (_PROBES - 1) for step in range(_PROBES))
    found: list[Sample] = []
    reason = ""
    for row in dict.fromkeys([*spread, *range(last + 1)]):
        if found and row not in spread:
            break
        try:
            sample = read(source.dataset, source.order[row], source.inputs)
        except UnreadableSampleError as error:
            reason = reason or str(error)
            continue
        found.append(replace(sample, inputs=tuple(map(torch.zeros_like, sample.inputs))))
    if not found:
        raise UnreadableSampleError(f"none of the {last + 1} samples can be read: {reason}")
    return found


def survey(source: Source, advance: Callable[[int], None]) -> list[Shapes | None]:
    """Read every sample for its shapes.

    Args:
        source: What to read.
        advance: Called with the number of samples that were read.

    Returns:
        Of each row; None of one that cannot be read.
    """
    how = _ReadShapes(source.inputs)
    return read_sizes(*(source.dataset, how, source.order, advance), num_workers=source.num_workers)


@dataclass
class _Read:
    """Reads a sample; a class, so that workers started afresh can be sent it."""

    inputs: int

    def __call__(self, dataset: Any, number: int) -> Sample:
        return read(dataset, number, self.inputs)


class _ReadShapes(_Read):
    def __call__(self, dataset: Any, number: int) -> Any:
        return super().__call__(dataset, number).shapes


def _read(source: Source, how: _Read, batches: Sequence[Sequence[int]]) -> Iterator[list[Any]]:
    """Read batches of rows: of each what was read, or why it cannot be."""
    numbers = [[source.order[row] for row in rows] for rows in batches]
    found = read_in_batches(source.dataset, how, numbers, list, num_workers=source.num_workers)
    return ([item for _, item in batch] for batch in found)


def read_batches(source: Source, first: int, last: int) -> Iterator[Batch]:
    """Read batches in their order, the next one while the last one is at work.

    Args:
        source: What to read.
        first: The first batch.
        last: The batch after the last.

    Yields:
        The batches; one that nothing of could be read has no rows.

    Raises:
        ValueError: If samples of a batch differ in shape or type.
    """
    batches = source.batches[first:last]
    for rows, samples in zip(batches, _read(source, _Read(source.inputs), batches), strict=True):
        yield _collate(samples, rows)


def _collate(samples: Sequence[Sample | str], numbers: Sequence[int]) -> Batch:
    found = dict(zip(numbers, samples, strict=True))
    read = {row: each for row, each in found.items() if isinstance(each, Sample)}
    unreadable = {row: each for row, each in found.items() if isinstance(each, str)}
    rows = list(read)
    for row, sample in read.items():
        first = read[rows[0]]
        kinds = [[each.dtype for each in other.inputs] for other in (first, sample)]
        if sample.shapes != first.shapes or kinds[0] != kinds[1]:
            one, other = (_describe(each) for each in (first, sample))
            raise ValueError(
                f"samples {rows[0]} and {row} are of {one}, and {other}: give collect by_size=True "
                "if sizes differ, or the data set a transform that makes them alike"
            )
    stacked = tuple(map(torch.stack, zip(*(each.inputs for each in read.values()), strict=True)))
    return Batch(rows, stacked, [each.label for each in read.values()], unreadable)


def _describe(sample: Sample) -> str:
    return ", ".join(f"shape {tuple(each.shape)} and type {each.dtype}" for each in sample.inputs)

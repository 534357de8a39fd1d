"""Which bytes of which file are whose: a collection's shards, planned before they are filled.

A shard is a safetensors file: eight bytes with the length of a JSON header, the header with each
tensor's type, shape and place, and the tensors one after the other. The header depends on shapes
alone, so the file can be made at its full size first and its rows written in any order.
"""

from __future__ import annotations

import json
import math
import os
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

FORMAT = "captum-deconv collection 1"
MANIFEST = "manifest.json"
SIZES = "sizes.json"

TYPES = {
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float32: "F32",
    torch.float64: "F64",
    torch.int64: "I64",
    torch.uint8: "U8",
}
"""What safetensors calls the types."""

Starts = np.ndarray[Any, np.dtype[np.int64]]

_PADDED = 4096


class CollectionError(ValueError):
    """A folder that is no collection, a damaged one, or one of something else."""


@dataclass(frozen=True, eq=False)
class Field:
    """One tensor of every shard: a row for each sample.

    Attributes:
        name: The tensor's.
        shape: Of one row; empty where rows differ.
        dtype: The tensor's.
        starts: Where rows differ in size, the values before each of the collection's rows, and
            after the last. Such a tensor has one axis, and the rows one after the other.
    """

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    starts: Starts | None = None

    def locate(self, row: int, first: int = 0) -> int:
        """Return the bytes between the beginnings of a row and of the first one."""
        values = (
            (row - first) * math.prod(self.shape)
            if self.starts is None
            else int(self.starts[row] - self.starts[first])
        )
        return values * self.dtype.itemsize


@dataclass(frozen=True, eq=False)
class Shard:
    """One file, for the rows ``start`` to ``stop``."""

    path: Path
    start: int
    stop: int
    fields: tuple[Field, ...]

    @property
    def rows(self) -> int:
        """How many rows it has."""
        return self.stop - self.start

    @cached_property
    def header(self) -> bytes:
        """What the file begins with."""
        entries: dict[str, Any] = {}
        at = 0
        for field in self.fields:
            size = field.locate(self.stop, self.start)
            end = at + size
            ragged = field.starts is not None
            shape = [size // field.dtype.itemsize] if ragged else [self.rows, *field.shape]
            place = {"dtype": TYPES[field.dtype], "shape": shape, "data_offsets": [at, end]}
            entries[field.name] = place
            at = end
        text = json.dumps(entries).encode()
        text += b" " * (-(len(text) + 8) % _PADDED)  # the data begin on a page
        return struct.pack("<Q", len(text)) + text

    @cached_property
    def offsets(self) -> dict[str, int]:
        """Where in the file each tensor begins."""
        found, at = {}, len(self.header)
        for field in self.fields:
            found[field.name] = at
            at += field.locate(self.stop, self.start)
        return found

    def locate(self, field: Field, row: int) -> int:
        """Return where in the file a row of a field begins."""
        return self.offsets[field.name] + field.locate(row, self.start)

    @property
    def size(self) -> int:
        """Bytes of the whole file."""
        rows = sum(field.locate(self.stop, self.start) for field in self.fields)
        return len(self.header) + rows

    def make(self) -> None:
        """Make the file at its full size, if it is not there.

        Raises:
            CollectionError: If a file of something else is in its place.
            OSError: If the disk cannot hold it.
        """
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            # Several processes may do this at once: each writes the same.
            if os.fstat(descriptor).st_size not in (0, self.size):
                raise CollectionError(f"{self.path} is of another size than it should be")
            os.posix_fallocate(descriptor, 0, self.size)
            os.pwrite(descriptor, self.header, 0)
        finally:
            os.close(descriptor)


def find_starts(starts: Starts, shards: Sequence[Shard]) -> Tensor:
    """Return where in its file's tensor each row begins, for a field of rows that differ.

    Args:
        starts: The field's.
        shards: All files.

    Returns:
        Values before each row, ``(N,)``.
    """
    parts = [starts[shard.start : shard.stop] - starts[shard.start] for shard in shards]
    return torch.from_numpy(np.concatenate(parts))


def name_map(name: str, number: int) -> str:
    """Name the tensor of an input: the first one's has no number."""
    return f"{name}.{number}" if number else name


def plan(folder: Path, length: int, fields: tuple[Field, ...], shard_bytes: int) -> list[Shard]:
    """Divide rows among files.

    Args:
        folder: Where they are to be.
        length: How many rows there are.
        fields: What a row holds, the largest types first.
        shard_bytes: About how large a file may be; it holds one row at least.

    Returns:
        The shards, in order.
    """
    rows = np.arange(length + 1)
    before = np.zeros_like(rows)
    for field in fields:
        values = rows * math.prod(field.shape) if field.starts is None else field.starts
        before += values * field.dtype.itemsize
    edges = [0]
    while edges[-1] < length:
        stop = int(np.searchsorted(before, before[edges[-1]] + shard_bytes, side="right")) - 1
        edges.append(min(max(stop, edges[-1] + 1), length))
    count = len(edges) - 1
    return [
        Shard(folder / f"attributions-{number:05d}-of-{count:05d}.safetensors", start, stop, fields)
        for number, (start, stop) in enumerate(pairwise(edges), start=1)
    ]

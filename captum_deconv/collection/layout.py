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
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

FORMAT = "captum-deconv collection 1"
MANIFEST = "manifest.json"

TYPES = {
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float32: "F32",
    torch.float64: "F64",
    torch.int64: "I64",
    torch.uint8: "U8",
}
"""What safetensors calls the types."""

_PADDED = 4096


class CollectionError(ValueError):
    """A folder that is no collection, a damaged one, or one of something else."""


@dataclass(frozen=True)
class Field:
    """One tensor of every shard: a row for each sample.

    Attributes:
        name: The tensor's.
        shape: Of one row.
        dtype: The tensor's.
    """

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        return math.prod(self.shape) * self.dtype.itemsize


@dataclass(frozen=True)
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
            end = at + self.rows * field.row_bytes
            shape = [self.rows, *field.shape]
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
            at += self.rows * field.row_bytes
        return found

    @property
    def size(self) -> int:
        """Bytes of the whole file."""
        return len(self.header) + self.rows * sum(field.row_bytes for field in self.fields)

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
    each = max(1, shard_bytes // sum(field.row_bytes for field in fields))
    count = -(-length // each)
    return [
        Shard(
            folder / f"attributions-{number + 1:05d}-of-{count:05d}.safetensors",
            number * each,
            min((number + 1) * each, length),
            fields,
        )
        for number in range(count)
    ]

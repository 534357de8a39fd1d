"""A collection, read back: a data set whose tensors stay on the disk until they are used."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from captum_deconv.collection.layout import FORMAT, MANIFEST, TYPES, CollectionError, name_map
from captum_deconv.collection.writing import merge_parts
from captum_deconv.sources.names import suggest

if TYPE_CHECKING:
    import datasets  # type: ignore[import-untyped]  # it publishes no types
    import pandas  # type: ignore[import-untyped]  # it publishes no types

_TYPES = {name: dtype for dtype, name in TYPES.items()}
_PICTURES = 12


class Collection(Dataset[dict[str, Any]], Sequence[dict[str, Any]]):
    """The attributions of a data set's readable samples, in the data set's order.

    An item is a dictionary: ``name``, ``target`` (a class, or a neuron as ``(channel, *place)``),
    ``predicted`` and ``label`` (None where there is none), ``score`` (the value that was
    explained), and by each method's name its attribution ``(C, H, W)``, or a tuple with that of
    each input.

    Open one with :meth:`open`.
    """

    def __init__(self, folder: Path, manifest: dict[str, Any]) -> None:
        self.folder = folder
        self.record: dict[str, Any] = manifest["record"]
        self.skipped = {int(row): reason for row, reason in manifest["skipped"].items()}
        self.fast: float | None = manifest["difference"]
        """How far the first batch is off, of its largest value, where a faster copy was used."""
        self._length: int = manifest["length"]
        self._names: list[str] | None = manifest["names"]
        self._shards = [_Shard(folder / name, start) for name, start, _ in manifest["shards"]]
        self._starts = np.array([start for _, start, _ in manifest["shards"]])
        self.rows = [row for row in range(self._length) if row not in self.skipped]
        """Of each item, which of the data set's samples it is, in the order they were taken."""

    @classmethod
    def open(cls, folder: str | Path) -> Collection:
        """Open a collection; its tensors stay on the disk.

        Args:
            folder: As given to :func:`captum_deconv.collect`.

        Returns:
            The collection.

        Raises:
            CollectionError: If there is none, it is not complete, or it is damaged.
        """
        folder = Path(folder)
        path = folder / MANIFEST
        if not path.exists():
            begun = any(folder.glob("progress-*.json"))
            raise CollectionError(
                f"{folder} holds no complete collection"
                + (": run collect again to complete it" if begun else f" (no {MANIFEST})")
            )
        try:
            manifest = json.loads(path.read_text(encoding="utf-8"))
            if manifest["format"] != FORMAT:
                raise CollectionError(f"{path} is of the format {manifest['format']!r}")
            return cls(folder, manifest)
        except (ValueError, KeyError, TypeError) as error:
            if isinstance(error, CollectionError):
                raise
            raise CollectionError(f"{path} is no manifest of a collection ({error})") from error

    @classmethod
    def merge(cls, folders: Sequence[str | Path], out: str | Path) -> Collection:
        """Put together the parts of a run that were made in folders of their own.

        Args:
            folders: Each with one part or more, of ``collect(..., shard=(number, count))``; they
                stay as they are.
            out: A new or empty folder.

        Returns:
            The collection, the same to the byte as if one process had made it.

        Raises:
            CollectionError: If a part is missing, not complete, damaged, or of another run, or
                ``out`` holds something.
            OutputError: If ``out`` cannot be written to.
        """
        merge_parts([Path(folder) for folder in folders], Path(out))
        return cls.open(out)

    @property
    def methods(self) -> list[str]:
        """The methods' names."""
        return list(self.record["methods"])

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, index: int) -> dict[str, Any]: ...
    @overload
    def __getitem__(self, index: slice) -> list[dict[str, Any]]: ...
    def __getitem__(self, index: int | slice) -> dict[str, Any] | list[dict[str, Any]]:
        """Return an item, or a list of them."""
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(f"item {index} is out of range: the collection has {len(self)}")
        row = self.rows[index]
        shard = self._shards[int(np.searchsorted(self._starts, row, side="right")) - 1]
        place = row - shard.start
        item: dict[str, Any] = {"name": self._name(row), "target": int(shard["target"][place])}
        if self.record["layer"] is not None:
            item["target"] = (item["target"], *shard["place"][place].tolist())
        for name in ("predicted", "label"):
            value = int(shard[name][place])
            item[name] = None if value < 0 else value
        item["score"] = float(shard["score"][place])
        for method in self.methods:
            maps = [shard.read(method, number, place) for number in range(self.record["inputs"])]
            item[method] = maps[0] if len(maps) == 1 else tuple(maps)
        return item

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (self[index] for index in range(len(self)))

    def _name(self, row: int) -> str:
        return str(row) if self._names is None else self._names[row]

    @cached_property
    def _by_name(self) -> dict[str, int]:
        return {self._name(row): index for index, row in enumerate(self.rows)}

    def by_name(self, name: str) -> dict[str, Any]:
        """Return the item of a name: a file's path, or the sample's number where it has none.

        Args:
            name: The name.

        Returns:
            The item.

        Raises:
            KeyError: If there is none; the closest names are given.
        """
        if name not in self._by_name:
            raise KeyError(f"no item {name!r}{suggest(name, list(self._by_name))}")
        return self[self._by_name[name]]

    def tensor(self, name: str) -> Tensor:
        """Return a field of all items as one tensor.

        Args:
            name: A method (``deconvnet.1`` for its second input), ``target``, ``predicted``,
                ``label``, ``place``, ``score`` or ``norms``.

        Returns:
            ``(N, ...)``. Of a collection in one file with nothing left out it is mapped from the
            file, and nothing is loaded before it is used; else it is a copy. Writing to it does not
            change the file.

        Raises:
            KeyError: If there is no such field.
            ValueError: If it is not of one size for all items.
        """
        known = self._shards[0].fields
        if name not in known:
            raise KeyError(f"no field {name!r}{suggest(name, list(known))}")
        if self._shards[0].is_ragged(name):
            raise ValueError(f"{name} is not of one size for all items: take it item by item")
        parts = [shard[name] for shard in self._shards]
        whole = parts[0] if len(parts) == 1 else torch.cat(parts)
        return whole if not self.skipped else whole[self.rows]

    def to_pandas(self) -> pandas.DataFrame:
        """Return the scalars as a table: a row for each item.

        Returns:
            Columns ``name``, ``target``, ``predicted``, ``label``, ``score`` and, for each method,
            ``norm_<method>``, the Euclidean norm of its attribution before anything was reduced.

        Raises:
            ImportError: If pandas is not installed.
        """
        try:
            import pandas
        except ImportError:
            raise ImportError("to_pandas needs pandas: pip install pandas") from None
        columns: dict[str, Any] = {"name": [self._name(row) for row in self.rows]}
        for name in ("target", "predicted", "label", "score"):
            columns[name] = self.tensor(name).numpy()
        norms = self.tensor("norms").numpy()
        for number, method in enumerate(self.methods):
            columns[f"norm_{method}"] = norms[:, number]
        return pandas.DataFrame(columns)

    def to_datasets(self, cache_dir: str | Path | None = None) -> datasets.Dataset:
        """Return all of it as a Hugging Face data set, such as for ``push_to_hub``.

        Args:
            cache_dir: Where it writes its copy; the library's own cache where left out.

        Returns:
            A column for each entry of an item. What is kept as bfloat16 is float32 there.

        Raises:
            ImportError: If ``datasets`` is not installed.
        """
        try:
            import datasets
        except ImportError:
            raise ImportError("to_datasets needs datasets: pip install datasets") from None
        whole, sizes = datasets.Value("int64"), datasets.List(datasets.Value("int64"))
        columns: dict[str, Any] = {
            "name": datasets.Value("string"),
            "target": whole if self.record["layer"] is None else sizes,
            "predicted": whole,
            "label": whole,
            "score": datasets.Value("float32"),
        }
        shard = self._shards[0]
        for name in (name for name in shard.fields if name.split(".")[0] in self.methods):
            kind = self.record["dtype"].replace("bfloat16", "float32")
            shape = shard.fields[name]["shape"][1:]
            if len(shape) == 3 and not shard.is_ragged(name):
                columns[name] = datasets.Array3D(tuple(shape), kind)
                continue
            maps = self[0][name.split(".")[0]]
            number = int(name.partition(".")[2] or 0)
            columns[name] = datasets.Value(kind)
            for _ in (maps[number] if isinstance(maps, tuple) else maps).shape:
                columns[name] = datasets.List(columns[name])
        features = datasets.Features(columns)
        return datasets.Dataset.from_generator(
            self._list_rows,
            features=features,
            cache_dir=None if cache_dir is None else str(cache_dir),
        )

    def _list_rows(self) -> Iterator[dict[str, Any]]:
        for item in self:
            for method in self.methods:
                maps = item.pop(method)
                for number, each in enumerate(maps if isinstance(maps, tuple) else (maps,)):
                    plain = each.float() if each.dtype == torch.bfloat16 else each
                    item[name_map(method, number)] = plain.numpy()
            yield item

    def __repr__(self) -> str:
        return f"Collection({str(self.folder)!r}, {len(self)} items, {', '.join(self.methods)})"

    def _repr_html_(self) -> str:
        """Show the first twelve items by the first method, for a notebook."""
        from captum_deconv.drawing.notebook import lay_out, show_attribution

        pictures = []
        for item in self[:_PICTURES]:
            found = item[self.methods[0]]
            maps = found[0] if isinstance(found, tuple) else found
            if maps.dim() == 3:
                pictures.append(show_attribution(maps, f"{item['name']}: {item['target']}"))
        return lay_out(repr(self), pictures)


class _Shard:
    """One file's tensors, mapped when they are first asked for."""

    def __init__(self, path: Path, start: int) -> None:
        self.path, self.start = path, start
        self._mapped: dict[str, Tensor] = {}

    @cached_property
    def fields(self) -> dict[str, Any]:
        """The header: of each tensor the type, the shape and the place."""
        try:
            with self.path.open("rb") as file:
                (self._length,) = struct.unpack("<Q", file.read(8))
                found: dict[str, Any] = json.loads(file.read(self._length))
            return found
        except (OSError, ValueError, struct.error) as error:
            raise CollectionError(f"{self.path} is missing or damaged ({error})") from error

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._mapped:
            field = self.fields[name]
            begin, end = (8 + self._length + place for place in field["data_offsets"])
            if end > self.path.stat().st_size:
                raise CollectionError(f"{self.path} is damaged: it ends before its tensors do")
            dtype = _TYPES[field["dtype"]]
            if begin == end:
                return torch.empty(field["shape"], dtype=dtype)
            # A copy on writing: nobody's change reaches the file. Bytes, as numpy has no bfloat16.
            data = np.memmap(self.path, np.uint8, "c", begin, (end - begin,))
            self._mapped[name] = torch.from_numpy(data).view(dtype).view(field["shape"])
        return self._mapped[name]

    def is_ragged(self, name: str) -> bool:
        """Tell whether rows of a field differ in size."""
        first = self.fields[name]["shape"][0]
        return bool(first != self.fields["kept"]["shape"][0])

    def read(self, method: str, number: int, place: int) -> Tensor:
        """Return what one row's input was attributed, as a copy."""
        name = name_map(method, number)
        shape = name_map("shape", number)
        if shape not in self.fields:
            return self[name][place].clone()
        size = self[shape][place].tolist()
        start = int(self[name_map("start", number)][place])
        return self[name][start : start + math.prod(size)].view(size).clone()

    def __getstate__(self) -> dict[str, Any]:
        """Leave the maps behind: a worker of a DataLoader makes its own."""
        return {"path": self.path, "start": self.start, "_mapped": {}}

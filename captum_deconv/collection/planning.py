"""What the files will hold: sizes of samples, the tensors of a shard, room on the disk."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich import filesize
from torch import Tensor

from captum_deconv.collection.layout import Field, Shard, name_map
from captum_deconv.collection.questions import Reduce, reduce_maps
from captum_deconv.collection.samples import Shapes, Source, survey
from captum_deconv.drawing.files import OutputError, replace_file
from captum_deconv.features import distributed
from captum_deconv.features.progress import show_progress


def find_shapes(
    source: Source, file: Path, record: Mapping[str, Any], number: int, wait: bool, shown: bool
) -> list[Shapes | None]:
    """Find each sample's shapes; they are read once, and kept for other parts and other runs.

    Args:
        source: The samples.
        file: Where they are kept.
        record: What the collection is made from.
        number: Of this part.
        wait: Whether the parts are those of ``torch.distributed``: the first one reads.
        shown: Whether to show a bar.

    Returns:
        Of each sample its tensors' shapes; None where it cannot be read.
    """
    of = {key: record[key] for key in ("dataset", "batches", "inputs")}
    count = distributed.find_shard()[1] if wait else 1

    def recall() -> list[Shapes | None] | None:
        if not file.exists():
            return None
        found = json.loads(file.read_text(encoding="utf-8"))
        if found["of"] != json.loads(json.dumps(of)):
            return None
        return [each and tuple(map(tuple, each)) for each in found["shapes"]]

    shapes = recall()
    if shapes is None and (count == 1 or number == 0):
        with show_progress(len(source.order), 0, shown=shown, what="sizes") as advance:
            shapes = survey(source, advance)
        with replace_file(file) as temporary:
            temporary.write_text(json.dumps({"of": of, "shapes": shapes}), encoding="utf-8")
    if count > 1:
        distributed.gather(number)  # the first process has written them
    found = recall() if shapes is None else shapes
    assert found is not None
    return found


def find_kept(shapes: Shapes, reduce: Reduce) -> Shapes:
    """Find out what is kept of a sample's attributions.

    Args:
        shapes: Of its tensors.
        reduce: As for ``collect``.

    Returns:
        The shapes, one for each tensor.
    """
    zeros = (torch.zeros(1, *shape) for shape in shapes)
    return tuple(tuple(reduce_maps(each, reduce).shape[1:]) for each in zeros)


def find_all_kept(shapes: Sequence[Shapes | None], reduce: Reduce) -> list[Shapes]:
    """Find out what is kept of each row.

    Args:
        shapes: Of each row's tensors; None where it cannot be read.
        reduce: As for ``collect``.

    Returns:
        The shapes by row; nothing is kept of one that cannot be read, if rows differ.
    """
    kept = {shape: find_kept(shape, reduce) for shape in set(shapes) if shape is not None}
    first = next(iter(kept.values()))
    nothing = tuple((0,) * len(shape) for shape in first)
    missing = first if len(set(kept.values())) == 1 else nothing
    return [missing if shape is None else kept[shape] for shape in shapes]


def list_fields(
    names: Sequence[str], kept: Sequence[Shapes], dtype: torch.dtype, axes: int
) -> tuple[Field, ...]:
    """List the tensors of every shard, the largest types first.

    Args:
        names: The methods'.
        kept: Of each row the shapes that are kept.
        dtype: As what.
        axes: How many a neuron's place has.

    Returns:
        The tensors, in their order in a file.
    """
    scalars = [
        Field("target", (), torch.int64),
        Field("predicted", (), torch.int64),
        Field("label", (), torch.int64),
        Field("place", (axes,), torch.int64),
        Field("score", (), torch.float32),
        Field("norms", (len(names),), torch.float32),
    ]
    maps = []
    for number, first in enumerate(kept[0]):
        of_rows = [shapes[number] for shapes in kept]
        if len(set(of_rows)) == 1:
            maps += [Field(name_map(name, number), first, dtype) for name in names]
            continue
        starts = np.cumsum([0, *map(math.prod, of_rows)])
        maps += [Field(name_map(name, number), (), dtype, starts) for name in names]
        scalars.append(Field(name_map("shape", number), (len(first),), torch.int64))
        scalars.append(Field(name_map("start", number), (), torch.int64))
    # The largest types first, so that each tensor begins where its type may.
    ordered = sorted([*scalars, *maps], key=lambda field: -field.dtype.itemsize)
    return (*ordered, Field("kept", (), torch.uint8))


def make_files(shards: Sequence[Shard]) -> None:
    """Make the files, if the disk can hold them.

    Args:
        shards: As they were planned.

    Raises:
        OutputError: If it cannot.
    """
    missing = sum(shard.size for shard in shards if not shard.path.exists())
    free = shutil.disk_usage(shards[0].path.parent).free
    if missing > free:
        raise OutputError(
            f"{shards[0].path.parent}: the collection takes {filesize.decimal(missing)}, and the "
            f"disk has {filesize.decimal(free)} left: keep less (reduce=, dtype=), or elsewhere"
        )
    for shard in shards:
        try:
            shard.make()
        except OSError as error:
            raise OutputError(
                f"{shard.path}: no room for its {filesize.decimal(shard.size)} ({error.strerror})"
            ) from error


def check_shapes(fields: Sequence[Field], values: dict[str, Tensor], rows: Sequence[int]) -> None:
    """Check that rows are as large as was planned.

    Args:
        fields: The tensors.
        values: What came of a batch, by field.
        rows: The batch's.

    Raises:
        ValueError: If one is not; it names the sample.
    """
    for field in fields:
        value = values[field.name]
        for row in rows if field.starts is not None else rows[:1]:
            size = field.locate(row + 1, row) // field.dtype.itemsize
            if value[0].numel() != size or (
                field.starts is None and value.shape[1:] != field.shape
            ):
                raise ValueError(
                    f"sample {row} gives {field.name} of {tuple(value.shape[1:])}, and not of "
                    f"{field.shape or size} as was planned: give collect by_size=True if samples "
                    f"differ in size, or a transform that makes them alike (and the same each time)"
                )

"""Attribute a data set, and keep what came of it: what is asked for, and the way through it."""

from __future__ import annotations

import json
import math
import shutil
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich import filesize
from torch import Tensor, nn

from captum_deconv.collection.layout import (
    MANIFEST,
    SIZES,
    CollectionError,
    Field,
    Shard,
    find_starts,
    name_map,
    plan,
)
from captum_deconv.collection.questions import (
    Answer,
    Reduce,
    TargetOf,
    answer_in_parts,
    reduce_maps,
)
from captum_deconv.collection.reading import Collection
from captum_deconv.collection.samples import (
    NO_LABEL,
    Batch,
    Sample,
    Shapes,
    Source,
    open_source,
    probe,
    read_batches,
    survey,
)
from captum_deconv.collection.writing import Progress, Writer, check_record, finish
from captum_deconv.drawing.files import OutputError, make_folder, replace_file
from captum_deconv.engine.coverage import Activations, Uncovered
from captum_deconv.engine.fast import make_fast, measure_difference
from captum_deconv.engine.lean import Memory, check_memory
from captum_deconv.engine.methods import Method, prepare_methods
from captum_deconv.engine.recording import ModelCall
from captum_deconv.engine.rules import RULES
from captum_deconv.engine.structures import Choice
from captum_deconv.features import distributed
from captum_deconv.features.progress import show_progress
from captum_deconv.features.records import (
    UnreadableSampleError,
    describe_dataset,
    describe_model,
    describe_versions,
    name_sample,
)
from captum_deconv.sources.names import suggest

_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_SHOWN = 10


class CollectWarning(UserWarning):
    """What had to be left out of a collection, or done otherwise than asked."""


@dataclass
class _Job:
    """What is done to every batch."""

    model: nn.Module
    methods: list[Method]
    target: Any
    layer: str | None
    neuron: Any
    output: Choice
    memory: Memory
    dtype: torch.dtype
    reduce: Reduce
    device: torch.device
    reference: nn.Module | None = None
    difference: float | None = None

    def work(self, batch: Batch) -> dict[str, Tensor]:
        """Return the rows of a batch, by field."""
        if self.target == "label" and NO_LABEL in batch.labels:
            row = batch.rows[batch.labels.index(NO_LABEL)]
            raise ValueError(
                f'target="label" needs a label of every sample, and sample {row} has none: give '
                "a data set of (tensor, label), or another target"
            )
        labels = torch.tensor(batch.labels)
        found = self._answer(self.model, batch, labels)
        if self.reference is not None and self.difference is None:
            exact = self._answer(self.reference, batch, labels)
            self.difference = max(
                measure_difference(one, other)
                for name, maps in found.attributions.items()
                for one, other in zip(maps, exact.attributions[name], strict=True)
            )
        norms = [
            torch.cat([each.flatten(1) for each in maps], 1).norm(dim=1)
            for maps in found.attributions.values()
        ]
        values = {
            "target": found.target,
            "place": found.place,
            "predicted": found.predicted,
            "label": labels,
            "norms": torch.stack(norms, 1).float(),
            "score": found.score.float(),
            "kept": torch.ones(len(batch.rows), dtype=torch.uint8),
        }
        for name, maps in found.attributions.items():
            for number, each in enumerate(maps):
                kept = reduce_maps(each, self.reduce)
                values[name_map(name, number)] = kept.to(self.dtype)
                shape = torch.tensor(kept.shape[1:]).expand(len(kept), -1)
                values[name_map("shape", number)] = shape
        return {name: value.detach().cpu() for name, value in values.items()}

    def _answer(self, model: nn.Module, batch: Batch, labels: Tensor) -> Answer:
        call = ModelCall(
            model,
            tuple(each.to(self.device, non_blocking=True) for each in batch.inputs),
            output=self.output,
            layer=self.layer or "",
            memory=self.memory,
        )
        question = self.target if self.layer is None else self.neuron
        return answer_in_parts(*(call, self.methods, question, labels, batch.rows, _tell_halved))


def collect(
    model: nn.Module,
    data: Any,
    out: str | Path,
    *,
    methods: Sequence[str] = tuple(RULES),
    target: TargetOf = "predicted",
    layer: str | None = None,
    neuron: str | int | tuple[int, ...] | None = None,
    batch_size: int = 32,
    num_workers: int = 0,
    dtype: torch.dtype = torch.float16,
    reduce: Reduce = None,
    inputs: int = 1,
    by_size: bool | None = None,
    output: Choice = None,
    activations: Activations = "relu",
    uncovered: Uncovered = "warn",
    memory: Memory = "light",
    fast: bool = False,
    shard: tuple[int, int] | None = None,
    shard_bytes: int = 2**30,
    checkpoint_seconds: float = 30.0,
    strict: bool = False,
    progress: bool = True,
) -> Collection | None:
    """Attribute every sample of a data set by several methods, and keep the attributions.

    One forward pass for each batch. A run that was killed goes on when it is called again with the
    same arguments, and the files are the same in every byte. Under ``torch.distributed`` each
    process does its part.

    Args:
        model: In evaluation mode; it is left as it is.
        data: A map-style data set of tensors ``(C, H, W)``, of tuples ``(tensor, label)`` or of
            dictionaries, such as a list or a Hugging Face ``datasets.Dataset``; or a
            ``DataLoader`` of one, whose batches, order and workers are taken.
        out: The folder. It may exist where it is empty or holds the same collection.
        methods: Names among ``"input_gradient"``, ``"guided_backprop"`` and ``"deconvnet"``.
        target: The class to explain: ``"predicted"``, ``"label"``, an int, a sequence with one for
            each sample, or a function of ``(outputs, labels)``, with -1 for a label that there is
            not, to targets ``(N,)``; of a function only its name is compared when a run goes on.
        layer: A layer's dotted name, to explain a neuron of it in place of a class.
        neuron: Of that layer: ``"strongest"``, a channel (where it is strongest), or ``(c, y, x)``.
        batch_size: Images computed at a time. It belongs to the collection.
        num_workers: Processes that read images; 0 reads in a thread of this one.
        dtype: What attributions are kept as.
        reduce: What of them is kept: None for all, ``"sum"`` or ``"abs_max"`` over channels, a size
            to average down to, or a tuple of these, such as ``("sum", 56)``.
        inputs: How many of a sample's tensors, from the first on, the model takes as positional
            arguments; of each is kept what it was attributed.
        by_size: Whether samples differ in size: all are read for theirs first, and batches are of
            one size each. None finds out from sixteen of them, spread over the data set.
        output: As for :class:`captum_deconv.InputGradient`.
        activations: As for :func:`captum_deconv.compare`.
        uncovered: As for :func:`captum_deconv.compare`.
        memory: As for :func:`captum_deconv.compare`.
        fast: Whether to use a faster copy of the model, as for
            :func:`captum_deconv.features.scan`; ``Collection.fast`` says how far the attributions
            of the first batch are off.
        shard: ``(number, count)`` to do one of ``count`` parts, each in a process of its own on the
            same folder; by default the parts are those of ``torch.distributed``.
        shard_bytes: About how large a file may be.
        checkpoint_seconds: How often to make durable what was written, and to record it as done.
        strict: Whether a sample that cannot be read ends the run rather than being left out.
        progress: Whether to show a bar where there is a terminal, with what the files will take.

    Returns:
        The collection; None where other parts of it are not done yet.

    Raises:
        CollectionError: If the folder holds something else; it names what differs.
        IndexError: If a target or neuron is out of range.
        OutputError: If the folder cannot be written to, or the disk has too little room.
        TypeError: If the data or an option is of the wrong kind.
        UnreadableSampleError: If no sample can be read, or, if ``strict``, for the first that
            cannot.
        ValueError: If an option is out of range, a method or layer unknown, the model in train
            mode, the data set empty, or its samples differ in shape.
    """
    names = _check_methods(methods)
    _check_options(target, layer, neuron, dtype)
    for name, value in (
        ("batch_size", batch_size),
        ("inputs", inputs),
        ("shard_bytes", shard_bytes),
    ):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, not {value}")
    training = next((name for name, module in model.named_modules() if module.training), None)
    if training is not None:
        raise ValueError(
            f"the model must be in evaluation mode, and its module {training!r} is in train mode: "
            "call model.eval() first"
        )
    if layer is not None and layer not in dict(model.named_modules()):
        known = [name for name, _ in model.named_modules()]
        raise ValueError(f"the model has no layer {layer!r}{suggest(layer, known)}")
    folder = Path(out)
    source = open_source(data, batch_size, num_workers, inputs)
    length = len(source.order)
    if isinstance(target, Sequence) and not isinstance(target, str) and len(target) != length:
        raise ValueError(f"target has {len(target)} entries, and the data set {length} samples")
    probes = probe(source)
    _check_samples(probes)
    if by_size is None:
        by_size = any(sample.shapes != probes[0].shapes for sample in probes)
    asked = prepare_methods(names, activations, uncovered)
    faster = make_fast(model, [layer] if layer else []) if fast else None
    record = {
        "model": describe_model(model),
        "dataset": describe_dataset(source.dataset),
        "methods": names,
        "target": _describe_target(target) if layer is None else None,
        "layer": layer,
        "neuron": list(neuron) if isinstance(neuron, tuple) else neuron,
        "batches": _describe_batches(source),
        "dtype": str(dtype).removeprefix("torch."),
        "reduce": list(reduce) if isinstance(reduce, tuple) else reduce,
        "inputs": inputs,
        "output": None if output is None else _describe_target(output),
        "by size": by_size,
        "precision": "exact" if faster is None else faster.describe(),
        "activations": activations,
        "shard_bytes": shard_bytes,
        "versions": describe_versions(),
    }
    if (folder / MANIFEST).exists():
        kept = Collection.open(folder)
        check_record(folder, kept.record, record)
        return kept
    _check_folder(folder)
    number, count = distributed.find_shard() if shard is None else shard
    if not 0 <= number < count:
        raise ValueError(f"shard {(number, count)}: the number must be in 0 to {count - 1}")
    job = _Job(
        *(model if faster is None else faster.model, asked, target, layer, neuron, output),
        *(check_memory(memory), dtype, reduce, next(model.parameters(), torch.empty(0)).device),
    )
    axes = _count_axes(job, probes[0])
    job.reference = None if faster is None else model
    _find_kept(probes[0].shapes, reduce)  # a reduction that does not fit is refused here
    make_folder(folder)
    shapes: list[Shapes | None] = [probes[0].shapes] * length
    if by_size:
        shapes = _survey(source, folder / SIZES, record, number, shard is None, progress)
        source = source.by_size(shapes)
    fields = _list_fields(names, _find_all_kept(shapes, reduce), dtype, axes)
    shards = plan(folder, length, fields, shard_bytes)
    edges = [len(source.batches) * part // count for part in range(count + 1)]
    state = Progress(folder, number, count, record)
    _make_files(shards)
    writer = Writer(shards, state, checkpoint_seconds)
    _run(job, source, writer, edges[number], edges[number + 1], strict, progress)
    known = [name_sample(source.dataset, sample) for sample in source.order]
    state.save(
        {
            "length": length,
            "shards": [[shard.path.name, shard.start, shard.stop] for shard in shards],
            "names": None if None in known else known,
        }
    )
    together = shard is None and count > 1
    if together:
        distributed.gather(state.done)  # all parts are written
    complete = (together and number > 0) or finish(folder, [folder])
    if together:
        distributed.gather(complete)  # the manifest is written
    if state.skipped:
        warnings.warn(_tell_skipped(state.skipped), CollectWarning, stacklevel=2)
    return Collection.open(folder) if complete else None


def _check_methods(methods: Sequence[str]) -> list[str]:
    names = [] if isinstance(methods, str) else list(dict.fromkeys(methods))
    if not names:
        raise ValueError(f"methods must be a sequence of names from {', '.join(RULES)}")
    for name in names:
        if name not in RULES:
            raise ValueError(f"unknown method {name!r}{suggest(name, list(RULES))}")
    return names


def _check_options(target: Any, layer: Any, neuron: Any, dtype: torch.dtype) -> None:
    if (layer is None) != (neuron is None):
        raise ValueError("a neuron needs its layer, and a layer a neuron: give both or neither")
    if layer is not None and target != "predicted":
        raise ValueError("a target and a neuron exclude each other: give one of them")
    known = target in ("predicted", "label") if isinstance(target, str) else True
    if not known or not (isinstance(target, (str, int, Sequence)) or callable(target)):
        raise ValueError(
            'target must be "predicted", "label", an int, a sequence of them or a function, not '
            f"{target!r}"
        )
    if dtype not in _DTYPES:
        raise ValueError(f"dtype must be one of {', '.join(map(str, _DTYPES))}, not {dtype}")


def _describe_target(target: Any) -> Any:
    if isinstance(target, (str, int)):
        return target
    if isinstance(target, Sequence):
        return [int(part) for part in target]
    return f"function {getattr(target, '__qualname__', type(target).__name__)}"


def _describe_batches(source: Source) -> Any:
    """Describe the order and the batches: their size where that says all."""
    size = len(source.batches[0])
    numbers = source.order
    plain = [numbers[start : start + size] for start in range(0, len(numbers), size)]
    if numbers == list(range(len(numbers))) and plain == source.batches:
        return size
    return source.batches


def _check_folder(folder: Path) -> None:
    if not folder.exists():
        return
    if not folder.is_dir():
        raise OutputError(f"{folder}: this is a file, and a collection is a folder")
    strange = [
        path.name
        for path in sorted(folder.iterdir())
        if not path.name.startswith(("progress-", "attributions-", SIZES, "."))
    ]
    if strange:
        raise CollectionError(
            f"{folder} holds something else than a collection ({strange[0]}): choose another folder"
        )


def _check_samples(samples: Sequence[Sample]) -> None:
    for sample in samples:
        for each in sample.inputs:
            image = len(sample.inputs) > 1 or each.dim() == 3
            if not image or not each.is_floating_point():
                raise TypeError(
                    f"a sample is {tuple(each.shape)} of {each.dtype}, and images are "
                    "(C, H, W) of a floating-point type"
                )


def _count_axes(job: _Job, sample: Sample) -> int:
    """Return how many axes a neuron's place has: those of its layer's map for one image."""
    if job.layer is None:
        return 0
    if isinstance(job.neuron, tuple):
        return len(job.neuron) - 1
    one = Batch([0], tuple(each[None] for each in sample.inputs), [NO_LABEL])
    return job.work(one)["place"].shape[1]


def _survey(
    source: Source, file: Path, record: Mapping[str, Any], number: int, wait: bool, shown: bool
) -> list[Shapes | None]:
    """Return each sample's shapes; they are read once, and kept for other parts and other runs."""
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


def _find_kept(shapes: Shapes, reduce: Reduce) -> Shapes:
    """Return the shapes of what is kept of a sample's attributions."""
    zeros = (torch.zeros(1, *shape) for shape in shapes)
    return tuple(tuple(reduce_maps(each, reduce).shape[1:]) for each in zeros)


def _find_all_kept(shapes: Sequence[Shapes | None], reduce: Reduce) -> list[Shapes]:
    """Return it of each row; nothing is kept of one that cannot be read, if rows differ."""
    kept = {shape: _find_kept(shape, reduce) for shape in set(shapes) if shape is not None}
    first = next(iter(kept.values()))
    nothing = tuple((0,) * len(shape) for shape in first)
    missing = first if len(set(kept.values())) == 1 else nothing
    return [missing if shape is None else kept[shape] for shape in shapes]


def _list_fields(
    names: Sequence[str], kept: Sequence[Shapes], dtype: torch.dtype, axes: int
) -> tuple[Field, ...]:
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


def _make_files(shards: Sequence[Shard]) -> None:
    """Make the files, if the disk can hold them."""
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


def _run(
    job: _Job,
    source: Source,
    writer: Writer,
    first: int,
    last: int,
    strict: bool,
    shown: bool,
) -> None:
    """Do the batches from the first to the last, from where the state is."""
    sizes = [len(batch) for batch in source.batches[first:last]]
    shards, state = writer.shards, writer.progress
    total, before = sum(sizes), sum(sizes[: state.done])
    by_name = {field.name: field for field in shards[0].fields}
    begins: dict[str, Tensor] = {}
    for number in range(source.inputs):
        field = by_name[name_map(job.methods[0].method, number)]
        if field.starts is not None:
            begins[name_map("start", number)] = find_starts(field.starts, shards)
    what = f"collect ({filesize.decimal(sum(shard.size for shard in shards))})"
    with show_progress(total, before, shown=shown, what=what) as advance, writer.running():
        for number, batch in enumerate(read_batches(source, first + state.done, last), state.done):
            for row, reason in batch.unreadable.items():
                if strict:
                    raise UnreadableSampleError(f"sample {row} cannot be read: {reason}")
                state.skipped[str(row)] = reason
            if batch.rows:
                values = job.work(batch)
                values |= {name: starts[batch.rows] for name, starts in begins.items()}
                _check_shapes(shards[0].fields, values, batch.rows)
                writer.put(batch.rows, values, number + 1)
                state.difference = state.difference or job.difference
            else:
                state.done = number + 1
            advance(sizes[number])


def _check_shapes(fields: Sequence[Field], values: dict[str, Tensor], rows: Sequence[int]) -> None:
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


def _tell_skipped(skipped: Mapping[str, str]) -> str:
    few = [f"{row} ({why})" for row, why in list(skipped.items())[:_SHOWN]]
    more = "; ..." * (len(skipped) > _SHOWN)
    return f"{len(skipped)} samples could not be read and were left out: {'; '.join(few)}{more}"


def _tell_halved(count: int) -> None:
    warnings.warn(
        f"memory did not suffice for a batch of {count}: it was done in two halves",
        CollectWarning,
        stacklevel=2,
    )

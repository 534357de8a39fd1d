"""Attribute a data set, and keep what came of it: what is asked for, and the way through it."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from rich import filesize
from torch import Tensor, nn

from captum_deconv.collection.job import CollectWarning, Job, count_axes
from captum_deconv.collection.layout import MANIFEST, SIZES, find_starts, name_map, plan
from captum_deconv.collection.options import (
    check_folder,
    check_methods,
    check_model,
    check_numbers,
    check_options,
    check_samples,
    describe_batches,
    describe_target,
)
from captum_deconv.collection.planning import (
    check_shapes,
    find_all_kept,
    find_kept,
    find_shapes,
    list_fields,
    make_files,
)
from captum_deconv.collection.questions import Reduce, TargetOf
from captum_deconv.collection.reading import Collection
from captum_deconv.collection.samples import Shapes, Source, open_source, probe, read_batches
from captum_deconv.collection.writing import Progress, Writer, check_record, finish
from captum_deconv.drawing.files import make_folder
from captum_deconv.engine.coverage import Activations, Uncovered
from captum_deconv.engine.fast import make_fast
from captum_deconv.engine.lean import Memory, check_memory
from captum_deconv.engine.methods import prepare_methods
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

_SHOWN = 10


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
    names = check_methods(methods)
    check_options(target, layer, neuron, dtype)
    check_numbers(batch_size=batch_size, inputs=inputs, shard_bytes=shard_bytes)
    check_model(model, layer)
    folder = Path(out)
    source = open_source(data, batch_size, num_workers, inputs)
    length = len(source.order)
    if isinstance(target, Sequence) and not isinstance(target, str) and len(target) != length:
        raise ValueError(f"target has {len(target)} entries, and the data set {length} samples")
    probes = probe(source)
    check_samples(probes)
    if by_size is None:
        by_size = any(sample.shapes != probes[0].shapes for sample in probes)
    asked = prepare_methods(names, activations, uncovered)
    faster = make_fast(model, [layer] if layer else []) if fast else None
    record = {
        "model": describe_model(model),
        "dataset": describe_dataset(source.dataset),
        "methods": names,
        "target": describe_target(target) if layer is None else None,
        "layer": layer,
        "neuron": list(neuron) if isinstance(neuron, tuple) else neuron,
        "batches": describe_batches(source),
        "dtype": str(dtype).removeprefix("torch."),
        "reduce": list(reduce) if isinstance(reduce, tuple) else reduce,
        "inputs": inputs,
        "output": None if output is None else describe_target(output),
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
    check_folder(folder)
    number, count = distributed.find_shard() if shard is None else shard
    if not 0 <= number < count:
        raise ValueError(f"shard {(number, count)}: the number must be in 0 to {count - 1}")
    job = Job(
        *(model if faster is None else faster.model, asked, target, layer, neuron, output),
        *(check_memory(memory), dtype, reduce, next(model.parameters(), torch.empty(0)).device),
    )
    axes = count_axes(job, probes[0])
    job.reference = None if faster is None else model
    find_kept(probes[0].shapes, reduce)  # a reduction that does not fit is refused here
    make_folder(folder)
    shapes: list[Shapes | None] = [probes[0].shapes] * length
    if by_size:
        shapes = find_shapes(source, folder / SIZES, record, number, shard is None, progress)
        source = source.by_size(shapes)
    fields = list_fields(names, find_all_kept(shapes, reduce), dtype, axes)
    shards = plan(folder, length, fields, shard_bytes)
    edges = [len(source.batches) * part // count for part in range(count + 1)]
    state = Progress(folder, number, count, record)
    make_files(shards)
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


def _run(
    job: Job,
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
                check_shapes(shards[0].fields, values, batch.rows)
                writer.put(batch.rows, values, number + 1)
                state.difference = state.difference or job.difference
            else:
                state.done = number + 1
            advance(sizes[number])


def _tell_skipped(skipped: Mapping[str, str]) -> str:
    few = [f"{row} ({why})" for row, why in list(skipped.items())[:_SHOWN]]
    more = "; ..." * (len(skipped) > _SHOWN)
    return f"{len(skipped)} samples could not be read and were left out: {'; '.join(few)}{more}"

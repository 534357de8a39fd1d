"""Attribute a data set, and keep what came of it: what is asked for, and the way through it."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from captum_deconv.collection.layout import MANIFEST, CollectionError, Field, Shard, plan
from captum_deconv.collection.questions import (
    Reduce,
    TargetOf,
    answer_in_parts,
    reduce_maps,
)
from captum_deconv.collection.reading import Collection
from captum_deconv.collection.samples import (
    NO_LABEL,
    Batch,
    Source,
    open_source,
    read,
    read_batches,
)
from captum_deconv.collection.writing import Progress, Writer, check_record
from captum_deconv.drawing.files import OutputError, make_folder
from captum_deconv.engine.coverage import Activations, Uncovered
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

    def work(self, batch: Batch) -> dict[str, Tensor]:
        """Return the rows of a batch, by field."""
        if self.target == "label" and NO_LABEL in batch.labels:
            row = batch.rows[batch.labels.index(NO_LABEL)]
            raise ValueError(
                f'target="label" needs a label of every sample, and sample {row} has none: give '
                "a data set of (tensor, label), or another target"
            )
        call = ModelCall(
            self.model,
            batch.images.to(self.device, non_blocking=True),
            output=self.output,
            layer=self.layer or "",
            memory=self.memory,
        )
        question = self.target if self.layer is None else self.neuron
        labels = torch.tensor(batch.labels)
        found = answer_in_parts(*(call, self.methods, question, labels, batch.rows, _tell_halved))
        norms = [found.attributions[m.method].flatten(1).norm(dim=1) for m in self.methods]
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
            values[name] = reduce_maps(maps, self.reduce).to(self.dtype)
        return {name: value.detach().cpu() for name, value in values.items()}


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
    output: Choice = None,
    activations: Activations = "relu",
    uncovered: Uncovered = "warn",
    memory: Memory = "light",
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
        data: A map-style data set of tensors ``(C, H, W)``, all of one shape, of tuples
            ``(tensor, label)`` or of dictionaries; or a ``DataLoader`` of one, whose batches,
            order and workers are taken.
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
        output: As for :class:`captum_deconv.InputGradient`.
        activations: As for :func:`captum_deconv.compare`.
        uncovered: As for :func:`captum_deconv.compare`.
        memory: As for :func:`captum_deconv.compare`.
        shard: ``(number, count)`` to do one of ``count`` parts, each in a process of its own on the
            same folder; by default the parts are those of ``torch.distributed``.
        shard_bytes: About how large a file may be.
        checkpoint_seconds: How often to make durable what was written, and to record it as done.
        strict: Whether a sample that cannot be read ends the run rather than being left out.
        progress: Whether to show a bar where there is a terminal.

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
    _check_options(target, layer, neuron, batch_size, dtype, shard_bytes)
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
    source = open_source(data, batch_size, num_workers)
    length = len(source.order)
    if isinstance(target, Sequence) and not isinstance(target, str) and len(target) != length:
        raise ValueError(f"target has {len(target)} entries, and the data set {length} samples")
    asked = prepare_methods(names, activations, uncovered)
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
        "activations": activations,
        "shard_bytes": shard_bytes,
        "versions": describe_versions(),
    }
    if (folder / MANIFEST).exists():
        kept = Collection.open(folder)
        check_record(folder, kept.record, record)
        return kept
    _check_folder(folder)
    example = _find_example(source, reduce)
    like = next(model.parameters(), torch.empty(0))
    job = _Job(
        *(model, asked, target, layer, neuron, output, check_memory(memory)),
        *(dtype, reduce, like.device),
    )
    fields = _list_fields(names, tuple(example.shape[1:]), dtype, _count_axes(job, source))
    shards = plan(folder, length, fields, shard_bytes)
    number, count = distributed.find_shard() if shard is None else shard
    if not 0 <= number < count:
        raise ValueError(f"shard {(number, count)}: the number must be in 0 to {count - 1}")
    edges = [len(source.batches) * part // count for part in range(count + 1)]
    make_folder(folder)
    state = Progress(folder, number, count, record)
    _make_files(shards, number, count)
    writer = Writer(shards, state, checkpoint_seconds)
    _run(job, source, writer, edges[number], edges[number + 1], strict, progress)
    if shard is None and count > 1:
        distributed.gather(state.done)  # all parts are written
    known = [name_sample(source.dataset, sample) for sample in source.order]
    given = known if None not in known else None
    parts = [stop - start for start, stop in pairwise(edges)]
    complete = (shard is None and count > 1 and number > 0) or state.finish(
        parts, length, shards, given
    )
    if shard is None and count > 1:
        distributed.gather(complete)  # the manifest is written
    if state.skipped:
        few = [f"{row} ({why})" for row, why in list(state.skipped.items())[:_SHOWN]]
        more = "; ..." * (len(state.skipped) > _SHOWN)
        warnings.warn(
            f"{len(state.skipped)} samples could not be read and were left out: "
            f"{'; '.join(few)}{more}",
            CollectWarning,
            stacklevel=2,
        )
    return Collection.open(folder) if complete else None


def _check_methods(methods: Sequence[str]) -> list[str]:
    names = [] if isinstance(methods, str) else list(dict.fromkeys(methods))
    if not names:
        raise ValueError(f"methods must be a sequence of names from {', '.join(RULES)}")
    for name in names:
        if name not in RULES:
            raise ValueError(f"unknown method {name!r}{suggest(name, list(RULES))}")
    return names


def _check_options(
    target: Any, layer: Any, neuron: Any, batch_size: int, dtype: torch.dtype, shard_bytes: int
) -> None:
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
    for name, value in (("batch_size", batch_size), ("shard_bytes", shard_bytes)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, not {value}")
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
        if not path.name.startswith(("progress-", "attributions-", "."))
    ]
    if strange:
        raise CollectionError(
            f"{folder} holds something else than a collection ({strange[0]}): choose another folder"
        )


def _find_example(source: Source, reduce: Reduce) -> Tensor:
    """Return what is kept of the first readable sample, ``(1, C, H, W)``, of zeros."""
    reason = ""
    for number in source.order:
        try:
            image = read(source.dataset, number).image
        except UnreadableSampleError as error:
            reason = reason or str(error)
            continue
        if image.dim() != 3 or not image.is_floating_point():
            raise TypeError(
                f"sample {number} is {tuple(image.shape)} of {image.dtype}, and images are "
                "(C, H, W) of a floating-point type"
            )
        return reduce_maps(torch.zeros(1, *image.shape), reduce)
    raise UnreadableSampleError(f"none of the {len(source.order)} samples can be read: {reason}")


def _count_axes(job: _Job, source: Source) -> int:
    """Return how many axes a neuron's place has: those of its layer's map for one image."""
    if job.layer is None:
        return 0
    if isinstance(job.neuron, tuple):
        return len(job.neuron) - 1
    for number in source.order:
        try:
            image = read(source.dataset, number).image
        except UnreadableSampleError:
            continue
        one = Batch([0], image[None], [NO_LABEL])
        return job.work(one)["place"].shape[1]
    return 0


def _list_fields(
    names: Sequence[str], shape: tuple[int, ...], dtype: torch.dtype, axes: int
) -> tuple[Field, ...]:
    scalars = [
        Field("target", (), torch.int64),
        Field("predicted", (), torch.int64),
        Field("label", (), torch.int64),
        Field("place", (axes,), torch.int64),
        Field("score", (), torch.float32),
        Field("norms", (len(names),), torch.float32),
    ]
    maps = [Field(name, shape, dtype) for name in names]
    # The largest types first, so that each tensor begins where its type may.
    ordered = sorted([*scalars, *maps], key=lambda field: -field.dtype.itemsize)
    return (*ordered, Field("kept", (), torch.uint8))


def _make_files(shards: Sequence[Shard], number: int, count: int) -> None:
    """Make the files, if the disk can hold them."""
    missing = sum(shard.size for shard in shards if not shard.path.exists())
    free = shutil.disk_usage(shards[0].path.parent).free
    if missing > free:
        raise OutputError(
            f"{shards[0].path.parent}: the collection takes {missing / 2**30:.2f} GiB, and the "
            f"disk has {free / 2**30:.2f} GiB left: keep less (reduce=, dtype=), or elsewhere"
        )
    for shard in shards:
        try:
            shard.make()
        except OSError as error:
            raise OutputError(
                f"{shard.path}: no room for its {shard.size / 2**30:.2f} GiB ({error.strerror})"
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
    with show_progress(total, before, shown=shown, what="collect") as advance, writer.running():
        for number, batch in enumerate(read_batches(source, first + state.done, last), state.done):
            for row, reason in batch.unreadable.items():
                if strict:
                    raise UnreadableSampleError(f"sample {row} cannot be read: {reason}")
                state.skipped[str(row)] = reason
            values = job.work(batch) if batch.rows else {}
            for field in shards[0].fields if values else ():
                got = tuple(values[field.name].shape[1:])
                if got != field.shape:
                    raise ValueError(
                        f"sample {batch.rows[0]} gives {field.name} of {got}, and the first sample "
                        f"of {field.shape}: give a transform, or reduce=, that makes them alike"
                    )
            if values:
                writer.put(batch.rows, values, number + 1)
            else:
                state.done = number + 1
            advance(sizes[number])


def _tell_halved(count: int) -> None:
    warnings.warn(
        f"memory did not suffice for a batch of {count}: it was done in two halves",
        CollectWarning,
        stacklevel=2,
    )

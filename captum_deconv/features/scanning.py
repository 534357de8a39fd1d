"""The scan: one forward pass over a data set, and of each layer's maps only the strongest places.

What is said here is what is scanned; how it runs is ``scanner``'s part.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from captum_deconv.engine.fast import make_fast
from captum_deconv.features import distributed
from captum_deconv.features.batches import plan_batches, read_shape
from captum_deconv.features.index import ActivationIndex
from captum_deconv.features.progress import show_progress
from captum_deconv.features.reading import read_sizes
from captum_deconv.features.records import (
    describe_dataset,
    describe_model,
    describe_versions,
    read_probes,
)
from captum_deconv.features.scanner import Run

_SHOWN = 10


class ScanWarning(UserWarning):
    """What a scan had to leave out: samples that cannot be read, activations that are NaN."""


def scan(
    model: nn.Module,
    layers: str | Sequence[str],
    dataset: Any,
    *,
    k: int = 9,
    batch_size: int = 32,
    num_workers: int = 0,
    device: torch.device | str | None = None,
    autocast: torch.dtype | None = None,
    fast: bool = False,
    per_image: int = 1,
    by_size: bool | None = None,
    keep_maxima: bool = False,
    strict: bool = False,
    checkpoint: str | Path | None = None,
    checkpoint_seconds: float = 30.0,
    shard: tuple[int, int] | None = None,
    progress: bool = True,
) -> ActivationIndex:
    """Find the strongest activations of every channel of some layers over a data set.

    At one batch size (and one number of threads, where the kernels split sums among them) the
    result is the same to the last bit however many workers, shards or processes there were: every
    sample is computed in the same batch, and the short last batch is padded. Images may differ in
    size: each is batched with its like. The data set's
    transform must give the same tensor whenever it is asked, so no random crops.

    Where ``torch.distributed`` is set up, each process scans its share and all return the whole.

    Args:
        model: In evaluation mode; it is left exactly as it is.
        layers: Dotted names, as in ``named_modules``; each returns one tensor ``(N, C, *spatial)``,
            and one that is called several times in a pass counts with its last call.
        dataset: A map-style data set of tensors, or of tuples that begin with one, such as an
            ``ImageFolder`` with a transform.
        k: How many places to keep for each channel.
        batch_size: How many images are computed at a time.
        num_workers: How many processes read and transform images; 0 does it in this one.
        device: Where the model is; by default where its first parameter is.
        autocast: A type such as ``torch.bfloat16`` for mixed precision.
        fast: Whether to scan a faster copy of the model, with its batch norms folded into its
            convolutions and in channels-last; ``metadata["fast"]`` says how far the layers'
            activations are from the model's own on the first batch.
        per_image: How many places of one image may stand in one channel's ranking.
        by_size: Whether images differ in size: all are read for theirs first, and batches are of
            one size each, not padded. None finds out from sixteen of them.
        keep_maxima: Whether to keep each image's strongest activation of each channel, and its
            label: how a channel's activations spread over the data. They take four bytes for each
            image and channel, in memory and in the file.
        strict: Whether a sample that cannot be read ends the scan rather than being skipped.
        checkpoint: A file that keeps what was found so far, and from which a scan that was killed
            goes on; with several shards each has its own, named after it.
        checkpoint_seconds: How often to write it.
        shard: ``(number, count)`` to scan only one of ``count`` parts, for indices to be merged
            later; by default the parts are those of ``torch.distributed``'s processes.
        progress: Whether to show a bar where there is a terminal.

    Returns:
        The index, on the CPU.

    Raises:
        ValueError: If an option is out of range, a layer unknown, the model in train mode, the data
            set empty, or its samples differ in shape and ``by_size`` is not so.
        TypeError: If a layer returns anything but a floating-point tensor with channels.
        RuntimeError: If a forward pass never runs one of the layers, or no sample can be read.
        IndexMismatchError: If the checkpoint belongs to another scan.
        UnreadableSampleError: If ``strict``, for the first sample that cannot be read.
        ScanInterruptedError: If another process of the scan is gone.
    """
    layers = [layers] if isinstance(layers, str) else list(layers)
    _check_options(layers, k, batch_size, per_image, len(dataset))
    model = _find_plain(model)
    _check_mode(model)
    device = _find_device(model, device)
    merging = shard is None
    number, count = distributed.find_shard() if shard is None else shard
    if not 0 <= number < count:
        raise ValueError(f"shard {(number, count)}: the number must be in 0 to {count - 1}")
    probes = read_probes(dataset)
    metadata: dict[str, Any] = {
        "model": describe_model(model),
        "dataset": describe_dataset(dataset, probes),
        "layers": layers,
        "k": k,
        "per_image": per_image,
        "batch_size": batch_size,
        "precision": "as the model" if autocast is None else f"autocast to {autocast}",
        "versions": describe_versions(),
    }
    if by_size is None:
        by_size = len({sample.shape for sample in probes if sample is not None}) > 1
    shapes = _read_shapes(dataset, num_workers, progress) if by_size else None
    # Named only where they are so: what an index was made from stays what it was.
    if shapes is not None:
        metadata |= {"by_size": True, "largest": _find_largest(shapes)}
    if keep_maxima:
        metadata["maxima"] = True
    faster = make_fast(model, layers) if fast else None
    if faster is not None:
        metadata["precision"] += f", {faster.describe()}"
    index = ActivationIndex({}, {}, {}, metadata)
    if merging and count > 1:
        for rank, metadata in enumerate(distributed.gather(index.metadata)):
            index.check_metadata(metadata, f"processes {number} and {rank} differ")
    run = Run(
        model=model if faster is None else faster.model,
        reference=None if faster is None else model,
        dataset=dataset,
        index=index,
        device=device,
        autocast=autocast,
        strict=strict,
        checkpoint=_name_checkpoint(checkpoint, number, count),
        checkpoint_seconds=checkpoint_seconds,
    )
    batches = plan_batches(len(dataset), batch_size, shapes)
    first, last = (len(batches) * edge // count for edge in (number, number + 1))
    run.scan(batches[first:last], num_workers, progress)
    if merging and count > 1:
        whole, *others = distributed.gather(run.index)
        for other in others:
            whole = whole.merge(other)
        run.index = whole
    if merging and not run.index.values:
        raise RuntimeError(
            f"none of the {len(dataset)} samples could be read: {_list_skipped(run.index)}"
        )
    if not merging or number == 0:
        _warn(run.index)
    return run.index


def _check_options(
    layers: Sequence[str], k: int, batch_size: int, per_image: int, length: int
) -> None:
    if not layers:
        raise ValueError("layers is empty: name at least one, see model.named_modules()")
    if len(set(layers)) != len(layers):
        raise ValueError(f"layers names one twice: {', '.join(layers)}")
    for name, value in (("k", k), ("batch_size", batch_size), ("per_image", per_image)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, not {value}")
    if length == 0:
        raise ValueError("the data set is empty")


def _find_plain(model: Any) -> nn.Module:
    """Return the module inside the wrappers that spread or compile it."""
    while True:
        if isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            model = model.module
        elif isinstance(model, nn.Module) and "_orig_mod" in model._modules:
            model = model._modules["_orig_mod"]
        elif isinstance(model, nn.Module):
            return model
        else:
            raise TypeError(f"model must be a torch.nn.Module, not a {type(model).__name__}")


def _check_mode(model: nn.Module) -> None:
    name = next((name for name, module in model.named_modules() if module.training), None)
    if name is not None:
        what = f"its module {name!r} is" if name else "it is"
        raise ValueError(
            f"the model must be in evaluation mode, and {what} in train mode, in which activations "
            "depend on the rest of the batch and on chance: call model.eval() first"
        )


def _find_device(model: nn.Module, device: torch.device | str | None) -> torch.device:
    own = next((tensor.device for tensor in [*model.parameters(), *model.buffers()]), None)
    if device is None:
        return own or torch.device("cpu")
    device = torch.device(device)
    if own is not None and (own.type != device.type or device.index not in (None, own.index or 0)):
        raise ValueError(
            f"the model is on {own}, not on {device}: move it first with model.to({str(device)!r})"
        )
    return own or device


def _find_largest(shapes: Sequence[tuple[int, ...] | None]) -> list[int]:
    """Return the largest extents of images along each of their spatial axes."""
    known = [shape[1:] for shape in shapes if shape is not None]
    return [max(sizes) for sizes in zip(*known, strict=False)]


def _name_checkpoint(checkpoint: str | Path | None, number: int, count: int) -> Path | None:
    if checkpoint is None or count == 1:
        return None if checkpoint is None else Path(checkpoint)
    path = Path(checkpoint)
    others = path.parent.glob(f"{path.name}.*-of-*")
    for other in sorted(others):
        parts = other.name.rsplit("-of-", 1)[1]
        if parts.isdigit() and int(parts) != count:
            raise ValueError(
                f"{other} is the checkpoint of a scan in {parts} parts, and this one is in "
                f"{count}: start as many, or delete the file to begin afresh"
            )
    return path.with_name(f"{path.name}.{number}-of-{count}")


def _read_shapes(dataset: Any, num_workers: int, progress: bool) -> list[tuple[int, ...] | None]:
    with show_progress(len(dataset), 0, shown=progress, what="sizes") as advance:
        numbers = range(len(dataset))
        return read_sizes(*(dataset, read_shape, numbers, advance), num_workers=num_workers)


def _list_skipped(index: ActivationIndex) -> str:
    named = [f"{sample} ({reason})" for sample, reason in sorted(index.skipped.items())[:_SHOWN]]
    return "; ".join(named) + "; ..." * (len(index.skipped) > _SHOWN)


def _warn(index: ActivationIndex) -> None:
    """Name what had to be left out."""
    if index.skipped:
        looked_at = sum(stop - start for start, stop in index.covered)
        warnings.warn(
            f"{len(index.skipped)} of {looked_at} samples could not be read and were skipped: "
            f"{_list_skipped(index)}",
            ScanWarning,
            stacklevel=3,
        )
    for layer, samples in index.nan_samples.items():
        channels = int((index.nans[layer] > 0).sum())
        warnings.warn(
            f"layer {layer!r} has NaN activations, which are not ranked, in {channels} of "
            f"{len(index.nans[layer])} channels; the first are in samples "
            f"{', '.join(map(str, samples))}",
            ScanWarning,
            stacklevel=3,
        )

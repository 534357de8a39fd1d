"""What an index is an index of: the model, its weights and the data set, told apart by hashes.

A data set's fingerprint is a SHA-256 over its length, its samples' names where it has them (an
``ImageFolder``'s paths below its root), and the tensors of sixteen samples spread evenly over it,
as its transform gives them. A ``TensorDataset`` or a tensor is hashed whole. Reading all of
ImageNet to recognise it would take as long as scanning it: a change of one unprobed image's pixels
goes unseen.

>>> import torch
>>> from torch.utils.data import TensorDataset
>>> one, other = TensorDataset(torch.zeros(3, 2)), TensorDataset(torch.ones(3, 2))
>>> find_differences(
...     {"dataset": describe_dataset(one)}, {"dataset": describe_dataset(other)}
... )
['the data set: as long, with other contents']
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Subset, TensorDataset

from captum_deconv.sources.fingerprints import recall
from captum_deconv.sources.weights import hash_weights

_PROBES = 16


class UnreadableSampleError(RuntimeError):
    """A sample of the data set that cannot be read; the message names it and says why."""


_LABELS = ("label", "labels", "target")


def read_sample(dataset: Any, index: int) -> Tensor:
    """Read one sample's tensor; as :func:`read_labelled`."""
    return read_labelled(dataset, index)[0][0]


def read_labelled(dataset: Any, index: int, count: int = 1) -> tuple[tuple[Tensor, ...], Any]:
    """Read one sample's tensors and its label.

    Args:
        dataset: A map-style data set of tensors, of tuples ``(tensor, ..., label, ...)``, or of
            dictionaries with tensors and, under ``label``, ``labels`` or ``target``, a label.
        index: Which sample.
        count: How many tensors the model takes of it.

    Returns:
        The tensors, without a batch dimension, and the label; None where there is none.

    Raises:
        UnreadableSampleError: If reading it failed, whatever the reason.
    """
    try:
        item = dataset[index]
    except Exception as error:  # damaged files raise whatever the damage led the decoder to
        reason = f"{type(error).__name__}: {error}"
        raise UnreadableSampleError(_describe(dataset, index, reason)) from error
    label = None
    parts: Sequence[Any] = [item]
    if isinstance(item, Mapping):
        label = next((item[key] for key in _LABELS if key in item), None)
        parts = [part for part in item.values() if isinstance(part, Tensor) and part.dim() > 1]
        parts = parts or [item]
    elif isinstance(item, (tuple, list)) and item:
        parts, label = item, item[count] if len(item) > count else None
    tensors = tuple(part for part in parts[:count] if isinstance(part, Tensor))
    if len(tensors) < count:
        kinds = ", ".join(type(part).__name__ for part in parts[:count])
        wanted = "a tensor was" if count == 1 else f"{count} tensors were"
        reason = (
            f"a {kinds} where {wanted} expected: give the data set a transform "
            "that ends in a tensor, such as torchvision.transforms.ToTensor()"
        )
        raise UnreadableSampleError(_describe(dataset, index, reason))
    return tensors, label


def _describe(dataset: Any, index: int, reason: str) -> str:
    name = name_sample(dataset, index)
    return f"{name}: {reason}" if name else reason


def name_sample(dataset: Any, index: int) -> str | None:
    """Name a sample by its file, where the data set knows files.

    Args:
        dataset: Any map-style data set; an ``ImageFolder``, or a ``Subset`` of one, has names.
        index: Which sample.

    Returns:
        The path below the folder's root, or None.
    """
    if isinstance(dataset, Subset):
        return name_sample(dataset.dataset, dataset.indices[index])
    files = getattr(dataset, "samples", None)
    if not isinstance(files, Sequence) or isinstance(files, str) or index >= len(files):
        return None
    path = files[index][0] if isinstance(files[index], (tuple, list)) else files[index]
    if not isinstance(path, (str, os.PathLike)):
        return None
    root = getattr(dataset, "root", None)
    if isinstance(root, (str, os.PathLike)):
        return os.path.relpath(path, root)
    return os.fspath(path)


def describe_model(model: nn.Module) -> dict[str, str]:
    """Describe a model: its class, and hashes of its architecture and weights.

    Args:
        model: The model.

    Returns:
        A record that JSON can hold.
    """
    kind = type(model)
    return {
        "name": f"{kind.__module__}.{kind.__qualname__}",
        "architecture": hashlib.sha256(_without_addresses(repr(model)).encode()).hexdigest(),
        "weights": hash_weights(model),
    }


def describe_dataset(dataset: Any, probes: Sequence[Tensor | None] | None = None) -> dict[str, Any]:
    """Describe a data set: its length, its transform and its fingerprint.

    Args:
        dataset: A map-style data set.
        probes: What `read_probes` gave of it, where that is known already.

    Returns:
        A record that JSON can hold.
    """
    length = len(dataset)
    names = hashlib.sha256(f"{length}\n".encode())
    for index in range(length):
        name = name_sample(dataset, index)
        if name is None:
            break
        names.update(f"{name}\n".encode())
    return {
        "length": length,
        "transform": _describe_transform(dataset),
        "fingerprint": _hash_samples(dataset, length, names, probes),
    }


def _hash_samples(
    dataset: Any, length: int, names: hashlib._Hash, probes: Sequence[Tensor | None] | None
) -> str:
    """Go on from the hash of the names with that of the samples."""

    def compute(samples: Iterable[Tensor | None]) -> str:
        digest = names.copy()
        for sample in samples:
            if sample is None:
                digest.update(b"unreadable\n")
                continue
            digest.update(f"{sample.dtype} {tuple(sample.shape)}\n".encode())
            digest.update(_bytes_of(sample))
        return digest.hexdigest()

    held = dataset.tensors[0] if isinstance(dataset, TensorDataset) else dataset
    if isinstance(held, Tensor):  # in memory already, so all of it
        return recall(length, [held], lambda: compute(held[index] for index in range(length)))
    samples = read_probes(dataset) if probes is None else probes
    readable = [sample for sample in samples if sample is not None]
    key = names.hexdigest(), tuple(sample is None for sample in samples)
    return recall(key, readable, lambda: compute(samples))


def read_probes(dataset: Any) -> list[Tensor | None]:
    """Read sixteen samples, spread over a data set; None where one cannot be read."""
    return [_read_if_readable(dataset, index) for index in _spread(len(dataset))]


def _read_if_readable(dataset: Any, index: int) -> Tensor | None:
    try:
        return read_sample(dataset, index)
    except UnreadableSampleError:
        return None


def _spread(length: int) -> list[int]:
    last = max(length - 1, 0)
    return sorted({last * step // (_PROBES - 1) for step in range(_PROBES)}) if length else []


def _bytes_of(tensor: Tensor) -> bytes:
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b""


def _describe_transform(dataset: Any) -> str:
    if isinstance(dataset, Subset):
        return _describe_transform(dataset.dataset)
    return _without_addresses(repr(getattr(dataset, "transform", None)))


def _without_addresses(text: str) -> str:
    return re.sub(r" at 0x[0-9a-fA-F]+", "", text)


def describe_versions() -> dict[str, str]:
    """Return the versions that an index's numbers may depend on."""
    try:
        own = version("captum-deconv")
    except PackageNotFoundError:  # run from a source tree that was never installed
        own = "unknown"
    return {"captum_deconv": own, "torch": str(torch.__version__)}


def find_differences(expected: dict[str, Any], found: dict[str, Any]) -> list[str]:
    """Say in words in what two metadata records differ.

    Args:
        expected: Of the index or checkpoint.
        found: Of what it is held against; only what it has is compared.

    Returns:
        A line for each difference; none where they agree.
    """
    differences = []
    if "model" in found:
        differences += _compare_models(expected["model"], found["model"])
    if "dataset" in found:
        differences += _compare_datasets(expected["dataset"], found["dataset"])
    for key, value in found.items():
        # What a fast scan measured is a result.
        if key not in ("model", "dataset", "fast") and expected.get(key) != value:
            differences.append(f"{key.replace('_', ' ')}: {expected.get(key)}, not {value}")
    return differences


def _compare_models(expected: dict[str, str], found: dict[str, str]) -> list[str]:
    if expected["name"] != found["name"]:
        return [f"the model: made with {expected['name']}, not {found['name']}"]
    if expected["architecture"] != found["architecture"]:
        return [f"the model: made with a {expected['name']} of another architecture"]
    if expected["weights"] != found["weights"]:
        hashes = f"{expected['weights'][:12]}, not {found['weights'][:12]}"
        return [f"the weights: their hash was {hashes}"]
    return []


def _compare_datasets(expected: dict[str, Any], found: dict[str, Any]) -> list[str]:
    if expected["length"] != found["length"]:
        return [f"the data set: made with {expected['length']} samples, not {found['length']}"]
    if expected["fingerprint"] == found["fingerprint"]:
        return []
    if expected["transform"] != found["transform"]:
        return [f"the transform: made with {expected['transform']}, not {found['transform']}"]
    return ["the data set: as long, with other contents"]

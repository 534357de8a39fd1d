"""What was found about one photograph, and the file it is kept in.

The file is safetensors: tensors that any tool reads without executing anything, and one record in
JSON that says which network, weights, target and method they belong to.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

RECORD = "captum_deconv"


class OutputError(OSError):
    """A place that nothing can be written to; the message names it and the reason."""


@dataclass(frozen=True)
class Score:
    """One class of a prediction; ``label`` is its number where the classes have no names."""

    index: int
    label: str
    probability: float


@dataclass(frozen=True)
class Neuron:
    """One unit of a layer's output: a channel, its place in the map, and how active it was."""

    layer: str
    channel: int
    place: tuple[int, ...]
    activation: float


@dataclass(frozen=True)
class Result:
    """One photograph, what the network made of it, and the attributions.

    ``inputs`` is ``(C, H, W)`` as the network got it, ``shown`` the same in [0, 1] for looking at,
    and each attribution has the shape of ``inputs``. What was attributed is ``target`` (a class) or
    ``neuron``, never both.
    """

    name: str
    inputs: Tensor
    shown: Tensor
    attributions: Mapping[str, Tensor]
    top: tuple[Score, ...] = ()
    target: Score | None = None
    neuron: Neuron | None = None
    notes: tuple[str, ...] = field(default=())


def save_results(results: Sequence[Result], path: str | Path, about: Mapping[str, Any]) -> None:
    """Write results to one safetensors file, a tensor per method.

    The file holds ``inputs`` and, under each method's name, its attributions, all ``(N, C, H, W)``;
    its metadata holds under ``captum_deconv`` a JSON record: ``about``, the versions, and for each
    image its name and its target or neuron. An existing file is replaced whole or not at all.

    Args:
        results: One per image, with inputs of one shape and the same methods.
        path: The file.
        about: What else belongs into the record, such as the network and its weights' hash.

    Raises:
        ValueError: If there are no results, or their inputs differ in shape.
    """
    from safetensors.torch import save

    shapes = {tuple(result.inputs.shape) for result in results}
    if len(shapes) != 1:
        raise ValueError(
            f"one file holds one batch, so its images need one size, and these have {len(shapes)}: "
            f"{', '.join(map(str, sorted(shapes)))}"
        )
    tensors = {"inputs": torch.stack([result.inputs.cpu() for result in results])}
    for method in results[0].attributions:
        tensors[method] = torch.stack([result.attributions[method].cpu() for result in results])
    record = {
        **about,
        "methods": list(results[0].attributions),
        "images": [
            {
                "name": result.name,
                "target": None if result.target is None else asdict(result.target),
                "neuron": None if result.neuron is None else asdict(result.neuron),
                "top": [asdict(score) for score in result.top],
            }
            for result in results
        ],
        "versions": {p: metadata.version(p) for p in ("captum-deconv", "torch", "captum")},
    }
    with replace_file(path) as temporary:
        # Not `save_file`, whose files only their owner may read.
        content = save(
            {name: tensor.contiguous() for name, tensor in tensors.items()},
            metadata={RECORD: json.dumps(record)},
        )
        temporary.write_bytes(content)


def load_results(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what ``save_results`` wrote.

    Args:
        path: The file.

    Returns:
        The tensors by name, each ``(N, C, H, W)``, and the record.

    Raises:
        ValueError: If the file is a safetensors file of something else.
    """
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        record = (file.metadata() or {}).get(RECORD)
        if record is None:
            raise ValueError(f"{path}: written by something else than captum-deconv")
        names = file.keys()  # it is no dictionary, and cannot be iterated over itself
        return {name: file.get_tensor(name) for name in names}, json.loads(record)


@contextlib.contextmanager
def replace_file(path: str | Path) -> Iterator[Path]:
    """Write a file so that its old content stays until the new one is complete.

    Args:
        path: The file.

    Yields:
        A path beside it, with the same suffix, to write to; it takes the file's place at the end,
        or is removed if something went wrong.
    """
    # Through a link to the file it stands for: the link itself is not what should be replaced.
    path = Path(path).resolve()
    temporary = path.with_name(f".{secrets.token_hex(6)}-{path.name}")
    try:
        yield temporary
        if path.exists():
            shutil.copymode(path, temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def check_output(
    path: str | Path, suffixes: Sequence[str], keep: Sequence[str | Path] = ()
) -> None:
    """Find out before the work whether a file can be written.

    Args:
        path: The file to be.
        suffixes: The endings it may have, such as ``.png``.
        keep: Files it must not be, such as the photograph that is read.

    Raises:
        OutputError: If its ending is another, its folder is missing or cannot be written to, the
            path is a folder, or it is one of the files to keep.
    """
    path = Path(path)
    if path.suffix.lower() not in suffixes:
        raise OutputError(f"{path}: the name must end in {' or '.join(suffixes)}")
    if path.is_dir():
        raise OutputError(f"{path}: this is a folder")
    if path.resolve() in [Path(kept).resolve() for kept in keep]:
        raise OutputError(f"{path}: this would overwrite the photograph; choose another name")
    folder = path.resolve().parent
    if not folder.is_dir():
        raise OutputError(f"{path}: there is no folder {folder}")
    check_folder(folder)
    if path.exists() and not os.access(path, os.W_OK):
        raise OutputError(f"{path}: the existing file is write-protected")


def make_folder(folder: str | Path) -> None:
    """Make a folder, with those above it, and find out whether files can be written into it.

    Args:
        folder: It may exist.

    Raises:
        OutputError: If it cannot be made or written to.
    """
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder}: the folder cannot be made ({error.strerror})") from error
    check_folder(folder)


def check_folder(folder: str | Path) -> None:
    """Find out whether files can be written into a folder, by writing one.

    Args:
        folder: An existing folder.

    Raises:
        OutputError: If they cannot.
    """
    try:
        # Tried, not asked: permissions alone do not tell of read-only and full file systems.
        with tempfile.TemporaryFile(dir=folder) as probe:
            probe.write(b"captum-deconv")
    except OSError as error:
        raise OutputError(f"{folder}: cannot be written to ({error.strerror})") from error

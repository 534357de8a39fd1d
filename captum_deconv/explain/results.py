"""What was found about one photograph, and the file it is kept in.

The file is safetensors: tensors that any tool reads without executing anything, and one record in
JSON that says which network, weights, target and method they belong to.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from captum_deconv.drawing.files import replace_file

RECORD = "captum_deconv"


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

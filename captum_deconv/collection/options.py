"""What ``collect`` is asked for: checked before any work, and described for the record."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from captum_deconv.collection.layout import SIZES, CollectionError
from captum_deconv.collection.samples import Sample, Source
from captum_deconv.drawing.files import OutputError
from captum_deconv.engine.rules import RULES
from captum_deconv.sources.names import suggest

_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def check_methods(methods: Sequence[str]) -> list[str]:
    """Check names of methods.

    Args:
        methods: As for ``collect``.

    Returns:
        The names, each once.

    Raises:
        ValueError: If there is none, or none of a name.
    """
    names = [] if isinstance(methods, str) else list(dict.fromkeys(methods))
    if not names:
        raise ValueError(f"methods must be a sequence of names from {', '.join(RULES)}")
    for name in names:
        if name not in RULES:
            raise ValueError(f"unknown method {name!r}{suggest(name, list(RULES))}")
    return names


def check_options(target: Any, layer: Any, neuron: Any, dtype: torch.dtype) -> None:
    """Check what is to be explained, and as what it is kept.

    Args:
        target: As for ``collect``.
        layer: As there.
        neuron: As there.
        dtype: As there.

    Raises:
        ValueError: If they do not go together, or one is out of range.
    """
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


def check_numbers(**numbers: int) -> None:
    """Check numbers by their names.

    Args:
        **numbers: Each at least 1.

    Raises:
        ValueError: If one is not.
    """
    for name, value in numbers.items():
        if value < 1:
            raise ValueError(f"{name} must be at least 1, not {value}")


def check_model(model: nn.Module, layer: str | None) -> None:
    """Check that a model can be asked.

    Args:
        model: The model.
        layer: A layer's dotted name, where one is asked for.

    Raises:
        ValueError: If the model is in train mode, or has no such layer.
    """
    training = next((name for name, module in model.named_modules() if module.training), None)
    if training is not None:
        raise ValueError(
            f"the model must be in evaluation mode, and its module {training!r} is in train mode: "
            "call model.eval() first"
        )
    known = [name for name, _ in model.named_modules()]
    if layer is not None and layer not in known:
        raise ValueError(f"the model has no layer {layer!r}{suggest(layer, known)}")


def describe_target(target: Any) -> Any:
    """Describe a target, or a choice of an output, as JSON can hold it; of a function the name."""
    if isinstance(target, (str, int)):
        return target
    if isinstance(target, Sequence):
        return [int(part) for part in target]
    return f"function {getattr(target, '__qualname__', type(target).__name__)}"


def describe_batches(source: Source) -> Any:
    """Describe the order and the batches: their size where that says all."""
    size = len(source.batches[0])
    numbers = source.order
    plain = [numbers[start : start + size] for start in range(0, len(numbers), size)]
    if numbers == list(range(len(numbers))) and plain == source.batches:
        return size
    return source.batches


def check_folder(folder: Path) -> None:
    """Check that a folder is empty, or holds a run of ``collect``.

    Args:
        folder: It need not exist.

    Raises:
        CollectionError: If there is something else in it.
        OutputError: If it is a file.
    """
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


def check_samples(samples: Sequence[Sample]) -> None:
    """Check that samples are images.

    Args:
        samples: Some of the data set's.

    Raises:
        TypeError: If one is of another kind.
    """
    for sample in samples:
        for each in sample.inputs:
            image = len(sample.inputs) > 1 or each.dim() == 3
            if not image or not each.is_floating_point():
                raise TypeError(
                    f"a sample is {tuple(each.shape)} of {each.dtype}, and images are "
                    "(C, H, W) of a floating-point type"
                )

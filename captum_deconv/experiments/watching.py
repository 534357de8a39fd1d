"""What the experiments ask of a model: some layers' outputs in a plain forward pass; classes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from captum_deconv.engine import forward
from captum_deconv.engine.hooks import Hook, hooked
from captum_deconv.sources.models import LoadedModel

Take = Callable[[str, Tensor], None]


@contextmanager
def watched(model: nn.Module, layers: Sequence[str], take: Take) -> Iterator[None]:
    """Look at what some layers return, for as long as the context lasts.

    Args:
        model: It stays as it is.
        layers: Dotted names.
        take: Gets a layer's name and its output ``(N, C, ...)``, at every call of the layer.

    Yields:
        Nothing; run the model inside.

    Raises:
        ValueError: If the model has no such layer.
        TypeError: If a layer returns anything but a tensor of activations.
    """
    modules = [forward.capture(model, layer).layer for layer in layers]
    named = zip(modules, layers, strict=True)
    with hooked(*(Hook(module, partial(_take, take, layer)) for module, layer in named)):
        yield


def _take(take: Take, layer: str, module: nn.Module, args: Any, output: Any) -> None:
    if not isinstance(output, Tensor) or not output.is_floating_point() or output.dim() < 2:
        kind = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise TypeError(
            f"layer {layer!r} returns {kind}, not one tensor (N, C, ...): choose a layer inside it"
        )
    take(layer, output)


def check_has_space(layer: str, output: Tensor) -> None:
    """Check that a layer's output is maps, ``(N, C, H, W)``; a ValueError says that it is not."""
    if output.dim() != 4:
        raise ValueError(
            f"layer {layer!r} has no space: it returns {tuple(output.shape)}, and maps "
            "(N, C, H, W) are needed; choose a convolution, or what follows one"
        )


def check_ran(layers: Sequence[str], seen: Sequence[str]) -> None:
    """Check that a pass ran all layers; a RuntimeError names one that it did not."""
    missing = [layer for layer in layers if layer not in seen]
    if missing:
        raise RuntimeError(f"layer {missing[0]!r} did not run in the forward pass")


def check_index(asked: int | None, count: int, what: str, strongest: int) -> int:
    """Return the class or channel that is asked for, or else the strongest one.

    Args:
        asked: Its number; negative ones count from the end.
        count: How many there are.
        what: ``"class"`` or ``"channel"``, for the message.
        strongest: Its number.

    Returns:
        A number from 0.

    Raises:
        IndexError: If there is none of this number.
    """
    if asked is None:
        return strongest
    if not -count <= asked < count:
        raise IndexError(f"{what} {asked} is out of range: there are {count}, from 0")
    return asked % count


def find_scores(model: nn.Module, images: Tensor) -> Tensor:
    """Run a model for its classes' scores, ``(N, classes)``; as :func:`find_probabilities`."""
    with torch.no_grad():
        output = model(prepare(model, images))
    find_probabilities(output)
    scores: Tensor = output.float().cpu()
    return scores


def find_probabilities(output: Any) -> Tensor:
    """Turn what a model returns into its classes' probabilities.

    Args:
        output: Scores, ``(N, classes)``.

    Returns:
        ``(N, classes)``, on the CPU; each row sums to one.

    Raises:
        TypeError: If the output is anything else.
    """
    if not isinstance(output, Tensor) or output.dim() != 2:
        kind = tuple(output.shape) if isinstance(output, Tensor) else f"a {type(output).__name__}"
        raise TypeError(
            f"the model returns {kind}, and classes are scores (N, classes): wrap it in a module "
            "whose forward returns such a tensor"
        )
    return output.detach().float().softmax(1).cpu()


def prepare(model: nn.Module, images: Tensor) -> Tensor:
    """Move images to where the model is, as what it computes in.

    Args:
        model: It must be in evaluation mode.
        images: ``(N, C, H, W)``.

    Returns:
        The images.

    Raises:
        ValueError: If the model is in train mode.
    """
    if model.training:
        raise ValueError(
            "the model is in train mode, in which its answer depends on the rest of the batch and "
            "on chance: call model.eval() first"
        )
    like = next((p for p in model.parameters() if p.is_floating_point()), torch.zeros(()))
    return images.detach().to(like.device, like.dtype)


def find_grey(loaded: LoadedModel, image: Tensor) -> Tensor:
    """Find mid-grey as a network takes it.

    Args:
        loaded: The network.
        image: As the network takes it, ``(C, H, W)``.

    Returns:
        ``(C,)``: 0.5 normalised as its photographs are, or the image's mean where it is not known
        how they are.
    """
    if loaded.mean is None or loaded.std is None:
        return image.mean((1, 2))
    return (0.5 - torch.tensor(loaded.mean)) / torch.tensor(loaded.std)

"""How an operation is made for the tensor that it will get: what the tables of operations share."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

Make = Callable[[Tensor, int], Callable[[Tensor], Tensor]]


class UnfitError(Exception):
    """This operation is not for that tensor."""


def dimensions(x: Tensor) -> int:
    """Return of how many dimensions the maps are."""
    return x.dim() - 2


def maps(x: Tensor) -> tuple[int, ...]:
    """Return the dimensions of the maps."""
    return tuple(range(2, x.dim()))


def only(found: bool) -> None:
    """Raise, where an operation is not for such a tensor."""
    if not found:
        raise UnfitError


def of(name: str, x: Tensor, home: Any = nn) -> Any:
    """Return the module or function of this name for maps of so many dimensions."""
    return getattr(home, f"{name}{dimensions(x)}d")


def module(name: str, *arguments: Any, **options: Any) -> Make:
    """Make a module that knows no channels, such as a pooling."""
    return lambda x, knob: of(name, x)(*arguments, **options)


def convolution(out: int = 4, size: int = 3, *, transposed: bool = False, **options: Any) -> Make:
    """Make a convolution."""
    name = "ConvTranspose" if transposed else "Conv"
    return lambda x, knob: of(name, x)(x.shape[1], out, size, **options)


def norm(name: str, *, training: bool = False, **options: Any) -> Make:
    """Make a norm of channels; one in training mode is so whatever the model's mode."""

    def make(x: Tensor, knob: int) -> nn.Module:
        made = of(name, x)(x.shape[1], **options)
        made.stays_in_training = training
        return made

    return make


def plain(function: Callable[[Tensor], Tensor]) -> Make:
    """Make an operation of a function that knows all it needs."""
    return lambda x, knob: function


def knobbed(function: Callable[[Tensor, int], Tensor]) -> Make:
    """Make an operation of a function of the tensor and the knob."""
    return lambda x, knob: lambda x: function(x, knob)


class WithWeights(nn.Module):
    """A function of a tensor and of weights, which stand in order of their use."""

    def __init__(self, function: Callable[..., Tensor], *weights: Tensor) -> None:
        super().__init__()
        self.function = function
        self.weights = nn.ParameterList(weights)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x, *self.weights)


def weights(x: Tensor, *shape: int) -> Tensor:
    """Return random weights of the tensor's type."""
    return torch.randn(*shape).to(x.dtype) / max(1, shape[-1])


def kernel(x: Tensor, out: int, size: int = 3) -> Tensor:
    """Return a random kernel."""
    return weights(x, out, x.shape[1], *[size] * dimensions(x)) / 2


class Moved(nn.Module):
    """The channels moved to the end, or back."""

    def __init__(self, *, back: bool = False) -> None:
        super().__init__()
        self.back = back

    def forward(self, x: Tensor) -> Tensor:
        return x.movedim(-1, 1) if self.back else x.movedim(1, -1)


class Rows(nn.Module):
    """A recurrent layer, along the last dimension of the maps."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        rows = x.movedim(1, -1)
        found = self.inner(rows.flatten(0, -3))
        found = found[0] if isinstance(found, tuple) else found
        return found.unflatten(0, rows.shape[:-2]).movedim(-1, 1)

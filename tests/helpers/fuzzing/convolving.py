"""Convolutions, and other operations with weights."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from fuzzing.making import (
    Make,
    Moved,
    WithWeights,
    convolution,
    dimensions,
    kernel,
    of,
    only,
    weights,
)


def _tied(x: Tensor, knob: int) -> nn.Module:
    """Make a convolution and its transpose, of the same weights."""
    convolve, transpose = of("conv", x, F), of("conv_transpose", x, F)
    return WithWeights(lambda x, w: transpose(torch.tanh(convolve(x, w)), w), kernel(x, 4))


def _twice(x: Tensor, knob: int) -> nn.Module:
    """Make a convolution that is applied twice."""
    convolve = of("conv", x, F)
    return WithWeights(
        lambda x, w: convolve(convolve(x, w, padding=1), w, padding=1), kernel(x, x.shape[1])
    )


def _dynamic(x: Tensor, knob: int) -> nn.Module:
    """Make a convolution whose weights depend on the input."""
    convolve = of("conv", x, F)
    return WithWeights(lambda x, w: convolve(x, w * (1 + x.mean())), kernel(x, 4))


def _of_rectified_weights(x: Tensor, knob: int) -> nn.Module:
    convolve = of("conv", x, F)
    return WithWeights(lambda x, w: convolve(x, F.relu(w) - 0.1), kernel(x, 4))


def _standardised(x: Tensor, knob: int) -> nn.Module:
    convolve = of("conv", x, F)

    def standardise(w: Tensor) -> Tensor:
        every = tuple(range(1, w.dim()))
        return (w - w.mean(every, keepdim=True)) / (w.std(every, keepdim=True) + 0.1)

    return WithWeights(lambda x, w: convolve(x, standardise(w)) / 3, kernel(x, 4))


def _deformable(x: Tensor, knob: int) -> nn.Module:
    only(dimensions(x) == 2 and x.dtype in (torch.float32, torch.float64))

    def deform(x: Tensor, w: Tensor) -> Tensor:
        offsets = x[:, :1, : x.shape[2] - 2, : x.shape[3] - 2].expand(-1, 18, -1, -1).sigmoid()
        return torchvision.ops.deform_conv2d(x, offsets, w)

    return WithWeights(deform, kernel(x, 4))


def _parametrized(function: Callable[..., nn.Module], **options: Any) -> Make:
    return lambda x, knob: function(of("Conv", x)(x.shape[1], x.shape[1], 3, padding=1), **options)


CONVOLUTIONS: dict[str, Make] = {
    "convolution": convolution(),
    "convolution, padded": convolution(6, padding=1),
    "convolution, strided": convolution(4, stride=2, padding=1),
    "convolution, dilated": convolution(4, 2, dilation=2, padding=1),
    "convolution, grouped": convolution(4, groups=2, padding=1),
    "convolution, depthwise": lambda x, knob: of("Conv", x)(
        x.shape[1], 2 * x.shape[1], 3, padding=1, groups=x.shape[1]
    ),
    "convolution, pointwise": convolution(6, 1),
    "convolution, pointwise and strided": convolution(4, 1, stride=2, bias=False),
    "convolution, padded the same": convolution(4, 3, padding="same", dilation=2),
    "convolution, reflected": convolution(4, padding=1, padding_mode="reflect"),
    "convolution, replicated": convolution(4, padding=1, padding_mode="replicate"),
    "convolution, circular": convolution(4, padding=1, padding_mode="circular"),
    "convolution, transposed": convolution(4, 2, transposed=True),
    "convolution, transposed and strided": convolution(
        4, 3, transposed=True, stride=2, padding=1, output_padding=1
    ),
    "convolution, transposed and grouped": convolution(4, 3, transposed=True, groups=2, padding=1),
    "convolution, transposed and dilated": convolution(4, 2, transposed=True, dilation=2),
    "convolution, tied to its transpose": _tied,
    "convolution, applied twice": _twice,
    "convolution, of dynamic weights": _dynamic,
    "convolution, of rectified weights": _of_rectified_weights,
    "convolution, standardised": _standardised,
    "convolution, deformable": _deformable,
    "convolution, of normed weights": _parametrized(parametrizations.weight_norm),
    "convolution, of spectral norm": _parametrized(parametrizations.spectral_norm),
    "linear over channels": lambda x, knob: nn.Sequential(
        Moved(), nn.Linear(x.shape[1], 4), Moved(back=True)
    ),
    "bilinear": lambda x, knob: _Bilinear(x.shape[1]),
    "einsum": lambda x, knob: WithWeights(
        lambda x, w: torch.einsum("nc...,cd->nd...", x, w), weights(x, x.shape[1], 4)
    ),
}


class _Bilinear(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.inner = nn.Bilinear(channels, channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = x.movedim(1, -1).contiguous()
        return self.inner(x, x.flip(-1)).movedim(-1, 1)

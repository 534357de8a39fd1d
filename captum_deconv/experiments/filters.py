r"""What is wrong with filters, from the weights alone and from what is projected through them.

Near copies. Of the filters `w_i` of a convolution that see the same channels,

    max over j != i of <w_i, w_j> / (|w_i| |w_j|)

is the likeness of the nearest.

Frequency coverage. With `F_i(f)` the spectrum of a first-layer filter, each of energy one, the
density of their mean power in a band `B` of the frequency plane is

    d(B) = mean over f in B of mean over i of |F_i(f)|^2,

and with the octaves low (below 1/8 cycle per pixel), middle (to 1/4) and high (above),

    gap = d(middle) / min(d(low), d(high))

is one for noise, above one where power falls or rises steadily, and far below one where "a mix of
extremely high and low frequency information" leaves the middle out (Zeiler & Fergus 2013, section
4.1).

Aliasing. A stride `s` sees the image on a grid, and so what is projected back through it may have
that grid: with `p_n` the projections, each of energy one, and `E(y, x)` their mean energy at the
pixels of phase `(y mod s, x mod s)`,

    E(y, x) = mean over n of mean over pixels of that phase of |p_n|^2,
    grid = std(E) / mean(E),

whose squares are the power that the projections' energy has at the stride's frequencies, multiples
of `1/s`, over that at zero. It is 0 without a grid, and `sqrt(s^2 - 1)` where one phase alone is
lit.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn

_LEAST_WEIGHTS = 9
_LEAST_KERNEL = 7
"""Taps whose spectrum tells three octaves apart."""

_SIDE = 64
LOW, HIGH = 1 / 8, 1 / 4


class Spectrum(NamedTuple):
    """Of the first layer's filters.

    Attributes:
        radial: The mean power's density by frequency, from 0 to 1/2 cycle per pixel.
        low: Density of the low octave.
        middle: Of the middle one.
        high: Of the high one.
    """

    radial: tuple[float, ...]
    low: float
    middle: float
    high: float

    @property
    def gap(self) -> float:
        """The middle over the less of the two others."""
        return self.middle / max(min(self.low, self.high), 1e-30)


def measure_likeness(weight: Tensor, groups: int = 1) -> Tensor | None:
    """Measure how like each filter its nearest one is.

    Args:
        weight: Of a convolution, ``(filters, channels, ...)``.
        groups: The convolution's.

    Returns:
        ``(filters,)``, at most 1, and 0 for a filter of zeros; None where no two filters see the
        same, or they have less than nine weights, so that some are alike by chance.
    """
    flat = weight.detach().float().flatten(1)
    each = len(flat) // groups
    if each < 2 or flat.shape[1] < _LEAST_WEIGHTS:
        return None
    unit = flat / flat.norm(dim=1, keepdim=True).clamp(min=1e-30)
    found = []
    for group in unit.split(each):
        likeness = group @ group.T
        found.append(likeness.fill_diagonal_(-1).amax(1))
    return torch.cat(found).clamp(max=1).cpu()


def measure_spectrum(weight: Tensor) -> Spectrum | None:
    """Measure which frequencies filters cover.

    Args:
        weight: ``(filters, channels, height, width)``.

    Returns:
        Their spectrum; None where the kernel has less than seven taps along an axis, which do not
        tell the octaves apart, or all filters are zero.
    """
    if weight.dim() != 4 or min(weight.shape[2:]) < _LEAST_KERNEL:
        return None
    power = torch.fft.fft2(weight.detach().double().cpu(), (_SIDE, _SIDE)).abs().square().sum(1)
    total = power.sum((1, 2))
    if not bool((total > 0).any()):
        return None
    mean = (power[total > 0] / total[total > 0].view(-1, 1, 1)).mean(0)
    axis = torch.fft.fftfreq(_SIDE)
    radius = (axis[:, None].square() + axis[None].square()).sqrt()
    edges = torch.linspace(0, 0.5, 17)
    radial = [
        float(mean[(radius >= low) & (radius < high)].mean())
        for low, high in pairwise(edges.tolist())
    ]
    bands = (radius < LOW, (radius >= LOW) & (radius < HIGH), radius >= HIGH)
    low, middle, high = (float(mean[band].mean()) * _SIDE**2 for band in bands)
    return Spectrum(tuple(value * _SIDE**2 for value in radial), low, middle, high)


def measure_grid(
    projections: Sequence[Tensor], corners: Sequence[tuple[int, int]], stride: int
) -> Tensor | None:
    """Measure the energy of projections by the phase of a stride.

    Args:
        projections: Each ``(C, h, w)``.
        corners: Where in the image each begins.
        stride: In pixels.

    Returns:
        ``(stride, stride)``, of mean one; None where no projection holds anything.
    """
    energy = torch.zeros(stride, stride, dtype=torch.float64)
    found = 0
    for projection, (top, left) in zip(projections, corners, strict=True):
        squares = projection.double().square().sum(0)
        height, width = squares.shape
        if not float(squares.sum()) > 0 or min(height, width) < stride:
            continue
        rows, columns = (torch.arange(top, top + height), torch.arange(left, left + width))
        by_phase = torch.zeros(stride, stride, dtype=torch.float64)
        count = torch.zeros_like(by_phase)
        phase = ((rows % stride)[:, None] * stride + (columns % stride)[None]).flatten()
        by_phase.view(-1).index_add_(0, phase, squares.flatten())
        count.view(-1).index_add_(0, phase, torch.ones_like(squares).flatten())
        energy += by_phase / count / (by_phase / count).mean()
        found += 1
    return energy / found if found else None


def find_first(model: nn.Module, channels: int) -> tuple[str, nn.Conv2d] | None:
    """Find the convolution that an image goes into: the first one that takes its channels."""
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d) and module.in_channels == channels:
            return name, module
    return None

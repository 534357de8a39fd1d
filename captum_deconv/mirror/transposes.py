"""The way down, a module at a time: the transpose of each, written out by hand.

For every type of module there is a function that looks at the module and at what it is about to
take, `x`, and returns its way back: from the signal `R` above it, shaped like its output, to the
signal `J^T R` below it, shaped like `x`, with `J` the module's Jacobian there. For a rectifier the
options say otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Unpool = Literal["accumulate", "overwrite"]
Normalization = Literal["adjoint", "skip"]
GoBack: TypeAlias = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Options:
    """What is open about the way down; `Mirror` says what each means."""

    unpool: Unpool
    rectify: bool
    forward_masks: bool
    normalization: Normalization


class CannotMirrorError(Exception):
    """A module of a known type whose settings have no mirror image."""


def _record_convolution(conv: Any, x: Tensor, options: Options) -> GoBack:
    """`W^T R`: the transposed convolution onto the padded map, then the padding folded back."""
    sizes, weight = x.shape[2:], conv.weight.detach()
    reach = [d * (k - 1) for d, k in zip(conv.dilation, conv.kernel_size, strict=True)]
    if conv.padding == "same":  # the odd one goes to the end
        padding = [(r // 2, r - r // 2) for r in reach]
    elif conv.padding == "valid":
        padding = [(0, 0) for _ in reach]
    else:
        padding = [(p, p) for p in conv.padding]

    def go_back(signal: Tensor) -> Tensor:
        # What of the padded map lies beyond the last stride was never looked at; zeros go there.
        beyond = [
            size + sum(pad) - ((out - 1) * stride + r + 1)
            for size, pad, out, stride, r in zip(
                sizes, padding, signal.shape[2:], conv.stride, reach, strict=True
            )
        ]
        transpose = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[len(sizes) - 1]
        settings = (conv.stride, 0, beyond, conv.groups, conv.dilation)
        signal = transpose(signal, weight, None, *settings)
        for dim, pad in enumerate(padding, start=2):
            signal = _fold_padding(signal, dim, pad, conv.padding_mode)
        return signal

    return go_back


def _fold_padding(signal: Tensor, dim: int, pad: tuple[int, int], mode: str) -> Tensor:
    """The transpose of padding one dimension: each value goes to where its copy was taken from."""
    size = signal.shape[dim] - sum(pad)
    if mode == "zeros":
        return signal.narrow(dim, pad[0], size)
    # Padding the positions says where each came from.
    places = torch.arange(size, dtype=torch.float64, device=signal.device)
    sources = F.pad(places[None, None], pad, mode=mode)[0, 0].long()
    shape = [size if d == dim else n for d, n in enumerate(signal.shape)]
    return signal.new_zeros(shape).index_add_(dim, sources, signal)


def _record_linear(linear: Any, x: Tensor, options: Options) -> GoBack:
    weight = linear.weight.detach()
    return lambda signal: signal @ weight


def _record_rectifier(relu: Any, x: Tensor, options: Options) -> GoBack:
    passed = x > 0
    if isinstance(relu, nn.Hardtanh):  # ReLU6 is one
        if relu.min_val != 0:
            raise CannotMirrorError(f"it clips at {relu.min_val}, not at zero")
        passed &= x < relu.max_val

    def go_back(signal: Tensor) -> Tensor:
        if options.rectify:
            signal = signal.clamp_min(0)
        return signal.masked_fill(~passed, 0) if options.forward_masks else signal

    return go_back


def _record_max_pool(pool: Any, x: Tensor, options: Options) -> GoBack:
    if pool.return_indices:
        raise CannotMirrorError("return_indices=True makes its output two tensors")
    max_pool: Any = (F.max_pool1d, F.max_pool2d, F.max_pool3d)[x.dim() - 3]
    settings = (pool.kernel_size, pool.stride, pool.padding, pool.dilation, pool.ceil_mode)
    switches = max_pool(x, *settings, return_indices=True)[1].flatten(2)
    shape = x.shape

    def go_back(signal: Tensor) -> Tensor:
        below, values = signal.new_zeros(shape).flatten(2), signal.flatten(2)
        if options.unpool == "accumulate":
            below.scatter_add_(2, switches, values)
        else:
            # A scatter leaves open which of several writers wins, so name the winner first.
            order = torch.arange(values.shape[2], device=values.device).expand_as(values)
            last = torch.full_like(below, -1, dtype=torch.long)
            last.scatter_reduce_(2, switches, order, "amax")
            below = values.gather(2, last.clamp_min(0)).masked_fill(last < 0, 0)
        return below.reshape(shape)

    return go_back


def _record_average_pool(pool: Any, x: Tensor, options: Options) -> GoBack:
    sizes = x.shape[2:]

    def per_dimension(value: Any) -> tuple[int, ...]:
        return tuple(value) if isinstance(value, Sequence) else (value,) * len(sizes)

    kernels, strides, paddings = map(per_dimension, (pool.kernel_size, pool.stride, pool.padding))
    divisor = getattr(pool, "divisor_override", None)

    def go_back(signal: Tensor) -> Tensor:
        for size, out, kernel, stride, padding in zip(
            sizes, signal.shape[2:], kernels, strides, paddings, strict=True
        ):
            starts = torch.arange(out, device=signal.device) * stride - padding
            # With ceil_mode a window may reach beyond the padding, and that part never counts.
            ends = (starts + kernel).clamp_max(size + padding)
            windows = _windows(starts, ends, size, signal)
            counts = (ends - starts)[:, None] if pool.count_include_pad else windows.sum(1, True)
            windows = windows if divisor else windows / counts
            signal = torch.tensordot(signal, windows, dims=([2], [0]))  # dimensions take turns
        return signal / divisor if divisor else signal

    return go_back


def _record_adaptive_average_pool(pool: Any, x: Tensor, options: Options) -> GoBack:
    sizes = x.shape[2:]

    def go_back(signal: Tensor) -> Tensor:
        for size, out in zip(sizes, signal.shape[2:], strict=True):
            bins = torch.arange(out, device=signal.device)
            starts, ends = bins * size // out, -(-(bins + 1) * size // out)
            windows = _windows(starts, ends, size, signal) / (ends - starts)[:, None]
            signal = torch.tensordot(signal, windows, dims=([2], [0]))
        return signal

    return go_back


def _windows(starts: Tensor, ends: Tensor, size: int, like: Tensor) -> Tensor:
    """The matrix `(windows, size)` that is one where a place lies in `[start, end)`."""
    places = torch.arange(size, device=like.device)
    return ((places >= starts[:, None]) & (places < ends[:, None])).to(like.dtype)


def _record_batch_norm(norm: Any, x: Tensor, options: Options) -> GoBack:
    if norm.training or norm.running_var is None:
        raise CannotMirrorError("it uses the batch's own statistics; call model.eval() first")
    scale = (norm.running_var + norm.eps).rsqrt()
    if norm.weight is not None:
        scale = scale * norm.weight.detach()
    scale = scale.reshape(-1, *[1] * (x.dim() - 2))
    return lambda signal: signal * scale


def _record_response_norm(norm: Any, x: Tensor, options: Options) -> GoBack:
    """Transpose the Jacobian of `b_i = x_i / D_i^beta`, `D_i = k + alpha/n sum_j x_j^2`.

    The sum goes over the window of `n` channels around `i`. With `S` the sum over those `i` in
    whose window `m` lies,

        (J^T R)_m = R_m / D_m^beta - 2 alpha beta / n * x_m * S(R_i x_i / D_i^(beta+1))
    """
    if options.normalization == "skip":
        return lambda signal: signal
    starts = torch.arange(x.shape[1], device=x.device) - norm.size // 2
    windows = _windows(starts, starts + norm.size, x.shape[1], x)
    squares = torch.einsum("im,nm...->ni...", windows, x * x)
    divisor: Tensor = norm.k + norm.alpha / norm.size * squares

    def go_back(signal: Tensor) -> Tensor:
        shared = signal * x / divisor.pow(norm.beta + 1)
        shared = torch.einsum("im,ni...->nm...", windows, shared)
        factor: float = 2 * norm.alpha * norm.beta / norm.size
        return signal / divisor.pow(norm.beta) - factor * x * shared

    return go_back


def _record_reshape(reshape: Any, x: Tensor, options: Options) -> GoBack:
    shape = x.shape
    return lambda signal: signal.reshape(shape)


def _record_identity(identity: Any, x: Tensor, options: Options) -> GoBack:
    return lambda signal: signal


def _record_dropout(dropout: Any, x: Tensor, options: Options) -> GoBack:
    if dropout.training and dropout.p > 0:
        raise CannotMirrorError("it drops at random; call model.eval() first")
    return lambda signal: signal


Recorder: TypeAlias = Callable[[Any, Tensor, Options], GoBack]

# The way back of each type, and the number of spatial dimensions where the type fixes it.
_RECORDERS: dict[type[nn.Module], tuple[Recorder, int]] = {
    **{
        getattr(nn, f"{kind}{dimensions}d"): (recorder, dimensions)
        for kind, recorder in (
            ("Conv", _record_convolution),
            ("MaxPool", _record_max_pool),
            ("AvgPool", _record_average_pool),
            ("AdaptiveAvgPool", _record_adaptive_average_pool),
        )
        for dimensions in (1, 2, 3)
    },
    **dict.fromkeys((nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d), (_record_batch_norm, 0)),
    **dict.fromkeys((nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d), (_record_dropout, 0)),
    **dict.fromkeys((nn.AlphaDropout, nn.FeatureAlphaDropout), (_record_dropout, 0)),
    **dict.fromkeys((nn.ReLU, nn.Hardtanh), (_record_rectifier, 0)),
    **dict.fromkeys((nn.Flatten, nn.Unflatten), (_record_reshape, 0)),
    nn.LocalResponseNorm: (_record_response_norm, 0),
    nn.Linear: (_record_linear, 0),
    nn.Identity: (_record_identity, 0),
}


def find_recorder(module: nn.Module) -> tuple[Recorder, int] | None:
    """Look a module up by its type, or by a base whose computation it has not replaced."""
    for base in type(module).__mro__:
        if base in _RECORDERS:
            replaced = any(
                getattr(type(module), method, None) is not getattr(base, method, None)
                for method in ("forward", "_conv_forward", "__call__")
            )
            return None if replaced else _RECORDERS[base]
    return None

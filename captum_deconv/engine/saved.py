"""What each of autograd's nodes reads of what it saved, when only inputs' gradients are wanted.

An input gradient reads no activation: of a convolution, a linear layer or an evaluation-mode batch
norm it reads weights and shapes; of a rectifier, one bit for each value; of a max-pool, its
switches. This is the table; what is not in it is kept as it is. ``tests/engine/test_saved.py``
holds each row against PyTorch's own derivative, with what is not read filled with NaN.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Reads:
    """What a node reads.

    Attributes:
        shape_of: The saved tensors of which it reads the shape alone.
        mask_of: The saved tensor that it reads one bit of each value of: does the signal pass?
        switches: The saved tensor of places of maxima.
        holds: Whether this is so for a node at hand, by what it saved and where it leads.
    """

    shape_of: tuple[str, ...] = ()
    mask_of: str | None = None
    switches: str | None = None
    holds: Callable[[Any], bool] = lambda node: True


def _weight_at(index: int) -> Callable[[Any], bool]:
    """Tell whether an argument is a weight: the input is read for that one's gradient only."""
    return lambda node: _is_weight(node.next_functions[index][0])


def mark_wanted(tensor: Tensor) -> None:
    """Mark a tensor that a gradient is wanted to, so that it is never taken for a weight."""
    node: Any = tensor.grad_fn
    if node is not None:
        node.metadata[_WANTED] = True


_WANTED = "captum_deconv: a gradient to it is wanted"


def _is_weight(node: Any, depth: int = 6) -> bool:
    """Tell whether nothing but the model's parameters leads to a node."""
    if node is None:
        return True
    if _WANTED in node.metadata:
        return False
    if type(node).__name__ == "AccumulateGrad":
        return isinstance(node.variable, nn.Parameter)
    successors = node.next_functions
    return depth > 0 and bool(successors) and all(_is_weight(n, depth - 1) for n, _ in successors)


def _is_evaluated(node: Any) -> bool:
    return not node._saved_training


def _has_whole_bounds(node: Any) -> bool:
    """Tell whether a rectifier's bounds are small integers, which every type holds exactly."""
    if type(node).__name__ == "ThresholdBackward0":
        bounds = [node._saved_threshold]
    else:
        bounds = [node._saved_min_val, node._saved_max_val]
    return all(float(bound).is_integer() and abs(bound) <= 64 for bound in bounds)


READS: dict[str, Reads] = {
    "ConvolutionBackward0": Reads(("input",), holds=_weight_at(1)),
    "AddmmBackward0": Reads(("mat1",), holds=_weight_at(2)),
    "MmBackward0": Reads(("self",), holds=_weight_at(1)),
    "LinearBackward0": Reads(("input",), holds=_weight_at(1)),
    "NativeBatchNormBackward0": Reads(("input",), holds=_is_evaluated),
    "AvgPool2DBackward0": Reads(("self",)),
    "AvgPool3DBackward0": Reads(("self",)),
    "AdaptiveAvgPool2DBackward0": Reads(("self",)),
    "AdaptiveAvgPool3DBackward0": Reads(("self",)),
    "MaxPool2DWithIndicesBackward0": Reads(("self",), switches="result1"),
    "MaxPool3DWithIndicesBackward0": Reads(("self",), switches="result1"),
    "ReluBackward0": Reads(mask_of="result"),
    "HardtanhBackward0": Reads(mask_of="self", holds=_has_whole_bounds),
    "ThresholdBackward0": Reads(mask_of="self", holds=_has_whole_bounds),
}


def find_passing(node: Any, saved: Tensor) -> Tensor:
    """Return what is other than zero where a rectifier passes the signal on.

    Its derivative asks where it does *not*, so that NaN passes.
    """
    name = type(node).__name__
    outside: Tensor
    if name == "ReluBackward0":
        return saved  # nowhere negative itself; to compare it would take several times as long
    if name == "HardtanhBackward0":
        outside = (saved <= node._saved_min_val).logical_or_(saved >= node._saved_max_val)
    else:
        outside = saved <= node._saved_threshold
    return outside.logical_not_()


def find_stand_ins(node: Any) -> tuple[float, float]:
    """Return two values that its derivative takes for one that blocks and one that passes."""
    name = type(node).__name__
    if name == "HardtanhBackward0":
        low, high = float(node._saved_min_val), float(node._saved_max_val)
        return low, (low + high) / 2
    low = float(node._saved_threshold) if name == "ThresholdBackward0" else 0.0
    return low, low + 1


def pack_switches(node: Any, switches: Tensor) -> Callable[[], Tensor]:
    """Keep where a pool's maxima were in small integers.

    From the corner of its window a maximum is seldom farther away than an ``int16`` holds; where
    it may be, and in three dimensions, an ``int32`` holds the place itself.

    Args:
        node: Of a max-pool.
        switches: Where the maxima were, counted through each map: ``int64``.

    Returns:
        What gives the switches again.
    """
    columns = node._saved_self.shape[-1]
    kernel, dilation = node._saved_kernel_size, node._saved_dilation
    farthest = ((kernel[0] - 1) * dilation[0] + 1) * columns
    if type(node).__name__ != "MaxPool2DWithIndicesBackward0" or farthest > _INT16:
        places = switches.to(torch.int32)
        return lambda: places.to(torch.int64)
    stride, padding = node._saved_stride or kernel, node._saved_padding
    rows, across = (
        torch.arange(size, device=switches.device).mul_(stride[axis]).sub_(padding[axis])
        for axis, size in enumerate(switches.shape[-2:])
    )
    corners = rows.mul_(columns).unsqueeze(1) + across
    distances = (switches - corners).to(torch.int16)
    return lambda: distances.to(torch.int64).add_(corners)


_INT16 = 2**15 - 1

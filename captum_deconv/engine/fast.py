"""A faster copy of a network: batch norms folded into convolutions, and tensors in channels-last.

A batch norm in evaluation mode is an affine map of each channel, so the convolution before it can
carry it: ``W' = W g / s``, ``b' = (b - m) g / s + beta``, with ``m`` and ``s`` the running mean and
standard deviation. The copy computes the same function in another order, so its values differ by
rounding, and a gradient by more than that where rounding turns a value's sign at a rectifier or
the first of two in a pooling window. Nothing in this package uses it unless asked to.

>>> import torch
>>> from torch import nn
>>> model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()).eval()
>>> copy = make_fast(model)
>>> copy.folded, copy.model[1]
(1, Identity())
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
_CLOSE = 1e-2
"""Of the largest value, for half precision too; what is no convolution is farther off."""


@dataclass(frozen=True)
class FastCopy:
    """A network that computes what another does, faster.

    Attributes:
        model: The copy; it shares nothing with the network.
        folded: How many batch norms were folded.
        left: Why none could be looked for, in a sentence; empty where they could.
    """

    model: nn.Module
    folded: int
    left: str = ""

    def describe(self) -> str:
        """Say in a line what was done."""
        return f"channels-last, {self.left or f'{self.folded} batch norms folded'}"


def make_fast(model: nn.Module, layers: Sequence[str] = ()) -> FastCopy:
    """Make a faster copy of a network.

    While it looks at the network no other thread may run one: ``torch.fx`` replaces
    ``nn.Module.__call__`` for that long.

    Args:
        model: In evaluation mode; it stays as it is.
        layers: Dotted names of the layers whose tensors are wanted: they stay what they are, so no
            convolution inside one carries a batch norm outside of it.

    Returns:
        The copy, which has the same modules under the same names; a folded batch norm's does
        nothing.
    """
    faster = copy.deepcopy(model)
    left, folded = "", 0
    try:
        pairs = _find_pairs(faster, layers)
    except Exception as error:  # whatever a forward does with what stands for its tensors
        reason = str(error).strip().split("\n")[0]
        pairs, left = (
            [],
            f"no batch norms folded, because torch.fx cannot follow the network ({reason})",
        )
    for convolution, norm in pairs:
        parts: Any = faster.get_submodule(convolution), faster.get_submodule(norm)
        fused = fuse_conv_bn_eval(*parts)
        if _agree(nn.Sequential(*parts), fused):
            _put(faster, convolution, fused)
            _put(faster, norm, nn.Identity())
            folded += 1
    faster.to(memory_format=torch.channels_last)
    return FastCopy(faster, folded, left)


def measure_difference(result: Tensor, expected: Tensor) -> float:
    """Return the largest difference of two tensors over the largest value of the second."""
    scale = float(expected.abs().max())
    return float((result - expected).abs().max()) / (scale or 1.0)


class _Tracer(fx.Tracer):
    """Takes subclasses of a convolution and of a batch norm for one step, too."""

    def is_leaf_module(self, module: nn.Module, name: str) -> bool:
        """Tell whether a module is one step of the graph."""
        return isinstance(module, _CONVOLUTIONS + _NORMS) or super().is_leaf_module(module, name)


def _agree(pair: nn.Sequential, fused: Any) -> bool:
    """Tell whether a convolution does for two: a subclass may compute something of its own."""
    sides = (6 * d * (k - 1) + 6 for k, d in zip(fused.kernel_size, fused.dilation, strict=True))
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(1, fused.in_channels, *sides, generator=generator).to(fused.weight)
    with torch.no_grad():
        expected = pair(images)
        return measure_difference(fused(images), expected) < _CLOSE


def _find_pairs(model: nn.Module, layers: Sequence[str]) -> list[tuple[str, str]]:
    """Find the convolutions whose result nothing but a batch norm takes, by their names."""
    graph = _Tracer().trace(model)
    modules = dict(model.named_modules(remove_duplicate=False))
    called: Counter[int] = Counter(
        id(modules[str(node.target)]) for node in graph.nodes if node.op == "call_module"
    )

    def is_plain(node: Any, kinds: tuple[type, ...]) -> bool:
        if not isinstance(node, fx.Node) or node.op != "call_module":
            return False
        module = modules[str(node.target)]
        hooked = module._forward_hooks or module._forward_pre_hooks or module._backward_hooks
        # Called once, as another call may have something else after it.
        return isinstance(module, kinds) and called[id(module)] == 1 and not hooked

    found = []
    for norm in graph.nodes:
        if not is_plain(norm, _NORMS) or modules[norm.target].running_mean is None:
            continue
        (convolution, *others) = norm.args
        if others or not is_plain(convolution, _CONVOLUTIONS) or len(convolution.users) != 1:
            continue
        names = str(convolution.target), str(norm.target)
        if not any(_is_in(names[0], layer) and not _is_in(names[1], layer) for layer in layers):
            found.append(names)
    return found


def _is_in(name: str, layer: str) -> bool:
    return name == layer or name.startswith(f"{layer}.")


def _put(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, last = name.rpartition(".")
    setattr(model.get_submodule(parent), last, module)

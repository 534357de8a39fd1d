"""Where a rectifier stands in a network, by name, however it is spelled."""

import copy
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from spellings import LEAKY, SMOOTH, SPELLINGS
from torch import Tensor, nn

from fuzzing.making import only

MORE = {
    "threshold to another value": lambda x: F.threshold(x, 0.0, -0.5),
    "threshold_": lambda x: F.threshold_(x, 0.0, 0.0),
    "hardtanh_(0, 2)": lambda x: F.hardtanh_(x, 0.0, 2.0),
    "Hardtanh(0, 1)": nn.Hardtanh(0, 1),
    "clamp_(0, 6)": lambda x: x.clamp_(0, 6),
    "clamp(min=channels)": lambda x: x.clamp(min=x.new_zeros(x.shape[1:])),
    "maximum(x, channels)": lambda x: torch.maximum(x, x.new_zeros(x.shape[1:])),
    "LeakyReLU(0)": nn.LeakyReLU(0.0),
    "LeakyReLU(0) in place": nn.LeakyReLU(0.0, inplace=True),
    "torch.relu(input=x)": lambda x: torch.relu(input=x),
}
"""Spellings of a rectifier that only random networks need."""

MORE_LEAKY = {
    "leaky_relu_": lambda x: F.leaky_relu_(x, 0.2),
    "RReLU in place": nn.RReLU(inplace=True),
    "rrelu, training": lambda x: F.rrelu(x, training=True),
}
MORE_SMOOTH = {
    "CELU in place": nn.CELU(0.5, inplace=True),
    "SELU in place": nn.SELU(inplace=True),
    "Hardswish in place": nn.Hardswish(inplace=True),
    "Mish in place": nn.Mish(inplace=True),
    "Softplus(2)": nn.Softplus(2.0, 1.0),
}

RECTIFIERS = {**SPELLINGS, **MORE}
LEAKY_ONES = {**LEAKY, **MORE_LEAKY}
SMOOTH_ONES = {**SMOOTH, **MORE_SMOOTH}
ALL: dict[str, Callable[[Tensor], Tensor]] = {**RECTIFIERS, **LEAKY_ONES, **SMOOTH_ONES}


def _works_in_place(spelling: Callable[[Tensor], Tensor]) -> bool:
    x = torch.zeros(1, 2, 3)
    with torch.no_grad():
        return spelling(x) is x


IN_PLACE = frozenset(name for name, spelling in ALL.items() if _works_in_place(spelling))


class Rectifier(nn.Module):
    """A rectifier in some place of a network.

    Args:
        spelling: A name among ``ALL``.
        place: A name among ``PLACES``.
        copied: Whether one that works in place is given a copy.
    """

    def __init__(self, spelling: str, place: str, *, copied: bool) -> None:
        super().__init__()
        only(place not in ON_VIEWS or spelling in IN_PLACE)
        self.rectify: Any = copy.deepcopy(ALL[spelling])
        self.place = PLACES[place]
        self.copied = copied and spelling in IN_PLACE

    def forward(self, x: Tensor) -> Tensor:
        return self.place(self.rectify, x.clone() if self.copied else x)


def _on_branches(f: Any, x: Tensor) -> Tensor:
    return f(x * 1) - 0.5 * f(-x)


def _on_a_slice(f: Any, x: Tensor) -> Tensor:
    y = x * 1
    f(y[:, : max(1, x.shape[1] // 2)])
    return y


def _on_every_second(f: Any, x: Tensor) -> Tensor:
    y = x * 1
    f(y[..., ::2])
    return y


def _on_one_channel(f: Any, x: Tensor) -> Tensor:
    y = x * 1
    f(y[:, 0:1])
    return y * 1.5


def _on_a_view(f: Any, x: Tensor) -> Tensor:
    y = x.contiguous() * 1
    f(y.view(len(x), x.shape[1], -1))
    return y


def _on_a_transposed_view(f: Any, x: Tensor) -> Tensor:
    y = x * 1
    f(y.transpose(1, -1))
    return y


def _on_a_view_of_a_slice(f: Any, x: Tensor) -> Tensor:
    y = x * 1
    f(y[:, :1].transpose(0, 1))
    return y


def _into_a_slice(f: Any, x: Tensor) -> Tensor:
    y = x * 1
    y[:, :1] = f(x[:, :1] * 1)
    return y


def _on_chunks(f: Any, x: Tensor) -> Tensor:
    parts = list(x.chunk(2, 1))
    parts[0] = f(parts[0] * 1)
    return torch.cat(parts, 1)


def _on_a_stack(f: Any, x: Tensor) -> Tensor:
    return f(torch.stack([x, -x])).sum(0)


def _on_a_permuted_one(f: Any, x: Tensor) -> Tensor:
    return f(x.transpose(1, -1) * 1).transpose(1, -1)


def _with_a_name(f: Any, x: Tensor) -> Tensor:
    kept = x * 2
    f(kept)  # what works in place need not be taken from what it returns
    return kept + f(x * 1)


PLACES: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "straight": lambda f, x: f(x),
    "twice": lambda f, x: f(f(x) - 0.3),
    "beside a skip": lambda f, x: f(x * 1) + x,
    "on two branches": _on_branches,
    "negated": lambda f, x: -f(-x),
    "concatenated with its mirror": lambda f, x: torch.cat([f(x * 1), f(-x)], 1),
    "on a permuted tensor": _on_a_permuted_one,
    "on a stack": _on_a_stack,
    "on a chunk": _on_chunks,
    "on a half precision copy": lambda f, x: f(x.to(torch.bfloat16)).to(x.dtype),
    "on an expanded tensor": lambda f, x: f(x[:, :1].expand_as(x) * 1) + x,
    "into a slice": _into_a_slice,
    "result not taken": _with_a_name,
    "on a slice": _on_a_slice,
    "on every second place": _on_every_second,
    "on one channel": _on_one_channel,
    "on a view": _on_a_view,
    "on a transposed view": _on_a_transposed_view,
    "on a view of a slice": _on_a_view_of_a_slice,
}
"""What is done with a rectifier ``f`` and a tensor."""

ON_VIEWS = frozenset(
    {
        *("on a slice", "on every second place", "on one channel", "on a view"),
        *("on a transposed view", "on a view of a slice"),
    }
)
"""Places where only what works in place does anything."""

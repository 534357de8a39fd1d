"""Where two tensors of a network meet, by name: skips, concatenations, gates.

Each takes a tensor ``(N, C, *map)`` and another, brought to its shape first.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

MIXES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "added": lambda x, y: x + y,
    "subtracted": lambda x, y: x - 2 * y,
    "added, scaled": lambda x, y: torch.add(x, y, alpha=0.5),
    "added into": lambda x, y: x.clone().add_(y),
    "multiplied": lambda x, y: x * y,
    "gated": lambda x, y: x * torch.sigmoid(y),
    "gated by a rectifier": lambda x, y: x * F.relu(y),
    "divided": lambda x, y: x / (1 + y.abs()),
    "concatenated": lambda x, y: torch.cat([x, y], 1),
    "concatenated along the map": lambda x, y: torch.cat([x, y], -1),
    "stacked and summed": lambda x, y: torch.stack([x, y, x]).sum(0),
    "maxout": torch.maximum,
    "minimum": torch.minimum,
    "interpolated": lambda x, y: torch.lerp(x, y, 0.3),
    "chosen": lambda x, y: torch.where(x > 0.1, x, y),
    "clamped by the other": lambda x, y: x.clamp(min=y),
    "product of matrices": lambda x, y: x + (x @ y.transpose(-1, -2)) @ y / y.shape[-1],
    "correlated": lambda x, y: x + (x * y).sum(1, keepdim=True),
    "half of each": lambda x, y: torch.cat([x[:, : x.shape[1] // 2], y[:, x.shape[1] // 2 :]], 1),
}


def fit(y: Tensor, x: Tensor) -> Tensor:
    """Return a tensor ``(N, C, *map)`` brought to the shape of another."""
    if y.shape == x.shape:
        return y
    flat = y.flatten(2)
    places = x.shape[2:].numel()
    if flat.shape[2] != places:
        flat = F.adaptive_avg_pool1d(flat, places)
    channels = torch.arange(x.shape[1]) % y.shape[1]
    return flat.index_select(1, channels).reshape(x.shape)

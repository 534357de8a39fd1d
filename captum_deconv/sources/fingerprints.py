"""Hashes of tensors, remembered for as long as the tensors stay as they are.

To hash the weights of VGG-16 takes half a second, and whoever projects a few neurons at a time has
them hashed at every call. So a hash is kept beside what shows that its tensors are the same objects
with the same values: their identity, memory and shape; autograd's version, which counts every
change in place; and, because a change through ``.data`` is not counted, the bytes of every small
tensor and of evenly spaced values of the large ones.

>>> import torch
>>> tensor, calls = torch.zeros(3), []
>>> def compute():
...     calls.append(1)
...     return str(tensor.tolist())
>>> recall("key", [tensor], compute), recall("key", [tensor], compute), len(calls)
('[0.0, 0.0, 0.0]', '[0.0, 0.0, 0.0]', 1)
>>> _ = tensor.add_(1)
>>> recall("key", [tensor], compute)
'[1.0, 1.0, 1.0]'
"""

from __future__ import annotations

import hashlib
import weakref
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

_WHOLE, _SAMPLED = 4096, 512
"""Values: a tensor of up to so many is compared whole, of a larger one so many."""
_MOST = 32


@dataclass(frozen=True)
class _Memory:
    tensors: tuple[weakref.ref[Tensor], ...]
    state: tuple[Hashable, ...]
    value: str


_memories: OrderedDict[Hashable, _Memory] = OrderedDict()


def recall(key: Hashable, tensors: Sequence[Tensor], compute: Callable[[], str]) -> str:
    """Return what was computed from the same tensors before, or compute it.

    Args:
        key: What else it is computed from.
        tensors: They stay as they are.
        compute: What to call if they were never seen, or have changed.

    Returns:
        The value.
    """
    place = (key, *map(id, tensors))
    state = _describe(tensors)
    known = _memories.get(place)
    if known is not None and known.state == state:
        alive = (reference() for reference in known.tensors)
        if all(one is other for one, other in zip(alive, tensors, strict=True)):
            return known.value
    value = compute()
    if state is not None:
        _memories[place] = _Memory(tuple(map(weakref.ref, tensors)), state, value)
        while len(_memories) > _MOST:
            _memories.popitem(last=False)
    return value


def _describe(tensors: Sequence[Tensor]) -> tuple[Hashable, ...] | None:
    """Return what tells tensors from changed ones; None where nothing does for sure."""
    if any(tensor.is_inference() or tensor.layout is not torch.strided for tensor in tensors):
        return None
    marks = [(t.data_ptr(), t._version, t.shape, t.stride(), t.dtype, t.device) for t in tensors]
    digest = hashlib.sha256()
    by_device: dict[torch.device, list[Tensor]] = {}
    for tensor in tensors:
        by_device.setdefault(tensor.device, []).append(_sample(tensor.detach()))
    for samples in by_device.values():
        # Together, so that a device is waited for once.
        digest.update(torch.cat(samples).cpu().numpy().tobytes())
    return (*marks, digest.digest())


def _sample(tensor: Tensor) -> Tensor:
    """Return bytes of a tensor: all of them, or those of evenly spaced values."""
    if tensor.numel() > _WHOLE:
        # In the order of its memory, where that has no holes: nothing is copied then.
        dense = sum((n - 1) * s for n, s in zip(tensor.shape, tensor.stride(), strict=True)) + 1
        if dense == tensor.numel():
            tensor = tensor.as_strided((dense,), (1,))
        tensor = tensor.reshape(-1)[:: tensor.numel() // _SAMPLED]
    return tensor.reshape(-1).contiguous().view(torch.uint8)

"""Find a layer's receptive field without computing anything.

A receptive field depends on shapes alone, and a forward pass of one image to a shallow layer takes
longer than all of its projections. So the pass is run by a copy of the model on the meta device,
where a tensor has a shape and no values; the copy shares nothing with the model, whose weights are
not copied either.

>>> import torch
>>> from torch import nn
>>> model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.MaxPool2d(2))
>>> find_field(model, "1", torch.zeros(3, 32, 32)).size
(4, 4)
"""

from __future__ import annotations

import copy
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from captum_deconv.engine import forward, modes
from captum_deconv.receptive_field import field
from captum_deconv.receptive_field.field import ReceptiveField

_found: WeakKeyDictionary[nn.Module, dict[tuple[Any, ...], ReceptiveField]] = WeakKeyDictionary()
"""The last fields of each model."""

_MOST = 512


def find_field(model: nn.Module, layer: str, image: Tensor) -> ReceptiveField:
    """Find the receptive field of a layer's neurons; asked again, it answers at once.

    Args:
        model: It stays as it is.
        layer: Its dotted name.
        image: One of the images, ``(C, H, W)``.

    Returns:
        What ``receptive_field.of`` gives.
    """
    # By the text of its architecture too, so that a stride that was changed meanwhile is seen.
    place = layer, tuple(image.shape), repr(model)
    known = _found.setdefault(model, {})
    if place not in known:
        if len(known) >= _MOST:
            known.clear()
        known[place] = _find(model, layer, image)
    return known[place]


def _find(model: nn.Module, layer: str, image: Tensor) -> ReceptiveField:
    try:
        return _trace_shapes(model, layer, image)
    except Exception:
        # No copy of it can be made, or it computes with values on the way: let it compute.
        return field.of(model, layer, image[None])


def _trace_shapes(model: nn.Module, layer: str, image: Tensor) -> ReceptiveField:
    shapes = copy_shapes(model)
    leaf = torch.empty((1, *image.shape), dtype=image.dtype, device="meta", requires_grad=True)

    def work(held: modes.Pass) -> ReceptiveField:
        capture = forward.capture(shapes, layer, stop=True)
        with capture.hooked():
            shapes(leaf.clone())
        ((output,),) = capture.tensors.values()
        return field.trace(output, leaf)

    return modes.differentiably(shapes, work)


def copy_shapes(model: nn.Module) -> nn.Module:
    """Copy a model with tensors that have shapes only, and without the user's hooks."""
    memo: dict[int, Any] = {}
    for tensor in (*model.parameters(), *model.buffers()):
        like = torch.empty_like(tensor, device="meta")
        parameter = isinstance(tensor, nn.Parameter)
        memo[id(tensor)] = nn.Parameter(like, tensor.requires_grad) if parameter else like
    shapes = copy.deepcopy(model, memo)
    for module in shapes.modules():
        module._forward_hooks.clear()
        module._forward_pre_hooks.clear()
    return shapes

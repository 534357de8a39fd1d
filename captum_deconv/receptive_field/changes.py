"""Run a model on images that differ from one image in a box each: only what the box changes.

The mirror of a receptive field: where a field says what of the image a place of a map sees, this
computes anew the places of a map that see a part of the image, and nothing else. What it rests on
is a tensor to the model, :class:`captum_deconv.receptive_field.changed.Changed`.

>>> import torch
>>> from torch import nn
>>> model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)).eval()
>>> image = torch.rand(3, 32, 32)
>>> changed = Changes(model, image).run([((0, 8), (0, 8)), ((24, 32), (16, 24))], torch.zeros(3))
>>> other = image.clone()
>>> other[:, 24:32, 16:24] = 0
>>> torch.allclose(changed[1], model(other[None])[0], atol=1e-6)
True
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from captum_deconv.receptive_field.changed import Changed, Known, whole
from captum_deconv.receptive_field.spans import Box, place_boxes


class Changes:
    """A model, and the image of which others are changed versions.

    Args:
        model: In evaluation mode, on the image's device.
        image: ``(C, H, W)``.
    """

    def __init__(self, model: Callable[..., Any], image: Tensor) -> None:
        self.model, self.image = model, image[None]
        self._known = Known()
        self._follows = True

    def run(self, boxes: Sequence[Box], value: Tensor) -> Any:
        """Run the model on the image with each of some boxes filled by a value.

        What hooks on the model's layers get may be a :class:`Changed`: :func:`changed.whole` and
        :func:`changed.sum_channel` take either.

        Args:
            boxes: For each image of the batch start and stop, of height and of width.
            value: Of each channel, ``(C,)``.

        Returns:
            What the model returns for the batch.
        """
        self._known.begin()
        changed = _fill(self.image, boxes, value, self._known)
        with torch.no_grad():
            if self._follows:
                try:
                    return tree_map(whole, self.model(changed))
                except torch.OutOfMemoryError:
                    raise
                except Exception:
                    # Something in it takes plain tensors only. Whatever else is wrong, they show.
                    self._follows = False
            return self.model(changed.whole())


def _fill(image: Tensor, boxes: Sequence[Box], value: Tensor, known: Known) -> Changed:
    starts, size = place_boxes(boxes, image.shape[2:])
    plain = image[..., : size[0], : size[1]].expand(len(boxes), -1, -1, -1)
    patches = Changed(image, plain, [(0, 0)] * len(boxes), known).cut(starts, size)
    filling = value.to(image)[:, None, None]
    for patch, ((top, bottom), (left, right)), (y, x) in zip(patches, boxes, starts, strict=True):
        patch[:, top - y : bottom - y, left - x : right - x] = filling
    return Changed(image, patches, starts, known)

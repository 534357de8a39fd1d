"""The data set's samples: each read once, checked, and kept small for looking at."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from captum_deconv.features.records import read_sample


def read_images(dataset: Any, samples: Sequence[int], workers: int = 0) -> Iterator[Tensor]:
    """Read images from a data set, in the order given.

    Args:
        dataset: ``dataset[i]`` is an image, or a tuple that starts with one.
        samples: Their numbers.
        workers: Processes that read ahead; 0 reads here.

    Yields:
        Each image, ``(3, H, W)`` or ``(1, H, W)``.

    Raises:
        UnreadableSampleError: If a sample cannot be read.
        TypeError: If it is not of a floating-point type.
        ValueError: If it is not of that shape.
    """
    if workers > 0:
        reader = _Reader(dataset, samples)
        images: Iterable[Tensor] = DataLoader(reader, batch_size=None, num_workers=workers)
    else:
        images = (read_sample(dataset, sample) for sample in samples)
    for sample, image in zip(samples, images, strict=True):
        if not image.is_floating_point():
            raise TypeError(
                f"sample {sample} is of type {image.dtype}, and a floating-point type is needed: "
                "give the data set the transform that the model was trained with"
            )
        if image.dim() != 3 or image.shape[0] not in (1, 3):
            raise ValueError(
                f"sample {sample} is of shape {tuple(image.shape)}: a gallery shows images, of "
                "shape (3, H, W) or (1, H, W)"
            )
        yield image.detach()


class _Reader(Dataset[Tensor]):
    """The samples that are needed, in their order."""

    def __init__(self, dataset: Any, samples: Sequence[int]) -> None:
        self.dataset, self.samples = dataset, samples

    def __getitem__(self, number: int) -> Tensor:
        return read_sample(self.dataset, self.samples[number])

    def __len__(self) -> int:
        return len(self.samples)


def to_bytes(image: Tensor, restore: Callable[[Tensor], Tensor] | None) -> Tensor:
    """Turn an image as a model takes it into one for looking at.

    Args:
        image: ``(3 or 1, H, W)``.
        restore: Brings it back into [0, 1], as by undoing a normalisation; where None, an image
            outside that range is stretched to it.

    Returns:
        ``uint8``, ``(3, H, W)``.
    """
    shown = (image if restore is None else restore(image)).detach().float().cpu()
    low, high = (float(value) for value in shown.aminmax())
    if restore is not None:
        shown = shown.clamp(0, 1)
    if restore is not None or (low >= 0 and high <= 1):
        low, high = 0.0, 1.0
    by = 255 / max(high - low, 1e-12)
    bytes_: Tensor = torch.add(shown, -low).mul_(by).add_(0.5).to(torch.uint8)
    return bytes_.expand(3, -1, -1).contiguous()

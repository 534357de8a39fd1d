"""A small network, scanned and projected once for all tests of the gallery."""

import functools

import torch
from torch import Tensor, nn

from captum_deconv import features, gallery
from captum_deconv.features import ActivationIndex


class Pooled(nn.Sequential):
    """Strides, padding and overlapping pooling: a receptive field of 17 pixels, stride 4."""

    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(3, 6, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(3, 2, 1),
            nn.Conv2d(6, 8, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(8, 8, 3, padding=1),
            nn.ReLU(inplace=True),
        )


def make_images(count: int, height: int, width: int, seed: int = 0) -> list[Tensor]:
    return list(torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(seed)))


@functools.cache
def scan_small() -> tuple[nn.Module, list[Tensor], ActivationIndex]:
    """Scan the last layer, of eight channels, of which channel 4 never fires."""
    torch.manual_seed(0)
    model, images = Pooled().eval(), make_images(12, 40, 52)
    model[5].bias.data.fill_(0.2)
    model[5].bias.data[4] = -100.0
    return model, images, features.scan(model, ["6"], images, k=9, progress=False)


@functools.cache
def project_small() -> gallery.Gallery:
    """Project it by two methods."""
    model, images, index = scan_small()
    return gallery.project(index, model, images, method=["deconvnet", "guided_backprop"])

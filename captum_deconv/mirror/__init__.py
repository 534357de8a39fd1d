r"""The deconvnet of Zeiler & Fergus, built the way they drew it: a second network, upside down.

Every module of a convolutional chain gets a mirror image, and a feature map is carried back
through the mirror images to the pixels. With `R` the signal that arrives from above:

    convolution      R  ->  W^T R            the same filters, transposed: flipped in each direction
    max-pooling      R  ->  unpool(R, s)     to the places `s` the maxima came from, the switches
    rectifier        R  ->  max(R, 0)        as the reconstruction of a positive map is positive
    linear           R  ->  R W              the transpose again
    average-pooling, batch norm, contrast normalisation: the transpose of their Jacobian

Zeiler & Fergus 2013, "Visualizing and Understanding Convolutional Networks", arXiv:1311.2901,
section 2. The switches and the Jacobians are recorded on the way up. The way down is written out by
hand and never asks autograd, so what it says is evidence about anything that does.

    >>> import torch
    >>> from torch import nn
    >>> from captum_deconv.mirror import Mirror
    >>> _ = torch.manual_seed(0)
    >>> model = nn.Sequential(nn.Conv2d(3, 8, 5), nn.ReLU(), nn.MaxPool2d(3, 2), nn.Conv2d(8, 4, 3))
    >>> mirror = Mirror(model.eval())
    >>> mirror.project(torch.randn(2, 3, 32, 32), "3", (0, 5, 5)).shape
    torch.Size([2, 3, 32, 32])
    >>> for stop in mirror.reconstructions(torch.randn(2, 3, 32, 32), "3", (0, 5, 5)):
    ...     print(stop.name, tuple(stop.signal.shape))
    3 (2, 4, 11, 11)
    3 (2, 8, 13, 13)
    2 (2, 8, 28, 28)
    1 (2, 8, 28, 28)
    0 (2, 3, 32, 32)

In reading order: ``transposes`` (each module's way back), ``chain`` (the way up, and what it
records), ``projection`` (the way down).
"""

from captum_deconv.mirror.projection import Mirror, Reconstruction

__all__ = ["Mirror", "Reconstruction"]

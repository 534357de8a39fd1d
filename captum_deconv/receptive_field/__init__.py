r"""What part of the image a neuron sees, read from the autograd graph of one forward pass.

Along one axis, a kernel of `K` taps with stride `s`, padding `P` and dilation `d` computes the
interval `[a, b]` of its output from the interval

    [s a - P,  s b - P + d (K - 1)]

of its input (Araujo, Norris & Sim 2019, "Computing receptive fields of convolutional neural
networks", Distill). Composed from the layer down to the image, clipped to every map on the way
(padding holds nothing of the image) and united where branches join, that is exactly the box on
which a neuron can depend. Whatever is not known to be local sees everything.

Example:
    >>> import torch
    >>> from torch import nn
    >>> from captum_deconv import receptive_field
    >>> model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.MaxPool2d(2), nn.Conv2d(8, 8, 3))
    >>> field = receptive_field.of(model, "2", torch.zeros(1, 3, 32, 32))
    >>> field.size, field.stride, field.offset
    ((8, 8), (2, 2), (-1, -1))
    >>> field.box((0, 5))
    ((0, 7), (9, 17))

In reading order: ``steps`` (one operation's interval), ``nodes`` (which of autograd's nodes is
which step), ``field`` (composed over a graph), ``shapes`` (the same, without computing anything),
``crops`` (the part of an image that a neuron cannot tell from all of it); and the other way,
``spans`` (what one operation makes of a change), ``changed`` (maps that differ in a box, as a
tensor), ``changes`` (a model on images that differ in a box).
"""

from captum_deconv.receptive_field.field import ReceptiveField, of, trace

__all__ = ["ReceptiveField", "of", "trace"]

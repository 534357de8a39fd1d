"""Gradients lie in memory as autograd's do, so that what comes below takes the same kernels.

Not for speed alone: a batch norm's gradient is wrong for some orders (``docs/exactness.md``).
"""

import itertools
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from captum_deconv import Deconvnet, GuidedBackprop, InputGradient
from captum_deconv.engine import lean

SHAPE = (2, 4, 6, 8)
ORDERS = {
    "contiguous": torch.Tensor.contiguous,
    "channels last": lambda x: x.contiguous(memory_format=torch.channels_last),
    "permuted": lambda x: x.permute(2, 3, 0, 1).contiguous().permute(2, 3, 0, 1),
    "transposed": lambda x: x.mT.contiguous().mT,
}
SIGNALS = {
    **ORDERS,
    "of a mean": lambda x: x[:, :, :1, :1].expand(SHAPE),
    "of rows": lambda x: x[:, :, :1].expand(SHAPE),
    "of channels": lambda x: x[:, :1].expand(SHAPE),
    "of images": lambda x: x[:1].expand(SHAPE),
}
RECTIFIERS = {
    "relu": torch.relu,
    "relu in place": lambda x: F.relu_(x * 1),
    "relu6": F.relu6,
    "threshold": lambda x: F.threshold(x, 0, 0),
    "hardtanh in place": lambda x: F.hardtanh_(x * 1, 0, 5),
}


class Sending(torch.autograd.Function):
    """A sum whose gradient is a given tensor."""

    @staticmethod
    def forward(ctx, x, signal):
        ctx.signal = signal
        return x.sum((1, 2, 3))

    @staticmethod
    def backward(ctx, gradient):
        return ctx.signal, None


class Watched(nn.Module):
    """A rectifier that gets a signal, and notes how the gradient below it lies in memory."""

    def __init__(self, rectifier, signal):
        super().__init__()
        self.rectifier, self.signal = rectifier, signal
        self.seen = []

    def forward(self, x):
        x = x * 1
        if x.requires_grad:
            x.register_hook(lambda gradient: self.seen.append(gradient.stride()))
        return Sending.apply(self.rectifier(x), self.signal)


@pytest.mark.parametrize("rectifier", RECTIFIERS)
def test_a_gradient_lies_in_memory_as_autograds_does(rectifier, monkeypatch):
    monkeypatch.setattr(lean, "_SMALL", 0)
    kinds, memories = (InputGradient, GuidedBackprop, Deconvnet), ("autograd", "light", "lean")
    orders = set()
    for order, signal in itertools.product(ORDERS.values(), SIGNALS.values()):
        x, sent = order(torch.randn(SHAPE)), signal(torch.randn(SHAPE))
        expected = x.clone().requires_grad_()
        plain = Watched(RECTIFIERS[rectifier], sent)
        plain(expected).sum().backward()
        model = Watched(RECTIFIERS[rectifier], sent)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the custom function is told
            for kind, memory in itertools.product(kinds, memories):
                kind(model, memory=memory).attribute(x)
        assert model.seen == plain.seen * len(kinds) * len(memories)
        orders.update(plain.seen)
    assert len(orders) > 3  # the control

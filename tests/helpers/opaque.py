"""What no rule can reach into."""

import torch


class Opaque(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x * 2

    @staticmethod
    def backward(ctx, gradient):
        return gradient * 2


def _tells_what_a_slice_hides():
    x = torch.zeros(2, requires_grad=True) * 1
    x[:1].relu_()
    return hasattr(x.grad_fn, "_wrapped_node")


TELLS = _tells_what_a_slice_hides()
"""Whether this torch says what an in-place call on a view computed; if not, all are left."""

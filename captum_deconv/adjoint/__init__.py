r"""A convolution as the linear operator that it is, its transpose, and what separates the two.

A convolution without its bias is a matrix `W` on flattened maps: `c(x) = W x`. What a deconvnet
calls *deconvolution* is the transpose, defined for all `x` and `y` by

    <W x, y> = <x, W^T y>

It is the input gradient of the convolution (Simonyan et al. 2013, arXiv:1312.6034, section 4) and
the same filters, flipped and with the channel axes swapped (Zeiler & Fergus 2013,
arXiv:1311.2901, section 2.1). It is not the inverse: `W^T W x` has the shape of `x` and, unless
`W^T W = I`, other values. Everything here is computed from the layer alone and checked against
autograd, so this package is an oracle: it imports torch, NumPy and SciPy and nothing else of
`captum_deconv`.

Example:
    >>> import torch
    >>> from captum_deconv import adjoint
    >>> conv = torch.nn.Conv2d(3, 8, kernel_size=3, stride=2, padding=1)
    >>> transpose = adjoint.transpose_of(conv, (32, 32))
    >>> transpose.weight is conv.weight
    True
    >>> transpose(conv(torch.zeros(1, 3, 32, 32))).shape
    torch.Size([1, 3, 32, 32])
    >>> report = adjoint.check(conv, (32, 32))
    >>> report.passed, report.inverts
    (True, False)

In reading order: ``geometry`` (shapes), ``transposition`` (the transpose as a module),
``references`` (what it is held against), ``sparse`` (the matrix itself), ``spectrum`` (singular
values, rank, least squares), ``report`` and ``checking`` (all of it, judged).
"""

from captum_deconv.adjoint.checking import check, layers
from captum_deconv.adjoint.report import AdjointReport
from captum_deconv.adjoint.sparse import matrix
from captum_deconv.adjoint.spectrum import (
    Reconstruction,
    linear_operator,
    reconstruct,
    singular_values,
)
from captum_deconv.adjoint.transposition import transpose_of

__all__ = [
    "AdjointReport",
    "Reconstruction",
    "check",
    "layers",
    "linear_operator",
    "matrix",
    "reconstruct",
    "singular_values",
    "transpose_of",
]

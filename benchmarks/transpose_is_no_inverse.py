r"""The two snippets of the question that started this project, corrected so that they run.

    c(x) = W x,    ct(y) = W^T y,    dL/dx = W^T dL/dc(x)

The question: a `ConvTranspose2d` that shares the weight of a `Conv2d` is said to undo it, so why is
`ct(c(x))` not `x`? And is it at least what backpropagation computes? The snippets lacked
`requires_grad`, called `o.grad()`, which is a tensor and not a function, and compared tensors with
`isclose`, which answers for every element, where one answer was wanted: that is `allclose`.

    python benchmarks/transpose_is_no_inverse.py [--out FILE.json]
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from captum_deconv import adjoint


def share_weight(conv: nn.Conv2d) -> nn.ConvTranspose2d:
    """Build the transpose as the question did: another layer that is given the same weight."""
    ct = nn.ConvTranspose2d(conv.out_channels, conv.in_channels, conv.kernel_size, bias=False)
    ct.weight = conv.weight
    return ct


def compare_with_image(seed: int = 0) -> dict[str, Any]:
    """The first snippet: is `ct(c(x))` the image?"""
    torch.manual_seed(seed)
    image = torch.rand(1, 1, 10, 10, dtype=torch.float64)
    c = nn.Conv2d(1, 1, 2, bias=False, dtype=torch.float64)
    ct = share_weight(c)
    with torch.no_grad():
        o = c(image)
        returned = ct(o)
    # 81 values cannot hold 100: whatever the weight, at least 19 dimensions are lost.
    found = adjoint.reconstruct(c, image)
    rank = adjoint.check(c, (10, 10), spectrum=True).rank
    return {
        "shape": tuple(returned.shape),
        "same_shape": returned.shape == image.shape,
        "same_values": torch.allclose(returned, image),
        "residual": float((returned - image).norm() / image.norm()),
        "least_squares_residual": float((found.least_squares - image[0]).norm() / image.norm()),
        "rank": rank,
        "unknowns": image.numel(),
    }


def compare_with_gradient(seed: int = 0) -> dict[str, Any]:
    """The second snippet: is `ct` applied to the gradient of the output that of the image?"""
    torch.manual_seed(seed)
    image = torch.rand(1, 1, 5, 5, dtype=torch.float64, requires_grad=True)
    c = nn.Conv2d(1, 1, 2, bias=False, dtype=torch.float64)
    ct = share_weight(c)
    o = c(image)
    o.retain_grad()  # only leaves keep their gradient otherwise
    o.pow(2).sum().backward()
    assert o.grad is not None
    assert image.grad is not None
    returned = ct(o.grad).detach()
    return {
        "shape": tuple(returned.shape),
        "same_values": torch.allclose(returned, image.grad),
        "bitwise": torch.equal(returned, image.grad),
        "largest_difference": float((returned - image.grad).abs().max()),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, help="write what was measured as JSON, too")
    options = parser.parse_args(arguments)
    image, gradient = compare_with_image(), compare_with_gradient()

    print("1. A random 10x10 image, c = Conv2d(1, 1, 2), ct shares its weight")
    print(f"   ct(c(x)).shape == x.shape:        {image['same_shape']}")
    print(f"   torch.allclose(ct(c(x)), x):      {image['same_values']}")
    print(f"   |x - ct(c(x))| / |x|:             {image['residual']:.3f}")
    print(f"   the same by least squares:        {image['least_squares_residual']:.3f}")
    print(
        f"   Why: ct is the transpose W^T, and W^T W is not the identity. No map could do it:\n"
        f"   W has rank {image['rank']}, the image has {image['unknowns']} unknowns. Least squares "
        f"does the best there is."
    )
    print("\n2. A random 5x5 image, L = sum of c(x)^2")
    print(f"   torch.allclose(ct(o.grad), x.grad): {gradient['same_values']}")
    print(f"   bit for bit:                        {gradient['bitwise']}")
    print(f"   largest difference:                 {gradient['largest_difference']:.1e}")
    print(
        "   Why: the chain rule multiplies with the transpose of the Jacobian, and the Jacobian\n"
        "   of a convolution is W. A transposed convolution is the backward pass of a convolution."
    )
    if options.out:
        options.out.write_text(json.dumps({"image": image, "gradient": gradient}, indent=1) + "\n")
    as_expected = not image["same_values"] and gradient["same_values"]
    return 0 if image["same_shape"] and as_expected else 1


if __name__ == "__main__":
    sys.exit(main())

r"""What a transpose is compared with: three other ways to the same map, and two distances.

Example:
    >>> import torch
    >>> count_ulps(torch.tensor([1.0]), torch.tensor([1.0 + 2**-23]))
    1
"""

import math
import warnings
from collections.abc import Callable
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.grad import conv1d_input, conv2d_input, conv3d_input

from captum_deconv.adjoint.geometry import Geometry

_CONVOLVE = (F.conv1d, F.conv2d, F.conv3d)
# torch leaves these without types.
_INPUT_GRADIENT: tuple[Callable[..., Tensor], ...] = (conv1d_input, conv2d_input, conv3d_input)
_INTEGERS = {
    torch.float64: torch.int64,
    torch.float32: torch.int32,
    torch.float16: torch.int16,
    torch.bfloat16: torch.int16,
}


def differentiate(layer: nn.Module, x: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
    """Take autograd's input gradient.

    Args:
        layer: The layer, without bias.
        x: Its input, `(N, C, *spatial)`.
        g: The gradient of its output, `(N, C_out, *output)`.

    Returns:
        The output and the gradient of `<layer(x), g>` with respect to `x`.
    """
    with torch.enable_grad(), warnings.catch_warnings():
        # That torch may copy the input to pad it unevenly is no news to who checks a layer.
        warnings.filterwarnings("ignore", message="Using padding='same' with even kernel")
        leaf = x.detach().requires_grad_()
        y = layer(leaf)
        (gradient,) = torch.autograd.grad(y, leaf, g)
    return y.detach(), gradient


def differentiate_functionally(
    layer: nn.Module, geometry: Geometry, x: Tensor, g: Tensor
) -> Tensor | None:
    """Take the input gradient with `torch.nn.grad`.

    Args:
        layer: The layer, without bias.
        geometry: Its geometry.
        x: An input, for its shape.
        g: The gradient of its output.

    Returns:
        The gradient; None for a layer that is no convolution.
    """
    if geometry.kind != "convolution":
        return None
    weight = cast("Tensor", layer.weight)
    symmetric = geometry.mode == "zeros" and geometry.before == geometry.after
    size = geometry.input_size if symmetric else geometry.padded_size
    found = _INPUT_GRADIENT[len(size) - 1](
        (*x.shape[:2], *size),
        weight,
        g,
        stride=geometry.stride,
        padding=geometry.before if symmetric else 0,
        dilation=geometry.dilation,
        groups=geometry.groups,
    )
    return found if symmetric else unpad(found, geometry)


def convolve_flipped(layer: nn.Module, geometry: Geometry, g: Tensor) -> Tensor:
    """Convolve the zero-stuffed map with flipped filters, as the deconvnet paper puts it.

    Args:
        layer: A convolution or a transposed convolution, without bias.
        geometry: Its geometry.
        g: The smaller map: a convolution's output, a transposed convolution's input.

    Returns:
        The larger map, computed by an ordinary convolution of stride 1.
    """
    weight = cast("Tensor", layer.weight)
    if geometry.kind == "transposed":
        sizes, symmetric = geometry.output_size, True
    else:
        symmetric = geometry.mode == "zeros" and geometry.before == geometry.after
        sizes = geometry.input_size if symmetric else geometry.padded_size
    stuffed = _stuff(g, geometry.stride)
    pads: list[int] = []
    for axis in reversed(range(len(sizes))):
        ahead = geometry.span[axis] - 1 - (geometry.before[axis] if symmetric else 0)
        # What is missing behind is what the stride left over; negative padding crops.
        behind = sizes[axis] + geometry.span[axis] - 1 - ahead - stuffed.shape[2 + axis]
        pads += [ahead, behind]
    found = _CONVOLVE[len(sizes) - 1](
        F.pad(stuffed, pads),
        _flip(weight, geometry.groups),
        dilation=geometry.dilation,
        groups=geometry.groups,
    )
    return found if symmetric else unpad(found, geometry)


def unpad(padded: Tensor, geometry: Geometry) -> Tensor:
    """Apply the adjoint of a convolution's padding, by autograd.

    Args:
        padded: A map of the padded size, `(N, C, *padded)`.
        geometry: The convolution.

    Returns:
        A map of the input size, `(N, C, *spatial)`.
    """
    pads = [
        width
        for axis in reversed(range(len(geometry.kernel)))
        for width in (geometry.before[axis], geometry.after[axis])
    ]
    mode = "constant" if geometry.mode == "zeros" else geometry.mode
    with torch.enable_grad():
        leaf = padded.new_zeros((*padded.shape[:2], *geometry.input_size), requires_grad=True)
        (found,) = torch.autograd.grad(F.pad(leaf, pads, mode=mode), leaf, padded)
    return found


def measure_error(actual: Tensor, expected: Tensor) -> float:
    """Measure a relative error in float64.

    Args:
        actual: Any tensor.
        expected: The reference.

    Returns:
        `|actual - expected| / |expected|`, infinite where the shapes differ.
    """
    if actual.shape != expected.shape:
        return math.inf
    if torch.equal(actual, expected):
        return 0.0
    reference = expected.double()
    size = float(reference.norm())
    return float((actual.double() - reference).norm()) / size if size else math.inf


def count_ulps(actual: Tensor, expected: Tensor) -> int | None:
    """Count the units in the last place that lie between two tensors, at the worst place.

    Args:
        actual: A finite tensor of a floating point type.
        expected: Another of the same type.

    Returns:
        The number of steps from one representable number to the next; None where the shapes differ
        or a value is not finite.
    """
    if actual.shape != expected.shape:
        return None
    if torch.equal(actual, expected):
        return 0
    if not bool(actual.isfinite().all() and expected.isfinite().all()):
        return None
    # Read as integers the positive numbers are in order, the negative ones in reverse from the
    # smallest integer on; after that is undone the integers count the representable numbers.
    integers = _INTEGERS[actual.dtype]
    lowest = torch.iinfo(integers).min
    counts = []
    for values in (actual, expected):
        bits = values.contiguous().view(integers).long()
        counts.append(torch.where(bits < 0, lowest - bits, bits))
    exact = (counts[0] - counts[1]).abs()
    # Two float64 numbers of opposite sign can be further apart than an int64 reaches.
    apart = (counts[0].double() - counts[1].double()).abs()
    return int(torch.where(apart < 2.0**62, exact.double(), apart).max())


def _stuff(g: Tensor, stride: tuple[int, ...]) -> Tensor:
    """Put `stride - 1` zeros between neighbours."""
    sizes = [(n - 1) * step + 1 for n, step in zip(g.shape[2:], stride, strict=True)]
    stuffed = g.new_zeros((*g.shape[:2], *sizes))
    places = (slice(None), slice(None), *(slice(None, None, step) for step in stride))
    stuffed[places] = g
    return stuffed


def _flip(weight: Tensor, groups: int) -> Tensor:
    """Flip every filter along each spatial axis and swap its channel axes, group by group."""
    flipped = weight.flip(tuple(range(2, weight.ndim)))
    blocks = [block.transpose(0, 1) for block in flipped.chunk(groups)]
    return torch.cat(blocks).contiguous()

r"""The shape of a layer's operator: what goes in, what comes out, and what lies between.

Along each spatial axis a convolution with kernel `k`, stride `s`, dilation `d` and padding
`(l, r)` takes `n` values to

    o = floor((n + l + r - d (k - 1) - 1) / s) + 1

(Dumoulin & Visin 2016, arXiv:1603.07285). Everything that a size can get wrong is refused here,
once, so that the rest of the package may trust a `Geometry`.

Example:
    >>> from torch import nn
    >>> describe(nn.Conv2d(3, 8, 3, stride=2, padding="valid"), (10, 11)).output_size
    (4, 5)
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Literal, TypeAlias, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.utils import parametrize

FLOATING = (torch.float64, torch.float32, torch.float16, torch.bfloat16)

CONVOLUTIONS: tuple[type[nn.Module], ...] = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED: tuple[type[nn.Module], ...] = (
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
)
SUPPORTED: tuple[type[nn.Module], ...] = (*CONVOLUTIONS, *TRANSPOSED, nn.Linear)

AnyConvolution: TypeAlias = (
    nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d
)


@dataclass(frozen=True)
class Geometry:
    """What a layer does to a shape.

    Attributes:
        kind: Which of the three families the layer is of.
        in_channels: Channels of the layer's input.
        out_channels: Channels of the layer's output.
        groups: Blocks on the diagonal of the operator.
        kernel: Taps along each spatial axis; empty for a linear layer, as are all that follow.
        stride: Step along each axis.
        dilation: Distance of two taps.
        before: Padding ahead of the first value.
        after: Padding behind the last value; `"same"` may make it one more than `before`.
        mode: What the padding holds, in the words of `nn.Conv2d`.
        output_padding: As `nn.ConvTranspose2d` has it, zero for a convolution.
        input_size: Spatial size of the input.
        output_size: Spatial size of the output.
    """

    kind: Literal["convolution", "transposed", "linear"]
    in_channels: int
    out_channels: int
    groups: int
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    before: tuple[int, ...]
    after: tuple[int, ...]
    mode: str
    output_padding: tuple[int, ...]
    input_size: tuple[int, ...]
    output_size: tuple[int, ...]

    @property
    def input_shape(self) -> tuple[int, ...]:
        """The shape of one input without its batch axis, `(C, *spatial)`."""
        return (self.in_channels, *self.input_size)

    @property
    def output_shape(self) -> tuple[int, ...]:
        """The shape of one output without its batch axis, `(C, *spatial)`."""
        return (self.out_channels, *self.output_size)

    @property
    def shape(self) -> tuple[int, int]:
        """The rows and columns of `W`."""
        return math.prod(self.output_shape), math.prod(self.input_shape)

    @property
    def span(self) -> tuple[int, ...]:
        """How far the dilated kernel reaches along each axis."""
        return tuple(d * (k - 1) + 1 for k, d in zip(self.kernel, self.dilation, strict=True))

    @property
    def padded_size(self) -> tuple[int, ...]:
        """The input's spatial size with its padding."""
        sizes = zip(self.input_size, self.before, self.after, strict=True)
        return tuple(n + before + after for n, before, after in sizes)

    @property
    def taps(self) -> int:
        """Positions of the kernel, the product over its axes."""
        return math.prod(self.kernel)

    @property
    def reduction(self) -> int:
        """Terms in the longest sum of either direction, forward or transpose."""
        return self.taps * max(self.in_channels, self.out_channels) // self.groups


def describe(module: nn.Module, input_size: Sequence[int]) -> Geometry:
    """Read a layer's geometry at an input size.

    What `require_supported` refuses is a TypeError here too, and so is a size that holds anything
    but integers.

    Args:
        module: An `nn.Conv`, `nn.ConvTranspose` or `nn.Linear`.
        input_size: The spatial size alone, such as `(224, 224)`; for `nn.Linear` either `()` or
            `(in_features,)`.

    Returns:
        The geometry.

    Raises:
        ValueError: If the size has the wrong number of axes, a zero, or does not fit the kernel.
    """
    require_supported(module)
    size = _read_size(module, input_size)
    if isinstance(module, nn.Linear):
        if size not in ((), (module.in_features,)):
            raise ValueError(
                f"a linear layer has no spatial axes: input_size must be () or "
                f"({module.in_features},), not {size}"
            )
        empty: tuple[int, ...] = ()
        return Geometry(
            "linear",
            module.in_features,
            module.out_features,
            1,
            *(empty,) * 5,
            "zeros",
            *(empty,) * 3,
        )
    layer = cast("AnyConvolution", module)
    axes = len(layer.kernel_size)
    if len(size) != axes:
        raise ValueError(
            f"input_size {size} has {len(size)} axes, but {_name(module)} has {axes} spatial ones: "
            f"give the spatial size alone, without batch and channels"
        )
    if isinstance(module, TRANSPOSED):
        return _describe_transposed(layer, size)
    return _describe_convolution(layer, size)


def require_supported(module: object) -> None:
    """Refuse what is no linear layer with a readable weight.

    Args:
        module: Any object.

    Raises:
        TypeError: If it is not one of the supported layers, or is lazy, quantised, of another
            forward pass than its family, or of a type without real floating point numbers.
        ValueError: If its weight holds no numbers at all.
    """
    name = _name(module)
    if not isinstance(module, nn.Module):
        raise TypeError(f"expected a convolution or a linear layer, got {module!r} of type {name}")
    if isinstance(module, LazyModuleMixin):
        raise TypeError(
            f"{name} is lazy and has no weight yet: run it once on an input, then ask again"
        )
    home = type(module).__module__
    if ".quantized" in home or ".qat" in home:
        raise TypeError(
            f"{name} is quantised and no linear operator: use the floating point layer that it "
            f"was made from"
        )
    if not isinstance(module, SUPPORTED):
        raise TypeError(
            f"{name} is not supported: expected nn.Conv1d to nn.Conv3d, nn.ConvTranspose1d to "
            f"nn.ConvTranspose3d, or nn.Linear"
        )
    if not applies_its_weight(module):
        raise TypeError(
            f"{name} replaces the forward pass of its base class, so its weight need not be the "
            f"operator that it applies: use the plain layer, or register what it does to the "
            f"weight with torch.nn.utils.parametrize"
        )
    weight = read_weight(module)
    if weight.dtype not in FLOATING:
        raise TypeError(
            f"{name} has a weight of {weight.dtype}: expected float64, float32, float16 or "
            f"bfloat16; convert the layer first"
        )
    if weight.numel() == 0:
        raise ValueError(
            f"{name} has an empty weight of shape {tuple(weight.shape)}: every axis must be at "
            f"least 1"
        )


def applies_its_weight(module: nn.Module) -> bool:
    """Say whether a supported layer's forward pass is the one of its family.

    Args:
        module: A layer of a supported family.

    Returns:
        False for a subclass that overrides `forward`, such as one that standardises its weight, or
        a transpose that folds.
    """
    family = next(base for base in SUPPORTED if isinstance(module, base))
    names = ("forward", "_conv_forward") if isinstance(module, CONVOLUTIONS) else ("forward",)
    return all(getattr(type(module), name) is getattr(family, name) for name in names)


def read_weight(module: nn.Module) -> Tensor:
    """Read a layer's weight, detached, without side effects.

    Args:
        module: A supported layer, with or without parametrisations.

    Returns:
        The weight, on its own device and of its own type.
    """
    if not parametrize.is_parametrized(module, "weight"):
        return cast("Tensor", module.weight).detach()
    # Spectral normalisation in training mode advances its power iteration each time it is read.
    chain = list(cast("nn.ModuleDict", module.parametrizations)["weight"].modules())
    modes = [part.training for part in chain]
    try:
        for part in chain:
            part.training = False
        with torch.no_grad():
            return cast("Tensor", module.weight).detach()
    finally:
        for part, mode in zip(chain, modes, strict=True):
            part.training = mode


def _name(module: object) -> str:
    return type(module).__name__


def _read_size(module: nn.Module, input_size: object) -> tuple[int, ...]:
    size = (input_size,) if isinstance(input_size, int) else input_size
    if isinstance(size, (str, Tensor)) or not isinstance(size, Sequence):
        raise TypeError(f"input_size must be a tuple of integers, such as (32, 32), not {size!r}")
    if any(isinstance(n, bool) or not isinstance(n, Integral) for n in size):
        raise TypeError(f"input_size must hold integers only, not {tuple(size)}")
    if any(n < 1 for n in size):
        raise ValueError(
            f"input_size {tuple(size)} is empty along an axis: {_name(module)} needs at least 1"
        )
    return tuple(int(n) for n in size)


def _describe_convolution(layer: AnyConvolution, size: tuple[int, ...]) -> Geometry:
    kernel, stride, dilation = layer.kernel_size, layer.stride, layer.dilation
    span = [d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True)]
    if layer.padding == "same":
        # torch puts the odd one behind.
        before = tuple((reach - 1) // 2 for reach in span)
        after = tuple(reach - 1 - first for reach, first in zip(span, before, strict=True))
    elif layer.padding == "valid":
        before = after = (0,) * len(kernel)
    else:
        before = after = tuple(cast("tuple[int, ...]", layer.padding))
    mode = layer.padding_mode
    for axis, n in enumerate(size):
        padding, padded = max(before[axis], after[axis]), n + before[axis] + after[axis]
        if padded < span[axis]:
            raise ValueError(
                f"the kernel of {_name(layer)} spans {span[axis]} along spatial axis {axis}, but "
                f"the input with its padding is {padded}: input_size must be at least "
                f"{max(1, span[axis] - before[axis] - after[axis])} there, not {n}"
            )
        limit = {"reflect": n - 1, "circular": n}.get(mode, padding)
        if padding > limit:
            raise ValueError(
                f"{mode} padding of {padding} needs more values than spatial axis {axis} has: "
                f"input_size must be at least {padding + (mode == 'reflect')} there, not {n}"
            )
    output = tuple(
        (n + before[axis] + after[axis] - span[axis]) // stride[axis] + 1
        for axis, n in enumerate(size)
    )
    return Geometry(
        "convolution",
        layer.in_channels,
        layer.out_channels,
        layer.groups,
        kernel,
        stride,
        dilation,
        before,
        after,
        mode,
        (0,) * len(kernel),
        size,
        output,
    )


def _describe_transposed(layer: AnyConvolution, size: tuple[int, ...]) -> Geometry:
    kernel, stride, dilation = layer.kernel_size, layer.stride, layer.dilation
    padding = cast("tuple[int, ...]", layer.padding)
    extra = tuple(layer.output_padding)
    for axis in range(len(kernel)):
        if extra[axis] >= max(stride[axis], dilation[axis]):
            raise ValueError(
                f"{_name(layer)} has an output_padding of {extra[axis]} along spatial axis "
                f"{axis}: it must be smaller than the stride or the dilation, "
                f"{max(stride[axis], dilation[axis])}"
            )
    output = tuple(
        (n - 1) * stride[axis]
        - 2 * padding[axis]
        + dilation[axis] * (kernel[axis] - 1)
        + extra[axis]
        + 1
        for axis, n in enumerate(size)
    )
    if any(n < 1 for n in output):
        raise ValueError(
            f"{_name(layer)} crops all of its output away at input_size {size} (it would be "
            f"{output}): use a larger input or less padding"
        )
    return Geometry(
        "transposed",
        layer.in_channels,
        layer.out_channels,
        layer.groups,
        kernel,
        stride,
        dilation,
        padding,
        padding,
        "zeros",
        extra,
        size,
        output,
    )

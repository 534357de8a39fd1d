r"""The transpose of a layer, as a layer that shares its weight.

    c(x) = W P x        P pads, W is the convolution of the padded map
    c^T(y) = P^T W^T y  W^T is a transposed convolution, P^T folds the padding back

With zero padding `P^T` crops, which `nn.ConvTranspose2d` calls its `padding`. With `reflect`,
`replicate` and `circular` padding every padded value is a copy of one inside, so `P^T` adds it to
the value that it was copied from. A stride larger than 1 can end before the end of the map;
`output_padding` gives the rest back (Dumoulin & Visin 2016, arXiv:1603.07285, relationship 14). It
is always smaller than the stride, hence one that torch allows.

Example:
    >>> import torch
    >>> from torch import nn
    >>> conv = nn.Conv1d(1, 1, 3, padding=1, padding_mode="circular", bias=False)
    >>> transpose_of(conv, (4,))(conv(torch.ones(1, 1, 4))).shape
    torch.Size([1, 1, 4])
"""

from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from captum_deconv.adjoint.geometry import AnyConvolution, Geometry, describe, read_weight


class Fold(NamedTuple):
    """The padding of one axis, to be folded back.

    Attributes:
        before: Values ahead of the map.
        size: Values of the map itself.
        after: Values behind the map.
        mode: `"zeros"`, `"reflect"`, `"replicate"` or `"circular"`.
    """

    before: int
    size: int
    after: int
    mode: str


def fold_padding(padded: Tensor, folds: Sequence[Fold]) -> Tensor:
    """Apply the adjoint of padding.

    Args:
        padded: A map of shape `(..., *padded)`.
        folds: One for each of the last axes, in their order.

    Returns:
        The map of shape `(..., *size)`, each padded value added to the one it copies.
    """
    for axis, fold in enumerate(folds, start=-len(folds)):
        padded = _fold_axis(padded, axis, fold)
    return padded


def _fold_axis(padded: Tensor, axis: int, fold: Fold) -> Tensor:
    before, size, after, mode = fold
    inner = padded.narrow(axis, before, size)
    if mode == "zeros" or not before + after:
        return inner
    # Slices instead of index_add: on a GPU the latter adds in no fixed order.
    inner = inner.clone()
    first = padded.narrow(axis, 0, before)
    last = padded.narrow(axis, before + size, after)
    if mode == "replicate":
        inner.narrow(axis, 0, 1).add_(first.sum(axis, keepdim=True))
        inner.narrow(axis, size - 1, 1).add_(last.sum(axis, keepdim=True))
    elif mode == "reflect":
        inner.narrow(axis, 1, before).add_(first.flip(axis))
        inner.narrow(axis, size - 1 - after, after).add_(last.flip(axis))
    else:  # circular
        inner.narrow(axis, size - before, before).add_(first)
        inner.narrow(axis, 0, after).add_(last)
    return inner


class _Adjoint(nn.Module):
    """What a transpose adds to torch's layer: a fold, and a weight that another layer computes.

    `source` is set where the weight is no parameter but comes from a parametrisation or a hook, so
    that the transpose reads it anew at each call, as the layer does.
    """

    folds: tuple[Fold, ...] = ()
    source: nn.Module | None

    def __getattr__(self, name: str) -> Any:
        # Reached only for what is neither an attribute nor, if it is the weight, a parameter.
        source = self.__dict__["_modules"].get("source") if name == "weight" else None
        return super().__getattr__(name) if source is None else source.weight

    def extra_repr(self) -> str:
        """Say which padding is folded back."""
        folds = ", ".join(f"{fold.mode} {fold.before}+{fold.after}" for fold in self.folds)
        own = super().extra_repr()
        return f"{own}, folds=({folds})" if folds else own


class AdjointConvTranspose1d(_Adjoint, nn.ConvTranspose1d):
    """`nn.ConvTranspose1d`, then the padding folded back: `(N, C, L)`."""

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        """Apply the transpose."""
        return fold_padding(nn.ConvTranspose1d.forward(self, input, output_size), self.folds)


class AdjointConvTranspose2d(_Adjoint, nn.ConvTranspose2d):
    """`nn.ConvTranspose2d`, then the padding folded back: `(N, C, H, W)`."""

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        """Apply the transpose."""
        return fold_padding(nn.ConvTranspose2d.forward(self, input, output_size), self.folds)


class AdjointConvTranspose3d(_Adjoint, nn.ConvTranspose3d):
    """`nn.ConvTranspose3d`, then the padding folded back: `(N, C, D, H, W)`."""

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        """Apply the transpose."""
        return fold_padding(nn.ConvTranspose3d.forward(self, input, output_size), self.folds)


class AdjointConv1d(_Adjoint, nn.Conv1d):
    """`nn.Conv1d`, then the surplus positions at the end dropped: `(N, C, L)`."""

    def forward(self, input: Tensor) -> Tensor:
        """Apply the transpose."""
        return fold_padding(nn.Conv1d.forward(self, input), self.folds)


class AdjointConv2d(_Adjoint, nn.Conv2d):
    """`nn.Conv2d`, then the surplus positions at the end dropped: `(N, C, H, W)`."""

    def forward(self, input: Tensor) -> Tensor:
        """Apply the transpose."""
        return fold_padding(nn.Conv2d.forward(self, input), self.folds)


class AdjointConv3d(_Adjoint, nn.Conv3d):
    """`nn.Conv3d`, then the surplus positions at the end dropped: `(N, C, D, H, W)`."""

    def forward(self, input: Tensor) -> Tensor:
        """Apply the transpose."""
        return fold_padding(nn.Conv3d.forward(self, input), self.folds)


class AdjointLinear(_Adjoint):
    """`y -> W^T y` for the weight `W` of a linear layer: `(..., out)` to `(..., in)`."""

    bias: None = None

    def forward(self, input: Tensor) -> Tensor:
        """Apply the transpose."""
        return F.linear(input, cast("Tensor", self.weight).t())


_PLAIN_TRANSPOSED: tuple[type[nn.Module], ...] = (
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
)
_FOLDED_TRANSPOSED: tuple[type[nn.Module], ...] = (
    AdjointConvTranspose1d,
    AdjointConvTranspose2d,
    AdjointConvTranspose3d,
)
_PLAIN_CONVOLUTION: tuple[type[nn.Module], ...] = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_CROPPED_CONVOLUTION: tuple[type[nn.Module], ...] = (AdjointConv1d, AdjointConv2d, AdjointConv3d)


def transpose_of(conv: nn.Module, input_size: Sequence[int]) -> nn.Module:
    """Build the transpose of a layer at an input size.

    The transpose has no bias: a bias shifts the layer's output and is no part of `W`. It shares
    the weight: the same parameter, no copy, so that it follows whatever becomes of the layer.

    A layer that is not supported, lazy, quantised or not of a real floating point type is a
    TypeError; a size with the wrong number of axes, a zero, or too small for the kernel is a
    ValueError.

    Args:
        conv: An `nn.Conv`, `nn.ConvTranspose` or `nn.Linear`; it is not changed.
        input_size: The spatial size alone of the layer's input, such as `(224, 224)`; `()` for
            `nn.Linear`.

    Returns:
        For a convolution the `nn.ConvTranspose` whose `output_padding` restores the input's size
        (a subclass that folds the padding back, where torch's own cannot: padding other than zeros,
        and `"same"` with an even span); for an `nn.ConvTranspose` an `nn.Conv`; for an `nn.Linear`
        a module that multiplies with the transposed weight. It maps `(N, C_out, *output)` to
        `(N, C_in, *input_size)`.
    """
    geometry = describe(conv, input_size)
    # A parametrised weight, or one that a hook computes, is no parameter of the layer.
    computed = "weight" not in conv._parameters
    if geometry.kind == "linear":
        return _share(AdjointLinear(), conv)
    axis = len(geometry.kernel) - 1
    padding, extra, folds = _plan(geometry)
    settings: dict[str, Any] = {
        "stride": geometry.stride,
        "padding": padding,
        "dilation": geometry.dilation,
        "groups": geometry.groups,
        "bias": False,
        # No memory and no random numbers for a weight that is replaced at once.
        "device": "meta",
    }
    plain = _PLAIN_TRANSPOSED[axis]
    folded = _FOLDED_TRANSPOSED[axis]
    layer: nn.Module
    if geometry.kind == "convolution":
        make = folded if folds or computed else plain
        layer = make(
            geometry.out_channels,
            geometry.in_channels,
            geometry.kernel,
            output_padding=extra,
            **settings,
        )
    else:
        cut = _CROPPED_CONVOLUTION[axis] if folds or computed else _PLAIN_CONVOLUTION[axis]
        layer = cut(geometry.out_channels, geometry.in_channels, geometry.kernel, **settings)
    if folds:
        cast("_Adjoint", layer).folds = folds
    layer.train(conv.training)
    return _share(layer, conv)


def linear_part(module: nn.Module, dtype: torch.dtype, device: torch.device) -> nn.Module:
    """Copy a layer without its bias, hooks and parametrisations.

    Args:
        module: A supported layer; it is not changed.
        dtype: The type of the copy.
        device: The device of the copy.

    Returns:
        A plain layer that owns a converted copy of the weight and computes `W x`.

    Raises:
        ValueError: If the weight is on the meta device, hence without values.
    """
    weight = read_weight(module)
    if weight.device.type == "meta":
        raise ValueError(
            f"{type(module).__name__} is on the meta device and its weight has no values: "
            f"give it some with to_empty() and an initialisation"
        )
    copied = nn.Parameter(weight.to(device, dtype, copy=True), requires_grad=False)
    layer: nn.Module
    if isinstance(module, nn.Linear):
        layer = nn.Linear(module.in_features, module.out_features, bias=False, device="meta")
    else:
        conv = cast("AnyConvolution", module)
        settings: dict[str, Any] = {
            "stride": conv.stride,
            "padding": conv.padding,
            "dilation": conv.dilation,
            "groups": conv.groups,
            "bias": False,
            "padding_mode": conv.padding_mode,
            "device": "meta",
        }
        axis = len(conv.kernel_size) - 1
        if isinstance(module, _PLAIN_TRANSPOSED):
            settings["output_padding"] = conv.output_padding
            plain: type[nn.Module] = _PLAIN_TRANSPOSED[axis]
        else:
            plain = _PLAIN_CONVOLUTION[axis]
        layer = plain(conv.in_channels, conv.out_channels, conv.kernel_size, **settings)
    layer.weight = copied
    return layer


def _plan(geometry: Geometry) -> tuple[tuple[int, ...], tuple[int, ...], tuple[Fold, ...]]:
    """Choose the transpose's padding, its output padding, and what is left to fold."""
    axes = range(len(geometry.kernel))
    if geometry.kind == "transposed":
        # An output padding of a stride or more (dilation allows it) makes room for surplus
        # positions of the kernel at the end, which the layer has no input for.
        surplus = tuple(geometry.output_padding[i] // geometry.stride[i] for i in axes)
        folds = tuple(Fold(0, geometry.input_size[i], surplus[i], "zeros") for i in axes)
        return geometry.before, (0,) * len(axes), folds if any(surplus) else ()
    extra = tuple((geometry.padded_size[i] - geometry.span[i]) % geometry.stride[i] for i in axes)
    if geometry.mode == "zeros" and geometry.before == geometry.after:
        return geometry.before, extra, ()
    folds = tuple(
        Fold(geometry.before[i], geometry.input_size[i], geometry.after[i], geometry.mode)
        for i in axes
    )
    return (0,) * len(axes), extra, folds if any(f.before or f.after for f in folds) else ()


def _share(layer: nn.Module, source: nn.Module) -> nn.Module:
    if "weight" in source._parameters:
        layer.register_parameter("weight", source._parameters["weight"])
        return layer
    if "weight" in layer._parameters:
        del layer.weight
    layer.source = source
    return layer

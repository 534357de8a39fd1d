"""Where each kind of backward node takes every position of its output from.

Dimensions keep their place through elementwise operations, move through permutations and views,
and have a :mod:`step <captum_deconv.receptive_field.steps>` of their own in windows and resampling.
A dimension that is not named is mixed: whatever stands there sees all of it. A kind of node that is
not in the tables mixes everything.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from fractions import Fraction
from functools import partial
from typing import Any

from captum_deconv.receptive_field.steps import (
    IDENTITY,
    Blocks,
    Interpolation,
    Mirrored,
    Step,
    Transposed,
    Window,
)

Shape = tuple[int, ...]
Dims = dict[int, tuple[int, Step]]
"""By dimension of an input: the dimension of the output that runs along it, and how."""


def shape_of(node: Any) -> list[Shape]:
    """Return the shapes of a node's forward outputs."""
    return [tuple(meta.shape) for meta in node._input_metadata]


def find_sources(node: Any, number: int) -> list[tuple[tuple[Any, int], Dims]]:
    """Say what one of a node's forward outputs is computed from.

    Args:
        node: A node of the autograd graph.
        number: Which of its outputs.

    Returns:
        For each input that is read and has a node, that node with its output's number, and the
        dimensions that are not mixed.
    """
    output = shape_of(node)[number]
    handle = _HANDLERS.get(re.sub(r"Backwards?\d*$", "", type(node).__name__))
    found = []
    for index, (source, place) in enumerate(node.next_functions):
        if source is None:
            continue
        dims: Dims | None = {}
        if handle is not None:
            dims = handle(node, (number, output), (index, shape_of(source)[place]))
        if dims is not None:
            found.append(((source, place), dims))
    return found


# Each takes the node, (number, shape) of the output and (number, shape) of the input; None says
# that the output is not computed from that input.
End = tuple[int, Shape]
Handler = Callable[[Any, End, End], Dims | None]


def _keep(node: Any, output: End, source: End) -> Dims:
    """Elementwise: dimensions are aligned from the last, and one of size 1 is broadcast."""
    shift = len(output[1]) - len(source[1])
    return {
        dim: (dim + shift, IDENTITY)
        for dim, size in enumerate(source[1])
        if dim + shift >= 0 and size == output[1][dim + shift]
    }


def _keep_first(node: Any, output: End, source: End) -> Dims:
    """Elementwise in the first input; the others are weights."""
    return _keep(node, output, source) if source[0] == 0 else {}


def _keep_own(node: Any, output: End, source: End) -> Dims | None:
    """Each output is one of the inputs."""
    return _keep(node, output, source) if source[0] == output[0] else None


def _normalize_batch(node: Any, output: End, source: End) -> Dims:
    """Evaluation mode only: a batch's own statistics are those of all its positions."""
    return {} if node._saved_training else _keep_first(node, output, source)


def _normalize_last(node: Any, output: End, source: End) -> Dims:
    kept = len(source[1]) - len(node._saved_normalized_shape)
    return _drop(_keep_first(node, output, source), range(kept, len(source[1])))


def _drop(dims: Dims, dropped: Sequence[int]) -> Dims:
    return {dim: way for dim, way in dims.items() if dim not in dropped}


def _mix_along(node: Any, output: End, source: End) -> Dims:
    """Softmax, cumulative sums, flips: one dimension is mixed, the others are kept."""
    dims = _saved_dims(node, len(source[1]))
    if not dims:
        return {}  # a roll of all values in a row
    return {d: (d, IDENTITY) for d in range(len(source[1])) if d not in dims}


def _reduce(node: Any, output: End, source: End) -> Dims:
    dims = _saved_dims(node, len(source[1])) or list(range(len(source[1])))
    kept = [d for d in range(len(source[1])) if d not in dims]
    if getattr(node, "_saved_keepdim", False):
        return {d: (d, IDENTITY) for d in kept}
    return {d: (place, IDENTITY) for place, d in enumerate(kept)}


def _saved_dims(node: Any, count: int) -> list[int]:
    saved = getattr(node, "_saved_dims", None)
    saved = getattr(node, "_saved_dim", None) if saved is None else saved
    saved = () if saved is None else saved
    return [_signed(d) % count for d in (saved if isinstance(saved, tuple) else (saved,))]


def _signed(number: int) -> int:
    """Undo what autograd does to a negative number that it shows."""
    return number - 2**64 if number >= 2**63 else number


def _stack(node: Any, output: End, source: End) -> Dims:
    (stacked,) = _saved_dims(node, len(output[1]))
    return {d: (d + (d >= stacked), IDENTITY) for d in range(len(source[1]))}


def _select(node: Any, output: End, source: End) -> Dims:
    (selected,) = _saved_dims(node, len(source[1]))
    return {d: (d - (d > selected), IDENTITY) for d in range(len(source[1])) if d != selected}


def _split(node: Any, output: End, source: End) -> Dims:
    (split,) = _saved_dims(node, len(source[1]))
    sizes = getattr(node, "_saved_split_sizes", None)
    before = sum(sizes[: output[0]]) if sizes else node._saved_split_size * output[0]
    dims: Dims = {d: (d, IDENTITY) for d in range(len(source[1]))}
    return {**dims, split: (split, Window(padding=-before))}


def _slice(node: Any, output: End, source: End) -> Dims:
    (sliced,) = _saved_dims(node, len(source[1]))
    start = _signed(node._saved_start or 0)
    window = Window(
        stride=_signed(node._saved_step),
        padding=-min(max(start + source[1][sliced] * (start < 0), 0), source[1][sliced]),
    )
    dims: Dims = {d: (d, IDENTITY) for d in range(len(source[1]))}
    return {**dims, sliced: (sliced, window)}


def _permute(node: Any, output: End, source: End) -> Dims:
    order = [_signed(dim) % len(source[1]) for dim in node._saved_dims]
    return {dim: (place, IDENTITY) for place, dim in enumerate(order)}


def _transpose(node: Any, output: End, source: End) -> Dims:
    count = len(source[1])
    one, other = (_signed(d) % count for d in (node._saved_dim0, node._saved_dim1))
    swapped = {one: other, other: one}
    return {d: (swapped.get(d, d), IDENTITY) for d in range(count)}


def _view(node: Any, output: End, source: End) -> Dims:
    """A dimension lives on in a view if it has the same size there, and as much comes after it."""
    behind = [_strides(shape) for shape in (output[1], source[1])]
    places = list(enumerate(zip(output[1], behind[0], strict=True)))
    dims: Dims = {}
    for dim in reversed(range(len(source[1]))):
        wanted = (source[1][dim], behind[1][dim])
        place = next((p for p, has in reversed(places) if has == wanted), None)
        if place is not None:
            dims[dim] = (place, IDENTITY)
            places = [entry for entry in places if entry[0] < place]
    return dims


def _strides(shape: Shape) -> list[int]:
    return [math.prod(shape[dim + 1 :]) for dim in range(len(shape))]


def _last(output: Shape, steps: Sequence[Step]) -> Dims:
    """Steps of the last dimensions, the first of them first."""
    first = len(output) - len(steps)
    return {first + axis: (first + axis, step) for axis, step in enumerate(steps)}


def _convolve(node: Any, output: End, source: End) -> Dims:
    if source[0] != 0:
        return {}
    count = len(node._saved_stride)
    settings = zip(
        node._saved_weight.shape[-count:],
        node._saved_stride,
        node._saved_padding,
        node._saved_dilation,
        strict=True,
    )
    kind = Transposed if node._saved_transposed else Window
    return _last(output[1], [kind(*numbers) for numbers in settings])


def _pool(node: Any, output: End, source: End) -> Dims:
    kernel = node._saved_kernel_size
    count = len(kernel)
    stride = node._saved_stride or kernel  # left out, it is the kernel's
    dilation = getattr(node, "_saved_dilation", (1,) * count)
    settings = zip(kernel, stride, node._saved_padding, dilation, strict=True)
    kept: Dims = {d: (d, IDENTITY) for d in range(len(source[1]))}
    return {**kept, **_last(output[1], [Window(*numbers) for numbers in settings])}


def _pad(node: Any, output: End, source: End) -> Dims:
    steps = [Window(padding=amount) for amount in _list_before(node._saved_pad)]
    kept: Dims = {d: (d, IDENTITY) for d in range(len(source[1]))}
    return {**kept, **_last(output[1], steps)}


def _mirror(node: Any, output: End, source: End, *, reflected: bool) -> Dims:
    before = _list_before(node._saved_padding)
    return _last(output[1], [Mirrored(amount, reflected) for amount in before])


def _list_before(padding: Sequence[int]) -> list[int]:
    """Return what is padded before each dimension, or, if negative, cut off: the last one last."""
    return [_signed(amount) for amount in reversed(padding[::2])]


def _shuffle(node: Any, output: End, source: End) -> Dims:
    return _last(output[1], [Blocks(node._saved_upscale_factor)] * 2)


def _unshuffle(node: Any, output: End, source: End) -> Dims:
    factor = node._saved_downscale_factor
    return _last(output[1], [Window(factor, factor)] * 2)


def _interpolate(node: Any, output: End, source: End, *, reach: int, centred: bool) -> Dims:
    sizes = list(zip(source[1][2:], output[1][2:], strict=True))
    corners = getattr(node, "_saved_align_corners", False)
    factors = _saved_factors(node, len(sizes))
    dims: Dims = {}
    for axis, ((before, after), factor) in enumerate(zip(sizes, factors, strict=True), 2):
        if before == 1 or after == 1:
            continue  # every position reads the same, or there is one only
        scale = Fraction(before, after)
        if corners:
            scale = Fraction(before - 1, after - 1)
        elif factor:
            scale = 1 / Fraction(factor).limit_denominator(10**6)
        shift = (scale - 1) / 2 if centred and not corners else Fraction(0)
        if centred and reach == 0:
            shift = scale / 2  # the nearest pixel's centre, not the one below
        moves = bool(factor) and not corners and (1 / scale).denominator == 1
        dims[axis] = (axis, Interpolation(scale, shift, reach, moves))
    return dims


def _saved_factors(node: Any, count: int) -> list[float | None]:
    """Return the scale factors that the user gave, the first axis first."""
    names = (
        ["_saved_scales"] if count == 1 else [f"_saved_scales_{axis}" for axis in "dhw"[-count:]]
    )
    return [getattr(node, name, None) for name in names]


_HANDLERS: dict[str, Handler] = {
    **dict.fromkeys(
        (
            *("Relu", "Hardtanh", "Threshold", "Clamp", "ClampMin", "ClampMax", "LeakyRelu", "Elu"),
            *("Celu", "Gelu", "Silu", "Mish", "Softplus", "Hardswish", "Hardsigmoid", "Sigmoid"),
            *("Tanh", "LogSigmoid", "Softshrink", "Hardshrink", "Neg", "Abs", "Exp", "Exp2"),
            *("Expm1", "Log", "Log2", "Log10", "Log1P", "Sqrt", "Rsqrt", "Reciprocal", "Pow"),
            *("Sin", "Cos", "Erf", "Sign", "Round", "Floor", "Ceil", "NanToNum", "Add", "Sub"),
            *("Mul", "Div", "Maximum", "Minimum", "Fmax", "Fmin", "Where", "MaskedFill", "Lerp"),
            *("Addcmul", "Addcdiv", "Clone", "ToCopy", "Copy", "Alias", "Expand", "Repeat"),
            *("NativeDropout", "FusedDropout", "RreluWithNoise", "Rsub"),
        ),
        _keep,
    ),
    "PreluKernel": _keep_first,
    "ChannelShuffle": _keep_first,
    "BackwardHookFunction": _keep_own,
    **dict.fromkeys(("NativeBatchNorm", "CudnnBatchNorm", "MiopenBatchNorm"), _normalize_batch),
    **dict.fromkeys(("NativeLayerNorm", "FusedRmsNorm"), _normalize_last),
    **dict.fromkeys(("Softmax", "LogSoftmax", "Cumsum", "Cumprod", "Flip", "Roll"), _mix_along),
    "Glu": _mix_along,
    **dict.fromkeys(("Mean", "Sum", "Amax", "Amin", "Max", "Min", "Logsumexp"), _reduce),
    **dict.fromkeys(("Prod", "Var", "Std", "LinalgVectorNorm"), _reduce),
    "Cat": _keep,  # an input as long as the output, along the dimension too, is all of it
    "Stack": _stack,
    "Select": _select,
    "Unbind": _select,
    **dict.fromkeys(("Split", "SplitWithSizes"), _split),
    "Slice": _slice,
    "Permute": _permute,
    "Transpose": _transpose,
    **dict.fromkeys(("View", "UnsafeView", "ReshapeAlias", "Squeeze", "Unsqueeze"), _view),
    "Convolution": _convolve,
    **{
        f"{kind}{count}D{suffix}": _pool
        for kind, suffix in (("MaxPool", "WithIndices"), ("AvgPool", ""))
        for count in (2, 3)
    },
    "ConstantPadNd": _pad,
    **{f"ReflectionPad{count}D": partial(_mirror, reflected=True) for count in (1, 2, 3)},
    **{f"ReplicationPad{count}D": partial(_mirror, reflected=False) for count in (1, 2, 3)},
    "PixelShuffle": _shuffle,
    "PixelUnshuffle": _unshuffle,
    **{
        f"Upsample{kind}": partial(_interpolate, reach=reach, centred=centred)
        for kinds, reach, centred in (
            (("Nearest1D", "Nearest2D", "Nearest3D"), 0, False),
            (("NearestExact1D", "NearestExact2D", "NearestExact3D"), 0, True),
            (("Linear1D", "Bilinear2D", "Trilinear3D"), 1, True),
            (("Bicubic2D",), 2, True),
        )
        for kind in kinds
    },
}

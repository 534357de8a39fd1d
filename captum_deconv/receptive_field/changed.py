"""A batch of maps that differ from one map in a box each, as a tensor that a model can run on.

Of each map only what the boxes change is computed (:mod:`captum_deconv.receptive_field.spans`),
from a crop that has all that those places see; the rest is the map of the unchanged image, computed
once. Convolutions, pooling, batch norms, rectifiers, sums, concatenations and padding keep such a
batch one, however they are written, and anything else gets the whole maps, as it would have. So the
result is the model's, up to the rounding of a convolution, which may differ with the size of what
it is given.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_map

from captum_deconv.receptive_field.spans import Box, Place, Windows, join, paste, place_boxes

constant_pad_nd = torch.ops.aten.constant_pad_nd.default

_WORTH_IT = 0.8
"""Of a map: where more than that would have to be computed anew, all of it is."""

_POINTWISE = frozenset(
    (
        *("relu", "hardtanh", "clamp", "clamp_min", "clamp_max", "threshold", "leaky_relu", "elu"),
        *("gelu", "silu", "mish", "softplus", "hardswish", "hardsigmoid", "sigmoid", "tanh", "neg"),
        *("abs", "sqrt", "exp", "log", "pow", "add", "sub", "rsub", "mul", "div", "maximum"),
        *("minimum", "clone", "_to_copy", "_prelu_kernel"),
    )
)
_NORMS = {"native_batch_norm": 5, "cudnn_batch_norm": 5, "_native_batch_norm_legit_no_training": -1}
"""Batch norms, with the argument that says whether they are in train mode."""


class Changed(Tensor):
    """A batch of maps ``(N, C, H, W)``, each equal to one map but for a box; boxes have one size.

    Args:
        base: The map, ``(1, C, H, W)``.
        patches: What the boxes hold, ``(N, C, h, w)``.
        starts: Of each box, first row and column.
        known: What was computed of the base.
    """

    base: Tensor
    patches: Tensor
    starts: list[Place]
    known: Known
    _whole: Tensor | None

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]  # the stub's

    @staticmethod
    def __new__(cls, base: Tensor, patches: Tensor, starts: list[Place], known: Known) -> Changed:
        """Make a tensor that has the maps' shape, and no memory for them."""
        shape = (len(patches), *base.shape[1:])
        made: Changed = Tensor._make_wrapper_subclass(
            cls, shape, dtype=base.dtype, device=base.device
        )
        made.base, made.patches, made.starts, made.known = base, patches, starts, known
        made._whole = None
        return made

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]  # the stub's is no classmethod
        cls, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run an operation on what was changed, or, if it is none that we follow, on all."""
        kwargs = kwargs or {}
        name = func._schema.name.removeprefix("aten::")
        in_place = name.endswith("_") and func._schema.is_mutable
        name = name.removesuffix("_") if in_place else name
        given = [part for part in tree_flatten((args, kwargs))[0] if isinstance(part, Changed)]
        found = None
        if all(changed._whole is None and changed.dim() == 4 for changed in given):
            if in_place and name in _POINTWISE and isinstance(args[0], Changed):
                func = getattr(getattr(torch.ops.aten, name), func._overloadname)
                found = _run_pointwise(func, args, kwargs)
                if found is not None and found.shape == args[0].shape:
                    args[0].base, args[0].patches = found.base, found.patches
                    args[0].starts = found.starts
                    return args[0]
                raise TypeError(f"{name} in place changes all of a map")  # run on plain tensors
            if name in _POINTWISE:
                found = _run_pointwise(func, args, kwargs)
            elif name in _NORMS:
                found = _run_norm(func, args, kwargs, _NORMS[name])
            elif not in_place and name in _FOLLOWED:
                found = _FOLLOWED[name](func, args, kwargs)
        if found is not None:
            return found
        return func(*tree_map(whole, args), **tree_map(whole, kwargs))

    def whole(self) -> Tensor:
        """Return the maps themselves; from then on this is another name for them.

        An operation that we do not follow may give a view of them, and another write to it.
        """
        if self._whole is None:
            self._whole = self.cut([(0, 0)] * len(self.patches), self.shape[2:])
        return self._whole

    def cut(
        self,
        starts: Sequence[Place],
        size: Sequence[int],
        margins: Sequence[int] = (0, 0, 0, 0),
        outside: float = 0.0,
    ) -> Tensor:
        """Cut a window out of each map.

        Args:
            starts: Its first row and column, which may lie in the margins.
            size: Rows and columns.
            margins: How far windows may reach beyond the map: left, right, above and below.
            outside: What is there.

        Returns:
            ``(N, C, *size)``.
        """
        base = self.base
        if any(margins):
            base = self.known.compute(constant_pad_nd, (base, list(margins), outside), {})
        # One operation for all windows: on a busy machine it is their number that takes time.
        windows = base[0].unfold(1, size[0], 1).unfold(2, size[1], 1).permute(1, 2, 0, 3, 4)
        rows, columns = torch.tensor(starts, device=base.device).unbind(1)
        parts = windows[rows + margins[2], columns + margins[0]]
        by_offset: dict[Place, list[int]] = {}
        for number, ((y, x), (top, left)) in enumerate(zip(self.starts, starts, strict=True)):
            by_offset.setdefault((y - top, x - left), []).append(number)
        for offset, members in by_offset.items():
            paste(parts, self.patches, offset, members)
        return parts

    @property
    def boxes(self) -> list[Box]:
        """Start and stop of each box, for height and for width."""
        height, width = self.patches.shape[2:]
        return [((y, y + height), (x, x + width)) for y, x in self.starts]


def whole(value: Any) -> Any:
    """Return the maps themselves, where a value is a :class:`Changed`, or else the value."""
    return value.whole() if isinstance(value, Changed) else value


def sum_channel(maps: Tensor, channel: int) -> Tensor:
    """Sum a channel of a batch of maps.

    Args:
        maps: ``(N, C, *spatial)``; of a :class:`Changed` only that channel is looked at.
        channel: Its number.

    Returns:
        ``(N,)``.
    """
    if isinstance(maps, Changed) and maps._whole is None:
        part = slice(channel, channel + 1)
        maps = Changed(maps.base[:, part], maps.patches[:, part], maps.starts, maps.known)
        return maps.whole().flatten(1).sum(1)
    return whole(maps)[:, channel].flatten(1).sum(1)  # type: ignore[no-any-return]


class Known:
    """What was computed of the base in the last pass, in its order, to be computed only once."""

    def __init__(self) -> None:
        self._results: list[tuple[list[Any], Any]] = []
        self._next = 0

    def begin(self) -> None:
        """Begin a pass."""
        self._next = 0

    def compute(self, func: Any, args: Any, kwargs: Any) -> Any:
        """Return what an operation gives, from the last pass if it is the same with the same."""
        key = [func, *tree_flatten((args, kwargs))[0]]
        known = self._results[self._next : self._next + 1]
        if not (known and _are_same(key, known[0][0])):
            self._results[self._next :] = [(key, func(*args, **kwargs))]
        self._next += 1
        return self._results[self._next - 1][1]


def _are_same(one: list[Any], other: list[Any]) -> bool:
    return len(one) == len(other) and all(
        a is b or (not isinstance(a, Tensor) and not isinstance(b, Tensor) and a == b)
        for a, b in zip(one, other, strict=True)
    )


def _run_on_base(func: Any, args: Any, kwargs: Any, known: Known) -> Any:
    bases = tree_map(lambda part: part.base if isinstance(part, Changed) else part, (args, kwargs))
    return known.compute(func, *bases)


def _align(given: Sequence[Changed]) -> tuple[list[Place], list[Tensor]] | None:
    """Return the patches of some maps in boxes that they have in common, with the boxes' starts."""
    first = given[0]
    for one in given:
        if len(one) != len(first) or one.shape[2:] != first.shape[2:]:
            return None
    if all(one.starts == first.starts and one.boxes == first.boxes for one in given):
        return first.starts, [one.patches for one in given]
    joined = [join(boxes) for boxes in zip(*(one.boxes for one in given), strict=True)]
    starts, size = place_boxes(joined, first.shape[2:])
    return starts, [one.cut(starts, size) for one in given]


def _run_pointwise(func: Any, args: Any, kwargs: Any) -> Changed | None:
    parts, _ = tree_flatten((args, kwargs))
    given = [part for part in parts if isinstance(part, Changed)]
    if not all(_is_alike(part) for part in parts):
        return None
    aligned = _align(given)
    if aligned is None:
        return None
    starts, patches = aligned
    by_map = {id(one): patch for one, patch in zip(given, patches, strict=True)}
    inside = tree_map(lambda part: by_map.get(id(part), part), (args, kwargs))
    base = _run_on_base(func, args, kwargs, given[0].known)
    return Changed(base, func(*inside[0], **inside[1]), starts, given[0].known)


def _is_alike(part: Any) -> bool:
    """Tell whether an argument is the same for all images and places."""
    if not isinstance(part, Tensor) or isinstance(part, Changed) or part.numel() == 1:
        return True
    shape = part.shape
    return len(shape) in (3, 4) and shape[-2:] == (1, 1) and (len(shape) == 3 or shape[0] == 1)


def _run_norm(func: Any, args: Any, kwargs: Any, training: int) -> Any:
    maps = args[0]
    if not isinstance(maps, Changed) or (training >= 0 and args[training]):
        return None
    base, *rest = _run_on_base(func, args, kwargs, maps.known)
    patches = func(maps.patches, *args[1:], **kwargs)[0]
    return Changed(base, patches, maps.starts, maps.known), *rest


def _run_windows(
    func: Any, args: Any, kwargs: Any, windows: Windows, inside: tuple[Any, ...], outside: float
) -> Any:
    """Run an operation of windows on what they see of the changes.

    Args:
        func: The operation.
        args: Its arguments.
        kwargs: Its keyword arguments.
        windows: How they lie.
        inside: The arguments after the maps, without padding.
        outside: What the padding holds.

    Returns:
        What the operation returns, or None where it may as well run on the whole maps.
    """
    maps: Changed = args[0]
    found = _run_on_base(func, args, kwargs, maps.known)
    base = found if isinstance(found, Tensor) else found[0]
    starts, corners, needed, margins = windows.follow(maps.boxes, maps.shape[2:], base.shape[2:])
    if math.prod(needed) > _WORTH_IT * math.prod(maps.shape[2:]):
        return None
    patches = func(maps.cut(corners, needed, margins, outside), *inside)
    if isinstance(found, Tensor):
        return Changed(base, patches, starts, maps.known)
    changed = Changed(base, patches[0], starts, maps.known)
    return changed, _Unknown.like(found[1], len(maps))


class _Unknown(Tensor):
    """The places that maxima were taken from, which nobody computed: whoever reads them fails."""

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]  # the stub's

    @staticmethod
    def like(places: Tensor, count: int) -> Tensor:
        """Stand for the places of several maps."""
        shape = (count, *places.shape[1:])
        made: Tensor = Tensor._make_wrapper_subclass(
            _Unknown, shape, dtype=places.dtype, device=places.device
        )
        return made

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]  # the stub's is no classmethod
        cls, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Fail, so that the model runs on plain tensors."""
        raise TypeError(f"{func} needs the switches of a pooling")


def _convolve(func: Any, args: Any, kwargs: Any) -> Any:
    maps, weight, bias, stride, padding, dilation, transposed, extra, groups = args
    if transposed or not isinstance(maps, Changed) or weight.dim() != 4:
        return None
    windows = Windows(weight.shape[2:], stride, padding, dilation)
    inside = (weight, bias, stride, [0, 0], dilation, False, extra, groups)
    return _run_windows(func, args, kwargs, windows, inside, 0.0)


def _pool_maxima(func: Any, args: Any, kwargs: Any) -> Any:
    _, kernel, stride, padding, dilation, _ = _complete(args, ([], [0, 0], [1, 1], False))
    windows = Windows(kernel, stride or kernel, padding, dilation)
    inside = (kernel, stride, [0, 0], dilation, False)
    return _run_windows(func, args, kwargs, windows, inside, -math.inf)


def _pool_means(func: Any, args: Any, kwargs: Any) -> Any:
    _, kernel, stride, padding, ceil, counted, divisor = _complete(
        args, ([], [0, 0], False, True, None)
    )
    if ceil or (any(padding) and not counted):
        return None  # windows at the border are divided by less
    windows = Windows(kernel, stride or kernel, padding, [1])
    inside = (kernel, stride, [0, 0], False, True, divisor)
    return _run_windows(func, args, kwargs, windows, inside, 0.0)


def _complete(args: Any, defaults: tuple[Any, ...]) -> tuple[Any, ...]:
    """Add the arguments that were left out, after the maps and the kernel."""
    return (*args, *defaults[len(args) - 2 :])


def _concatenate(func: Any, args: Any, kwargs: Any) -> Any:
    parts, dim = (*args, 0)[:2]
    if dim not in (1, -3) or not all(isinstance(part, Changed) for part in parts):
        return None
    aligned = _align(parts)
    if aligned is None:
        return None
    base = _run_on_base(func, args, kwargs, parts[0].known)
    return Changed(base, func(aligned[1], 1), aligned[0], parts[0].known)


def _pad(func: Any, args: Any, kwargs: Any) -> Any:
    maps, amounts = args[:2]
    if len(amounts) > 4 or min(amounts) < 0:
        return None
    left, _, above, _ = (*amounts, 0, 0)[:4]
    base = _run_on_base(func, args, kwargs, maps.known)
    starts = [(y + above, x + left) for y, x in maps.starts]
    return Changed(base, maps.patches, starts, maps.known)


_FOLLOWED: dict[str, Callable[[Any, Any, Any], Any]] = {
    "convolution": _convolve,
    "max_pool2d_with_indices": _pool_maxima,
    "avg_pool2d": _pool_means,
    "cat": _concatenate,
    "constant_pad_nd": _pad,
}

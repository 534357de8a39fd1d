"""Where a change of a map comes to be in the next one, and what has to be known to compute it.

Along an axis, a window of ``K`` taps with stride ``s``, padding ``P`` and dilation ``d`` turns a
change in ``[a, b]`` of its input into one in

    [ceil((a + P - d (K - 1)) / s),  floor((b + P) / s)]

of its output, which is computed from what a receptive field says.

>>> windows = Windows([3], [2], [1], [1])
>>> windows.follow([((4, 6), (4, 6))], (9, 9), (5, 5))  # of rows 4 and 5, rows 2 and 3 are made
Span(starts=[(2, 2)], corners=[(3, 3)], needed=(5, 5), margins=(1, 1, 1, 1))
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from torch import Tensor

Place = tuple[int, int]
Box = tuple[Place, Place]


class Span(NamedTuple):
    """What a change leads to.

    Attributes:
        starts: Of the places of each map that are to be computed anew, the first.
        corners: Of what they are computed from, the first; it may lie in the padding.
        needed: How much that is, for height and for width.
        margins: How far windows may reach beyond the map: left, right, above and below.
    """

    starts: list[Place]
    corners: list[Place]
    needed: Place
    margins: tuple[int, int, int, int]


class Windows(NamedTuple):
    """The windows of a convolution or a pooling, for height and for width, or one for both."""

    kernel: Sequence[int]
    stride: Sequence[int]
    padding: Sequence[int]
    dilation: Sequence[int]

    def follow(self, boxes: Sequence[Box], before: Sequence[int], after: Sequence[int]) -> Span:
        """Follow a change through the windows.

        Args:
            boxes: What was changed, of each map.
            before: Height and width of the maps.
            after: Height and width of what the windows make of them.

        Returns:
            Where the output changes, in boxes of one size.
        """
        firsts, corners, needed, margins = [], [], [], []
        for axis in (0, 1):
            # A sequence of one stands for both axes.
            kernel, stride, padding, dilation = (n[min(axis, len(n) - 1)] for n in self)
            reach, last = dilation * (kernel - 1), after[axis] - 1
            seen = [
                (
                    -(-(box[axis][0] + padding - reach) // stride),
                    (box[axis][1] - 1 + padding) // stride,
                )
                for box in boxes
            ]
            seen = [(min(max(a, 0), last), min(max(b, 0), last)) for a, b in seen]
            size = max(1, *(b - a + 1 for a, b in seen))  # a gap between windows is in none
            firsts.append([min(a, last + 1 - size) for a, _ in seen])
            corners.append([first * stride - padding for first in firsts[axis]])
            needed.append((size - 1) * stride + reach + 1)
            margins.append((padding, max(0, last * stride + reach + 1 - padding - before[axis])))
        return Span(
            list(zip(*firsts, strict=True)),
            list(zip(*corners, strict=True)),
            (needed[0], needed[1]),
            margins[1] + margins[0],
        )


def place_boxes(boxes: Sequence[Box], limits: Sequence[int]) -> tuple[list[Place], Place]:
    """Place boxes of one size, each around one of the given boxes and within a map.

    Args:
        boxes: Start and stop of each, for height and for width.
        limits: The map's height and width.

    Returns:
        Their starts, and their size.
    """
    height, width = (max(box[axis][1] - box[axis][0] for box in boxes) for axis in (0, 1))
    starts = [(min(y[0], limits[0] - height), min(x[0], limits[1] - width)) for y, x in boxes]
    return starts, (height, width)


def join(boxes: Iterable[Box]) -> Box:
    """Return the smallest box that holds some boxes."""
    (tops, bottoms), (lefts, rights) = (
        zip(*spans, strict=True) for spans in zip(*boxes, strict=True)
    )
    return (min(tops), max(bottoms)), (min(lefts), max(rights))


def paste(target: Tensor, source: Tensor, offset: Place, members: Sequence[int]) -> None:
    """Copy what windows on maps have in common, as far as they have.

    Args:
        target: ``(N, C, h, w)``, written to.
        source: ``(N, C, h, w)``, of windows of another size.
        offset: Where in the target's windows the source's begin; it may lie outside.
        members: Of which of the N.
    """
    here, there = [], []
    for axis, shift in enumerate(offset, start=2):
        low, high = max(0, shift), min(target.shape[axis], shift + source.shape[axis])
        if high <= low:
            return
        here.append(slice(low, high))
        there.append(slice(low - shift, high - shift))
    first, count = members[0], len(members)
    which: Any = list(members)
    if which == list(range(first, first + count)):
        which = slice(first, first + count)
    to, of = (which, slice(None), *here), (which, slice(None), *there)
    target[to] = source[of]

"""What one operation does to an interval of positions along one axis, from its output to its input.

Intervals hold both their ends. A step gives the positions that the operation reads, wherever they
are; what lies outside the input is cut off afterwards, except where the operation itself reads on
at the border (reflection, interpolation): then it does so here, if ``bounded``.

>>> Window(kernel=3, stride=2, padding=1, dilation=1).go_back(Interval(0, 1), size=9, bounded=True)
Interval(first=-1, last=3)
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import ClassVar, NamedTuple, Protocol


class Interval(NamedTuple):
    """Positions from ``first`` to ``last``, both included."""

    first: int
    last: int


class Step(Protocol):
    """One operation along one axis.

    Attributes:
        scale: How many positions of the input there are to one of the output.
        equivariant: Whether an input that begins later, by whole steps of the output, gives an
            output that begins as much later; an interpolation to a fixed size does not.
    """

    @property
    def scale(self) -> Fraction:
        """Positions of the input to one of the output."""

    @property
    def equivariant(self) -> bool:
        """Whether moving the input moves the output."""

    def go_back(self, interval: Interval, size: int, *, bounded: bool) -> Interval:
        """Return what an interval of the output is computed from.

        Args:
            interval: Positions of the output.
            size: How many positions the input has.
            bounded: Whether the input ends there; otherwise it goes on for ever.

        Returns:
            Positions of the input, some of which may lie outside it.
        """


@dataclass(frozen=True)
class Window:
    """A convolution, a pooling, a slice or a padding: a window that moves over the input."""

    kernel: int = 1
    stride: int = 1
    padding: int = 0
    dilation: int = 1
    equivariant: ClassVar[bool] = True

    @property
    def scale(self) -> Fraction:
        """The stride."""
        return Fraction(self.stride)

    def go_back(self, interval: Interval, size: int, *, bounded: bool) -> Interval:
        """Return the windows' extent, from the first tap on the input to the last."""
        starts = [place * self.stride - self.padding for place in interval]
        reach = self.dilation * (self.kernel - 1)
        first, last = starts[0], starts[1] + reach
        gaps = self.dilation > 1 or self.stride > self.kernel
        if not bounded or not gaps or (first >= 0 and last < size):
            return Interval(first, last)
        taps = [
            tap
            for start in range(starts[0], starts[1] + 1, self.stride)
            for tap in range(start, start + reach + 1, self.dilation)
            if 0 <= tap < size
        ]
        return Interval(min(taps), max(taps)) if taps else Interval(0, -1)


IDENTITY = Window()


@dataclass(frozen=True)
class Transposed:
    """A transposed convolution: position ``q`` is fed by every ``i`` with ``q = s i - P + d j``."""

    kernel: int
    stride: int
    padding: int
    dilation: int
    equivariant: ClassVar[bool] = True

    @property
    def scale(self) -> Fraction:
        """One over the stride."""
        return Fraction(1, self.stride)

    def go_back(self, interval: Interval, size: int, *, bounded: bool) -> Interval:
        """Return what feeds the interval; empty (first after last) where nothing does."""
        sources = [
            source
            for position in range(interval.first, interval.last + 1)
            if (source := self._go_back(position)) is not None
        ]
        if not sources:
            return Interval(0, -1)
        return Interval(min(s.first for s in sources), max(s.last for s in sources))

    def _go_back(self, position: int) -> Interval | None:
        taps = (position + self.padding - self.dilation * tap for tap in range(self.kernel))
        sources = [tap // self.stride for tap in taps if tap % self.stride == 0]
        return Interval(min(sources), max(sources)) if sources else None


@dataclass(frozen=True)
class Mirrored:
    """Padding with the input's own values: reflected at its border, or its border repeated."""

    padding: int
    reflected: bool
    scale: ClassVar[Fraction] = Fraction(1)
    equivariant: ClassVar[bool] = True

    def go_back(self, interval: Interval, size: int, *, bounded: bool) -> Interval:
        """Return the positions that are read, those beyond the border turned back."""
        first, last = interval.first - self.padding, interval.last - self.padding
        if not bounded:
            return Interval(first, last)
        # Between two turning points the order is kept, so the ends of the pieces suffice.
        turns = [turn for turn in (0, size - 1) if first <= turn <= last]
        places = [self._turn(place, size) for place in (first, last, *turns)]
        return Interval(min(places), max(places))

    def _turn(self, place: int, size: int) -> int:
        if not self.reflected:
            return min(max(place, 0), size - 1)
        place = abs(place)
        return place if place < size else 2 * (size - 1) - place


@dataclass(frozen=True)
class Blocks:
    """Pixel shuffle: blocks of ``factor`` positions of the output come from one of the input."""

    factor: int
    equivariant: ClassVar[bool] = True

    @property
    def scale(self) -> Fraction:
        """One over the factor."""
        return Fraction(1, self.factor)

    def go_back(self, interval: Interval, size: int, *, bounded: bool) -> Interval:
        """Return the positions whose blocks the interval touches."""
        return Interval(interval.first // self.factor, interval.last // self.factor)


@dataclass(frozen=True)
class Interpolation:
    """Resampling: position ``p`` reads around ``scale * p + shift``.

    Attributes:
        scale: Positions of the input to one of the output.
        shift: Where the first position of the output reads.
        reach: 0 takes the position below, 1 the two around it (one, where it falls on it), and 2
            the four around it.
        equivariant: Whether the scale is the user's own rather than a ratio of sizes.
    """

    scale: Fraction
    shift: Fraction
    reach: int
    equivariant: bool

    def go_back(self, interval: Interval, size: int, *, bounded: bool) -> Interval:
        """Return the positions that are read; at the border they stay on it."""
        first, last = interval
        # A place that falls on a position reads that one alone, so its neighbour may read on.
        ends = (first, min(first + 1, last), max(last - 1, first), last)
        seen = [self._read(self.scale * end + self.shift) for end in ends]
        first, last = min(read.first for read in seen), max(read.last for read in seen)
        if bounded:
            first, last = (min(max(end, 0), size - 1) for end in (first, last))
        return Interval(first, last)

    def _read(self, place: Fraction) -> Interval:
        """Return the positions around a place that count there."""
        below = math.floor(place)
        if self.reach == 0 or place == below:
            return Interval(below, below)
        return Interval(below - (self.reach == 2), below + self.reach)

"""Each step back along an axis against the positions that the operation reads, one by one."""

import itertools
import math
from fractions import Fraction

import pytest
import torch
from torch.nn import functional as F

from captum_deconv.receptive_field.steps import (
    Blocks,
    Interpolation,
    Interval,
    Mirrored,
    Transposed,
    Window,
)

SIZE = 7


def intervals(count):
    return itertools.starmap(Interval, itertools.combinations_with_replacement(range(count), 2))


def clip(interval):
    """Return the part of an interval that lies on the input, as whoever asked does; or None."""
    first, last = max(interval.first, 0), min(interval.last, SIZE - 1)
    return (first, last) if first <= last else None


def span(places):
    return (min(places), max(places)) if places else None


@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "dilation"),
    [
        (1, 1, 0, 1),
        (3, 1, 1, 1),
        (3, 2, 1, 1),
        (2, 3, 0, 1),
        (1, 3, 2, 1),
        (2, 2, 6, 5),
        (3, 1, 4, 3),
    ],
)
def test_a_window_reads_its_taps(kernel, stride, padding, dilation):
    step = Window(kernel, stride, padding, dilation)
    assert (step.scale, step.equivariant) == (stride, True)
    for interval in intervals(6):
        taps = [
            place * stride - padding + tap * dilation
            for place in range(interval.first, interval.last + 1)
            for tap in range(kernel)
        ]
        assert step.go_back(interval, SIZE, bounded=False) == span(taps)
        found = step.go_back(interval, SIZE, bounded=True)
        assert clip(found) == span([tap for tap in taps if 0 <= tap < SIZE])


@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "dilation"),
    [(1, 1, 0, 1), (3, 2, 1, 1), (2, 3, 0, 1), (3, 2, 0, 2), (1, 2, 0, 1), (2, 4, 3, 3)],
)
@pytest.mark.parametrize("bounded", [False, True])
def test_a_transposed_convolution_is_fed_by_what_reaches_it(
    kernel, stride, padding, dilation, bounded
):
    step = Transposed(kernel, stride, padding, dilation)
    assert (step.scale, step.equivariant) == (Fraction(1, stride), True)
    reached = {
        source: {stride * source - padding + dilation * tap for tap in range(kernel)}
        for source in range(-20, 40)
    }
    for interval in intervals(9):
        asked = set(range(interval.first, interval.last + 1))
        found = step.go_back(interval, SIZE, bounded=bounded)
        expected = span([source for source, places in reached.items() if places & asked])
        if expected is None:
            assert found.first > found.last
        else:
            assert found == expected
            assert all(type(end) is int for end in found)


@pytest.mark.parametrize("padding", [0, 1, 3, 6])
@pytest.mark.parametrize("reflected", [False, True])
def test_padding_with_the_inputs_own_values_turns_back(padding, reflected):
    step = Mirrored(padding, reflected)
    mode = "reflect" if reflected else "replicate"
    places = torch.arange(float(SIZE))[None]
    read = F.pad(places, (padding, padding), mode=mode)[0].int().tolist()
    for interval in intervals(SIZE + 2 * padding):
        seen = read[interval.first : interval.last + 1]
        assert step.go_back(interval, SIZE, bounded=True) == span(seen)
        endless = step.go_back(interval, SIZE, bounded=False)
        assert endless == (interval.first - padding, interval.last - padding)


def test_blocks_come_from_one_position_each():
    step = Blocks(3)
    assert step.scale == Fraction(1, 3)
    for interval in intervals(3 * SIZE):
        expected = span([place // 3 for place in range(interval.first, interval.last + 1)])
        assert step.go_back(interval, SIZE, bounded=True) == expected


@pytest.mark.parametrize("scale", [Fraction(1, 2), Fraction(2, 3), Fraction(1), Fraction(5, 3)])
@pytest.mark.parametrize("shift", [Fraction(0), Fraction(-1, 4), Fraction(1, 3)])
@pytest.mark.parametrize("reach", [0, 1, 2])
def test_an_interpolation_reads_around_its_place(scale, shift, reach):
    step = Interpolation(scale, shift, reach, equivariant=True)
    for interval in intervals(12):
        endless, ending = set(), set()
        for place in range(interval.first, interval.last + 1):
            at = scale * place + shift
            endless |= list_read(at, reach)
            # Linear interpolation does not go below the first position; the others read it again.
            ending |= list_read(max(at, Fraction(0)) if reach == 1 else at, reach)
        assert step.go_back(interval, SIZE, bounded=False) == span(endless)
        ending = {min(max(place, 0), SIZE - 1) for place in ending}
        assert step.go_back(interval, SIZE, bounded=True) == span(ending)


def list_read(at, reach):
    below = math.floor(at)
    if reach == 0 or at == below:  # where it falls on a position, the others count for nothing
        return {below}
    return {below + n for n in ((0, 1) if reach == 1 else (-1, 0, 1, 2))}

"""Where a change comes to be in the next map, against windows counted one by one."""

import itertools

import pytest
import torch

from captum_deconv.receptive_field.spans import Windows, join, paste, place_boxes

WINDOWS = [
    # kernel, stride, padding, dilation, and how long the map is
    (1, 1, 0, 1, 9),
    (3, 1, 1, 1, 9),
    (3, 2, 1, 1, 12),
    (2, 2, 0, 1, 9),
    (1, 3, 0, 1, 10),  # gaps between windows
    (3, 2, 2, 3, 11),
    (5, 3, 2, 1, 8),
    (2, 4, 1, 2, 13),
]
PAIRS = list(zip(WINDOWS, WINDOWS[3:] + WINDOWS[:3], strict=True))


@pytest.mark.parametrize("ceil_mode", [False, True])
@pytest.mark.parametrize(("rows", "columns"), PAIRS)
def test_a_change_is_followed_through_windows(rows, columns, ceil_mode):
    before = (rows[-1], columns[-1])
    begins = [list_begins(*axis, ceil_mode) for axis in (rows, columns)]
    after = [len(places) for places in begins]
    windows = Windows(*zip(rows[:4], columns[:4], strict=True))
    spans = [list(itertools.combinations(range(length + 1), 2)) for length in before]
    for n in range(0, min(map(len, spans)) - 1, 3):
        boxes = [(spans[0][n], spans[1][-1 - n]), (spans[0][n + 1], spans[1][n])]
        span = windows.follow(boxes, before, after)
        beyond = []
        for axis, (kernel, stride, padding, dilation, length) in enumerate((rows, columns)):
            reach = dilation * (kernel - 1)
            sizes = [1]
            for box, start, corner in zip(boxes, span.starts, span.corners, strict=True):
                low, high = box[axis]
                met = [n for n, b in enumerate(begins[axis]) if b + reach >= low and b < high]
                sizes.append(len(met))
                size = (span.needed[axis] - reach - 1) // stride + 1
                assert span.needed[axis] == (size - 1) * stride + reach + 1
                assert set(met) <= set(range(start[axis], start[axis] + size))
                assert 0 <= start[axis] <= after[axis] - size
                assert corner[axis] == begins[axis][start[axis]]
            assert size == max(sizes)
            beyond.append((padding, max(0, begins[axis][-1] + reach + 1 - length)))
        assert span.margins == (*beyond[1], *beyond[0])


def list_begins(kernel, stride, padding, dilation, length, ceil_mode):
    """Return where in the map each window begins; a last one may end beyond it."""
    room = length + 2 * padding - dilation * (kernel - 1) - 1
    begins = [place * stride - padding for place in range(room // stride + 1)]
    further = begins[-1] + stride
    return [*begins, further] if ceil_mode and room % stride and further < length else begins


def test_one_number_stands_for_both_axes():
    boxes = [((4, 6), (1, 2)), ((0, 1), (7, 9))]
    one = Windows([3], [2], [1], [1]).follow(boxes, (9, 9), (5, 5))
    assert one == Windows([3, 3], [2, 2], [1, 1], [1, 1]).follow(boxes, (9, 9), (5, 5))


def test_a_change_between_windows_is_in_none():
    span = Windows([1], [3], [0], [1]).follow([((4, 6), (3, 4))], (10, 10), (4, 4))
    assert (span.starts, span.corners, span.needed) == ([(2, 1)], [(6, 3)], (1, 1))


def test_boxes_of_one_size_lie_within_the_map():
    boxes = [((0, 2), (0, 5)), ((8, 10), (11, 12)), ((3, 7), (4, 6))]
    starts, size = place_boxes(boxes, (10, 12))
    assert size == (4, 5)
    assert starts == [(0, 0), (6, 7), (3, 4)]


def test_a_box_around_boxes():
    assert join([((3, 5), (0, 2)), ((1, 4), (6, 7)), ((2, 9), (1, 3))]) == ((1, 9), (0, 7))
    assert join(iter([((3, 5), (0, 2))])) == ((3, 5), (0, 2))


@pytest.mark.parametrize("members", [[0], [1], [0, 1, 2], [1, 2], [2, 0], [0, 2]])
@pytest.mark.parametrize("offset", [(0, 0), (1, -1), (-2, 2), (3, 0), (0, -3), (-4, 4), (2, 3)])
def test_what_windows_have_in_common_is_pasted(offset, members):
    target, source = torch.zeros(3, 2, 3, 4), torch.arange(1.0, 73.0).reshape(3, 2, 4, 3)
    expected = target.clone()
    for member, y, x in itertools.product(members, range(4), range(3)):
        row, column = y + offset[0], x + offset[1]
        if 0 <= row < 3 and 0 <= column < 4:
            expected[member, :, row, column] = source[member, :, y, x]
    paste(target, source, offset, members)
    assert torch.equal(target, expected)

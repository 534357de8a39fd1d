"""Crops, by what is promised of them: on the grid, around what is seen, and no larger."""

import itertools

import pytest
import torch

from captum_deconv.receptive_field import ReceptiveField, crops

FIELDS = [
    # size, stride, offset, alignment, how long the image is, how long the map
    (1, 1, 0, 1, 9, 9),
    (3, 1, -1, 1, 9, 9),
    (7, 4, -3, 4, 30, 8),
    (6, 2, -2, 2, 16, 8),
    (5, 2, -2, 4, 19, 10),
    (11, 4, -2, 8, 37, 9),
    (4, 0.5, -1, 2, 10, 20),
    (3, 2, -2, 2, 12, 5),
]
PAIRS = list(zip(FIELDS, FIELDS[1:] + FIELDS[:1], strict=True))


def build(*axes):
    size, stride, offset, alignment, length, places = zip(*axes, strict=True)
    field = ReceptiveField(size, stride, offset, alignment, length, False)
    return field, itertools.product(*map(range, places))


@pytest.mark.parametrize(("rows", "columns"), PAIRS)
def test_a_crop_is_on_the_grid_and_no_larger_than_it_must_be(rows, columns):
    field, positions = build(rows, columns)
    for position in positions:
        crop = crops.cut(field, position)
        for axis, (start, stop) in enumerate(field.box(position)):
            length, step, stride = (
                field.image_size[axis],
                field.alignment[axis],
                field.stride[axis],
            )
            first, last = crop.starts[axis], crop.stops[axis]
            assert 0 <= first <= start < stop <= last <= length
            assert first % step == 0
            assert (length - last) % step == 0
            assert crop.position[axis] == position[axis] - first / stride
            assert start - first < step
            assert last - stop < step
        assert crop.size == tuple(b - a for a, b in zip(crop.starts, crop.stops, strict=True))
        image = torch.arange(2.0 * field.image_size[0] * field.image_size[1])
        image = image.reshape(2, *field.image_size)
        (top, left), (bottom, right) = crop.starts, crop.stops
        part = crop.cut_from(image)
        assert torch.equal(part, image[:, top:bottom, left:right])
        assert part.untyped_storage().data_ptr() != image.untyped_storage().data_ptr()


@pytest.mark.parametrize("axis", FIELDS[1:6])
def test_a_crop_is_grown_to_the_size_of_another(axis):
    field, positions = build(axis)
    length, step, stride = axis[4], axis[3], axis[1]
    every = [(place, crops.cut(field, place)) for place in positions]
    for (_, one), (place, other) in itertools.product(every, every):
        grown = crops.cut(field, place, one.size)
        (first,), (last,), (size,) = grown.starts, grown.stops, grown.size
        assert size == max(one.size[0], other.size[0])
        assert 0 <= first <= other.starts[0] < other.stops[0] <= last <= length
        assert first % step == 0
        assert (length - last) % step == 0
        assert grown.position[0] == place[0] - first / stride


def test_what_has_no_smaller_crop_is_the_whole_axis():
    whole = crops.Crop((0, 0), (20, 30), (2, 3))
    everywhere = ReceptiveField((5, 5), (1, 1), (0, 0), (1, 1), (20, 30), True)
    assert crops.cut(everywhere, (2, 3)) == whole
    mixed = ReceptiveField((20, 5), (0, 1), (0, -2), (20, 1), (20, 30), False)
    assert crops.cut(mixed, (7, 9)) == crops.Crop((0, 7), (20, 12), (7, 2))
    no_map = ReceptiveField((5, 5), (1, 1), (0, 0), (1, 1), (20, 30), False)
    assert crops.cut(no_map, ()) == crops.Crop((0, 0), (20, 30), ())
    padding_alone = ReceptiveField((2,), (1,), (-5,), (1,), (9,), False)
    assert crops.cut(padding_alone, (1,)) == crops.Crop((0,), (9,), (1,))


def test_sizes_are_joined_where_a_pass_costs_more_than_the_pixels():
    sizes = [(4, 4)] * 3 + [(4, 5)] * 2 + [(8, 8)]
    assert crops.join_sizes(sizes, 0) == {size: size for size in sizes}
    # (4, 4) three times as (4, 5) is 3 * 4 = 12 pixels more.
    assert crops.join_sizes(sizes, 12) == {size: size for size in sizes}
    assert crops.join_sizes(sizes, 13) == {(4, 4): (4, 5), (4, 5): (4, 5), (8, 8): (8, 8)}
    # (4, 5) twice as (8, 8) is 88 more, then (4, 4) thrice 144.
    assert crops.join_sizes(sizes, 145) == dict.fromkeys(sizes, (8, 8))
    # Neither of the two holds the other: one wide and one high.
    assert crops.join_sizes([(2, 6), (6, 2)], 49) == dict.fromkeys([(2, 6), (6, 2)], (6, 6))
    assert crops.join_sizes([(2, 6), (6, 2)], 48) == {(2, 6): (2, 6), (6, 2): (6, 2)}
    # (1, 8) with these two is 40 more, and they, which are two, are 24 more.
    three = [(2, 6), (6, 2), (1, 8)]
    joined = {(2, 6): (6, 6), (6, 2): (6, 6), (1, 8): (1, 8)}
    assert crops.join_sizes(three, 64) == joined
    assert crops.join_sizes(three, 65) == dict.fromkeys(three, (6, 8))
    assert crops.join_sizes([], 5) == {}


@pytest.mark.parametrize(("rows", "columns"), PAIRS[:6])
def test_a_patch_is_of_one_size_and_lies_in_the_image(rows, columns):
    field, positions = build(rows, columns)
    size = tuple(map(min, field.size, field.image_size))
    assert crops.patch_size(field) == size
    for position in positions:
        patch, seen = crops.frame(field, position)
        assert seen == field.box(position)
        for axis, (start, stop) in enumerate(patch):
            assert stop - start == size[axis]
            assert 0 <= start <= seen[axis][0] < seen[axis][1] <= stop <= field.image_size[axis]


def test_the_patch_of_what_sees_everything_is_everything():
    for whole, position in ((True, (2, 3)), (False, ())):
        field = ReceptiveField((5, 40), (1, 1), (0, 0), (1, 1), (20, 30), whole)
        assert crops.frame(field, position) == (((0, 20), (0, 30)),) * 2
        assert crops.patch_size(field) == ((20, 30) if whole else (5, 30))

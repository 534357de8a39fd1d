"""What a box is made of."""

import subprocess
import sys

import pytest
import torch
from snapshot import Snapshot
from torch import nn

from captum_deconv import receptive_field

Box = tuple[tuple[int, int], ...]


def test_size_stride_and_offset():
    """By hand, for VGG's first pooled block: 2 (3 - 1) + 2 pixels, every 2, one padding twice."""
    block = [nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1), nn.MaxPool2d(2)]
    field = receptive_field.of(nn.Sequential(*block), "2", torch.zeros(1, 3, 16, 20))
    assert (field.size, field.stride, field.offset) == ((6, 6), (2, 2), (-2, -2))
    assert field.alignment == (2, 2)
    assert field.image_size == (16, 20)
    assert "stride=(2, 2), offset=(-2, -2)" in repr(field)  # whole numbers, and none of them 2.0
    assert field.box((0, 9)) == ((0, 4), (16, 20))
    with pytest.raises(IndexError, match=r"outside the layer's map \(8, 10\)"):
        field.box((8, 0))
    with pytest.raises(ValueError):
        field.box((1,))


def test_alignment_is_that_of_the_coarsest_grid_on_the_way():
    down_and_up = nn.Sequential(nn.MaxPool2d(4), nn.Upsample(scale_factor=2))
    field = receptive_field.of(nn.Sequential(down_and_up), "0", torch.zeros(1, 3, 16, 16))
    assert (field.stride, field.alignment, field.size) == ((2, 2), (4, 4), (4, 4))
    fixed = nn.Sequential(nn.Upsample(size=24, mode="bilinear"))
    assert receptive_field.of(fixed, "0", torch.zeros(1, 3, 16, 16)).alignment == (16, 16)


def test_stride_of_a_half():
    field = receptive_field.of(
        nn.Sequential(nn.Upsample(scale_factor=2)), "0", torch.zeros(1, 3, 4, 4)
    )
    assert (field.stride, field.size) == ((0.5, 0.5), (1, 1))


def test_a_box_without_a_trace_follows_from_size_stride_and_offset():
    field = receptive_field.ReceptiveField((7,), (4,), (-3,), (4,), (30,), False)
    assert [field.box((p,)) for p in (0, 3, 7)] == [((0, 4),), ((9, 16),), ((25, 30),)]


def test_a_field_of_the_whole_image_is_everywhere_the_same():
    field = receptive_field.ReceptiveField((7,), (4,), (-3,), (4,), (30,), True)
    assert field.box((3,)) == ((0, 30),)


def test_an_axis_that_is_mixed_begins_with_the_image():
    rows = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.AdaptiveAvgPool2d((1, None)))
    field = receptive_field.of(rows, "0", torch.zeros(1, 3, 6, 8))
    assert (field.size, field.stride, field.offset) == ((3, 3), (1, 1), (-1, -1))
    field = receptive_field.of(nn.Sequential(rows), "0", torch.zeros(1, 3, 6, 8))
    assert (field.size, field.stride, field.offset) == ((6, 8), (0, 0), (0, 0))


def test_where_position_0_is_in_a_gap_the_next_tells_the_offset():
    gaps = nn.Sequential(nn.ConvTranspose1d(3, 3, 2, stride=4, padding=2))
    field = receptive_field.of(gaps, "0", torch.zeros(1, 3, 9))
    assert (field.size, field.stride, field.offset) == ((1,), (0.25,), (1,))
    assert [field.box((p,)) for p in range(4)] == [((0, 0),), ((0, 0),), ((1, 2),), ((1, 2),)]


def test_a_crop_reaches_an_edge_that_the_gaps_of_a_dilated_layer_leave_out():
    """At position 0 it reads -1, 1, ..., 7; at 5, one pixel past the last."""
    gaps = nn.Conv1d(3, 3, 5, padding=1, dilation=2)
    field = receptive_field.of(nn.Sequential(gaps), "0", torch.zeros(1, 3, 12))
    assert [field.box((p,)) for p in (0, 1, 5)] == [((1, 8),), ((0, 9),), ((4, 11),)]
    assert [field.reach((p,)) for p in (0, 1, 5)] == [((0, 8),), ((0, 9),), ((4, 12),)]
    with pytest.raises(IndexError, match="outside"):
        field.reach((6,))


def test_what_sees_nothing_but_padding_reaches_everything():
    padded = nn.Conv2d(3, 3, 1, padding=1)
    field = receptive_field.of(nn.Sequential(padded), "0", torch.zeros(1, 3, 6, 8))
    assert field.box((0, 3)) == ((0, 0), (0, 0))
    assert field.reach((0, 3)) == ((0, 6), (0, 8))
    assert field.reach((1, 3)) == field.box((1, 3)) == ((0, 1), (2, 3))


@pytest.mark.parametrize("start", [130, -70])
def test_a_slice_that_begins_far_in(start):
    images = torch.zeros(1, 3, 200, requires_grad=True)
    field = receptive_field.trace((images * 1)[..., start:], images)
    first = range(200)[start]
    assert (field.offset, field.box((0,))) == ((first,), ((first, first + 1),))


class Unreached(nn.Module):
    def forward(self, x):
        pytest.fail("the pass went on behind the layer")


def test_what_comes_after_the_layer_does_not_run():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), Unreached())
    assert receptive_field.of(model, "0", torch.zeros(1, 3, 8, 8)).size == (3, 3)


def test_a_model_that_trains_is_not_trained(images):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()).train()
    snapshot = Snapshot(model, images)
    assert receptive_field.of(model, "2", images).whole_image
    snapshot.assert_unchanged()


def test_the_model_and_the_images_stay_as_they_were(model, images):
    model.conv1.weight.grad = torch.ones_like(model.conv1.weight)
    snapshot = Snapshot(model, images)
    receptive_field.of(model, "conv2", images)
    receptive_field.of(model, model.fc, (images,))
    snapshot.assert_unchanged()


def test_it_works_in_any_mode(model, images):
    expected = receptive_field.of(model, "pool", images)
    with torch.no_grad():
        assert receptive_field.of(model, "pool", images) == expected
    with torch.inference_mode():
        assert receptive_field.of(model, "pool", images.clone()) == expected
    model.requires_grad_(False)
    assert receptive_field.of(model, "pool", images) == expected


def test_the_first_use_of_torch_cond_in_a_process_is_traced_too():
    program = """
import sys, torch
from torch import nn
from captum_deconv import receptive_field
assert "torch._dynamo" not in sys.modules
class Branching(nn.Module):
    def forward(self, x):
        return torch.cond(x.sum() > 0, torch.relu, torch.neg, (x,))
model = nn.Sequential(nn.Conv2d(1, 1, 3), Branching(), nn.Conv2d(1, 1, 3))
assert receptive_field.of(model, "2", torch.ones(1, 1, 8, 8)).size == (5, 5)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-800:]

"""What a box is made of."""

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

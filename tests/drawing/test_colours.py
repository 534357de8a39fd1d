import numpy as np
import pytest
import torch

from captum_deconv.drawing.colours import measure_scale, to_colour, to_magnitude, to_overlay


@pytest.fixture
def attribution():
    return torch.randn(3, 32, 32, generator=torch.Generator().manual_seed(0))


def test_colour_is_signed_around_mid_grey(attribution):
    attribution[:, 0, 0] = 0
    attribution[:, 0, 1] = torch.tensor([1e9, -1e9, 0.1])
    colour = to_colour(attribution, percentile=99)
    assert colour.shape == (32, 32, 3)
    assert colour[0, 0].tolist() == [0.5, 0.5, 0.5]
    scale = measure_scale(attribution, 99)
    assert np.allclose(colour[0, 1], [1, 0, 0.5 + 0.1 / (2 * scale)])
    assert colour.min() >= 0
    assert colour.max() <= 1


def test_magnitude_is_the_largest_over_channels(attribution):
    magnitude = to_magnitude(attribution, percentile=100)
    expected = attribution.abs().amax(dim=0) / attribution.abs().max()
    assert np.allclose(magnitude, expected.numpy(), atol=1e-6)
    assert magnitude.max() == pytest.approx(1)


def test_scale_ignores_zeros_and_outliers():
    sparse = torch.zeros(1, 100, 100)
    sparse[0, 0, :50] = 2.0
    assert measure_scale(sparse) == 2.0
    assert measure_scale(torch.zeros(3, 4, 4)) == 1.0
    wide = torch.ones(1, 100, 100)
    wide[0, 0, 0] = 1e6
    assert measure_scale(wide) == 1.0


def test_one_channel_is_grey_and_others_are_refused():
    assert to_colour(torch.ones(1, 4, 5)).shape == (4, 5, 3)
    for shape in ((2, 4, 4), (4, 4), (1, 3, 4, 4)):
        with pytest.raises(ValueError, match="picture"):
            to_colour(torch.ones(shape))


def test_an_overlay_is_as_opaque_as_the_value_is_large():
    photograph = torch.zeros(3, 1, 4)
    attribution = torch.tensor([[[0.0, 3.0, -2.0, 8.0]], [[0.0, 1.0, 0.0, -4.0]]])
    faint, half, blue, red = to_overlay(attribution, photograph, percentile=100)[0]
    assert faint.tolist() == pytest.approx([0.7] * 3)  # black, of three tenths of the contrast
    assert np.allclose(red, half)
    assert red[0] > red[1]
    assert red[0] > red[2]
    assert blue[2] > blue[0]
    # 2 of 4: halfway to the colour from the photograph
    full = to_overlay(-attribution, photograph, percentile=100)[0, 1]
    assert np.allclose(blue, (full + faint) / 2)


def test_an_overlay_takes_a_smaller_map_a_grey_photograph_and_what_is_not_finite():
    attribution = torch.tensor([[[1.0, -1.0]]])
    overlay = to_overlay(attribution, torch.ones(1, 8, 8))
    assert overlay.shape == (8, 8, 3)
    assert overlay[0, 0, 0] > overlay[0, 0, 2]
    assert overlay[7, 7, 0] < overlay[7, 7, 2]
    broken = torch.tensor([[[float("nan"), float("inf"), 1.0, 0.0]]])
    assert np.isfinite(to_overlay(broken, torch.ones(3, 1, 4))).all()
    assert np.array_equal(to_overlay(torch.zeros(3, 2, 2), torch.ones(3, 2, 2)), np.ones((2, 2, 3)))

"""What is too large for a matrix or a decomposition, and what is found without them."""

import warnings

import numpy as np
import pytest
import torch
from scipy.sparse import linalg
from torch import nn

from captum_deconv import adjoint
from captum_deconv.adjoint.geometry import describe
from captum_deconv.adjoint.sparse import measure_matrix
from captum_deconv.adjoint.spectrum import (
    is_small,
    measure_spectrum,
    singular_values,
    solve_least_squares,
)


@pytest.fixture
def large(monkeypatch):
    """Make every layer one that is too large for a dense decomposition."""
    monkeypatch.setattr("captum_deconv.adjoint.spectrum._DENSE_SIDE", 0)


def build_conv(*channels, seed=0):
    torch.manual_seed(seed)
    return nn.Conv2d(*channels, 3, padding=1).double()


@pytest.mark.parametrize(
    ("layer", "size"),
    [
        (nn.Conv2d(4, 6, 3, groups=2), (6, 7)),
        (nn.Conv1d(3, 2, 2, stride=2), (8,)),
        (nn.ConvTranspose2d(4, 6, 3, groups=2, stride=2), (4, 3)),
        (nn.Linear(5, 3), ()),
    ],
)
def test_the_bytes_of_a_matrix(layer, size):
    w = adjoint.matrix(layer, size)
    needed = 16 * w.nnz + 8 * (w.shape[0] + 1)
    assert measure_matrix(describe(layer, size)) == needed
    assert (adjoint.matrix(layer, size, max_bytes=needed) != w).nnz == 0
    with pytest.raises(ValueError, match="max_bytes"):
        adjoint.matrix(layer, size, max_bytes=needed - 1)


@pytest.mark.parametrize(
    ("small", "too_large"),
    [
        ((2048, 2048, 1), (2049, 2049, 1)),
        ((4768, 2048, 1), (4769, 2048, 1)),
        ((2048, 4768, 1), (2048, 4769, 1)),
        ((2**24 - 1, 1, 1), (2**24, 1, 1)),
        ((5 * 1500, 5 * 1500, 5), (6 * 1500, 6 * 1500, 6)),
    ],
    ids=["side", "work, wide", "work, tall", "memory", "groups"],
)
def test_what_is_small(small, too_large):
    for (ins, outs, groups), expected in ((small, True), (too_large, False)):
        layer = nn.Conv1d(ins, outs, 1, groups=groups, device="meta")
        assert is_small(describe(layer, (1,))) is expected


@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e6])
def test_lanczos_at_any_scale_of_the_weight(scale, large, monkeypatch):
    conv = build_conv(2, 3)
    conv.weight.data *= scale
    found = measure_spectrum(conv, (9, 9))
    leading = adjoint.reconstruct(conv, torch.rand(2, 9, 9)).singular_values
    monkeypatch.undo()
    values = singular_values(conv, (9, 9))
    # Asked for to 1e-10, 1e-6 and 1e-3 of their squares.
    assert found.largest == pytest.approx(values[0], rel=1e-9)
    assert found.smallest == pytest.approx(values[-1], rel=1e-5)
    assert found.rank == len(values)
    np.testing.assert_allclose(leading, values[:16], rtol=1e-3)


@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e6])
def test_no_full_rank_is_claimed_of_a_layer_that_loses_half(scale, large):
    conv = build_conv(2, 3)
    conv.weight.data[:, 1] = conv.weight.data[:, 0]
    conv.weight.data *= scale
    found = measure_spectrum(conv, (24, 24))
    assert found.rank is None
    assert found.smallest is None or found.smallest < 1e-6 * found.largest
    assert measure_spectrum(conv, (24, 24)) == found


def test_a_layer_of_zeros(large):
    conv = build_conv(2, 3)
    nn.init.zeros_(conv.weight)
    assert measure_spectrum(conv, (4, 4)) == (0.0, 0.0, 0, "lanczos")
    found = adjoint.reconstruct(conv, torch.rand(2, 4, 4))
    assert found.singular_values.tolist() == [0.0]
    assert not found.complete
    assert not found.least_squares.any()


@pytest.mark.parametrize(("ins", "outs"), [(5, 1), (1, 5)])
def test_a_single_output_or_input(ins, outs, large):
    linear = nn.Linear(ins, outs).double()
    norm = linear.weight.norm().item()
    found = measure_spectrum(linear, ())
    assert found == (pytest.approx(norm), pytest.approx(norm), 1, "lanczos")
    back = adjoint.reconstruct(linear, torch.rand(ins))
    assert back.singular_values.tolist() == [pytest.approx(norm)]
    assert back.complete


def test_lanczos_that_is_given_up(large):
    conv = build_conv(1, 1)
    found = measure_spectrum(conv, (24, 24), max_restarts=1)
    assert found == (pytest.approx(measure_spectrum(conv, (24, 24)).largest), None, None, "lanczos")


def test_the_operator_that_is_given_is_the_one_measured(large):
    conv = build_conv(2, 3)
    twice = linalg.aslinearoperator(2 * adjoint.matrix(conv, (6, 6)))
    found, once = measure_spectrum(conv, (6, 6), operator=twice), measure_spectrum(conv, (6, 6))
    assert found.largest == pytest.approx(2 * once.largest)
    assert found.smallest == pytest.approx(2 * once.smallest)


def test_the_leading_values_are_the_layers_whatever_the_image(large, monkeypatch):
    conv = build_conv(1, 2)
    found = [
        adjoint.reconstruct(conv, image, leading=1000).singular_values
        for image in (torch.rand(1, 4, 4), torch.zeros(1, 4, 4))
    ]
    assert torch.equal(*found)
    monkeypatch.undo()
    # Lanczos finds all but one.
    np.testing.assert_allclose(found[0], singular_values(conv, (4, 4))[:15], rtol=1e-3)


def test_least_squares_says_whether_it_converged():
    conv = build_conv(1, 2)
    operator = adjoint.linear_operator(conv, (5, 5))
    image = np.random.default_rng(0).standard_normal(25)
    activation = operator.matvec(image)
    found, converged = solve_least_squares(operator, activation)
    assert converged is True
    np.testing.assert_allclose(found, image, atol=1e-9)
    for steps in (1, 7):
        found, converged = solve_least_squares(operator, activation, max_products=steps)
        assert converged is False
        assert np.abs(found - image).max() > 1e-3


def test_least_squares_of_what_is_hardly_determined():
    operator = linalg.aslinearoperator(np.diag([1.0, 1e-4, 1e-9]))
    found, _ = solve_least_squares(operator, np.array([1.0, 1e-4, 1e-9]))
    np.testing.assert_allclose(found, 1, rtol=1e-3)


@pytest.mark.parametrize("kind", [np.float32, np.float64, np.int64])
def test_an_operator_takes_numbers_of_any_type(kind):
    conv = build_conv(1, 2)
    found = adjoint.linear_operator(conv, (3, 3)).matvec(np.arange(9, dtype=kind))
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, adjoint.matrix(conv, (3, 3)) @ np.arange(9.0))


@pytest.fixture
def every_warning():
    before = torch.is_warn_always_enabled()
    torch.set_warn_always(True)
    yield
    torch.set_warn_always(before)


def test_uneven_padding_is_no_news(every_warning):
    conv = nn.Conv1d(1, 1, 2, padding="same", bias=False)
    with pytest.warns(UserWarning, match="even kernel"):
        conv(torch.ones(1, 1, 5))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        adjoint.linear_operator(conv, (5,)).matvec(np.ones(5))
        assert adjoint.check(conv, (5,), spectrum=True).passed

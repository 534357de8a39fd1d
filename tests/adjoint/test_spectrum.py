"""Singular values, whole networks, rounding, and the same on a GPU."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from convolutions import StandardisedConv, break_transpose, unflip
from torch import nn
from torch.nn.utils import parametrizations, parametrize

from captum_deconv import adjoint
from captum_deconv.adjoint.references import count_ulps, measure_error

# torch says once that it pads a copy; on which test that falls is of no interest.
pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")

# Sums of at most a few hundred terms of size one: rounding errors stay far below, mistakes far
# above.


class TestUlps:
    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
    def test_counts_steps(self, dtype):
        eps = torch.finfo(dtype).eps
        tiny = torch.finfo(dtype).smallest_normal * eps
        one = torch.tensor([1.0, -2.0, 0.0], dtype=dtype)
        assert count_ulps(one, one) == 0
        assert count_ulps(one, -one) > 1000
        assert count_ulps(one, one * (1 + 3 * eps)) == 3
        zero, least = torch.zeros(1, dtype=dtype), torch.full((1,), tiny, dtype=dtype)
        assert count_ulps(zero, -zero) == 0
        assert count_ulps(least, -least) == 2  # zero lies between
        for nothing in (zero, -zero):
            assert count_ulps(nothing, least) == count_ulps(-least, nothing) == 1

    def test_counts_many_steps_to_the_last(self):
        one = torch.ones(1, dtype=torch.float64)
        assert count_ulps(one, one + 1000 * torch.finfo(torch.float64).eps) == 1000

    def test_an_error_where_nothing_was_expected_is_infinite(self):
        assert measure_error(torch.ones(2), torch.zeros(2)) == math.inf
        assert measure_error(torch.zeros(2), torch.zeros(2)) == 0
        assert measure_error(torch.tensor([3.0, 4.5]), torch.tensor([3.0, 4.0])) == 0.1

    def test_cannot_compare_what_is_not_alike(self):
        assert count_ulps(torch.ones(2), torch.ones(3)) is None
        assert count_ulps(torch.ones(1), torch.full((1,), math.inf)) is None
        largest = torch.full((1,), torch.finfo(torch.float64).max, dtype=torch.float64)
        assert count_ulps(largest, -largest) > 2**62


class TestSpectrum:
    @pytest.mark.parametrize(
        ("conv", "size"),
        [
            (nn.Conv2d(2, 3, 3), (6, 6)),
            (nn.Conv2d(4, 2, 3, stride=2, padding=1), (6, 6)),
            (nn.Conv2d(4, 4, 3, groups=4, padding=1), (5, 5)),
            (nn.Conv2d(4, 2, 1, groups=2), (3, 3)),
            (nn.Conv2d(2, 4, 1, groups=2), (3, 3)),
            (nn.ConvTranspose2d(2, 3, 2, stride=2), (4, 4)),
            (nn.Linear(7, 5), ()),
            (nn.Linear(7, 1), ()),
        ],
    )
    def test_dense_is_the_matrix_decomposed(self, conv, size):
        torch.manual_seed(0)
        conv.reset_parameters()
        expected = np.linalg.svd(adjoint.matrix(conv, size).toarray(), compute_uv=False)
        # Both are backward stable: off by a small multiple of eps times the largest.
        np.testing.assert_allclose(adjoint.singular_values(conv, size), expected, atol=1e-13)
        report = adjoint.check(conv, size, spectrum=True)
        assert report.singular_max == pytest.approx(expected[0], abs=1e-13)
        assert report.singular_min == pytest.approx(expected[-1], abs=1e-13)
        assert report.rank == np.linalg.matrix_rank(adjoint.matrix(conv, size).toarray())
        assert report.spectrum_method == "dense"

    @pytest.mark.parametrize("channels", [(2, 5), (5, 2)], ids=["tall", "wide"])
    def test_lanczos_finds_the_same_ends(self, channels, monkeypatch):
        torch.manual_seed(0)
        conv = nn.Conv2d(*channels, 3, padding=1)
        dense = adjoint.check(conv, (9, 9), spectrum=True)
        monkeypatch.setattr("captum_deconv.adjoint.spectrum._DENSE_SIDE", 0)
        lanczos = adjoint.check(conv, (9, 9), spectrum=True)
        assert lanczos.spectrum_method == "lanczos"
        # An eigenvalue to 1e-10 is a singular value to half of that; the smallest is asked for to
        # 1e-6 of its square.
        assert lanczos.singular_max == pytest.approx(dense.singular_max, rel=1e-9)
        assert lanczos.singular_min == pytest.approx(dense.singular_min, rel=1e-5)
        assert lanczos.singular_min >= dense.singular_min * (1 - 1e-12)
        assert lanczos.rank == dense.rank == 81 * 2
        assert lanczos.null_fraction == pytest.approx(0 if channels == (2, 5) else 0.6)

    def test_lanczos_claims_no_rank_that_it_cannot_tell(self, monkeypatch):
        monkeypatch.setattr("captum_deconv.adjoint.spectrum._DENSE_SIDE", 0)
        conv = nn.Conv2d(2, 3, 3, padding=1)
        with torch.no_grad():
            conv.weight[:, 1] = conv.weight[:, 0]  # half of the inputs make no difference
        report = adjoint.check(conv, (6, 6), spectrum=True)
        assert report.rank is None
        assert report.null_fraction is None
        assert report.singular_min is None or report.singular_min < 1e-6
        assert "unknown" in str(report)
        nn.init.zeros_(conv.weight)
        assert adjoint.check(conv, (6, 6), spectrum=True).rank == 0

    def test_least_squares_is_the_projection_on_the_row_space(self):
        torch.manual_seed(0)
        conv = nn.Conv2d(1, 1, 2, bias=False).double()
        image = torch.rand(1, 10, 10, dtype=torch.float64)
        found = adjoint.reconstruct(conv, image)
        w = torch.from_numpy(adjoint.matrix(conv, (10, 10)).toarray())
        projected = torch.linalg.pinv(w) @ w @ image.flatten()
        # LSMR stops at a residual of 1e-13, times the condition of W, below 100 here.
        torch.testing.assert_close(found.least_squares.flatten(), projected, rtol=0, atol=1e-9)
        assert torch.equal(found.x, image)
        assert torch.equal(found.activation, conv(image).detach())
        expected = adjoint.transpose_of(conv, (10, 10))(conv(image)).detach()
        assert torch.equal(found.transposed, expected)
        assert found.complete
        assert found.singular_values.shape == (81,)
        best = (image - found.least_squares).norm()
        assert best < (image - found.transposed).norm()

    def test_least_squares_returns_what_is_not_lost(self):
        torch.manual_seed(0)
        keeps = adjoint.check(nn.Conv2d(1, 8, 3, padding=1), (8, 8), spectrum=True)
        throws_away = adjoint.check(nn.Conv2d(8, 1, 3, padding=1), (8, 8), spectrum=True)
        assert keeps.null_fraction == 0
        assert keeps.least_squares_residual < 1e-9
        assert keeps.residual > 0.1
        assert throws_away.null_fraction == pytest.approx(7 / 8)
        assert 0.8 < throws_away.least_squares_residual < 1

    def test_reconstruct_of_a_larger_layer_has_the_leading_values(self, monkeypatch):
        torch.manual_seed(0)
        conv = nn.Conv2d(2, 3, 3)
        everything = adjoint.reconstruct(conv, torch.rand(1, 2, 9, 9)).singular_values
        monkeypatch.setattr("captum_deconv.adjoint.spectrum._DENSE_SIDE", 0)
        found = adjoint.reconstruct(conv, torch.rand(2, 9, 9), leading=4)
        assert not found.complete
        # Three digits of their squares are asked for.
        torch.testing.assert_close(found.singular_values, everything[:4], rtol=1e-3, atol=0)

    def test_reconstruct_refuses_other_images(self):
        conv = nn.Conv2d(2, 3, 3)
        for image, kind, says in (
            (torch.ones(2, 9, 9, dtype=torch.uint8), TypeError, "point tensor, not torch.uint8"),
            ([[1.0]], TypeError, "point tensor, not list"),
            (torch.ones(9, 9), ValueError, r"one image with 3 axes.* got the shape \(9, 9\)"),
            (torch.ones(3, 2, 9, 9), ValueError, r"batch axis of 1; got the shape \(3, 2, 9, 9\)"),
            (torch.ones(0, 9, 9), ValueError, r"got the shape \(0, 9, 9\)"),
            (torch.ones(1, 9, 9), ValueError, "Conv2d takes 2 channels, not 1"),
            (torch.ones(2, 2, 2), ValueError, "at least 3"),
        ):
            with pytest.raises(kind, match=says):
                adjoint.reconstruct(conv, image)
        with pytest.raises(ValueError, match="Linear takes one image with 1 axes"):
            adjoint.reconstruct(nn.Linear(4, 3), torch.ones(2, 4))

    def test_reconstruct_takes_any_type_a_linear_layer_and_a_single_value(self):
        linear = nn.Linear(4, 3, bias=False)
        image = torch.rand(4)
        for given in (image, image[None], image.requires_grad_()):
            found = adjoint.reconstruct(linear, given)
            assert [part.dtype for part in found[:5]] == [torch.float64] * 5
            assert torch.equal(found.x, image.detach().double())
            assert not found.x.requires_grad
            expected = linear(image).double().detach()
            torch.testing.assert_close(found.activation, expected, rtol=1e-6, atol=1e-6)
        one = nn.Linear(1, 1, bias=False).double()
        weight, value = one.weight.item(), torch.tensor([2.0], dtype=torch.float64)
        found = adjoint.reconstruct(one, value)
        assert found.transposed.item() == pytest.approx(2 * weight**2)
        value.fill_(9)
        assert found.x.item() == 2  # a copy

    def test_singular_values_of_a_large_layer_are_refused(self):
        with pytest.raises(ValueError, match="spectrum=True"):
            adjoint.singular_values(nn.Conv2d(64, 64, 3), (224, 224))


class TestLayers:
    def test_checks_each_layer_at_the_sizes_that_it_sees(self):
        head = nn.Conv2d(3, 2, 1)

        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.stem = nn.Conv2d(1, 3, 3, stride=2)
                self.head = head
                self.classify = nn.Linear(2, 4)
                self.unused = nn.Conv2d(1, 1, 1)

            def forward(self, x, scale):
                y = self.stem(x) * scale
                small = self.head(F.max_pool2d(y, 2))
                return self.classify(input=self.head(y).mean((2, 3))), small, self.head(y)

        reports = adjoint.layers(Net(), (torch.rand(2, 1, 9, 11), 2.0), dtype=torch.float32)
        sizes = {name: report.input_size for name, report in reports.items()}
        assert sizes == {"stem": (9, 11), "head": (2, 2), "classify": (), "head@4x5": (4, 5)}
        assert all(report.passed and report.dtype == "float32" for report in reports.values())

    def test_takes_a_single_layer(self):
        assert list(adjoint.layers(nn.Conv1d(1, 2, 3), torch.rand(1, 1, 5))) == [""]

    def test_warns_of_what_it_leaves_out(self):
        model = nn.Sequential(nn.Conv2d(1, 1, 3), StandardisedConv(1, 1, 3))
        with pytest.warns(UserWarning, match="replaces the forward pass: 1"):
            assert list(adjoint.layers(model, torch.rand(1, 1, 8, 8))) == ["0"]

    def test_warns_at_the_users_line(self):
        model = nn.Sequential(nn.Conv2d(1, 1, 3), StandardisedConv(1, 1, 3))
        with pytest.warns(UserWarning, match="replaces the forward pass: 1") as caught:
            adjoint.layers(model, torch.rand(1, 1, 8, 8))
        assert caught[0].filename == __file__

    def test_refuses_lazy_layers_and_empty_batches_and_cleans_up(self):
        lazy = nn.Sequential(nn.Conv2d(1, 1, 1), nn.LazyConv2d(2, 1))
        with pytest.raises(TypeError, match="lazy"):
            adjoint.layers(lazy, torch.rand(1, 1, 4, 4))
        assert lazy[1].has_uninitialized_params()
        conv = nn.Sequential(nn.Conv2d(1, 1, 1))
        with pytest.raises(ValueError, match="empty input"):
            adjoint.layers(conv, torch.rand(0, 1, 4, 4))
        for model in (lazy, conv):
            assert not model[0]._forward_pre_hooks
            assert model.training
            assert model[0].training

    def test_parametrised_layers_are_checked(self):
        model = nn.Sequential(parametrizations.weight_norm(nn.Conv2d(1, 2, 3)))
        assert parametrize.is_parametrized(model[0])
        assert adjoint.layers(model, torch.rand(1, 1, 5, 5))["0"].passed


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device, found none")
class TestOnGpu:
    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
    @pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
    @pytest.mark.parametrize("mode", ["", "deterministic", "benchmark"])
    def test_passes(self, case, dtype, layout, mode):
        layer, size = case
        if layout is torch.channels_last and layer.weight.dim() < 4:
            pytest.skip("there is no channels-last for layers without two axes in space")
        modes = {name: name == mode for name in ("deterministic", "benchmark")}
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False, **modes):
            report = adjoint.check(layer, size, dtype=dtype, device="cuda", memory_format=layout)
        assert report.passed, str(report)
        assert layer.weight.device.type == "cpu"

    @pytest.mark.parametrize("tf32", [False, True])
    def test_passes_with_and_without_tf32(self, tf32):
        conv = nn.Conv2d(64, 128, 3, padding=1).cuda()
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=tf32):
            report = adjoint.check(conv, (28, 28), dtype=torch.float32)
            broken = adjoint.check(
                conv, (28, 28), dtype=torch.float32, transpose=break_transpose(unflip)
            )
        assert report.passed, str(report)
        assert not broken.passed

    def test_spectrum(self):
        conv = nn.Conv2d(2, 3, 3)
        there, here = (
            adjoint.check(conv, (8, 8), device=device, spectrum=True) for device in ("cuda", "cpu")
        )
        assert there.singular_max == pytest.approx(here.singular_max)
        assert there.rank == here.rank

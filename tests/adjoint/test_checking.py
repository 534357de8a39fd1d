"""The report: right on every convolution, and false where a transpose is spoiled."""

import copy
import json
import math
import threading

import numpy as np
import pytest
import torch
from convolutions import (
    LAYERS,
    break_transpose,
    leave_groups_untransposed,
    mix_up_groups,
    shift_by_output_padding,
    skip_the_fold,
    unflip,
    without_output_padding,
)
from torch import nn

from captum_deconv import adjoint
from captum_deconv.adjoint.checking import measure_rounding
from captum_deconv.adjoint.geometry import describe

# torch says once that it pads a copy; on which test that falls is of no interest.
pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")

# Sums of at most a few hundred terms of size one: rounding errors stay far below, mistakes far
# above.


class TestCheck:
    def test_passes(self, case):
        layer, size = case
        report = adjoint.check(layer, size, batch_size=2)
        assert report.passed, str(report)
        assert report.relative_error < 1e-15
        assert not report.inverts
        assert report.residual > 0.1
        assert report.scaled_residual <= report.residual
        assert report.singular_max is report.singular_min is report.rank is None

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
    def test_passes_in_other_types(self, case, dtype):
        report = adjoint.check(*case, dtype=dtype)
        assert report.passed, str(report)
        assert report.dtype == str(dtype).removeprefix("torch.")

    @pytest.mark.parametrize("name", ["plain", "same, even kernel", "reflect", "3-D"])
    def test_passes_with_channels_last(self, name):
        make, size = LAYERS[name]
        assert adjoint.check(make(), size, memory_format=torch.channels_last).passed

    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
    @pytest.mark.parametrize(
        ("conv", "transpose"),
        [
            (nn.Conv2d(4, 6, 3, stride=2, padding=1), break_transpose(unflip)),
            (nn.Conv2d(4, 6, 3, padding=1, groups=2), break_transpose(mix_up_groups)),
            (nn.Conv2d(4, 6, 3, padding=1, groups=2), leave_groups_untransposed),
            (nn.Conv2d(4, 6, 3, stride=2, padding=1), without_output_padding),
            (nn.Conv2d(4, 6, 3, stride=2, padding=1), shift_by_output_padding),
            (nn.Conv2d(4, 6, 3, padding=1, padding_mode="circular"), skip_the_fold),
            (nn.Conv2d(4, 6, 3, padding=1), lambda layer, size: lambda g: 1.2 * g[:, :4]),
            (nn.Conv2d(4, 6, 3, padding=1), lambda layer, size: lambda g: g[:, :4] * math.nan),
        ],
        ids=[
            "filter not flipped",
            "groups mixed up",
            "groups untransposed",
            "output padding left out",
            "output padding on the wrong side",
            "padding not folded",
            "no transpose",
            "not a number",
        ],
    )
    def test_catches_a_wrong_transpose(self, conv, transpose, dtype):
        torch.manual_seed(0)
        conv.reset_parameters()
        report = adjoint.check(conv, (8, 8), dtype=dtype, transpose=transpose)
        assert not report.passed
        # Each check on its own catches it, not only one of them.
        assert not report.relative_error <= report.tolerance
        assert not report.grad_error <= report.tolerance
        assert not report.flip_error <= report.tolerance
        if dtype != torch.bfloat16:
            # One draw of a normal variable: at 8 bits it can land inside the tolerance.
            assert not report.dot_gap <= report.dot_tolerance
        assert not report.bitwise
        assert "FAILED" in str(report)
        json.loads(report.to_json())

    def test_catches_a_small_error(self):
        def build(layer, size):
            transpose = adjoint.transpose_of(layer, size)
            return lambda g: transpose(g) * (1 + 1e-12)

        assert not adjoint.check(nn.Conv2d(2, 3, 3), (8, 8), transpose=build).passed

    def test_tells_a_convolution_that_inverts_orthogonal(self):
        conv = nn.Conv2d(6, 6, 1, bias=False).double()
        nn.init.orthogonal_(conv.weight)
        report = adjoint.check(conv, (5, 4), spectrum=True)
        assert report.passed
        assert report.inverts
        assert report.residual < 1e-14
        assert report.scaled_residual < 1e-14
        assert report.singular_max == pytest.approx(1, abs=1e-14)
        assert report.singular_min == pytest.approx(1, abs=1e-14)
        assert report.rank == 6 * 20
        assert report.null_fraction == 0

    def test_tells_a_convolution_that_inverts_block_transform(self):
        # Stride = kernel: a Haar-like transform of disjoint 2x2 blocks of each colour.
        conv = nn.Conv2d(3, 12, 2, stride=2, groups=3, bias=False).double()
        for group in conv.weight.data.chunk(3):
            group.copy_(nn.init.orthogonal_(torch.empty(4, 4, dtype=torch.float64)).view_as(group))
        report = adjoint.check(conv, (8, 6), inverts=True)
        assert report.passed
        assert report.inverts
        assert report.residual < 1e-14
        # At a size that the blocks do not fill the last column is lost.
        assert not adjoint.check(conv, (8, 7)).inverts

    def test_half_precision_takes_nothing_else_for_an_inverse(self):
        torch.manual_seed(0)
        patches = nn.Conv2d(3, 768, 16, stride=16, bias=False)
        report = adjoint.check(patches, (32, 32), dtype=torch.bfloat16, inverts=False)
        assert report.passed
        assert not report.inverts
        nn.init.orthogonal_(patches.weight.view(768, 768))
        assert adjoint.check(patches, (32, 32), dtype=torch.bfloat16, inverts=True).passed

    def test_expectation_of_an_inverse_can_fail_both_ways(self):
        conv = nn.Conv2d(2, 2, 1, bias=False)
        nn.init.dirac_(conv.weight)
        caught = adjoint.check(conv, (4, 4), inverts=False)
        assert not caught.passed
        assert "ct(c(x)) is x" in caught.failures[0]
        other = adjoint.check(nn.Conv2d(2, 2, 3), (4, 4), inverts=True)
        assert not other.passed
        assert "ct(c(x)) is not x" in other.failures[0]

    def test_a_scaled_inverse_needs_the_factor(self):
        conv = nn.Conv2d(4, 4, 1, bias=False).double()
        nn.init.orthogonal_(conv.weight, gain=3.0)
        report = adjoint.check(conv, (4, 4))
        assert report.residual == pytest.approx(8)
        assert report.scaled_residual < 1e-14
        assert not report.inverts

    def test_a_weight_of_zeros_passes(self):
        conv = nn.Conv2d(2, 3, 3)
        nn.init.zeros_(conv.weight)
        report = adjoint.check(conv, (5, 5), spectrum=True)
        assert report.passed
        assert (report.rank, report.residual, report.singular_max) == (0, 1.0, 0.0)

    def test_changes_nothing(self):
        model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.Dropout(), nn.Flatten())
        model.append(nn.Linear(48, 2)).train()
        model[0].register_forward_hook(lambda *_: pytest.fail("the user's layer ran"))
        before = copy.deepcopy(model.state_dict())
        state = torch.get_rng_state()
        adjoint.check(model[0], (6, 6), dtype=torch.float16, spectrum=True)
        model[0]._forward_hooks.clear()
        x = torch.ones(2, 2, 6, 6)
        adjoint.layers(model, x)
        assert torch.equal(torch.get_rng_state(), state)
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
        assert all(p.grad is None and p.requires_grad for p in model.parameters())
        assert all(p.dtype == torch.float32 for p in model.parameters())
        assert all(part.training for part in model.modules())
        assert not any(part._forward_pre_hooks for part in model.modules())
        assert not x.requires_grad

    def test_is_reproducible_and_works_under_no_grad_and_in_threads(self):
        conv = nn.Conv2d(2, 3, 3)
        first = adjoint.check(conv, (6, 6))
        with torch.no_grad():
            assert adjoint.check(conv, (6, 6)) == first
        with torch.inference_mode():
            assert adjoint.check(conv, (6, 6)) == first
            assert adjoint.check(copy.deepcopy(conv), [np.int64(6), 6]) == first
            assert adjoint.layers(conv, torch.ones(1, 2, 6, 6)) == {"": first}
        assert adjoint.check(conv, (6, 6), seed=1) != first
        found = []
        threads = [
            threading.Thread(target=lambda: found.append(adjoint.check(conv, (6, 6))))
            for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert found == [first] * 4

    def test_prints_and_dumps(self):
        report = adjoint.check(nn.Conv2d(2, 3, 3, stride=2), (7, 7), spectrum=True)
        text = str(report)
        for part in ("Conv2d(2, 3", "7x7 -> 3x3", "passed", "rank", "singular", "bit for bit"):
            assert part in text
        loaded = json.loads(report.to_json())
        assert loaded == report.to_dict()
        assert loaded["input_size"] == [7, 7]
        assert loaded["passed"] is True
        assert loaded["rank"] == 27

    @pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
    def test_what_the_transpose_is_given(self, dtype, layout):
        given = []

        def build(layer, size):
            transpose = adjoint.transpose_of(layer, size)
            return lambda g: given.append(g) or transpose(g)

        adjoint.check(
            nn.Conv2d(2, 3, 3), (8, 8), dtype=dtype, memory_format=layout, transpose=build
        )
        g = given[0]
        assert g.dtype == dtype
        assert g.is_contiguous(memory_format=layout)
        # Drawn with all the digits that the type has.
        coarse = {torch.float64: torch.float32}.get(dtype, torch.bfloat16)
        assert torch.equal(g.to(coarse).to(dtype), g) is (dtype == torch.bfloat16)

    def test_catches_what_comes_back_from_a_weight_of_zeros(self):
        conv = nn.Conv2d(2, 3, 3)
        nn.init.zeros_(conv.weight)
        ones = torch.ones(1, 2, 5, 5, dtype=torch.float64)
        report = adjoint.check(conv, (5, 5), transpose=lambda *_: lambda g: ones)
        assert report.relative_error == report.dot_gap == math.inf
        assert not report.passed

    @pytest.mark.parametrize("dtype", [torch.int64, torch.complex128, torch.bool])
    def test_refuses_other_types(self, dtype):
        with pytest.raises(TypeError, match=str(dtype)):
            adjoint.check(nn.Conv2d(1, 1, 1), (2, 2), dtype=dtype)

    def test_refuses_a_transpose_to_another_type(self):
        def build(layer, size):
            transpose = adjoint.transpose_of(layer, size)
            return lambda g: transpose(g).double()

        with pytest.raises(TypeError, match=r"returns torch\.float64 on cpu"):
            adjoint.check(nn.Conv2d(2, 3, 3), (8, 8), transpose=build, dtype=torch.float32)

    def test_refuses_an_empty_batch_a_wrong_layout_and_no_values(self):
        with pytest.raises(ValueError, match="batch_size"):
            adjoint.check(nn.Conv2d(1, 1, 1), (2, 2), batch_size=0)
        with pytest.raises(ValueError, match="spatial axes"):
            adjoint.check(nn.Conv1d(1, 1, 1), (2,), memory_format=torch.channels_last)
        with pytest.raises(ValueError, match="Conv2d is on the meta"):
            adjoint.check(nn.Conv2d(1, 1, 1, device="meta"), (2, 2))

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_tolerance_of_half_precision_grows_with_the_kernel(self, dtype):
        one, nine = (describe(nn.Conv2d(n, n, k), (8, 8)) for n, k in ((18, 1), (2, 3)))
        assert one.reduction == nine.reduction
        cpu = torch.device("cpu")
        more = measure_rounding(nine, dtype, cpu) - measure_rounding(one, dtype, cpu)
        # Each tap is rounded where it is added: the square root of 9, less that of 1.
        assert more == pytest.approx(2 * torch.finfo(dtype).eps, rel=1e-6)

    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
    def test_tolerance_of_tf32(self, dtype):
        geometry = describe(nn.Conv2d(2, 2, 3), (8, 8))
        found = []
        for allowed in (False, True):
            with torch.backends.cudnn.flags(enabled=True, allow_tf32=allowed):
                found.append(measure_rounding(geometry, dtype, torch.device("cuda")))
        assert found[0] == measure_rounding(geometry, dtype, torch.device("cpu"))
        expected = 2**-10 if dtype == torch.float32 else 0
        assert found[1] - found[0] == pytest.approx(expected)

    @pytest.mark.skipif(not hasattr(torch.backends.cudnn, "conv"), reason="before torch 2.9")
    def test_tolerance_of_tf32_by_the_newer_switches(self):
        cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
        switches = (matmul, cudnn.conv, cudnn.rnn)
        linear, conv = describe(nn.Linear(6, 4), ()), describe(nn.Conv2d(2, 2, 3), (8, 8))
        kept = [switch.fp32_precision for switch in switches]
        try:
            # Where two of cuDNN's differ, torch refuses to answer by the older switch.
            for levels in (("ieee", "tf32", "ieee"), ("tf32", "ieee", "tf32")):
                for switch, level in zip(switches, levels, strict=True):
                    switch.fp32_precision = level
                for geometry, level in ((linear, levels[0]), (conv, levels[1])):
                    on_gpu, on_cpu = (
                        measure_rounding(geometry, torch.float32, torch.device(name))
                        for name in ("cuda", "cpu")
                    )
                    assert on_gpu - on_cpu == pytest.approx(2**-10 if level == "tf32" else 0)
        finally:
            for switch, level in zip(switches, kept, strict=True):
                switch.fp32_precision = level

    def test_tolerance_grows_with_the_reduction_and_the_type(self):
        small, large = (describe(nn.Conv2d(c, c, 3), (8, 8)) for c in (2, 200))
        cpu = torch.device("cpu")
        for dtype in (torch.float64, torch.float32):
            ratio = measure_rounding(large, dtype, cpu) / measure_rounding(small, dtype, cpu)
            assert 5 < ratio < 10.1  # the square root of 100, but for the dot product itself
        assert measure_rounding(small, torch.float32, cpu) > 1e6 * measure_rounding(
            small, torch.float64, cpu
        )

"""The transpose of a layer against autograd, against its matrix, and against what must fail."""

import copy
import itertools
import json
import math
import pickle
import threading

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations, parametrize

from captum_deconv import adjoint
from captum_deconv.adjoint.checking import measure_rounding
from captum_deconv.adjoint.geometry import describe
from captum_deconv.adjoint.references import count_ulps

# torch says once that it pads a copy; on which test that falls is of no interest.
pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")

# Sums of at most a few hundred terms of size one: rounding errors stay far below, mistakes far
# above.
TOLERANCE = 1e-12

LAYERS = {
    "plain": (lambda: nn.Conv2d(3, 4, 3, bias=False), (7, 8)),
    "bias": (lambda: nn.Conv2d(3, 4, 3), (7, 8)),
    "stride leaves a rest": (lambda: nn.Conv2d(2, 3, 3, stride=4, padding=1), (9, 12)),
    "stride beyond the kernel": (lambda: nn.Conv2d(2, 3, 1, stride=3), (9, 8)),
    "dilation": (lambda: nn.Conv2d(2, 3, (3, 2), stride=2, dilation=(2, 3), padding=2), (9, 10)),
    "groups": (lambda: nn.Conv2d(4, 6, 3, groups=2, padding=1), (5, 6)),
    "depthwise": (lambda: nn.Conv2d(4, 8, 3, groups=4, stride=2), (6, 6)),
    "padding wider than the kernel": (lambda: nn.Conv2d(1, 2, 2, padding=4, stride=3), (4, 5)),
    "same": (lambda: nn.Conv2d(2, 3, 3, padding="same"), (5, 6)),
    "same, even kernel": (lambda: nn.Conv2d(2, 3, (4, 2), padding="same", dilation=(1, 3)), (5, 6)),
    "valid": (lambda: nn.Conv2d(2, 3, 3, padding="valid", stride=2), (6, 7)),
    "reflect": (lambda: nn.Conv2d(2, 3, 3, padding=2, padding_mode="reflect", stride=2), (6, 5)),
    "replicate": (lambda: nn.Conv2d(2, 3, 3, padding=5, padding_mode="replicate"), (3, 4)),
    "circular": (lambda: nn.Conv2d(2, 3, 3, padding=3, padding_mode="circular"), (3, 4)),
    "circular, same": (
        lambda: nn.Conv2d(2, 3, 4, padding="same", padding_mode="circular"),
        (4, 5),
    ),
    "1-D": (lambda: nn.Conv1d(2, 3, 3, stride=2), (8,)),
    "1-D reflect": (lambda: nn.Conv1d(2, 3, 4, padding="same", padding_mode="reflect"), (6,)),
    "3-D": (lambda: nn.Conv3d(2, 4, (1, 3, 2), stride=(1, 2, 2), groups=2), (3, 6, 5)),
    "3-D replicate": (lambda: nn.Conv3d(1, 2, 3, padding=1, padding_mode="replicate"), (3, 2, 4)),
    "transposed": (lambda: nn.ConvTranspose2d(4, 6, 3, stride=2, groups=2), (4, 5)),
    "transposed, output padding": (
        lambda: nn.ConvTranspose2d(2, 3, 3, stride=3, padding=1, output_padding=(2, 1)),
        (3, 4),
    ),
    "transposed, output padding of a stride and more": (
        lambda: nn.ConvTranspose2d(2, 3, 2, stride=2, dilation=4, output_padding=3, padding=1),
        (3, 4),
    ),
    "transposed, 1-D": (lambda: nn.ConvTranspose1d(2, 3, 3, dilation=2), (4,)),
    "transposed, 3-D": (lambda: nn.ConvTranspose3d(1, 2, 2, stride=2), (2, 3, 2)),
    "linear": (lambda: nn.Linear(5, 3), ()),
}


@pytest.fixture(params=LAYERS.values(), ids=LAYERS.keys())
def case(request):
    make, size = request.param
    torch.manual_seed(0)
    return make().double(), size


def random_input(layer, size, batch=2):
    channels = layer.in_features if isinstance(layer, nn.Linear) else layer.in_channels
    generator = torch.Generator().manual_seed(1)
    return torch.randn(batch, channels, *size, dtype=torch.float64, generator=generator)


def input_gradient(layer, x):
    x = x.requires_grad_()
    y = layer(x)
    g = torch.randn(y.shape, dtype=y.dtype, generator=torch.Generator().manual_seed(2))
    return g, torch.autograd.grad(y, x, g)[0]


class TestTransposeOf:
    def test_is_autograds_input_gradient(self, case):
        layer, size = case
        g, expected = input_gradient(layer, random_input(layer, size))
        actual = adjoint.transpose_of(layer, size)(g)
        # The same sums, but a fold may add in another order than autograd.
        torch.testing.assert_close(actual, expected, rtol=0, atol=TOLERANCE)

    def test_shares_the_parameter_and_has_no_bias(self, case):
        layer, size = case
        transpose = adjoint.transpose_of(layer, size)
        assert transpose.weight is layer.weight
        assert transpose.bias is None
        assert [name for name, _ in transpose.named_parameters()] == ["weight"]

    def test_the_transpose_of_the_transpose_is_the_layer(self, case):
        layer, size = case
        geometry = describe(layer, size)
        there = adjoint.transpose_of(layer, size)
        if type(there).__module__.startswith("captum_deconv"):
            # A fold is no part of torch's own layers: refused, rather than left out silently.
            with pytest.raises(TypeError):
                adjoint.transpose_of(there, geometry.output_size)
            return
        back = adjoint.transpose_of(there, geometry.output_size)
        assert back.weight is layer.weight
        x = random_input(layer, size)
        layer.bias = None
        torch.testing.assert_close(back(x), layer(x), rtol=0, atol=TOLERANCE)

    @pytest.mark.parametrize("groups", [1, 3])
    def test_is_torchs_own_layer_where_that_can_be(self, groups):
        conv = nn.Conv2d(3, 6, 3, stride=3, padding=1, groups=groups)
        transpose = adjoint.transpose_of(conv, (9, 10))
        assert type(transpose) is nn.ConvTranspose2d
        assert transpose.output_padding == (2, 0)
        assert type(adjoint.transpose_of(nn.ConvTranspose2d(3, 6, 3), (4, 4))) is nn.Conv2d

    def test_restores_every_size_at_every_stride_bit_for_bit(self):
        # Exhaustive over the small ones, each with the rests that its stride can leave.
        settings = itertools.product(range(1, 4), range(1, 5), range(3), range(1, 4), range(1, 10))
        generator = torch.Generator().manual_seed(0)
        tried = 0
        for kernel, stride, padding, dilation, size in settings:
            if size + 2 * padding < dilation * (kernel - 1) + 1:
                continue
            conv = nn.Conv1d(1, 1, kernel, stride, padding, dilation, bias=False).double()
            x = torch.randn(1, 1, size, dtype=torch.float64, generator=generator)
            g, expected = input_gradient(conv, x)
            assert torch.equal(adjoint.transpose_of(conv, (size,))(g), expected)
            tried += 1
        assert tried > 800

    def test_takes_unbatched_maps(self):
        conv = nn.Conv2d(2, 3, 4, padding="same", bias=False).double()
        x = random_input(conv, (5, 5), batch=1)
        transpose = adjoint.transpose_of(conv, (5, 5))
        assert torch.equal(transpose(conv(x)[0]), transpose(conv(x))[0])

    def test_is_differentiable_and_trains_the_shared_weight(self):
        conv = nn.Conv2d(1, 2, 3, padding=1, padding_mode="reflect", bias=False).double()
        g = random_input(nn.Conv2d(2, 1, 1), (4, 4)).requires_grad_()
        transpose = adjoint.transpose_of(conv, (4, 4))
        assert torch.autograd.gradcheck(transpose, (g,))
        transpose(g).sum().backward()
        assert conv.weight.grad is not None

    def test_follows_the_weight(self):
        conv = nn.Conv2d(1, 1, 2, bias=False)
        transpose = adjoint.transpose_of(conv, (3, 3))
        with torch.no_grad():
            conv.weight.fill_(1.0)
        assert transpose(torch.ones(1, 1, 2, 2)).sum() == 16

    @pytest.mark.parametrize("name", ["weight_norm", "spectral_norm", "orthogonal"])
    @pytest.mark.parametrize(
        "make",
        [
            lambda: nn.Conv2d(2, 3, 3, stride=2),
            lambda: nn.ConvTranspose2d(2, 3, 3, stride=2),
            lambda: nn.Linear(4, 3),
        ],
        ids=["convolution", "transposed", "linear"],
    )
    def test_parametrised(self, name, make):
        torch.manual_seed(0)
        layer = getattr(parametrizations, name)(make().double()).eval()
        size = () if isinstance(layer, nn.Linear) else (6, 6)
        transpose = adjoint.transpose_of(layer, size)
        for _ in range(2):
            g, expected = input_gradient(layer, random_input(layer, size))
            torch.testing.assert_close(transpose(g), expected, rtol=0, atol=TOLERANCE)
            with torch.no_grad():  # and again after a step of training
                for parameter in layer.parametrizations.parameters():
                    parameter.mul_(1.5)
        assert adjoint.check(layer, size).passed

    def test_reading_a_spectral_norm_leaves_its_power_iteration_alone(self):
        conv = parametrizations.spectral_norm(nn.Conv2d(2, 3, 3)).train()
        before = copy.deepcopy(conv.state_dict())
        adjoint.transpose_of(conv, (5, 5))
        adjoint.check(conv, (5, 5))
        assert all(torch.equal(value, before[name]) for name, value in conv.state_dict().items())
        assert conv.parametrizations.weight[0].training

    def test_pruned(self):
        from torch.nn.utils import prune

        conv = prune.l1_unstructured(nn.Conv2d(2, 3, 3).double(), "weight", 0.5)
        g, expected = input_gradient(conv, random_input(conv, (5, 5)))
        torch.testing.assert_close(adjoint.transpose_of(conv, (5, 5))(g), expected)

    def test_can_be_pickled_and_copied(self):
        conv = nn.Conv2d(2, 3, 4, padding="same")
        transpose = adjoint.transpose_of(conv, (5, 5))
        g = torch.randn(1, 3, 5, 5)
        for other in (pickle.loads(pickle.dumps(transpose)), copy.deepcopy(transpose)):
            assert torch.equal(other(g), transpose(g))
        assert "zeros 1+2" in repr(transpose)

    def test_takes_no_random_numbers_and_no_memory(self):
        conv = nn.Conv2d(2, 3, 3)
        state = torch.get_rng_state()
        adjoint.transpose_of(conv, (5, 5))
        assert torch.equal(torch.get_rng_state(), state)
        with torch.device("meta"):
            large = nn.Conv2d(2, 3, 3)
        assert adjoint.transpose_of(large, (5, 5)).weight is large.weight

    def test_applies_to_a_linear_layer_with_leading_axes(self):
        linear = nn.Linear(4, 3, bias=False)
        assert adjoint.transpose_of(linear, (4,))(torch.ones(2, 5, 3)).shape == (2, 5, 4)


class StandardisedConv(nn.Conv2d):
    def forward(self, x):
        return F.conv2d(x, self.weight - self.weight.mean())


BAD = {
    "kernel does not fit": (lambda: nn.Conv2d(1, 1, 5), (4, 8), ValueError, "at least 5"),
    "dilated kernel": (lambda: nn.Conv1d(1, 1, 3, dilation=4), (8,), ValueError, "spans 9"),
    "reflects too far": (
        lambda: nn.Conv2d(1, 1, 3, padding=4, padding_mode="reflect"),
        (4, 8),
        ValueError,
        "at least 5",
    ),
    "wraps too far": (
        lambda: nn.Conv2d(1, 1, 3, padding=4, padding_mode="circular"),
        (3, 8),
        ValueError,
        "at least 4",
    ),
    "too few axes": (lambda: nn.Conv2d(1, 1, 3), (8,), ValueError, "1 axes"),
    "channels given too": (lambda: nn.Conv2d(1, 1, 3), (1, 8, 8), ValueError, "spatial size alone"),
    "int for two axes": (lambda: nn.Conv2d(1, 1, 3), 8, ValueError, "1 axes"),
    "empty": (lambda: nn.Conv2d(1, 1, 3), (0, 8), ValueError, "empty"),
    "negative": (lambda: nn.Conv2d(1, 1, 3), (-3, 8), ValueError, "empty"),
    "not integers": (lambda: nn.Conv2d(1, 1, 3), (8.0, 8.0), TypeError, "integers"),
    "not a size": (lambda: nn.Conv2d(1, 1, 3), "88", TypeError, "integers"),
    "a tensor": (lambda: nn.Conv2d(1, 1, 3), torch.ones(2), TypeError, "integers"),
    "linear with a size": (lambda: nn.Linear(4, 3), (5,), ValueError, "no spatial axes"),
    "complex": (lambda: nn.Conv2d(1, 1, 3, dtype=torch.complex64), (8, 8), TypeError, "complex64"),
    "lazy": (lambda: nn.LazyConv2d(1, 3), (8, 8), TypeError, "lazy"),
    "another module": (lambda: nn.ReLU(), (8, 8), TypeError, "ReLU is not supported"),
    "a container": (lambda: nn.Sequential(nn.Conv2d(1, 1, 1)), (8, 8), TypeError, "Sequential"),
    "no module": (lambda: "conv", (8, 8), TypeError, "'conv'"),
    "its own forward": (lambda: StandardisedConv(1, 1, 3), (8, 8), TypeError, "parametrize"),
    "cropped away": (lambda: nn.ConvTranspose1d(1, 1, 1, padding=2), (3,), ValueError, "crops"),
    "impossible output padding": (
        lambda: nn.ConvTranspose1d(1, 1, 1, output_padding=2),
        (3,),
        ValueError,
        "smaller than the stride",
    ),
}


@pytest.mark.parametrize("call", [adjoint.transpose_of, adjoint.check, adjoint.matrix])
@pytest.mark.parametrize(("make", "size", "kind", "says"), BAD.values(), ids=BAD.keys())
@pytest.mark.filterwarnings("ignore:Complex modules are a new feature")
def test_bad_input_is_refused_in_a_sentence(call, make, size, kind, says):
    with pytest.raises(kind, match=says):
        call(make(), size)


def test_integer_weights_are_refused():
    conv = nn.Conv2d(1, 1, 3)
    conv.weight = nn.Parameter(torch.ones(1, 1, 3, 3, dtype=torch.int64), requires_grad=False)
    with pytest.raises(TypeError, match="int64"):
        adjoint.transpose_of(conv, (8, 8))


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.filterwarnings("ignore:.*:UserWarning")
def test_quantised_layers_are_refused():
    quantised = pytest.importorskip("torch.ao.nn.quantized")
    for layer, size in ((quantised.Conv2d(1, 1, 3), (8, 8)), (quantised.Linear(4, 3), ())):
        with pytest.raises(TypeError, match="quantised"):
            adjoint.check(layer, size)


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
def test_empty_weights_are_refused():
    with pytest.raises(ValueError, match="empty weight"):
        adjoint.check(nn.Linear(0, 3), ())


class TestMatrix:
    def test_is_the_layer_and_its_transpose(self, case):
        layer, size = case
        layer.bias = None
        x = random_input(layer, size, batch=1)
        g, _ = input_gradient(layer, x)
        w = adjoint.matrix(layer, size)
        forward = torch.from_numpy(w @ x.detach().flatten().numpy())
        backward = torch.from_numpy(w.T @ g[:1].flatten().numpy())
        transposed = adjoint.transpose_of(layer, size)(g[:1]).flatten()
        torch.testing.assert_close(forward, layer(x).flatten(), rtol=0, atol=TOLERANCE)
        torch.testing.assert_close(backward, transposed, rtol=0, atol=TOLERANCE)

    def test_holds_each_weight_once_for_each_position(self):
        conv = nn.Conv2d(3, 4, 2)
        w = adjoint.matrix(conv, (5, 5))
        assert w.shape == (4 * 16, 3 * 25)
        assert w.nnz == 16 * conv.weight.numel()

    def test_says_what_it_would_take(self):
        with pytest.raises(ValueError, match=r"3211264 rows, 3211264 columns .* MiB"):
            adjoint.matrix(nn.Conv2d(64, 64, 3, padding=1), (224, 224))
        with pytest.raises(ValueError, match="max_bytes"):
            adjoint.matrix(nn.Linear(4, 3), (), max_bytes=10)

    def test_needs_values(self):
        with pytest.raises(ValueError, match="meta"):
            adjoint.matrix(nn.Conv2d(1, 1, 1, device="meta"), (2, 2))


def break_transpose(change):
    def build(layer, size):
        transpose = copy.deepcopy(adjoint.transpose_of(layer, size))
        change(transpose)
        return transpose

    return build


def unflip(transpose):
    transpose.weight.data = transpose.weight.data.flip(2, 3)


def mix_up_groups(transpose):
    transpose.weight.data = transpose.weight.data.roll(
        transpose.in_channels // transpose.groups, dims=0
    )


def leave_groups_untransposed(layer, size):
    # The channel axes swapped across the groups instead of within each.
    def apply(g):
        weight = layer.weight.reshape(layer.in_channels // layer.groups, -1, *layer.kernel_size)
        filters = weight.transpose(0, 1).reshape(layer.weight.shape)
        return F.conv_transpose2d(g, filters, padding=layer.padding, groups=layer.groups)

    return apply


def without_output_padding(layer, size):
    def apply(g):
        return F.conv_transpose2d(g, layer.weight, stride=layer.stride, padding=layer.padding)

    return apply


def shift_by_output_padding(layer, size):
    # The right shape, but the rest is put ahead of the map and not behind it.
    def apply(g):
        return F.pad(without_output_padding(layer, size)(g), (1, 0, 1, 0))

    return apply


def skip_the_fold(layer, size):
    def apply(g):
        padded = F.conv_transpose2d(g, layer.weight)
        return padded[..., 1:-1, 1:-1]

    return apply


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

    @pytest.mark.parametrize("dtype", [torch.int64, torch.complex128, torch.bool])
    def test_refuses_other_types(self, dtype):
        with pytest.raises(TypeError, match=str(dtype)):
            adjoint.check(nn.Conv2d(1, 1, 1), (2, 2), dtype=dtype)

    def test_refuses_an_empty_batch_a_wrong_layout_and_no_values(self):
        with pytest.raises(ValueError, match="batch_size"):
            adjoint.check(nn.Conv2d(1, 1, 1), (2, 2), batch_size=0)
        with pytest.raises(ValueError, match="spatial axes"):
            adjoint.check(nn.Conv1d(1, 1, 1), (2,), memory_format=torch.channels_last)
        with pytest.raises(ValueError, match="meta"):
            adjoint.check(nn.Conv2d(1, 1, 1, device="meta"), (2, 2))

    def test_tolerance_grows_with_the_reduction_and_the_type(self):
        small, large = (describe(nn.Conv2d(c, c, 3), (8, 8)) for c in (2, 200))
        cpu = torch.device("cpu")
        for dtype in (torch.float64, torch.float32):
            ratio = measure_rounding(large, dtype, cpu) / measure_rounding(small, dtype, cpu)
            assert 5 < ratio < 10.1  # the square root of 100, but for the dot product itself
        assert measure_rounding(small, torch.float32, cpu) > 1e6 * measure_rounding(
            small, torch.float64, cpu
        )


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
            (nn.ConvTranspose2d(2, 3, 2, stride=2), (4, 4)),
            (nn.Linear(7, 5), ()),
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
        assert throws_away.least_squares_residual > 0.8

    def test_reconstruct_of_a_larger_layer_has_the_leading_values(self, monkeypatch):
        conv = nn.Conv2d(2, 3, 3)
        everything = adjoint.reconstruct(conv, torch.rand(1, 2, 9, 9)).singular_values
        monkeypatch.setattr("captum_deconv.adjoint.spectrum._DENSE_SIDE", 0)
        found = adjoint.reconstruct(conv, torch.rand(2, 9, 9), leading=4)
        assert not found.complete
        # Three digits of their squares are asked for.
        torch.testing.assert_close(found.singular_values, everything[:4], rtol=1e-3, atol=0)

    def test_reconstruct_refuses_other_images(self):
        conv = nn.Conv2d(2, 3, 3)
        for image, kind in (
            (torch.ones(2, 9, 9, dtype=torch.uint8), TypeError),
            ([[1.0]], TypeError),
            (torch.ones(9, 9), ValueError),
            (torch.ones(3, 2, 9, 9), ValueError),
            (torch.ones(0, 9, 9), ValueError),
            (torch.ones(1, 9, 9), ValueError),
            (torch.ones(2, 2, 2), ValueError),
        ):
            with pytest.raises(kind):
                adjoint.reconstruct(conv, image)

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
    def test_passes(self, case, dtype):
        layer, size = case
        report = adjoint.check(layer, size, dtype=dtype, device="cuda")
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

"""The transpose of a layer against autograd, against its matrix, and against what must fail."""

import copy
import itertools
import pickle

import pytest
import torch
from convolutions import (
    TOLERANCE,
    StandardisedConv,
    input_gradient,
    random_input,
)
from torch import nn
from torch.nn.utils import parametrizations, parametrize

from captum_deconv import adjoint
from captum_deconv.adjoint.geometry import describe
from captum_deconv.adjoint.transposition import linear_part

# torch says once that it pads a copy; on which test that falls is of no interest.
pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")

# Sums of at most a few hundred terms of size one: rounding errors stay far below, mistakes far
# above.


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
        for there, back in (
            (nn.ConvTranspose2d(3, 6, 3), nn.Conv2d),
            (nn.ConvTranspose2d(3, 6, 3, stride=2, output_padding=1), nn.Conv2d),
            (nn.Conv2d(3, 6, 3, padding_mode="reflect"), nn.ConvTranspose2d),
        ):
            assert type(adjoint.transpose_of(there, (4, 4))) is back

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
        assert repr(transpose).endswith("bias=False, folds=(zeros 1+2, zeros 1+2))")
        assert repr(transpose).startswith("AdjointConvTranspose2d(3, 2, kernel_size=(4, 4)")

    def test_what_is_printed_of_surplus_positions_and_without_a_fold(self):
        layer = nn.ConvTranspose1d(2, 3, 2, stride=2, dilation=4, output_padding=3)
        assert "folds=(zeros 0+1)" in repr(adjoint.transpose_of(layer, (3,)))
        normed = parametrizations.weight_norm(nn.Conv2d(2, 3, 3))
        assert "folds" not in repr(adjoint.transpose_of(normed, (5, 5)))

    @pytest.mark.parametrize("family", [nn.Conv1d, nn.Conv2d, nn.Conv3d])
    def test_of_a_computed_weight_takes_an_output_size_and_keeps_none_of_its_own(self, family):
        layer = parametrizations.weight_norm(family(2, 3, 3, stride=2))
        axes = len(layer.kernel_size)
        transpose = adjoint.transpose_of(layer, (7,) * axes)
        g = torch.ones(1, 3, *(3,) * axes)
        assert transpose(g).shape[2:] == (7,) * axes
        assert transpose(g, output_size=[8] * axes).shape[2:] == (8,) * axes
        own, source = list(transpose.parameters()), list(layer.parameters())
        assert len(own) == len(source)
        assert all(mine is theirs for mine, theirs in zip(own, source, strict=True))

    @pytest.mark.parametrize("layer", [nn.Conv2d(2, 3, 3), nn.Linear(4, 3)])
    def test_the_linear_part_is_a_copy(self, layer):
        before = layer.weight.detach().clone()
        part = linear_part(layer, torch.float32, torch.device("cpu"))
        assert part.bias is None
        assert not part.weight.requires_grad
        part.weight.zero_()
        assert torch.equal(layer.weight, before)

    def test_of_a_layer_with_a_parametrised_bias(self):
        class Double(nn.Module):
            def forward(self, bias):
                return 2 * bias

        conv = nn.Conv2d(2, 3, 3)
        parametrize.register_parametrization(conv, "bias", Double())
        assert adjoint.transpose_of(conv, (5, 5)).weight is conv.weight
        assert adjoint.check(conv, (5, 5)).passed

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


class Negated(nn.Conv2d):
    def _conv_forward(self, input, weight, bias):
        return super()._conv_forward(input, -weight, bias)


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
    "empty": (lambda: nn.Conv2d(1, 1, 3), (0, 8), ValueError, "empty.*Conv2d needs"),
    "negative": (lambda: nn.Conv2d(1, 1, 3), (-3, 8), ValueError, "empty"),
    "not integers": (lambda: nn.Conv2d(1, 1, 3), (8.0, 8.0), TypeError, "integers"),
    "not a size": (lambda: nn.Conv2d(1, 1, 3), "88", TypeError, "a tuple of integers"),
    "a tensor": (lambda: nn.Conv2d(1, 1, 3), torch.ones(2), TypeError, "a tuple"),
    "linear with a size": (lambda: nn.Linear(4, 3), (5,), ValueError, "no spatial axes"),
    "complex": (lambda: nn.Conv2d(1, 1, 3, dtype=torch.complex64), (8, 8), TypeError, "complex64"),
    "lazy": (lambda: nn.LazyConv2d(1, 3), (8, 8), TypeError, "lazy"),
    "another module": (lambda: nn.ReLU(), (8, 8), TypeError, "ReLU is not supported"),
    "a container": (lambda: nn.Sequential(nn.Conv2d(1, 1, 1)), (8, 8), TypeError, "Sequential"),
    "no module": (lambda: "conv", (8, 8), TypeError, "'conv'"),
    "its own forward": (lambda: StandardisedConv(1, 1, 3), (8, 8), TypeError, "parametrize"),
    "its own convolution": (lambda: Negated(1, 1, 3), (8, 8), TypeError, "parametrize"),
    "cropped away": (lambda: nn.ConvTranspose1d(1, 1, 1, padding=2), (3,), ValueError, "crops"),
    "impossible output padding": (
        lambda: nn.ConvTranspose1d(1, 1, 1, output_padding=2),
        (3,),
        ValueError,
        "smaller than the stride",
    ),
    "output padding of a stride": (
        lambda: nn.ConvTranspose1d(1, 1, 1, stride=2, output_padding=2),
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
    trained = pytest.importorskip("torch.ao.nn.qat")
    options = {"qconfig": torch.ao.quantization.default_qat_qconfig}
    for kind in (quantised, trained):
        more = options if kind is trained else {}
        for layer, size in (
            (kind.Conv2d(1, 1, 3, **more), (8, 8)),
            (kind.Linear(4, 3, **more), ()),
        ):
            with pytest.raises(TypeError, match="quantised"):
                adjoint.check(layer, size)


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
def test_empty_weights_are_refused():
    with pytest.raises(ValueError, match="empty weight"):
        adjoint.check(nn.Linear(0, 3), ())


def test_both_kinds_of_geometry_have_every_field():
    forward = describe(nn.Conv2d(1, 1, 3, padding=1), (5, 5))
    assert forward.output_padding == (0, 0)
    back = describe(nn.ConvTranspose2d(1, 1, 3, padding=1), (5, 5))
    assert back.before == back.after == (1, 1)


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
        with pytest.raises(ValueError, match="Conv2d is on the meta"):
            adjoint.matrix(nn.Conv2d(1, 1, 1, device="meta"), (2, 2))

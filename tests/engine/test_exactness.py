"""However a rectifier is written, the three methods give the reference's numbers, bit for bit.

The reference (``oracle.py``) replaces each rectifier call by the papers' equations. Every check
first makes sure that the three methods' references differ, so that a rule not applied, or the wrong
one, could not pass.
"""

import networks
import oracle
import pytest
import torch
import torch.nn.functional as F
from agreement import OF_INPUTS, check_all, check_inputs, check_layer, check_neuron
from captum import attr
from opaque import TELLS
from spellings import LEAKY, SMOOTH, SPELLINGS
from torch import nn

import captum_deconv as cd

NEURON = ("second", (2, 1, 1))

TIES = torch.tensor([[-1.0, -1.0, 0.0, 0.0, 0.5, 0.5, 1.0, 1.0, 6.0, 6.0, 9.0, 9.0]])
SIGNAL = torch.tensor([-1.0, 2.0]).repeat(6)

# Autograd takes another subgradient than R * 1[x > 0] where x equals the bound of these.
OTHER_SUBGRADIENT = {name for name in SPELLINGS if name.startswith(("cl", "max", "fmax"))}


def seeded(build, *arguments):
    torch.manual_seed(0)
    return build(*arguments).eval()


def image(*shape, dtype=torch.float32):
    torch.manual_seed(1)
    return torch.randn(shape or (2, 3, 6, 7), dtype=dtype)


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_spelling(spelling):
    model = seeded(networks.Plain, SPELLINGS[spelling])
    check_all(model, 2 * image(), 1, neuron=NEURON, layer="first")


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_ties_at_zero_and_at_the_upper_bound(spelling):
    activation = SPELLINGS[spelling]

    def network(x):
        return activation(x * 1) * SIGNAL

    def total(x):
        return network(x).sum(1)

    for method in ("guided_backprop", "deconvnet"):
        expected = oracle.input_attribution(total, TIES, None, method)[0]
        assert torch.equal(OF_INPUTS[method](total).attribute(TIES), expected), method
    gradient = cd.InputGradient(total).attribute(TIES)
    expected = oracle.input_attribution(total, TIES)[0]
    if spelling in OTHER_SUBGRADIENT:
        # The input gradient is autograd's own, whichever subgradient it takes at a tie.
        leaf = TIES.clone().requires_grad_()
        assert torch.equal(gradient, torch.autograd.grad(total(leaf), leaf)[0])
        away = ~torch.isin(TIES, torch.tensor([0.0, 1.0]))
        assert torch.equal(gradient[away], expected[away])
    else:
        assert torch.equal(gradient, expected)


@pytest.mark.parametrize("activation", LEAKY)
@pytest.mark.parametrize("activations", ["leaky", "all"])
def test_leaky_family(activation, activations):
    model = seeded(networks.Plain, LEAKY[activation])
    check_all(model, image(), 1, neuron=NEURON, layer="first", activations=activations)


@pytest.mark.parametrize("activation", SMOOTH)
def test_smooth_family(activation):
    model = seeded(networks.Plain, SMOOTH[activation])
    check_all(model, image(), 1, neuron=NEURON, layer="first", activations="all")


@pytest.mark.parametrize("in_place", [False, True])
def test_one_module_in_sequence_and_on_two_branches(in_place):
    model = seeded(networks.Branches, nn.ReLU(inplace=in_place))
    check_all(model, image(), 1, neuron=NEURON, layer="first")
    # The layer that is called three times counts with its last call.
    check_neuron(model, "activation", image(), (2, 1, 1))
    check_neuron(model, "activation", image(), (2, 1, 1), of_layer_input=True)
    check_layer(model, "activation", image(), 1, of_layer_input=True)


@pytest.mark.parametrize("build", [networks.Skip, networks.FirstInPlace, networks.FrozenBranch])
def test_structure(build):
    check_all(seeded(build), image(), 1, neuron=NEURON, layer="first")


def test_batch_norm_and_overlapping_pooling_with_rectifiers_in_place():
    model = seeded(networks.Pooled)
    model(image())
    check_all(model, image(), 1, neuron=("second", (2, 0, 1)), layer="first")
    check_all(model, image(), 1, neuron=("relu2", (4, 0, 1)), layer="norm")


class HalfInPlace(networks.Plain):
    """A rectifier in place on half of the channels."""

    def forward(self, x):
        x = self.first(x)
        x[:, :3].relu_()
        return self.head(F.relu(self.second(x)).mean((2, 3)))


@pytest.mark.parametrize("build", [networks.InstanceNormed, HalfInPlace])
def test_a_rectifier_in_place_on_a_view_is_exact_or_named(build):
    model = seeded(build)
    if cd.coverage(model, image()).complete:
        actual = cd.Deconvnet(model, uncovered="raise").attribute(image(), 1)
        expected = oracle.input_attribution(model, image(), 1, "deconvnet")[0]
        assert torch.equal(actual, expected)
    else:
        with pytest.raises(cd.RectifierCoverageError, match=r"in-place .* on a slice"):
            cd.Deconvnet(model, uncovered="raise").attribute(image(), 1)
    # And the reference sees it: the result without it would be another.
    with oracle.Rectified("deconvnet") as mode:
        model(image().requires_grad_())
    assert mode.calls == 2


@pytest.mark.xfail(
    not TELLS,
    reason="autograd runs an in-place call on a view inside an opaque node, which coverage names",
)
def test_an_in_place_rectifier_after_an_instance_norm():
    model = seeded(networks.InstanceNormed)
    check_all(model, image(), 1, neuron=("relu2", (2, 1, 1)), layer="norm")


def test_an_in_place_first_operation_leaves_the_input_as_it_was():
    x = image()
    kept, version = x.clone(), x._version
    cd.GuidedBackprop(seeded(networks.FirstInPlace)).attribute(x, 1)
    assert torch.equal(x, kept)
    assert x._version == version


@pytest.mark.parametrize("frozen", [False, True])
def test_transformer_encoder_layer(frozen, monkeypatch):
    # Attention below a layer that nothing is differentiated through would take torch's fast path,
    # whose values differ from the slow path's in the last bit.
    monkeypatch.setattr(torch.backends.mha, "_is_fastpath_enabled", False)
    model = seeded(networks.Encoder).requires_grad_(not frozen)
    options = {"neuron": ("second", (0, 1)), "layer": "first"}
    check_all(model, image(2, 5, 4), 1, **options)
    check_layer(model, "layer.linear1", image(2, 5, 4), 1)
    check_neuron(model, "layer.linear2", image(2, 5, 4), (1, 2))


@pytest.mark.parametrize("layers", [1, 2])
def test_rnn_of_relu_units(layers):
    model = seeded(networks.Recurrent, layers)
    unrolled = seeded(networks.Recurrent, layers)
    unrolled.rnn = oracle.UnrolledRNN(model.rnn)
    x = torch.randint(-2, 3, (2, 4, 4), generator=torch.Generator().manual_seed(3)).float()
    check_all(model, x, 1, neuron=("second", 2), layer="first", eager=unrolled)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_dtype(dtype):
    model = seeded(networks.Plain).to(dtype)
    check_all(model, image(dtype=dtype), 1, neuron=NEURON, layer="first")


@pytest.mark.parametrize("inside", [False, True])
def test_autocast(inside):
    model = seeded(networks.Plain)
    if inside:
        model.forward = torch.autocast("cpu", torch.bfloat16)(model.forward)
    with torch.autocast("cpu", torch.bfloat16, enabled=not inside):
        assert model(image()).dtype == torch.bfloat16
        check_all(model, image(), 1, neuron=NEURON, layer="first")


def test_channels_last():
    model = seeded(networks.Pooled)
    model(image())
    model = model.to(memory_format=torch.channels_last)
    x = image().to(memory_format=torch.channels_last)
    check_all(model, x, 1, neuron=("second", (2, 0, 1)), layer="first")


@pytest.mark.parametrize(("dimensions", "shape"), [(1, (2, 3, 9)), (3, (2, 3, 5, 6, 4))])
def test_networks_of_one_and_three_dimensions(dimensions, shape):
    model = seeded(networks.Plain, F.relu, dimensions)
    neuron = ("second", (2, *[1] * dimensions))
    check_all(model, image(*shape), 1, neuron=neuron, layer="first")


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_under_a_mode_without_gradients(mode):
    model = seeded(networks.Plain)
    with mode():
        x = image()
        # The reference needs gradients, and an inference tensor's copy is no inference tensor.
        with torch.inference_mode(False):
            copy = x.clone()
            expected = {m: oracle.input_attribution(model, copy, 1, m)[0] for m in OF_INPUTS}
        for method, kind in OF_INPUTS.items():
            assert torch.equal(kind(model).attribute(x, 1), expected[method])
        layer = cd.LayerDeconvnet(model, "first").attribute(x, 1)
        neuron = cd.NeuronDeconvnet(model, "second").attribute(x, (2, 1, 1))
    module = model.first
    assert torch.equal(layer, oracle.layer_attribution(model, module, copy, 1, "deconvnet"))
    module = model.second
    reference = oracle.neuron_attribution(model, module, copy, (2, 1, 1), "deconvnet")[0]
    assert torch.equal(neuron, reference)


def test_several_inputs_additional_arguments_and_an_unused_input():
    model = seeded(networks.SeveralInputs)
    inputs = (image(), image().flip(0) + 0.5, image(2, 4))
    for arguments in [(torch.tensor(2.0),), (torch.full((2, 1, 1, 1), 0.5), True)]:
        check_inputs(model, inputs, 1, arguments=arguments)
        check_neuron(model, "second", inputs, (2, 1, 1), arguments=arguments)
        check_layer(model, "first", inputs, 1, arguments=arguments)
    unused = cd.Deconvnet(model).attribute(inputs, 1, additional_forward_args=torch.tensor(2.0))[2]
    assert torch.equal(unused, torch.zeros(2, 4))


def test_data_parallel_passes_through_on_a_cpu():
    eager = seeded(networks.Plain)
    check_all(nn.DataParallel(eager), image(), 1, neuron=NEURON, layer="first", eager=eager)


@pytest.mark.parametrize("target", [2, (2,), torch.tensor(2), [2, 2], -1])
def test_a_callable_and_any_form_of_target(target):
    model = seeded(networks.Plain)
    for method, kind in OF_INPUTS.items():
        expected = oracle.input_attribution(model, image(), 2, method)[0]
        assert torch.equal(kind(lambda x: model(x)).attribute(image(), target), expected)


def test_compare_gives_each_method_what_its_class_does():
    model = seeded(networks.Branches, nn.ReLU())
    compared = cd.compare(model, image(), 1)
    assert list(compared) == list(OF_INPUTS)
    for method, actual in compared.items():
        assert torch.equal(actual, oracle.input_attribution(model, image(), 1, method)[0])


# Controls: what these checks would say of an engine that is wrong.


@pytest.mark.filterwarnings("ignore:Setting backward hooks on ReLU activations")
@pytest.mark.filterwarnings("ignore:Input Tensor 0 did not already require gradients")
@pytest.mark.parametrize(
    ("method", "kind"),
    [("guided_backprop", attr.GuidedBackprop), ("deconvnet", attr.Deconvolution)],
)
@pytest.mark.parametrize(
    "model",
    [
        pytest.param(networks.Plain, id="functional"),
        pytest.param(lambda: networks.Plain(nn.ReLU6()), id="relu6"),
        pytest.param(lambda: networks.Plain(lambda x: x.clamp(min=0)), id="clamp"),
    ],
)
def test_control_captum_differs_where_it_does_not_see_the_rectifier(model, method, kind):
    model = seeded(model)
    reference = oracle.input_attribution(model, image(), 1, method)[0]
    assert oracle.relative_error(kind(model).attribute(image(), 1), reference) > 0.1


@pytest.mark.filterwarnings("ignore:Setting backward hooks on ReLU activations")
@pytest.mark.filterwarnings("ignore:Input Tensor 0 did not already require gradients")
def test_control_captum_agrees_where_it_sees_every_rectifier():
    model = seeded(networks.Pooled)
    model(image())
    for method, kind in [
        ("guided_backprop", attr.GuidedBackprop),
        ("deconvnet", attr.Deconvolution),
    ]:
        reference = oracle.input_attribution(model, image(), 1, method)[0]
        assert torch.equal(kind(model).attribute(image(), 1), reference)


def test_control_each_check_fails_when_the_engine_applies_another_rule(monkeypatch):
    model = seeded(networks.Plain)
    monkeypatch.setitem(OF_INPUTS, "deconvnet", cd.GuidedBackprop)
    with pytest.raises(AssertionError, match=r"^deconvnet to the input, tensor 0"):
        check_inputs(model, image(), 1)


def test_control_a_network_that_cannot_tell_the_methods_apart_is_refused():
    linear = nn.Sequential(nn.Flatten(), nn.Linear(126, 3))
    with pytest.raises(AssertionError, match="this case tells nothing"):
        check_inputs(linear, image(), 1)

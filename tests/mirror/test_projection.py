"""The explicit deconvnet: each way back is a transpose, and together they are the deconvnet.

Everything runs in float64. TOLERANCE is 1e-12 of the largest value: a projection through VGG-11
sums up to 4608 products in each of 11 layers, so that rounding may reach some 1e3 times the machine
epsilon of 2.2e-16; what is wrong by its mathematics is wrong by 1e-3 or more.
"""

import copy

import pytest
import torch
import torch.nn.functional as F
from chains import (
    LEAVES,
    RULES,
    TOLERANCE,
    contract_with,
    layers_of,
    make_images,
    project_by_autograd,
    relative_error,
)
from torch import nn

import captum_deconv
from captum_deconv.mirror import Mirror


@pytest.mark.parametrize("name", ["alexnet", "vgg11"])
def test_equals_the_deconvnet_at_every_layer(networks, name):
    network, images = networks[name], make_images(name)
    mirror = Mirror(network, seed="one")
    worst = {}
    for layer, neuron in layers_of(network, images).items():
        found = mirror.project(images, layer, neuron)
        engine = captum_deconv.NeuronDeconvnet(network, network.get_submodule(layer))
        worst[layer] = relative_error(found, engine.attribute(images, neuron))
    assert len(worst) > 20
    assert max(worst.values()) < TOLERANCE, worst


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("alexnet", "features.10"),
        ("alexnet", "classifier.6"),
        ("vgg11", "features"),
        ("vgg11_bn", "features.15"),
        ("vgg11_bn", "classifier.3"),
    ],
)
def test_follows_each_rule(networks, name, layer, rule):
    network, images = networks[name], make_images(name)
    neuron = layers_of(network, images)[layer]
    neuron = (slice(1, None, 2), *[slice(None)] * len(neuron[1:]))  # half the channels, whole

    def select(outputs):
        return outputs[:, 1::2].flatten(1).sum(1)

    expected = project_by_autograd(network, images, layer, select, rule)
    found = Mirror(network, seed="one", **RULES[rule]).project(images, layer, neuron)
    assert relative_error(found, expected) < TOLERANCE
    # Control: another rule's projection is told apart.
    other = Mirror(network, seed="one", **RULES["gradient" if rule == "linear" else "linear"])
    assert relative_error(other.project(images, layer, neuron), expected) > 1e-3


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("layer", LEAVES)
def test_mirrors_a_chain_with_a_bit_of_everything(chain, inputs, layer, rule):
    def select(outputs):
        return outputs.flatten(1)[:, ::7].sum(1)

    # The reference has a rectifier in each place. Of one that is used three times the last counts.
    last = "8" if layer == "0.1" else layer
    expected = project_by_autograd(chain, inputs, last, select, rule)
    found = Mirror(chain, seed="one", **RULES[rule]).project(inputs, layer, select)
    assert relative_error(found, expected) < TOLERANCE


# ---- Switches ----


def pooled(kernel, stride):
    """A convolution, a pooling that overlaps or not, and a convolution, on which to differ."""
    torch.manual_seed(5)
    layers = nn.Conv2d(3, 6, 3), nn.ReLU(), nn.MaxPool2d(kernel, stride), nn.Conv2d(6, 4, 3)
    return nn.Sequential(*layers).double().eval()


WHOLE = (slice(None), slice(None), slice(None))


def test_overwriting_is_the_adjoint_where_windows_do_not_overlap(inputs):
    model = pooled(2, 2)
    accumulated = Mirror(model).project(inputs, "3", WHOLE)
    assert torch.equal(Mirror(model, unpool="overwrite").project(inputs, "3", WHOLE), accumulated)


def test_overwriting_is_not_the_adjoint_where_windows_overlap(inputs):
    model = pooled(3, 2)
    accumulated = Mirror(model).project(inputs, "3", WHOLE)
    overwritten = Mirror(model, unpool="overwrite").project(inputs, "3", WHOLE)
    difference = ((overwritten - accumulated).norm() / accumulated.norm()).item()
    assert 0.3 < difference < 1  # 0.571 when written


def test_overwriting_alexnet_is_not_the_deconvnet(networks):
    """The control of the test above: with the wrong unpooling it must not hold."""
    network, images = networks["alexnet"], make_images("alexnet")
    engine = captum_deconv.NeuronDeconvnet(network, network.features[10])
    wrong = Mirror(network, unpool="overwrite", seed="one").project(images, "features.10", WHOLE)
    assert relative_error(wrong, engine.attribute(images, WHOLE)) > 0.1


@pytest.mark.parametrize(
    ("pool", "shape"),
    [
        (nn.MaxPool1d(3, 1, padding=1), (2, 3, 17)),
        (nn.MaxPool2d(3, 2), (2, 3, 17, 15)),
        (nn.MaxPool2d(3, 2, padding=1, ceil_mode=True), (2, 3, 16, 14)),
        (nn.MaxPool3d(3, 2), (2, 3, 7, 9, 7)),
    ],
)
def test_overwriting_is_max_unpool(pool, shape):
    torch.manual_seed(6)
    x = torch.randn(shape, dtype=torch.float64)
    dimensions = len(shape) - 2
    max_pool = getattr(F, f"max_pool{dimensions}d")
    settings = pool.kernel_size, pool.stride, pool.padding, pool.dilation, pool.ceil_mode
    values, switches = max_pool(x, *settings, return_indices=True)
    signal = torch.randn_like(values)
    # MaxUnpool keeps the last writer too, on a CPU, where each map is written by one thread.
    unpool = getattr(F, f"max_unpool{dimensions}d")
    expected = unpool(signal, switches, pool.kernel_size, pool.stride, pool.padding, shape)
    found = Mirror(pool, unpool="overwrite", seed="one").project(x, "", contract_with(signal))
    assert torch.equal(found, expected)
    # Control: several windows do share a maximum here.
    assert not torch.equal(Mirror(pool, seed="one").project(x, "", contract_with(signal)), expected)


# ---- Seeds, selectors, stops, normalisation ----


def test_the_activation_scales_its_own_projection(chain, inputs):
    """A single seed `a` gives `a` times the projection of one: every rule is positively linear."""
    activation = chain[:2](inputs)[:, 1, 4, 4]
    assert (activation > 0).all()
    one = Mirror(chain, seed="one").project(inputs, chain[1], (1, 4, 4))
    own = Mirror(chain).project(inputs, chain[1], (1, 4, 4))
    # Scaling at the top or at the bottom rounds differently.
    assert relative_error(own, one * activation.reshape(-1, 1, 1, 1)) < TOLERANCE
    assert relative_error(own, one) > 1e-3


def test_slices_and_functions_select_what_they_say(chain, inputs):
    mirror = Mirror(chain)
    block = mirror.project(inputs, "3", (slice(2, 5), 1, slice(None)))
    assert torch.equal(mirror.project(inputs, "3", lambda a: a[:, 2:5, 1].sum((1, 2))), block)
    assert torch.equal(mirror.project(inputs, "10", (-1,)), mirror.project(inputs, "10", 3))
    strongest = mirror.project(inputs, "3", lambda a: a[:, 2].amax((1, 2)))
    place = chain[:4](inputs)[0, 2].argmax().item()
    assert torch.equal(strongest[:1], mirror.project(inputs[:1], "3", (2, place // 5, place % 5)))


def test_seed_of_an_in_place_rectifiers_input_is_the_value_before(chain, inputs):
    """Layer "0.0" is overwritten by the rectifier after it; its own activation is what counts."""
    seed = Mirror(chain).reconstructions(inputs, "0.0", (0, 0, 0))[0].signal
    assert torch.equal(seed[:, 0, 0, 0], chain[0][0](inputs)[:, 0, 0, 0])
    assert (seed < 0).any()
    assert seed.count_nonzero() == len(inputs)


def test_every_stop_on_the_way_down_is_the_projection_of_what_lies_above(chain, inputs):
    stops = Mirror(chain).reconstructions(inputs, "3", (2, 1, 1))
    assert [stop.name for stop in stops] == ["3", "3", "0.1", "2.0", "1", "0.2", "0.1", "0.0"]
    signals = [chain[:4](inputs), chain[:3](inputs), chain[2][0](chain[:2](inputs))]
    assert [stop.signal.shape for stop in stops[:3]] == [signal.shape for signal in signals]
    assert torch.equal(stops[-1].signal, Mirror(chain).project(inputs, "3", (2, 1, 1)))
    # From any stop on, the rest of the way is a projection of its own.
    below = Mirror(chain, seed="one").project(inputs, "1", contract_with(stops[3].signal))
    above = Mirror(chain).reconstructions(inputs, "3", (2, 1, 1))[4].signal
    part = Mirror(chain[1], seed="one").project(
        chain[0](inputs), "", contract_with(stops[3].signal)
    )
    assert torch.equal(part, above)
    assert torch.equal(below, stops[-1].signal)


def test_skipping_the_response_norm_leaves_it_out(chain, inputs):
    torch.manual_seed(7)
    norm = nn.LocalResponseNorm(5, alpha=1.0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), norm, nn.Conv2d(8, 4, 3)).double()
    without = nn.Sequential(model[0], model[2])
    skipped = Mirror(model, normalization="skip", seed="one").project(inputs, "2", WHOLE)
    assert torch.equal(skipped, Mirror(without, seed="one").project(inputs, "1", WHOLE))
    assert relative_error(Mirror(model, seed="one").project(inputs, "2", WHOLE), skipped) > 0.1


def test_keeps_dtype_and_runs_wherever_the_user_is(chain, inputs):
    single = copy.deepcopy(chain).float()
    expected = Mirror(single).project(inputs.float(), "10", 1)
    assert expected.dtype == torch.float32
    assert not expected.requires_grad
    for mode in (torch.no_grad, torch.inference_mode, torch.enable_grad):
        with mode():
            assert torch.equal(Mirror(single).project(inputs.float(), "10", 1), expected)
    with torch.inference_mode():
        made_there = inputs.float().clone()
        strongest = Mirror(single).project(made_there, "10", lambda a: a[:, 1])
    assert torch.equal(strongest, expected)
    # Rounding of float32 through five layers, against the same in float64.
    assert relative_error(expected.double(), Mirror(chain).project(inputs, "10", 1)) < 1e-4


# ---- What is no chain, and what is no request ----

"""The contract of a drop-in for Captum, class by class."""

import inspect

import captum.attr
import pytest
import torch
from torch import nn

from captum_deconv import (
    Deconvnet,
    Deconvolution,
    GuidedBackprop,
    GuidedGradCam,
    InputGradient,
    LayerDeconvnet,
    LayerGradient,
    LayerGuidedBackprop,
    NeuronDeconvnet,
    NeuronGradient,
    NeuronGuidedBackprop,
    compare,
    strongest,
)

PLAIN = [InputGradient, GuidedBackprop, Deconvnet]
NEURON = [NeuronGradient, NeuronGuidedBackprop, NeuronDeconvnet]
LAYER = [LayerGradient, LayerGuidedBackprop, LayerDeconvnet]
METHODS = ["input_gradient", "guided_backprop", "deconvnet"]


def modules_only() -> nn.Sequential:
    """Return a network on which Captum is right: every ReLU a module of its own, out of place."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(6, 6, 3, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(96, 5),
    ).eval()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("ours", "captums"),
    [
        (InputGradient, lambda model: captum.attr.Saliency(model)),
        (GuidedBackprop, captum.attr.GuidedBackprop),
        (Deconvnet, captum.attr.Deconvolution),
    ],
)
def test_where_captum_is_right_the_numbers_are_captums(ours, captums, images):
    model = modules_only()
    arguments = {"abs": False} if ours is InputGradient else {}
    theirs = captums(model).attribute(images.clone(), target=2, **arguments)
    assert torch.equal(ours(model).attribute(images, target=2), theirs)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("ours", "captums"),
    [
        (NeuronGradient, captum.attr.NeuronGradient),
        (NeuronGuidedBackprop, captum.attr.NeuronGuidedBackprop),
        (NeuronDeconvnet, captum.attr.NeuronDeconvolution),
    ],
)
@pytest.mark.parametrize(
    "selector", [(1, 2, 3), (slice(0, 3), 1, 1), (0, slice(None), slice(1, 3)), strongest(4)]
)
@pytest.mark.parametrize("of_input", [False, True])
def test_neurons_of_captums_where_captum_is_right(ours, captums, selector, of_input, images):
    model = modules_only()
    layer = model[3]
    arguments = {"attribute_to_neuron_input": of_input}
    theirs = captums(model, layer).attribute(images.clone(), selector, **arguments)
    assert torch.equal(ours(model, layer).attribute(images, selector, **arguments), theirs)
    assert torch.equal(ours(model, "3").attribute(images, selector, **arguments), theirs)


@pytest.mark.parametrize("cls", NEURON)
def test_a_neuron_of_no_examples(cls, images):
    method = cls(modules_only(), "3")
    selectors = [(1, 2, 3), (slice(0, 3), 1, 1), (0, slice(None), slice(1, 3)), strongest(4)]
    alone = [method.attribute(images[:0], selector) for selector in selectors]
    found = [*alone, *method.attribute_each(images[:0], selectors)]
    assert all(result.shape == (0, *images.shape[1:]) for result in found)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("mode", ["nearest", "bilinear"])
def test_guided_grad_cam_is_captums_where_captum_is_right(mode, images):
    model = modules_only()
    theirs = captum.attr.GuidedGradCam(model, model[3])
    theirs = theirs.attribute(images.clone(), target=1, interpolate_mode=mode)
    ours = GuidedGradCam(model, model[3]).attribute(images, target=1, interpolate_mode=mode)
    assert theirs.abs().max() > 0
    assert torch.equal(ours, theirs)


def test_the_drop_in_is_right_where_captum_is_not(model, images):
    theirs = captum.attr.Saliency(model).attribute(images.clone().requires_grad_(), 2, abs=False)
    with pytest.warns(UserWarning, match="Setting backward hooks"):
        wrong = captum.attr.GuidedBackprop(model).attribute(images.clone().requires_grad_(), 2)
    ours = GuidedBackprop(model).attribute(images, 2)
    assert torch.equal(InputGradient(model).attribute(images, 2), theirs)
    assert not torch.allclose(ours, wrong)


@pytest.mark.parametrize("cls", [*PLAIN, *NEURON, *LAYER, GuidedGradCam])
def test_bases_and_attributes_are_captums(cls, model):
    arguments = () if cls in PLAIN else (model.conv2,)
    method = cls(model, *arguments)
    assert isinstance(method, captum.attr.GradientAttribution)
    assert isinstance(method, captum.attr.NeuronAttribution) == (cls in NEURON)
    assert isinstance(method, captum.attr.LayerAttribution) == (cls in LAYER)
    assert method.forward_func is model
    assert method.multiplies_by_inputs is False
    assert method.has_convergence_delta() is False
    assert callable(method.attribute.__wrapped__)
    with pytest.raises(NotImplementedError, match=cls.__name__):
        method.attribute_future()


def test_signatures_are_the_documented_ones():
    def parameters(cls):
        return list(inspect.signature(cls.attribute).parameters)[1:]

    assert parameters(InputGradient) == ["inputs", "target", "abs", "additional_forward_args"]
    for cls in (GuidedBackprop, Deconvnet):
        assert parameters(cls) == ["inputs", "target", "additional_forward_args"]
    for cls in NEURON:
        expected = parameters(captum.attr.NeuronGradient)
        assert parameters(cls) == expected
    for cls in LAYER:
        names = ["inputs", "target", "additional_forward_args", "attribute_to_layer_input"]
        assert parameters(cls) == names
    assert parameters(GuidedGradCam) == parameters(captum.attr.GuidedGradCam)
    assert Deconvolution is Deconvnet


@pytest.mark.parametrize("cls", PLAIN)
def test_a_tensor_gives_a_tensor_and_a_tuple_a_tuple(cls, model, images):
    alone = cls(model).attribute(images, 1)
    (in_tuple,) = cls(model).attribute((images,), 1)
    assert isinstance(alone, torch.Tensor)
    assert torch.equal(alone, in_tuple)
    assert not alone.requires_grad
    assert alone.shape == images.shape
    with pytest.raises(AssertionError):
        cls(model).attribute([images], 1)


@pytest.mark.parametrize(
    "target",
    [1, -4, (1,), torch.tensor(1), torch.tensor([1]), [1, 1, 1], torch.tensor([1, 1, 1]), [-4] * 3],
)
def test_every_form_of_target(target, model, images):
    expected = Deconvnet(model).attribute(images, 1)
    assert torch.equal(Deconvnet(model).attribute(images, target), expected)


def test_targets_per_example_and_of_more_dimensions(model, images):
    method = GuidedBackprop(model)
    mixed = method.attribute(images, [0, 4, 2])
    for index, target in enumerate([0, 4, 2]):
        # One image at a time takes another path through the matrix product: not the same bits.
        alone = method.attribute(images[index : index + 1], target)
        torch.testing.assert_close(mixed[index : index + 1], alone)
    features = nn.Sequential(model.conv1, model.relu)
    by_tuple = GuidedBackprop(features).attribute(images, (2, 3, 3))
    by_list = GuidedBackprop(features).attribute(images, [(2, 3, 3)] * 3)
    assert by_tuple.abs().max() > 0
    assert torch.equal(by_tuple, by_list)


@pytest.mark.parametrize(
    ("target", "error", "message"),
    [
        ("cat", AssertionError, "not valid"),
        (1.5, AssertionError, "not valid"),
        ([1, 2], AssertionError, "length"),
        (torch.tensor([1, 2]), AssertionError, "not valid"),
        ((1, 2), AssertionError, "Cannot choose"),
        (None, AssertionError, "Target not provided"),
        (5, IndexError, "target 5 is out of range"),
        (-6, IndexError, "out of range"),
        ([0, 1, 5], IndexError, "target 5 is out of range.*0 to 4"),
        (torch.tensor([0, 1, -6]), IndexError, "target -6 is out of range"),
    ],
)
@pytest.mark.parametrize("cls", [Deconvnet, LayerDeconvnet])
def test_bad_targets(cls, target, error, message, model, images):
    method = cls(model) if cls is Deconvnet else cls(model, "conv2")
    with pytest.raises(error, match=message):
        method.attribute(images, target)


def test_a_target_for_an_output_of_one_value_is_refused(model, images):
    with pytest.raises(AssertionError, match="leave the target out"):
        GuidedBackprop(lambda x: model(x).sum(1)).attribute(images, 1)


@pytest.mark.parametrize(
    ("selector", "error", "message"),
    [
        ((6, 0, 0), IndexError, "out of range"),
        ((0, 0, 0, 0), AssertionError, "Cannot choose"),
        (3, AssertionError, r"leaves \(8, 8\) values per example"),
        (strongest(6), IndexError, "channel 6 is out of range"),
        (lambda tensor: 3.0, TypeError, "returned a float"),
        (lambda tensor: tensor, AssertionError, "values per example"),
    ],
)
def test_bad_neuron_selectors(selector, error, message, model, images):
    with pytest.raises(error, match=message):
        NeuronDeconvnet(model, model.conv2).attribute(images, selector)


def test_strongest_takes_each_examples_own_place(model, images):
    activations = model.conv1(images)
    places = activations[:, 2].flatten(1).argmax(1)
    result = NeuronDeconvnet(model, "conv1").attribute(images, strongest(2))
    for index, place in enumerate(places.tolist()):
        selector = (2, place // 8, place % 8)
        one = NeuronDeconvnet(model, "conv1").attribute(images, selector)
        assert torch.equal(result[index], one[index])
    ties = torch.zeros(1, 1, 2, 2, requires_grad=True)
    strongest(0)(ties).sum().backward()
    assert ties.grad.flatten().tolist() == [1, 0, 0, 0]
    with pytest.raises(TypeError, match="one tensor"):
        strongest(0)((ties, ties))


@pytest.mark.parametrize("cls", LAYER)
def test_layers_with_one_tensor_and_with_several(cls, images):
    class Two(nn.Module):
        def forward(self, x):
            return torch.relu(x), x * 2

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.two = Two()

        def forward(self, x):
            first, second = self.two(x)
            return (torch.relu(first - 0.1) * 3 + second).flatten(1).sum(1)

    model = Model()
    several = cls(model, model.two).attribute(images)
    assert isinstance(several, tuple)
    assert [part.shape for part in several] == [images.shape] * 2
    passes = torch.ones_like(images) if cls is LayerDeconvnet else torch.relu(images) > 0.1
    assert torch.equal(several[0], 3.0 * passes)
    assert torch.equal(several[1], torch.ones_like(images))
    alone = cls(model, model.two).attribute(images, attribute_to_layer_input=True)
    assert isinstance(alone, torch.Tensor)


def test_a_layer_called_twice_counts_with_its_last_call(images):
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 3, padding=1)
            self.relu = nn.ReLU()

        def forward(self, x):
            first = self.relu(self.conv(x))
            return self.relu(self.conv(first)).flatten(1).sum(1)

    torch.manual_seed(0)
    model = Twice()

    def last(x):
        return model.relu(model.conv(model.relu(model.conv(x))))[:, 1, 2, 3]

    expected = InputGradient(last).attribute(images)
    assert torch.equal(NeuronGradient(model, model.relu).attribute(images, (1, 2, 3)), expected)
    gradient = LayerGradient(model, model.relu).attribute(images)
    assert torch.equal(gradient, torch.ones(3, 3, 8, 8))


def test_the_layer_is_read_at_call_time(model, images):
    method = NeuronDeconvnet(model, model.conv1)
    method.layer = model.conv2
    expected = NeuronDeconvnet(model, model.conv2).attribute(images, (0, 1, 1))
    assert torch.equal(method.attribute(images, (0, 1, 1)), expected)


def test_the_gradient_function_is_read_from_the_object_and_called_with_four(model, images):
    seen = []

    def record(*arguments):
        seen.append(arguments)
        return tuple(torch.full_like(tensor, 7.0) for tensor in arguments[1])

    for cls in PLAIN:
        method = cls(model)
        method.gradient_func = record
        result = method.attribute(images, 3, additional_forward_args=None)
        forward_func, inputs, target, additional = seen.pop()
        assert forward_func is model
        assert isinstance(inputs, tuple)
        assert (target, additional) == (3, None)
        assert torch.equal(result, torch.full_like(images, 7.0))


@pytest.mark.filterwarnings("ignore:Input Tensor")
def test_captums_neuron_classes_keep_the_rule_of_the_object_they_hold(model, images):
    theirs = captum.attr.NeuronDeconvolution(model, model.conv2)
    theirs.deconv = Deconvnet(model)
    ours = NeuronDeconvnet(model, model.conv2).attribute(images, (2, 3, 3))
    assert torch.equal(theirs.attribute(images, (2, 3, 3)), ours)
    plain = captum.attr.NeuronGradient(model, model.conv2).attribute(images.clone(), (2, 3, 3))
    assert not torch.allclose(ours, plain)


def test_input_gradients_abs(model, images):
    method = InputGradient(model)
    signed = method.attribute(images, 2)
    assert signed.min() < 0
    assert torch.equal(method.attribute(images, 2, True), signed.abs())


def test_compare_is_the_three_classes(model, images):
    together = compare(model, images, 2)
    assert list(together) == METHODS
    for cls, name in zip(PLAIN, METHODS, strict=True):
        assert torch.equal(together[name], cls(model).attribute(images, 2))
    (deconvnet,) = compare(model, (images,), 2, methods=["deconvnet"])["deconvnet"]
    assert torch.equal(deconvnet, together["deconvnet"])


def test_compare_runs_the_model_once(model, images):
    calls = []
    model.register_forward_hook(lambda *_: calls.append(1))
    compare(model, images, 2)
    assert len(calls) == 1


@pytest.mark.parametrize("methods", [(), "deconvnet", ["saliency"]])
def test_compare_names_the_methods_it_knows(methods, model, images):
    with pytest.raises(ValueError, match="input_gradient, guided_backprop, deconvnet"):
        compare(model, images, 2, methods=methods)


@pytest.mark.parametrize("cls", [GuidedBackprop, Deconvnet])
@pytest.mark.parametrize("option", ["activations", "uncovered"])
def test_unknown_options_are_refused_at_once(cls, option, model):
    with pytest.raises(ValueError, match=f"unknown {option} 'some'"):
        cls(model, **{option: "some"})


def test_any_callable_is_a_forward_func(model, images):
    expected = Deconvnet(model).attribute(images, 2)
    for callable_ in (lambda x: model(x), model.forward, model.__call__):
        assert torch.equal(Deconvnet(callable_).attribute(images, 2), expected)


def test_several_inputs_additional_arguments_and_one_unused(model):
    left, right, unused = torch.randn(3, 2, 4).unbind()

    def forward(a, b, c, scale, name):
        assert name == "name"
        return (torch.relu(a) * scale + torch.relu(b)).sum(1)

    result = GuidedBackprop(forward).attribute(
        (left, right, unused), additional_forward_args=(torch.tensor(3.0), "name")
    )
    assert torch.equal(result[0], 3.0 * (left > 0))
    assert torch.equal(result[1], 1.0 * (right > 0))
    assert torch.equal(result[2], torch.zeros_like(unused))


def test_integer_inputs_reach_a_layer(images):
    torch.manual_seed(0)
    embedding = nn.Sequential(nn.Embedding(10, 4), nn.Flatten(), nn.ReLU(), nn.Linear(12, 2))
    tokens = torch.tensor([[1, 2, 3], [4, 5, 6]])
    result = LayerGradient(embedding, "0").attribute(tokens, 1)
    assert result.shape == (2, 3, 4)
    with pytest.raises(TypeError, match=r"int64.*additional_forward_args.*Layer"):
        GuidedBackprop(embedding).attribute(tokens, 1)


def test_guided_grad_cam_of_an_input_that_no_map_fits(images):
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)

        def forward(self, image, vector):
            return torch.relu(self.conv(image)).flatten(1).sum(1) + torch.relu(vector).sum(1)

    with pytest.warns(UserWarning, match="cannot be brought to the size"):
        image, vector = GuidedGradCam(Model(), "conv").attribute((images, torch.randn(3, 7)))
    assert image.shape == images.shape
    assert vector.shape == (0,)

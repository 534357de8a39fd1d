"""Hugging Face's vision models, without a wrapper: the same, to the bit, as in a plain one."""

import functools

import pytest
import torch
import transformers
from snapshot import Snapshot
from torch import nn

import captum_deconv
from captum_deconv import GuidedBackprop, LayerGradient, compare, compare_each, coverage, strongest

STAGE = "resnet.encoder.stages.0"
CLASSES = {
    "input": ("InputGradient", "GuidedBackprop", "Deconvnet", "Deconvolution"),
    "neuron": ("NeuronGradient", "NeuronGuidedBackprop", "NeuronDeconvnet"),
    "layer": ("LayerGradient", "LayerGuidedBackprop", "LayerDeconvnet"),
    "gradcam": ("GuidedGradCam",),
}


class Wrapper(nn.Module):
    """The same network as a plain one."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, pixels):
        return self.model(pixels).logits


@pytest.fixture(params=["basic", "bottleneck"])
def model(request):
    torch.manual_seed(0)
    config = transformers.ResNetConfig(
        embedding_size=8,
        hidden_sizes=[8, 16],
        depths=[1, 2],
        layer_type=request.param,
        num_labels=5,
    )
    return transformers.ResNetForImageClassification(config).eval()


@pytest.fixture
def images():
    return torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def agree(found, expected):
    assert torch.equal(found, expected)
    assert expected.any()


def test_every_class_is_here():
    public = {name for name in captum_deconv.__all__ if attributes(name)}
    assert public == {name for names in CLASSES.values() for name in names}


def attributes(name):
    return hasattr(getattr(captum_deconv, name), "attribute")


@pytest.mark.parametrize("name", CLASSES["input"])
def test_from_the_output(model, images, name):
    make = getattr(captum_deconv, name)
    before = Snapshot(model, images)
    found = make(model, output="logits")
    expected = make(Wrapper(model)).attribute(images, target=[1, 3])
    agree(found.attribute(images, target=[1, 3]), expected)
    for each, target in zip(found.attribute_each(images, range(5)), range(5), strict=True):
        agree(each, make(Wrapper(model)).attribute(images, target=target))
    before.assert_unchanged()
    with pytest.raises(TypeError, match="choose one with output='logits'"):
        make(model).attribute(images, target=1)


@pytest.mark.parametrize("name", CLASSES["neuron"])
@pytest.mark.parametrize("of_input", [False, True])
def test_from_a_neuron(model, images, name, of_input):
    make = getattr(captum_deconv, name)
    for selector in ((slice(None), 2, slice(1, 4)), strongest(3)):
        how = {"attribute_to_neuron_input": of_input}
        found = make(model, STAGE, output="logits").attribute(images, selector, **how)
        agree(found, make(Wrapper(model), f"model.{STAGE}").attribute(images, selector, **how))


@pytest.mark.parametrize("name", CLASSES["layer"])
@pytest.mark.parametrize("of_input", [False, True])
def test_to_a_layer(model, images, name, of_input):
    make = getattr(captum_deconv, name)
    how = {"target": 1, "attribute_to_layer_input": of_input}
    found = make(model, STAGE, output="logits").attribute(images, **how)
    agree(found, make(Wrapper(model), f"model.{STAGE}").attribute(images, **how))


def test_grad_cam(model, images):
    make = captum_deconv.GuidedGradCam
    found = make(model, STAGE, output="logits").attribute_each(images, range(5))
    expected = make(Wrapper(model), f"model.{STAGE}").attribute_each(images, range(5))
    agree(torch.stack(list(found)), torch.stack(list(expected)))


def test_a_layer_that_returns_several_tensors(model, images):
    how = {"output": "logits"}
    pooled = LayerGradient(model, "resnet", layer_tensor="pooler_output", **how)
    agree(
        pooled.attribute(images, 1),
        LayerGradient(model, "resnet.pooler", **how).attribute(images, 1),
    )
    for attribute in (LayerGradient, captum_deconv.NeuronGradient):
        with pytest.raises(TypeError, match="choose one with layer_tensor='last_hidden_state'"):
            attribute(model, "resnet", **how).attribute(images, 1)


def test_compare(model, images):
    found = compare(model, images, 1, output="logits")
    expected = compare(Wrapper(model), images, 1)
    assert list(found) == list(expected)
    for method, attribution in found.items():
        agree(attribution, expected[method])
    (each,) = compare_each(model, images, [1], output="logits")
    for method, attribution in each.items():
        agree(attribution, expected[method])
    assert len({attribution.sum().item() for attribution in expected.values()}) == 3


@pytest.mark.parametrize("how", ["lambda", "tuple"])
def test_by_keyword(model, images, how):
    if how == "lambda":
        function, output = (lambda pixels: model(pixel_values=pixels)), "logits"
    else:
        function, output = functools.partial(model, return_dict=False), 0
    found = GuidedBackprop(function, output=output).attribute(images, target=1)
    agree(found, GuidedBackprop(Wrapper(model)).attribute(images, target=1))


def test_the_loss_stands_beside_the_logits(model, images):
    """With labels the model returns two tensors, and the one by name is meant."""
    labels = torch.tensor([1, 3])
    with_loss = lambda pixels: model(pixel_values=pixels, labels=labels)  # noqa: E731
    found = GuidedBackprop(with_loss, output="logits").attribute(images, target=1)
    agree(found, GuidedBackprop(Wrapper(model)).attribute(images, target=1))
    loss = GuidedBackprop(with_loss, output=lambda value: value.loss.expand(2) / 2)
    assert not torch.equal(loss.attribute(images), found)


def test_what_the_rules_reach(model, images):
    found = coverage(model, images)
    assert found.complete
    layers = [m for m in model.modules() if isinstance(m, nn.ReLU)]
    assert sum(finding.count for finding in found.overridden) == len(layers) > 0

"""The classes inside Captum's own machinery, and Captum's methods under a rule."""

import copy

import pytest
import torch
from captum.attr import InputXGradient, IntegratedGradients, NoiseTunnel, visualization
from captum.concept import TCAV, Concept
from captum.concept._utils.data_iterator import dataset_to_dataloader
from captum.metrics import infidelity, sensitivity_max
from torch import nn
from torch.utils.data import IterableDataset

from captum_deconv import (
    Deconvnet,
    GuidedBackprop,
    GuidedGradCam,
    InputGradient,
    LayerGradient,
    LayerGuidedBackprop,
    NeuronDeconvnet,
    gradient_func,
)

METHODS = [InputGradient, GuidedBackprop, Deconvnet]


@pytest.mark.parametrize("cls", METHODS)
@pytest.mark.parametrize("kind", ["smoothgrad", "smoothgrad_sq", "vargrad"])
def test_noise_tunnel(cls, kind, model, images):
    method = cls(model)
    tunnel = NoiseTunnel(method)
    torch.manual_seed(3)
    result = tunnel.attribute(images, nt_type=kind, nt_samples=4, stdevs=0.2, target=[0, 1, 2])
    torch.manual_seed(3)
    noisy = images.repeat_interleave(4, 0) + torch.normal(0, torch.full((12, 3, 8, 8), 0.2))
    each = method.attribute(noisy, [0] * 4 + [1] * 4 + [2] * 4).reshape(3, 4, 3, 8, 8)
    mean, square = each.sum(1) / 4, (each**2).sum(1) / 4
    expected = {"smoothgrad": mean, "smoothgrad_sq": square, "vargrad": square - mean * mean}[kind]
    assert expected.abs().max() > 0
    torch.testing.assert_close(result, expected)


def test_noise_tunnel_around_neurons_and_grad_cam(model, images):
    for method, arguments in (
        (NeuronDeconvnet(model, "conv2"), {"neuron_selector": (0, 1, 1)}),
        (GuidedGradCam(model, "conv2"), {"target": 1}),
    ):
        result = NoiseTunnel(method).attribute(images, nt_samples=3, stdevs=0.1, **arguments)
        assert result.shape == images.shape
        assert result.abs().max() > 0


@pytest.mark.parametrize("cls", METHODS)
def test_sensitivity_and_infidelity(cls, model, images):
    method = cls(model)
    sensitivity = sensitivity_max(method.attribute, images, target=1, n_perturb_samples=3)
    assert sensitivity.shape == (3,)
    assert (sensitivity > 0).all()

    def perturb(inputs):
        noise = torch.randn_like(inputs) * 0.01
        return noise, inputs - noise

    score = infidelity(model, perturb, images, method.attribute(images, 1), target=1)
    assert score.shape == (3,)
    assert score.isfinite().all()


class Random(IterableDataset):
    def __init__(self, seed):
        self.data = torch.randn(12, 3, 8, 8, generator=torch.Generator().manual_seed(seed))

    def __iter__(self):
        return iter(self.data)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("cls", [LayerGradient, LayerGuidedBackprop])
def test_tcav(cls, model, images, tmp_path):
    concepts = [
        Concept(index, name, dataset_to_dataloader(Random(index)))
        for index, name in enumerate(["striped", "dotted"])
    ]
    tcav = TCAV(model, ["conv2"], layer_attr_method=cls(model, None), save_path=str(tmp_path))
    scores = tcav.interpret(images, [concepts], target=1)["0-1"]["conv2"]["sign_count"]
    assert scores.sum() == pytest.approx(1)


def test_visualization(model, images):
    from matplotlib import pyplot

    attribution = GuidedBackprop(model).attribute(images, 1)[0].permute(1, 2, 0).numpy()
    figure, _ = visualization.visualize_image_attr(
        attribution, method="heat_map", sign="all", use_pyplot=False
    )
    assert figure.axes
    pyplot.close("all")


@pytest.mark.parametrize("name", ["input_gradient", "guided_backprop", "deconvnet"])
@pytest.mark.filterwarnings("ignore:Input Tensor")
def test_captums_methods_take_a_rule(name, model, images):
    by_name = dict(zip(["input_gradient", "guided_backprop", "deconvnet"], METHODS, strict=True))
    attribution = by_name[name](model).attribute

    times_input = InputXGradient(model)
    times_input.gradient_func = gradient_func(name)
    assert torch.equal(times_input.attribute(images, 2), images * attribution(images, 2))

    integrated = IntegratedGradients(model)
    integrated.gradient_func = gradient_func(name)
    result = integrated.attribute(images, target=2, n_steps=2, method="riemann_right")
    ends = attribution(images / 2, 2) / 2 + attribution(images, 2) / 2
    assert ends.abs().max() > 0
    torch.testing.assert_close(result, images * ends)


def test_a_subclass_that_overrides_attribute(model, images):
    from captum.log import log_usage

    class Doubled(Deconvnet):
        @log_usage()
        def attribute(self, inputs, target=None, additional_forward_args=None):
            return 2 * super().attribute.__wrapped__(self, inputs, target, additional_forward_args)

    single = Deconvnet(model).attribute(images, 1)
    assert torch.equal(Doubled(model).attribute(images, 1), 2 * single)
    assert NoiseTunnel(Doubled(model)).attribute(images, target=1).shape == images.shape


def test_objects_can_be_copied(model, images):
    method = copy.deepcopy(Deconvnet(nn.Sequential(model)))
    assert torch.equal(method.attribute(images, 1), Deconvnet(model).attribute(images, 1))

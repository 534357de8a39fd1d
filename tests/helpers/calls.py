"""One small call of each public class and function, for whatever holds of every call."""

from collections.abc import Callable
from typing import Any

import torch
from captum.attr import IntegratedGradients
from networks import Pooled
from torch import Tensor, nn

import captum_deconv as cd

Call = Callable[[nn.Module, Tensor], Any]


def build_model() -> nn.Module:
    """Return convolutions, a batch norm, pooling and rectifiers, one of them in place."""
    torch.manual_seed(0)
    model = Pooled().eval()
    with torch.no_grad():
        model(make_images())
    return model


def make_images() -> Tensor:
    """Return two images, ``(2, 3, 16, 16)``: maps that a lean pass looks at."""
    return torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def _integrate(model: nn.Module, images: Tensor) -> Any:
    method = IntegratedGradients(model)
    method.gradient_func = cd.gradient_func("guided_backprop")
    return method.attribute(images, target=1, n_steps=2)


NEURON = (2, 1, 1)

CALLS: dict[str, Call] = {
    "InputGradient": lambda m, x: cd.InputGradient(m).attribute(x, 1),
    "InputGradient, abs": lambda m, x: cd.InputGradient(m).attribute(x, 1, abs=True),
    "GuidedBackprop": lambda m, x: cd.GuidedBackprop(m).attribute(x, 1),
    "Deconvnet": lambda m, x: cd.Deconvnet(m).attribute(x, 1),
    "Deconvnet, targets in a list": lambda m, x: cd.Deconvnet(m).attribute(x, [0, 2]),
    "Deconvnet, targets on the CPU": lambda m, x: cd.Deconvnet(m).attribute(
        x, torch.tensor([0, 2])
    ),
    "NeuronGradient": lambda m, x: cd.NeuronGradient(m, "second").attribute(x, NEURON),
    "NeuronGuidedBackprop": lambda m, x: cd.NeuronGuidedBackprop(m, "second").attribute(x, NEURON),
    "NeuronDeconvnet": lambda m, x: cd.NeuronDeconvnet(m, "second").attribute(x, NEURON),
    "NeuronDeconvnet, strongest": lambda m, x: cd.NeuronDeconvnet(m, "second").attribute(
        x, cd.strongest(1)
    ),
    "LayerGradient": lambda m, x: cd.LayerGradient(m, "first").attribute(x, 1),
    "LayerGuidedBackprop": lambda m, x: cd.LayerGuidedBackprop(m, "first").attribute(x, 1),
    "LayerDeconvnet": lambda m, x: cd.LayerDeconvnet(m, "first").attribute(x, 1),
    "GuidedGradCam": lambda m, x: cd.GuidedGradCam(m, "second").attribute(x, 1),
    "GuidedBackprop, lean": lambda m, x: cd.GuidedBackprop(m, memory="lean").attribute(x, 1),
    "GuidedBackprop, autograd": lambda m, x: cd.GuidedBackprop(m, memory="autograd").attribute(
        x, 1
    ),
    "GuidedBackprop.attribute_each": lambda m, x: list(
        cd.GuidedBackprop(m).attribute_each(x, [0, 1, 2])
    ),
    "NeuronDeconvnet.attribute_each": lambda m, x: list(
        cd.NeuronDeconvnet(m, "second").attribute_each(x, [NEURON, (0, 0, 0)])
    ),
    "NeuronDeconvnet.attribute_each, by crops": lambda m, x: list(
        cd.NeuronDeconvnet(m, "second").attribute_each(
            x.repeat(1, 1, 10, 10), [(0, 40, 30), (1, 5, 60), (2, 20, 20)]
        )
    ),
    "LayerDeconvnet.attribute_each": lambda m, x: list(
        cd.LayerDeconvnet(m, "first").attribute_each(x, [0, 1])
    ),
    "compare": lambda m, x: cd.compare(m, x, 1),
    "compare_each": lambda m, x: list(cd.compare_each(m, x, [0, 1])),
    "coverage": lambda m, x: str(cd.coverage(m, x)),
    "gradient_func": _integrate,
}

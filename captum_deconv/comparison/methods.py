"""The methods that are compared: ours, Captum's, and two controls.

Each is a function from a network, images ``(N, C, H, W)`` and classes ``(N,)`` to an attribution
``(N, C or 1, H, W)``. What a pixel's value means differs, and every metric has to know it:

- a **gradient** says how the output changes with the pixel: how much it matters is its magnitude;
- a **share** says what the pixel added to the output: how much it matters is its value, and below
  zero it spoke against the class.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from captum_deconv.attribution import Deconvnet, GuidedBackprop, GuidedGradCam, InputGradient
from captum_deconv.comparison import _captum
from captum_deconv.drawing.colours import TITLES as _OURS


class CannotError(RuntimeError):
    """A method that does not apply to this network, or a metric to this method; and why."""


Explain = Callable[[nn.Module, Tensor, Tensor, "str | None"], Tensor]
"""Network, images, classes, and the layer of Grad-CAM by its name; to the attribution."""

_SMOOTH_SAMPLES, _SMOOTH_NOISE = 12, 0.15
_STEPS = 20
_SHAP_SAMPLES = 12
_WINDOWS = 7
"""Occlusion hides windows of two sevenths of the image's side, one seventh apart."""
_COMPLETE = 0.05
"""How far DeepLift's sum may be from the difference it stands for."""
_NOTHING = 0.1
"""Of the shares' magnitudes: a smaller difference is one of rounding, too."""


@dataclass(frozen=True)
class Method:
    """A method by its name.

    Attributes:
        name: As it is asked for.
        title: As it stands in a table.
        values: ``"gradient"`` or ``"share"``: what a pixel's value means.
        explain: Computes it.
        rule: The class that computes the same from any function, where it is one of the three that
            differ in the rectifier's rule.
    """

    name: str
    title: str
    values: Literal["gradient", "share"]
    explain: Explain
    rule: Any = None

    def weigh(self, attribution: Tensor) -> Tensor:
        """Say how much each pixel matters: the order in which a metric takes them.

        Args:
            attribution: ``(N, C, H, W)``.

        Returns:
            ``(N, H, W)``: the channels' summed magnitude of a gradient; of a share their sum, which
            may be below zero.
        """
        signed = self.values == "share"
        weighed: Tensor = (attribution if signed else attribution.abs()).sum(1)
        return weighed


def _by_rule(rule: type[Any], **how: Any) -> Explain:
    def explain(model: nn.Module, images: Tensor, classes: Tensor, layer: str | None) -> Tensor:
        found: Tensor = rule(model, **how).attribute(images, classes)
        return found

    return explain


def _guided_gradcam(model: nn.Module, images: Tensor, classes: Tensor, layer: str | None) -> Tensor:
    found: Tensor = GuidedGradCam(model, find_module(model, layer), uncovered="ignore").attribute(
        images, classes, interpolate_mode="bilinear"
    )
    return found


def _gradcam(model: nn.Module, images: Tensor, classes: Tensor, layer: str | None) -> Tensor:
    method = _captum.LayerGradCam(model, find_module(model, layer))
    cam = method.attribute(images, classes, relu_attributions=True).detach()
    return nn.functional.interpolate(cam, images.shape[2:], mode="bilinear", align_corners=False)


def find_module(model: nn.Module, layer: str | None) -> nn.Module:
    """Find Grad-CAM's layer in a model, or in one that was wrapped.

    Args:
        model: The network.
        layer: Its dotted name; None where the network has none that would do.

    Returns:
        The module.

    Raises:
        CannotError: If there is none.
    """
    if layer is None:
        raise CannotError("the network has no convolution whose output is a map: name a layer")
    return model.get_submodule(layer)


def _of_captum(build: Callable[[nn.Module], Any], **how: Any) -> Explain:
    def explain(model: nn.Module, images: Tensor, classes: Tensor, layer: str | None) -> Tensor:
        with _captum.quiet():
            found: Tensor = build(model).attribute(images.clone(), target=classes, **how)
        return found.detach()

    return explain


def _gradient_shap(model: nn.Module, images: Tensor, classes: Tensor, layer: str | None) -> Tensor:
    with _captum.quiet():
        found: Tensor = _captum.GradientShap(model).attribute(
            images.clone(),
            torch.cat([torch.zeros_like(images), images.mean((2, 3), True).expand_as(images)]),
            n_samples=_SHAP_SAMPLES,
            target=classes,
        )
    return found.detach()


def _smoothgrad(model: nn.Module, images: Tensor, classes: Tensor, layer: str | None) -> Tensor:
    # The paper's noise is a share of the image's range.
    noise = _SMOOTH_NOISE * float(images.max() - images.min())
    with _captum.quiet():
        found: Tensor = _captum.NoiseTunnel(_captum.Saliency(model)).attribute(
            images.clone(),
            nt_type="smoothgrad",
            nt_samples=_SMOOTH_SAMPLES,
            stdevs=noise,
            target=classes,
            abs=False,
        )
    return found.detach()


def _deeplift(model: nn.Module, images: Tensor, classes: Tensor, layer: str | None) -> Tensor:
    with _captum.quiet():
        found, missing = _captum.DeepLift(model).attribute(
            images.clone(), target=classes, return_convergence_delta=True
        )
    shares: Tensor = found.detach()
    # DeepLift of an activation that Captum's does not know is the plain gradient, without a word.
    total = shares.flatten(1).sum(1) - missing.detach()
    size = torch.maximum(total.abs(), _NOTHING * shares.flatten(1).abs().sum(1))
    error = float((missing.detach().abs() / size.clamp(min=1e-12)).max())
    if error > _COMPLETE:
        raise CannotError(
            f"its shares add up to a difference that is off by {error:.0%}: Captum's DeepLift does "
            "not hold on this network (it knows activations only as modules, such as nn.ReLU, each "
            "used once)"
        )
    return shares


def _occlusion(model: nn.Module, images: Tensor, classes: Tensor, layer: str | None) -> Tensor:
    channels, *sides = images.shape[1:]
    step = tuple(max(1, side // _WINDOWS) for side in sides)
    with torch.no_grad():
        found: Tensor = _captum.Occlusion(model).attribute(
            images,
            (channels, *(2 * each for each in step)),
            (channels, *step),
            target=classes,
            perturbations_per_eval=8,
        )
    return found.detach()


def _random(model: nn.Module, images: Tensor, classes: Tensor, layer: str | None) -> Tensor:
    return torch.randn(images.shape, dtype=images.dtype).to(images.device)


def _edges(model: nn.Module, images: Tensor, classes: Tensor, layer: str | None) -> Tensor:
    filters: Any = importlib.import_module("skimage.filters")

    grey = images.detach().float().mean(1).cpu().numpy()
    maps = np.stack([filters.sobel(each) for each in grey])
    return torch.from_numpy(maps)[:, None].to(images)


def _list_methods() -> list[Method]:
    ours: dict[str, tuple[Any, dict[str, Any]]] = {
        "input_gradient": (InputGradient, {}),
        "guided_backprop": (GuidedBackprop, {"uncovered": "ignore"}),
        "deconvnet": (Deconvnet, {"uncovered": "ignore"}),
    }
    methods = [
        Method(
            name, _OURS[name], "gradient", _by_rule(rule, **how), lambda f, r=rule, h=how: r(f, **h)
        )
        for name, (rule, how) in ours.items()
    ]
    return [
        *methods,
        Method("guided_gradcam", _OURS["guided_gradcam"], "gradient", _guided_gradcam),
        Method("gradcam", "Grad-CAM", "share", _gradcam),
        Method("smoothgrad", "SmoothGrad", "gradient", _smoothgrad),
        Method("input_x_gradient", "Input x gradient", "share", _of_captum(_captum.InputXGradient)),
        Method(
            "integrated_gradients",
            "Integrated gradients",
            "share",
            _of_captum(_captum.IntegratedGradients, n_steps=_STEPS, internal_batch_size=8),
        ),
        Method("deeplift", "DeepLift", "share", _deeplift),
        Method("gradient_shap", "GradientShap", "share", _gradient_shap),
        Method("occlusion", "Occlusion", "share", _occlusion),
        Method("random", "Control: random", "gradient", _random),
        Method("edges", "Control: edges", "gradient", _edges),
    ]


METHODS = {method.name: method for method in _list_methods()}
"""The methods by their names, ours first, the controls last."""

CONTROLS = ("random", "edges")


def find_last_map(model: nn.Module, images: Tensor) -> str | None:
    """Find the last convolution whose output still has more than one place: Grad-CAM's layer.

    Args:
        model: The network, in evaluation mode; its hooks are as before afterwards.
        images: ``(N, C, H, W)``.

    Returns:
        Its dotted name; None where there is no such convolution among the modules.
    """
    found: list[str] = []

    def watch(name: str) -> Callable[..., None]:
        def look(module: nn.Module, inputs: Any, output: Any) -> None:
            if isinstance(output, Tensor) and output.dim() == 4 and output[0, 0].numel() > 1:
                found.append(name)

        return look

    hooks = [
        module.register_forward_hook(watch(name))
        for name, module in model.named_modules()
        if isinstance(module, nn.Conv2d)
    ]
    try:
        with torch.no_grad():
            model(images)
    finally:
        for hook in hooks:
            hook.remove()
    return found[-1] if found else None

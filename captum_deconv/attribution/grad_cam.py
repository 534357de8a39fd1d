"""Guided Grad-CAM on the exact guided backprop.

>>> import torch
>>> from torch import nn
>>> from captum_deconv import GuidedGradCam
>>> features = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU())
>>> model = nn.Sequential(features, nn.Flatten(), nn.Linear(288, 5))
>>> GuidedGradCam(model, features).attribute(torch.rand(2, 3, 8, 8), target=3).shape
torch.Size([2, 3, 8, 8])
"""

import warnings
from collections.abc import Iterable, Iterator
from typing import Any

from torch import Tensor, nn

from captum_deconv.attribution.base import Inputs, OfLayerByRule
from captum_deconv.engine._captum import LayerAttribution, Target, like_inputs, log_usage
from captum_deconv.engine.methods import Method
from captum_deconv.engine.recording import OfLayerAndInputs


class GuidedGradCam(OfLayerByRule):
    """Guided Grad-CAM: guided backpropagation times the upsampled Grad-CAM of a layer.

    Selvaraju et al. 2017, arXiv:1610.02391, section 3.3. One forward pass serves both factors. The
    layer's output is one tensor ``(N, C, h, w)``, as a convolution's.
    """

    method = "guided_backprop"

    @log_usage(part_of_slo=True)  # type: ignore[untyped-decorator]  # captum publishes no types
    def attribute(
        self,
        inputs: Inputs,
        target: Target = None,
        additional_forward_args: Any = None,
        interpolate_mode: str = "nearest",
        attribute_to_layer_input: bool = False,
    ) -> Any:
        """Attribute the target to the inputs.

        Args:
            inputs: As for every class; ``(N, C, H, W)`` for images.
            target: As for every class.
            additional_forward_args: As for every class.
            interpolate_mode: How Grad-CAM's map is brought to the input's size, by the names of
                :func:`torch.nn.functional.interpolate`.
            attribute_to_layer_input: Take Grad-CAM of what the layer takes.

        Returns:
            As every class; an empty tensor, with a warning, for an input that a map of the layer
            cannot be brought to the size of, as in Captum.

        Raises:
            AssertionError: If the layer has several tensors.
        """
        recording = self._record(inputs, additional_forward_args, attribute_to_layer_input)
        return _combine(inputs, recording.answer(target), interpolate_mode)

    def attribute_each(
        self,
        inputs: Inputs,
        targets: Iterable[Target],
        additional_forward_args: Any = None,
        interpolate_mode: str = "nearest",
        attribute_to_layer_input: bool = False,
    ) -> Iterator[Any]:
        """Attribute each of many targets, from one forward pass: an iterator, in their order."""
        recording = self._record(inputs, additional_forward_args, attribute_to_layer_input)
        found = recording.answer_each(targets, "targets")
        return map(lambda answer: _combine(inputs, answer, interpolate_mode), found)

    def _record(
        self, inputs: Inputs, additional_forward_args: Any, of_layer_input: bool
    ) -> OfLayerAndInputs:
        plain = Method("input_gradient")
        plain.guard = self._function.guard
        call = self._call(inputs, additional_forward_args, of_layer_input)
        return OfLayerAndInputs(call, [plain, self._function])


def _combine(inputs: Inputs, answer: tuple[Tensor, Tensor, tuple[Tensor, ...]], mode: str) -> Any:
    activations, weights, guided = answer
    cam = _grad_cam(activations, weights)
    return like_inputs(inputs, tuple(_times_upsampled(part, cam, mode) for part in guided))


def _grad_cam(activations: Tensor, gradient: Tensor) -> Tensor:
    """Return Grad-CAM, ``(N, 1, h, w)``: channels weighted by their mean gradient, rectified."""
    spatial = tuple(range(2, gradient.dim()))
    weights = gradient.mean(spatial, keepdim=True) if spatial else gradient
    weighted: Tensor = (weights * activations).sum(1, keepdim=True)
    return nn.functional.relu(weighted)


def _times_upsampled(guided: Tensor, cam: Tensor, mode: str) -> Tensor:
    try:
        upsampled: Tensor = LayerAttribution.interpolate(cam, tuple(guided.shape[2:]), mode)
    except (RuntimeError, ValueError, NotImplementedError) as error:
        warnings.warn(
            f"Grad-CAM of shape {tuple(cam.shape)} cannot be brought to the size of an input of "
            f"shape {tuple(guided.shape)} ({error}): its attribution is empty",
            UserWarning,
            stacklevel=2,
        )
        return guided.new_empty(0)
    return guided * upsampled

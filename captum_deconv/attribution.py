"""The attribution classes: Captum's signatures, Captum's contract, the exact numbers.

Change one import and keep the rest of the code:

>>> import torch
>>> from torch import nn
>>> from captum_deconv import GuidedBackprop  # was: from captum.attr import GuidedBackprop
>>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
>>> GuidedBackprop(model).attribute(torch.rand(2, 4), target=1).shape
torch.Size([2, 4])

Every ``attribute`` takes these arguments, said once here:

- ``inputs``: a tensor ``(N, ...)`` of a floating-point type, or a tuple of them. They and the model
  are left exactly as they were.
- ``target``: which value of the model's output ``(N, ...)`` to explain: an int for all examples; a
  tuple of them for an output of more dimensions; a list of either, or a 1-D tensor, with one for
  each example; None where the model returns one value per example.
- ``neuron_selector``: which value of the layer's output ``(N, ...)`` to explain: an int, a tuple of
  ints and slices (slices are summed over), or a function from the layer's tensor, or its tuple of
  several, to one value per example, such as :func:`captum_deconv.strongest`.
- ``additional_forward_args``: what the model takes after the inputs; a tuple of several.
- ``attribute_to_layer_input``, ``attribute_to_neuron_input``: explain what the layer takes instead
  of what it returns.

A tensor that stands in the tuple twice counts as two inputs, each with its own place's gradient.

It returns detached tensors: of the inputs' shapes, a tuple where a tuple came in; for the layer
classes, of the layer's shapes, a tuple where the layer has several.

And every one raises ``AssertionError`` for a target or selector of the wrong kind or length,
``IndexError`` for one out of range, ``TypeError`` for inputs without gradients (integers) and for
outputs that are no tensor, ``ValueError`` for inputs with NaN or infinite values and for an unknown
layer name, ``RuntimeError`` for a layer that never runs and for an output without a way back, and
:class:`captum_deconv.RectifierCoverageError` where ``uncovered="raise"`` asks for it or a reentrant
checkpoint hides part of the graph.
"""

from collections.abc import Callable
from typing import Any, NoReturn

import torch
from torch import Tensor

from captum_deconv import gradients, modes
from captum_deconv._captum import (
    GradientAttribution,
    LayerAttribution,
    NeuronAttribution,
    NeuronSelector,
    Target,
    as_tuple,
    like_inputs,
    log_usage,
)
from captum_deconv.gradients import GradientFunction, Layer
from captum_deconv.graph import EveryBackward
from captum_deconv.report import Activations, Uncovered

Inputs = Tensor | tuple[Tensor, ...]
Model = Callable[..., Any]


class MethodAttribution(GradientAttribution):  # type: ignore[misc]  # captum publishes no types
    """What all classes share: the gradient function of their method, and Captum's refusals."""

    method: str

    def attribute_future(self) -> NoReturn:
        """Raise NotImplementedError, as Captum's gradient methods do."""
        raise NotImplementedError(f"attribute_future is not implemented for {type(self).__name__}")

    def _gradient(
        self, inputs: Inputs, target: Target, additional_forward_args: Any
    ) -> tuple[Tensor, ...]:
        """Call ``gradient_func`` as it stands now: Captum's neuron classes put in their own."""
        tensors = as_tuple(inputs)
        if isinstance(self.gradient_func, GradientFunction):
            return self.gradient_func(self.forward_func, tensors, target, additional_forward_args)
        # Captum's function wants inputs that require grad, and knows of no rule.
        own = self._function
        with modes.differentiable(self.forward_func), EveryBackward(own.rule, own.examine):
            leaves = tuple(tensor.detach().clone().requires_grad_() for tensor in tensors)
            result = self.gradient_func(self.forward_func, leaves, target, additional_forward_args)
        return tuple(gradient.detach() for gradient in result)


class InputGradient(MethodAttribution):
    r"""The gradient of the target to the input: at each ReLU, :math:`R \cdot 1[x > 0]`.

    Simonyan et al. 2013, arXiv:1312.6034, section 3. Captum's ``Saliency``, signed unless asked
    otherwise.

    Args:
        forward_func: A module, or any callable that returns a tensor.
    """

    method = "input_gradient"

    def __init__(self, forward_func: Model) -> None:
        GradientAttribution.__init__(self, forward_func)
        self.gradient_func = self._function = GradientFunction(self.method)

    @log_usage(part_of_slo=True)  # type: ignore[untyped-decorator]  # captum publishes no types
    def attribute(
        self,
        inputs: Inputs,
        target: Target = None,
        abs: bool = False,
        additional_forward_args: Any = None,
    ) -> Any:
        """Attribute the target to the inputs; with ``abs``, by the gradient's magnitude."""
        result = self._gradient(inputs, target, additional_forward_args)
        return like_inputs(inputs, tuple(map(torch.abs, result)) if abs else result)


class _RuleAttribution(MethodAttribution):
    """A method with a rule of its own, from the output to the input.

    Args:
        model: A module, or any callable that returns a tensor.
        activations: Which families the rule overrides: ``"relu"``, ``"leaky"`` or ``"all"``, as for
            :func:`captum_deconv.gradient_func`.
        uncovered: What to do about activations and opaque nodes that no rule reaches: ``"warn"``
            once per object, ``"raise"`` or ``"ignore"``.
    """

    def __init__(
        self,
        model: Model,
        *,
        activations: Activations = "relu",
        uncovered: Uncovered = "warn",
    ) -> None:
        GradientAttribution.__init__(self, model)
        self.model = model
        self.gradient_func = self._function = GradientFunction(
            self.method, activations=activations, uncovered=uncovered
        )

    @log_usage(part_of_slo=True)  # type: ignore[untyped-decorator]  # captum publishes no types
    def attribute(
        self, inputs: Inputs, target: Target = None, additional_forward_args: Any = None
    ) -> Any:
        """Attribute the target to the inputs."""
        return like_inputs(inputs, self._gradient(inputs, target, additional_forward_args))


class GuidedBackprop(_RuleAttribution):
    r"""Guided backpropagation: at each ReLU, :math:`\max(R, 0) \cdot 1[x > 0]`.

    Springenberg et al. 2014, arXiv:1412.6806, section 3.4.
    """

    method = "guided_backprop"


class Deconvnet(_RuleAttribution):
    r"""The deconvnet: at each ReLU, :math:`\max(R, 0)`. Captum's ``Deconvolution``.

    Zeiler & Fergus 2013, arXiv:1311.2901, section 2.
    """

    method = "deconvnet"


Deconvolution = Deconvnet


class _OfLayer(MethodAttribution):
    """What the classes of a neuron and of a layer share: a model, and a layer in it.

    Args:
        model: A module, or any callable that runs the layer.
        layer: The module, or its dotted name in the model; ``self.layer`` may be assigned anew.
        device_ids: The order of devices, for a DataParallel model that the callable hides.
    """

    def __init__(self, model: Model, layer: Layer, device_ids: list[int] | None = None) -> None:
        self._prepare(model, layer, device_ids, GradientFunction(self.method))

    def _prepare(
        self, model: Model, layer: Layer, device_ids: list[int] | None, function: GradientFunction
    ) -> None:
        GradientAttribution.__init__(self, model)
        self.layer = layer
        self.device_ids = device_ids
        self.gradient_func = self._function = function


class OfLayerByRule(_OfLayer):
    """The same for a method with a rule of its own.

    Args:
        model: A module, or any callable that runs the layer.
        layer: The module, or its dotted name in the model; ``self.layer`` may be assigned anew.
        device_ids: The order of devices, for a DataParallel model that the callable hides.
        activations: As for :class:`GuidedBackprop`.
        uncovered: As for :class:`GuidedBackprop`.
    """

    def __init__(
        self,
        model: Model,
        layer: Layer,
        device_ids: list[int] | None = None,
        *,
        activations: Activations = "relu",
        uncovered: Uncovered = "warn",
    ) -> None:
        function = GradientFunction(self.method, activations=activations, uncovered=uncovered)
        self._prepare(model, layer, device_ids, function)


class _Neuron(_OfLayer, NeuronAttribution):  # type: ignore[misc]  # captum publishes no types
    """From a neuron of a layer to the input; the forward pass stops at the layer.

    A layer that the model calls several times counts with its last call.
    """

    @log_usage(part_of_slo=True)  # type: ignore[untyped-decorator]  # captum publishes no types
    def attribute(
        self,
        inputs: Inputs,
        neuron_selector: NeuronSelector,
        additional_forward_args: Any = None,
        attribute_to_neuron_input: bool = False,
    ) -> Any:
        """Attribute the neuron to the inputs."""
        result = gradients.of_neuron(
            self.forward_func,
            self.layer,
            inputs,
            neuron_selector,
            additional_forward_args,
            self._function,
            device_ids=self.device_ids,
            of_layer_input=attribute_to_neuron_input,
        )
        return like_inputs(inputs, result)


class NeuronGradient(_Neuron):
    """The gradient of a neuron to the input."""

    method = "input_gradient"


class NeuronGuidedBackprop(OfLayerByRule, _Neuron):
    """Guided backpropagation from a neuron to the input."""

    method = "guided_backprop"


class NeuronDeconvnet(OfLayerByRule, _Neuron):
    """The deconvnet from a neuron to the input: the projection of Zeiler & Fergus."""

    method = "deconvnet"


class _Layer(_OfLayer, LayerAttribution):  # type: ignore[misc]  # captum publishes no types
    """From the output to a layer; nothing below the layer is differentiated.

    A layer that the model calls several times counts with its last call.
    """

    @log_usage(part_of_slo=True)  # type: ignore[untyped-decorator]  # captum publishes no types
    def attribute(
        self,
        inputs: Inputs,
        target: Target = None,
        additional_forward_args: Any = None,
        attribute_to_layer_input: bool = False,
    ) -> Any:
        """Attribute the target to the layer's tensors."""
        result = gradients.of_layer(
            self.forward_func,
            self.layer,
            inputs,
            target,
            additional_forward_args,
            self._function,
            device_ids=self.device_ids,
            of_layer_input=attribute_to_layer_input,
        )
        return result if len(result) > 1 else result[0]


class LayerGradient(_Layer):
    """The gradient of the target to a layer."""

    method = "input_gradient"


class LayerGuidedBackprop(OfLayerByRule, _Layer):
    """Guided backpropagation from the output to a layer."""

    method = "guided_backprop"


class LayerDeconvnet(OfLayerByRule, _Layer):
    """The deconvnet from the output to a layer."""

    method = "deconvnet"

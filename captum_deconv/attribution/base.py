"""What the attribution classes share: Captum's base, the method's gradient function, a layer."""

from collections.abc import Callable
from typing import Any, NoReturn

from torch import Tensor

from captum_deconv.engine import modes
from captum_deconv.engine._captum import GradientAttribution, Target, as_tuple
from captum_deconv.engine.coverage import Activations, Uncovered
from captum_deconv.engine.gradients import GradientFunction, Layer
from captum_deconv.engine.rectifiers import EveryBackward

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


class OfLayer(MethodAttribution):
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


class OfLayerByRule(OfLayer):
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

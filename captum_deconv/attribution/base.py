"""What the attribution classes share: Captum's base, the method, the choice of tensors, a layer."""

from collections.abc import Callable, Iterable, Iterator
from operator import itemgetter
from typing import Any, NoReturn

from torch import Tensor, nn

from captum_deconv.engine import modes
from captum_deconv.engine._captum import GradientAttribution, Target, as_tuple
from captum_deconv.engine.coverage import Activations, Uncovered
from captum_deconv.engine.gradients import GradientFunction
from captum_deconv.engine.lean import Memory
from captum_deconv.engine.overriding import EveryBackward
from captum_deconv.engine.recording import Layer, ModelCall, OfInputs
from captum_deconv.engine.structures import Choice

Inputs = Tensor | tuple[Tensor, ...]
Model = Callable[..., Any]


class MethodAttribution(GradientAttribution):  # type: ignore[misc]  # captum publishes no types
    """What all classes share: the gradient function of their method, and Captum's refusals."""

    method: str
    gradient_func: Callable[..., Any]

    def _prepare(self, model: Any, function: GradientFunction) -> None:
        if not callable(model):
            raise TypeError(
                f"{type(self).__name__} needs a module, or a function that runs one, and "
                f"{model!r} ({type(model).__name__}) cannot be called"
            )
        GradientAttribution.__init__(self, model)
        self.gradient_func = self._function = function

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

        def work(held: modes.Pass) -> tuple[Tensor, ...]:
            leaves = tuple(tensor.detach().clone().requires_grad_() for tensor in tensors)
            with modes.under(EveryBackward(own.rule, own.examine)):
                result = self.gradient_func(
                    self.forward_func, leaves, target, additional_forward_args
                )
            return tuple(gradient.detach() for gradient in result)

        return modes.differentiably(self.forward_func, work)

    def _gradient_of_each(
        self, inputs: Inputs, targets: Iterable[Target], additional_forward_args: Any
    ) -> Iterator[tuple[Tensor, ...]]:
        """Return the gradients of many targets, from one forward pass if the function is ours."""
        function = self.gradient_func
        if not isinstance(function, GradientFunction):
            return map(lambda t: self._gradient(inputs, t, additional_forward_args), targets)
        call = ModelCall(
            *(self.forward_func, as_tuple(inputs), additional_forward_args, function.output),
            memory=function.memory,
        )
        return map(itemgetter(0), OfInputs(call, [function]).answer_each(targets, "targets"))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(self._describe())})"

    def _describe(self) -> list[str]:
        """Say what the object was made of, as it would be written."""
        function = self._function
        described = [_name(self.forward_func)]
        if function.output is not None:
            described.append(f"output={function.output!r}")
        if function.rule is not None:
            described.append(f'activations="{function.activations}"')
        return described


def _name(model: Any) -> str:
    named = getattr(model, "__qualname__", None)
    return str(named) if named and not isinstance(model, nn.Module) else type(model).__name__


class OfLayer(MethodAttribution):
    """What the classes of a neuron and of a layer share: a model, and a layer in it.

    Args:
        model: A module, or any callable that runs the layer.
        layer: The module, or its dotted name in the model; ``self.layer`` may be assigned anew.
        device_ids: The order of devices, for a DataParallel model that the callable hides.
        layer_tensor: Which tensor of what the layer returns (or takes) is meant, where that is
            neither one tensor nor a tuple of nothing else: an index, a key or an attribute's name,
            or a function that selects it. It may be left out where there is but one.
        output: As for :class:`InputGradient`.
        memory: As for :class:`InputGradient`.
    """

    def __init__(
        self,
        model: Model,
        layer: Layer,
        device_ids: list[int] | None = None,
        *,
        layer_tensor: Choice = None,
        output: Choice = None,
        memory: Memory = "light",
    ) -> None:
        self._prepare(model, GradientFunction(self.method, output=output, memory=memory))
        self._prepare_layer(layer, device_ids, layer_tensor)

    def _prepare_layer(
        self, layer: Layer, device_ids: list[int] | None, layer_tensor: Choice
    ) -> None:
        self.layer = layer
        self.device_ids = device_ids
        self.layer_tensor = layer_tensor

    def _call(
        self, inputs: Inputs, additional_forward_args: Any, of_layer_input: bool
    ) -> ModelCall:
        return ModelCall(
            self.forward_func,
            inputs,
            additional_forward_args,
            output=self._function.output,
            layer=self.layer,
            layer_tensor=self.layer_tensor,
            of_layer_input=of_layer_input,
            device_ids=self.device_ids,
            memory=self._function.memory,
        )

    def _describe(self) -> list[str]:
        model, *others = super()._describe()
        layer = repr(self.layer) if isinstance(self.layer, str) else _name(self.layer)
        if self.layer_tensor is not None:
            others.append(f"layer_tensor={self.layer_tensor!r}")
        return [model, layer, *others]


class OfLayerByRule(OfLayer):
    """The same for a method with a rule of its own.

    Args:
        model: A module, or any callable that runs the layer.
        layer: The module, or its dotted name in the model; ``self.layer`` may be assigned anew.
        device_ids: The order of devices, for a DataParallel model that the callable hides.
        layer_tensor: As for the classes without a rule.
        output: As for :class:`InputGradient`.
        memory: As for :class:`InputGradient`.
        activations: As for :class:`GuidedBackprop`.
        uncovered: As for :class:`GuidedBackprop`.
    """

    def __init__(
        self,
        model: Model,
        layer: Layer,
        device_ids: list[int] | None = None,
        *,
        layer_tensor: Choice = None,
        output: Choice = None,
        memory: Memory = "light",
        activations: Activations = "relu",
        uncovered: Uncovered = "warn",
    ) -> None:
        function = GradientFunction(
            self.method, output=output, memory=memory, activations=activations, uncovered=uncovered
        )
        self._prepare(model, function)
        self._prepare_layer(layer, device_ids, layer_tensor)

"""Gradients under a rule: of an output or a neuron to the inputs, of an output to a layer.

One forward pass records a graph; each rule is one backward pass over it. :class:`GradientFunction`
has the signature of Captum's ``gradient_func``, so any of Captum's gradient methods takes a rule:

>>> import torch
>>> from torch import nn
>>> from captum.attr import IntegratedGradients
>>> from captum_deconv import gradient_func
>>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
>>> method = IntegratedGradients(model)
>>> method.gradient_func = gradient_func("guided_backprop")
>>> method.attribute(torch.rand(2, 4), target=1).shape
torch.Size([2, 4])
"""

import functools
import operator
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from captum_deconv.engine import forward, modes, rectifiers
from captum_deconv.engine._captum import (
    NeuronSelector,
    Target,
    as_arguments,
    as_tuple,
    in_device_order,
    select_neuron,
    select_target,
)
from captum_deconv.engine.coverage import Activations, Guard, Uncovered
from captum_deconv.engine.rules import RULES, rule_of

Layer = nn.Module | str


class GradientFunction:
    """The gradient under a method's rule, callable as Captum calls its ``gradient_func``.

    Args:
        method: ``"input_gradient"``, ``"guided_backprop"`` or ``"deconvnet"``.
        activations: The families that the rule overrides: ``"relu"`` (ReLU, ReLU6, and clamps,
            thresholds and maxima at zero), ``"leaky"`` (adds LeakyReLU, PReLU and RReLU) or
            ``"all"`` (adds ELU, SELU, CELU, GELU, SiLU, Mish, Softplus and Hardswish, for which no
            paper defines a rule).
        uncovered: What to do about activations and opaque nodes that keep their ordinary gradient:
            ``"warn"`` once per object, ``"raise"`` :class:`RectifierCoverageError`, or
            ``"ignore"``.

    Raises:
        ValueError: If one of the three is unknown.
    """

    def __init__(
        self,
        method: str = "input_gradient",
        *,
        activations: Activations = "relu",
        uncovered: Uncovered = "warn",
    ) -> None:
        self.method = method
        self.rule = rule_of(method)
        self.activations = activations
        self.guard = Guard(uncovered)
        if activations not in rectifiers.FAMILIES:
            raise ValueError(
                f"unknown activations {activations!r}: choose from {', '.join(rectifiers.FAMILIES)}"
            )

    def __call__(
        self,
        forward_fn: Callable[..., Any],
        inputs: Tensor | tuple[Tensor, ...],
        target_ind: Target = None,
        additional_forward_args: Any = None,
    ) -> tuple[Tensor, ...]:
        """Return the gradient of each example's target to the inputs.

        Args:
            forward_fn: The model, or any callable that returns a tensor.
            inputs: A tensor ``(N, ...)`` or a tuple of them.
            target_ind: The index of the output to explain, in any form that Captum takes.
            additional_forward_args: What ``forward_fn`` takes after the inputs.

        Returns:
            A tensor per input, of its shape; zeros for an input that the target does not depend on.
        """
        return of_inputs(forward_fn, inputs, target_ind, additional_forward_args, [self])[0]

    def examine(
        self, outputs: Sequence[Tensor], inputs: Sequence[Tensor], *, whole: bool = False
    ) -> rectifiers.Survey:
        """Find the rectifiers that the rule overrides, and report what it misses.

        Without a rule there is nothing to find.
        """
        if self.rule is None:
            return rectifiers.Survey((), (), ())
        survey = rectifiers.survey(outputs, inputs, self.activations)
        self.guard.check_survey(survey, whole=whole)
        return survey


def gradient_func(
    method: str, *, activations: Activations = "relu", uncovered: Uncovered = "warn"
) -> GradientFunction:
    """Return a method's rule as a ``gradient_func`` for any of Captum's gradient attributions.

    Args:
        method: As for :class:`GradientFunction`.
        activations: As for :class:`GradientFunction`.
        uncovered: As for :class:`GradientFunction`.

    Returns:
        What to assign to the ``gradient_func`` of, say, ``captum.attr.IntegratedGradients``.
    """
    return GradientFunction(method, activations=activations, uncovered=uncovered)


def of_inputs(
    forward_fn: Callable[..., Any],
    inputs: Tensor | tuple[Tensor, ...],
    target: Target,
    additional_forward_args: Any,
    functions: Sequence[GradientFunction],
) -> list[tuple[Tensor, ...]]:
    """Return the gradients of the target to the inputs, for each function on one graph."""
    arguments = as_arguments(additional_forward_args)
    functions[0].guard.check_mode(forward_fn)
    with modes.differentiable(forward_fn):
        leaves = forward.make_leaves(as_tuple(inputs))
        selected = _select(forward.run(forward_fn, leaves, arguments), target)
        return _backward([selected], leaves, functions, whole=True)


def of_neuron(
    forward_fn: Callable[..., Any],
    layer: Layer,
    inputs: Tensor | tuple[Tensor, ...],
    neuron_selector: NeuronSelector,
    additional_forward_args: Any,
    function: GradientFunction,
    *,
    device_ids: list[int] | None = None,
    of_layer_input: bool = False,
) -> tuple[Tensor, ...]:
    """Return the gradient of a neuron to the inputs; the forward pass stops at its layer."""
    arguments = as_arguments(additional_forward_args)
    function.guard.check_mode(forward_fn)
    with modes.differentiable(forward_fn):
        leaves = forward.make_leaves(as_tuple(inputs))
        capture = forward.capture(forward_fn, layer, of_input=of_layer_input, stop=True)
        with capture.hooked():
            forward.run(forward_fn, leaves, arguments)
        captured = in_device_order(capture.tensors, _device_ids(forward_fn, device_ids))
        selected = [select_neuron(tensors, neuron_selector) for tensors in captured]
        return _backward(selected, leaves, [function])[0]


def of_layer(
    forward_fn: Callable[..., Any],
    layer: Layer,
    inputs: Tensor | tuple[Tensor, ...],
    target: Target,
    additional_forward_args: Any,
    function: GradientFunction,
    *,
    device_ids: list[int] | None = None,
    of_layer_input: bool = False,
) -> tuple[Tensor, ...]:
    """Return the gradient of the target to a layer's tensors; nothing below is differentiated."""
    arguments = as_arguments(additional_forward_args)
    function.guard.check_mode(forward_fn)
    with modes.differentiable(forward_fn):
        # Leaves, although nothing below the layer is differentiated: a module that sees that no
        # gradient is wanted may compute in another way, to other bits.
        below = forward.make_leaves(as_tuple(inputs), integers=True)
        capture = forward.capture(forward_fn, layer, of_input=of_layer_input, cut=True)
        with capture.hooked():
            output = forward.run(forward_fn, below, arguments)
        selected = _select(output, target)
        captured = in_device_order(capture.tensors, _device_ids(forward_fn, device_ids))
        flat = [tensor for tensors in captured for tensor in tensors]
        leaves = [tensor for tensor in flat if tensor.requires_grad]
        gradients = iter(_backward([selected], leaves, [function])[0])
        by_tensor = [next(gradients) if t.requires_grad else torch.zeros_like(t) for t in flat]
    width = len(captured[0])
    return tuple(_gather(by_tensor[index::width]) for index in range(width))


def of_layer_and_inputs(
    forward_fn: Callable[..., Any],
    layer: Layer,
    inputs: Tensor | tuple[Tensor, ...],
    target: Target,
    additional_forward_args: Any,
    functions: tuple[GradientFunction, GradientFunction],
    *,
    device_ids: list[int] | None = None,
    of_layer_input: bool = False,
) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
    """Return a layer's tensor, the first function's gradient to it, the second's to the inputs.

    All from one forward pass; a layer of several tensors is an AssertionError.
    """
    arguments = as_arguments(additional_forward_args)
    functions[0].guard.check_mode(forward_fn)
    with modes.differentiable(forward_fn):
        leaves = forward.make_leaves(as_tuple(inputs))
        capture = forward.capture(forward_fn, layer, of_input=of_layer_input)
        with capture.hooked():
            output = forward.run(forward_fn, leaves, arguments)
        selected = _select(output, target)
        captured = in_device_order(capture.tensors, _device_ids(forward_fn, device_ids))
        if len(captured[0]) != 1:
            raise AssertionError(
                f"a layer of one tensor is needed, and {layer!r} has {len(captured[0])}"
            )
        flat = [tensor for (tensor,) in captured]
        of_layers = _backward([selected], flat, functions[:1], keep=True)[0]
        of_leaves = _backward([selected], leaves, functions[1:], whole=True)[0]
    return _gather([tensor.detach() for tensor in flat]), _gather(of_layers), of_leaves


def compare(
    forward_func: Callable[..., Any],
    inputs: Tensor | tuple[Tensor, ...],
    target: Target = None,
    additional_forward_args: Any = None,
    methods: Iterable[str] = tuple(RULES),
    *,
    activations: Activations = "relu",
    uncovered: Uncovered = "warn",
) -> dict[str, Any]:
    """Attribute by several methods: one forward pass, and a backward pass for each.

    Args:
        forward_func: The model, or any callable that returns a tensor.
        inputs: A tensor ``(N, ...)`` or a tuple of them.
        target: The index of the output to explain, in any form that Captum takes.
        additional_forward_args: What ``forward_func`` takes after the inputs.
        methods: Names among ``"input_gradient"``, ``"guided_backprop"`` and ``"deconvnet"``.
        activations: As for :class:`GradientFunction`.
        uncovered: As for :class:`GradientFunction`.

    Returns:
        What each method's class returns, a tensor shaped like the inputs or a tuple of them, by
        the method's name.

    Raises:
        ValueError: If a method's name is unknown, or none is given.
    """
    names = [] if isinstance(methods, str) else list(dict.fromkeys(methods))
    if not names:
        raise ValueError(f"methods must be a sequence of names from {', '.join(RULES)}")
    functions = [gradient_func(n, activations=activations, uncovered=uncovered) for n in names]
    for function in functions:
        function.guard = functions[0].guard  # one warning, not one for each method
    results = of_inputs(forward_func, inputs, target, additional_forward_args, functions)
    single = isinstance(inputs, Tensor)
    return {
        method: gradients[0] if single else gradients
        for method, gradients in zip(names, results, strict=True)
    }


def strongest(channel: int) -> Callable[[Tensor], Tensor]:
    """Return a neuron selector: a channel's largest activation in each example.

    Args:
        channel: Index into the second dimension of the layer's tensor, ``(N, C, ...)``.

    Returns:
        A function for ``neuron_selector``, here or in Captum. Among equals it takes the first.

    Raises:
        IndexError: When used, if the layer has no such channel.
        TypeError: If the channel is no integer, or, when used, the layer's output not one tensor.
    """
    return functools.partial(_select_strongest, operator.index(channel))


def _select_strongest(channel: int, activations: Tensor) -> Tensor:
    if not isinstance(activations, Tensor):
        raise TypeError("strongest() needs a layer of one tensor, and this one has several")
    if activations.dim() < 2 or not -activations.shape[1] <= channel < activations.shape[1]:
        raise IndexError(
            f"channel {channel} is out of range for a layer of shape {tuple(activations.shape)}"
        )
    places = activations[:, channel].unsqueeze(1).flatten(1)
    return places.gather(1, places.argmax(1, keepdim=True)).squeeze(1)


def _select(output: Any, target: Target) -> Tensor:
    """Select the target from what a model returned; a TypeError tells how to wrap the model."""
    if not isinstance(output, Tensor):
        one = ".logits"
        if isinstance(output, (tuple, list)):
            one = "[0]"
        elif isinstance(output, dict):
            one = f"[{next(iter(output), 'out')!r}]"
        raise TypeError(
            f"the model returned a {type(output).__name__}, not a tensor: wrap it in a function "
            f"that selects one, such as lambda x: model(x){one}"
        )
    return select_target(output, target)


def _backward(
    outputs: Sequence[Tensor],
    inputs: Sequence[Tensor],
    functions: Sequence[GradientFunction],
    *,
    whole: bool = False,
    keep: bool = False,
) -> list[tuple[Tensor, ...]]:
    """Run one backward pass for each function, each value of the outputs counting 1."""
    if not all(output.requires_grad for output in outputs):
        raise RuntimeError(
            "the output does not require grad, so no gradient leads back to the inputs: the model "
            "computes it under torch.no_grad, detaches it, rounds it, or returns a constant"
        )
    # What no rule reaches is reported before anything is computed.
    found = [function.examine(outputs, inputs, whole=whole) for function in functions]
    ones = [torch.ones_like(output) for output in outputs]
    results = []
    for index, function in enumerate(functions):
        with rectifiers.overridden(found[index].rectifiers, function.rule):
            gradients = torch.autograd.grad(
                outputs,
                inputs,
                ones,
                retain_graph=keep or index + 1 < len(functions),
                allow_unused=True,
                materialize_grads=True,
            )
        # The zeros of an unused input require grad in some releases.
        results.append(tuple(gradient.detach() for gradient in gradients))
    return results


def _device_ids(forward_fn: Any, device_ids: list[int] | None) -> list[int] | None:
    return device_ids if device_ids is not None else getattr(forward_fn, "device_ids", None)


def _gather(parts: Sequence[Tensor]) -> Tensor:
    """Join what the devices of a DataParallel model computed, on the first one's device."""
    return parts[0] if len(parts) == 1 else torch.cat([part.to(parts[0].device) for part in parts])

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
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from torch import Tensor

from captum_deconv.engine._captum import Target
from captum_deconv.engine.attributions import Attributions
from captum_deconv.engine.coverage import Activations, Uncovered
from captum_deconv.engine.lean import Memory, check_memory
from captum_deconv.engine.methods import Method, prepare_methods
from captum_deconv.engine.recording import ModelCall, OfInputs
from captum_deconv.engine.rules import RULES
from captum_deconv.engine.structures import Choice


class GradientFunction(Method):
    """The gradient under a method's rule, callable as Captum calls its ``gradient_func``.

    Args:
        method: As for :class:`captum_deconv.engine.methods.Method`.
        output: Which tensor of what the model returns is explained, where that is no tensor: an
            index, a key or an attribute's name, or a function that selects it.
        memory: What is kept for the backward pass: ``"light"``, what it reads, as far as that takes
            no time; ``"lean"``, of rectifiers only a bit for each value, which takes some;
            ``"autograd"``, what autograd keeps. The results are the same, bit for bit.
        activations: As for :class:`captum_deconv.engine.methods.Method`.
        uncovered: As for :class:`captum_deconv.engine.methods.Method`.

    Raises:
        ValueError: If the method or one of the two options is unknown.
    """

    def __init__(
        self,
        method: str = "input_gradient",
        *,
        output: Choice = None,
        memory: Memory = "light",
        activations: Activations = "relu",
        uncovered: Uncovered = "warn",
    ) -> None:
        super().__init__(method, activations=activations, uncovered=uncovered)
        self.output = output
        self.memory = check_memory(memory)

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
        call = ModelCall(
            forward_fn, inputs, additional_forward_args, self.output, memory=self.memory
        )
        return OfInputs(call, [self]).answer(target_ind)[0]


def gradient_func(
    method: str,
    *,
    output: Choice = None,
    memory: Memory = "light",
    activations: Activations = "relu",
    uncovered: Uncovered = "warn",
) -> GradientFunction:
    """Return a method's rule as a ``gradient_func`` for any of Captum's gradient attributions.

    Args:
        method: As for :class:`GradientFunction`.
        output: As for :class:`GradientFunction`.
        memory: As for :class:`GradientFunction`.
        activations: As for :class:`GradientFunction`.
        uncovered: As for :class:`GradientFunction`.

    Returns:
        What to assign to the ``gradient_func`` of, say, ``captum.attr.IntegratedGradients``.
    """
    return GradientFunction(
        method, output=output, memory=memory, activations=activations, uncovered=uncovered
    )


def compare(
    forward_func: Callable[..., Any],
    inputs: Tensor | tuple[Tensor, ...],
    target: Target = None,
    additional_forward_args: Any = None,
    methods: Iterable[str] = tuple(RULES),
    *,
    output: Choice = None,
    memory: Memory = "light",
    activations: Activations = "relu",
    uncovered: Uncovered = "warn",
) -> Attributions:
    """Attribute by several methods: one forward pass, and a backward pass for each.

    Args:
        forward_func: The model, or any callable that returns a tensor.
        inputs: A tensor ``(N, ...)`` or a tuple of them.
        target: The index of the output to explain, in any form that Captum takes.
        additional_forward_args: What ``forward_func`` takes after the inputs.
        methods: Names among ``"input_gradient"``, ``"guided_backprop"`` and ``"deconvnet"``.
        output: As for :class:`GradientFunction`.
        memory: As for :class:`GradientFunction`.
        activations: As for :class:`GradientFunction`.
        uncovered: As for :class:`GradientFunction`.

    Returns:
        What each method's class returns, a tensor shaped like the inputs or a tuple of them, by
        the method's name: a dictionary, which a notebook shows as pictures.

    Raises:
        ValueError: If a method's name is unknown, or none is given.
    """
    names, recording = _prepare(
        *(forward_func, inputs, additional_forward_args, methods),
        output=output,
        memory=memory,
        activations=activations,
        uncovered=uncovered,
    )
    return _name(names, recording.answer(target), isinstance(inputs, Tensor))


def compare_each(
    forward_func: Callable[..., Any],
    inputs: Tensor | tuple[Tensor, ...],
    targets: Iterable[Target],
    additional_forward_args: Any = None,
    methods: Iterable[str] = tuple(RULES),
    *,
    output: Choice = None,
    memory: Memory = "light",
    activations: Activations = "relu",
    uncovered: Uncovered = "warn",
) -> Iterator[Attributions]:
    """Attribute each of many targets by several methods, all from one forward pass.

    Args:
        forward_func: As for :func:`compare`.
        inputs: As for :func:`compare`.
        targets: One after another, each as :func:`compare` takes it.
        additional_forward_args: As for :func:`compare`.
        methods: As for :func:`compare`.
        output: As for :func:`compare`.
        memory: As for :func:`compare`.
        activations: As for :func:`compare`.
        uncovered: As for :func:`compare`.

    Returns:
        An iterator of what :func:`compare` returns, in the order of the targets.

    Raises:
        ValueError: If a method's name is unknown, or none is given.
    """
    names, recording = _prepare(
        *(forward_func, inputs, additional_forward_args, methods),
        output=output,
        memory=memory,
        activations=activations,
        uncovered=uncovered,
    )
    single = isinstance(inputs, Tensor)
    return map(lambda each: _name(names, each, single), recording.answer_each(targets, "targets"))


def _prepare(
    forward_func: Callable[..., Any],
    inputs: Tensor | tuple[Tensor, ...],
    additional_forward_args: Any,
    methods: Iterable[str],
    *,
    output: Choice,
    memory: Memory,
    activations: Activations,
    uncovered: Uncovered,
) -> tuple[list[str], OfInputs]:
    names = [] if isinstance(methods, str) else list(dict.fromkeys(methods))
    if not names:
        raise ValueError(f"methods must be a sequence of names from {', '.join(RULES)}")
    asked = prepare_methods(names, activations, uncovered)
    call = ModelCall(
        forward_func, inputs, additional_forward_args, output, memory=check_memory(memory)
    )
    return names, OfInputs(call, asked)


def _name(names: list[str], results: list[tuple[Tensor, ...]], single: bool) -> Attributions:
    answers = [gradients[0] if single else gradients for gradients in results]
    return Attributions(zip(names, answers, strict=True))


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

"""From the output to the input: the three methods."""

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from captum_deconv.attribution.base import Inputs, MethodAttribution, Model
from captum_deconv.engine._captum import Target, like_inputs, log_usage
from captum_deconv.engine.coverage import Activations, Uncovered
from captum_deconv.engine.gradients import GradientFunction
from captum_deconv.engine.lean import Memory
from captum_deconv.engine.structures import Choice


class InputGradient(MethodAttribution):
    r"""The gradient of the target to the input: at each ReLU, :math:`R \cdot 1[x > 0]`.

    Simonyan et al. 2013, arXiv:1312.6034, section 3. Captum's ``Saliency``, signed unless asked
    otherwise.

    Args:
        forward_func: A module, or any other callable.
        output: Which tensor of what it returns is explained, where that is no tensor: an index, a
            key or an attribute's name, or a function that selects it.
        memory: What is kept for the backward pass: ``"light"``, what it reads, as far as that takes
            no time; ``"lean"``, of rectifiers only a bit for each value, which takes some;
            ``"autograd"``, what autograd keeps. The results are the same, bit for bit.
    """

    method = "input_gradient"

    def __init__(
        self, forward_func: Model, *, output: Choice = None, memory: Memory = "light"
    ) -> None:
        self._prepare(forward_func, GradientFunction(self.method, output=output, memory=memory))

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

    def attribute_each(
        self,
        inputs: Inputs,
        targets: Iterable[Target],
        abs: bool = False,
        additional_forward_args: Any = None,
    ) -> Iterator[Any]:
        """Attribute each of many targets, from one forward pass: an iterator, in their order."""

        def finish(result: tuple[Tensor, ...]) -> Any:
            return like_inputs(inputs, tuple(map(torch.abs, result)) if abs else result)

        return map(finish, self._gradient_of_each(inputs, targets, additional_forward_args))


class _RuleAttribution(MethodAttribution):
    """A method with a rule of its own, from the output to the input.

    Args:
        model: A module, or any other callable.
        output: As for :class:`InputGradient`.
        memory: As for :class:`InputGradient`.
        activations: Which families the rule overrides: ``"relu"``, ``"leaky"`` or ``"all"``, as for
            :func:`captum_deconv.gradient_func`.
        uncovered: What to do about activations and opaque nodes that no rule reaches: ``"warn"``
            once per object, ``"raise"`` or ``"ignore"``.
    """

    def __init__(
        self,
        model: Model,
        *,
        output: Choice = None,
        memory: Memory = "light",
        activations: Activations = "relu",
        uncovered: Uncovered = "warn",
    ) -> None:
        function = GradientFunction(
            self.method, output=output, memory=memory, activations=activations, uncovered=uncovered
        )
        self._prepare(model, function)
        self.model = model

    @log_usage(part_of_slo=True)  # type: ignore[untyped-decorator]  # captum publishes no types
    def attribute(
        self, inputs: Inputs, target: Target = None, additional_forward_args: Any = None
    ) -> Any:
        """Attribute the target to the inputs."""
        return like_inputs(inputs, self._gradient(inputs, target, additional_forward_args))

    def attribute_each(
        self, inputs: Inputs, targets: Iterable[Target], additional_forward_args: Any = None
    ) -> Iterator[Any]:
        """Attribute each of many targets, from one forward pass: an iterator, in their order."""
        found = self._gradient_of_each(inputs, targets, additional_forward_args)
        return map(lambda result: like_inputs(inputs, result), found)


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

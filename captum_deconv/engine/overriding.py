"""Put a rule on rectifiers' nodes for one backward pass.

The gradients of a rectifier's inputs are what the three methods differ in, and
``Node.register_hook`` may replace them:

>>> import torch
>>> from captum_deconv.engine import rectifiers, rules
>>> x = torch.tensor([-1.0, 2.0], requires_grad=True)
>>> y = (torch.tensor([3.0, -3.0]) * torch.relu(x)).sum()
>>> survey = rectifiers.survey([y], [x])
>>> with overridden(survey.rectifiers, rules.deconvnet):
...     torch.autograd.grad(y, x, retain_graph=True)[0]
tensor([3., 0.])
>>> torch.autograd.grad(y, x)[0]
tensor([ 0., -3.])

The hooks sit on this one graph, never on the model or on a tensor of the user's.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from captum_deconv.engine.lean import Mask, Recorder
from captum_deconv.engine.rectifiers import BOUNDS, Rectifier, Survey, other_side
from captum_deconv.engine.rules import Rule, deconvnet, is_dense

Gradients = tuple[Tensor | None, ...]


@contextmanager
def overridden(
    rectifiers: Sequence[Rectifier], rule: Rule | None, recorder: Recorder | None = None
) -> Iterator[None]:
    """Put a rule on the rectifiers' nodes for as long as the context lasts.

    Args:
        rectifiers: From :func:`captum_deconv.engine.rectifiers.survey`, of the graph that the
            backward pass will run on.
        rule: None leaves autograd's own backward pass.
        recorder: What recorded the graph, where that was lean: its masks are applied as well.

    Yields:
        Nothing; run ``torch.autograd.grad`` inside.
    """
    masks = {} if recorder is None else recorder.masks
    hooks: dict[Any, Callable[..., Any]] = {
        node: partial(_mask, mask, None) for node, mask in masks.items()
    }
    if rule is not None:
        for node, _, _ in rectifiers:
            if node in masks:
                hooks[node] = partial(_mask, masks[node], rule)
            elif type(node).__name__ in BOUNDS:
                # Read now: a checkpoint unpacks a saved tensor only once in a backward pass.
                hooks[node] = partial(_replace_bounded, *_signal_and_gate(node), rule)
            else:
                hooks[node] = partial(_replace, rule)
    with ExitStack() as stack:
        if recorder is not None:
            stack.enter_context(recorder.applied())
        for node, hook in hooks.items():
            stack.callback(node.register_hook(hook).remove)
        yield


def _mask(mask: Mask, rule: Rule | None, grad_inputs: Gradients, grad_outputs: Gradients) -> Any:
    """Apply a mask, and a rule, to a node of one argument that let the whole signal pass."""
    grad_input, grad_output = grad_inputs[0], grad_outputs[0]
    if grad_input is None or grad_output is None:
        return None
    grad_input = mask.lay_out(grad_input, grad_output)
    if rule is not deconvnet:  # which asks for no mask
        grad_input = mask.apply_(grad_input)
    return (grad_input if rule is None else rule(grad_input, grad_output),)


def _replace(rule: Rule, grad_inputs: Gradients, grad_outputs: Gradients) -> Any:
    """Apply a rule to a node whose first argument is the rectifier's input."""
    grad_input, grad_output = grad_inputs[0], grad_outputs[0]
    if grad_input is None or grad_output is None:
        return None
    with refusing(grad_output):
        gradient = rule(grad_input, grad_output)
        if grad_input.is_nested and grad_input.layout is torch.strided:
            # Autograd cannot compare its shape with the old one's, so the old one takes the values.
            grad_input.copy_(gradient)
            return None
        return (gradient, *grad_inputs[1:])


@contextmanager
def refusing(gradient: Tensor) -> Iterator[None]:
    """Say what to do where a rule cannot be applied to a nested or sparse gradient."""
    try:
        yield
    except (RuntimeError, ValueError) as error:
        if is_dense(gradient):
            raise
        kind = "nested" if gradient.is_nested else str(gradient.layout)
        raise RuntimeError(
            f"a rectifier gets a {kind} gradient, to which no rule can be applied: make its input "
            "dense first, with torch.nested.to_padded_tensor or Tensor.to_dense "
            f"({str(error).splitlines()[0]})"
        ) from error


def _signal_and_gate(node: Any) -> tuple[int, Tensor]:
    index = 1 - other_side(node)
    x = node._saved_other if index else node._saved_self
    passes = x > 0
    upper = getattr(node, "_saved_max", None)
    return index, passes if upper is None else passes & (x < upper)


def _replace_bounded(
    index: int, passes: Tensor, rule: Rule, grad_inputs: Gradients, grad_outputs: Gradients
) -> Any:
    """Apply a rule to a clamp or maximum, gated by the papers' ``1[x > 0]`` at ties too."""
    grad_input, grad_output = grad_inputs[index], grad_outputs[0]
    if grad_input is None or grad_output is None:
        return None
    with refusing(grad_output):
        if is_dense(grad_output):
            gated = torch.where(passes, grad_output, 0)
            gradient = rule(gated, grad_output).sum_to_size(grad_input.shape).to(grad_input.dtype)
        else:
            gradient = rule(grad_output * passes.to(grad_output.dtype), grad_output)
    return (*grad_inputs[:index], gradient, *grad_inputs[index + 1 :])


class EveryBackward(TorchFunctionMode):
    """Put a rule on the graph of every ``torch.autograd.grad`` called inside.

    For a gradient function that is not ours: Captum's neuron classes put one of their own on the
    object they hold, and a rule belongs to it all the same.
    """

    def __init__(self, rule: Rule | None, examine: Callable[..., Survey]) -> None:
        super().__init__()
        self.rule = rule
        self.examine = examine

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run ``func``, with the rule on its graph where it is ``torch.autograd.grad``."""
        kwargs = kwargs or {}
        if func is not torch.autograd.grad:
            return func(*args, **kwargs)
        # However it was called: torch hands on tuples, by their places.
        outputs, inputs = args[:2]
        found = self.examine(outputs, inputs)
        with overridden(found.rectifiers, self.rule):
            return func(*args, **kwargs)

"""Find the rectifiers on an autograd graph, and put a rule on them for one backward pass.

However a rectifier is written (a module, a function, a method, in place, reused, inside TorchScript
or a transformer layer), autograd records a node for the call. Its inputs' gradients are what the
three methods differ in, and ``Node.register_hook`` may replace them:

>>> import torch
>>> from captum_deconv.engine import rectifiers, rules
>>> x = torch.tensor([-1.0, 2.0], requires_grad=True)
>>> y = (torch.tensor([3.0, -3.0]) * torch.relu(x)).sum()
>>> survey = rectifiers.survey([y], [x])
>>> with rectifiers.overridden(survey.rectifiers, rules.deconvnet):
...     torch.autograd.grad(y, x, retain_graph=True)[0]
tensor([3., 0.])
>>> torch.autograd.grad(y, x)[0]
tensor([ 0., -3.])

The hooks sit on this one graph, never on the model or on a tensor of the user's.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import BackwardCFunction
from torch.autograd.graph import Node, get_gradient_edge
from torch.overrides import TorchFunctionMode

from captum_deconv.engine.rules import Rule

Gradients = tuple[Tensor | None, ...]

FAMILIES = {"relu": ("relu",), "leaky": ("relu", "leaky"), "all": ("relu", "leaky", "smooth")}
"""The families of activations that each value of the option ``activations`` overrides."""


class Rectifier(NamedTuple):
    """A node of the graph that a rule may override."""

    node: Node
    family: str
    operation: str


class LeftAlone(NamedTuple):
    """A nonlinear or opaque node that keeps its ordinary backward pass."""

    node: Node
    family: str
    operation: str


@dataclass(frozen=True)
class Survey:
    """What lies between an output and the inputs.

    Attributes:
        rectifiers: The nodes that a rule overrides.
        uncovered: Activations of no chosen family, and opaque nodes: what a rule misses.
        ordinary: Gates, normalisations and the like, which the papers leave as they are.
    """

    rectifiers: tuple[Rectifier, ...]
    uncovered: tuple[LeftAlone, ...]
    ordinary: tuple[LeftAlone, ...]


def _always(node: Any) -> bool:
    return True


def _is_zero(bound: float | Tensor | None) -> bool:
    """Tell whether a clamp's lower bound, or the other side of a maximum, is zero throughout."""
    if isinstance(bound, Tensor):
        return not bound.any()
    return bound == 0


def _other_side(node: Any) -> int:
    """Return which argument of a maximum is the constant: it has no gradient to pass on."""
    return 0 if node.next_functions[0][0] is None else 1


def _above_zero(node: Any) -> bool:
    """Tell whether a clamp's lower bound is zero, and no signal of its own."""
    live = any(function is not None for function, _ in node.next_functions[1:])
    return not live and _is_zero(node._saved_min)


def _against_zero(node: Any) -> bool:
    if all(function is not None for function, _ in node.next_functions):
        return False  # two signals compete: a maxout, no rectifier
    return _is_zero(node._saved_other if _other_side(node) else node._saved_self)


# By the name of the node's class: (family, operation, is it one?).
Activation = tuple[str, str, Callable[[Any], bool]]
_ACTIVATIONS: dict[str, Activation] = {
    "ReluBackward0": ("relu", "ReLU", _always),
    "HardtanhBackward0": ("relu", "ReLU6", lambda node: node._saved_min_val == 0),
    "ThresholdBackward0": ("relu", "threshold", lambda node: node._saved_threshold == 0),
    "ThresholdBackward1": ("relu", "threshold", lambda node: node._saved_threshold == 0),
    "ClampMinBackward0": ("relu", "clamp", _above_zero),
    "ClampMinBackward1": ("relu", "clamp", _above_zero),
    "ClampBackward0": ("relu", "clamp", _above_zero),
    "ClampBackward1": ("relu", "clamp", _above_zero),
    "MaximumBackward0": ("relu", "maximum", _against_zero),
    "FmaxBackward0": ("relu", "fmax", _against_zero),
    "LeakyReluBackward0": ("leaky", "LeakyReLU", _always),
    "LeakyReluBackward1": ("leaky", "LeakyReLU", _always),
    "PreluKernelBackward0": ("leaky", "PReLU", _always),
    "RreluWithNoiseBackward0": ("leaky", "RReLU", _always),
    "RreluWithNoiseBackward1": ("leaky", "RReLU", _always),
    "EluBackward0": ("smooth", "ELU or SELU", _always),
    "EluBackward1": ("smooth", "ELU or SELU", _always),
    "CeluBackward0": ("smooth", "CELU", _always),
    "CeluBackward1": ("smooth", "CELU", _always),
    "GeluBackward0": ("smooth", "GELU", _always),
    "SiluBackward0": ("smooth", "SiLU", _always),
    "MishBackward0": ("smooth", "Mish", _always),
    "SoftplusBackward0": ("smooth", "Softplus", _always),
    "HardswishBackward0": ("smooth", "Hardswish", _always),
}

# Where the input equals the bound, autograd passes on nothing, all or half of the signal, depending
# on the operation and the release; bounds may also broadcast. So these get the papers' 1[x > 0].
_BOUNDS = frozenset(name for name in _ACTIVATIONS if name.startswith(("Clamp", "Maximum", "Fmax")))

# Activations that no paper gives a rule for, and that no choice of families overrides.
_WITHOUT_RULE = {
    "GluBackward0": "GLU",
    "HardshrinkBackward0": "Hardshrink",
    "LogSigmoidBackward0": "LogSigmoid",
    "SoftshrinkBackward0": "Softshrink",
    "TanhBackward0": "Tanh",
}

# Gates, normalisations and outputs: nonlinear, and normal in a network made for a deconvnet.
_ORDINARY = {
    "HardsigmoidBackward0": "Hardsigmoid",
    "LogSoftmaxBackward0": "LogSoftmax",
    "NativeGroupNormBackward0": "GroupNorm",
    "NativeLayerNormBackward0": "LayerNorm",
    "FusedRmsNormBackward0": "RMSNorm",
    "ScaledDotProductEfficientAttentionBackward0": "attention",
    "ScaledDotProductFlashAttentionBackward0": "attention",
    "ScaledDotProductFlashAttentionForCpuBackward0": "attention",
    "SigmoidBackward0": "Sigmoid",
    "SoftmaxBackward0": "Softmax",
}

# Custom functions that only move values about, or are linear in them.
_TRANSPARENT = (
    "BackwardHookFunctionBackward",
    "BroadcastBackward",
    "GatherBackward",
    "GeneratedBackwardFor_torchvision_ps_roi_",
    "GeneratedBackwardFor_torchvision_roi_",
    "ScatterBackward",
    "_NoopSaveInputsBackward",
)


def survey(
    outputs: Sequence[Tensor], inputs: Sequence[Tensor], activations: str = "relu"
) -> Survey:
    """Find the rectifiers between outputs and inputs, and what else is nonlinear or opaque.

    Args:
        outputs: Tensors that require grad.
        inputs: Leaves or intermediate tensors; what does not lead to one of them is left out.
        activations: ``"relu"``, ``"leaky"`` or ``"all"``: the families that count as rectifiers.

    Returns:
        The nodes in no particular order.

    Raises:
        ValueError: If ``activations`` is none of the three.
    """
    try:
        families = FAMILIES[activations]
    except KeyError:
        raise ValueError(
            f"unknown activations {activations!r}: choose from {', '.join(FAMILIES)}"
        ) from None
    rectifiers: list[Rectifier] = []
    uncovered: list[LeftAlone] = []
    ordinary: list[LeftAlone] = []
    for node in _between(outputs, inputs):
        name = type(node).__name__
        activation = _ACTIVATIONS.get(name) or _through_whole_view(node, name)
        if activation is not None:
            family, operation, is_one = activation
            if not is_one(node):
                continue
            if family in families:
                rectifiers.append(Rectifier(node, family, operation))
            else:
                uncovered.append(LeftAlone(node, family, operation))
        elif name in _WITHOUT_RULE:
            uncovered.append(LeftAlone(node, "no rule", _WITHOUT_RULE[name]))
        elif name in _ORDINARY:
            ordinary.append(LeftAlone(node, "ordinary", _ORDINARY[name]))
        else:
            hidden = _hidden_in(node, name)
            if hidden is not None:
                uncovered.append(LeftAlone(node, "opaque", hidden))
    return Survey(tuple(rectifiers), tuple(uncovered), tuple(ordinary))


def _through_whole_view(node: Any, name: str) -> Activation | None:
    """Return the activation that an in-place call on a view computed, if the view is the whole.

    Autograd runs the call's own node inside a ``CopySlices``, out of hooks' reach. Where the view
    spans its base, as what ``F.instance_norm`` returns does, a rule may sit on the outer node.
    """
    inner: Any = getattr(node, "_wrapped_node", None) if name == "CopySlices" else None
    activation = _ACTIVATIONS.get(type(inner).__name__)
    if activation is None or type(inner).__name__ in _BOUNDS or not activation[2](inner):
        return None
    view = inner._saved_result if hasattr(inner, "_saved_result") else inner._saved_self
    if view.numel() != math.prod(node._input_metadata[0].shape):
        return None
    return (*activation[:2], _always)


def _hidden_in(node: Any, name: str) -> str | None:
    """Say what a node may hide, or None where it hides nothing."""
    if isinstance(node, BackwardCFunction):
        home = getattr(getattr(node, "_forward_cls", None), "__module__", "torch")
        known = name.startswith(_TRANSPARENT) and home.startswith("torch")
        return None if known else "custom autograd function"
    if name == "CopySlices":
        inner = getattr(node, "_wrapped_node", None)
        if inner is None:
            return "in-place call on a slice, of a kind this torch does not tell"
        activation = _ACTIVATIONS.get(type(inner).__name__)
        if activation is None or not activation[2](inner):
            return None
        return f"in-place {activation[1]} on a slice"
    if name == "CudnnRnnBackward0":
        return "cuDNN RNN of ReLU units" if node._saved_mode == 0 else "cuDNN RNN, LSTM or GRU"
    if name == "MkldnnRnnLayerBackward0":
        return "LSTM"
    if name == "CppFunction" and "DifferentiableGraphBackward" in node.name():
        return "TorchScript graph, fused by its executor"
    return None


def _between(outputs: Sequence[Tensor], inputs: Sequence[Tensor]) -> list[Node]:
    """Return the nodes on the paths from the outputs down to the inputs, those excluded."""
    ends = {get_gradient_edge(tensor).node for tensor in inputs}
    consumers: dict[Node, list[Node]] = {get_gradient_edge(tensor).node: [] for tensor in outputs}
    waiting = list(consumers)
    while waiting:
        node = waiting.pop()
        if node in ends:
            continue
        for successor, _ in node.next_functions:
            if successor is None:
                continue
            known = consumers.get(successor)
            if known is None:
                consumers[successor] = [node]
                waiting.append(successor)
            else:
                known.append(node)
    found: dict[Node, None] = {}
    waiting = [end for end in ends if end in consumers]
    while waiting:
        for consumer in consumers[waiting.pop()]:
            if consumer not in found:
                found[consumer] = None
                waiting.append(consumer)
    return [node for node in found if node not in ends]


@contextmanager
def overridden(rectifiers: Sequence[Rectifier], rule: Rule | None) -> Iterator[None]:
    """Put a rule on the rectifiers' nodes for as long as the context lasts.

    Args:
        rectifiers: From :func:`survey`, of the graph that the backward pass will run on.
        rule: None leaves autograd's own backward pass.

    Yields:
        Nothing; run ``torch.autograd.grad`` inside.
    """
    with ExitStack() as hooks:
        if rule is not None:
            for node, _, _ in rectifiers:
                if type(node).__name__ in _BOUNDS:
                    # Read now: a checkpoint unpacks a saved tensor only once in a backward pass.
                    hook = partial(_replace_bounded, *_signal_and_gate(node), rule)
                else:
                    hook = partial(_replace, rule)
                hooks.callback(node.register_hook(hook).remove)
        yield


def _replace(rule: Rule, grad_inputs: Gradients, grad_outputs: Gradients) -> Any:
    """Apply a rule to a node whose first argument is the rectifier's input."""
    grad_input, grad_output = grad_inputs[0], grad_outputs[0]
    if grad_input is None or grad_output is None:
        return None
    return (rule(grad_input, grad_output), *grad_inputs[1:])


def _signal_and_gate(node: Any) -> tuple[int, Tensor]:
    index = 1 - _other_side(node) if type(node).__name__.startswith(("Maximum", "Fmax")) else 0
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
    gated = torch.where(passes, grad_output, 0)
    gradient = rule(gated, grad_output).sum_to_size(grad_input.shape).to(grad_input.dtype)
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
        named = [kwargs[name] for name in ("outputs", "inputs") if name in kwargs]
        outputs, inputs = (*args, *named)[:2]
        found = self.examine(_as_list(outputs), _as_list(inputs))
        with overridden(found.rectifiers, self.rule):
            return func(*args, **kwargs)


def _as_list(tensors: Tensor | Sequence[Tensor]) -> list[Tensor]:
    return [tensors] if isinstance(tensors, Tensor) else list(tensors)

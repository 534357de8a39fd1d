"""Find the rectifiers on an autograd graph, and put a rule on them for one backward pass.

However a rectifier is written (a module, a function, a method, in place, reused, inside TorchScript
or a transformer layer), autograd records a node for the call:

>>> import torch
>>> x = torch.tensor([-1.0, 2.0], requires_grad=True)
>>> found = survey([torch.relu(x).clamp(min=0).sigmoid()], [x])
>>> sorted(rectifier.operation for rectifier in found.rectifiers)
['ReLU', 'clamp']
>>> [left.operation for left in found.ordinary]
['Sigmoid']
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor
from torch.autograd.function import BackwardCFunction
from torch.autograd.graph import Node, get_gradient_edge

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
        ordinary: Gates, squashing functions, normalisations and the like, which the papers leave
            as they are.
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


def other_side(node: Any) -> int:
    """Return which argument of a clamp or a maximum is constant: it has no gradient to pass on."""
    return 0 if node.next_functions[0][0] is None else 1


def _above_zero(node: Any) -> bool:
    """Tell whether a clamp's lower bound is zero, and no signal of its own."""
    live = any(function is not None for function, _ in node.next_functions[1:])
    return not live and _is_zero(node._saved_min)


def _against_zero(node: Any) -> bool:
    if all(function is not None for function, _ in node.next_functions):
        return False  # two signals compete: a maxout, no rectifier
    return _is_zero(node._saved_other if other_side(node) else node._saved_self)


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
    "RreluWithNoiseFunctionalBackward0": ("leaky", "RReLU", _always),
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
BOUNDS = frozenset(name for name in _ACTIVATIONS if name.startswith(("Clamp", "Maximum", "Fmax")))

# Activations that somebody may mean by a rectifier, that no paper gives a rule for, and that no
# choice of families overrides.
_WITHOUT_RULE = {
    "HardshrinkBackward0": "Hardshrink",
    "LogSigmoidBackward0": "LogSigmoid",
    "SoftshrinkBackward0": "Softshrink",
}

# Gates, squashing functions, normalisations and outputs: nobody means a rectifier by them.
_ORDINARY = {
    "CudnnAttentionBackward0": "attention",
    "EfficientAttentionBackward0": "attention",
    "FlashAttentionBackward0": "attention",
    "FusedRmsNormBackward0": "RMSNorm",
    "GluBackward0": "GLU",
    "HardsigmoidBackward0": "Hardsigmoid",
    "LogSoftmaxBackward0": "LogSoftmax",
    "LstmMpsBackward0": "LSTM",
    "MaskedSoftmaxBackward0": "Softmax",
    "MkldnnRnnLayerBackward0": "LSTM",
    "NativeGroupNormBackward0": "GroupNorm",
    "NativeLayerNormBackward0": "LayerNorm",
    "SafeSoftmaxBackward0": "Softmax",
    "ScaledDotProductCudnnAttentionBackward0": "attention",
    "ScaledDotProductEfficientAttentionBackward0": "attention",
    "ScaledDotProductFlashAttentionBackward0": "attention",
    "ScaledDotProductFlashAttentionForCpuBackward0": "attention",
    "ScaledDotProductFusedAttentionOverrideableBackward0": "attention",
    "SigmoidBackward0": "Sigmoid",
    "SoftmaxBackward0": "Softmax",
    "SparseLogSoftmaxBackward0": "LogSoftmax",
    "SparseSoftmaxBackward0": "Softmax",
    "TanhBackward0": "Tanh",
    "ThnnFusedGruCellBackward0": "GRU",
    "ThnnFusedLstmCellBackward0": "LSTM",
}

# Fused recurrent layers of NVIDIA and AMD: of ReLU units, or of what is ordinary.
_RECURRENT = {"CudnnRnnBackward0": "cuDNN", "MiopenRnnBackward0": "MIOpen"}

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
        activation = _find_activation(node) or _through_whole_view(node)
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
        elif name in _ORDINARY or _is_gated_rnn(node, name):
            operation = _ORDINARY.get(name, "RNN of tanh units, LSTM or GRU")
            ordinary.append(LeftAlone(node, "ordinary", operation))
        else:
            hidden = _hidden_in(node, name)
            if hidden is not None:
                uncovered.append(LeftAlone(node, "opaque", hidden))
    return Survey(tuple(rectifiers), tuple(uncovered), tuple(ordinary))


def _find_activation(node: Any) -> Activation | None:
    """Return what activation a node stands for, by its name and by what it saved."""
    name = type(node).__name__
    if name.startswith("LeakyRelu") and node._saved_negative_slope == 0:
        return "relu", "LeakyReLU(0)", _always
    return _ACTIVATIONS.get(name)


def _is_gated_rnn(node: Any, name: str) -> bool:
    """Tell whether a fused recurrent layer is of tanh units and gates, and holds no rectifier."""
    return name in _RECURRENT and node._saved_mode != 0


def _through_whole_view(node: Any) -> Activation | None:
    """Return the activation that an in-place call on a view computed, if the view is the whole.

    Autograd runs the call's own node inside a ``CopySlices``, out of hooks' reach. Where the view
    spans its base, as what ``F.instance_norm`` returns does, a rule may sit on the outer node.
    """
    inner: Any = getattr(node, "_wrapped_node", None)
    activation = _find_activation(inner)
    if activation is None or type(inner).__name__ in BOUNDS or not activation[2](inner):
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
        activation = _find_activation(inner)
        if activation is None or not activation[2](inner):
            return None
        return f"in-place {activation[1]} on a slice"
    if name in _RECURRENT:
        return f"{_RECURRENT[name]} RNN of ReLU units"
    if name == "CppFunction" and "DifferentiableGraphBackward" in node.name():
        return "TorchScript graph, fused by its executor"
    return None


def _between(outputs: Sequence[Tensor], inputs: Sequence[Tensor]) -> list[Node]:
    """Return the nodes on the paths from the outputs down to the inputs, those excluded."""
    ends = {_node_of(tensor) for tensor in inputs}
    consumers: dict[Node, list[Node]] = {_node_of(tensor): [] for tensor in outputs}
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


def _node_of(tensor: Tensor) -> Node:
    if tensor.is_nested:  # which takes no view of itself
        recorded: Any = tensor.clone().grad_fn
        node: Node = recorded.next_functions[0][0]
        return node
    return get_gradient_edge(tensor).node

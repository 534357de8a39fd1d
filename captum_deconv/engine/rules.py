r"""The backward rules of a rectifier: all that the three methods differ in.

With :math:`R` the signal from above at a ReLU whose input was :math:`x`, what it passes on is

================  ================================  =======================================
input gradient    :math:`R \cdot 1[x > 0]`          Simonyan et al., arXiv:1312.6034
deconvnet         :math:`\max(R, 0)`                 Zeiler & Fergus, arXiv:1311.2901
guided backprop   :math:`\max(R, 0) \cdot 1[x > 0]`  Springenberg et al., arXiv:1412.6806
================  ================================  =======================================

Autograd has applied the first row by the time a rule is called, so a rule sees both sides of the
node: ``grad_input``, which is :math:`R \cdot 1[x > 0]`, and ``grad_output``, which is :math:`R`.

>>> import torch
>>> R = torch.tensor([-1.0, -1.0, 2.0, 2.0])
>>> x = torch.tensor([-3.0, 3.0, -3.0, 3.0])
>>> deconvnet(R.where(x > 0, 0), R)
tensor([0., 0., 2., 2.])
>>> guided_backprop(R.where(x > 0, 0), R)
tensor([0., 0., 0., 2.])
"""

from collections.abc import Callable

import torch
from torch import Tensor

Rule = Callable[[Tensor, Tensor], Tensor]
"""``(grad_input, grad_output) -> grad_input``, all of one shape.

A rule may reuse the memory of ``grad_input``, which belongs to this backward pass alone, and must
leave ``grad_output`` as it is, since autograd may hand the same tensor to other nodes. Reusing the
memory is what makes a rule cost nothing measurable beside the pass.
"""


def deconvnet(grad_input: Tensor, grad_output: Tensor) -> Tensor:
    """Pass on ``max(R, 0)``, whatever the ReLU's input was (Zeiler & Fergus 2013, section 2.1)."""
    return _rectify(grad_output, grad_input)


def guided_backprop(grad_input: Tensor, grad_output: Tensor) -> Tensor:
    """Pass on ``max(R, 0) * 1[x > 0]`` (Springenberg et al. 2014, section 3.4)."""
    return _rectify(grad_input, grad_input)


def _rectify(signal: Tensor, memory: Tensor) -> Tensor:
    """Return ``max(signal, 0)``, in a memory where the signal is dense."""
    if is_dense(signal) and is_dense(memory):
        return torch.clamp(signal, min=0, out=memory)
    return torch.relu(signal.coalesce() if signal.is_sparse else signal)


def is_dense(tensor: Tensor) -> bool:
    """Tell whether a tensor is an ordinary one, neither sparse nor nested."""
    return tensor.layout is torch.strided and not tensor.is_nested


RULES: dict[str, Rule | None] = {
    "input_gradient": None,
    "guided_backprop": guided_backprop,
    "deconvnet": deconvnet,
}
"""The rule of each method by its name; None leaves autograd's own backward pass as it is."""


def rule_of(method: str) -> Rule | None:
    """Return the rule of a method.

    Args:
        method: ``"input_gradient"``, ``"guided_backprop"`` or ``"deconvnet"``.

    Returns:
        The rule, or None where the method is autograd's own backward pass.

    Raises:
        ValueError: If there is no method of that name.
    """
    try:
        return RULES[method]
    except KeyError:
        raise ValueError(f"unknown method {method!r}: choose from {', '.join(RULES)}") from None

"""A rule on every ``torch.autograd.grad`` that foreign code calls, however it calls it."""

import pytest
import torch
from torch.nn import functional as F

from captum_deconv.engine import rectifiers, rules
from captum_deconv.engine.overriding import EveryBackward, overridden

X = torch.tensor([[-1.0, 2.0, 3.0], [1.0, -2.0, -3.0]])
SIGNAL = torch.tensor([[1.0, -1.0, 2.0], [1.0, -1.0, 2.0]])
DECONVNET = SIGNAL.clamp(min=0)


def graph():
    x = X.clone().requires_grad_()
    return x, torch.relu(x)


@pytest.mark.parametrize(
    "call",
    [
        lambda y, x: torch.autograd.grad(y, x, SIGNAL),
        lambda y, x: torch.autograd.grad([y], [x], [SIGNAL]),
        lambda y, x: torch.autograd.grad(y, x, grad_outputs=SIGNAL),
        lambda y, x: torch.autograd.grad(y, inputs=x, grad_outputs=SIGNAL),
        lambda y, x: torch.autograd.grad(outputs=y, inputs=x, grad_outputs=SIGNAL),
        lambda y, x: torch.autograd.grad(inputs=(x,), grad_outputs=(SIGNAL,), outputs=(y,)),
        lambda y, x: torch.autograd.grad((torch.sum(y * SIGNAL, dim=1) * torch.ones(2)).sum(), [x]),
    ],
)
def test_every_way_to_ask_for_a_gradient_meets_the_rule(call):
    x, y = graph()
    with EveryBackward(rules.deconvnet, rectifiers.survey):
        (found,) = call(y, x)
    assert torch.equal(found, DECONVNET)


def test_the_rule_is_gone_when_the_context_ends():
    x, y = graph()
    found = rectifiers.survey([y], [x])
    with overridden(found.rectifiers, rules.deconvnet):
        ruled = torch.autograd.grad(y, x, SIGNAL, retain_graph=True)[0]
    assert torch.equal(ruled, DECONVNET)
    assert torch.equal(torch.autograd.grad(y, x, SIGNAL)[0], SIGNAL.where(X > 0, 0))


def test_a_rectifier_reached_through_its_slope_alone_keeps_what_it_passes_there():
    x = torch.tensor([2.0, 4.0], requires_grad=True)
    signal = torch.tensor([[-1.0, 2.0, -3.0]], requires_grad=True)
    y = F.prelu(signal, x.mean().reshape(1))
    found = rectifiers.survey([y], [x], "leaky").rectifiers
    assert len(found) == 1
    with overridden(found, rules.deconvnet):
        (passed,) = torch.autograd.grad(y, x, torch.ones_like(y))
    assert passed.tolist() == [-2.0, -2.0]


@pytest.mark.parametrize(
    ("bound", "expected"),
    [
        # A bound of a wider type, and one of a larger shape: the gradient is the input's own.
        (lambda x: torch.maximum(x, torch.zeros(3, dtype=torch.float64)), DECONVNET),
        (lambda x: torch.maximum(torch.zeros(2, 2, 3), x)[0], DECONVNET),
        (lambda x: torch.fmax(x, torch.zeros(4, 2, 3)).sum(0) / 4, DECONVNET),
        (lambda x: F.relu6(x).clamp(0, 2.5), DECONVNET),
    ],
)
def test_the_gradient_at_a_bound_is_of_the_inputs_type_and_shape(bound, expected):
    x = X.clone().requires_grad_()
    y = bound(x)
    with overridden(rectifiers.survey([y], [x]).rectifiers, rules.deconvnet):
        (found,) = torch.autograd.grad(y, x, SIGNAL.to(y.dtype))
    assert found.dtype == x.dtype
    assert torch.equal(found, expected)

"""What is not on the graph, and what no rule belongs to, in the report."""

import contextlib

import pytest
import torch
from opaque import Opaque
from torch import nn
from torch.utils.checkpoint import checkpoint

from captum_deconv import (
    RectifierCoverageError,
    coverage,
)

X = torch.randn(2, 6, generator=torch.Generator().manual_seed(0))


def named(findings):
    return {finding.operation: finding.count for finding in findings}


class Frozen(nn.Module):
    """Half of it runs where autograd does not record."""

    def __init__(self, mode):
        super().__init__()
        self.mode = mode
        self.body = nn.Sequential(nn.Linear(6, 6), nn.ReLU())
        self.gate = nn.Sequential(nn.Linear(6, 6), nn.Sequential(nn.GELU(), nn.ReLU()))

    def forward(self, x):
        with self.mode():
            gate = self.gate(x)
        return self.body(x) * gate.clone()


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_what_is_cut_off_from_the_graph_is_named(mode):
    found = coverage(Frozen(mode), X)
    assert found.cut_off == ("gate",)  # and not what is inside it
    assert named(found.overridden) == {"ReLU": 1}
    assert found.overridden[0].modules == ("body.1",)
    assert found.complete
    assert str(found).splitlines()[-1] == (
        "cut off from the graph (run under torch.no_grad or torch.inference_mode): 'gate'"
    )
    assert coverage(Frozen(contextlib.nullcontext), X).cut_off == ()


def test_modules_inside_a_reentrant_checkpoint():
    class Reentrant(nn.Module):
        def __init__(self):
            super().__init__()
            self.relu = nn.ReLU()

        def forward(self, x):
            return checkpoint(self.relu, x, use_reentrant=True)

    with pytest.raises(RectifierCoverageError, match="use_reentrant=False"):
        coverage(Reentrant(), X)


def test_modules_inside_a_custom_function():
    relu = nn.ReLU()

    class Reversible(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return relu(x)

        @staticmethod
        def backward(ctx, gradient):
            return gradient

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = relu

        def forward(self, x):
            return torch.relu(Reversible.apply(x))

    found = coverage(Model(), X)
    assert found.cut_off == ("inner",)
    assert [finding.node for finding in found.uncovered] == ["ReversibleBackward"]


def test_a_bound_with_a_signal_of_its_own_is_no_rectifier():
    live = torch.zeros(6, requires_grad=True)
    for function in (
        lambda x: torch.maximum(x, live),
        lambda x: x.clamp(min=live),
        lambda x: torch.clamp_min(x, x * 0),
    ):
        assert not coverage(lambda x, f=function: f(x).sum(1), X).overridden


def test_a_custom_function_of_a_familiar_name_is_opaque():
    class Scatter(Opaque):
        pass

    assert coverage(lambda x: torch.relu(Scatter.apply(x)).sum(1), X).uncovered

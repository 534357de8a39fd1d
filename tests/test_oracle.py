"""The reference itself, on numbers worked out by hand from the papers' equations."""

import ast
from pathlib import Path

import oracle
import pytest
import torch
import torch.nn.functional as F
from torch import nn

X = torch.tensor([[-2.0, -2.0, 0.0, 0.0, 3.0, 3.0, 7.0, 7.0]])
R = torch.tensor([-1.0, 4.0, -1.0, 4.0, -1.0, 4.0, -1.0, 4.0])

# By the equations, for each x of X and each R of R.
UNBOUNDED = {
    "input_gradient": [0.0, 0.0, 0.0, 0.0, -1.0, 4.0, -1.0, 4.0],
    "guided_backprop": [0.0, 0.0, 0.0, 0.0, 0.0, 4.0, 0.0, 4.0],
    "deconvnet": [0.0, 4.0, 0.0, 4.0, 0.0, 4.0, 0.0, 4.0],
}
BOUNDED_BY_SIX = {
    "input_gradient": [0.0, 0.0, 0.0, 0.0, -1.0, 4.0, 0.0, 0.0],
    "guided_backprop": [0.0, 0.0, 0.0, 0.0, 0.0, 4.0, 0.0, 0.0],
    "deconvnet": UNBOUNDED["deconvnet"],
}

SPELLINGS = {
    "F.relu": F.relu,
    "F.relu(inplace)": lambda x: F.relu(x, inplace=True),
    "F.relu(input=)": lambda x: F.relu(input=x),
    "F.relu_": F.relu_,
    "torch.relu": torch.relu,
    "torch.relu_": torch.relu_,
    "Tensor.relu": torch.Tensor.relu,
    "Tensor.relu_": torch.Tensor.relu_,
    "nn.ReLU": nn.ReLU(),
    "nn.ReLU(inplace)": nn.ReLU(inplace=True),
    "hardtanh(0, inf)": lambda x: F.hardtanh(x, 0.0, float("inf")),
    "threshold": lambda x: F.threshold(x, 0, 0),
    "threshold(inplace)": lambda x: F.threshold(x, 0, 0, inplace=True),
    "torch.threshold_": lambda x: torch.threshold_(x, 0, 0),
    "clamp(0)": lambda x: x.clamp(0),
    "clamp(min=0)": lambda x: torch.clamp(x, min=0),
    "clamp(min=tensor)": lambda x: x.clamp(min=torch.zeros(8)),
    "clamp_": lambda x: x.clamp_(min=0.0),
    "clip": lambda x: x.clip(min=0),
    "clip_": lambda x: x.clip_(min=0),
    "clamp_min": lambda x: torch.clamp_min(x, 0),
    "clamp_min_": lambda x: x.clamp_min_(0),
    "maximum(x, 0)": lambda x: torch.maximum(x, torch.zeros(())),
    "maximum(0, x)": lambda x: torch.maximum(torch.zeros(8), x),
    "max(x, 0)": lambda x: x.max(torch.zeros(1, 8)),
    "max(input=, other=)": lambda x: torch.max(input=x, other=torch.zeros(())),
    "fmax(x, 0)": lambda x: torch.fmax(x, torch.zeros(())),
}

SPELLINGS_OF_RELU6 = {
    "F.relu6": F.relu6,
    "F.relu6(inplace)": lambda x: F.relu6(x, inplace=True),
    "nn.ReLU6": nn.ReLU6(),
    "nn.ReLU6(inplace)": nn.ReLU6(inplace=True),
    "hardtanh_": lambda x: F.hardtanh_(x, 0.0, 6.0),
    "clamp(0, 6)": lambda x: x.clamp(0, 6),
    "clamp(tensors)": lambda x: x.clamp(torch.zeros(8), torch.full((8,), 6.0)),
}

NO_RECTIFIERS = {
    "clamp(min=-1)": lambda x: x.clamp(min=-1),
    "clamp(max=0)": lambda x: x.clamp(max=0),
    "hardtanh": F.hardtanh,
    "threshold(1)": lambda x: F.threshold(x, 1, 0),
    "maximum(x, 1)": lambda x: torch.maximum(x, torch.ones(())),
    "maxout": lambda x: torch.maximum(x, 2 * x),
    "max over a dimension": lambda x: x.max(dim=1, keepdim=True)[0] * torch.ones(8),
    "leaky": F.leaky_relu,
    "GELU": F.gelu,
}


def signal(activation):
    """A network whose signal arriving at the activation is R."""
    return lambda x: activation(x * 1) * R


def by_hand(activation, method, activations="relu"):
    """What the reference passes on for R at the activation of X."""
    passed = oracle.input_attribution(signal(activation), X, None, method, activations=activations)
    return passed[0][0].tolist()


@pytest.mark.parametrize("method", oracle.METHODS)
@pytest.mark.parametrize("spelling", SPELLINGS)
def test_every_spelling_of_relu_passes_what_the_equations_say(spelling, method):
    assert by_hand(SPELLINGS[spelling], method) == UNBOUNDED[method]


@pytest.mark.parametrize("method", oracle.METHODS)
@pytest.mark.parametrize("spelling", SPELLINGS_OF_RELU6)
def test_every_spelling_of_relu6_passes_what_the_equations_say(spelling, method):
    assert by_hand(SPELLINGS_OF_RELU6[spelling], method) == BOUNDED_BY_SIX[method]


@pytest.mark.parametrize("spelling", NO_RECTIFIERS)
def test_what_is_no_rectifier_keeps_its_gradient(spelling):
    x = X.clone().requires_grad_()
    plain = torch.autograd.grad(signal(NO_RECTIFIERS[spelling])(x).sum(), x)[0][0].tolist()
    for method in oracle.METHODS:
        assert by_hand(NO_RECTIFIERS[spelling], method) == plain


def test_the_three_expectations_differ_so_a_wrong_rule_would_show():
    for expected in (UNBOUNDED, BOUNDED_BY_SIX):
        assert len({tuple(values) for values in expected.values()}) == 3


@pytest.mark.parametrize("wrong", oracle.METHODS)
@pytest.mark.parametrize("method", oracle.METHODS)
def test_a_wrong_equation_is_found(method, wrong, monkeypatch):
    monkeypatch.setitem(oracle.EQUATIONS, method, oracle.EQUATIONS[wrong])
    assert (by_hand(F.relu, method) == UNBOUNDED[method]) == (method == wrong)


@pytest.mark.parametrize("spelling", [*SPELLINGS, *SPELLINGS_OF_RELU6])
def test_values_and_in_place_semantics_are_those_of_the_call_itself(spelling):
    activation = {**SPELLINGS, **SPELLINGS_OF_RELU6}[spelling]
    plain = X.clone()
    expected = activation(plain)
    leaf = X.clone().requires_grad_()
    with oracle.Rectified("guided_backprop") as mode:
        x = leaf.clone()
        actual = activation(x)
    assert mode.calls == 1
    assert torch.equal(actual, expected)
    assert torch.equal(x, plain), "what an in-place call leaves in its argument"
    assert (actual is x) == (expected is plain)


def test_a_batch_norm_of_permuted_maps_gets_its_gradient_as_it_reads_it():
    """PyTorch's own backward pass of it is wrong, of one example, for a contiguous gradient."""
    norm = nn.BatchNorm2d(3).eval()
    norm.running_var.copy_(torch.tensor([0.5, 2.0, 4.0]))
    weight = torch.linspace(-1, 2, 30).reshape(1, 3, 2, 5)
    x = torch.linspace(-2, 3, 30).reshape(2, 5, 1, 3).permute(2, 3, 0, 1)
    found = oracle.input_attribution(lambda x: F.relu(norm(x)) * weight, x, None, "deconvnet")[0]
    scale = 1 / (norm.running_var + norm.eps).sqrt()
    torch.testing.assert_close(found, weight.clamp(min=0) * scale[:, None, None])


def test_leaky_and_smooth_families_are_replaced_only_when_asked():
    plain = [-0.01, 0.04, -0.01, 0.04, -1.0, 4.0, -1.0, 4.0]
    guided = [max(value, 0.0) for value in plain]
    assert by_hand(F.leaky_relu, "guided_backprop") == pytest.approx(plain)
    assert by_hand(F.leaky_relu, "guided_backprop", "leaky") == pytest.approx(guided)
    assert by_hand(F.leaky_relu, "deconvnet", "leaky") == UNBOUNDED["deconvnet"]
    assert by_hand(F.silu, "deconvnet", "leaky") != UNBOUNDED["deconvnet"]
    assert by_hand(F.silu, "deconvnet", "all") == UNBOUNDED["deconvnet"]
    assert by_hand(lambda x: F.silu(x, inplace=True), "guided_backprop", "all") == by_hand(
        F.silu, "guided_backprop", "all"
    )


def test_a_chain_of_two_rectifiers_by_hand():
    # y = -2 relu(b), b = 3 relu(a) - 1 and a = x. At x = 1: a = 1, b = 2; at x = -1: b = -1.
    def network(x):
        return -2 * F.relu(3 * F.relu(x) - 1) + 5 * x

    x = torch.tensor([1.0, -1.0])
    passed = {m: oracle.input_attribution(network, x, None, m)[0].tolist() for m in oracle.METHODS}
    # -2 meets b's rectifier: passed on where b > 0 by the gradient, by the others never.
    assert passed == {
        "input_gradient": [-6.0 + 5, 5.0],
        "guided_backprop": [5.0, 5.0],
        "deconvnet": [5.0, 5.0],
    }
    passed = {
        m: oracle.input_attribution(lambda x: -network(x), x, None, m)[0].tolist()
        for m in oracle.METHODS
    }
    assert passed == {
        "input_gradient": [6.0 - 5, -5.0],
        "guided_backprop": [6.0 - 5, -5.0],
        "deconvnet": [6.0 - 5, 6.0 - 5],
    }


class Repeated(nn.Module):
    def __init__(self):
        super().__init__()
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x):
        return self.relu(2 * self.relu(x * 1) - 3) * torch.tensor([-1.0, 1.0, 1.0])


def test_neuron_and_layer_references_take_the_last_call():
    model = Repeated()
    x = torch.tensor([[2.0, 2.0, -2.0]])
    # Last call: its input is 2 relu(x) - 3 = [1, 1, -3]; the signal at its output [-1, 1, 1].
    layer = {
        (method, of_input): oracle.layer_attribution(
            model, model.relu, x, None, method, of_layer_input=of_input
        ).tolist()
        for method in oracle.METHODS
        for of_input in (False, True)
    }
    assert layer == {
        ("input_gradient", False): [[-1.0, 1.0, 1.0]],
        ("guided_backprop", False): [[-1.0, 1.0, 1.0]],
        ("deconvnet", False): [[-1.0, 1.0, 1.0]],
        ("input_gradient", True): [[-1.0, 1.0, 0.0]],
        ("guided_backprop", True): [[0.0, 1.0, 0.0]],
        ("deconvnet", True): [[0.0, 1.0, 1.0]],
    }
    neuron = {
        method: [
            oracle.neuron_attribution(model, model.relu, x, unit, method)[0][0, unit].item()
            for unit in range(3)
        ]
        for method in oracle.METHODS
    }
    assert neuron == {
        "input_gradient": [2.0, 2.0, 0.0],
        "guided_backprop": [2.0, 2.0, 0.0],
        "deconvnet": [2.0, 2.0, 2.0],
    }
    of_input = oracle.neuron_attribution(model, model.relu, x, 2, "deconvnet", of_layer_input=True)[
        0
    ]
    assert of_input.tolist() == [[0.0, 0.0, 2.0]]


def test_unused_inputs_get_zeros_and_selectors_may_be_functions():
    x, y = torch.tensor([[1.0, -1.0]]), torch.tensor([[5.0]])
    attributions = oracle.input_attribution(
        lambda x, y, factor: F.relu(x) * factor, (x, y), lambda out: out[:, 0], arguments=(3,)
    )
    assert [a.tolist() for a in attributions] == [[[3.0, 0.0]], [[0.0]]]


def test_the_unrolled_rnn_computes_what_the_rnn_does():
    torch.manual_seed(0)
    rnn = nn.RNN(3, 4, num_layers=2, nonlinearity="relu", batch_first=True).double()
    x = torch.randn(2, 5, 3, dtype=torch.float64)
    unrolled = oracle.UnrolledRNN(rnn)
    # Sums in another order: a few units of 2e-16 on values near 1.
    torch.testing.assert_close(unrolled(x), rnn(x)[0], rtol=1e-13, atol=1e-13)
    with torch.no_grad():
        rnn.bias_hh_l1 += 1
        shifted = rnn(x)[0]
        rnn.bias_hh_l1 -= 1
    assert not torch.allclose(unrolled(x), shifted)


def test_relative_error_measures_and_refuses_a_vanished_reference():
    assert oracle.relative_error(torch.tensor([1.0, 3.0]), torch.tensor([1.0, 4.0])) == 0.25
    with pytest.raises(AssertionError, match="largest value is 0"):
        oracle.relative_error(torch.ones(2), torch.zeros(2))
    with pytest.raises(AssertionError, match="largest value is inf"):
        oracle.relative_error(torch.ones(2), torch.tensor([1.0, float("inf")]))


def test_the_oracle_imports_nothing_of_what_it_checks():
    tree = ast.parse(Path(oracle.__file__).read_text())
    imported = {
        name.split(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, (ast.Import, ast.ImportFrom))
        for name in (
            [a.name for a in node.names] if isinstance(node, ast.Import) else [node.module]
        )
    }
    assert imported == {"collections", "contextlib", "functools", "inspect", "torch", "typing"}

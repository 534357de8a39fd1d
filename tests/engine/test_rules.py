"""A rule by itself: the papers' equations on numbers, in the memory that is there already."""

import pytest
import torch

from captum_deconv.engine import rules

R = torch.tensor([-1.0, -1.0, 2.0, 2.0])
X = torch.tensor([-3.0, 3.0, -3.0, 3.0])

RULES = [("deconvnet", [0.0, 0.0, 2.0, 2.0]), ("guided_backprop", [0.0, 0.0, 0.0, 2.0])]


@pytest.mark.parametrize(("method", "expected"), RULES)
def test_a_rule_writes_where_the_gradient_lay_and_leaves_the_signal(method, expected):
    signal, gradient = R.clone(), R.where(X > 0, 0)
    result = rules.rule_of(method)(gradient, signal)
    assert result.tolist() == expected
    assert result.data_ptr() == gradient.data_ptr()
    assert torch.equal(signal, R)


@pytest.mark.parametrize(("method", "expected"), RULES)
@pytest.mark.parametrize("sparse", [(True, True), (True, False), (False, True)])
def test_a_rule_on_sparse_gradients(method, expected, sparse):
    """One of the two may be sparse alone; values that one place has twice are added first."""
    signal = _add_up([0, 1, 2, 3, 3], [-1.0, -1.0, 2.0, 3.0, -1.0])
    gradient = _add_up([1, 2, 3, 3], [-1.0, 0.0, 3.0, -1.0])
    gradient, signal = (
        tensor if keep else tensor.to_dense()
        for tensor, keep in zip((gradient, signal), sparse, strict=True)
    )
    result = rules.rule_of(method)(gradient, signal)
    assert result.to_dense().tolist() == expected


def _add_up(places, values):
    return torch.sparse_coo_tensor([places], values, (4,), check_invariants=True)


def test_an_unknown_method_is_refused_with_those_there_are():
    assert rules.rule_of("input_gradient") is None
    said = "unknown method 'magic': choose from input_gradient, guided_backprop, deconvnet"
    with pytest.raises(ValueError) as refused:
        rules.rule_of("magic")
    assert str(refused.value) == said

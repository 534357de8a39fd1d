"""Nested and sparse tensors at a rectifier: exact where torch can, refused in words elsewhere."""

import pytest
import torch
from torch import nn

from captum_deconv import Deconvnet, GuidedBackprop, InputGradient
from captum_deconv.engine import lean, overriding

METHODS = [InputGradient, GuidedBackprop, Deconvnet]
ROWS = tuple(torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0)))
ROWS = (ROWS[0], ROWS[1][:2])

pytestmark = pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")


def layers():
    torch.manual_seed(0)
    return nn.Linear(4, 5), nn.Linear(5, 1)


def build(layout, rectify):
    body, head = layers()

    def forward(*rows):
        nested = torch.nested.as_nested_tensor(list(rows), layout=layout)
        parts = head(rectify(body(nested))).unbind()
        return torch.cat([part.flatten() for part in parts]).sum().reshape(1)

    return forward


def row_by_row(*rows):
    body, head = layers()
    return torch.cat([head(torch.relu(body(row))).flatten() for row in rows]).sum().reshape(1)


@pytest.fixture(params=["autograd", "light", "lean"])
def memory(request, monkeypatch):
    """Where even the smallest of saved tensors are looked at."""
    monkeypatch.setattr(lean, "_SMALL", 0)
    return request.param


@pytest.mark.parametrize("cls", METHODS)
@pytest.mark.parametrize("layout", [torch.jagged, torch.strided])
def test_nested_tensors_inside_a_network(cls, layout, memory):
    ours = cls(build(layout, torch.relu), memory=memory).attribute(ROWS)
    for got, expected in zip(ours, cls(row_by_row).attribute(ROWS), strict=True):
        assert expected.abs().max() > 0
        torch.testing.assert_close(got, expected)  # other matrix products, other last bits


@pytest.mark.parametrize("cls", METHODS)
@pytest.mark.parametrize(
    "rectify",
    [
        lambda x: x.clamp(min=0),
        lambda x: x.clamp(0, 0.5),
        lambda x: torch.maximum(x, torch.zeros_like(x)),
        nn.ReLU6(),
    ],
)
def test_bounds_of_jagged_tensors(cls, rectify):
    body, head = layers()

    def each(*rows):
        return torch.cat([head(rectify(body(row))).flatten() for row in rows]).sum().reshape(1)

    nested = build(torch.jagged, rectify)
    try:
        nested(*(row.clone().requires_grad_() for row in ROWS)).backward()
    except NotImplementedError as missing:
        pytest.skip(f"torch {torch.__version__} cannot differentiate it itself: {missing}")
    ours = cls(nested).attribute(ROWS)
    for got, expected in zip(ours, cls(each).attribute(ROWS), strict=True):
        assert expected.abs().max() > 0
        torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("cls", METHODS)
@pytest.mark.parametrize("layout", [torch.jagged, torch.strided])
def test_a_nested_input(cls, layout):
    body, head = layers()
    inputs = torch.nested.nested_tensor(list(ROWS), layout=layout)

    def forward(nested):
        padded = torch.nested.to_padded_tensor(torch.relu(body(nested)), 0.0)
        return head(padded).sum((1, 2))

    result = cls(forward).attribute(inputs)
    for got, row in zip(result.unbind(), ROWS, strict=True):
        expected = cls(lambda x: head(torch.relu(body(x))).sum().reshape(1)).attribute(row)
        torch.testing.assert_close(got, expected)
    assert not inputs.requires_grad


@pytest.mark.parametrize("cls", METHODS)
def test_sparse_gradients(cls, memory):
    x = torch.randn(3, 4, generator=torch.Generator().manual_seed(1))
    ours = cls(
        lambda x: torch.relu(x.to_sparse()).to_dense().mul(-1.0).sum(1), memory=memory
    ).attribute(x)
    assert torch.equal(ours, cls(lambda x: torch.relu(x).mul(-1.0).sum(1)).attribute(x))


def test_nan_among_the_few_values_of_a_sparse_input_is_refused():
    x = torch.tensor([[0.0, torch.nan], [1.0, 0.0]]).to_sparse()
    with pytest.raises(ValueError, match="holds 1 NaN or infinite values of 2"):
        InputGradient(lambda x: torch.relu(x.to_dense()).sum(1)).attribute(x)


def test_what_cannot_be_done_is_refused_in_words():
    nested = torch.nested.nested_tensor(list(ROWS), layout=torch.jagged)
    for gradient, kind in ((nested, "nested"), (torch.eye(2).to_sparse(), "torch.sparse_coo")):
        with (
            pytest.raises(RuntimeError, match=rf"a {kind} gradient.*to_padded_tensor.*\(no kernel"),
            overriding.refusing(gradient),
        ):
            raise NotImplementedError("no kernel for it\nand pages about kernels")
    with pytest.raises(NotImplementedError, match="other"), overriding.refusing(torch.eye(2)):
        raise NotImplementedError("other")

"""The names of autograd's nodes that the package goes by, against those that this torch has.

A release of torch may rename a node, or bring an activation with a node of its own. Either would be
overlooked without a word, so each is told of here, by name.
"""

import re

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from captum_deconv import coverage
from captum_deconv.engine import rectifiers, saved
from captum_deconv.receptive_field import nodes

HERE = {name for name in dir(torch._C._functions) if "Backward" in name}

# What came after the oldest torch that is supported, and with which one.
SINCE = {"CudnnAttention": "2.9", "FusedRmsNorm": "2.9"}

KNOWN = {
    *rectifiers._ACTIVATIONS,
    *rectifiers._WITHOUT_RULE,
    *rectifiers._ORDINARY,
    *rectifiers._RECURRENT,
}

ACTIVATION = re.compile(
    # ReLU, ELU, CELU, GELU, SiLU, GLU, PReLU, RReLU, but not the LU of linear algebra.
    "[A-Z][a-z]{0,3}lu(?![a-z])|Clamp|Thresh|Hard|[Ss]hrink|[Ss]wish|Mish|Softplus|Maximum|Fmax"
    "|[Ss]igmoid|Softmax|[Tt]anh|Attention|Rnn|Lstm|Gru|LayerNorm|GroupNorm|RmsNorm"
)

# Named like an activation, and none that a network's forward pass is made of.
NO_ACTIVATIONS = {
    "AtanhBackward0": "the inverse of a squashing function, which is no activation",
    "AtanhBackward1": "the same",
    "ClampMaxBackward0": "cuts off above: no rectifier",
    "ClampMaxBackward1": "the same",
    "ForeachMaximumBackward0": "of lists of tensors, as optimisers have them",
    "ForeachMaximumBackward1": "the same",
    "LogSoftmaxBackwardDataBackward0": "a derivative's own derivative",
    "SoftmaxBackwardDataBackward0": "the same",
}

ARGUMENTS = {nn.Threshold: (0.0, 0.0), nn.Softmax: (1,), nn.Softmin: (1,), nn.LogSoftmax: (1,)}
MODULES = sorted(
    (
        getattr(nn, name)
        for name in nn.modules.activation.__all__
        # Spelled out in arithmetic: |x|, a sum and a quotient, which leave no node of their own.
        if name != "Softsign"
    ),
    key=lambda cls: cls.__name__,
)


def stem(name):
    return re.sub(r"Backwards?\d*$", "", name)


def find_lost(names, here):
    """Return the names that this torch should have a node of, and has not."""
    return sorted(
        name
        for name in names
        if name not in here and torch.__version__ >= SINCE.get(stem(name), "0")
    )


def find_unknown(here):
    """Return the nodes that look like an activation's and that the engine does not know."""
    return sorted(
        name
        for name in here
        if ACTIVATION.search(name)
        and "BackwardBackward" not in name  # a derivative's own derivative
        and name not in KNOWN
        and name not in NO_ACTIVATIONS
    )


def name_nodes(output):
    waiting, names = [output.grad_fn], set()
    while waiting:
        node = waiting.pop()
        names.add(type(node).__name__)
        waiting += [source for source, _ in node.next_functions if source is not None]
    return sorted(names)


def test_this_torch_has_every_node_that_the_engine_knows():
    lost = find_lost({*KNOWN, *saved.READS}, HERE)
    assert not lost, (
        f"torch {torch.__version__} has no node of these names, which engine/rectifiers.py and "
        f"engine/saved.py go by: {', '.join(lost)}. Find what it calls them now."
    )


def test_the_engine_knows_every_node_of_this_torch_that_looks_like_an_activation():
    unknown = find_unknown(HERE)
    assert not unknown, (
        f"torch {torch.__version__} has nodes that engine/rectifiers.py does not know: "
        f"{', '.join(unknown)}. Give each a row there, or say in NO_ACTIVATIONS why it needs none."
    )


def test_this_torch_has_every_node_that_a_receptive_field_passes():
    here = {*map(stem, HERE), "BackwardHookFunction"}  # which is Python's
    lost = find_lost(nodes._HANDLERS, here)
    assert not lost, (
        f"torch {torch.__version__} has no node of these names, which receptive_field/nodes.py "
        f"goes by: {', '.join(lost)}"
    )


def test_a_renamed_node_and_a_new_activation_are_told_of():
    renamed = (HERE - {"ReluBackward0"}) | {"RectifiedLinearUnitBackward0", "SwishReluBackward1"}
    assert find_lost({*KNOWN, *saved.READS}, renamed) == ["ReluBackward0"]
    assert find_unknown(renamed) == ["SwishReluBackward1"]


def test_no_exception_is_one_that_the_engine_knows():
    assert not KNOWN & set(NO_ACTIVATIONS)
    assert set(SINCE) <= set(map(stem, KNOWN))


@pytest.mark.parametrize("cls", MODULES, ids=lambda cls: cls.__name__)
@pytest.mark.parametrize("train", [False, True])
def test_every_activation_of_torch_leaves_a_node_that_the_engine_knows(cls, train):
    torch.manual_seed(0)
    if cls is nn.MultiheadAttention:
        layer = cls(6, 2).train(train)
        x = torch.randn(4, 6)

        def function(x):
            return layer(x, x, x)[0]

    else:
        function = cls(*ARGUMENTS.get(cls, ())).train(train)
        x = torch.randn(2, 4, 6, 6)
    names = name_nodes(function(x.requires_grad_()))
    assert KNOWN & set(names), (
        f"torch {torch.__version__} records {cls.__name__} as {', '.join(names)}, none of which "
        "engine/rectifiers.py knows"
    )


def test_attention_with_a_mask_is_listed():
    query = torch.randn(1, 1, 4, 6, generator=torch.Generator().manual_seed(0))

    def attend(x):
        mask = torch.ones(4, 4, dtype=torch.bool).tril()
        with nn.attention.sdpa_kernel(nn.attention.SDPBackend.MATH):
            return F.scaled_dot_product_attention(x, x, x, attn_mask=mask)

    assert {finding.operation for finding in coverage(attend, query).ordinary} == {"Softmax"}
    assert "SafeSoftmaxBackward0" in name_nodes(attend(query.requires_grad_()))

"""Each module's way back, by itself."""

import pytest
import torch
from chains import TOLERANCE, contract_with, pad_by_copy, relative_error

from captum_deconv.mirror import Mirror


@pad_by_copy
# PyTorch scripts some of its own decompositions for forward mode, and warns itself.
@pytest.mark.filterwarnings("ignore:`torch.jit.script:FutureWarning")
def test_each_way_back_is_the_transpose(operator):
    """`<J v, y> = <v, J^T y>`, with `J v` from forward-mode differentiation."""
    module, x, direction, signal = operator
    _, image = torch.func.jvp(module, (x,), (direction,))
    back = Mirror(module, rectify=False, seed="one").project(x, "", contract_with(signal))
    gap = (image * signal).sum() - (direction * back).sum()
    # The gap is rounding of the two sums, each at most as large as the product of the norms.
    assert gap.abs() < TOLERANCE * image.norm() * signal.norm()
    assert back.shape == x.shape
    # Control: another vector in the transpose's place does not close the gap.
    wrong = (image * signal).sum() - (direction * back.roll(1, -1)).sum()
    assert wrong.abs() > 1e-3


@pad_by_copy
def test_each_way_back_is_the_input_gradient(operator):
    module, x, _, signal = operator
    leaf = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(module(leaf), leaf, signal)
    back = Mirror(module, rectify=False, seed="one").project(x, "", contract_with(signal))
    assert relative_error(back, gradient) < TOLERANCE


# ---- The whole way down ----

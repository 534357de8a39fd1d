"""Checks 1 to 4 over random layers in one, two and three dimensions."""

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn

from captum_deconv import adjoint

pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")

# No deadline: the first call of each kind of layer loads a library.
PROFILE = settings(max_examples=150, deadline=None, derandomize=True)


@st.composite
def convolutions(draw):
    """Draw a convolution, or a transposed one, and an input size; some do not fit."""
    axes = draw(st.integers(1, 3))

    def each(low, high):
        return draw(st.tuples(*[st.integers(low, high)] * axes))

    groups = draw(st.integers(1, 3))
    channels = [groups * draw(st.integers(1, 2)) for _ in range(2)]
    kernel, dilation, stride = each(1, 3), each(1, 3), each(1, 4)
    size = each(1, 5 if axes == 3 else 9)
    torch.manual_seed(draw(st.integers(0, 2**16)))
    if draw(st.booleans()):
        make = getattr(nn, f"ConvTranspose{axes}d")
        extra = tuple(
            draw(st.integers(0, max(s, d) - 1)) for s, d in zip(stride, dilation, strict=True)
        )
        layer = make(*channels, kernel, stride, each(0, 2), extra, groups, True, dilation)
    else:
        make = getattr(nn, f"Conv{axes}d")
        padding = draw(st.sampled_from(["numbers", "same", "valid"]))
        mode = draw(st.sampled_from(["zeros", "reflect", "replicate", "circular"]))
        step = 1 if padding == "same" else stride
        width = each(0, 3) if padding == "numbers" else padding
        layer = make(*channels, kernel, step, width, dilation, groups, True, mode)
    return layer.double(), size


def fits(layer, size):
    """Say whether torch itself takes the input and returns something."""
    try:
        return layer(torch.zeros(1, layer.in_channels, *size, dtype=torch.float64)).numel() > 0
    except (RuntimeError, ValueError):
        return False


@PROFILE
@given(convolutions())
def test_what_torch_takes_passes_and_what_it_refuses_is_refused(drawn):
    layer, size = drawn
    if not fits(layer, size):
        with pytest.raises(ValueError, match="input_size"):
            adjoint.check(layer, size)
        return
    report = adjoint.check(layer, size)
    assert report.passed, str(report)
    # The checks of the report, once more with a bound that does not come from it: at most a few
    # hundred terms of size one.
    assert report.relative_error < 1e-14
    assert report.dot_gap < 1e-13
    assert report.flip_error < 1e-14


@PROFILE
@given(convolutions())
def test_the_matrix_is_the_layer(drawn):
    layer, size = drawn
    assume(fits(layer, size))
    layer.bias = None
    x = torch.randn(1, layer.in_channels, *size, dtype=torch.float64)
    y = layer(x).detach()
    w = adjoint.matrix(layer, size)
    assert w.shape == (y.numel(), x.numel())
    assert abs(w @ x.flatten().numpy() - y.flatten().numpy()).max() < 1e-12
    back = adjoint.transpose_of(layer, size)(y).detach()
    assert back.shape == x.shape
    assert abs(w.T @ y.flatten().numpy() - back.flatten().numpy()).max() < 1e-12


@PROFILE
@given(convolutions())
def test_a_transpose_with_one_wrong_tap_is_caught(drawn):
    layer, size = drawn
    assume(fits(layer, size))
    # Only a tap that reads anything but padding can be wrong.
    changed = adjoint.matrix(build_wrong(layer), size) - adjoint.matrix(layer, size)
    assume(changed.nnz and abs(changed).max() > 0.5)
    report = adjoint.check(layer, size, transpose=lambda _, size: wrong_transpose(layer, size))
    assert not report.passed


def build_wrong(layer):
    other = type(layer)(
        layer.in_channels,
        layer.out_channels,
        layer.kernel_size,
        stride=layer.stride,
        padding=layer.padding,
        dilation=layer.dilation,
        groups=layer.groups,
        padding_mode=layer.padding_mode,
        **({"output_padding": layer.output_padding} if "Transpose" in str(layer) else {}),
        dtype=torch.float64,
    )
    with torch.no_grad():
        other.weight.copy_(layer.weight)
        other.weight.view(-1)[0] += 1.0
    return other


def wrong_transpose(layer, size):
    return adjoint.transpose_of(build_wrong(layer), size)


@PROFILE
@given(
    axes=st.integers(1, 3),
    block=st.integers(1, 2),
    groups=st.integers(1, 3),
    blocks=st.integers(1, 3),
    rest=st.integers(0, 1),
    seed=st.integers(0, 2**16),
)
def test_an_orthonormal_block_transform_inverts_and_only_where_its_blocks_fit(
    axes, block, groups, blocks, rest, seed
):
    inside = 2 * block**axes
    make = getattr(nn, f"Conv{axes}d")
    conv = make(2 * groups, inside * groups, block, stride=block, groups=groups, bias=False)
    conv = conv.double()
    torch.manual_seed(seed)
    for group in conv.weight.data.chunk(groups):
        square = torch.linalg.qr(torch.randn(inside, inside, dtype=torch.float64))[0]
        group.copy_(square.view_as(group))
    size = (blocks * block + rest % block,) * axes
    report = adjoint.check(conv, size)
    assert report.passed, str(report)
    assert report.inverts == (rest % block == 0)
    assert (report.residual < 1e-13) == report.inverts

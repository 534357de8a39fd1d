"""The table of what each node reads, row by row, against PyTorch's own derivative."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from captum_deconv.engine import lean, saved

SHAPE = (2, 4, 12, 14)


def weight(x, *shape):
    values = torch.randn(*shape, generator=torch.Generator().manual_seed(5))
    return nn.Parameter(values.to(x.dtype))


def norm(x):
    statistics = (
        torch.linspace(-1, 1, x.shape[1], dtype=x.dtype),
        torch.linspace(1, 2, x.shape[1], dtype=x.dtype),
    )
    return F.batch_norm(x, *statistics, weight(x, x.shape[1]), None)


CASES = {
    "ConvolutionBackward0": [
        lambda x: F.conv2d(x, weight(x, 6, 4, 3, 3), weight(x, 6), stride=2, padding=1),
        lambda x: F.conv2d(x, weight(x, 4, 1, 3, 2), None, dilation=2, groups=4),
        lambda x: F.conv_transpose2d(x, weight(x, 4, 3, 3, 3), stride=2, output_padding=1),
        lambda x: F.conv1d(x[0], weight(x, 3, 12, 2)),
        lambda x: F.conv3d(x[None], weight(x, 3, 2, 2, 3, 3), padding=1),
    ],
    "AddmmBackward0": [lambda x: F.linear(x.flatten(1), weight(x, 5, 672), weight(x, 5))],
    "MmBackward0": [lambda x: x.flatten(1) @ weight(x, 672, 5)],
    "NativeBatchNormBackward0": [norm, lambda x: norm(x.transpose(2, 3))],
    "AvgPool2DBackward0": [lambda x: F.avg_pool2d(x, 3, 2, 1)],
    "AvgPool3DBackward0": [lambda x: F.avg_pool3d(x[None], 2)],
    "AdaptiveAvgPool2DBackward0": [lambda x: F.adaptive_avg_pool2d(x, (5, 3))],
    "AdaptiveAvgPool3DBackward0": [lambda x: F.adaptive_avg_pool3d(x[None], (2, 5, 3))],
    "MaxPool2DWithIndicesBackward0": [
        lambda x: F.max_pool2d(x, 2),
        lambda x: F.max_pool2d(x, (3, 2), (2, 1), (1, 1), ceil_mode=True),
        lambda x: F.max_pool2d(x, 3, 2, 1, dilation=2),
        lambda x: F.max_pool2d(x, 5, 1, 2),
        lambda x: F.max_pool2d(x[0], (3, 2)),
    ],
    "MaxPool3DWithIndicesBackward0": [lambda x: F.max_pool3d(x[None], 2)],
    "ReluBackward0": [F.relu, lambda x: F.relu_(x * 1), lambda x: F.relu(x.transpose(1, 3))],
    "HardtanhBackward0": [
        F.relu6,
        lambda x: F.hardtanh(x, -1, 2),
        lambda x: F.hardtanh(x * 4, 3, 5),  # far from zero
        lambda x: F.relu6(x * 1, True),
    ],
    "ThresholdBackward0": [lambda x: F.threshold(x, 1, -1.0), lambda x: F.threshold(x, 0, 0)],
}
# MKL-DNN's linear layers are recorded by a node of their own on some machines and types only.
ELSEWHERE = {"LinearBackward0"}

ROWS = [
    pytest.param(name, function, id=f"{name}-{number}")
    for name, functions in CASES.items()
    for number, function in enumerate(functions)
]


def test_every_row_has_a_case():
    assert set(saved.READS) == set(CASES) | ELSEWHERE


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize(("name", "function"), ROWS)
def test_a_row_against_torchs_own_derivative(name, function, dtype, monkeypatch):
    # What is not read is NaN here: had it been read, the result would be NaN too.
    monkeypatch.setattr(lean._blank, "view", fill_with_nan)
    monkeypatch.setattr(lean, "_SMALL", 0)
    if dtype == torch.bfloat16 and "3DBackward" in name and "Avg" in name:
        pytest.skip("torch has no such pool of bfloat16 on the CPU")
    x = torch.randn(SHAPE, generator=torch.Generator().manual_seed(0)).to(dtype).requires_grad_()
    expected_output = function(x)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        signal = torch.randn_like(expected_output)
    expected = torch.autograd.grad(expected_output, x, signal)[0]
    recorder = lean.Recorder(masks=True)
    with hooks(recorder), recorder:
        output = function(x)
    node = find(output.grad_fn, name)
    kept = [getattr(node, f"_saved_{part}") for part in saved.READS[name].shape_of]
    assert all(part.isnan().all() for part in kept), "nothing was let go of"
    assert (saved.READS[name].mask_of is None) == (node not in recorder.masks)
    assert torch.equal(output, expected_output)
    # As foreign code would read it, and as the engine does.
    assert torch.equal(torch.autograd.grad(output, x, signal, retain_graph=True)[0], expected)
    masked = [node.register_hook(apply(mask)) for node, mask in recorder.masks.items()]
    with recorder.applied():
        assert torch.equal(torch.autograd.grad(output, x, signal)[0], expected)
    assert len(masked) == (saved.READS[name].mask_of is not None)


def hooks(recorder):
    saver = recorder.saver
    return torch.autograd.graph.saved_tensors_hooks(saver.pack, saver.unpack)


def apply(mask):
    return lambda grad_inputs, _: (mask.apply_(grad_inputs[0]),)


def fill_with_nan(shape, stride, dtype, device):
    return torch.full(shape, torch.nan, dtype=dtype).as_strided(shape, stride)


def find(node, name):
    while type(node).__name__ != name:
        node = node.next_functions[0 if type(node).__name__ != "AddmmBackward0" else 1][0]
    return node


@pytest.mark.parametrize(
    ("size", "kernel", "dilation", "dtype"),
    [
        ((3, 20_000), (3, 1), 1, torch.int32),  # farther than an int16 holds
        ((41, 1000), (3, 1), (20, 1), torch.int32),
        ((2, 9), (2, 3), 1, torch.int16),
    ],
)
def test_maxima_in_the_farthest_corner_of_their_windows(size, kernel, dilation, dtype, monkeypatch):
    monkeypatch.setattr(lean, "_SMALL", 0)
    x = torch.zeros(1, 2, *size)
    x[..., -1, :] = torch.arange(size[1])
    x.requires_grad_()
    recorder = lean.Recorder(masks=False)
    with hooks(recorder), recorder:
        output = F.max_pool2d(x, kernel, 1, dilation=dilation)
    _, places = F.max_pool2d(x, kernel, 1, dilation=dilation, return_indices=True)
    node = output.grad_fn
    assert torch.equal(node._saved_result1, places)
    assert recorder.saver.probe(node, "result1").tensor is None
    kept = [cell.cell_contents for cell in saved.pack_switches(node, places).__closure__]
    assert max(kept, key=torch.Tensor.numel).dtype == dtype
    assert places.dtype == torch.int64
    assert places.max() == x[0, 0].numel() - 1


def test_nan_and_infinity_pass_where_autograd_lets_them():
    x = torch.tensor([[torch.nan, 2.0, -1.0, 0.0] * 300], requires_grad=True)
    signal = torch.tensor([[1.0, torch.inf, -torch.inf, torch.nan] * 300])
    expected = torch.autograd.grad(F.relu(x), x, signal)[0]
    recorder = lean.Recorder(masks=True)
    with hooks(recorder), recorder:
        output = F.relu(x)
    (mask,) = recorder.masks.values()
    torch.testing.assert_close(
        mask.apply_(signal.clone()), expected, equal_nan=True, rtol=0, atol=0
    )
    found = torch.autograd.grad(output, x, signal)[0]
    torch.testing.assert_close(found, expected, equal_nan=True, rtol=0, atol=0)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: F.conv2d(x, x[:, :, :3, :3].detach().requires_grad_() * x.mean()),
        lambda x: F.linear(x.flatten(1), x.flatten(1)[:, :672] * 2),
        lambda x: F.batch_norm(x, None, None, training=True),
    ],
)
def test_what_is_read_after_all_is_kept(function):
    """A weight made of the input, and a norm of the batch's own statistics, read the input."""
    x = torch.randn(SHAPE, generator=torch.Generator().manual_seed(0)).requires_grad_()
    expected = torch.autograd.grad(function(x).square().sum(), x)[0]
    recorder = lean.Recorder(masks=True)
    with hooks(recorder), recorder:
        output = function(x).square().sum()
    assert torch.equal(torch.autograd.grad(output, x)[0], expected)


def test_a_weight_is_what_only_parameters_lead_to():
    x = torch.randn(SHAPE).requires_grad_()
    plain = F.conv2d(x, weight(x, 6, 4, 3, 3)).grad_fn
    frozen = F.conv2d(x, weight(x, 6, 4, 3, 3).detach()).grad_fn
    made = F.conv2d(x, weight(x, 6, 4, 3, 3) * weight(x, 1).exp()).grad_fn
    mixed = F.conv2d(x, weight(x, 6, 4, 3, 3) * x.mean()).grad_fn
    leaf = F.conv2d(x, torch.ones(6, 4, 3, 3, requires_grad=True)).grad_fn
    assert [saved._weight_at(1)(node) for node in (plain, frozen, made, mixed, leaf)] == [
        *(True, True, True, False, False)
    ]
    assert not saved._weight_at(0)(plain)
    deep = weight(x, 6, 4, 3, 3)
    for depth in range(8):
        assert saved._is_weight(F.conv2d(x, deep).grad_fn.next_functions[1][0]) is (depth <= 6)
        deep = deep * 2


@pytest.mark.parametrize(
    "function", [lambda x: F.threshold(x, 0.3, 0), lambda x: F.hardtanh(x, -0.1)]
)
def test_bounds_that_half_precision_rounds_are_left_alone(function):
    x = torch.randn(SHAPE).to(torch.bfloat16).requires_grad_()
    recorder = lean.Recorder(masks=True)
    with hooks(recorder), recorder:
        output = function(x)
    assert not recorder.masks
    assert torch.equal(
        *(torch.autograd.grad(y, x, torch.ones_like(y))[0] for y in (output, function(x)))
    )

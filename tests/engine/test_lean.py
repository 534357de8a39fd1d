"""A lean pass gives what the ordinary one gives, bit for bit, whatever the model does."""

import gc
import threading
import warnings
import weakref

import networks
import numpy as np
import pytest
import torch
import torchvision
from snapshot import Snapshot
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from captum_deconv import (
    Deconvnet,
    GuidedBackprop,
    GuidedGradCam,
    InputGradient,
    LayerDeconvnet,
    NeuronDeconvnet,
    compare,
)
from captum_deconv.engine import lean, recording

MEMORY = ["light", "lean"]


def assert_same_as_autograds(model, inputs, target, memory, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ours = compare(model, inputs, target, memory=memory, **options)
        expected = compare(model, inputs, target, memory="autograd", **options)
    for method, result in ours.items():
        assert torch.equal(result, expected[method]), method
    assert expected["deconvnet"].abs().max() > 0


@pytest.fixture(params=[False, True], ids=["blank", "poisoned"])
def poison(request, monkeypatch):
    """Give NaN in place of what is said not to be read."""

    def fill(shape, stride, dtype, device):
        return torch.empty_strided(shape, stride, dtype=dtype).fill_(torch.nan)

    if request.param:
        monkeypatch.setattr(lean._blank, "view", fill)


@pytest.mark.parametrize("memory", MEMORY)
@pytest.mark.parametrize(
    "name", ["resnet18", "vgg11_bn", "densenet121", "mobilenet_v2", "shufflenet_v2_x0_5"]
)
def test_networks(name, memory, poison):
    torch.manual_seed(0)
    model = torchvision.models.get_model(name, weights=None).eval()
    images = torch.randn(2, 3, 64, 64)
    assert_same_as_autograds(model, images, 3, memory)


def test_poison_is_felt_where_something_is_read(monkeypatch):
    """The control: a table that says too much gives NaN."""
    monkeypatch.setitem(lean.READS, "MulBackward0", lean.Reads(("self", "other")))
    monkeypatch.setattr(lean._blank, "view", lambda shape, *_: torch.full(shape, torch.nan))
    x = torch.randn(2, 2000)
    result = InputGradient(lambda x: (x * x).sum(1)).attribute(x)
    assert result.isnan().all()


class Odd(nn.Module):
    """In-place steps, views, a reused rectifier, a skip, and a checkpointed middle."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.relu = nn.ReLU(inplace=True)
        self.mix = nn.Conv2d(8, 8, 3, padding=1)
        self.pool = nn.MaxPool2d(3, 2, 1)
        self.head = nn.Linear(8, 5)

    def middle(self, x):
        return F.relu6(self.mix(x))

    def forward(self, x):
        x = self.relu(self.norm(self.conv(x)))
        y = self.relu(self.mix(x) + x)
        y = y * 1
        y[:, :4] *= 2
        y = self.pool(y).transpose(2, 3)
        z = checkpoint(self.middle, y, use_reentrant=False)
        z += y
        z = F.leaky_relu(self.mix(z), 0.1)
        left, right = z.relu().chunk(2, 1)
        gate = torch.sigmoid(right)
        return self.head(F.avg_pool2d(torch.cat([left * gate, right], 1), 2).mean((2, 3)))


@pytest.mark.parametrize("memory", MEMORY)
@pytest.mark.parametrize(
    "kind", ["plain", "channels_last", "double", "float16", "bfloat16", "autocast", "train"]
)
def test_odd_steps(kind, memory, poison):
    model, images = Odd().eval(), torch.randn(2, 3, 24, 20)
    if kind == "channels_last":
        model = model.to(memory_format=torch.channels_last)
        images = images.to(memory_format=torch.channels_last)
    if kind in ("double", "float16", "bfloat16"):
        dtype = torch.float64 if kind == "double" else getattr(torch, kind)
        model, images = model.to(dtype), images.to(dtype)
    if kind == "train":
        model.train()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=kind == "autocast"):
        assert_same_as_autograds(model, images, 3, memory)


@pytest.mark.parametrize("recurrent", [nn.GRU, nn.LSTM])
def test_a_recurrent_layers_nodes_are_looked_at_once(recurrent, monkeypatch):
    # There are twice as many ways down to each step's nodes as to those of the step after it.
    count, probe = 0, lean._Saver.probe

    def counted(saver, node, attribute):
        nonlocal count
        count += 1
        assert count < 1000
        return probe(saver, node, attribute)

    monkeypatch.setattr(lean._Saver, "probe", counted)
    torch.manual_seed(0)
    layer = recurrent(16, 32, batch_first=True).double()

    def model(x):
        return torch.relu(layer(torch.relu(x))[0][:, -1])

    assert_same_as_autograds(model, torch.randn(40, 16, 16).double(), 3, "light")
    assert count > 16  # at least one look at each step


@pytest.mark.parametrize("memory", MEMORY)
@pytest.mark.parametrize(
    "rectify", [F.relu, F.relu6, lambda x: F.hardtanh(x, -1, 2), lambda x: F.threshold(x, 0, 0)]
)
def test_a_rectifier_on_a_slice_of_what_was_transposed(rectify, memory):
    """Which saves its input as it lies in memory: with holes, and in an order of its own."""

    def forward(x):
        part = rectify((3 * x).transpose(0, 3)[:, 1:7])
        return part.transpose(0, 3).flatten(1) @ torch.linspace(-1, 1, 6 * 400).view(2400, 1)

    images = torch.randn(2, 8, 20, 20, generator=torch.Generator().manual_seed(0))
    assert_same_as_autograds(forward, images, 0, memory)


@pytest.mark.parametrize("memory", [*MEMORY, "autograd"])
def test_a_checkpoint_is_run_twice_however_little_is_kept(memory):
    """To look at what its nodes saved would run it again, at each call that follows."""
    calls = []

    def part(x):
        calls.append(x)
        return torch.relu(x * 2)

    def forward(x):
        x = checkpoint(part, x.repeat(1, 1, 1, 20), use_reentrant=False)
        return F.relu6(torch.relu(x) - 1).flatten(1)

    InputGradient(forward, memory=memory).attribute(torch.randn(2, 3, 8, 8), 1)
    assert len(calls) == 2


@pytest.mark.parametrize("memory", MEMORY)
def test_a_layer_that_makes_a_weight(memory, poison):
    torch.manual_seed(0)
    conv = nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 4, 3))
    model = nn.Sequential(conv, nn.ReLU(), nn.Flatten(), nn.Linear(4 * 14 * 14, 5))
    images, layer = torch.randn(4, 3, 16, 16), "0.parametrizations.weight.0"
    for kind in (LayerDeconvnet, GuidedGradCam):
        expected = kind(model, layer, memory="autograd").attribute(images, 2)
        assert expected.any()
        assert torch.equal(kind(model, layer, memory=memory).attribute(images, 2), expected)


@pytest.mark.parametrize("memory", MEMORY)
def test_other_questions(memory, model, images):
    for cls, layer, question in (
        (NeuronDeconvnet, "conv2", (1, 2, 2)),
        (LayerDeconvnet, "conv1", 2),
        (GuidedGradCam, "conv2", 2),
    ):
        ours = cls(model, layer, memory=memory).attribute(images, question)
        assert torch.equal(ours, cls(model, layer, memory="autograd").attribute(images, question))


def penalised(x):
    """Return scores that a gradient of the model's own went into."""
    leaf = x.detach().requires_grad_()
    inner = torch.relu(leaf.flatten(1) @ torch.linspace(-1, 1, 192 * 40).view(192, 40))
    (gradient,) = torch.autograd.grad(inner.square().sum(), leaf, create_graph=True)
    return torch.relu(x * gradient).flatten(1)


def transformed(x):
    slopes = torch.func.vmap(torch.func.grad(lambda row: torch.relu(row).square().sum()))(
        x.flatten(1)
    )
    return spread(torch.relu(slopes - 0.5))


def checked(x):
    with torch.autograd.graph.save_on_cpu():
        return spread(torch.relu(x.flatten(1).repeat(1, 9)) * x.flatten(1).repeat(1, 9))


def normed(x):
    """Return scores over a single number, which saved a map."""
    rows = x.flatten(1).repeat(1, 9)
    return spread(torch.relu(rows) / torch.linalg.vector_norm(rows - 1))


def spread(rows):
    return rows @ torch.linspace(-1, 1, 5 * rows.shape[1]).view(-1, 5)


@pytest.mark.parametrize("memory", MEMORY)
@pytest.mark.parametrize("forward", [penalised, transformed, checked, normed])
def test_models_that_differentiate_or_save_on_their_own(forward, memory, images):
    assert_same_as_autograds(forward, images, 3, memory)


@pytest.mark.parametrize("build", [networks.InstanceNormed, networks.Apart])
@pytest.mark.parametrize("memory", MEMORY)
def test_rectifiers_in_place_on_views(build, memory):
    torch.manual_seed(0)
    assert_same_as_autograds(build().eval(), torch.randn(2, 3, 6, 7), 2, memory)


@pytest.mark.parametrize("memory", [*MEMORY, "autograd"])
def test_an_illegal_step_in_place_is_an_error_all_the_same(memory):
    def forward(x):
        y = torch.exp(x.repeat(1, 1000))
        y.add_(1)
        return y.sum(1)

    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        InputGradient(forward, memory=memory).attribute(torch.ones(2, 3))


def test_inside_a_region_that_forbids_hooks(images):
    model = networks_small()
    expected = Deconvnet(model, memory="autograd").attribute(images, 2)
    with torch.autograd.graph.disable_saved_tensors_hooks("none here"):
        assert torch.equal(Deconvnet(model, memory="lean").attribute(images, 2), expected)


def orders():
    """Tensors whose values lie in memory in every manner."""
    x = torch.randn(3, 4, 5, 6, generator=torch.Generator().manual_seed(0))
    return {
        "contiguous": x,
        "transposed": x.transpose(1, 3),
        "channels last": x.to(memory_format=torch.channels_last),
        "one value": x[0, 0, 0, :1],
        "a channel of one": x[:, :1].contiguous().as_strided((3, 1, 5, 6), (30, 7, 6, 1)),
        "with holes": x[..., ::2],
        "part of a row": x.transpose(0, 3)[:, 1:3],
        "overlapping": x.flatten().as_strided((4, 4), (2, 1)),
        "expanded": x[:1].expand(2, 4, 5, 6),
    }


@pytest.mark.parametrize("order", orders())
def test_a_row_is_in_the_order_of_its_memory_where_that_is_dense(order):
    tensor = orders()[order]
    steps = zip(tensor.shape, tensor.stride(), strict=True)
    places = torch.tensor(0)
    for size, stride in steps:
        places = places[..., None] + torch.arange(size) * stride
    dense = sorted(places.flatten().tolist()) == list(range(tensor.numel()))
    assert lean._is_dense(tensor) is dense
    assert dense is (order not in ("with holes", "part of a row", "overlapping", "expanded"))
    row = lean._in_order(tensor)
    expected = tensor.flatten()
    assert torch.equal(row, expected[places.flatten().argsort()] if dense else expected)
    assert (row.data_ptr() == tensor.data_ptr()) or not dense


@pytest.mark.parametrize(
    ("order", "gradients"),
    [(a, b) for a, x in orders().items() for b, y in orders().items() if x.shape == y.shape],
)
def test_a_mask_is_applied_in_whatever_order_the_gradient_is(order, gradients, monkeypatch):
    """In many parts; some hold no whole number of bytes."""
    monkeypatch.setattr(lean, "_PART", 64)
    x = orders()[order].detach().requires_grad_()
    node = F.hardtanh(x, 0, 1).grad_fn  # which saves its input, in whatever order
    gradient = orders()[gradients].clone(memory_format=torch.preserve_format)
    expected = gradient.where((x > 0) & (x < 1), 0)
    mask = lean.Mask(node, x.detach(), lean._Arena())
    assert mask._kept.nbytes == (x.numel() + 7) // 8
    assert torch.equal(mask.unpack(), torch.where((x > 0) & (x < 1), 0.5, 0.0))
    result = mask.apply_(gradient)
    assert torch.equal(result, expected)
    assert result is gradient
    mask.applied = True
    assert torch.equal(mask.unpack(), torch.full_like(x, 0.5))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_what_a_node_reads_of_a_mask_is_of_its_type(dtype):
    x = torch.tensor([-1.0, 0.0, 0.5, 6.0], dtype=dtype).requires_grad_()
    mask = lean.Mask(F.relu6(x).grad_fn, x.detach(), lean._Arena())
    for applied, expected in ((False, [0.0, 0.0, 3.0, 0.0]), (True, [3.0] * 4)):
        mask.applied = applied
        assert mask.unpack().dtype == dtype
        assert mask.unpack().tolist() == expected


def test_bits_of_many_rows_lie_side_by_side():
    arena, seed = lean._Arena(), torch.Generator().manual_seed(0)
    sizes = [1, 7, 8, 9, 2**24, 5, 2**24 - 3, 2**18, 2**18 + 1, 3 * 2**18, 100]
    rows = [torch.randint(0, 2, (size,), dtype=torch.uint8, generator=seed) for size in sizes]
    places = [arena.keep(row) for row in rows]
    for row, place in zip(rows, places, strict=True):
        assert place.nbytes == (len(row) + 7) // 8
        assert np.array_equal(np.unpackbits(place, count=len(row)), row.numpy())
    assert arena.keep(torch.ones(2**25 + 9, dtype=torch.uint8)).nbytes == 2**22 + 2


def test_one_blank_is_handed_out_in_many_shapes(monkeypatch):
    monkeypatch.setattr(lean, "_MOST_VIEWS", 3)
    blank, cpu = lean._Blank(), torch.device("cpu")
    asked = [
        (torch.Size((2, 3)), (3, 1), torch.float32),
        (torch.Size((2, 3)), (1, 2), torch.float32),
        (torch.Size((2, 3)), (3, 1), torch.float64),
        (torch.Size((0, 3)), (3, 1), torch.float32),
        (torch.Size(()), (), torch.bfloat16),
        (torch.Size((40, 3)), (6, 2), torch.float32),
        (torch.Size((2, 3)), (3, 1), torch.int64),
    ]
    for shape, stride, dtype in asked:
        view = blank.view(shape, stride, dtype, cpu)
        assert (view.shape, view.stride(), view.dtype) == (shape, stride, dtype)
        assert not view.any()
        assert blank.view(shape, stride, dtype, cpu) is view
        assert view.untyped_storage().data_ptr() == blank._bytes.data_ptr()
        assert len(blank._views) <= 3
    elsewhere = blank.view(torch.Size((2,)), (1,), torch.float64, torch.device("meta"))
    assert (elsewhere.is_meta, elsewhere.dtype) == (True, torch.float64)


def networks_small():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Flatten(), nn.Linear(576, 4)).eval()


def test_threads(images):
    model = networks_small()
    snapshot = Snapshot(model, images)
    calls = [
        lambda m=memory, c=cls: c(model, memory=m).attribute(images, 1)
        for memory in MEMORY
        for cls in (GuidedBackprop, Deconvnet)
    ]
    expected = [call() for call in calls]
    wrong = []

    def repeat(number):
        for _ in range(100):
            if not torch.equal(calls[number](), expected[number]):
                wrong.append(number)

    threads = [threading.Thread(target=repeat, args=(n % 4,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    snapshot.assert_unchanged()


@pytest.mark.parametrize("memory", MEMORY)
def test_nothing_is_left_of_a_pass(memory, images, monkeypatch):
    gc.collect()
    before = count_holders()
    made = []
    make = recording.make_recorder

    def remember(kind):
        made.append(weakref.ref(recorder := make(kind)))
        return recorder

    monkeypatch.setattr(recording, "make_recorder", remember)
    model = networks_small()
    Deconvnet(model, memory=memory).attribute(images, 1)
    with pytest.raises(IndexError):
        Deconvnet(model, memory=memory).attribute(images, 99)
    gc.collect()
    assert len(made) == 2
    assert all(reference() is None for reference in made)
    assert count_holders() == before
    assert torch._C._autograd._top_saved_tensors_default_hooks(True) is None


def count_holders():
    return sum(type(o) is lean._Holder for o in gc.get_objects())


def test_activations_are_let_go_of(monkeypatch):
    """What is still held when the forward pass is over."""
    others = {o for o in gc.get_objects() if type(o) is lean._Holder}  # of earlier tests
    held = []
    answer = recording.Recording._answer

    def count(self, question, *, keep):
        gc.collect()
        tensors = [o for o in gc.get_objects() if type(o) is lean._Holder and o not in others]
        unique = {t.tensor.data_ptr(): t.tensor.nbytes for t in tensors if t.tensor is not None}
        held.append(sum(unique.values()))
        return answer(self, question, keep=keep)

    monkeypatch.setattr(recording.Recording, "_answer", count)
    layers = [
        layer
        for _ in range(6)
        for layer in (nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
    ]
    model = nn.Sequential(*layers, nn.MaxPool2d(2), nn.Flatten()).eval()
    images = torch.randn(2, 8, 32, 32)
    maps = images.nbytes
    for memory in MEMORY:
        GuidedBackprop(model, memory=memory).attribute(images, 5)
    light, least = held
    assert 5 * maps < light < 8 * maps  # each rectifier's result
    assert least < 1.5 * maps


def test_an_unknown_memory_is_refused(model, images):
    with pytest.raises(ValueError, match="unknown memory 'small': choose from light, lean"):
        Deconvnet(model, memory="small")
    with pytest.raises(ValueError, match="unknown memory"):
        compare(model, images, 1, memory="small")
    assert lean.make_recorder("autograd") is None

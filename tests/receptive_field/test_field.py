"""The receptive field against the bounding box of the gradient's non-zero values.

The oracle runs the network with nothing that could cancel or hide a path: positive weights,
rectifiers that pass everything on, and each max-pooling as the mean over its window.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch
from networks import Returning
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torchvision import models

from captum_deconv import receptive_field

Box = tuple[tuple[int, int], ...]


class _Means(TorchFunctionMode):
    """Every max-pooling is a sum over its window, and every activation the identity."""

    IDENTITIES = ("relu", "relu_", "hardtanh", "hardtanh_", "hardswish", "silu", "gelu")

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        name = getattr(func, "__name__", "")
        if name in self.IDENTITIES:
            return args[0]
        if name.startswith(("max_pool", "boolean_dispatch")):
            x, kernel, stride, padding, dilation, ceil_mode = _pool_arguments(*args, **kwargs)
            assert dilation in (1, (1, 1))
            pool = getattr(F, f"avg_pool{x.dim() - 2}d")
            return pool(x, kernel, stride, padding, ceil_mode)
        return func(*args, **kwargs)


def _pool_arguments(
    x, kernel_size, stride=None, padding=0, dilation=1, ceil_mode=False, return_indices=False
):
    return x, kernel_size, stride, padding, dilation, ceil_mode


def make_positive(model: nn.Module) -> nn.Module:
    """Give every weight the same sign and a size at which signals neither vanish nor explode."""
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            fan_in = parameter[0].numel() if parameter.dim() > 1 else 1
            scale = 0.0 if name == "bias" else 1 / fan_in
            parameter.data.uniform_(0.5 * scale, 1.5 * scale)
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.running_mean.zero_()
            module.running_var.fill_(1)
    return model.double().eval()


@contextmanager
def captured(model: nn.Module) -> Iterator[dict[str, Tensor]]:
    """Yield what each layer returns in a pass, by its name; the last call counts."""
    outputs: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[..., Tensor | None]:
        def hook(module, args, output):
            if not isinstance(output, Tensor):
                return None
            outputs[name] = output
            return output.clone()  # what follows may work in place

        return hook

    handles = [m.register_forward_hook(keep(n)) for n, m in model.named_modules()]
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()


def bound_gradients(output: Tensor, images: Tensor, positions: list[tuple[int, ...]]) -> list[Box]:
    """Return the box of the non-zero gradient of each position, one image of the batch for each."""
    assert len(images) >= len(positions)
    seeds = torch.zeros_like(output)
    for number, position in enumerate(positions):
        seeds[(number, slice(None), *position)] = 1
    (gradient,) = torch.autograd.grad(output, images, seeds, retain_graph=True)
    return [bound(gradient[number]) for number in range(len(positions))]


def bound(gradient: Tensor) -> Box:
    places = gradient.abs().sum(0).nonzero()
    if not len(places):
        return ((0, 0),) * (gradient.dim() - 1)
    return tuple(zip(places.amin(0).tolist(), (places.amax(0) + 1).tolist(), strict=True))


def choose_positions(shape: torch.Size) -> list[tuple[int, ...]]:
    """Both corners, and the middle."""
    return [(0,) * len(shape), tuple(n // 2 for n in shape), tuple(n - 1 for n in shape)]


def check(model: nn.Module, image_size: tuple[int, ...], channels: int = 3) -> dict[str, str]:
    """Compare every layer's boxes with the gradient's, and tell how each layer came out."""
    images = torch.ones(3, channels, *image_size, dtype=torch.double)
    model = make_positive(model)
    with captured(model) as outputs:
        leaf = images.clone().requires_grad_()
        with _Means():
            model(leaf * 1)
        oracle = {name: output for name, output in outputs.items() if output.dim() >= 2}
        outputs.clear()
        own_leaf = images[:1].clone().requires_grad_()
        model(own_leaf * 1)
    verdicts = {}
    for name, output in oracle.items():
        field = receptive_field.trace(outputs[name], own_leaf)
        positions = choose_positions(output.shape[2:])
        if field.whole_image:
            assert field.box(positions[1]) == tuple((0, n) for n in image_size), name
            verdicts[name] = "whole"
            continue
        seen = bound_gradients(output, leaf, positions)
        for position, expected in zip(positions, seen, strict=True):
            assert field.box(position) == expected, (name, position, field)
        verdicts[name] = "exact"
    return verdicts


# The size of the image, and how many of the layers must come out with a box of their own: the
# others are behind a squeeze-excitation, an attention, a global mean or a flattening.
NETWORKS = {
    "alexnet": (96, 13),
    "mobilenet_v2": (32, 150),
    "convnext_tiny": (64, 3),
    "googlenet": (32, 180),
    "mnasnet0_5": (48, 140),
    "mobilenet_v3_small": (48, 8),
    "resnet18": (64, 60),
    "shufflenet_v2_x0_5": (64, 150),
    "squeezenet1_1": (64, 60),
    "vgg11_bn": (48, 29),
}
LARGER_NETWORKS = {
    "densenet121": (48, 420),
    "efficientnet_b0": (48, 8),
    "inception_v3": (96, 280),
    "regnet_x_400mf": (48, 180),
    "swin_t": (64, 1),
}
LONGER = [pytest.param(name, marks=pytest.mark.slow) for name in LARGER_NETWORKS]


@pytest.mark.parametrize("name", [*NETWORKS, *LONGER])
def test_every_layer_agrees_with_the_gradient(name):
    size, least = {**NETWORKS, **LARGER_NETWORKS}[name]
    extra = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    verdicts = check(getattr(models, name)(weights=None, **extra), (size, size))
    exact = [layer for layer, verdict in verdicts.items() if verdict == "exact"]
    assert len(exact) >= least, sorted(set(verdicts) - set(exact))


class Sum(nn.Module):
    """Branches that meet again."""

    def __init__(self, *branches: nn.Module) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, x: Tensor) -> Tensor:
        first, *others = [branch(x) for branch in self.branches]
        for other in others:
            first = first + other
        return first


class Join(Sum):
    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([branch(x) for branch in self.branches], 1)


def conv(dimensions: int = 2, **settings) -> nn.Module:
    return (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dimensions - 1](2, 2, **{"kernel_size": 3, **settings})


def transposed(dimensions: int = 2, **settings) -> nn.Module:
    layers = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
    return layers[dimensions - 1](2, 2, **{"kernel_size": 3, **settings})


LOCAL = {
    "conv1d": (1, conv(1, stride=2, padding=3, dilation=2)),
    "conv2d": (2, conv(stride=(1, 3), padding=(2, 0), kernel_size=(4, 2))),
    "conv3d": (3, conv(3, stride=2, padding=1)),
    "same": (2, conv(padding="same", kernel_size=5)),
    "more padding than kernel": (2, conv(kernel_size=1, padding=2)),
    "transposed1d": (1, transposed(1, stride=3, padding=1, output_padding=1)),
    "transposed2d": (2, nn.Sequential(transposed(stride=2, kernel_size=2), conv(stride=3))),
    "transposed with gaps": (2, transposed(stride=4, kernel_size=2)),
    "transposed that begins with a gap": (2, transposed(stride=4, kernel_size=2, padding=2)),
    "transposed3d": (3, transposed(3, stride=2, dilation=2)),
    "max pool 1d": (1, nn.MaxPool1d(3, 2, 1)),
    "max pool ceil": (2, nn.MaxPool2d(3, 2, 1, ceil_mode=True)),
    "max pool 3d": (3, nn.MaxPool3d(2)),
    "avg pool 1d": (1, nn.AvgPool1d(3)),
    "avg pool": (2, nn.AvgPool2d((2, 3), 1, (1, 0), ceil_mode=True)),
    "avg pool 3d": (3, nn.AvgPool3d(2, 1)),
    "lp pool": (2, nn.LPPool2d(2, 3, 2)),
    "zero padding": (2, nn.Sequential(nn.ZeroPad2d((1, 2, 3, -1)), conv())),
    "constant padding 1d": (1, nn.ConstantPad1d(2, 1.0)),
    "reflection": (2, nn.Sequential(nn.ReflectionPad2d((1, 2, 3, 0)), conv())),
    "reflection in a convolution": (2, conv(padding=1, padding_mode="reflect")),
    "replication": (2, nn.Sequential(nn.ReplicationPad2d((1, 2, 3, 0)), conv())),
    "replication 3d": (3, nn.ReplicationPad3d(1)),
    "slices": (2, Returning(lambda x: x[:, :, 2:-1, 1::2])),
    "narrow and select": (2, Returning(lambda x: x.narrow(2, 3, 5)[:, :1])),
    "channels taken apart": (2, Returning(lambda x: torch.stack(x.unbind(1), 1) + x.flip(1))),
    "chunks": (2, Returning(lambda x: x.chunk(2, 1)[1] + x.split([1, 1], 1)[0])),
    "rows taken apart": (2, nn.Sequential(Returning(lambda x: x.split(4, 2)[1]), conv())),
    "channel shuffle": (2, nn.Sequential(conv(), nn.ChannelShuffle(2))),
    "permuted there and back": (
        2,
        Returning(lambda x: x.permute(0, 2, 3, 1).softmax(3).square().permute(0, 3, 1, 2)),
    ),
    "views": (2, Returning(lambda x: x.view(3, 1, 2, *x.shape[2:]).squeeze(1).unsqueeze(0)[0])),
    "channel means": (2, Returning(lambda x: x * x.mean(1, keepdim=True) + x.amax(1)[:, None])),
    "layer norm of channels": (
        2,
        Returning(lambda x: F.layer_norm(x.square().movedim(1, -1), (2,)).square().movedim(-1, 1)),
    ),
    "local response norm": (2, nn.Sequential(conv(), nn.LocalResponseNorm(2))),
    "branches": (2, Sum(conv(padding=1), nn.Identity(), conv(dilation=2, padding=2))),
    "branches, one of them in its padding": (
        2,
        Sum(
            nn.Sequential(conv(kernel_size=1), conv(kernel_size=1, padding=2)),
            nn.Sequential(conv(padding=1), conv(kernel_size=5, padding=4)),
        ),
    ),
    "joined branches": (2, Join(conv(padding=1), conv(kernel_size=1), nn.MaxPool2d(5, 1, 2))),
    "down and up": (
        2,
        Sum(conv(padding=1), nn.Sequential(conv(stride=2, padding=1), nn.Upsample(scale_factor=2))),
    ),
    "nearest": (2, nn.Sequential(nn.Upsample(scale_factor=3), conv())),
    "nearest to a size": (2, nn.Upsample(size=(17, 7))),
    "nearest exact": (2, nn.Upsample(size=(17, 7), mode="nearest-exact")),
    "linear": (1, nn.Upsample(scale_factor=2, mode="linear")),
    "bilinear": (2, nn.Upsample(scale_factor=2, mode="bilinear")),
    "bilinear to a size": (2, nn.Upsample(size=(17, 7), mode="bilinear")),
    "bilinear corners": (2, nn.Upsample(size=(23, 6), mode="bilinear", align_corners=True)),
    "trilinear": (3, nn.Upsample(scale_factor=2, mode="trilinear")),
    "bicubic": (2, nn.Upsample(scale_factor=2, mode="bicubic")),
    # Of which every third place falls on a position of the input, and its neighbours do not.
    "bicubic corners": (
        2,
        nn.Sequential(
            nn.Upsample(size=(34, 28), mode="bicubic", align_corners=True), conv(kernel_size=2)
        ),
    ),
    "pixel shuffle": (
        2,
        nn.Sequential(Returning(lambda x: x.repeat(1, 2, 1, 1)), nn.PixelShuffle(2)),
    ),
    "pixel unshuffle": (2, nn.PixelUnshuffle(2)),
    "activations": (
        2,
        nn.Sequential(nn.PReLU(2), nn.ELU(), nn.Softplus(), nn.Hardtanh(0, 50), nn.Tanh()),
    ),
    "batch norm": (2, nn.Sequential(conv(), nn.BatchNorm2d(2), nn.Dropout())),
    "mixed types": (2, Returning(lambda x: x.float().clone().double() * 2 - 1)),
}


@pytest.mark.parametrize("name", LOCAL)
def test_each_operation_at_every_position(name):
    dimensions, layer = LOCAL[name]
    size = ((12,), (12, 10), (6, 5, 4))[dimensions - 1]
    model = make_positive(nn.Sequential(layer))
    field, expected = compare_everywhere(model, size)
    assert not field.whole_image
    boxes = {p: field.box(p) for p in expected}
    assert boxes == expected
    assert field.image_size == size
    assert all(len(n) == dimensions for n in (field.size, field.stride, field.offset))


def compare_everywhere(model: nn.Module, size: tuple[int, ...]):
    """Return the field of a model's output, and the gradient's box of each of its positions."""
    torch.manual_seed(0)
    images = torch.rand(3, 2, *size, dtype=torch.double) + 0.5
    field = receptive_field.of(model, "0", images)
    leaf = images.clone().requires_grad_()
    with _Means():
        output = model(leaf * 1)
    expected = {}
    for position in torch.cartesian_prod(*map(torch.arange, output.shape[2:])).reshape(
        -1, len(size)
    ):
        place = tuple(position.tolist())
        # Random factors, so that what two channels pass back does not cancel.
        value = (output[(0, slice(None), *place)] * torch.rand(output.shape[1])).sum()
        (gradient,) = torch.autograd.grad(value, leaf, retain_graph=True)
        expected[place] = bound(gradient[0])
    return field, expected


@pytest.mark.parametrize(
    "layer",
    [
        nn.AdaptiveAvgPool2d(1),
        nn.AdaptiveMaxPool2d(3),
        nn.GroupNorm(1, 2),
        nn.InstanceNorm2d(2),
        nn.Softmax(dim=-1),
        nn.Sequential(nn.Flatten(), nn.Linear(240, 4)),
        nn.Linear(10, 10),
        conv(padding=1, padding_mode="circular"),
        nn.MultiheadAttention(10, 2),
        nn.Fold((4, 5), 2),
        Returning(lambda x: x + x.mean((2, 3), keepdim=True)),
        Returning(lambda x: x + x.transpose(2, 3).reshape_as(x)),
        Returning(lambda x: x.flip(2)),
        Returning(lambda x: x.cumsum(2)),
        Returning(lambda x: x[:, :, torch.arange(3)]),
        Returning(lambda x: x * x.max()),
        Returning(lambda x: torch.cat([x, x], 2)),
        Returning(lambda x: x.sum((2, 3))),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_what_mixes_space_sees_along_that_axis_everything(layer):
    if isinstance(layer, nn.MultiheadAttention):
        attention = layer.double()
        layer = Returning(lambda x: attention(*[x[:, 0]] * 3)[0])
    if isinstance(layer, nn.Fold):
        fold = layer
        layer = Returning(lambda x: fold(x.flatten(1).reshape(3, 20, 12)))
    model = nn.Sequential(layer.double().eval(), nn.Identity())
    images = torch.rand(3, 2, 12, 10, dtype=torch.double)
    field = receptive_field.of(model, "1", images)
    output = model(images)
    box = field.box((0,) * (output.dim() - 2))
    assert (0, 12) in box or (0, 10) in box
    assert field.whole_image == (box == ((0, 12), (0, 10)))


def test_batch_norm_that_trains_mixes_everything():
    model = nn.Sequential(nn.BatchNorm2d(2))
    images = torch.rand(3, 2, 8, 8)
    assert receptive_field.of(model, "0", images).whole_image
    assert not receptive_field.of(model.eval(), "0", images).whole_image


@pytest.mark.parametrize(
    "function",
    [lambda x: x * 2 + x.mean(2, keepdim=True), lambda x: x.mean(2, keepdim=True) + x * 2],
    ids=["last", "first"],
)
def test_what_one_branch_mixes_leaves_the_other_axis(function):
    model = nn.Sequential(Returning(function))
    field = receptive_field.of(model, "0", torch.rand(1, 2, 12, 10))
    assert field.box((3, 4)) == ((0, 12), (4, 5))


@pytest.mark.parametrize(
    "function", [lambda x: x * 2 + x.mT, lambda x: x.mT + x * 2], ids=["last", "first"]
)
def test_an_axis_that_two_branches_swap_is_seen_whole(function):
    model = nn.Sequential(Returning(function))
    field = receptive_field.of(model, "0", torch.rand(1, 2, 8, 8))
    assert field.box((3, 4)) == ((0, 8), (0, 8))


def test_errors(model, images):
    with pytest.raises(ValueError, match="conv9"):
        receptive_field.of(model, "conv9", images)
    with pytest.raises(TypeError, match=r"\(N, C, \*spatial\)"):
        receptive_field.of(model, "conv1", torch.rand(3, 8))
    with pytest.raises(RuntimeError, match="does not require grad"):
        receptive_field.of(nn.Sequential(Returning(torch.ones_like)), "0", images)
    weights = nn.Parameter(torch.ones(3, 4, 8, 8))
    with pytest.raises(TypeError, match=r"layer '0' returns 2 tensors, not one"):
        receptive_field.of(nn.Sequential(Returning(lambda x: (x * 2, x))), "0", images)
    with pytest.raises(TypeError, match=r"returns \(3,\), not \(N, C, \*map\)"):
        receptive_field.of(nn.Sequential(Returning(lambda x: x.sum((1, 2, 3)))), "0", images)
    with pytest.raises(RuntimeError, match=r"^the layer does not depend on the images"):
        receptive_field.of(nn.Sequential(Returning(lambda x: weights * 2)), "0", images)


def test_the_oracle_can_fail():
    """A wrong padding, a dropped branch and a clipped border each make the comparison fail."""
    model = make_positive(nn.Sequential(conv(stride=2, padding=1)))
    field, expected = compare_everywhere(model, (12, 10))
    wrong = receptive_field.ReceptiveField(
        field.size, field.stride, (0, 0), field.alignment, field.image_size, False
    )
    assert {p: wrong.box(p) for p in expected} != expected
    right = receptive_field.ReceptiveField(
        field.size, field.stride, field.offset, field.alignment, field.image_size, False
    )
    assert {p: right.box(p) for p in expected} == expected
    assert math.prod(b - a for a, b in expected[(0, 0)]) == 4

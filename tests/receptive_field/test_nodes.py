"""The table of nodes, row by row, against what a place changes with, counted one by one."""

import itertools
import re

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from captum_deconv.receptive_field import crops, nodes, trace

SIZES = {1: (9,), 2: (6, 5), 3: (4, 5, 3)}


def weight(*shape):
    return torch.linspace(0.5, 1.5, torch.Size(shape).numel(), dtype=torch.double).reshape(shape)


class Pair(nn.Module):
    """Two outputs, each of one input."""

    def forward(self, one, other):
        return one.flip(2) * 2, other * 3


def hook(x):
    pair = Pair()
    pair.register_full_backward_hook(lambda *_: None)
    return pair(x.flip(2), x)[1]


NORM = (weight(2), weight(2), weight(2), weight(2))
CASES = {
    "Relu": [F.relu],
    "Hardtanh": [lambda x: F.hardtanh(x, -1, 20)],
    "Threshold": [lambda x: F.threshold(x, 0.0, -1.0)],
    "Clamp": [lambda x: x.clamp(-20, 20)],
    "ClampMin": [lambda x: x.clamp_min(0.1)],
    "ClampMax": [lambda x: x.clamp_max(20.0)],
    "LeakyRelu": [F.leaky_relu],
    "Elu": [F.elu],
    "Celu": [F.celu],
    "Gelu": [F.gelu],
    "Silu": [F.silu],
    "Mish": [F.mish],
    "Softplus": [F.softplus],
    "Hardswish": [F.hardswish],
    "Hardsigmoid": [F.hardsigmoid],
    "Sigmoid": [torch.sigmoid],
    "Tanh": [torch.tanh],
    "LogSigmoid": [F.logsigmoid],
    "Softshrink": [F.softshrink],
    "Hardshrink": [F.hardshrink],
    "Neg": [torch.neg],
    "Abs": [torch.abs],
    "Exp": [torch.exp, lambda x: x.permute(2, 3, 0, 1).exp().permute(2, 3, 0, 1)],
    "Exp2": [torch.exp2],
    "Expm1": [torch.expm1],
    "Log": [torch.log],
    "Log2": [torch.log2],
    "Log10": [torch.log10],
    "Log1P": [torch.log1p],
    "Sqrt": [torch.sqrt],
    "Rsqrt": [torch.rsqrt],
    "Reciprocal": [torch.reciprocal],
    "Pow": [torch.square, lambda x: 2**x, lambda x: x ** x.mean(1, keepdim=True)],
    "Sin": [torch.sin],
    "Cos": [torch.cos],
    "Erf": [torch.erf],
    "Sign": [torch.sign],
    "Round": [torch.round],
    "Floor": [torch.floor],
    "Ceil": [torch.ceil],
    "NanToNum": [torch.nan_to_num],
    "Add": [
        lambda x: x + 1,
        lambda x: x + x[:, :1],
        lambda x: x[0][None] + x,
        lambda x: x[0, 0] + x,
    ],
    "Sub": [lambda x: x - weight(6, 1)],
    "Rsub": [lambda x: 1 - x],
    "Mul": [lambda x: x * weight(2, 1, 1), lambda x: x[0] * x],
    "Div": [lambda x: x / x.sum(1, keepdim=True)],
    "Maximum": [lambda x: torch.maximum(x, x.flip(1))],
    "Minimum": [lambda x: torch.minimum(x, x.flip(1))],
    "Fmax": [lambda x: torch.fmax(x, x.flip(1))],
    "Fmin": [lambda x: torch.fmin(x, x.flip(1))],
    "Where": [lambda x: torch.where(weight(6, 5) > 1, x, x * 2)],
    "MaskedFill": [lambda x: x.masked_fill(weight(2, 1, 1) > 1, 0.0)],
    "Lerp": [lambda x: torch.lerp(x, x * 2, 0.3)],
    "Addcmul": [lambda x: torch.addcmul(x, x, x)],
    "Addcdiv": [lambda x: torch.addcdiv(x, x, x + 1)],
    "Clone": [torch.clone],
    "ToCopy": [lambda x: x.float()],
    "Copy": [lambda x: torch.zeros(1, 2, 6, 5).copy_(x)],
    "Alias": [torch.ops.aten.alias],
    "Expand": [lambda x: x[:, :1].expand(1, 4, 6, 5), lambda x: x[0].expand(2, 2, 6, 5)],
    "Repeat": [lambda x: x.repeat(2, 2, 1, 1), lambda x: x[0].repeat(2, 1, 1, 1)],
    "NativeDropout": [lambda x: torch.native_dropout(x, 0.1, True)[0]],
    "RreluWithNoise": [lambda x: F.rrelu(x, training=True)],
    "PreluKernel": [lambda x: F.prelu(x, weight(2))],
    "ChannelShuffle": [lambda x: F.channel_shuffle(x, 2)],
    "BackwardHookFunction": [hook],
    "NativeBatchNorm": [lambda x: F.batch_norm(x, *NORM)],
    "NativeLayerNorm": [
        lambda x: F.layer_norm(x.movedim(1, 3), (2,)).movedim(3, 1),
        lambda x: F.layer_norm(x, (5,)),
        lambda x: F.layer_norm(x, (6, 5)),
    ],
    "Softmax": [lambda x: x.softmax(1), lambda x: x.softmax(-1), lambda x: x.softmax(2)],
    "LogSoftmax": [lambda x: x.log_softmax(1), lambda x: x.log_softmax(-1)],
    "Cumsum": [lambda x: x.cumsum(1)],
    "Cumprod": [lambda x: x.cumprod(1)],
    "Flip": [lambda x: x.flip(1), lambda x: x.flip(0, 1)],
    "Roll": [lambda x: x.roll(1, 1), lambda x: x.roll((1, 1), (0, -3))],
    "Glu": [lambda x: F.glu(x, 1)],
    "Mean": [
        lambda x: x.mean(1, keepdim=True),
        lambda x: x.mean((0, 1))[None, None],
        lambda x: x * x.mean(-1, keepdim=True),
    ],
    "Sum": [lambda x: x.sum(1)[None], lambda x: x * x.sum(-2)[:, :, None], lambda x: x * x.sum()],
    "Amax": [lambda x: x.amax(1, keepdim=True)],
    "Amin": [lambda x: x.amin(1)[None]],
    "Max": [lambda x: x.max(1).values[None], lambda x: x * x.max()],
    "Min": [lambda x: x.min(1, keepdim=True).values],
    "Prod": [lambda x: x.prod(1)[None]],
    "Var": [lambda x: x.var(1, keepdim=True), lambda x: x.square().var(-3)[None]],
    "Std": [lambda x: x.std((0, 1))[None, None], lambda x: x * x.std()],
    "LinalgVectorNorm": [F.normalize, lambda x: x.norm(dim=-3)[None]],
    "Logsumexp": [lambda x: x.logsumexp(1, keepdim=True)],
    "Cat": [
        lambda x: torch.cat([x, x[:, :1]], 1),
        lambda x: torch.cat([x, x * 2], -3),
        lambda x: torch.cat([weight(1, 2, 0, 5), x], 2),
    ],
    "Stack": [
        lambda x: torch.stack([x[:, 0], x[:, 1]], 1),
        lambda x: torch.stack([x[0, 0], x[0, 1]], -3)[None],
        lambda x: torch.stack([x, x], -1).movedim(-1, 1).flatten(1, 2),
    ],
    "Select": [lambda x: x[:, 1][:, None], lambda x: x.unsqueeze(-1).select(-1, 0)],
    "Unbind": [
        lambda x: torch.stack(x.unbind(1), 1),
        lambda x: x.movedim(1, -1).unbind(-1)[1][None],
    ],
    "Split": [
        lambda x: x.split(1, 1)[1],
        lambda x: x.split(2, 2)[0],
        lambda x: x.split(2, -2)[2],
        lambda x: x.chunk(2, 3)[1],
    ],
    "SplitWithSizes": [
        lambda x: x.split([1, 3, 2], 2)[0],
        lambda x: x.split([1, 3, 2], 2)[1],
        lambda x: x.split([1, 3, 2], -2)[2],
    ],
    "Slice": [
        lambda x: x[:, :, 1:],
        lambda x: x[:, :, 1:5:3, ::2],
        lambda x: x[:, :, -4:-1],
        lambda x: x[:, :, -9:, :-2],
        lambda x: x.narrow(-1, 1, 3),
        lambda x: x.tensor_split(2, 2)[1],
    ],
    "Permute": [lambda x: x.permute(0, 2, 3, 1).movedim(-1, 1), lambda x: x.permute(1, 0, -2, -1)],
    "Transpose": [lambda x: x.transpose(0, 1), lambda x: x.mT.exp().transpose(-1, 2)],
    "View": [lambda x: x.view(2, 1, 6, 5), lambda x: x.view(1, 1, 2, 6, 1, 5)[0, ..., 0, :]],
    "UnsafeView": [lambda x: torch.ops.aten._unsafe_view(x, (1, 1, 2, 6, 5))[:, 0]],
    "ReshapeAlias": [lambda x: torch.ops.aten._reshape_alias(x, (2, 1, 6, 5), (30, 30, 5, 1))],
    "Squeeze": [lambda x: x.squeeze(0)[None], lambda x: x.squeeze()[None]],
    "Unsqueeze": [lambda x: x.unsqueeze(1).flatten(1, 2)],
    "Convolution": [
        lambda x: F.conv2d(x, weight(3, 2, 3, 2), weight(3), (2, 1), (1, 0), (1, 2)),
        lambda x: F.conv2d(x, weight(2, 1, 2, 2), groups=2),
        lambda x: F.conv2d(x[0], weight(3, 2, 3, 3), padding=2)[None],
        lambda x: F.conv_transpose2d(x, weight(2, 3, 2, 3), None, (3, 1), (0, 1), (1, 0)),
    ],
    "MaxPool2DWithIndices": [
        lambda x: F.max_pool2d(x, 2),
        lambda x: F.max_pool2d(x, (3, 2), (2, 1), (1, 0), (1, 2)),
        lambda x: F.max_pool2d(x[0], (1, 3), 2, ceil_mode=True)[None],
    ],
    "MaxPool3DWithIndices": [
        lambda x: F.max_pool3d(x, (2, 1, 3), (1, 2, 2)),
        lambda x: F.max_pool3d(x, 2, 1, 1, (2, 1, 1)),
    ],
    "AvgPool2D": [lambda x: F.avg_pool2d(x, 2), lambda x: F.avg_pool2d(x, (3, 2), (1, 2), (1, 0))],
    "AvgPool3D": [lambda x: F.avg_pool3d(x, (2, 1, 3), (1, 2, 2), (1, 0, 1))],
    "ConstantPadNd": [
        lambda x: F.pad(x, (1, 0, 2, 1)),
        lambda x: F.pad(x, (3, -1)),
        lambda x: F.pad(x, (-1, 2, 0, -2, 1, 1)),
    ],
    "ReflectionPad1D": [
        lambda x: F.pad(x, (4, 2), "reflect"),
        lambda x: F.pad(x, (-2, 2), "reflect"),
    ],
    "ReflectionPad2D": [lambda x: F.avg_pool2d(F.pad(x, (1, 2, 3, 0), "reflect"), 2, 1)],
    "ReflectionPad3D": [lambda x: F.avg_pool3d(F.pad(x, (1, 2, 0, 1, 3, 0), "reflect"), 2, 1)],
    "ReplicationPad1D": [
        lambda x: F.pad(x, (4, 2), "replicate"),
        lambda x: F.pad(x, (3, -2), "replicate"),
    ],
    "ReplicationPad2D": [lambda x: F.avg_pool2d(F.pad(x, (1, 2, 3, 0), "replicate"), 2, 1)],
    "ReplicationPad3D": [lambda x: F.avg_pool3d(F.pad(x, (1, 2, 0, 1, 3, 0), "replicate"), 2, 1)],
    "PixelShuffle": [lambda x: F.pixel_shuffle(x.repeat(1, 2, 1, 1), 2)],
    "PixelUnshuffle": [lambda x: F.pixel_unshuffle(x[..., :4], 2)],
}
RESAMPLED = {
    "Nearest1D": "nearest",
    "Nearest2D": "nearest",
    "Nearest3D": "nearest",
    "NearestExact1D": "nearest-exact",
    "NearestExact2D": "nearest-exact",
    "NearestExact3D": "nearest-exact",
    "Linear1D": "linear",
    "Bilinear2D": "bilinear",
    "Trilinear3D": "trilinear",
    "Bicubic2D": "bicubic",
}


def resample(mode, **settings):
    return lambda x: F.interpolate(x, mode=mode, **settings)


for name, mode in RESAMPLED.items():
    axes = int(name[-2])
    CASES[f"Upsample{name}"] = [
        resample(mode, scale_factor=(2.0, 3.0, 4.0)[:axes]),
        resample(mode, scale_factor=(1.5, 0.5, 1.0)[:axes]),
        resample(mode, size=(5, 7, 2)[:axes]),
    ]
    if "earest" not in name:
        CASES[f"Upsample{name}"] += [
            resample(mode, size=(5, 9, 2)[:axes], align_corners=True),
            resample(mode, scale_factor=2.0, align_corners=True),
        ]

CASES["UpsampleNearest2D"] += [
    lambda x: F.interpolate(x.mean(2, keepdim=True), (4, 7)),
    lambda x: F.interpolate(x[:, :, :2], scale_factor=2),
]

# What is said to see more than it does, along an axis or both.
WIDER = [
    lambda x: x - x[:, :, :1],
    lambda x: x * x[:, :, 2:3, 1:2],
    lambda x: x.view(1, 2, 3, 10)[..., :5],
    lambda x: x.repeat(1, 1, 2, 1),
    lambda x: torch.cat([x[:, :, :2], x], 2),
    lambda x: torch.cat([x[..., 1:], x[..., :2]], -1),
    lambda x: x.flip(2),
    lambda x: x.flip(-1, -2),
    lambda x: x.roll(7),
    lambda x: x.roll((1, 1), (2, -1)),
    lambda x: x.cumsum(-2),
    lambda x: F.glu(x[..., 1:], -1),
    lambda x: x.mT.reshape(x.shape),
    lambda x: x.mT.square(),
    lambda x: torch.stack([x[:, :, 1], x[:, :, 4]], 3),
    lambda x: x.sort(2).values,
    lambda x: F.interpolate(x, (1, 7)),
    lambda x: F.interpolate(x[:, :, :1], (4, 7), mode="bilinear"),
    lambda x: F.interpolate(x[:, :, :1], scale_factor=2.0, mode="nearest-exact"),
    lambda x: F.interpolate(x[:, :, :1], (4, 7), mode="bilinear", align_corners=True),
    lambda x: F.interpolate(x, (1, 7), mode="bilinear", align_corners=True),
    lambda x: F.pixel_shuffle(x.transpose(1, 2)[:, :4], 2).transpose(1, 2),
    lambda x: F.pixel_unshuffle(x.transpose(1, 2)[..., :4], 2).transpose(1, 2),
    lambda x: F.pad(x, (2, 1, 0, 0), "circular"),
    lambda x: F.conv2d(weight(1, 2, 6, 5), x[:, :, :2, :2]),
    lambda x: F.batch_norm(x, *NORM[:2], x.sum((0, 2, 3)), None),
    lambda x: F.batch_norm(x[..., :2], *NORM[:2], x[..., :2].sum((0, 1, 2)), None),
]

# Recorded on a GPU only.
ELSEWHERE = {"CudnnBatchNorm", "MiopenBatchNorm", "FusedDropout", "FusedRmsNorm"}

ROWS = [
    pytest.param(name, function, id=f"{name}-{number}")
    for name, functions in CASES.items()
    for number, function in enumerate(functions)
]


def make_images(name):
    digit = re.search(r"(\d)D", name)
    size = SIZES[int(digit[1]) if digit else 2]
    generator = torch.Generator().manual_seed(0)
    return torch.rand(1, 2, *size, dtype=torch.double, generator=generator) + 0.5


def list_nodes(tensor):
    waiting, found = [tensor.grad_fn], {}
    while waiting:
        node = waiting.pop()
        if node is not None and node not in found:
            found[node] = re.sub(r"Backwards?\d*$", "", type(node).__name__)
            waiting += [source for source, _ in node.next_functions]
    return set(found.values())


def count(function, images):
    """Return, for each place of a function's maps, the places of the images it changes with."""
    seen = {}
    before = run(function, images)
    places = itertools.product(*map(range, images.shape[2:]))
    for place, sign in itertools.product(places, (-1, 1)):
        changed = images.clone()
        changed[(..., *place)] *= sign * torch.tensor([4, 8])
        for other in (run(function, changed) != before).flatten(0, 1).any(0).nonzero():
            seen.setdefault(tuple(other.tolist()), []).append(place)
    return seen


def run(function, images):
    torch.manual_seed(0)
    return function(images)


def bound(places, dimensions):
    if not places:
        return ((0, 0),) * dimensions
    return tuple((min(along), max(along) + 1) for along in zip(*places, strict=True))


def test_every_row_has_a_case():
    assert set(nodes._HANDLERS) == set(CASES) | ELSEWHERE


@pytest.mark.parametrize(("name", "function"), ROWS)
def test_a_row_against_changing_place_by_place(name, function):
    images = make_images(name)
    leaf = images.clone().requires_grad_()
    output = function(leaf.clone())
    assert name in list_nodes(output)
    field, seen = trace(output, leaf), count(function, images)
    dimensions = images.dim() - 2
    for place in itertools.product(*map(range, output.shape[2:])):
        assert field.box(place) == bound(seen.get(place), dimensions), place


@pytest.mark.parametrize("number", range(len(WIDER)))
def test_a_box_holds_all_that_a_place_changes_with(number):
    images = make_images("")
    leaf = images.clone().requires_grad_()
    field, seen = trace(WIDER[number](leaf.clone()), leaf), count(WIDER[number], images)
    for place, places in seen.items():
        box = field.box(place)
        for (start, stop), (first, last) in zip(box, bound(places, 2), strict=True):
            assert start <= first < last <= stop, (place, box)


MOVES = {
    "whole slice": (lambda x: x[..., :], 1),
    "slice": (lambda x: x[..., 2:], 12),
    "slice with steps": (lambda x: x[..., 1::3], 3),
    "slice to an end": (lambda x: x[..., :7], 12),
    "slice to before the end": (lambda x: x[..., :-2], 12),
    "slice with steps to before the end": (lambda x: x[..., :-1:3], 3),
    "slice from the end": (lambda x: x[..., -9:], 12),
    "first part": (lambda x: x.split(7, 2)[0], 12),
    "first half": (lambda x: x.chunk(2, 2)[0], 12),
    "only part": (lambda x: x.split(12, 2)[0], 1),
    "cut off by padding": (lambda x: F.pad(x, (-1, 1)), 12),
    "cut off behind by padding": (lambda x: F.pad(x, (1, -2)), 12),
    "second part": (lambda x: x.chunk(2, 2)[1], 12),
    "first part of a size": (lambda x: x.split([7, 5], 2)[0], 12),
    "second part of a size": (lambda x: x.split([5, 7], 2)[1], 12),
    "transposed convolution": (lambda x: F.conv_transpose1d(x, weight(2, 2, 3), stride=2), 1),
    "transposed convolution of gaps": (
        lambda x: F.conv_transpose1d(x, weight(2, 2, 2), weight(2), stride=3),
        12,
    ),
    "transposed convolution, cut off": (
        lambda x: F.conv_transpose1d(x, weight(2, 2, 2), stride=2, padding=1),
        12,
    ),
    "transposed convolution of the double": (
        lambda x: F.conv_transpose1d(x, weight(2, 2, 4), stride=2, padding=1),
        1,
    ),
    "reflection": (lambda x: F.avg_pool1d(F.pad(x, (1, 1), "reflect"), 3, 2), 2),
    "nearest": (resample("nearest", scale_factor=3.0), 1),
    "nearest exact": (resample("nearest-exact", scale_factor=2.0), 1),
    "linear": (resample("linear", scale_factor=2.0), 1),
    "coarser, then finer": (lambda x: F.interpolate(F.avg_pool1d(x, 4), scale_factor=2.0), 4),
    "linear between corners": (resample("linear", scale_factor=2.0, align_corners=True), 12),
    "nearest to a size": (resample("nearest", size=24), 12),
    "linear to a size": (resample("linear", size=9), 12),
    "nearest to its own size": (resample("nearest", size=12), 12),
    "nearest to a half": (resample("nearest", scale_factor=0.5), 12),
    "linear by a fraction": (resample("linear", scale_factor=0.7), 12),
    "linear by one and a half": (resample("linear", scale_factor=1.5), 12),
}


@pytest.mark.parametrize("padded", [0, 1, 2])
@pytest.mark.parametrize("name", MOVES)
def test_a_neuron_cannot_tell_its_crop_from_the_image(name, padded):
    """Nor one of a layer behind, which takes what it finds no positions for as padding."""
    inner, alignment = MOVES[name]

    def function(x):
        return F.avg_pool1d(inner(x), 2 * padded + 1, 1, padded)

    images = torch.rand(1, 2, 12, dtype=torch.double, generator=torch.Generator().manual_seed(0))
    leaf = images.clone().requires_grad_()
    output = function(leaf.clone())
    field = trace(output, leaf)
    assert field.alignment == (alignment,)
    for place in range(output.shape[2]):
        crop = crops.cut(field, (place,))
        part = function(crop.cut_from(images[0])[None])
        torch.testing.assert_close(part[..., crop.position[0]], output[..., place])


def test_a_factor_is_the_fraction_that_was_meant():
    """One over a float near a third is three."""
    images = torch.zeros(1, 1, 128, requires_grad=True)
    for count in (3, 64, 49):
        field = trace(F.interpolate(images * 1, scale_factor=1 / count), images)
        assert (field.stride, field.size, field.box((1,))) == (
            (count,),
            (1,),
            ((count, count + 1),),
        )

"""Convolutions of every kind, and the gradient that their transposes are held against."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from captum_deconv import adjoint

# torch says once that it pads a copy; on which test that falls is of no interest.
pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")

# Sums of at most a few hundred terms of size one: rounding errors stay far below, mistakes far
# above.


TOLERANCE = 1e-12

LAYERS = {
    "plain": (lambda: nn.Conv2d(3, 4, 3, bias=False), (7, 8)),
    "bias": (lambda: nn.Conv2d(3, 4, 3), (7, 8)),
    "stride leaves a rest": (lambda: nn.Conv2d(2, 3, 3, stride=4, padding=1), (9, 12)),
    "stride beyond the kernel": (lambda: nn.Conv2d(2, 3, 1, stride=3), (9, 8)),
    "dilation": (lambda: nn.Conv2d(2, 3, (3, 2), stride=2, dilation=(2, 3), padding=2), (9, 10)),
    "groups": (lambda: nn.Conv2d(4, 6, 3, groups=2, padding=1), (5, 6)),
    "depthwise": (lambda: nn.Conv2d(4, 8, 3, groups=4, stride=2), (6, 6)),
    "padding wider than the kernel": (lambda: nn.Conv2d(1, 2, 2, padding=4, stride=3), (4, 5)),
    "same": (lambda: nn.Conv2d(2, 3, 3, padding="same"), (5, 6)),
    "same, even kernel": (lambda: nn.Conv2d(2, 3, (4, 2), padding="same", dilation=(1, 3)), (5, 6)),
    "valid": (lambda: nn.Conv2d(2, 3, 3, padding="valid", stride=2), (6, 7)),
    "reflect": (lambda: nn.Conv2d(2, 3, 3, padding=2, padding_mode="reflect", stride=2), (6, 5)),
    "replicate": (lambda: nn.Conv2d(2, 3, 3, padding=5, padding_mode="replicate"), (3, 4)),
    "circular": (lambda: nn.Conv2d(2, 3, 3, padding=3, padding_mode="circular"), (3, 4)),
    "circular, same": (
        lambda: nn.Conv2d(2, 3, 4, padding="same", padding_mode="circular"),
        (4, 5),
    ),
    "1-D": (lambda: nn.Conv1d(2, 3, 3, stride=2), (8,)),
    "1-D reflect": (lambda: nn.Conv1d(2, 3, 4, padding="same", padding_mode="reflect"), (6,)),
    "3-D": (lambda: nn.Conv3d(2, 4, (1, 3, 2), stride=(1, 2, 2), groups=2), (3, 6, 5)),
    "3-D replicate": (lambda: nn.Conv3d(1, 2, 3, padding=1, padding_mode="replicate"), (3, 2, 4)),
    "transposed": (lambda: nn.ConvTranspose2d(4, 6, 3, stride=2, groups=2), (4, 5)),
    "transposed, output padding": (
        lambda: nn.ConvTranspose2d(2, 3, 3, stride=3, padding=1, output_padding=(2, 1)),
        (3, 4),
    ),
    "transposed, output padding of a stride and more": (
        lambda: nn.ConvTranspose2d(2, 3, 2, stride=2, dilation=4, output_padding=3, padding=1),
        (3, 4),
    ),
    "transposed, 1-D": (lambda: nn.ConvTranspose1d(2, 3, 3, dilation=2), (4,)),
    "transposed, 3-D": (lambda: nn.ConvTranspose3d(1, 2, 2, stride=2), (2, 3, 2)),
    "linear": (lambda: nn.Linear(5, 3), ()),
}


def random_input(layer, size, batch=2):
    channels = layer.in_features if isinstance(layer, nn.Linear) else layer.in_channels
    generator = torch.Generator().manual_seed(1)
    return torch.randn(batch, channels, *size, dtype=torch.float64, generator=generator)


def input_gradient(layer, x):
    x = x.requires_grad_()
    y = layer(x)
    g = torch.randn(y.shape, dtype=y.dtype, generator=torch.Generator().manual_seed(2))
    return g, torch.autograd.grad(y, x, g)[0]


class StandardisedConv(nn.Conv2d):
    def forward(self, x):
        return F.conv2d(x, self.weight - self.weight.mean())


def break_transpose(change):
    def build(layer, size):
        transpose = copy.deepcopy(adjoint.transpose_of(layer, size))
        change(transpose)
        return transpose

    return build


def unflip(transpose):
    transpose.weight.data = transpose.weight.data.flip(2, 3)


def mix_up_groups(transpose):
    transpose.weight.data = transpose.weight.data.roll(
        transpose.in_channels // transpose.groups, dims=0
    )


def leave_groups_untransposed(layer, size):
    # The channel axes swapped across the groups instead of within each.
    def apply(g):
        weight = layer.weight.reshape(layer.in_channels // layer.groups, -1, *layer.kernel_size)
        filters = weight.transpose(0, 1).reshape(layer.weight.shape)
        return F.conv_transpose2d(g, filters, padding=layer.padding, groups=layer.groups)

    return apply


def without_output_padding(layer, size):
    def apply(g):
        return F.conv_transpose2d(g, layer.weight, stride=layer.stride, padding=layer.padding)

    return apply


def shift_by_output_padding(layer, size):
    # The right shape, but the rest is put ahead of the map and not behind it.
    def apply(g):
        return F.pad(without_output_padding(layer, size)(g), (1, 0, 1, 0))

    return apply


def skip_the_fold(layer, size):
    def apply(g):
        padded = F.conv_transpose2d(g, layer.weight)
        return padded[..., 1:-1, 1:-1]

    return apply

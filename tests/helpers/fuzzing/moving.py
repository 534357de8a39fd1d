"""Shapes, places, views, and writing in place."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from fuzzing.making import Make, WithWeights, dimensions, knobbed, only, plain, weights


def _grown(mode: str, wanted: int) -> Make:
    def make(x: Tensor, knob: int) -> Callable[[Tensor], Tensor]:
        only(wanted in (0, dimensions(x)))
        options = (
            {} if mode in ("nearest", "nearest-exact", "area") else {"align_corners": knob > 1}
        )
        size = tuple(side + 1 + knob for side in x.shape[2:])
        return lambda x: F.interpolate(x, size, mode=mode, **options)

    return make


def _sampled(x: Tensor, knob: int) -> nn.Module:
    only(dimensions(x) in (2, 3))
    turned = torch.eye(dimensions(x), dimensions(x) + 1).to(x.dtype) * 0.8 + 0.1

    def sample(x: Tensor, theta: Tensor) -> Tensor:
        grid = F.affine_grid(theta.expand(len(x), -1, -1), list(x.shape), align_corners=False)
        return F.grid_sample(x, grid, align_corners=False, padding_mode="border")

    return WithWeights(sample, turned)


def _aligned(x: Tensor, knob: int) -> Callable[[Tensor], Tensor]:
    only(dimensions(x) == 2 and len(x) > 0 and x.dtype in (torch.float32, torch.float64))
    box = torch.tensor([[0.5, 0.5, x.shape[3] - 0.5, x.shape[2] - 1.0]]).to(x.dtype)
    return lambda x: torchvision.ops.roi_align(x, [box] * len(x), 3)


def _unfolded(x: Tensor) -> Tensor:
    only(dimensions(x) == 2)
    columns = F.unfold(x, 3, padding=1) * 1.5
    return F.fold(columns, x.shape[2:], 3, padding=1) / 9


def _filtered(x: Tensor, knob: int) -> nn.Module:
    only(x.dtype in (torch.float32, torch.float64))
    width = x.shape[-1]

    def apply(x: Tensor, w: Tensor) -> Tensor:
        return torch.fft.irfft(torch.fft.rfft(x) * w, n=width)

    return WithWeights(apply, 1 + weights(x, width // 2 + 1))


def _pad(mode: str) -> Make:
    return lambda x, knob: lambda x: F.pad(x, [1, 1] * dimensions(x), mode=mode)


def _split(x: Tensor) -> Tensor:
    parts = x.split([1, x.shape[1] - 1], 1)
    return torch.cat([parts[1] * 2, parts[0]], 1)


def _shuffled(x: Tensor) -> Tensor:
    return x.unflatten(1, (2, -1)).transpose(1, 2).flatten(1, 2)


def _written(x: Tensor, knob: int) -> Tensor:
    y = x.clone()
    if knob == 0:
        y[:, ::2] *= 2
    elif knob == 1:
        y[:, :1] = y[:, -1:] * 1.5
    elif knob == 2:
        y[..., 1:].add_(x[..., :-1])
    else:
        y[:, 0].zero_()
    return y


def _assembled(x: Tensor) -> Tensor:
    """Return a buffer that is filled place by place, as a loop over time does."""
    buffer = torch.zeros_like(x)
    for place in range(x.shape[-1]):
        buffer[..., place] = torch.sin(x[..., place])
    return buffer


def _permuted(x: Tensor, knob: int) -> Tensor:
    return x.index_select(1, torch.arange(x.shape[1] - 1, -1, -1))


SHAPES: dict[str, Make] = {
    "upsampled to the nearest": _grown("nearest", 0),
    "upsampled to the exact nearest": _grown("nearest-exact", 0),
    "upsampled by areas": _grown("area", 0),
    "upsampled linearly": _grown("linear", 1),
    "upsampled bilinearly": _grown("bilinear", 2),
    "upsampled bicubically": _grown("bicubic", 2),
    "upsampled trilinearly": _grown("trilinear", 3),
    "pixels shuffled": lambda x, knob: lambda x: F.pixel_shuffle(x.repeat_interleave(4, 1), 2),
    "pixels unshuffled": lambda x, knob: (
        lambda x: F.pixel_unshuffle(x[..., : x.shape[-2] // 2 * 2, : x.shape[-1] // 2 * 2], 2)
    ),
    "channels shuffled": plain(_shuffled),
    "channels shuffled by torch": lambda x, knob: nn.ChannelShuffle(2),
    "sampled on a grid": _sampled,
    "aligned boxes": _aligned,
    "unfolded and folded": plain(_unfolded),
    "filtered by Fourier": _filtered,
    "padded": _pad("constant"),
    "padded by reflection": _pad("reflect"),
    "padded by replication": _pad("replicate"),
    "padded circularly": _pad("circular"),
    "cropped": plain(lambda x: x[..., 1:]),
    "every second place": plain(lambda x: x[..., ::2]),
    "narrowed": plain(lambda x: x.narrow(1, 0, max(1, x.shape[1] - 1))),
    "split and swapped": plain(_split),
    "unbound and stacked": plain(lambda x: torch.stack(x.unbind(1)[::-1], 1)),
    "chunks added": plain(lambda x: torch.cat([x.chunk(2, 1)[0] * 2, x], 1)),
    "channels selected": knobbed(_permuted),
    "gathered": plain(lambda x: x.gather(1, x.argsort(1))),
    "sorted": plain(lambda x: x.sort(-1).values),
    "two largest": plain(lambda x: x.topk(min(2, x.shape[1]), 1).values),
    "summed up": plain(lambda x: x.cumsum(-1) / 2),
    "permuted": plain(lambda x: x.transpose(-1, 1).contiguous().transpose(-1, 1) * 1.5),
    "turned": plain(lambda x: x.transpose(-1, -2) if dimensions(x) > 1 else x.flip(-1)),
    "flipped": plain(lambda x: x.flip(-1)),
    "rolled": knobbed(lambda x, knob: x.roll(knob, -1)),
    "repeated": plain(lambda x: x.repeat_interleave(2, 1)),
    "expanded": plain(lambda x: x + x[:, :1].expand_as(x)),
    "flattened and back": plain(lambda x: x.flatten(1).unflatten(1, x.shape[1:])),
    "viewed": plain(lambda x: x.contiguous().view(len(x), x.shape[1], -1).view(x.shape) * 0.7),
    "maps flattened": lambda x, knob: (only(dimensions(x) > 1), lambda x: x.flatten(-2))[1],
    "written in place": knobbed(_written),
    "assembled place by place": plain(_assembled),
    "added in place": plain(lambda x: x.clone().add_(x.flip(-1), alpha=0.5)),
    "multiplied in place": plain(lambda x: x.clone().mul_(1.5).sub_(0.1)),
    "halved and doubled": plain(lambda x: x.double().mul(0.5).to(x.dtype)),
}

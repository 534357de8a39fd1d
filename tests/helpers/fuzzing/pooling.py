"""Pooling and norms."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fuzzing.making import Make, Moved, dimensions, maps, module, norm, of, only, plain


def _unpooled(x: Tensor, knob: int) -> Callable[[Tensor], Tensor]:
    pool, unpool = of("max_pool", x, F), of("max_unpool", x, F)

    def there_and_back(x: Tensor) -> Tensor:
        pooled, switches = pool(x, 2, return_indices=True)
        return unpool(pooled * 2, switches, 2, output_size=x.shape[2:])

    return there_and_back


def _fractional(x: Tensor, knob: int) -> Callable[[Tensor], Tensor]:
    pool = of("fractional_max_pool", x, F)
    samples = torch.rand(len(x), x.shape[1], dimensions(x)).to(x.dtype)
    return lambda x: pool(x, 2, output_ratio=0.6, _random_samples=samples)


class PowerPool(nn.Module):
    """A power-average pooling, which rectifies a magnitude where the reference cannot see it."""

    def __init__(self, x: Tensor) -> None:
        super().__init__()
        self.pool, self.average = of("lp_pool", x, F), of("avg_pool", x, F)
        self.places = 2 ** dimensions(x)
        self.as_reference = False

    def forward(self, x: Tensor) -> Tensor:
        x = x * x + 0.5
        if not self.as_reference:
            return self.pool(x, 2, 2)
        means = self.average(x.pow(2), 2)
        return (torch.sign(means) * F.relu(torch.abs(means))).mul(self.places).pow(0.5)


def _divided(x: Tensor, knob: int) -> nn.Module:
    only(dimensions(x) > 1)
    return of("AvgPool", x)(2, divisor_override=3)


POOLS: dict[str, Make] = {
    "max pooling": module("MaxPool", 2),
    "max pooling, overlapping": module("MaxPool", 3, 2, 1),
    "max pooling, ceiled": module("MaxPool", 3, 2, ceil_mode=True),
    "max pooling, dilated": module("MaxPool", 2, 1, dilation=2),
    "max pooling, stride one": module("MaxPool", 3, 1, 1),
    "max pooling and unpooling": _unpooled,
    "average pooling": module("AvgPool", 2),
    "average pooling, overlapping": module("AvgPool", 3, 2, 1, ceil_mode=True),
    "average pooling, uncounted": module("AvgPool", 3, 2, 1, count_include_pad=False),
    "average pooling, divided": _divided,
    "power-average pooling": lambda x, knob: PowerPool(x),
    "adaptive average pooling": module("AdaptiveAvgPool", 3),
    "adaptive max pooling": module("AdaptiveMaxPool", 3),
    "fractional max pooling": _fractional,
    "global mean": plain(lambda x: x - 0.5 * x.mean(maps(x), keepdim=True)),
    "global maximum": plain(lambda x: x - 0.5 * x.amax(maps(x), keepdim=True)),
    "maximum over channels": plain(lambda x: x + x.max(1, keepdim=True).values),
    "minimum over channels": plain(lambda x: x - x.min(1, keepdim=True)[0]),
    "median over channels": plain(lambda x: x - x.median(1, keepdim=True).values),
    "standard deviation": plain(lambda x: x / (x.std(1, keepdim=True, unbiased=False) + 1)),
    "log-sum-exp": plain(lambda x: x - torch.logsumexp(x, 1, keepdim=True)),
}


def _instance_norm(**options: Any) -> Make:
    """Make an instance norm of several examples.

    Of one, torch (2.14) itself gets the gradient wrong where it lies in channels-last memory, and
    so the reference does.
    """
    make = norm("InstanceNorm", **options)
    return lambda x, knob: (only(len(x) != 1), make(x, knob))[1]


def _layer_norm(x: Tensor, knob: int) -> nn.Module:
    return nn.LayerNorm(x.shape[2 + knob % dimensions(x) :])


def _response(x: Tensor, knob: int) -> nn.Module:
    return nn.LocalResponseNorm(3, alpha=0.5)


def _rms_norm(x: Tensor, knob: int) -> nn.Module:
    return nn.Sequential(Moved(), nn.RMSNorm(x.shape[1]), Moved(back=True))


NORMS: dict[str, Make] = {
    "batch norm": norm("BatchNorm"),
    "batch norm, plain": norm("BatchNorm", affine=False),
    "batch norm, training": norm("BatchNorm", training=True),
    "batch norm, training, averaged": norm("BatchNorm", training=True, momentum=None),
    "batch norm, without statistics": norm("BatchNorm", track_running_stats=False),
    "instance norm": _instance_norm(),
    "instance norm, affine": _instance_norm(affine=True),
    "instance norm, tracked": _instance_norm(track_running_stats=True),
    "instance norm, training": _instance_norm(training=True, track_running_stats=True),
    "group norm": lambda x, knob: nn.GroupNorm(1 + (x.shape[1] % 2 == 0), x.shape[1]),
    "layer norm": _layer_norm,
    "root-mean-square norm": _rms_norm,
    "local response norm": _response,
    "normalisation": plain(lambda x: F.normalize(x, dim=1)),
    "cosine similarity": plain(lambda x: x + F.cosine_similarity(x, x.flip(1), dim=1).unsqueeze(1)),
}

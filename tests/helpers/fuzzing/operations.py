"""What a network is made of between its rectifiers, by name.

Each entry makes, for the tensor ``(N, C, *map)`` that it will get and a knob of 0 to 3, a module or
a function that returns one of the same number of dimensions. What does not fit that tensor raises,
and the network then goes without it.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
import torchvision
from opaque import Opaque
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from torch.utils.checkpoint import checkpoint

Make = Callable[[Tensor, int], Callable[[Tensor], Tensor]]


class UnfitError(Exception):
    """This operation is not for that tensor."""


def dimensions(x: Tensor) -> int:
    """Return of how many dimensions the maps are."""
    return x.dim() - 2


def maps(x: Tensor) -> tuple[int, ...]:
    """Return the dimensions of the maps."""
    return tuple(range(2, x.dim()))


def only(found: bool) -> None:
    """Raise, where an operation is not for such a tensor."""
    if not found:
        raise UnfitError


def of(name: str, x: Tensor, home: Any = nn) -> Any:
    """Return the module or function of this name for maps of so many dimensions."""
    return getattr(home, f"{name}{dimensions(x)}d")


def module(name: str, *arguments: Any, **options: Any) -> Make:
    """Make a module that knows no channels, such as a pooling."""
    return lambda x, knob: of(name, x)(*arguments, **options)


def convolution(out: int = 4, size: int = 3, *, transposed: bool = False, **options: Any) -> Make:
    """Make a convolution."""
    name = "ConvTranspose" if transposed else "Conv"
    return lambda x, knob: of(name, x)(x.shape[1], out, size, **options)


def norm(name: str, *, training: bool = False, **options: Any) -> Make:
    """Make a norm of channels; one in training mode is so whatever the model's mode."""

    def make(x: Tensor, knob: int) -> nn.Module:
        made = of(name, x)(x.shape[1], **options)
        made.stays_in_training = training
        return made

    return make


def plain(function: Callable[[Tensor], Tensor]) -> Make:
    """Make an operation of a function that knows all it needs."""
    return lambda x, knob: function


def knobbed(function: Callable[[Tensor, int], Tensor]) -> Make:
    """Make an operation of a function of the tensor and the knob."""
    return lambda x, knob: lambda x: function(x, knob)


class WithWeights(nn.Module):
    """A function of a tensor and of weights, which stand in order of their use."""

    def __init__(self, function: Callable[..., Tensor], *weights: Tensor) -> None:
        super().__init__()
        self.function = function
        self.weights = nn.ParameterList(weights)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x, *self.weights)


def weights(x: Tensor, *shape: int) -> Tensor:
    """Return random weights of the tensor's type."""
    return torch.randn(*shape).to(x.dtype) / max(1, shape[-1])


def kernel(x: Tensor, out: int, size: int = 3) -> Tensor:
    """Return a random kernel."""
    return weights(x, out, x.shape[1], *[size] * dimensions(x)) / 2


# ---- Convolutions ----


def _tied(x: Tensor, knob: int) -> nn.Module:
    """Make a convolution and its transpose, of the same weights."""
    convolve, transpose = of("conv", x, F), of("conv_transpose", x, F)
    return WithWeights(lambda x, w: transpose(torch.tanh(convolve(x, w)), w), kernel(x, 4))


def _twice(x: Tensor, knob: int) -> nn.Module:
    """Make a convolution that is applied twice."""
    convolve = of("conv", x, F)
    return WithWeights(
        lambda x, w: convolve(convolve(x, w, padding=1), w, padding=1), kernel(x, x.shape[1])
    )


def _dynamic(x: Tensor, knob: int) -> nn.Module:
    """Make a convolution whose weights depend on the input."""
    convolve = of("conv", x, F)
    return WithWeights(lambda x, w: convolve(x, w * (1 + x.mean())), kernel(x, 4))


def _of_rectified_weights(x: Tensor, knob: int) -> nn.Module:
    convolve = of("conv", x, F)
    return WithWeights(lambda x, w: convolve(x, F.relu(w) - 0.1), kernel(x, 4))


def _standardised(x: Tensor, knob: int) -> nn.Module:
    convolve = of("conv", x, F)

    def standardise(w: Tensor) -> Tensor:
        every = tuple(range(1, w.dim()))
        return (w - w.mean(every, keepdim=True)) / (w.std(every, keepdim=True) + 0.1)

    return WithWeights(lambda x, w: convolve(x, standardise(w)) / 3, kernel(x, 4))


def _deformable(x: Tensor, knob: int) -> nn.Module:
    only(dimensions(x) == 2 and x.dtype in (torch.float32, torch.float64))

    def deform(x: Tensor, w: Tensor) -> Tensor:
        offsets = x[:, :1, : x.shape[2] - 2, : x.shape[3] - 2].expand(-1, 18, -1, -1).sigmoid()
        return torchvision.ops.deform_conv2d(x, offsets, w)

    return WithWeights(deform, kernel(x, 4))


def _parametrized(function: Callable[..., nn.Module], **options: Any) -> Make:
    return lambda x, knob: function(of("Conv", x)(x.shape[1], x.shape[1], 3, padding=1), **options)


CONVOLUTIONS: dict[str, Make] = {
    "convolution": convolution(),
    "convolution, padded": convolution(6, padding=1),
    "convolution, strided": convolution(4, stride=2, padding=1),
    "convolution, dilated": convolution(4, 2, dilation=2, padding=1),
    "convolution, grouped": convolution(4, groups=2, padding=1),
    "convolution, depthwise": lambda x, knob: of("Conv", x)(
        x.shape[1], 2 * x.shape[1], 3, padding=1, groups=x.shape[1]
    ),
    "convolution, pointwise": convolution(6, 1),
    "convolution, pointwise and strided": convolution(4, 1, stride=2, bias=False),
    "convolution, padded the same": convolution(4, 3, padding="same", dilation=2),
    "convolution, reflected": convolution(4, padding=1, padding_mode="reflect"),
    "convolution, replicated": convolution(4, padding=1, padding_mode="replicate"),
    "convolution, circular": convolution(4, padding=1, padding_mode="circular"),
    "convolution, transposed": convolution(4, 2, transposed=True),
    "convolution, transposed and strided": convolution(
        4, 3, transposed=True, stride=2, padding=1, output_padding=1
    ),
    "convolution, transposed and grouped": convolution(4, 3, transposed=True, groups=2, padding=1),
    "convolution, transposed and dilated": convolution(4, 2, transposed=True, dilation=2),
    "convolution, tied to its transpose": _tied,
    "convolution, applied twice": _twice,
    "convolution, of dynamic weights": _dynamic,
    "convolution, of rectified weights": _of_rectified_weights,
    "convolution, standardised": _standardised,
    "convolution, deformable": _deformable,
    "convolution, of normed weights": _parametrized(parametrizations.weight_norm),
    "convolution, of spectral norm": _parametrized(parametrizations.spectral_norm),
    "linear over channels": lambda x, knob: nn.Sequential(
        Moved(), nn.Linear(x.shape[1], 4), Moved(back=True)
    ),
    "bilinear": lambda x, knob: _Bilinear(x.shape[1]),
    "einsum": lambda x, knob: WithWeights(
        lambda x, w: torch.einsum("nc...,cd->nd...", x, w), weights(x, x.shape[1], 4)
    ),
}


class Moved(nn.Module):
    """The channels moved to the end, or back."""

    def __init__(self, *, back: bool = False) -> None:
        super().__init__()
        self.back = back

    def forward(self, x: Tensor) -> Tensor:
        return x.movedim(-1, 1) if self.back else x.movedim(1, -1)


class _Bilinear(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.inner = nn.Bilinear(channels, channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = x.movedim(1, -1).contiguous()
        return self.inner(x, x.flip(-1)).movedim(-1, 1)


# ---- Pooling ----


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


# ---- Norms ----


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


# ---- Gates and attention ----


def _excitation(x: Tensor, knob: int) -> nn.Module:
    only(dimensions(x) == 2)
    return torchvision.ops.SqueezeExcitation(x.shape[1], 2)


class Tokens(nn.Module):
    """A module that takes ``(N, time, C)``, over the places of the maps."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        found = self.inner(x.flatten(2).transpose(1, 2))
        found = found[0] if isinstance(found, tuple) else found
        return found.transpose(1, 2).unflatten(2, x.shape[2:])


class Attention(nn.Module):
    """Self-attention of several heads."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.inner = nn.MultiheadAttention(channels, 1 + (channels % 2 == 0), batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x, x, x, need_weights=False)[0]


def _encoder(activation: str) -> Make:
    return lambda x, knob: Tokens(
        nn.TransformerEncoderLayer(
            *(x.shape[1], 1, 6), activation=activation, batch_first=True, norm_first=knob % 2 == 0
        )
    )


def _product(x: Tensor) -> Tensor:
    tokens = x.flatten(2).transpose(1, 2).unsqueeze(1)
    found = F.scaled_dot_product_attention(tokens, tokens.flip(-1), tokens * 2)
    return found.squeeze(1).transpose(1, 2).unflatten(2, x.shape[2:])


class Rows(nn.Module):
    """A recurrent layer, along the last dimension of the maps."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        rows = x.movedim(1, -1)
        found = self.inner(rows.flatten(0, -3))
        found = found[0] if isinstance(found, tuple) else found
        return found.unflatten(0, rows.shape[:-2]).movedim(-1, 1)


def _recurrent(kind: Callable[..., nn.Module], **options: Any) -> Make:
    return lambda x, knob: Rows(kind(x.shape[1], 4, batch_first=True, **options))


GATES: dict[str, Make] = {
    "sigmoid": plain(torch.sigmoid),
    "tanh": plain(torch.tanh),
    "softmax": plain(lambda x: F.softmax(x, 1)),
    "log-softmax": plain(lambda x: F.log_softmax(x, 1)),
    "hard sigmoid": plain(F.hardsigmoid),
    "hard tanh": plain(F.hardtanh),
    "softsign": plain(F.softsign),
    "tanhshrink": plain(F.tanhshrink),
    "hard shrinkage": plain(lambda x: F.hardshrink(x, 0.2)),
    "soft shrinkage": plain(lambda x: F.softshrink(x, 0.2)),
    "log-sigmoid": plain(F.logsigmoid),
    "gated linear unit": lambda x, knob: lambda x: F.glu(torch.cat([x, x.flip(1)], 1), 1),
    "gated by itself": plain(lambda x: x * torch.sigmoid(2 * x)),
    "clamped from above": plain(lambda x: x.clamp(max=0.5)),
    "clamped elsewhere": plain(lambda x: x.clamp(-0.4, 0.9)),
    "threshold elsewhere": plain(lambda x: F.threshold(x, 0.1, 0.0)),
    "rectifier in arithmetic": plain(lambda x: x * (x > 0)),
    "rectifier by where": plain(lambda x: torch.where(x > 0, x, torch.zeros_like(x))),
    "rectifier by a mask": plain(lambda x: x.masked_fill(x < 0, 0)),
    "absolute value": plain(torch.abs),
    "square": plain(lambda x: x.square() / 2),
    "sine": plain(torch.sin),
    "exponential": plain(lambda x: torch.exp(-x.abs())),
    "square root": plain(lambda x: (x.abs() + 0.1).sqrt()),
    "squeeze and excitation": _excitation,
    "attention": lambda x, knob: Tokens(Attention(x.shape[1])),
    "attention by a product": plain(_product),
    "transformer layer of ReLU": _encoder("relu"),
    "transformer layer of GELU": _encoder("gelu"),
    "LSTM": _recurrent(nn.LSTM),
    "GRU, both ways": _recurrent(nn.GRU, bidirectional=True),
    "RNN of tanh": _recurrent(nn.RNN, nonlinearity="tanh"),
    "dropout": lambda x, knob: nn.Dropout(0.3),
    "dropout of channels": lambda x, knob: of("Dropout", x)(0.3),
    "alpha dropout": lambda x, knob: nn.AlphaDropout(0.3),
    "dropout, always": plain(lambda x: F.dropout(x, 0.3, training=True)),
    "stochastic depth": lambda x, knob: torchvision.ops.StochasticDepth(0.3, "row"),
}


# ---- Shapes, places, views, writing in place ----


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


# ---- What only some networks do ----


class Checkpointed(nn.Module):
    """A convolution and a rectifier, computed again in the backward pass."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.as_reference = False  # whose rectifiers would be other ones when computed again

    def run(self, x: Tensor) -> Tensor:
        return F.relu(self.inner(x))

    def forward(self, x: Tensor) -> Tensor:
        return self.run(x) if self.as_reference else checkpoint(self.run, x, use_reentrant=False)


class Mapped(nn.Module):
    """A rectifier under ``torch.vmap``, where the reference cannot replace it."""

    def __init__(self) -> None:
        super().__init__()
        self.as_reference = False

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x) if self.as_reference else torch.vmap(torch.relu)(x)


class RectifiedRNN(nn.Module):
    """An RNN of ReLU units, or the loop it stands for: equal up to rounding."""

    rounds = True

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.inner = nn.RNN(channels, 4, nonlinearity="relu", batch_first=True)
        self.as_reference = False

    def forward(self, x: Tensor) -> Tensor:
        from oracle import UnrolledRNN

        return UnrolledRNN(self.inner)(x) if self.as_reference else self.inner(x)[0]


def _rectified_rnn(x: Tensor, knob: int) -> nn.Module:
    only(x.dtype == torch.float64 and len(x) > 0)
    return Rows(RectifiedRNN(x.shape[1]))


class Halted(nn.Module):
    """A branch that no gradient enters."""

    def __init__(self, *, recorded: bool) -> None:
        super().__init__()
        self.recorded = recorded

    def forward(self, x: Tensor) -> Tensor:
        if self.recorded:
            return x - 0.5 * F.relu(x).detach()
        with torch.no_grad():
            constant = F.relu(x).mean()
        return x - constant


class Scaled(nn.Module):
    """A tensor whose gradient the network itself scales, by a hook."""

    def forward(self, x: Tensor) -> Tensor:
        y = x * 1
        if y.requires_grad:
            y.register_hook(lambda gradient: gradient * 0.5)
        return y


def _hooked(x: Tensor, knob: int) -> nn.Module:
    made = of("Conv", x)(x.shape[1], 4, 1)
    if knob % 2:
        made.register_forward_hook(lambda module, args, output: output * 1.5)
    else:
        made.register_full_backward_hook(lambda module, into, out: None)
    return made


class Autocast(nn.Module):
    """A convolution in bfloat16."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            y = self.inner(x)
        return F.relu(y).to(x.dtype)


def _autocast(x: Tensor, knob: int) -> nn.Module:
    only(x.dtype == torch.float32)
    return Autocast(of("Conv", x)(x.shape[1], 4, 1))


RARE: dict[str, Make] = {
    "custom function": plain(Opaque.apply),
    "checkpoint": lambda x, knob: Checkpointed(of("Conv", x)(x.shape[1], 4, 1)),
    "rectifier under vmap": lambda x, knob: Mapped(),
    "RNN of ReLU": _rectified_rnn,
    "detached branch": lambda x, knob: Halted(recorded=True),
    "branch under no_grad": lambda x, knob: Halted(recorded=False),
    "hook on a tensor": lambda x, knob: Scaled(),
    "hook on a module": _hooked,
    "autocast inside": _autocast,
}

OPERATIONS: dict[str, Make] = {**CONVOLUTIONS, **POOLS, **NORMS, **GATES, **SHAPES, **RARE}

"""Gates, squashing functions, attention and recurrent layers, dropout."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from fuzzing.making import Make, Rows, dimensions, of, only, plain


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

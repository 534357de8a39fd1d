"""What only some networks do: checkpoints, hooks, branches that no gradient enters."""

import torch
import torch.nn.functional as F
from opaque import Opaque
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from fuzzing.making import Make, Rows, of, only, plain


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

        if not self.as_reference:
            return self.inner(x)[0]
        # Time by time in memory, as the RNN's: a dropout after it draws its numbers in that order.
        return UnrolledRNN(self.inner)(x).transpose(0, 1).contiguous().transpose(0, 1)


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

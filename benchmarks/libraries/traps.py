"""Twenty small networks, each hard in one way that it is named for, and one that is not.

All have seeded random weights, are in evaluation mode, and take one example. A network that is not
run op by op has its eager original beside it, for the reference.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from oracle import UnrolledRNN
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


class Trap(NamedTuple):
    """A network to explain, its inputs, and a network of the same values for the reference."""

    model: Any
    inputs: tuple[Tensor, ...]
    eager: Any


class Small(nn.Module):
    """Two convolutions, each with a rectifier of its own, and a linear layer."""

    def __init__(self, first: Any = None, second: Any = None) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 6, 3, padding=1)
        self.relu1, self.relu2 = first or nn.ReLU(), second or first or nn.ReLU()
        self.head = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits ``(N, 5)`` of images ``(N, 3, H, W)``."""
        x = self.relu1(self.conv1(x))
        x = self.relu2(self.conv2(x))
        return self.head(x.mean((2, 3)))


class Branches(Small):
    """One rectifier module on two branches that meet again."""

    def __init__(self) -> None:
        super().__init__()
        self.other = nn.Conv2d(3, 6, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits."""
        one, other = self.conv1(x), self.other(x)
        x = self.relu1(one) - self.relu1(other)
        return self.head(self.relu2(self.conv2(x)).mean((2, 3)))


class Skip(Small):
    """What a rectifier takes goes past it, too."""

    def forward(self, x: Tensor) -> Tensor:
        """Return logits."""
        x = self.conv1(x)
        x = self.conv2(self.relu1(x) - 2 * x)
        return self.head((self.relu2(x) + x).mean((2, 3)))


class Checkpointed(Small):
    """The convolutions are run again in the backward pass."""

    def stage(self, x: Tensor) -> Tensor:
        """Return what the linear layer takes the mean of."""
        return self.relu2(self.conv2(self.relu1(self.conv1(x))))

    def forward(self, x: Tensor) -> Tensor:
        """Return logits."""
        return self.head(checkpoint(self.stage, x, use_reentrant=False).mean((2, 3)))


class Shared(Small):
    """A block of a convolution and its rectifier that is run twice."""

    def forward(self, x: Tensor) -> Tensor:
        """Return logits."""
        x = self.conv1(x)
        for _ in range(2):
            x = self.relu2(self.conv2(x))
        return self.head(x.mean((2, 3)))


class Sliced(Small):
    """Half of the channels are rectified in place."""

    def forward(self, x: Tensor) -> Tensor:
        """Return logits."""
        x = self.conv1(x)
        x[:, :3].relu_()
        return self.head(self.relu2(self.conv2(x)).mean((2, 3)))


class Joined(Small):
    """The same values as ``Sliced``, out of place."""

    def forward(self, x: Tensor) -> Tensor:
        """Return logits."""
        x = self.conv1(x)
        x = torch.cat([F.relu(x[:, :3]), x[:, 3:]], 1)
        return self.head(self.relu2(self.conv2(x)).mean((2, 3)))


class Pair(Small):
    """Two images that meet."""

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Return logits."""
        x = self.relu1(self.conv1(x)) - self.conv1(y)
        return self.head(self.relu2(self.conv2(x)).mean((2, 3)))


class Recurrent(nn.Module):
    """An RNN of ReLU units between two projections, of sequences ``(N, time, 4)``.

    Its weights are small whole numbers, so the order of a sum's terms changes nothing.
    """

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 6)
        self.rnn = nn.RNN(6, 5, nonlinearity="relu", batch_first=True)
        self.second = nn.Linear(5, 3)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(torch.randint(-2, 3, parameter.shape))

    def forward(self, x: Tensor) -> Tensor:
        """Return logits."""
        states = self.rnn(self.first(x))
        states = states[0] if isinstance(states, tuple) else states
        return self.second(states[:, -1])


class Encoder(nn.Module):
    """A transformer layer with ReLU between two projections, of sequences ``(N, time, 4)``."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 8), nn.Linear(8, 3)
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, activation="relu", batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits."""
        return self.second(self.layer(self.first(x)))[:, 0]


def _image() -> Tensor:
    return torch.randn(1, 3, 8, 8)


def _as_it_is(kind: type[Small], *rectifiers: Any) -> Trap:
    model = kind(*rectifiers).eval()
    return Trap(model, (_image(),), model)


def _converted(convert: Callable[[nn.Module, Tensor], Any]) -> Trap:
    model, image = Small().eval(), _image()
    converted = convert(model, image)
    for _ in range(3):  # as warm as in use
        converted(image.clone().requires_grad_()).sum().backward()
    model.zero_grad()
    return Trap(converted, (image,), model)


def _recurrent() -> Trap:
    model = Recurrent().eval()
    unrolled = Recurrent().eval()
    unrolled.load_state_dict(model.state_dict())
    unrolled.rnn = UnrolledRNN(unrolled.rnn)
    return Trap(model, (torch.randint(-2, 3, (1, 4, 4)).float(),), unrolled)


def _encoder() -> Trap:
    model = Encoder().eval()
    return Trap(model, (torch.randn(1, 5, 4),), model)


def _frozen() -> Trap:
    trap = _as_it_is(Small)
    trap.model.requires_grad_(False)
    return trap


def _with_a_twin(kind: type[Small], twin: type[Small]) -> Trap:
    """Return a network, with one of another class and the same weights for the reference."""
    model, eager = kind().eval(), twin().eval()
    eager.load_state_dict(model.state_dict())
    return Trap(model, (_image(),), eager)


def _half() -> Trap:
    model = Small().eval().bfloat16()
    return Trap(model, (_image().bfloat16(),), model)


def _pair() -> Trap:
    model = Pair().eval()
    return Trap(model, (_image(), _image()), model)


def _in_a_lambda() -> Trap:
    model = Small().eval()
    return Trap(lambda x: model(x), (_image(),), model)


class Call(nn.Module):
    """A function in a module, of a class that no library looks for."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        """Return the function's value."""
        return self.function(x)


def _reused() -> Trap:
    relu = nn.ReLU()
    return _as_it_is(Small, relu, relu)


PLAIN = "plain"

TRAPS: dict[str, Callable[[], Trap]] = {
    PLAIN: lambda: _as_it_is(Small),
    "functional": lambda: _as_it_is(Small, Call(F.relu)),
    "method": lambda: _as_it_is(Small, Call(Tensor.relu)),
    "in place": lambda: _as_it_is(Small, nn.ReLU(inplace=True), nn.ReLU(inplace=True)),
    "reused": _reused,
    "two branches": lambda: _as_it_is(Branches),
    "skip before the rectifier": lambda: _as_it_is(Skip),
    "ReLU6": lambda: _as_it_is(Small, nn.ReLU6(), nn.ReLU6()),
    "clamp": lambda: _as_it_is(Small, Call(lambda x: x.clamp(min=0))),
    "checkpoint": lambda: _with_a_twin(Checkpointed, Small),
    "scripted": lambda: _converted(lambda model, image: torch.jit.script(model)),
    "traced": lambda: _converted(torch.jit.trace),
    "compiled": lambda: _converted(lambda model, image: torch.compile(model, backend="aot_eager")),
    "in a lambda": _in_a_lambda,
    "nn.RNN(relu)": _recurrent,
    "transformer layer": _encoder,
    "weight-shared": lambda: _as_it_is(Shared),
    "sliced in place": lambda: _with_a_twin(Sliced, Joined),
    "frozen parameters": _frozen,
    "bfloat16": _half,
    "several inputs": _pair,
}


def build_trap(name: str) -> Trap:
    """Build one of ``TRAPS`` with the same weights and inputs every time."""
    torch.manual_seed(0)
    return TRAPS[name]()

"""The smallest networks that show each case of the exactness tests."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


class Returning(nn.Module):
    """A function as a layer."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


class Plain(nn.Module):
    """Two convolutions with one activation between and after them, which may be any callable."""

    def __init__(
        self, activation: Callable[[Tensor], Tensor] = F.relu, dimensions: int = 2
    ) -> None:
        super().__init__()
        convolution = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dimensions - 1]
        self.first = convolution(3, 6, 3, padding=1)
        self.second = convolution(6, 8, 3)
        self.head = nn.Linear(8, 3)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        x = self.activation(self.first(x))
        x = self.activation(self.second(x))
        return self.head(x.flatten(2).mean(2))


class Branches(Plain):
    """One rectifier module on two branches that meet again."""

    def __init__(self, activation: nn.Module) -> None:
        super().__init__(activation)
        self.other = nn.Conv2d(3, 6, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        met = self.activation(self.first(x)) - self.activation(self.other(x))
        return self.head(self.activation(self.second(met)).mean((2, 3)))


class Skip(Plain):
    """A tensor that feeds a rectifier and a skip connection."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        x = self.second(F.relu(x) - 2 * x)
        return self.head((F.relu(x) + x).mean((2, 3)))


class FirstInPlace(Plain):
    """An in-place rectifier as the first operation, on the input itself."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(F.relu(x, inplace=True))


class FrozenBranch(Branches):
    """A branch whose weights are frozen, and one that no gradient enters."""

    def __init__(self) -> None:
        super().__init__(nn.ReLU())
        self.other.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            constant = F.relu(self.first(x))
        return super().forward(x) + constant.mean()


class Pooled(nn.Sequential):
    """Batch norm, in-place rectifiers and overlapping pooling, as in a ResNet's stem."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 6, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(6)
        self.relu = nn.ReLU(inplace=True)
        self.pool = nn.MaxPool2d(3, 2, 1)
        self.second = nn.Conv2d(6, 8, 3)
        self.relu2 = nn.ReLU(inplace=True)
        self.flatten = nn.Flatten()
        self.head = nn.LazyLinear(3)


class InstanceNormed(nn.Sequential):
    """In-place rectifiers on what an instance norm returns, which is a view of another tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 6, 3, padding=1)
        self.norm = nn.InstanceNorm2d(6)
        self.relu = nn.ReLU(inplace=True)
        self.second = nn.Conv2d(6, 8, 3)
        self.norm2 = nn.InstanceNorm2d(8)
        self.relu2 = nn.ReLU(inplace=True)
        self.flatten = nn.Flatten()
        self.head = nn.Linear(160, 3)


class _Apart(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return torch.empty_strided(x.shape, [2 * step for step in x.stride()]).copy_(x)

    @staticmethod
    def backward(ctx, gradient):
        return gradient


class Apart(nn.Sequential):
    """A rectifier in place on what its own function returns: values with holes between them."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 30, 3, padding=1)
        self.head = nn.Linear(30 * 42, 3)

    def forward(self, x):
        return self.head(_Apart.apply(self.first(x)).relu_().flatten(1))


class Encoder(nn.Module):
    """A transformer layer with ReLU between two projections; ``(N, time, 4)`` to ``(N, 3)``."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 8)
        self.layer = nn.TransformerEncoderLayer(
            8, nhead=2, dim_feedforward=16, activation="relu", batch_first=True
        )
        self.second = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.layer(self.first(x)))[:, 0]


class Recurrent(nn.Module):
    """An RNN of ReLU units between two projections; ``(N, time, 4)`` to ``(N, 3)``.

    Its weights are small whole numbers and so should be its inputs: every sum is then exact,
    whatever the order of its terms, and the RNN can be compared with the loop it stands for.
    """

    def __init__(self, layers: int = 2) -> None:
        super().__init__()
        self.first = nn.Linear(4, 6)
        self.rnn = nn.RNN(6, 5, num_layers=layers, nonlinearity="relu", batch_first=True)
        self.second = nn.Linear(5, 3)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(torch.randint(-2, 3, parameter.shape))

    def forward(self, x: Tensor) -> Tensor:
        states = self.rnn(self.first(x))
        states = states[0] if isinstance(states, tuple) else states
        return self.second(states[:, -1])


class Chain(nn.Module):
    """Rectifiers in a chain of elementwise operations, which compilers like to fuse."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 6, 3, padding=1)
        self.second = nn.Conv2d(6, 8, 3)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        x = torch.relu(torch.relu(x) * 3.0 - 0.5 + x)
        x = torch.relu(self.second(x) * 2.0 + 0.25)
        return self.head((x * 0.5 - 1.0).mean((2, 3)))


class Checkpointed(Plain):
    """The two convolutions are recomputed in the backward pass."""

    use_reentrant = False

    def stage(self, x: Tensor) -> Tensor:
        return F.relu(self.second(F.relu(self.first(x))))

    def forward(self, x: Tensor) -> Tensor:
        x = checkpoint(self.stage, x, use_reentrant=self.use_reentrant)
        return self.head(x.mean((2, 3)))


class SeveralInputs(Plain):
    """Two images that meet, a third that is not used, a factor and a switch."""

    def forward(
        self, x: Tensor, y: Tensor, unused: Tensor, factor: Tensor, subtract: bool = False
    ) -> Tensor:
        y = F.relu(self.first(y)) * factor
        x = F.relu(self.first(x))
        return self.head(F.relu(self.second(x - y if subtract else x + y)).mean((2, 3)))

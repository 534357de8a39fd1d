"""Small seeded networks, and what the tests of several modules share."""

import copy
import os

import pytest
import torch
from command_fixtures import call, folder  # noqa: F401  # fixtures, by their names
from torch import nn
from torch.nn import functional as F

os.environ.setdefault("MPLBACKEND", "Agg")
torch.set_num_threads(1)  # the runner has a process per core


class SkipNet(nn.Module):
    """A shared ReLU module, a functional ReLU and a skip: what Captum misses."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 6, 3, padding=1)
        self.conv2 = nn.Conv2d(6, 6, 3, padding=1)
        self.relu = nn.ReLU()
        self.pool = nn.MaxPool2d(2)
        self.fc = nn.Linear(6 * 4 * 4, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv1(x)
        x = self.relu(x) + x
        x = self.relu(self.conv2(x))
        return self.fc(F.relu(self.pool(x)).flatten(1))


@pytest.fixture
def model() -> nn.Module:
    """Return a small network in eval mode."""
    torch.manual_seed(0)
    return SkipNet().eval()


@pytest.fixture
def images() -> torch.Tensor:
    """Return three images, ``(3, 3, 8, 8)``."""
    return torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(1))


class Snapshot:
    """Everything of the user's that a call must leave as it was.

    Args:
        model: The user's module.
        tensors: The user's tensors.
    """

    def __init__(self, model: nn.Module, *tensors: torch.Tensor) -> None:
        self.model = model
        self.tensors = tensors
        self.before = self._take()

    def _take(self) -> dict[str, object]:
        hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
        state: dict[str, object] = {
            "grad mode": torch.is_grad_enabled(),
            "inference mode": torch.is_inference_mode_enabled(),
            "autocast": torch.is_autocast_enabled("cpu"),
            "executor": torch._C._get_graph_executor_optimize(),
            "stance": _stance(),
        }
        for name, module in self.model.named_modules():
            state[f"{name} training"] = module.training
            state[f"{name} attributes"] = sorted(vars(module))
            for kind in hooks:
                state[f"{name}{kind}"] = dict(getattr(module, kind))
        named = {**dict(self.model.named_parameters()), **dict(self.model.named_buffers())}
        named |= {f"input {index}": tensor for index, tensor in enumerate(self.tensors)}
        for name, tensor in named.items():
            state[f"{name} identity"] = id(tensor)
            state[f"{name} data"] = tensor.detach().clone().tolist()
            state[f"{name} requires_grad"] = tensor.requires_grad
            state[f"{name} is_leaf"] = tensor.is_leaf
            state[f"{name} hooks"] = copy.copy(getattr(tensor, "_backward_hooks", None))
            if tensor.is_leaf:
                state[f"{name} grad"] = None if tensor.grad is None else tensor.grad.tolist()
        return state

    def assert_unchanged(self) -> None:
        """Fail, naming what differs."""
        after = self._take()
        changed = [key for key, value in self.before.items() if after.get(key) != value]
        assert not changed, f"changed: {changed}"
        assert after.keys() == self.before.keys()


def _stance() -> str:
    import torch._dynamo.eval_frame as eval_frame

    return eval_frame._stance.stance

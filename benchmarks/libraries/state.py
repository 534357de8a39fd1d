"""What a call leaves behind, when it returns and when the network raises an exception in it."""

import warnings
from collections.abc import Iterator
from typing import Any

import torch
from libraries.peers import Peer
from torch import Tensor, nn

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


class Kept:
    """A network's modules and parameters as they were, to be had again.

    Args:
        model: The network.
    """

    def __init__(self, model: nn.Module) -> None:
        self.modules = [(module, _copy(vars(module))) for module in model.modules()]
        self.parameters = [(p, p.requires_grad) for p in model.parameters()]

    def restore(self) -> None:
        """Put everything back."""
        for module, attributes in self.modules:
            vars(module).clear()
            vars(module).update(_copy(attributes))
        for parameter, requires_grad in self.parameters:
            parameter.grad = None
            parameter.requires_grad_(requires_grad)


def _copy(attributes: dict[str, Any]) -> dict[str, Any]:
    return {n: v.copy() if isinstance(v, dict) else v for n, v in attributes.items()}


class Network(nn.Sequential):
    """A network in train mode, its first layer frozen, which may raise an exception at its end."""

    def __init__(self, fails: bool) -> None:
        super().__init__(
            nn.Conv2d(3, 6, 3, padding=1).requires_grad_(False),
            nn.BatchNorm2d(6),
            nn.ReLU(inplace=True),
            nn.Conv2d(6, 6, 3),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(6 * 36, 5),
        )
        self.fails = fails

    def forward(self, x: Tensor) -> Tensor:
        """Return logits ``(N, 5)`` of images ``(N, 3, 8, 8)``."""
        logits = super().forward(x)
        if self.fails:
            raise ZeroDivisionError("the network's own")
        return logits


def look_at(model: nn.Module, image: Tensor) -> dict[str, Any]:
    """Return everything of the user's that a call should leave as it was."""
    modules = list(model.named_modules())
    named = [*model.named_parameters(), *model.named_buffers()]
    return {
        "module tree": [(name, id(m), vars(m).get("inplace")) for name, m in modules],
        "hooks": [(name, kind, len(vars(m)[kind])) for name, m in modules for kind in _HOOKS],
        "modes": [(name, m.training) for name, m in modules],
        "parameters' requires_grad": [p.requires_grad for p in model.parameters()],
        "parameters' .grad": [_sum(p.grad) for p in model.parameters()],
        "parameters or buffers": [(name, id(t), _sum(t)) for name, t in named],
        "input's values": _sum(image),
        "input's requires_grad": image.requires_grad,
        "input's .grad": _sum(image.grad),
        "input's hooks": len(image._backward_hooks or ()),
        "torch's functions": [id(torch.relu), id(torch.relu_), id(nn.functional.relu)],
        "gradient mode": torch.is_grad_enabled(),
    }


def _sum(tensor: Tensor | None) -> float | None:
    return None if tensor is None else float(tensor.detach().double().sum())


def measure(library: Peer, method: str, fails: bool) -> dict[str, Any]:
    """Return the names of what is not as it was after a call, and what the call raised."""
    torch.manual_seed(0)
    model, image = Network(fails).train(), torch.randn(2, 3, 8, 8)
    before = look_at(model, image)
    found: dict[str, Any] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            library.attribute(method, model, (image,), 1)
        except Exception as error:
            found["raised"] = type(error).__name__
    after = look_at(model, image)
    found["changed"] = [name for name, value in before.items() if after[name] != value]
    return found


def run(library: Peer, _: list[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield what is left of each method's call that returns, and of one in which it fails."""
    for when, fails in (("after a call", False), ("after an exception", True)):
        yield when, {method: measure(library, method, fails) for method in library.methods}

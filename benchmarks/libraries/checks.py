"""Why two libraries' numbers are what they are, shown on the plain network."""

from importlib import import_module
from typing import Any

import oracle
import torch
from libraries.exactness import choose_target
from libraries.peers import GUIDED
from libraries.traps import PLAIN, Trap, build_trap
from torch import Tensor


def check(name: str) -> dict[str, float]:
    """Return the relative error of a library's guided backprop, understood in one way or another.

    Args:
        name: Of the library; of most there is nothing to explain.

    Returns:
        The error by what is compared with what.
    """
    trap = build_trap(PLAIN)
    target = choose_target(trap)
    reference = oracle.input_attribution(trap.eager, trap.inputs, target, GUIDED)[0]
    checks: dict[str, Any] = {"grad-cam": check_grad_cam, "flashtorch": check_flashtorch}
    return checks[name](trap, target, reference) if name in checks else {}


def check_grad_cam(trap: Trap, target: int, reference: Tensor) -> dict[str, float]:
    """Hold what it returns, and the picture that its README makes of that, to the reference."""
    model = import_module("pytorch_grad_cam").GuidedBackpropReLUModel(trap.model, "cpu")
    array = model(trap.inputs[0].clone(), target)
    picture = import_module("pytorch_grad_cam.utils.image").deprocess_image(array)
    found = {"the array": array, "the picture by deprocess_image": picture}
    return {
        what: oracle.relative_error(torch.from_numpy(one).permute(2, 0, 1)[None].float(), reference)
        for what, one in found.items()
    }


class _TimesOutput(torch.autograd.Function):
    """A rectifier that passes back ``max(R, 0) * max(x, 0)``."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.clamp(min=0)

    @staticmethod
    def backward(ctx: Any, signal: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return signal.clamp(min=0) * x.clamp(min=0)


def check_flashtorch(trap: Trap, target: int, reference: Tensor) -> dict[str, float]:
    """Hold it to the reference, and to a rule that multiplies by the rectifier's output."""
    image = trap.inputs[0].clone().requires_grad_()
    small = trap.model
    x = _TimesOutput.apply(small.conv1(image))
    x = _TimesOutput.apply(small.conv2(x))
    logit = small.head(x.mean((2, 3)))[0, target]
    times_output = torch.autograd.grad(logit, image)[0]
    backprop = import_module("flashtorch.saliency").Backprop(small)
    found = backprop.calculate_gradients(image, target, guided=True)[None]
    return {
        "against the paper's rule": oracle.relative_error(found, reference),
        "against a rule times the rectifier's output": oracle.relative_error(found, times_output),
    }

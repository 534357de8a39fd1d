"""The methods as Quantus calls them, so that its metrics judge them.

Quantus hands a metric's ``explain_func`` a model, a batch and its targets, the last two as arrays:

    import quantus
    from captum_deconv.seams.quantus import explain_func

    metric = quantus.MaxSensitivity(nr_samples=10)
    metric(model, images, labels, explain_func=explain_func("guided_backprop"))
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from captum_deconv.attribution import GuidedGradCam
from captum_deconv.engine.coverage import Activations, Uncovered
from captum_deconv.engine.gradients import gradient_func
from captum_deconv.engine.lean import Memory
from captum_deconv.engine.structures import Choice

Array = npt.NDArray[Any]
Reduce = Literal["sum", "abs_sum", "abs_max"]

_REDUCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "sum": lambda a: a.sum(1, keepdim=True),
    "abs_sum": lambda a: a.abs().sum(1, keepdim=True),
    "abs_max": lambda a: a.abs().amax(1, keepdim=True),
}
_GRADCAM = "guided_gradcam"


def explain_func(
    method: str,
    *,
    reduce: Reduce | None = None,
    layer: str | None = None,
    output: Choice = None,
    memory: Memory = "light",
    activations: Activations = "relu",
    uncovered: Uncovered = "warn",
) -> Callable[..., Array]:
    """Return a method as an ``explain_func`` for Quantus.

    What is returned takes ``(model, inputs, targets, device=None)``: inputs ``(N, C, ...)`` and the
    classes ``(N,)`` as arrays. It leaves the model where and as it is, its mode included; the
    inputs are moved to the model's device and type, and ``device`` counts only where the model has
    no parameters. It returns an array ``(N, C, ...)``, or ``(N, 1, ...)`` where the channels are
    reduced.

    Args:
        method: ``"input_gradient"``, ``"guided_backprop"``, ``"deconvnet"`` or
            ``"guided_gradcam"``.
        reduce: What to make of the channels: None to keep them, with their signs; ``"sum"``,
            ``"abs_sum"`` or ``"abs_max"``, the sum or the largest of their absolute values.
        layer: The layer of Grad-CAM by its dotted name, which means the same in the copies that
            Quantus makes of the model; for ``"guided_gradcam"`` only.
        output: As for :class:`captum_deconv.InputGradient`.
        memory: As for :class:`captum_deconv.InputGradient`.
        activations: As for :class:`captum_deconv.GuidedBackprop`.
        uncovered: As for :class:`captum_deconv.GuidedBackprop`.

    Returns:
        The function.

    Raises:
        ImportError: If Quantus is not installed.
        ValueError: If the method or an option is unknown, or the layer is missing or superfluous.
    """
    if importlib.util.find_spec("quantus") is None:
        raise ImportError(
            "explain_func is for Quantus, which is not installed: pip install "
            "'captum-deconv[bench]'"
        )
    if reduce is not None and reduce not in _REDUCTIONS:
        raise ValueError(f"unknown reduce {reduce!r}: choose from None, {', '.join(_REDUCTIONS)}")
    if (layer is not None) != (method == _GRADCAM):
        raise ValueError(f"a layer is for {_GRADCAM!r}, which needs one; it was {layer!r}")
    how: Any = {
        "output": output,
        "memory": memory,
        "activations": activations,
        "uncovered": uncovered,
    }
    by_rule = gradient_func("guided_backprop" if layer is not None else method, **how)

    def attribute(model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
        if layer is None:
            return by_rule(model, inputs, targets)[0]
        attribution: Tensor = GuidedGradCam(model, layer, **how).attribute(inputs, targets)
        return attribution

    def explain(
        model: nn.Module, inputs: Array, targets: Array, device: str | torch.device | None = None
    ) -> Array:
        like = next(_floating(model), torch.empty(0, device=device))
        batch = torch.as_tensor(np.asarray(inputs)).to(like.device, like.dtype)
        classes = torch.as_tensor(np.asarray(targets)).to(like.device, torch.long)
        attribution = attribute(model, batch, classes)
        if reduce is not None:
            attribution = _REDUCTIONS[reduce](attribution)
        if attribution.dtype == torch.bfloat16:  # NumPy has none
            attribution = attribution.float()
        array: Array = attribution.cpu().numpy()
        return array

    return explain


def _floating(model: nn.Module) -> Iterator[Tensor]:
    return (tensor for tensor in model.parameters() if tensor.is_floating_point())

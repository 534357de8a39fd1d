r"""Keep filters from growing: those above a radius are set back to it after each step.

Section 3.1 of Zeiler & Fergus 2013 (arXiv:1311.2901): "visualization of the first layer filters
during training reveals that a few of them dominate. To combat this, we renormalize each filter in
the convolutional layers whose RMS value exceeds a fixed radius of 1e-1 to this fixed radius." With
`w` one filter, of `n` weights,

    RMS(w) = sqrt(|w|^2 / n),    w <- w min(1, r / RMS(w)).

The paper's inputs run from -128 to 128, where its radius of 0.1 matters most for the first layer;
for inputs of another scale it is another.

Example:
    >>> import torch
    >>> from torch import nn
    >>> from captum_deconv.experiments import renormalise
    >>> model = nn.Conv2d(3, 4, 7)
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=100.0)
    >>> handle = renormalise(model, optimizer, radius=0.1)
    >>> model(torch.rand(1, 3, 9, 9)).sum().backward()
    >>> optimizer.step()
    >>> bool((measure_rms(model.weight) <= 0.1 + 1e-6).all())
    True
    >>> handle.remove()  # the optimiser is as it was
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


def renormalise(
    model: nn.Module, optimizer: torch.optim.Optimizer, radius: float = 0.1
) -> RemovableHandle:
    """Renormalise the filters of a model's convolutions after every step of an optimiser.

    Biases, and whatever else the optimiser changes, stay as they are.

    Args:
        model: Its convolutions are looked for once, now.
        optimizer: It gets a hook.
        radius: The largest RMS that a filter may have.

    Returns:
        What takes the hook away: ``remove()``.

    Raises:
        ValueError: If the radius is not above zero, or the optimiser changes no convolution of the
            model.
    """
    if not radius > 0:
        raise ValueError(f"the radius must be above 0, not {radius}")
    changed = {id(p) for group in optimizer.param_groups for p in group["params"]}
    filters = [
        module.weight
        for module in model.modules()
        if isinstance(module, _CONVOLUTIONS) and id(module.weight) in changed
    ]
    if not filters:
        raise ValueError("the optimizer changes no filter of a convolution in this model")

    def limit(*_: Any) -> None:
        for weight in filters:
            limit_rms(weight, radius)

    return optimizer.register_step_post_hook(limit)


def limit_rms(weight: Tensor, radius: float) -> int:
    """Set the filters whose RMS exceeds a radius back to it, in place.

    Args:
        weight: ``(filters, ...)``.
        radius: The largest RMS that a filter may have.

    Returns:
        How many filters were set back.
    """
    with torch.no_grad():
        rms = measure_rms(weight)
        beyond = rms > radius
        if beyond.any():
            by = torch.where(beyond, radius / rms, torch.ones_like(rms))
            weight.mul_(by.view(-1, *[1] * (weight.dim() - 1)))
    return int(beyond.sum())


def measure_rms(weight: Tensor) -> Tensor:
    """Measure each filter's root mean square.

    Args:
        weight: ``(filters, ...)``.

    Returns:
        ``(filters,)``.
    """
    return weight.detach().flatten(1).square().mean(1).sqrt()

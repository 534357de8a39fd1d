"""The only module that imports Captum: its base classes, and its private helpers.

The meaning of a target and of a neuron selector is Captum's, so its own code decides both; what is
added here is the check that turns an index out of range into one clear line on every device (on a
GPU, ``gather`` would abort the process).
"""

from collections.abc import Callable
from typing import Any

import torch
from captum._utils.common import (
    _format_additional_forward_args,
    _format_output,
    _format_tensor_into_tuples,
    _is_tuple,
    _select_targets,
    _sort_key_list,
    _verify_select_neuron,
)
from captum.attr import GradientAttribution, LayerAttribution, NeuronAttribution
from captum.log import log_usage
from torch import Tensor

from captum_deconv.engine.checks import Checks, is_far

__all__ = [
    "GradientAttribution",
    "LayerAttribution",
    "NeuronAttribution",
    "NeuronSelector",
    "Target",
    "as_arguments",
    "as_tuple",
    "in_device_order",
    "like_inputs",
    "log_usage",
    "select_neuron",
    "select_target",
]

Target = int | tuple[int, ...] | Tensor | list[int] | list[tuple[int, ...]] | None
NeuronSelector = int | tuple[int | slice, ...] | Callable[..., Tensor]


def as_tuple(inputs: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Return the inputs as a tuple of tensors; a list is refused, as in Captum."""
    if inputs is None:
        raise TypeError("inputs is None: give a tensor or a tuple of tensors")
    formatted: tuple[Tensor, ...] = _format_tensor_into_tuples(inputs)
    if not formatted:
        raise TypeError("inputs is an empty tuple: give at least one tensor")
    for index, tensor in enumerate(formatted):
        if not isinstance(tensor, Tensor):
            raise TypeError(
                f"inputs[{index}] is a {type(tensor).__name__}, not a tensor: "
                "what is no tensor goes into additional_forward_args"
            )
    return formatted


def as_arguments(additional_forward_args: Any) -> tuple[Any, ...]:
    """Return the additional arguments as a tuple: None is none of them, a lone one is one."""
    arguments: tuple[Any, ...] | None = _format_additional_forward_args(additional_forward_args)
    return arguments or ()


def like_inputs(inputs: Any, attributions: tuple[Tensor, ...]) -> Any:
    """Return a tensor where a tensor came in and a tuple where a tuple did."""
    return _format_output(_is_tuple(inputs), attributions)


def in_device_order(
    captured: dict[torch.device, tuple[Tensor, ...]], device_ids: list[int] | None
) -> list[tuple[Tensor, ...]]:
    """Return what each device of a DataParallel model captured, in the order of the batch."""
    return [captured[device] for device in _sort_key_list(list(captured), device_ids)]


def select_target(output: Tensor, target: Target, checks: Checks) -> Tensor:
    """Select the value to explain from each example's output.

    Args:
        output: The model's output, ``(N, ...)``, or a scalar.
        target: An index into the dimensions after the first, in any form that Captum takes.
        checks: Gets the condition that targets on a GPU are in range.

    Returns:
        One value per example, ``(N,)`` or ``(N, 1, ...)``; a scalar output as it is.

    Raises:
        AssertionError: If the target's kind or length does not fit the output, or leaves more than
            one value per example.
        IndexError: If it is out of range; of a target on a GPU the checks raise it.
    """
    if target is not None and output.dim() < 2:
        raise AssertionError(
            f"target {target!r} cannot index an output of shape {tuple(output.shape)}, which "
            "already is one value per example: leave the target out"
        )
    if isinstance(target, Tensor) and is_far(target):
        on_device = _select_on_device(output, target, checks)
        if on_device is not None:
            return on_device
    try:
        selected: Tensor = _select_targets(output, _sent(_within(output, target), output))
    except IndexError as error:
        raise IndexError(
            f"target {target!r} is out of range for an output of shape {tuple(output.shape)} "
            f"({error})"
        ) from None
    if selected.dim() and selected.numel() != len(selected):
        raise AssertionError(
            f"Target not provided when necessary: target {target!r} leaves "
            f"{tuple(selected.shape[1:])} values per example of an output of shape "
            f"{tuple(output.shape)}, and one is needed"
        )
    return selected


def _select_on_device(output: Tensor, target: Tensor, checks: Checks) -> Tensor | None:
    """Select by targets on a GPU without waiting for their values; None where Captum must judge."""
    one_each = target.dim() < 2 and target.numel() in (1, len(output))
    if output.dim() != 2 or not one_each or target.is_floating_point() or target.is_complex():
        return None
    size = output.shape[1]
    checks.require(
        ((target >= -size) & (target < size)).all(),
        lambda: IndexError(
            f"target {target.tolist()} is out of range: the output has {size} values per example, "
            f"0 to {size - 1}"
        ),
    )
    index = (target.long() % size).reshape(-1).expand(len(output)).to(output.device)
    return output.gather(1, index.unsqueeze(1)).squeeze(1)


def _within(output: Tensor, target: Target) -> Target:
    """Return the target with its indices per example in range, counted from the front.

    Captum gives them to ``gather``, which knows no negative index and, on a GPU, no exception.
    """
    if isinstance(target, Tensor) and target.numel() > 1:
        indices = target.flatten().tolist()
    elif isinstance(target, list) and target and all(isinstance(t, int) for t in target):
        indices = target
    else:
        return target
    if output.dim() != 2:
        return target  # which Captum refuses, and says why
    size = output.shape[1]
    for index in indices:
        if not isinstance(index, int):
            raise AssertionError(f"target {target!r} is not valid: its elements must be integers")
        if not -size <= index < size:
            raise IndexError(
                f"target {index} is out of range: the output has {size} values per example, "
                f"0 to {size - 1}"
            )
    return target % size if isinstance(target, Tensor) else [index % size for index in indices]


def _sent(target: Target, output: Tensor) -> Target:
    """Return indices per example where the output is; sent so that nobody waits for them."""
    if not is_far(output):
        return target
    if isinstance(target, list) and len(target) == len(output) and isinstance(target[0], int):
        target = torch.tensor(target)
    if isinstance(target, Tensor) and target.numel() > 1:
        return target.to(output.device, non_blocking=True)
    return target


def select_neuron(layer: tuple[Tensor, ...], selector: NeuronSelector) -> Tensor:
    """Select the neuron to explain from each example's activations of a layer.

    Args:
        layer: The layer's tensors, each ``(N, ...)``.
        selector: An index into the dimensions after the first (slices in it are summed over), or a
            function from the layer's tensor, or its tuple of several, to one value per example.

    Returns:
        One value per example.

    Raises:
        AssertionError: If the selector does not fit the layer, or leaves more than one value per
            example.
        IndexError: If it is out of range.
        TypeError: If a selector function returns no tensor.
    """
    parts = selector if isinstance(selector, tuple) else (selector,)
    if not callable(selector) and not all(isinstance(part, (int, slice)) for part in parts):
        raise AssertionError(
            f"neuron selector {selector!r} is not valid: give an int, a tuple of ints and slices, "
            "or a function of the layer's tensor"
        )
    try:
        if len(layer) == 1 and not len(layer[0]) and any(isinstance(p, slice) for p in parts):
            # Captum's reshape cannot tell how many values each of no examples has.
            index = (slice(None), *parts)
            selected = layer[0][index].flatten(1).sum(1)
        else:
            selected = _verify_select_neuron(layer, selector)
    except IndexError as error:
        shapes = " and ".join(str(tuple(tensor.shape)) for tensor in layer)
        raise IndexError(
            f"neuron selector {selector!r} is out of range for a layer of shape {shapes} ({error})"
        ) from None
    if not isinstance(selected, Tensor):
        raise TypeError(
            f"the neuron selector returned a {type(selected).__name__}: "
            "it must return a tensor of one value per example"
        )
    if selected.dim() and selected.numel() != len(selected):
        raise AssertionError(
            f"neuron selector {selector!r} leaves {tuple(selected.shape[1:])} values per example "
            f"of a layer of shape {tuple(layer[0].shape)}: give an index for every dimension after "
            "the first, a slice to sum over one, or strongest(channel)"
        )
    return selected

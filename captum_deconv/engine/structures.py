"""What a module takes or returns: a tensor, or a tuple, dictionary or dataclass that holds some.

>>> import torch
>>> value = {"logits": torch.zeros(1, 3), "states": (torch.ones(1, 2), None)}
>>> [path for path, _ in list_tensors(value)]
["['logits']", "['states'][0]"]
>>> pick(value, "logits", "the model", "output").shape
torch.Size([1, 3])
"""

import copy
import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

Choice = int | str | Callable[[Any], Tensor] | None
"""Which tensor is meant: an index, a key or an attribute's name, or a function of the whole."""


def has_gradient(tensor: Tensor) -> bool:
    """Tell whether a tensor is of a type that gradients are defined for."""
    return tensor.is_floating_point() or tensor.is_complex()


def list_tensors(value: Any, path: str = "") -> list[tuple[str, Tensor]]:
    """List the tensors in a value, each with how to get there."""
    if isinstance(value, Tensor):
        return [(path, value)]
    return [found for step, part in _list_parts(value) for found in list_tensors(part, path + step)]


def _list_parts(value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        yield from ((f"[{key!r}]", part) for key, part in value.items())
    elif isinstance(value, (tuple, list)):
        yield from ((f"[{index}]", part) for index, part in enumerate(value))
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for field in dataclasses.fields(value):
            yield f".{field.name}", getattr(value, field.name, None)


def have_same_values(one: Any, other: Any) -> bool:
    """Tell whether the tensors in two values of one structure are equal up to some rounding."""
    pairs = zip(list_tensors(one), list_tensors(other), strict=True)
    return all(
        a.shape == b.shape and _are_close(a, b) for (_, a), (_, b) in pairs if has_gradient(a)
    )


def _are_close(a: Tensor, b: Tensor) -> bool:
    if not a.numel():
        return True
    slack = 16 * torch.finfo(b.dtype).eps
    if b.device.type != "cpu":
        slack = max(1e-3, slack)  # where another algorithm, or TF32, may be chosen each time
    same = (a == b) | (a.isnan() & b.isnan())
    return bool((same | ((a - b).abs() <= slack * b.abs().max())).all())


def pick(value: Any, choice: Choice, owner: str, option: str) -> Tensor:
    """Pick the tensor that is meant.

    Args:
        value: What a module takes or returns.
        choice: Which of its tensors; None where there is but one.
        owner: What to call the module in an error.
        option: The name of the option that ``choice`` was given as.

    Returns:
        The tensor.

    Raises:
        TypeError: If there is no tensor, or there are several and none is chosen, or something else
            is.
        ValueError: If there is nothing of this index or name.
    """
    if choice is None:
        found = [tensor for _, tensor in list_tensors(value)]
        found = list(filter(has_gradient, found)) or found
        if len(found) != 1:
            raise TypeError(refuse(value, owner, option))
        return found[0]
    chosen = choice(value) if callable(choice) else _look_up(value, choice, owner, option)
    if not isinstance(chosen, Tensor):
        raise TypeError(
            f"{option}={choice!r} gives a {type(chosen).__name__}, not a tensor, where {owner} "
            f"{_describe(value)}"
        )
    return chosen


def refuse(value: Any, owner: str, option: str) -> str:
    """Say what there is where one tensor was needed, and how to choose one."""
    return f"{owner} {_describe(value)}; {_say_how(value, option)}"


def _look_up(value: Any, choice: int | str, owner: str, option: str) -> Any:
    try:
        if isinstance(value, Tensor):
            raise LookupError  # an index would choose one of the examples, a name what torch keeps
        if isinstance(choice, str) and not isinstance(value, Mapping):
            return getattr(value, choice)
        return value[choice]
    except (LookupError, TypeError, AttributeError):
        raise ValueError(f"{option}={choice!r} names nothing: {owner} {_describe(value)}") from None


def _describe(value: Any) -> str:
    found = list_tensors(value)
    kind = f"is a {type(value).__name__}"
    if isinstance(value, Tensor):
        return f"{kind} of shape {tuple(value.shape)}"
    if not found:
        return f"{kind} without a tensor in it"
    listed = ", ".join(f"{path} {tuple(tensor.shape)}" for path, tensor in found[:6])
    more = f" and {len(found) - 6} more" if len(found) > 6 else ""
    return f"{kind} of {len(found)} tensor{'s' * (len(found) > 1)}: {listed}{more}"


def _say_how(value: Any, option: str) -> str:
    parts = [(step, part) for step, part in _list_parts(value) if isinstance(part, Tensor)]
    if parts:
        step = parts[0][0]
        return f"choose one with {option}={repr(step[1:]) if step[0] == '.' else step[1:-1]}"
    if list_tensors(value):
        return f"choose one with {option}=lambda value: value{list_tensors(value)[0][0]}"
    return "a tensor is needed"


def replace_tensors(value: Any, new: Mapping[int, list[Tensor]]) -> Any:
    """Return the value with other tensors in it.

    Args:
        value: What a module takes or returns; it stays as it is.
        new: The other tensors, by the ``id`` of those that they stand in for: one for each place
            that it stands in, in order, or one for all.

    Returns:
        A value of the same type; the same one where nothing in it is replaced.
    """
    if isinstance(value, Tensor):
        others = new.get(id(value), [value])
        return others.pop(0) if len(others) > 1 else others[0]
    parts = {step: (part, replace_tensors(part, new)) for step, part in _list_parts(value)}
    if all(old is replaced for old, replaced in parts.values()):
        return value
    replaced = [part for _, part in parts.values()]
    if isinstance(value, Mapping):
        result: Any = copy.copy(value)
        for key, part in zip(value, replaced, strict=True):
            result[key] = part
        return result
    if isinstance(value, (tuple, list)):
        return type(value)(*replaced) if hasattr(value, "_fields") else type(value)(replaced)
    result = copy.copy(value)
    for field, part in zip(dataclasses.fields(value), replaced, strict=True):
        object.__setattr__(result, field.name, part)
    return result

"""Find ways to a module that do not go through its parents' names for it.

A list, a closure, a global, a bound method or a hook may hold a layer that is also a child, and
whoever calls it that way escapes :mod:`captum_deconv.engine.single_call`, which reads calls by
name.
"""

import functools
import inspect
from typing import Any

from torch import nn


def has_other_way(model: nn.Module, name: str) -> bool:
    """Tell whether anything in a model holds a layer, or a module around it, as no child.

    Args:
        model: The module whose ``forward`` runs.
        name: The layer's dotted path in it.

    Returns:
        True also where something might.
    """
    paths = [name.rsplit(".", up)[0] for up in range(name.count(".") + 1)]
    wanted = {id(model.get_submodule(path)) for path in paths}
    search = _Search(wanted, set(name.split(".")))
    return any(search.leads_from(module) for module in model.modules())


def is_torchs(value: Any) -> bool:
    """Tell whether a class, a function or an instance is defined in torch."""
    return (getattr(value, "__module__", None) or "").startswith("torch.")


class _Search:
    def __init__(self, wanted: set[int], names: set[str]) -> None:
        self.wanted = wanted
        self.names = names
        self.seen: set[int] = set()

    def leads_from(self, module: nn.Module) -> bool:
        """Look through a module's attributes, its hooks and what its forward refers to."""
        own = [v for k, v in vars(module).items() if k != "_modules" and "_hooks" not in k]
        hooks = [*module._forward_pre_hooks.values(), *module._forward_hooks.values()]
        for hook in hooks:
            # It is handed the module, and may call a child of it by name.
            if self.names & set(getattr(getattr(hook, "__code__", None), "co_names", ())):
                return True
        forwards = [] if is_torchs(type(module)) else [type(module).forward]
        return any(map(self._leads, [*own, *hooks, *forwards]))

    def _leads(self, value: Any) -> bool:
        if id(value) in self.seen:
            return False
        self.seen.add(id(value))
        if isinstance(value, nn.Module):
            return any(id(part) in self.wanted for part in value.modules())
        return any(map(self._leads, _held_by(value)))


def _held_by(value: Any) -> list[Any]:
    """Return what a value holds, as far as it can hold a module and hand it out."""
    if isinstance(value, dict):
        return list(value.values())
    if isinstance(value, (list, tuple, set, frozenset)):
        return list(value)
    if isinstance(value, functools.partial):
        return [value.func, value.args, value.keywords]
    if inspect.ismethod(value):
        return [value.__self__, value.__func__]
    if inspect.isfunction(value) and not is_torchs(value):
        globals_ = [value.__globals__.get(name) for name in value.__code__.co_names]
        held = [*_cells(value), *globals_, getattr(value, "__wrapped__", None)]
        kinds = (nn.Module, dict, list, tuple, functools.partial)
        return [part for part in held if isinstance(part, kinds) or inspect.isroutine(part)]
    return []


def _cells(function: Any) -> list[Any]:
    contents = []
    for cell in function.__closure__ or ():
        try:
            contents.append(cell.cell_contents)
        except ValueError:  # not filled yet
            continue
    return contents

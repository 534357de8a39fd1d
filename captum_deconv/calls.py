"""Prove, from a model's source, that one forward pass calls a layer at most once.

A neuron's attribution needs the forward pass up to its layer only. A layer called several times
counts with its last call, though, and at the first call nobody can tell whether another will come.
So the source of each module above the layer is read: where every one of them calls its child in one
place, outside any loop, a pass may stop there. Where the source leaves a doubt, it runs to its end.

>>> from torch import nn
>>> calls_once(nn.Sequential(nn.Linear(2, 2), nn.ReLU()), "1")
True
>>> relu = nn.ReLU()
>>> calls_once(nn.Sequential(relu, nn.Linear(2, 2), relu), "0")
False
"""

import ast
import functools
import inspect
import math
import textwrap
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

_CONTAINERS = (nn.ModuleList, nn.ModuleDict)
_PLAIN = (bool, int, float, str, torch.Tensor, torch.dtype, type(None))
_REPEATING = (
    *(ast.For, ast.AsyncFor, ast.While),
    *(ast.Lambda, ast.FunctionDef, ast.AsyncFunctionDef),
    *(ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp),
)


def calls_once(model: nn.Module, name: str) -> bool:
    """Tell whether a forward pass of the model provably calls a layer at most once.

    Args:
        model: The module whose ``forward`` runs.
        name: The layer's dotted path in it.

    Returns:
        False also where it cannot be told.
    """
    layer = model.get_submodule(name)
    named = model.named_modules(remove_duplicate=False)
    if sum(module is layer for _, module in named) != 1:
        return False
    parent, step = model, ""
    for part in name.split(".") if name else ():
        step = f"{step}.{part}".lstrip(".")
        child = parent.get_submodule(step)
        if isinstance(child, _CONTAINERS):
            continue  # what holds the list calls its members
        if not _calls_child_once(parent, step):
            return False
        parent, step = child, ""
    return True


def _calls_child_once(parent: nn.Module, step: str) -> bool:
    if isinstance(parent, torch.jit.ScriptModule) or "forward" in vars(parent):
        return False
    if type(parent).forward is nn.Sequential.forward:
        return True
    return _Reader(parent, step).count_calls(type(parent).forward) <= 1


class _Reader:
    """Counts the calls of one child in the source of its parent's methods.

    An unreadable method, the child or the parent itself in any place but a plain call, and
    whatever reaches children by other ways than their names, count as infinitely many.
    """

    def __init__(self, parent: nn.Module, step: str) -> None:
        self.parent = parent
        self.child, *self.members = step.split(".")
        self.open_methods: set[Any] = set()

    def count_calls(self, method: Any) -> float:
        """Count the calls in one method, and in those that it calls on the same object."""
        function = inspect.unwrap(method)
        parsed = _parse(function) if inspect.isfunction(function) else None
        if parsed is None or function in self.open_methods or not parsed.args.args:
            return math.inf
        self.open_methods.add(function)
        self_name = parsed.args.args[0].arg
        count = self._count_all(parsed.body, self_name)
        self.open_methods.discard(function)
        return count

    def _count_all(self, nodes: Iterable[ast.AST], self_name: str) -> float:
        return sum(self._count(node, self_name) for node in nodes)

    def _count(self, node: ast.AST, self_name: str) -> float:
        match node:
            case ast.Name(id=name):
                return math.inf if name in (self_name, "super") else 0
            case ast.If(test=test, body=body, orelse=orelse):
                branches = (self._count_all(branch, self_name) for branch in (body, orelse))
                return self._count(test, self_name) + max(branches)
            case ast.IfExp(test=test, body=body, orelse=orelse):
                either = max(self._count(body, self_name), self._count(orelse, self_name))
                return self._count(test, self_name) + either
            case ast.For(target=target, iter=iterated, body=body, orelse=orelse):
                if self.members and self._is_child(_iterated(iterated), self_name):
                    return self._count_in_loop(target, body + orelse, self_name)
                return self._repeated([iterated, *body, *orelse], self_name)
            case _ if isinstance(node, _REPEATING):
                return self._repeated(ast.iter_child_nodes(node), self_name)
            case ast.Call(func=ast.Name(id="len")):
                return 0
            case ast.Call(func=function, args=args, keywords=keywords):
                inside = self._count_all([*args, *keywords], self_name)
                return inside + self._count_called(function, self_name)
            case ast.Attribute(value=ast.Name(id=name), attr=attribute) if name == self_name:
                # A method that is handed on may be called any number of times.
                return math.inf if self._count_attribute(attribute) else 0
        return self._count_all(ast.iter_child_nodes(node), self_name)

    def _count_called(self, function: ast.AST, self_name: str) -> float:
        if not self.members and self._is_child(function, self_name):
            return 1
        match function:
            case ast.Attribute(value=ast.Name(id=name), attr=attribute) if name == self_name:
                return self._count_attribute(attribute)
        return self._count(function, self_name)

    def _repeated(self, nodes: Iterable[ast.AST], self_name: str) -> float:
        return math.inf if self._count_all(nodes, self_name) else 0

    def _count_in_loop(self, target: ast.expr, body: list[ast.stmt], self_name: str) -> float:
        """Count for ``for layer in self.layers``, which takes each member once."""
        nodes = [node for statement in body for node in ast.walk(statement)]
        variable = [node.id for node in ast.walk(target) if isinstance(node, ast.Name)][-1]
        uses = [node for node in nodes if isinstance(node, ast.Name) and node.id == variable]
        calls = [node for node in nodes if isinstance(node, ast.Call) and node.func in uses]
        repeated = any(isinstance(node, _REPEATING) for node in nodes)
        if repeated or len(calls) > 1 or len(uses) != len(calls):
            return math.inf
        return len(calls) + self._count_all(body, self_name)

    def _is_child(self, node: ast.AST, self_name: str) -> bool:
        match node:
            case ast.Attribute(value=ast.Name(id=name), attr=attribute):
                return name == self_name and attribute == self.child
        return False

    def _count_attribute(self, name: str) -> float:
        """Count what ``self.name`` may lead to where it is not the child, called."""
        if name == self.child or hasattr(nn.Module, name):
            return 0 if name == "training" else math.inf
        if name in self.parent._modules:
            return 0
        value = inspect.getattr_static(self.parent, name, None)
        if isinstance(value, (list, tuple, dict, set)):
            parts = value.values() if isinstance(value, dict) else value
            return math.inf if any(isinstance(part, nn.Module) for part in parts) else 0
        home = getattr(value, "__module__", None) or ""
        if isinstance(value, _PLAIN) or home.startswith("torch."):
            return 0
        method = name in dir(type(self.parent)) and name not in vars(self.parent)
        return self.count_calls(getattr(value, "__func__", value)) if method else math.inf


def _iterated(node: ast.AST) -> ast.AST:
    """Return what a loop runs over, seen through ``enumerate``, ``.values()`` and ``.items()``."""
    match node:
        case ast.Call(func=ast.Name(id="enumerate"), args=[iterated]):
            return iterated
        case ast.Call(func=ast.Attribute(value=iterated, attr="values" | "items"), args=[]):
            return iterated
    return node


@functools.lru_cache(maxsize=512)
def _parse(function: Callable[..., Any]) -> ast.FunctionDef | None:
    """Return the function's syntax tree, or None where its source cannot be read."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function))).body[0]
    except (OSError, TypeError, SyntaxError, IndexError):
        return None
    return tree if isinstance(tree, ast.FunctionDef) else None

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
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

from captum_deconv.engine.aliases import has_other_way, is_torchs

_CONTAINERS = (nn.ModuleList, nn.ModuleDict)
_MISSING = object()
_PLAIN = (bool, int, float, str, torch.Tensor, torch.dtype, type(None))
_UNREADABLE = {"super", "eval", "exec", "locals", "globals", "vars"}
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
    named = dict(model.named_modules(remove_duplicate=False))
    layer = named[name]
    if isinstance(layer, torch.jit.ScriptModule):
        return False
    if sum(module is layer for module in named.values()) != 1 or _calls_itself(layer):
        return False
    if has_other_way(model, name):
        return False
    parent, step = model, ""
    for part in name.split(".") if name else ():
        step = f"{step}.{part}".lstrip(".")
        child = parent.get_submodule(step)
        if type(child) in _CONTAINERS:
            continue  # what holds the list calls its members
        if not _calls_child_once(parent, step):
            return False
        parent, step = child, ""
    return True


def _calls_child_once(parent: nn.Module, step: str) -> bool:
    if "forward" in vars(parent) or type(parent).__call__ is not nn.Module.__call__:
        return False
    if type(parent).forward is nn.Sequential.forward:
        return getattr(type(parent), "__iter__", None) is nn.Sequential.__iter__
    # Exactly once: a layer that the source never calls is called from somewhere unseen.
    return _Reader(parent, step).count_calls(type(parent).forward) == 1


def _calls_itself(layer: nn.Module) -> bool:
    """Tell whether a layer may call itself: it, or what hands it on, stands in its own forward."""
    if type(layer).__call__ is not nn.Module.__call__:
        return True
    if is_torchs(type(layer).forward):
        return False
    parsed = _parse(inspect.unwrap(type(layer).forward))
    self_name = None if parsed is None else _first_argument(parsed)
    if parsed is None or self_name is None:
        return True
    nodes = list(ast.walk(parsed))
    attributes = [node for node in nodes if isinstance(node, ast.Attribute)]
    harmless = {id(a.value) for a in attributes if a.attr not in ("forward", "__call__")}
    names = [node for node in nodes if isinstance(node, ast.Name)]
    return any(name.id == self_name and id(name) not in harmless for name in names)


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
        function = method
        while hasattr(function, "__wrapped__"):
            if not _is_torchs_code(function):
                return math.inf  # a decorator may call what it wraps any number of times
            function = function.__wrapped__
        parsed = _parse(function) if inspect.isfunction(function) else None
        if parsed is None or function in self.open_methods or _outlives_its_loop(parsed):
            return math.inf
        self_name = _first_argument(parsed)
        if self_name is None:
            return math.inf
        self.open_methods.add(function)
        count = self._count_all(parsed.body, self_name)
        self.open_methods.discard(function)
        return count

    def _count_all(self, nodes: Iterable[ast.AST], self_name: str) -> float:
        return sum(self._count(node, self_name) for node in nodes)

    def _count(self, node: ast.AST, self_name: str) -> float:
        match node:
            case ast.Name(id=name):
                return math.inf if name == self_name or name in _UNREADABLE else 0
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
            case ast.Call(func=ast.Name(id="len"), args=[ast.Attribute(value=ast.Name())]):
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
        return len(calls) + self._repeated(body, self_name)

    def _is_child(self, node: ast.AST, self_name: str) -> bool:
        match node:
            case ast.Attribute(value=ast.Name(id=name), attr=attribute):
                return name == self_name and attribute == self.child
        return False

    def _count_attribute(self, name: str) -> float:
        """Count what ``self.name`` may lead to where it is not the child, called."""
        if name == self.child or hasattr(nn.Module, name):
            return 0 if name == "training" else math.inf
        registered = (self.parent._modules, self.parent._parameters, self.parent._buffers)
        if any(name in names for names in registered):
            return 0
        value = inspect.getattr_static(self.parent, name, _MISSING)
        if value is _MISSING or isinstance(value, nn.Module):
            return math.inf  # found by a __getattr__, or another name of some module
        if isinstance(value, (list, tuple, dict, set)):
            parts = value.values() if isinstance(value, dict) else value
            return math.inf if any(isinstance(part, nn.Module) for part in parts) else 0
        if isinstance(value, _PLAIN):
            return 0
        if name not in vars(self.parent):
            return self.count_calls(getattr(value, "__func__", value))
        return 0 if is_torchs(value) and not inspect.ismethod(value) else math.inf


def _is_torchs_code(function: Any) -> bool:
    return str(getattr(function, "__globals__", {}).get("__name__")).startswith("torch.")


def _first_argument(parsed: ast.FunctionDef) -> str | None:
    arguments = [*parsed.args.posonlyargs, *parsed.args.args]
    return arguments[0].arg if arguments else None


def _outlives_its_loop(parsed: ast.FunctionDef) -> bool:
    """Tell whether a loop's variable is read outside the loop, where it still is a member."""
    inside: Counter[str] = Counter()
    for loop in ast.walk(parsed):
        if isinstance(loop, ast.For):
            variables = {node.id for node in ast.walk(loop.target) if isinstance(node, ast.Name)}
            reads = sum((_reads(part) for part in loop.body), Counter())
            inside.update({name: reads[name] for name in variables})
    everywhere = _reads(parsed)
    return any(everywhere[name] != count for name, count in inside.items())


def _reads(tree: ast.AST) -> Counter[str]:
    names = (node for node in ast.walk(tree) if isinstance(node, ast.Name))
    return Counter(node.id for node in names if isinstance(node.ctx, ast.Load))


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

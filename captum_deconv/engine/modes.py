"""The modes that a pass runs in, and what of the model it would change: as before, afterwards.

Whatever mode the caller is in, autograd has to record, and to record every rectifier by itself; and
a picture of a model must not train it.
"""

import functools
import inspect
import sys
import threading
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.jit import optimized_execution  # type: ignore[attr-defined]  # not in its __all__


class _EagerStance:
    """``torch.compile``'s stance "force_eager" while any thread is inside.

    A compiled function runs as one opaque node. The stance is the process's own, not the thread's,
    so the first to come sets it and the last to go puts the old one back.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside: weakref.WeakSet[_Token] = weakref.WeakSet()
        self._stance: Any = None

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the stance for as long as the context lasts."""
        token = _Token()
        try:  # from the start: an interrupt may come at any place
            with self._lock:
                self._inside.add(token)
                if self._stance is None:
                    self._stance = torch.compiler.set_stance("force_eager")
            yield
        finally:
            with self._lock:
                self._inside.discard(token)
                if not self._inside and self._stance is not None:
                    stance, self._stance = self._stance, None
                    stance.__exit__(None, None, None)


class _Token:
    """Stands for one context; a set that holds it weakly forgets one that was torn down."""


class _KeptBuffers:
    """The buffers of modules in train mode, such as running statistics.

    A pass in another thread may have changed them already, so the first to come saves their values
    and the last to go puts them back.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._values: dict[int, Tensor] = {}
        self._users: Counter[int] = Counter()

    @contextmanager
    def held(self, forward_func: Callable[..., Any]) -> Iterator[None]:
        """Keep the buffers of a callable's modules for as long as the context lasts."""
        kept = [
            (module, name, buffer)
            for module in modules_of(forward_func)
            if getattr(module, "training", False)  # a frozen TorchScript module has no mode
            for name, buffer in module._buffers.items()
            if buffer is not None
        ]
        with self._lock:
            for _, _, buffer in kept:
                if not self._users[id(buffer)]:
                    self._values[id(buffer)] = buffer.detach().clone()
                self._users[id(buffer)] += 1
        try:
            yield
        finally:
            with self._lock:
                for module, name, buffer in kept:
                    module._buffers[name] = buffer
                    self._users[id(buffer)] -= 1
                    if not self._users[id(buffer)]:
                        del self._users[id(buffer)]
                        # By its data, whose version stays: the user may yet go backward through it.
                        buffer.data.copy_(self._values.pop(id(buffer)))


_eager_stance = _EagerStance()
_kept_buffers = _KeptBuffers()


@contextmanager
def differentiable(forward_func: Callable[..., Any]) -> Iterator[None]:
    """Let autograd record what ``forward_func`` does, and leave its modules as they were.

    The backward pass belongs inside too.
    """
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        # What is warm stays warm, and nothing that this pass does warms it up.
        stack.enter_context(optimized_execution(False))
        if "torch._dynamo" in sys.modules:  # else nothing can be compiled, and the import is slow
            stack.enter_context(_eager_stance.held())
        stack.enter_context(_kept_buffers.held(forward_func))
        yield


def modules_of(forward_func: Callable[..., Any]) -> Iterator[nn.Module]:
    """Yield the modules behind a callable: its own, or those that it refers to."""
    owner = find_owner(forward_func)
    roots = [owner] if isinstance(owner, nn.Module) else _referred_to(owner)
    yield from dict.fromkeys(module for root in roots for module in root.modules())


def find_owner(forward_func: Any) -> Any:
    """Return the module, or whatever else, that a method or a partial call belongs to."""
    while isinstance(forward_func, functools.partial):
        forward_func = forward_func.func
    return getattr(forward_func, "__self__", forward_func)


def _referred_to(function: Any) -> list[nn.Module]:
    """Return the modules that a function names, such as ``model`` in ``lambda x: model(x)[0]``."""
    if not inspect.isfunction(function):
        return []
    names = inspect.getclosurevars(function)
    values = [*names.nonlocals.values(), *names.globals.values()]
    return [value for value in values if isinstance(value, nn.Module)]

"""The modes that a pass runs in, and what of the model it would change: as before, afterwards.

Whatever mode the caller is in, autograd has to record, and to record every rectifier by itself; and
a picture of a model must not train it.

An interrupt (Ctrl-C) may come between any two lines. So everything is read before anything is set,
what was read is put back in a ``finally``, and putting back may be done twice: the second time does
what an interrupt kept the first from doing, the release of a lock included.
"""

import functools
import inspect
import itertools
import sys
import threading
import traceback
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch._ops import HigherOrderOperator
from torch.overrides import (
    TorchFunctionMode,
    _get_current_function_mode_stack,
    _pop_mode,
    _push_mode,
)
from torch.utils._pytree import tree_flatten, tree_unflatten

Result = TypeVar("Result")
Kept = list[tuple[nn.Module, str, Tensor]]


class _Token:
    """Stands for one pass; a set that holds it weakly forgets one that was torn down."""


class _EagerStance:
    """``torch.compile``'s stance "force_eager" while any thread is inside.

    A compiled function runs as one opaque node. The stance is the process's own, not the thread's,
    so the first to come sets it and the last to go puts the old one back.
    """

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self._inside: weakref.WeakSet[_Token] = weakref.WeakSet()
        self._before: Any = None

    def hold(self, token: _Token) -> None:
        """Set the stance until the token lets it go."""
        from torch._dynamo import eval_frame

        with self.lock:
            self._inside.add(token)
            if self._before is None:
                self._before = eval_frame._stance
                torch.compiler.set_stance("force_eager")

    def let_go(self, token: _Token) -> None:
        """Put the old stance back, if nobody else is inside."""
        with self.lock:
            self._inside.discard(token)
            if self._before is not None and not self._inside:
                from torch._dynamo import eval_frame

                eval_frame._set_stance(self._before)
                self._before = None


class _KeptBuffers:
    """The buffers of modules in train mode, such as running statistics.

    A pass in another thread may have changed them already, so the first to come saves their values
    and the last to go puts them back.
    """

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self._values: dict[int, Tensor] = {}
        self._users: dict[int, set[_Token]] = {}

    def hold(self, token: _Token, kept: Kept) -> None:
        """Save the buffers' values, if nobody did yet."""
        with self.lock:
            for _, _, buffer in kept:
                if not self._users.get(id(buffer)):
                    self._values[id(buffer)] = buffer.detach().clone()
                self._users.setdefault(id(buffer), set()).add(token)

    def copy(self, kept: Kept) -> dict[int, Tensor]:
        """Return new buffers that hold what was saved, by the buffers' identities."""
        with self.lock:
            return {id(buffer): self._values[id(buffer)].clone() for _, _, buffer in kept}

    def let_go(self, token: _Token, kept: Kept) -> None:
        """Put the values back, if nobody else is inside."""
        with self.lock:
            for module, name, buffer in kept:
                module._buffers[name] = buffer
                users = self._users.get(id(buffer), set())
                users.discard(token)
                if not users and id(buffer) in self._values:
                    # By its data, whose version stays: the user may yet go backward through it.
                    buffer.data.copy_(self._values[id(buffer)])
                    self._users.pop(id(buffer), None)
                    del self._values[id(buffer)]


@contextmanager
def under(mode: TorchFunctionMode) -> Iterator[None]:
    """Run what is inside under a function mode, and take that from the stack if it is there.

    Torch takes a mode away while it runs what that does. Where an interrupt kept it from putting
    the mode back, to leave the mode as torch does would take another's, or fail on an empty stack.
    """
    try:
        _push_mode(mode)  # type: ignore[no-untyped-call]  # torch's
        yield
    finally:
        if any(each is mode for each in _function_modes()):
            while _pop_mode() is not mode:  # type: ignore[no-untyped-call]  # torch's
                pass


def _function_modes() -> list[TorchFunctionMode]:
    modes: list[TorchFunctionMode] = _get_current_function_mode_stack()  # type: ignore[no-untyped-call]  # torch's
    return modes


class _ControlFlow(TorchFunctionMode):
    """Runs ``torch.cond``, ``while_loop`` and ``map`` as the Python that they stand for.

    Under ``torch.compile`` they are one opaque node each; under "force_eager" they fail.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run ``func``, or what it stands for."""
        kwargs = kwargs or {}
        name: Any = func.name() if isinstance(func, HigherOrderOperator) else None  # type: ignore[no-untyped-call]  # torch's
        run: Callable[..., Any] | None = _PLAINLY.get(name)
        if run is None:
            return func(*args, **kwargs)
        with under(self):  # inside a branch may be another
            return run(*args, **kwargs)


def _run_cond(pred: Any, true_fn: Any, false_fn: Any, operands: Any, **_: Any) -> Any:
    return (true_fn if pred else false_fn)(*operands)


def _run_while_loop(cond_fn: Any, body_fn: Any, carried: Any, more: Any, **_: Any) -> Any:
    carried = tuple(carried)
    while cond_fn(*carried, *more):
        carried = tuple(body_fn(*carried, *more))
    return carried


def _run_map(f: Any, xs: Any, pos_args: Any, **_: Any) -> Any:
    rows = [tree_flatten(f(*row, *pos_args)) for row in zip(*xs, strict=True)]
    stacked = [torch.stack(parts) for parts in zip(*(leaves for leaves, _ in rows), strict=True)]
    return tree_unflatten(stacked, rows[0][1])


_PLAINLY: dict[str, Callable[..., Any]] = {
    "cond": _run_cond,
    "while_loop": _run_while_loop,
    "map_impl": _run_map,
}

_eager_stance = _EagerStance()
_kept_buffers = _KeptBuffers()


class Pass:
    """The modes of one pass, and what was before it."""

    def __init__(self, forward_func: Callable[..., Any]) -> None:
        self._token = _Token()
        self._grad = torch.is_grad_enabled()
        self._optimized = torch._C._get_graph_executor_optimize()
        self._function_modes = _function_modes()
        self._recorded = torch.inference_mode(False)
        self._savers: list[Any] = []
        self._kept = [
            (module, name, buffer)
            for module in modules_of(forward_func)
            if getattr(module, "training", False)  # a frozen TorchScript module has no mode
            for name, buffer in module._buffers.items()
            if buffer is not None
        ]

    def begin(self) -> None:
        """Set the modes."""
        self._recorded.__enter__()
        torch._C._set_grad_enabled(True)
        # What is warm stays warm, and nothing that this pass does warms it up.
        torch._C._set_graph_executor_optimize(False)
        _kept_buffers.hold(self._token, self._kept)
        self.run_eagerly()

    def run_eagerly(self) -> bool:
        """Keep the compiler out, and tell whether that is new.

        Where the compiler is not loaded nothing can be compiled, and loading it is slow. A pass
        that loads it ran ahead of this; it is to be run again.
        """
        if "torch._dynamo" not in sys.modules or self._token in _eager_stance._inside:
            return False
        _eager_stance.hold(self._token)
        # Beneath whatever mode of this pass is there already, and will be gone before it.
        above = []
        while torch._C._len_torch_function_stack() > len(self._function_modes):
            above.append(_pop_mode())  # type: ignore[no-untyped-call]  # torch's
        for mode in (_ControlFlow(), *reversed(above)):
            _push_mode(mode)  # type: ignore[no-untyped-call]  # torch's
        return True

    @contextmanager
    def saving(self, saver: Any, mode: TorchFunctionMode) -> Iterator[None]:
        """Give what autograd saves to a saver's ``pack`` and ``unpack``, under a function mode."""
        try:
            self._savers.append(saver)
            torch._C._autograd._push_saved_tensors_default_hooks(saver.pack, saver.unpack)
            with under(mode):
                yield
        finally:
            self._pop_hooks()

    @contextmanager
    def begun_anew(self) -> Iterator[None]:
        """Give modules in train mode other buffers, as theirs were at first, for one more pass."""
        now = [(module, name, module._buffers[name]) for module, name, _ in self._kept]
        try:
            copies = _kept_buffers.copy(self._kept)
            for module, name, buffer in self._kept:
                module._buffers[name] = copies[id(buffer)]
            yield
        finally:
            for module, name, changed in now:
                module._buffers[name] = changed

    def _pop_hooks(self) -> None:
        for _ in self._savers:
            top = torch._C._autograd._top_saved_tensors_default_hooks(True)
            if top is not None and getattr(top[0], "__self__", None) in self._savers:
                torch._C._autograd._pop_saved_tensors_default_hooks()
        self._savers = []

    def _put_function_modes_back(self) -> None:
        pairs = zip(_function_modes(), self._function_modes, strict=False)
        alike = sum(1 for _ in itertools.takewhile(lambda pair: pair[0] is pair[1], pairs))
        while torch._C._len_torch_function_stack() > alike:
            _pop_mode()  # type: ignore[no-untyped-call]  # torch's
        for mode in self._function_modes[alike:]:
            _push_mode(mode)  # type: ignore[no-untyped-call]  # torch's

    def end(self) -> None:
        """Put everything back; a second time changes nothing."""
        self._pop_hooks()
        for lock in (_eager_stance.lock, _kept_buffers.lock):
            while lock._is_owned():  # type: ignore[attr-defined]  # undocumented, as old as the class
                lock.release()
        self._put_function_modes_back()
        _eager_stance.let_go(self._token)
        _kept_buffers.let_go(self._token, self._kept)
        torch._C._set_graph_executor_optimize(self._optimized)
        if hasattr(self._recorded, "_inference_mode_context"):
            self._recorded.__exit__(None, None, None)
        torch._C._set_grad_enabled(self._grad)


def differentiably(forward_func: Callable[..., Any], work: Callable[[Pass], Result]) -> Result:
    """Do some work that autograd records, and leave the model's modules as they were.

    Not a context manager: an interrupt between the end of a ``with`` block and the first line of
    its ``__exit__`` would find nobody to put the modes back.

    Args:
        forward_func: The model, or whatever else is run.
        work: The forward pass and the backward passes; it gets the modes that it runs in.

    Returns:
        What the work returns.
    """
    held = Pass(forward_func)
    try:
        try:
            held.begin()
            return work(held)
        except KeyboardInterrupt as interrupt:
            # A context of torch's that it tore apart puts back, when its frame is collected, what
            # is to be gone by then: so it is collected now.
            traceback.clear_frames(interrupt.__traceback__)
            for frame, _ in traceback.walk_tb(interrupt.__traceback__):
                # Where a debugger read them, Python 3.10 keeps a copy until it is asked again.
                _ = frame.f_locals
            raise
        finally:
            held.end()
    finally:
        held.end()


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

"""Hooks on a model's modules that are gone when a context ends, wherever an interrupt comes.

A handle is no help against Ctrl-C: there is a moment when torch has the hook and nobody the handle.
So a hook is known beforehand and looked for afterwards, twice: the second time finds what an
interrupt kept the first from.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from torch import nn


class Hook(NamedTuple):
    """What is called with a module.

    Attributes:
        module: Whose calls are looked at.
        function: As for :meth:`torch.nn.Module.register_forward_hook`, or the pre-hook's.
        before: Whether it is a pre-hook.
    """

    module: nn.Module
    function: Callable[..., Any]
    before: bool = False

    def register(self) -> None:
        """Give the function to the module."""
        if self.before:
            self.module.register_forward_pre_hook(self.function)
        else:
            self.module.register_forward_hook(self.function)

    def remove(self) -> None:
        """Take the function from the module, if it has it."""
        name = "_forward_pre_hooks" if self.before else "_forward_hooks"
        held: dict[int, Any] = getattr(self.module, name, {})
        # All at once: another thread may give the module a hook, or take one, between two of them.
        for key, function in tuple(held.items()):
            if function is self.function:
                held.pop(key, None)


@contextmanager
def hooked(*hooks: Hook) -> Iterator[None]:
    """Have functions called with modules for as long as the context lasts.

    Args:
        *hooks: In the order in which they are called.

    Yields:
        Nothing; run the model inside.
    """
    try:
        try:
            for hook in hooks:
                hook.register()
            yield
        finally:
            _remove(hooks)
    finally:
        _remove(hooks)


def _remove(hooks: tuple[Hook, ...]) -> None:
    for hook in hooks:
        hook.remove()

"""The way up: one forward pass that records a way back for each module, and checks for a chain."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode, resolve_name

from captum_deconv.mirror.transposes import CannotMirrorError, GoBack, Options, find_recorder


class Step(NamedTuple):
    """A module that ran: its way back, and the shape of what it returned."""

    name: str
    go_back: GoBack
    output_shape: torch.Size


# These pass every value on in the same order, so that undoing them is a reshape.
_RESHAPES = {"clone", "contiguous", "flatten", "reshape", "reshape_as"} | {
    *("squeeze", "unflatten", "unsqueeze", "view", "view_as")
}


class Ascent(TorchFunctionMode):
    """One forward pass that writes down each module's way back, and that it is a chain.

    Module hooks see the modules; the torch function mode sees what is computed between them. The
    thread through the chain is the identity of one tensor, `current`: equal values would not do,
    for a rectifier leaves a positive map as it is.
    """

    def __init__(
        self, model: nn.Module, options: Options, layer_name: str, layer: nn.Module
    ) -> None:
        super().__init__()
        self.model = model
        self.options = options
        self.layer_name = layer_name
        self.layer = layer
        self.steps: list[Step] = []
        self.names = {module: name for name, module in model.named_modules()}
        self.depth = 0  # how many steps we are inside of: what a module does within is its own
        self.between = ""  # the last operation outside of every module
        self.go_back: GoBack | None = None
        self.found: tuple[int, Tensor] | None = None

    def run(self, inputs: Tensor) -> None:
        """Run the model, with hooks that are gone afterwards.

        Args:
            inputs: The user's inputs, copied.

        Raises:
            ValueError: The model is no chain.
        """
        self._advance(inputs)
        with ExitStack() as stack:
            for module in self.names:
                if find_recorder(module) or not (
                    isinstance(module, nn.Sequential) or any(module.children())
                ):
                    enter = module.register_forward_pre_hook(self._enter, with_kwargs=True)
                    stack.callback(enter.remove)
                    stack.callback(module.register_forward_hook(self._leave).remove)
            # Registered last, so that the layer's own step is complete when this one looks.
            stack.callback(self.layer.register_forward_hook(self._capture).remove)
            with self:
                output = self.model(inputs)
        if output is not self.current or self._is_changed():
            raise ValueError(
                f"{type(self.model).__name__} cannot be mirrored, as it is no chain: it "
                f"does not return what {self._last_name()} returned{self._blame()}"
            )

    def below_layer(self, batch: int) -> tuple[list[Step], Tensor]:
        """Give what lies between the inputs and the layer's output, and that output.

        Args:
            batch: The number of examples.

        Returns:
            The steps in the order they ran, and the layer's output `(N, ...)`.

        Raises:
            ValueError: The layer did not run, or its output is not one row per example.
        """
        if self.found is None:
            raise ValueError(f"layer {self.layer_name!r} does not run in the forward pass")
        count, activation = self.found
        if activation.dim() < 2 or len(activation) != batch:
            raise ValueError(
                f"layer {self.layer_name!r} must return one row for each of the {batch} examples, "
                f"not {tuple(activation.shape)}"
            )
        return self.steps[:count], activation

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if self.depth == 0 and isinstance(result, Tensor) and result is not self.current:
            if (
                func.__name__ in _RESHAPES
                and args
                and args[0] is self.current
                and not self._is_changed()
                and (result.numel(), result.dtype) == (self.current.numel(), self.current.dtype)
            ):
                self._advance(result)
            else:
                self.between = resolve_name(func) or func.__name__
        elif self.depth == 0 and self._is_changed():
            self.between = resolve_name(func) or func.__name__
        return result

    def _enter(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.depth += 1
        if self.depth > 1:  # a parametrisation of the step's weights
            return
        title = f"{self.names[module]!r} ({type(module).__name__})"
        recorder = find_recorder(module)
        if recorder is None:
            raise ValueError(f"{title} is not a module that can be mirrored")
        values = (*args, *kwargs.values())
        if len(values) != 1 or values[0] is not self.current or self._is_changed():
            raise ValueError(
                f"{title} cannot be mirrored, as the model is no chain there: it does not take "
                f"what {self._last_name()} returned{self._blame()}"
            )
        record, dimensions = recorder
        if dimensions and self.current.dim() != dimensions + 2:
            raise ValueError(
                f"{title} must take a batch of {dimensions + 2} dimensions, "
                f"not {tuple(self.current.shape)}"
            )
        try:
            self.go_back = record(module, self.current, self.options)
        except CannotMirrorError as error:
            raise ValueError(f"{title} cannot be mirrored: {error}") from None

    def _leave(self, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        self.depth -= 1
        if self.depth == 0:
            assert self.go_back is not None  # set by _enter
            self.steps.append(Step(self.names[module], self.go_back, output.shape))
            self._advance(output)

    def _capture(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if output is not self.current or self._is_changed():
            raise ValueError(
                f"layer {self.layer_name!r} ({type(module).__name__}) cannot be mirrored, as it "
                f"does not return what {self._last_name()} returned{self._blame()}"
            )
        # A copy, as an in-place rectifier may come next.
        self.depth += 1
        self.found = len(self.steps), output.clone()
        self.depth -= 1

    def _advance(self, tensor: Tensor) -> None:
        self.current, self.version, self.between = tensor, tensor._version, ""

    def _is_changed(self) -> bool:
        return self.current._version != self.version

    def _last_name(self) -> str:
        return repr(self.steps[-1].name) if self.steps else "the model's input"

    def _blame(self) -> str:
        return f" ({self.between} is called in between)" if self.between else ""

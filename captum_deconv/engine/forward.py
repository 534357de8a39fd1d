"""Run a forward pass and capture a layer, leaving everything of the user's as it was.

The model sees copies of the inputs, so a first operation in place cannot reach the user's data; a
layer's tensors are captured by a hook that is gone when the pass is over. The modes that it runs in
are :mod:`captum_deconv.engine.modes`'.
"""

import difflib
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from captum_deconv.engine.checks import Checks
from captum_deconv.engine.hooks import Hook, hooked
from captum_deconv.engine.modes import Pass, find_owner, modules_of
from captum_deconv.engine.saved import mark_wanted
from captum_deconv.engine.single_call import calls_once
from captum_deconv.engine.structures import (
    Choice,
    has_gradient,
    list_tensors,
    pick,
    replace_tensors,
)


def make_leaves(
    inputs: Sequence[Tensor], checks: Checks, *, integers: bool = False
) -> tuple[Tensor, ...]:
    """Return leaves with the inputs' values that gradients can be taken for.

    Args:
        inputs: The user's tensors, which stay as they are.
        checks: Gets the condition that they are finite.
        integers: Whether inputs without gradients are taken, as they are.

    Returns:
        One for each, of its shape; they share its memory, so nothing may write to them.

    Raises:
        TypeError: If an input is neither of a floating-point nor of a complex type.
        ValueError: If an input holds NaN or infinite values; of one on a GPU the checks raise it.
    """
    leaves = []
    for index, tensor in enumerate(inputs):
        if not has_gradient(tensor):
            if integers:
                leaves.append(tensor.detach())
                continue
            raise TypeError(
                f"inputs[{index}] is of type {tensor.dtype}, which has no gradient: convert images "
                "with .float(), pass what is no image through additional_forward_args, or, for "
                "token indices, explain an embedding layer with one of the Layer classes"
            )
        _check_finite(tensor.detach(), index, checks)
        leaves.append(_detach(tensor).requires_grad_())
    return tuple(leaves)


def _check_finite(tensor: Tensor, index: int, checks: Checks) -> None:
    if tensor.is_sparse or tensor.is_nested:
        tensor = tensor.coalesce().values() if tensor.is_sparse else torch.cat(_rows(tensor))

    def describe() -> ValueError:
        count = int((~tensor.isfinite()).sum())
        return ValueError(
            f"inputs[{index}] holds {count} NaN or infinite values of {tensor.numel()}: every "
            "attribution would be NaN; clean the input first"
        )

    checks.require(tensor.isfinite().all(), describe)


def _rows(nested: Tensor) -> list[Tensor]:
    return [row.flatten() for row in nested.unbind()]


def run(
    forward_func: Callable[..., Any],
    inputs: Sequence[Tensor],
    arguments: Sequence[Any],
    held: Pass | None = None,
) -> Any:
    """Call the model with copies of its inputs, so nothing it does in place reaches the user.

    Args:
        forward_func: A module or any other callable.
        inputs: Leaves, or tensors that need no gradient.
        arguments: What follows the inputs; tensors among them are copied as well.
        held: The modes that the pass runs in. Where it is the first to load the compiler, which
            they would have kept out, it is run again.

    Returns:
        Whatever the model returns.

    Raises:
        RuntimeError: Of the model's own; where an input's type or device is not the weights', it
            says so.
    """
    try:
        output = _call(forward_func, inputs, arguments)
    except (Exception, _Reached):
        if held is None or not held.run_eagerly():
            raise
        return _call(forward_func, inputs, arguments)
    if held is not None and held.run_eagerly():
        return _call(forward_func, inputs, arguments)
    return output


def _call(
    forward_func: Callable[..., Any], inputs: Sequence[Tensor], arguments: Sequence[Any]
) -> Any:
    copies = [tensor.clone() for tensor in inputs]
    rest = [_copy_tensors(argument) for argument in arguments]
    try:
        if isinstance(forward_func, torch.jit.ScriptModule):
            return _interpret(forward_func, [*copies, *rest])
        return forward_func(*copies, *rest)
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        mismatch = _find_mismatch(forward_func, inputs) if type(error) is RuntimeError else None
        if mismatch is None:
            raise
        raise RuntimeError(f"{mismatch} ({error})") from error


def _find_mismatch(forward_func: Callable[..., Any], inputs: Sequence[Tensor]) -> str | None:
    """Say in what an input differs from the model's weights, where a pass failed."""
    weights = (
        weight
        for module in modules_of(forward_func)
        for weight in module.parameters()
        if weight.is_floating_point()
    )
    weight = next(weights, None)
    if weight is None:
        return None
    for index, tensor in enumerate(inputs):
        if not has_gradient(tensor):
            continue
        if tensor.device != weight.device:
            return (
                f"inputs[{index}] is on {tensor.device} and the model's weights are on "
                f"{weight.device}: move one of them, as with inputs.to({str(weight.device)!r})"
            )
        if tensor.dtype != weight.dtype and not torch.is_autocast_enabled(tensor.device.type):
            return (
                f"inputs[{index}] is of type {tensor.dtype} and the model's weights are of "
                f"{weight.dtype}: convert one of them, as with inputs.to({weight.dtype})"
            )
    return None


def _copy_tensors(value: Any) -> Any:
    """Copy the tensors in plain lists, tuples and dictionaries; leave anything else as it is."""
    if isinstance(value, Tensor):
        return value.detach().clone()
    if type(value) in (list, tuple):
        return type(value)(_copy_tensors(part) for part in value)
    if type(value) is dict:
        return {key: _copy_tensors(part) for key, part in value.items()}
    return value


def _interpret(module: Any, arguments: list[Any]) -> Any:
    """Run a TorchScript module as it was written.

    Once warm, its executor runs stretches of it as one fused, opaque node, and keeps doing so.
    """
    expected = module.forward.schema.arguments[1:]
    missing = expected[len(arguments) :]
    if len(arguments) > len(expected) or not all(a.has_default_value() for a in missing):
        return module(*arguments)  # whose error names the signature
    arguments += [a.default_value for a in missing if a.has_default_value()]
    interpret: Callable[..., Any] = torch._C._jit_interpret_graph  # type: ignore[attr-defined]  # no stub
    return interpret(module.inlined_graph, (module._c, *arguments))


class _Reached(BaseException):
    """Ends a forward pass at the layer; no ``except Exception`` in a model's code stops it."""


@dataclass
class Capture:
    """The tensors of a layer in one forward pass.

    Attributes:
        layer: The module whose output, or input, is captured.
        name: What to call it in an error.
        of_input: Whether its input is captured.
        cut: Whether the rest of the model goes on from leaves with the tensors' values, so that
            nothing below the layer is differentiated.
        through: Whether the rest of the model goes on from the captured tensors, cut or not, so
            that its output has a gradient to them.
        stop: Whether the pass ends at the layer.
        stop_at: At which of its calls the pass ends, where they were counted.
        any_thread: Whether calls from other threads count, as DataParallel makes them.
        choice: Which of the layer's tensors is meant.
        tensors: By device, the last call's.
        doubtful: Whether the model may have computed something else for going on with copies: of
            two tensors that share their memory one was changed, and not the other.
    """

    layer: nn.Module
    name: str
    of_input: bool = False
    cut: bool = False
    stop: bool = False
    any_thread: bool = False
    choice: Choice = None
    stop_at: int | None = None
    tensors: dict[torch.device, tuple[Tensor, ...]] = field(default_factory=dict)
    through: bool = False

    def __post_init__(self) -> None:
        self._thread = threading.get_ident()

    @contextmanager
    def hooked(self) -> Iterator[None]:
        """Capture for as long as the context lasts; the pass that stopped at the layer ends it.

        Raises:
            RuntimeError: If the forward pass never ran the layer.
        """
        self._calls = 0
        self._shared: list[tuple[Tensor, int, Tensor]] = []
        registered = False
        take: Any = self._take_input if self.of_input else self._take_output
        try:
            with hooked(Hook(self.layer, take, before=self.of_input)):
                registered = True
                yield
        except _Reached:
            pass
        except RuntimeError as error:
            if registered or not isinstance(self.layer, torch.jit.ScriptModule):
                raise
            raise RuntimeError(
                f"layer {self.name} is TorchScript, which lets nobody look inside ({error}): use "
                "the model it was scripted from"
            ) from None
        finally:
            self.doubtful: bool = any(
                old._version != was or new._version for old, was, new in self._shared
            )
            self._shared = []
        if not self.tensors:
            scripted = isinstance(self.layer, torch.jit.ScriptModule)
            raise RuntimeError(
                f"layer {self.name} did not run in the forward pass: choose one that the model "
                "calls" + (" from Python (inside TorchScript no layer can be seen)" * scripted)
            )

    def _take_input(self, module: nn.Module, args: Any) -> Any:
        return self._take(args)

    def _take_output(self, module: nn.Module, args: Any, output: Any) -> Any:
        return self._take(output, args)

    def _take(self, value: Any, args: Any = None) -> Any:
        if not self.any_thread and threading.get_ident() != self._thread:
            return None  # another thread's pass through the same model
        tensors = self._choose(value)
        self._calls += 1
        if self.stop or self._calls == self.stop_at:
            self.tensors[tensors[0].device] = tensors
            raise _Reached
        # What follows may work in place, on these tensors or on others that share their memory.
        # And the model may run the layer where autograd records nothing.
        with torch.inference_mode(False), torch.enable_grad():
            kept = tuple(_cut(t) if self.cut else t.clone() for t in tensors)
            self.tensors[kept[0].device] = kept
            if not self.through:
                return None
            for tensor in kept:
                mark_wanted(tensor)
            copies = [tensor.clone() for tensor in kept]
        new: dict[int, list[Tensor]] = {}
        for old, copy in zip(tensors, copies, strict=True):
            new.setdefault(id(old), []).append(copy)
            shared = self.of_input or _shares_memory(old, args)
            if shared and not old.is_inference():
                self._shared.append((old, old._version, copy))
        return replace_tensors(value, new)

    def _choose(self, value: Any) -> tuple[Tensor, ...]:
        """Return the tensors that are meant: one, or all of a tuple of nothing else."""
        if self.of_input and not value:
            raise TypeError(
                f"layer {self.name} takes no positional argument, so its input cannot be "
                "captured: explain its output, or the layer before it"
            )
        owner = f"what layer {self.name} {'takes' if self.of_input else 'returns'}"
        if self.choice is None and isinstance(value, Tensor):
            return (value,)
        if self.choice is None and isinstance(value, (tuple, list)):
            tensors = tuple(part for part in value if isinstance(part, Tensor))
            if tensors and len(tensors) == len(value):
                return tensors
        return (pick(value, self.choice, owner, "layer_tensor"),)


def _shares_memory(tensor: Tensor, args: Any) -> bool:
    """Tell whether a layer's output lies in the memory of its input, as an in-place ReLU's does."""
    return any(
        part.layout is tensor.layout is torch.strided
        and part.untyped_storage().data_ptr() == tensor.untyped_storage().data_ptr()
        for _, part in list_tensors(args)
    )


def _cut(tensor: Tensor) -> Tensor:
    """Return a leaf with the tensor's values; one of integers stays as it is."""
    return _detach(tensor).requires_grad_() if has_gradient(tensor) else tensor


def _detach(tensor: Tensor) -> Tensor:
    # What is detached from an inference tensor is one too; autograd takes only a copy.
    return tensor.detach().clone() if tensor.is_inference() else tensor.detach()


def capture(
    forward_func: Callable[..., Any],
    layer: nn.Module | str,
    *,
    of_input: bool = False,
    cut: bool = False,
    through: bool = False,
    stop: bool = False,
    choice: Choice = None,
) -> Capture:
    """Prepare the capture of a layer.

    Args:
        forward_func: The model, or a callable that runs it.
        layer: The module, or its dotted name in the model.
        of_input: Capture what the layer takes rather than what it returns.
        cut: Let the model go on from leaves.
        through: Let it go on from the captured tensors.
        stop: End the pass at the layer, provided that it is called once; where the source
            cannot prove that, the pass runs to its end and the last call counts.
        choice: Which of the layer's tensors is meant, where it has several and other things.

    Returns:
        What to put around the forward pass.

    Raises:
        ValueError: If the model has no layer of that name.
        TypeError: If the layer is no module, or a name is given for a model that is none.
    """
    several_devices = any(
        isinstance(module, nn.DataParallel) and len(module.device_ids) > 1
        for module in modules_of(forward_func)
    )
    model = _unwrap(forward_func)
    name, module = _find(model, layer)
    stop = stop and not several_devices and isinstance(model, nn.Module)
    if stop:
        dotted = next((n for n, m in model.named_modules() if m is module), None)
        stop = dotted is not None and calls_once(model, dotted)
    return Capture(
        *(module, name, of_input, cut, stop, several_devices, choice), through=through or cut
    )


def _unwrap(forward_func: Any) -> Any:
    """Return the model inside DataParallel and ``torch.compile``'s wrapper."""
    while True:
        if isinstance(forward_func, nn.DataParallel):
            forward_func = forward_func.module
        elif isinstance(forward_func, nn.Module) and "_orig_mod" in forward_func._modules:
            forward_func = forward_func._modules["_orig_mod"]
        else:
            return forward_func


def _find(model: Any, layer: nn.Module | str) -> tuple[str, nn.Module]:
    """Return the layer's name for messages, and the layer."""
    if isinstance(layer, nn.Module):
        named = model.named_modules() if isinstance(model, nn.Module) else ()
        name = next((name for name, module in named if module is layer), None)
        return repr(name) if name else f"of class {type(layer).__name__}", layer
    if not isinstance(layer, str):
        raise TypeError(
            f"layer must be a module or its dotted name, not {layer!r} ({type(layer).__name__})"
        )
    owner = find_owner(model)
    if not isinstance(owner, nn.Module):
        raise TypeError(
            f"layer {layer!r} is a name, and {model!r} is no module that it could be looked up "
            "in: give the module itself"
        )
    names = dict(owner.named_modules(remove_duplicate=False))
    if layer not in names:
        close = difflib.get_close_matches(layer, names, n=3)
        hint = f"did you mean {' or '.join(map(repr, close))}?" if close else "see named_modules()"
        raise ValueError(f"the model has no layer {layer!r}: {hint}")
    return repr(layer), names[layer]

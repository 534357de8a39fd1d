r"""The independent reference: the papers' equations at every rectifier call, nothing else changed.

The eager forward pass runs under a ``TorchFunctionMode``. Each call of a rectifier, however it is
spelled, computes its values as ever, but as a custom ``autograd.Function`` whose backward is
written from the equations. With ``R`` the signal from above and ``x`` the rectifier's input,

- input gradient: ``R * 1[x > 0]`` (Simonyan et al. 2013);
- deconvnet: ``max(R, 0)`` (Zeiler & Fergus 2013);
- guided backprop: ``max(R, 0) * 1[x > 0]`` (Springenberg et al. 2014).

Where the rectifier is bounded above by ``c`` (ReLU6, ``clamp(0, c)``) the mask is ``0 < x < c``.
For the leaky and smooth families, which no paper treats, ``R * 1[x > 0]`` generalises to
``R * f'(x)``, and guided backprop to ``max(R * f'(x), 0)``.

This module shares no code with the package, and imports nothing of it.
"""

import functools
import inspect
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

METHODS = ("input_gradient", "guided_backprop", "deconvnet")

EQUATIONS: dict[str, Callable[[Tensor, Callable[[Tensor], Tensor]], Tensor]] = {
    "input_gradient": lambda signal, passed: passed(signal),
    "deconvnet": lambda signal, passed: signal.clamp(min=0),
    "guided_backprop": lambda signal, passed: passed(signal).clamp(min=0),
}
"""What each method passes on of the signal ``R``, given ``passed(R)``: that is ``R * 1[x > 0]``, or
``R * f'(x)`` for what is no rectifier proper.

Guided backprop's ``max(R, 0) * m`` and ``max(R * m, 0)`` are the same number for a mask ``m``.
"""


class _MaskedRectifier(torch.autograd.Function):
    """``call(x)``, which passes signals where ``mask`` is one."""

    @staticmethod
    def forward(ctx, x, call, mask, method, in_place):
        ctx.save_for_backward(mask)
        ctx.method = method
        y = call(x)
        if in_place:
            assert y is x
            ctx.mark_dirty(x)
        return y

    @staticmethod
    def backward(ctx, signal):
        (mask,) = ctx.saved_tensors
        passed = EQUATIONS[ctx.method](signal, lambda signal: signal * mask)
        # It lies in memory as the input does, like autograd's own: for PyTorch's batch norm reads
        # it wrongly on the CPU where it is contiguous and the input, of one example, is permuted.
        laid = torch.empty_like(mask, dtype=passed.dtype).copy_(passed)
        return laid, None, None, None, None


class _Activation(torch.autograd.Function):
    """``call(x)`` with its own derivative; for the leaky and smooth families."""

    @staticmethod
    def forward(ctx, x, call, method, in_place):
        # Called once: it may draw random numbers.
        with torch.enable_grad():
            ctx.leaf = x.detach().clone().requires_grad_()
            ctx.value = call(ctx.leaf * 1 if in_place else ctx.leaf)
        ctx.method = method
        if in_place:
            ctx.mark_dirty(x)
            return x.copy_(ctx.value.detach())
        return ctx.value.detach()

    @staticmethod
    def backward(ctx, signal):
        def passed(signal):
            return torch.autograd.grad(ctx.value, ctx.leaf, signal, retain_graph=True)[0]

        return EQUATIONS[ctx.method](signal, passed), None, None, None


def _names(*names: str) -> set[Any]:
    """Return every function of these names in torch, with the ones that work in place."""
    homes = (torch, torch.Tensor, F, torch._C._nn)
    spellings = [spelling for name in names for spelling in (name, f"{name}_")]
    found = {getattr(home, name, None) for home in homes for name in spellings}
    return found - {None}


_RELU = _names("relu")
_RELU6 = _names("relu6")
_HARDTANH = _names("hardtanh")
_CLAMP = _names("clamp", "clip")
_CLAMP_MIN = _names("clamp_min")
_THRESHOLD = _names("threshold")
_MAXIMUM = _names("maximum", "max", "fmax")
_LEAKY_RELU = _names("leaky_relu")
_LEAKY = _LEAKY_RELU | _names("prelu", "rrelu")
_SMOOTH = _names("elu", "selu", "celu", "gelu", "silu", "mish", "softplus", "hardswish")

FAMILIES = {"relu": set(), "leaky": _LEAKY, "all": _LEAKY | _SMOOTH}

_HARDTANH_SIGNATURE = inspect.signature(F.hardtanh)
_LEAKY_SIGNATURE = inspect.signature(F.leaky_relu)


def _is_zero(value: Any) -> bool:
    """Tell whether a bound is zero throughout, and no signal of its own."""
    if isinstance(value, Tensor):
        return not value.requires_grad and bool((value == 0).all())
    return value == 0


def _bounds(func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> tuple[Any, Any] | None:
    """Return the lower and upper bound of a clamp-like call, or None where it is no such call."""
    if func in _RELU:
        return 0, None
    if func in _RELU6:
        return 0, 6
    if func in _HARDTANH:
        values = _HARDTANH_SIGNATURE.bind(*args, **kwargs)
        values.apply_defaults()
        return values.arguments["min_val"], values.arguments["max_val"]
    if func in _LEAKY_RELU:
        values = _LEAKY_SIGNATURE.bind(*args, **kwargs)
        values.apply_defaults()
        return None if values.arguments["negative_slope"] else (0, None)
    if func in _CLAMP:
        bounds = dict(zip(("min", "max"), args[1:], strict=False)) | kwargs
        return bounds.get("min"), bounds.get("max")
    if func in _CLAMP_MIN:
        return kwargs["min"] if "min" in kwargs else args[1], None
    if func in _THRESHOLD:
        return kwargs["threshold"] if "threshold" in kwargs else args[1], None
    return None


def _works_in_place(func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> bool:
    if func.__name__.endswith("_"):
        return True
    if not inspect.isfunction(func):
        return False
    return bool(inspect.signature(func).bind(*args, **kwargs).arguments.get("inplace", False))


class Rectified(TorchFunctionMode):
    """Inside, every rectifier call has a method's backward.

    Args:
        method: One of ``METHODS``.
        activations: ``"relu"``, ``"leaky"`` or ``"all"``: the families that count as rectifiers.

    Attributes:
        calls: How many rectifiers were replaced.
    """

    def __init__(self, method: str, activations: str = "relu") -> None:
        super().__init__()
        assert method in METHODS
        self.method = method
        self.others = FAMILIES[activations]
        self.calls = 0

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func in _MAXIMUM:
            return self._maximum(func, args, kwargs)
        if "input" in kwargs:
            kwargs = dict(kwargs)
            args = (kwargs.pop("input"), *args)
        bounds = _bounds(func, args, kwargs)
        if bounds is None and func not in self.others:
            return func(*args, **kwargs)
        x, *rest = args
        if not (torch.is_grad_enabled() and x.requires_grad):
            return func(*args, **kwargs)
        in_place = _works_in_place(func, args, kwargs)
        if self.leaves(func, x, in_place):
            return func(*args, **kwargs)
        call = functools.partial(_call, func, rest, kwargs)
        if bounds is None:
            self.calls += 1
            return _Activation.apply(x, call, self.method, in_place)
        lower, upper = bounds
        if lower is None or not _is_zero(lower):
            return func(*args, **kwargs)
        return self._rectify(x, call, upper, in_place)

    def leaves(self, func: Any, x: Tensor, in_place: bool) -> bool:
        """Tell whether a rectifier is left as it is: here, none; a subclass may say otherwise."""
        return False

    def _rectify(self, x: Tensor, call: Callable, upper: Any, in_place: bool) -> Tensor:
        self.calls += 1
        with torch.no_grad():
            mask = x > 0
            if upper is not None:
                mask = mask & (x < upper)
        return _MaskedRectifier.apply(x, call, mask, self.method, in_place)

    def _maximum(self, func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        """Replace a maximum of a signal and a constant zero; leave reductions and maxouts."""
        sides = [*args, *(kwargs[name] for name in ("input", "other") if name in kwargs)]
        if not (len(sides) == 2 and all(isinstance(side, Tensor) for side in sides)):
            return func(*args, **kwargs)
        signals = [side for side in sides if side.requires_grad]
        constants = [side for side in sides if not side.requires_grad]
        if not (torch.is_grad_enabled() and len(signals) == 1 and _is_zero(constants[0])):
            return func(*args, **kwargs)
        x = signals[0].expand(torch.broadcast_shapes(*(side.shape for side in sides)))
        return self._rectify(x, lambda x: func(x, constants[0]), None, in_place=False)


def _call(func: Any, rest: Sequence[Any], kwargs: dict[str, Any], x: Tensor) -> Tensor:
    return func(x, *rest, **kwargs)


def select(values: Tensor, index: Any) -> Tensor:
    """Return the sum over the batch of the values at an index, or of what a function selects."""
    if index is None:
        return values.sum()
    if callable(index):
        return index(values).sum()
    return values[(slice(None), *(index if isinstance(index, tuple) else (index,)))].sum()


Method = str | AbstractContextManager[Any]
"""One of ``METHODS``, or what the forward pass runs in, such as a mode made of a subclass."""


def _context(method: Method, activations: str) -> AbstractContextManager[Any]:
    return Rectified(method, activations) if isinstance(method, str) else method


def input_attribution(
    model: Callable[..., Any],
    inputs: Tensor | tuple[Tensor, ...],
    target: Any = None,
    method: Method = "input_gradient",
    arguments: Sequence[Any] = (),
    activations: str = "relu",
) -> tuple[Tensor, ...]:
    """Return the attribution of an output to each of the inputs."""
    leaves = _leaves(inputs)
    with torch.enable_grad():
        with _context(method, activations):
            output = model(*(leaf.clone() for leaf in leaves), *arguments)
        return _gradients(select(output, target), leaves)


def neuron_attribution(
    model: nn.Module,
    layer: nn.Module,
    inputs: Tensor | tuple[Tensor, ...],
    selector: Any,
    method: Method = "input_gradient",
    arguments: Sequence[Any] = (),
    activations: str = "relu",
    of_layer_input: bool = False,
) -> tuple[Tensor, ...]:
    """Return the attribution of a neuron of a layer, at its last call, to each of the inputs."""
    leaves = _leaves(inputs)
    with torch.enable_grad():
        with _context(method, activations):
            seen = _watch(layer, of_layer_input, model, leaves, arguments, beside=True)[0]
        return _gradients(select(seen, selector), leaves)


def layer_attribution(
    model: nn.Module,
    layer: nn.Module,
    inputs: Tensor | tuple[Tensor, ...],
    target: Any = None,
    method: Method = "input_gradient",
    arguments: Sequence[Any] = (),
    activations: str = "relu",
    of_layer_input: bool = False,
) -> Tensor:
    """Return the attribution of an output to what a layer takes or returns at its last call."""
    with torch.enable_grad():
        with _context(method, activations):
            seen, output = _watch(layer, of_layer_input, model, _leaves(inputs), arguments)
        return _gradients(select(output, target), [seen])[0]


def _watch(
    layer: nn.Module,
    of_input: bool,
    model: Any,
    leaves: Sequence[Tensor],
    arguments: Any,
    *,
    beside: bool = False,
) -> tuple[Tensor, Tensor]:
    """Return the layer's tensor, kept from whatever works in place, and the model's output.

    The model goes on from that tensor, unless its copy is to stand beside.
    """
    seen: list[Tensor] = []

    def watch(module: nn.Module, args: tuple[Any, ...], *output: Tensor) -> Any:
        tensor = args[0] if of_input else output[0]
        seen.append(tensor.clone())
        if beside:
            return None
        on = seen[-1].clone()
        return (on, *args[1:]) if of_input else on

    register = layer.register_forward_pre_hook if of_input else layer.register_forward_hook
    handle = register(watch)
    try:
        output = model(*(leaf.clone() for leaf in leaves), *arguments)
    finally:
        handle.remove()
    return seen[-1], output


def _leaves(inputs: Tensor | tuple[Tensor, ...]) -> list[Tensor]:
    inputs = (inputs,) if isinstance(inputs, Tensor) else inputs
    return [tensor.detach().clone().requires_grad_() for tensor in inputs]


def _gradients(value: Tensor, tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
    found = torch.autograd.grad(value, tensors, allow_unused=True)
    return tuple(
        torch.zeros_like(tensor) if gradient is None else gradient
        for tensor, gradient in zip(tensors, found, strict=True)
    )


def relative_error(actual: Tensor, reference: Tensor) -> float:
    """Return ``max|actual - reference| / max|reference|``; a reference of zeros is an error."""
    largest = reference.abs().max().item()
    assert 0 < largest < float("inf"), f"the reference's largest value is {largest}"
    return (actual - reference).abs().max().item() / largest


class UnrolledRNN(nn.Module):
    """An ``nn.RNN(nonlinearity="relu", batch_first=True)`` as the loop that it is defined by.

    ``h_t = relu(W_ih x_t + b_ih + W_hh h_(t-1) + b_hh)``, layer by layer, with the RNN's weights.
    """

    def __init__(self, rnn: nn.RNN) -> None:
        super().__init__()
        assert rnn.nonlinearity == "relu"
        assert rnn.batch_first
        assert not rnn.bidirectional
        self.rnn = rnn

    def forward(self, x: Tensor) -> Tensor:
        """Return the last layer's hidden states, ``(N, time, hidden)``."""
        for weights in self.rnn.all_weights:
            into, across, into_bias, across_bias = weights
            hidden = x.new_zeros(len(x), self.rnn.hidden_size)
            states = []
            for step in F.linear(x.transpose(0, 1), into, into_bias).unbind():
                hidden = F.relu(step + F.linear(hidden, across, across_bias))
                states.append(hidden)
            x = torch.stack(states, 1)
        return x

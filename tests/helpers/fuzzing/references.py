"""What the package should answer, from the reference (``oracle.py``).

Of the input gradient the reference is plain autograd, whichever subgradient it takes at a tie.
"""

import copy
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import oracle
import torch
import torch.nn.functional as F
from opaque import TELLS
from torch import Tensor, nn

from fuzzing.networks import CHOICES, Built, UnusableError

Gradients = tuple[Tensor, ...]
Index = Any
"""An index into each example's values, one index for each example, or a function of them all."""


class LeavingSlices(oracle.Rectified):
    """The reference that leaves alone what works in place on a part of a tensor.

    That is what the package says it cannot reach; of a view of the whole, clamps.

    Attributes:
        left: How many rectifiers were left.
    """

    def __init__(self, method: str, activations: str) -> None:
        super().__init__(method, activations)
        self.left = 0

    def leaves(self, func: Any, x: Tensor, in_place: bool) -> bool:
        if not (in_place and x._is_view() and x._base is not None):
            return False
        whole = x.numel() == x._base.numel()
        left = not whole or "cl" in func.__name__ or not TELLS
        self.left += left
        return left


class Reference:
    """A copy of a network to put questions to.

    Args:
        built: The network.
        seed: Of the random numbers that a pass draws.
    """

    def __init__(self, built: Built, seed: int) -> None:
        self.built = built
        self.model = copy.deepcopy(built.model)
        for module in self.model.modules():
            if hasattr(module, "as_reference"):
                module.as_reference = True
        self._buffers = {name: buffer.clone() for name, buffer in self.model.named_buffers()}
        self.seed = seed

    def _context(self, method: str, activations: str, slices: bool) -> AbstractContextManager[Any]:
        if method == "input_gradient":
            return nullcontext()
        kind = oracle.Rectified if slices else LeavingSlices
        return kind(method, activations)

    def _fresh(self) -> nn.Module:
        with torch.no_grad():
            for name, buffer in self.model.named_buffers():
                buffer.copy_(self._buffers[name])
        torch.default_generator.manual_seed(self.seed)
        return self.model

    def _explained(self) -> Callable[..., Tensor]:
        model, choice = self._fresh(), CHOICES.get(self.built.plan.head)
        return lambda *args: model(*args) if choice is None else model(*args)[choice]

    def to_inputs(self, index: Index, method: str, activations: str, slices: bool) -> Gradients:
        """Return an output's attribution to each input."""
        return oracle.input_attribution(
            *(self._explained(), self.built.inputs, select(index)),
            self._context(method, activations, slices),
            self.built.arguments,
        )

    def of_neuron(
        self, layer: str, of_input: bool, index: Index, method: str, activations: str, slices: bool
    ) -> Gradients:
        """Return a neuron's attribution to each input."""
        model = self._fresh()
        return oracle.neuron_attribution(
            *(model, model.get_submodule(layer), self.built.inputs, select(index)),
            self._context(method, activations, slices),
            self.built.arguments,
            of_layer_input=of_input,
        )

    def to_layer(
        self, layer: str, of_input: bool, index: Index, method: str, activations: str, slices: bool
    ) -> Gradients:
        """Return an output's attribution to a layer."""
        choice = CHOICES.get(self.built.plan.head)
        chosen = select(index)
        model = self._fresh()
        found = oracle.layer_attribution(
            *(model, model.get_submodule(layer), self.built.inputs),
            (lambda output: chosen(output if choice is None else output[choice])),
            self._context(method, activations, slices),
            self.built.arguments,
            of_layer_input=of_input,
        )
        return (found,)

    def _watched(self, layer: str, of_input: bool, beside: bool) -> tuple[Tensor, Tensor]:
        model, choice = self._fresh(), CHOICES.get(self.built.plan.head)
        seen, output = oracle._watch(
            *(model.get_submodule(layer), of_input, model),
            *(oracle._leaves(self.built.inputs), self.built.arguments),
            beside=beside,
        )
        return seen.detach(), output if choice is None else output[choice]

    def is_changed_by_copies(self, layer: str, of_input: bool, slack: int) -> bool:
        """Tell whether the network computes something else where it goes on with copies.

        Copies may lie otherwise in memory, and what is computed from them may round otherwise: so
        some of the type's resolution is slack.
        """
        ours, plain = (
            self._watched(layer, of_input, beside)[1].detach() for beside in (False, True)
        )
        if not plain.isfinite().all():
            raise UnusableError("the output is not finite")
        return not same([ours], [plain], slack * torch.finfo(plain.dtype).eps)

    def guided_cam(
        self, layer: str, of_input: bool, index: Index, method: str, activations: str, slices: bool
    ) -> Gradients:
        """Return guided Grad-CAM; nothing where a map cannot be brought to an input's size."""
        leaves, choice = oracle._leaves(self.built.inputs), CHOICES.get(self.built.plan.head)
        model = self._fresh()
        with torch.enable_grad():
            with self._context(method, activations, slices):
                output = oracle._watch(
                    *(model.get_submodule(layer), of_input, model, leaves, self.built.arguments)
                )[1]
            selected = select(index)(output if choice is None else output[choice])
            guided = oracle._gradients(selected.sum(), leaves)
        (weights,) = self.to_layer(layer, of_input, index, "input_gradient", activations, slices)
        values = self._watched(layer, of_input, False)[0]
        places = tuple(range(2, values.dim()))
        means = weights.mean(places, keepdim=True) if places else weights
        cam = F.relu((means * values).sum(1, keepdim=True))
        return tuple(part * _brought(cam, part) for part in guided)


def _brought(cam: Tensor, part: Tensor) -> Tensor:
    try:
        return F.interpolate(cam, part.shape[2:], mode="nearest")
    except (RuntimeError, ValueError, NotImplementedError):
        return torch.empty(0)


def select(index: Index) -> Callable[[Tensor], Tensor]:
    """Return what selects the value of each example that an index means."""
    if callable(index):
        return index

    def selected(values: Tensor) -> Tensor:
        if index is None:
            return values
        if isinstance(index, list):
            return torch.stack([values[(n, *each)] for n, each in enumerate(index)])
        return values[(slice(None), *index)]

    return selected


def same(actual: Sequence[Tensor], expected: Sequence[Tensor], rounding: float = 0.0) -> bool:
    """Tell whether tensors are equal: bit for bit, or up to some part of the largest value."""
    pairs = list(zip(actual, expected, strict=True))
    if any(a.dtype != e.dtype or a.shape != e.shape for a, e in pairs):
        return False
    if all(torch.equal(a, e) for a, e in pairs):
        return True
    return relative_error(actual, expected) <= rounding


def relative_error(actual: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """Return the largest difference over the largest value; infinite where that is zero."""
    difference = largest_difference(actual, expected)
    if difference in (0.0, float("inf")):
        return difference
    largest = max((float(e.double().abs().max()) for e in expected if e.numel()), default=0.0)
    return difference / largest if largest else float("inf")


def largest_difference(actual: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """Return the largest difference of two values in the same place; infinite if one is NaN."""
    if not all(part.isfinite().all() for part in (*actual, *expected)):
        return float("inf")  # NaN is neither larger nor smaller than what is allowed
    pairs = [(a.double(), e.double()) for a, e in zip(actual, expected, strict=True) if e.numel()]
    return max((float((a - e).abs().max()) for a, e in pairs), default=0.0)

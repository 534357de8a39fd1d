"""A question put to the package and to the reference.

Whatever the package says it leaves alone, by a warning or an error, is left alone in a second
reference; an answer equal to that one is right only if it was reported.

Nearly all answers are equal bit for bit. Where a gradient lies otherwise in memory, a sum over it
may run in another order; a fused RNN computes otherwise than the loop it stands for, and a crop
otherwise than its image. So what is not equal bit for bit may differ by ``ROUNDING`` of its largest
value; and by the type's own resolution, since what a batch norm cancels is nothing but noise. No
mask depends on such a difference: the forward passes are the same, bit for bit, but for those of
crops and of the RNN.
"""

import functools
import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch
from snapshot import Snapshot
from torch import Tensor

import captum_deconv as cd
from captum_deconv.attribution import cropped
from captum_deconv.attribution.cropped import OfCroppedNeuron
from captum_deconv.engine import lean
from fuzzing.networks import CHOICES, Built, UnusableError, build
from fuzzing.plans import Plan, Question
from fuzzing.references import (
    Gradients,
    Index,
    Reference,
    largest_difference,
    relative_error,
    same,
)

METHODS = ("input_gradient", "guided_backprop", "deconvnet")

_MODES: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "grad": nullcontext,
    "no_grad": torch.no_grad,
    "inference": torch.inference_mode,
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
}
ROUNDING = {"float64": 1e-10, "float32": 1e-4, "float16": 2e-2, "bfloat16": 1e-1}
"""How far an answer may lie from the reference, in its largest value, by the network's type."""

_REPORTED = "no rule can reach inside"


@contextmanager
def strictly() -> Iterator[list[bool]]:
    """Let the package let go of the smallest tensors, and ask neurons on the smallest crops.

    Where a pass reads nothing, there is NaN.

    Yields:
        For each pass of crops, whether they were smaller than the images.
    """

    def fill(shape: Any, stride: Any, dtype: Any, device: Any) -> Tensor:
        return torch.empty_strided(shape, stride, dtype=dtype).fill_(torch.nan)

    smaller: list[bool] = []
    pass_back = OfCroppedNeuron._pass_back

    def note(recording: OfCroppedNeuron, *given: Any) -> Any:
        found = pass_back(recording, *given)
        size = recording.leaves[0].shape[2:]
        smaller.extend(parts[0][0].size != size for parts in found[:1])
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lean, "_SMALL", 0)
        patch.setattr(lean._blank, "view", fill)
        patch.setattr(cropped, "_PASS", -math.inf)
        patch.setattr(OfCroppedNeuron, "_pass_back", note)
        yield smaller


@dataclass
class Answered:
    """What came of an example.

    Attributes:
        answer: ``"equal"``, or which documented error or report it ended in.
        telling: Whether the rule made a difference, so that the plain gradient would have failed.
        zero: Whether the answer is zero throughout.
        built: The network.
        question: What was asked.
        said: The package's warnings and errors.
        exact: Whether it is equal bit for bit.
        error: Where it is not, the largest difference from the reference, in its largest value.
        cropped: Whether a neuron was asked on a part of the images.
    """

    answer: str
    telling: bool
    zero: bool
    built: Built
    question: Question
    said: list[str] = field(default_factory=list)
    exact: bool = True
    error: float = 0.0
    cropped: bool = False


@dataclass(frozen=True)
class _Item:
    """One target or selector, as the package and as the reference take it."""

    given: Any
    index: Index


def answer(plan: Plan, question: Question) -> Answered:
    """Build the network, ask, and hold the answer against the reference.

    Raises:
        UnusableError: If the network itself fails, or its gradient is not finite.
        AssertionError: If the package is wrong.
    """
    built = build(plan)
    question = _adapt(question, built)
    with strictly() as smaller:
        answered = _Asking(built, question).answer()
    return replace(answered, cropped=any(smaller))


def _adapt(question: Question, built: Built) -> Question:
    """Return the question without what does not go with the network."""
    changes: dict[str, Any] = {}
    if question.mode == "autocast" and built.plan.dtype != "float32":
        changes["mode"] = "grad"
    if (
        question.kind.startswith(("Neuron", "Layer", "Guided"))
        and question.kind != "GuidedBackprop"
    ):
        changes["caller"] = "module"
    if question.kind in ("gradient_func",):
        changes["each"] = 0
    if question.kind == "compare_each":
        changes["each"] = max(1, question.each)
    if question.kind == "compare":
        changes["each"] = 0
    return replace(question, **changes)


class _Asking:
    def __init__(self, built: Built, question: Question) -> None:
        self.built, self.question = built, question
        self.reference = Reference(built, built.plan.seed)
        kind = question.kind
        self.at_layer = kind.startswith(("Neuron", "Layer")) or kind == "GuidedGradCam"
        self.layer = ""
        if self.at_layer:
            if not built.layers:
                raise UnusableError("no module takes and returns a tensor")
            # Near the output for a neuron, near the input for a layer: so rectifiers lie between.
            number = -1 - question.layer if kind.startswith("Neuron") else question.layer
            self.layer = list(built.layers)[number % len(built.layers)]
        self.of_input = question.of_layer_input and self.layer not in built.several
        self.exact, self.error = True, 0.0
        kind = "bfloat16" if question.mode == "autocast" else built.plan.dtype
        self.rounding, self.noise = ROUNDING[kind], torch.finfo(getattr(torch, kind)).eps
        self.items = [self._item(number) for number in range(max(1, question.each))]

    # ---- Targets and selectors ----

    def _item(self, number: int) -> _Item:
        if self.question.kind.startswith("Neuron"):
            shape = self.built.layers[self.layer][not self.of_input]
            return self._selector(shape, number)
        return self._target(self.built.output, number)

    def _index(self, shape: torch.Size, shift: int) -> tuple[int, ...]:
        drawn = self.question.index
        return tuple((drawn[axis % 4] + shift) % size for axis, size in enumerate(shape[1:]))

    def _target(self, shape: torch.Size, number: int) -> _Item:
        index, batch = self._index(shape, number), self.built.plan.batch
        if not index or (shape[1:] == (1,) and self.question.form == 0):
            return _Item(None, (0,) if index else None)
        by_example = [self._index(shape, number + example) for example in range(batch)]
        firsts = [each[0] for each in by_example]
        forms: list[_Item] = [_Item(index, index)]
        if batch > 0:
            forms.append(_Item(by_example, by_example))
        if len(index) == 1:
            forms += [
                _Item(index[0], index),
                _Item(index[0] - shape[1], index),
                _Item(torch.tensor(index[0]), index),
                _Item(torch.tensor([index[0]]), index),
            ]
            if batch > 0:
                forms += [_Item(firsts, by_example), _Item(torch.tensor(firsts), by_example)]
        return forms[self.question.form % len(forms)]

    def _selector(self, shape: torch.Size, number: int) -> _Item:
        index = self._index(shape, number)
        whole = slice(None)
        channel = index[0]
        functions: list[tuple[Any, Any]] = [
            (cd.strongest(channel), lambda x: _largest_of(x, channel)),
            (lambda x: x.flatten(1).mean(1),) * 2,
            (lambda x: x.square().flatten(1).sum(1),) * 2,
        ]
        forms = [_Item(index, index), *(_Item(*pair) for pair in functions)]
        if len(index) > 1:
            forms.append(_Item((*index[:-1], whole), (*index[:-1], whole)))
            forms.append(_Item((channel, *[whole] * (len(index) - 1)), (channel,)))
        else:
            forms.append(_Item(channel, index))
        return forms[self.question.form % len(forms)]

    # ---- The package ----

    def ask(self, uncovered: str) -> list[tuple[_Item, str, Gradients]]:
        """Return the package's answers: of each question, by each method."""
        q, built = self.question, self.built
        inputs: Any = built.inputs if len(built.inputs) > 1 else built.inputs[0]
        options: dict[str, Any] = {
            "output": CHOICES.get(built.plan.head),
            "memory": q.memory,
            "activations": q.activations,
            "uncovered": uncovered,
        }
        arguments = built.arguments or None
        caller = self._caller()
        given = [item.given for item in self.items]
        if q.kind.startswith("compare"):
            names = [name for name in METHODS if name != q.method or q.index[0] % 2]
            if q.kind == "compare":
                found = [cd.compare(caller, inputs, given[0], arguments, names, **options)]
            else:
                found = list(cd.compare_each(caller, inputs, given, arguments, names, **options))
            return [
                (item, name, _as_tuple(result[name]))
                for item, result in zip(self.items, found, strict=True)
                for name in names
            ]
        if q.kind == "gradient_func":
            function = cd.gradient_func(q.method, **options)
            return [(self.items[0], q.method, function(caller, inputs, given[0], arguments))]
        kind = getattr(cd, q.kind)
        if kind.method == "input_gradient":
            del options["activations"], options["uncovered"]
        if not self.at_layer:
            made = kind(caller, **options)
            where: dict[str, Any] = {}
        else:
            layer = self.layer if q.index[0] % 2 else built.model.get_submodule(self.layer)
            made = kind(built.model, layer, **options)
            name = "neuron" if q.kind.startswith("Neuron") else "layer"
            where = {f"attribute_to_{name}_input": self.of_input}
        where["additional_forward_args"] = arguments
        if q.each:
            results = list(made.attribute_each(inputs, iter(given), **where))
        else:
            results = [made.attribute(inputs, given[0], **where)]
        return [
            (item, kind.method, _as_tuple(result))
            for item, result in zip(self.items, results, strict=True)
        ]

    def _caller(self) -> Any:
        model = self.built.model
        return {
            "module": model,
            "function": lambda *args: model(*args),
            "partial": functools.partial(model),
            "method": model.forward,
        }[self.question.caller]

    # ---- The reference ----

    def expect(self, item: _Item, method: str, slices: bool) -> Gradients:
        """Return the reference's answer; without slices, as if no rule could reach those."""
        q, index = self.question, item.index
        options = (method, q.activations, slices)
        if q.kind == "GuidedGradCam":
            return self.reference.guided_cam(self.layer, self.of_input, index, *options)
        if q.kind.startswith("Neuron"):
            return self.reference.of_neuron(self.layer, self.of_input, index, *options)
        if q.kind.startswith("Layer"):
            return self.reference.to_layer(self.layer, self.of_input, index, *options)
        return self.reference.to_inputs(index, *options)

    # ---- Both ----

    def answer(self) -> Answered:
        q, built = self.question, self.built
        autocast = _MODES["autocast"] if q.mode == "autocast" else nullcontext
        said: list[str] = []
        with autocast(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            plain = self._plain()
        snapshot = Snapshot(built.model, *built.inputs, *built.arguments)
        numbers = torch.default_generator.manual_seed(built.plan.seed).get_state()
        try:
            found = self._listen(q.uncovered, said)
        except cd.RectifierCoverageError as error:
            if q.uncovered != "raise":
                raise AssertionError("an error that was not asked for") from error
            said.append(str(error))
            found = None
        except RuntimeError as error:
            if plain is None and "does not require grad" in str(error):
                snapshot.assert_unchanged()
                return Answered("no gradient", False, False, built, q, [str(error)])
            if "shares its memory" in str(error) and self._is_changed_by_copies(8):
                return Answered("shared memory", False, False, built, q, [str(error)])
            raise
        finally:
            snapshot.assert_unchanged()
        if not built.random:
            assert torch.equal(numbers, torch.get_rng_state()), "random numbers were drawn"
        assert plain is not None, "the package differentiated what autograd cannot"
        refused = found is None
        if found is None:
            torch.default_generator.manual_seed(built.plan.seed)
            found = self._listen("ignore", [])
        with autocast(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert not self._is_changed_by_copies(30), "the network computed something else"
            left = self._hold(found, said, refused)
        zero = all(not part.any() for _, _, parts in found for part in parts)
        telling = self._is_telling(found, plain)
        name = "RectifierCoverageError" if refused else "equal"
        if left:
            name += ", what is left was told"
        return Answered(name, telling, zero, built, q, said, self.exact, self.error)

    def _is_changed_by_copies(self, slack: int) -> bool:
        if self.question.kind != "GuidedGradCam" and not self.question.kind.startswith("Layer"):
            return False
        return self.reference.is_changed_by_copies(self.layer, self.of_input, slack)

    def _plain(self) -> Gradients | None:
        try:
            plain = self.expect(self.items[0], "input_gradient", True)
        except RuntimeError as error:
            if "element 0 of tensors does not require grad" in str(error):
                return None
            raise UnusableError(str(error).split("\n")[0]) from error
        if not all(part.isfinite().all() for part in plain):
            raise UnusableError("the gradient is not finite")
        return plain

    def _is_telling(self, found: list[tuple[_Item, str, Gradients]], plain: Gradients) -> bool:
        return any(
            method != "input_gradient" and item is self.items[0] and not same(parts, plain, 0.0)
            for item, method, parts in found
        )

    def _listen(self, uncovered: str, said: list[str]) -> list[tuple[_Item, str, Gradients]]:
        with _MODES[self.question.mode](), warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            found = self.ask(uncovered)
        for warning in caught:
            text = str(warning.message)
            ours = "captum_deconv" in type(warning.message).__module__
            if ours or text.startswith(("the model is in train mode", "Grad-CAM of shape")):
                said.append(text)
        return found

    def _hold(
        self, found: list[tuple[_Item, str, Gradients]], said: list[str], refused: bool
    ) -> bool:
        """Assert that the answers are right; tell whether they are so of what is left only."""
        left = False
        told = any(_REPORTED in text for text in said)
        for item, method, parts in found:
            what = f"{method} of {item.given}"
            expected = self.expect(item, method, True)
            if not all(part.isfinite().all() for part in expected):
                raise UnusableError("the reference is not finite")
            for part, tensor in zip(parts, expected, strict=True):
                assert not part.requires_grad, f"{what} requires grad"
                assert part.dtype == tensor.dtype, f"{what} is {part.dtype}, not {tensor.dtype}"
                assert part.shape == tensor.shape, f"{what} is {part.shape}, not {tensor.shape}"
            if not self._is_right(parts, expected):
                partial = self.expect(item, method, False)
                error = relative_error(parts, partial)
                assert self._is_right(parts, partial), f"{what}: relative error {error}"
                assert told or self._tells(), f"{what} is not whole, and nothing told"
                left = True
        return left

    def _is_right(self, parts: Gradients, expected: Gradients) -> bool:
        """Tell whether an answer is equal to the reference, and note how nearly so."""
        if same(parts, expected):
            return True
        error = relative_error(parts, expected)
        if error <= self.rounding:
            self.error = max(self.error, error)
        elif largest_difference(parts, expected) > self.noise:
            return False
        self.exact = False
        return True

    def _tells(self) -> bool:
        """Tell whether the package, asked to, says that no rule can reach something."""
        if self.question.uncovered != "ignore":
            return False
        said: list[str] = []
        torch.default_generator.manual_seed(self.built.plan.seed)
        self._listen("warn", said)
        return any(_REPORTED in text for text in said)


def _largest_of(x: Tensor, channel: int) -> Tensor:
    values = x[:, channel].reshape(len(x), -1)
    return values[torch.arange(len(x)), values.argmax(1)]


def _as_tuple(value: Any) -> Gradients:
    return value if isinstance(value, tuple) else (value,)

"""One forward pass that autograd recorded, and the backward passes over it.

What is asked of the record differs in three places only: where the forward pass is cut or stopped,
which value a question selects, and which tensors its gradient is wanted for. There is a class for
each kind of question, and one way through all of them.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from captum_deconv.engine import forward, modes
from captum_deconv.engine._captum import (
    NeuronSelector,
    Target,
    as_arguments,
    as_tuple,
    in_device_order,
    select_neuron,
    select_target,
)
from captum_deconv.engine.checks import Checks
from captum_deconv.engine.lean import (
    CannotBeLeanError,
    Memory,
    Recorder,
    is_for_want_of_hooks,
    make_recorder,
)
from captum_deconv.engine.methods import Method
from captum_deconv.engine.overriding import overridden
from captum_deconv.engine.structures import Choice, have_same_values, pick, refuse

Layer = nn.Module | str
Gradients = tuple[Tensor, ...]
Answer = TypeVar("Answer")

_WORTH_LOOKING_AT = 3 * 224**2
"""Values of a batch below which looking after what is kept takes longer than it is worth."""


@dataclass(frozen=True)
class ModelCall:
    """A call of a model, and the layer in it that is meant.

    Attributes:
        forward_func: The model, or any other callable.
        inputs: A tensor ``(N, ...)`` or a tuple of them.
        additional_forward_args: What ``forward_func`` takes after the inputs.
        output: Which tensor of what the model returns is explained, where that is no tensor.
        layer: A module in the model, or its dotted name.
        layer_tensor: Which of the layer's tensors is meant, where it has several.
        of_layer_input: Whether what the layer takes is meant, not what it returns.
        device_ids: The order of devices, for a DataParallel model that the callable hides.
        memory: What is kept for the backward passes.
    """

    forward_func: Callable[..., Any]
    inputs: Any
    additional_forward_args: Any = None
    output: Choice = None
    layer: Layer = ""
    layer_tensor: Choice = None
    of_layer_input: bool = False
    device_ids: list[int] | None = None
    memory: Memory = "light"

    def prepare_capture(
        self, *, cut: bool = False, through: bool = False, stop: bool = False
    ) -> forward.Capture:
        """Prepare the capture of the layer; as :func:`captum_deconv.engine.forward.capture`."""
        return forward.capture(
            self.forward_func,
            self.layer,
            of_input=self.of_layer_input,
            cut=cut,
            through=through,
            stop=stop,
            choice=self.layer_tensor,
        )

    def in_order(self, capture: forward.Capture) -> list[Gradients]:
        """Return what each device captured, in the order of the batch."""
        ids = self.device_ids
        ids = getattr(self.forward_func, "device_ids", None) if ids is None else ids
        return in_device_order(capture.tensors, ids)


class Recording(ABC, Generic[Answer]):
    """A forward pass, recorded for questions of one kind.

    Args:
        call: What to run.
        methods: By which methods to answer.
    """

    integers = False
    """Whether inputs without gradients are taken."""

    def __init__(self, call: ModelCall, methods: Sequence[Method]) -> None:
        self.call = call
        self.methods = methods
        self.checks = Checks()
        self.leaves: Gradients = ()
        self.output: Any = None
        self.capture: forward.Capture | None = None
        self.recorder: Recorder | None = None
        self._held: modes.Pass

    def answer(self, question: Any) -> Answer:
        """Run the model, and answer one question: a target or a neuron selector."""
        self.methods[0].guard.check_mode(self.call.forward_func)
        work = partial(self.answer_within, question)
        return modes.differentiably(self.call.forward_func, work)

    def answer_within(self, question: Any, held: modes.Pass) -> Answer:
        """The same inside a pass of the same model that is already on."""
        self._held = held
        self._record(held)
        return self._answer(question, keep=False)

    def answer_each(self, questions: Iterable[Any], name: str) -> Iterator[Answer]:
        """Run the model once, and answer questions one by one, each when it is asked for.

        Args:
            questions: Targets or neuron selectors; they may be read from a stream.
            name: What they are called, in an error: it names the number of a bad one.

        Yields:
            What :meth:`answer` returns, for each in order. Nothing of it is kept.
        """
        forward_func = self.call.forward_func
        self.methods[0].guard.check_mode(forward_func)
        recorded = False
        # No mode stays set while the caller has the answer: each is entered and left again.
        for number, question in enumerate(questions):

            def work(held: modes.Pass, question: Any = question) -> Answer:
                nonlocal recorded
                self._held = held
                if not recorded:
                    self._record(held)
                    recorded = True
                return self._answer(question, keep=True)

            try:
                answers = [modes.differentiably(forward_func, work)]
            except (AssertionError, IndexError, TypeError) as error:
                if recorded:
                    error.args = (f"{name}[{number}]: {error}",)
                raise
            yield answers.pop()  # the caller's alone from here on

    def _record(self, held: modes.Pass) -> None:
        call = self.call
        arguments = as_arguments(call.additional_forward_args)
        # Leaves, even where nothing below a layer is differentiated: a module that sees that no
        # gradient is wanted may compute in another way, to other bits.
        self.leaves = forward.make_leaves(
            as_tuple(call.inputs), self.checks, integers=self.integers
        )
        self.recorder = make_recorder(call.memory)
        try:
            self._run(arguments, held)
        except (CannotBeLeanError, RuntimeError) as error:
            if self.recorder is None or not (
                isinstance(error, CannotBeLeanError) or is_for_want_of_hooks(error)
            ):
                raise
            self.recorder = None
            self._run(arguments, held)

    def _run(self, arguments: Sequence[Any], held: modes.Pass) -> None:
        capture = self.capture = self._prepare_capture()
        lean = self.recorder
        numbers = None if capture is None else torch.get_rng_state()
        with (
            nullcontext() if capture is None else capture.hooked(),
            nullcontext() if lean is None else held.saving(lean.saver, lean),
        ):
            self.output = forward.run(self.call.forward_func, self.leaves, arguments, held)
        if capture is not None and numbers is not None and capture.doubtful:
            with torch.random.fork_rng(devices=[]), held.begun_anew():
                torch.set_rng_state(numbers)
                output = forward.run(self.call.forward_func, self.leaves, arguments, held)
            if not have_same_values(output, self.output):
                raise RuntimeError(
                    f"layer {capture.name} shares its memory with a tensor that the model changes "
                    "in place and uses again, so that there is no gradient to the layer alone: "
                    "explain another layer, or a neuron"
                )

    def _answer(self, question: Any, *, keep: bool) -> Answer:
        answer = self._explain(question, keep)
        self.checks.settle()
        return answer

    def _prepare_capture(self) -> forward.Capture | None:
        """Prepare the capture of the layer, if the questions are about one."""
        return None

    @abstractmethod
    def _explain(self, question: Any, keep: bool) -> Answer:
        """Answer a question; keep the graph if others follow."""

    def _find_output(self) -> Tensor:
        output = self.output
        if self.call.output is not None:
            return pick(output, self.call.output, "what the model returned", "output")
        if not isinstance(output, Tensor):
            raise TypeError(refuse(output, "what the model returned", "output"))
        return output

    def _select_target(self, target: Target) -> Tensor:
        return select_target(self._find_output(), target, self.checks)

    def _captured(self) -> list[Gradients]:
        assert self.capture is not None
        return self.call.in_order(self.capture)

    def _differentiate(
        self,
        outputs: Sequence[Tensor],
        inputs: Sequence[Tensor],
        methods: Sequence[Method],
        *,
        whole: bool = False,
        keep: bool = False,
        start: Sequence[Tensor] | None = None,
    ) -> list[Gradients]:
        """Run one backward pass for each method; values of the outputs count 1, or their start."""
        for what, tensors in (("output", outputs), ("layer", inputs)):
            if not all(tensor.requires_grad for tensor in tensors):
                raise RuntimeError(
                    f"the {what} does not require grad, so no gradient leads back to the inputs: "
                    "the model computes it under torch.no_grad, detaches it, rounds it, or returns "
                    "a constant"
                )
        # What no rule reaches is reported before anything is computed.
        found = [method.examine(outputs, inputs, whole=whole) for method in methods]
        sums = [_weigh(o, None if start is None else start[i]) for i, o in enumerate(outputs)]
        results = []
        for index, method in enumerate(methods):
            with overridden(found[index].rectifiers, method.rule, self.recorder):
                gradients = torch.autograd.grad(
                    sums,
                    inputs,
                    retain_graph=keep or index + 1 < len(methods),
                    allow_unused=True,
                    materialize_grads=True,
                )
            # The zeros of an unused input require grad in some releases.
            results.append(tuple(gradient.detach() for gradient in gradients))
        return results


class OfInputs(Recording[list[Gradients]]):
    """From the target to the inputs: by each method, a gradient for each input."""

    def _explain(self, question: Target, keep: bool) -> list[Gradients]:
        selected = [self._select_target(question)]
        return self._differentiate(selected, self.leaves, self.methods, whole=True, keep=keep)


class OfNeuron(Recording[Gradients]):
    """From a neuron of the layer to the inputs; the forward pass stops at the layer."""

    def _prepare_capture(self) -> forward.Capture:
        return self.call.prepare_capture(stop=True)

    def _explain(self, question: NeuronSelector, keep: bool) -> Gradients:
        selected = [select_neuron(tensors, question) for tensors in self._captured()]
        return self._differentiate(selected, self.leaves, self.methods, keep=keep)[0]


class OfCrops(Recording[list[Gradients]]):
    """From what a function selects of the layer, and what it counts, to the inputs.

    For many small passes over one layer: its capture is prepared once.
    """

    def __init__(
        self, call: ModelCall, methods: Sequence[Method], capture: forward.Capture
    ) -> None:
        small = call.memory == "light" and call.inputs.numel() < _WORTH_LOOKING_AT
        super().__init__(replace(call, memory="autograd") if small else call, methods)
        self._prepared = capture

    def _prepare_capture(self) -> forward.Capture:
        return self._prepared

    def _explain(
        self, question: Callable[[Tensor], tuple[Tensor, Tensor]], keep: bool
    ) -> list[Gradients]:
        ((layer,),) = self._captured()
        selected, start = question(layer)
        return self._differentiate([selected], self.leaves, self.methods, keep=keep, start=[start])


class OfLayerTensors(Recording[Gradients]):
    """From the target to the layer's tensors; nothing below the layer is differentiated."""

    integers = True

    def _prepare_capture(self) -> forward.Capture:
        return self.call.prepare_capture(cut=True)

    def _explain(self, question: Target, keep: bool) -> Gradients:
        selected = [self._select_target(question)]
        captured = self._captured()
        flat = [tensor for tensors in captured for tensor in tensors]
        leaves = [tensor for tensor in flat if tensor.requires_grad]
        gradients = iter(self._differentiate(selected, leaves, self.methods, keep=keep)[0])
        by_tensor = [next(gradients) if t.requires_grad else torch.zeros_like(t) for t in flat]
        width = len(captured[0])
        return tuple(_gather(by_tensor[index::width]) for index in range(width))


class OfLayerAndInputs(Recording[tuple[Tensor, Tensor, Gradients]]):
    """The layer's tensor, the first method's gradient to it, the second's to the inputs.

    A layer of several tensors is an AssertionError.
    """

    def _prepare_capture(self) -> forward.Capture:
        return self.call.prepare_capture(through=True)

    def _explain(self, question: Target, keep: bool) -> tuple[Tensor, Tensor, Gradients]:
        selected = [self._select_target(question)]
        captured = self._captured()
        if len(captured[0]) != 1:
            raise AssertionError(
                f"a layer of one tensor is needed, and {self.call.layer!r} has {len(captured[0])}: "
                "choose one with layer_tensor=0"
            )
        flat = [tensor for (tensor,) in captured]
        of_layer, of_inputs = self.methods
        to_layer = self._differentiate(selected, flat, [of_layer], keep=True)[0]
        to_inputs = self._differentiate(selected, self.leaves, [of_inputs], whole=True, keep=keep)[
            0
        ]
        return _gather([tensor.detach() for tensor in flat]), _gather(to_layer), to_inputs


def _weigh(output: Tensor, start: Tensor | None) -> Tensor:
    """Return a scalar whose gradient to the output is the start, or one.

    Given as ``grad_outputs``, the start would make torch load its symbolic shapes, and SymPy, for
    its check of one shape against the other: a quarter of a second in every new process.
    """
    weighed = output if start is None else output * start
    # Of a complex output the real part: its gradient is 1, as that of the output by itself.
    return (weighed.real if weighed.is_complex() else weighed).sum()


def _gather(parts: Sequence[Tensor]) -> Tensor:
    """Join what the devices of a DataParallel model computed, on the first one's device."""
    return parts[0] if len(parts) == 1 else torch.cat([part.to(parts[0].device) for part in parts])

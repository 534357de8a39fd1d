"""Say what a rule overrides and what it misses: by name, by count, by the place in the model.

>>> import torch
>>> from captum_deconv import coverage
>>> from torch import nn
>>> print(coverage(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.GELU()), torch.rand(1, 3, 8, 8)))
overridden: 1 node
  ReLU (ReluBackward0): 1, in '1'
left as it is, though a rule would belong there: 1 node
  GELU (GeluBackward0): 1, in '2'; activations="all" overrides it, which no paper defines
"""

import sys
import threading
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node

from captum_deconv.engine import forward, modes, rectifiers
from captum_deconv.engine._captum import as_arguments, as_tuple
from captum_deconv.engine.checks import Checks
from captum_deconv.engine.hooks import Hook, hooked
from captum_deconv.engine.structures import list_tensors

Activations = Literal["relu", "leaky", "all"]
Uncovered = Literal["warn", "raise", "ignore"]
Found = rectifiers.Rectifier | rectifiers.LeftAlone


class RectifierCoverageWarning(UserWarning):
    """The rule of a method does not reach everything that it would belong to."""


class RectifierCoverageError(RuntimeError):
    """The same, where the caller asked for an error; or a graph that no rule can reach into."""


@dataclass(frozen=True)
class Finding:
    """Nodes of one kind.

    Attributes:
        operation: What they compute, such as ``"ReLU"``.
        node: The name of autograd's node, such as ``"ReluBackward0"``.
        family: ``"relu"``, ``"leaky"``, ``"smooth"``, ``"no rule"``, ``"opaque"``, ``"ordinary"``.
        count: How many there are.
        modules: Dotted paths of the modules that they run in, where they can be told.
    """

    operation: str
    node: str
    family: str
    count: int
    modules: tuple[str, ...] = ()

    def __str__(self) -> str:
        places = f", in {_list_places(self.modules)}" if self.modules else ""
        return f"{self.operation} ({self.node}): {self.count}{places}"


@dataclass(frozen=True)
class Coverage:
    """What lies on a network's backward pass, as :func:`coverage` found it.

    Attributes:
        overridden: Rectifiers that the methods' rules are applied to.
        uncovered: Activations and opaque nodes that keep their ordinary gradient, although a rule
            would belong there; the methods warn of these.
        ordinary: Gates, squashing functions, normalisations and outputs, which no paper gives a
            rule for; nothing warns of these.
        activations: The families counted as rectifiers.
        cut_off: Dotted paths of the modules that ran under ``torch.no_grad`` or
            ``torch.inference_mode``: what they compute is not on the graph, and no gradient goes
            back through it, unless an opaque node does so on its own.
    """

    overridden: tuple[Finding, ...]
    uncovered: tuple[Finding, ...]
    ordinary: tuple[Finding, ...]
    activations: str = "relu"
    cut_off: tuple[str, ...] = ()

    @property
    def complete(self) -> bool:
        """Whether there is a rectifier and nothing is uncovered."""
        return bool(self.overridden) and not self.uncovered

    def __str__(self) -> str:
        lines = _section("overridden", self.overridden, str)
        if not self.overridden:
            lines = ["overridden: nothing; every method returns the plain gradient"]
        if self.uncovered:
            title = "left as it is, though a rule would belong there"
            lines += _section(title, self.uncovered, describe)
        if self.ordinary:
            title = "nonlinear, with its ordinary gradient, as in the papers"
            lines += _section(title, self.ordinary, str)
        if self.cut_off:
            lines.append(
                "cut off from the graph (run under torch.no_grad or torch.inference_mode): "
                + _list_places(self.cut_off)
            )
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        """Show all findings as a table, for a notebook."""
        from captum_deconv.drawing.notebook import lay_out

        done = [(finding, "overridden") for finding in self.overridden]
        done += [
            (finding, f"left as it is: {_REMEDIES[finding.family]}") for finding in self.uncovered
        ]
        done += [
            (finding, "keeps its ordinary gradient, as in the papers") for finding in self.ordinary
        ]
        rows = [
            (finding.operation, finding.count, _list_places(finding.modules), what)
            for finding, what in done
        ]
        if self.cut_off:
            rows.append(
                (
                    "cut off from the graph",
                    len(self.cut_off),
                    _list_places(self.cut_off),
                    "no gradient",
                )
            )
        heading = str(self).split("\n")[0]
        return lay_out(
            heading, columns=("Operation", "Nodes", "In", "What becomes of it"), rows=rows
        )


def _list_places(places: tuple[str, ...]) -> str:
    more = f" and {len(places) - 4} more" if len(places) > 4 else ""
    return ", ".join(map(repr, places[:4])) + more


def _section(
    title: str, findings: tuple[Finding, ...], text: Callable[[Finding], str]
) -> list[str]:
    total = sum(finding.count for finding in findings)
    return [
        f"{title}: {total} node{'s' * (total != 1)}",
        *(f"  {text(finding)}" for finding in findings),
    ]


_REMEDIES = {
    "leaky": 'activations="leaky" overrides it',
    "smooth": 'activations="all" overrides it, which no paper defines',
    "no rule": "no paper defines a rule for it, nor does this package",
    "opaque": "no rule can reach inside",
}


def describe(finding: Finding) -> str:
    """Return a line on an uncovered finding that says what can be done about it."""
    return f"{finding}; {_REMEDIES[finding.family]}"


def coverage(
    forward_func: Callable[..., Any],
    inputs: Tensor | tuple[Tensor, ...],
    additional_forward_args: Any = None,
    *,
    activations: Activations = "relu",
) -> Coverage:
    """Report what the rules override on a network's backward pass, and what they do not.

    Args:
        forward_func: The model, or any callable; its output may be of any structure.
        inputs: A tensor ``(N, ...)`` or a tuple of them, as for ``attribute``.
        additional_forward_args: What ``forward_func`` takes after the inputs.
        activations: The families that count as rectifiers: ``"relu"``, ``"leaky"`` (adds
            LeakyReLU, PReLU and RReLU) or ``"all"`` (adds ELU, SELU, CELU, GELU, SiLU, Mish,
            Softplus and Hardswish).

    Returns:
        A report, printable.

    Raises:
        RectifierCoverageError: If the graph holds a reentrant checkpoint.
        RuntimeError: If no output depends on the inputs.
    """
    arguments = as_arguments(additional_forward_args)
    checks = Checks()

    def work(held: modes.Pass) -> Coverage:
        leaves = forward.make_leaves(as_tuple(inputs), checks)
        with _Places(forward_func).noted() as places:
            output = forward.run(forward_func, leaves, arguments, held)
        checks.settle()
        outputs = [tensor for _, tensor in list_tensors(output) if tensor.requires_grad]
        if not outputs:
            raise RuntimeError(
                "no output of the model depends on its inputs through autograd: nothing to report"
            )
        survey = rectifiers.survey(outputs, leaves, activations)
        refuse_reentrant(survey)
        return Coverage(
            _group(survey.rectifiers, places.find),
            _group(survey.uncovered, places.find),
            _group(survey.ordinary, places.find),
            activations,
            tuple(dict.fromkeys(places.cut_off)),
        )

    return modes.differentiably(forward_func, work)


def refuse_reentrant(survey: rectifiers.Survey) -> None:
    """Raise an error that says what to do where a checkpoint hides its part of the graph."""
    if any(type(left.node).__name__ == "CheckpointFunctionBackward" for left in survey.uncovered):
        raise RectifierCoverageError(
            "the model uses reentrant checkpointing, which hides its rectifiers and does not work "
            "with torch.autograd.grad: call torch.utils.checkpoint.checkpoint with "
            "use_reentrant=False"
        )


def findings_of(
    nodes: Iterable[Found],
) -> tuple[Finding, ...]:
    """Return one finding per kind of node, without their places."""
    return _group(nodes, lambda node: None)


def _group(nodes: Iterable[Found], place: Callable[[Any], str | None]) -> tuple[Finding, ...]:
    kinds: dict[tuple[str, str, str], list[Node]] = defaultdict(list)
    for node, family, operation in nodes:
        kinds[operation, _name(node), family].append(node)
    findings = []
    for kind, members in kinds.items():
        members.sort(key=_order)
        paths = [path for path in map(place, members) if path is not None]
        findings.append(Finding(*kind, len(members), tuple(dict.fromkeys(paths))))
    return tuple(sorted(findings, key=lambda finding: -finding.count))


def _name(node: Node) -> str:
    return node.name().rsplit("::", 1)[-1]


def _order(node: Any) -> int:
    """Return the node's place in the order of the forward pass."""
    sequence: int = node._sequence_nr()
    return sequence


class _Places:
    """Notes which nodes are recorded while which module runs, and which modules record none.

    Autograd numbers its nodes in the order of the forward pass, so those of a module are the
    numbers between its call and its return.
    """

    def __init__(self, forward_func: Callable[..., Any]) -> None:
        self.cut_off: list[str] = []
        named = _named_modules(forward_func)
        self._names = {module: name or "(the model itself)" for name, module in named}
        self._spans: list[tuple[int, int, str]] = []
        self._running: list[tuple[int, bool]] = []
        self._thread = threading.get_ident()

    @contextmanager
    def noted(self) -> Iterator["_Places"]:
        """Take notes for as long as the context lasts."""
        enter = [Hook(module, self._enter, before=True) for module in self._names]
        leave = [Hook(module, self._leave) for module in self._names]
        with hooked(*enter, *leave):
            yield self

    def _enter(self, module: nn.Module, args: Any) -> None:
        if threading.get_ident() != self._thread:
            return
        recorded = torch.is_grad_enabled()
        if not recorded and all(above for _, above in self._running):
            self.cut_off.append(self._names[module])
        self._running.append((_next_number(), recorded))

    def _leave(self, module: nn.Module, args: Any, output: Any) -> None:
        if threading.get_ident() == self._thread:
            start, _ = self._running.pop()
            self._spans.append((start, _next_number(), self._names[module]))

    def find(self, node: Any) -> str | None:
        """Return the path of the innermost module that a node was recorded in."""
        # Inner modules return before outer ones, so the first span that fits is the innermost.
        number = _order(node)
        return next((name for start, stop, name in self._spans if start < number < stop), None)


def _named_modules(forward_func: Callable[..., Any]) -> Iterator[tuple[str, nn.Module]]:
    root = next(modes.modules_of(forward_func), None)
    if root is not None:
        for name, module in root.named_modules():
            if not isinstance(module, torch.jit.ScriptModule):
                yield name, module


def _next_number() -> int:
    """Return the number that autograd will give to the next node on this thread."""
    with torch.inference_mode(False), torch.enable_grad():
        probe = torch.zeros((), requires_grad=True).clone()
    number: int = probe.grad_fn._sequence_nr()  # type: ignore[union-attr]  # a clone of a leaf has a node
    return number


class Guard:
    """Tells the user once what an attribution object's rule misses.

    Args:
        uncovered: ``"warn"``, ``"raise"`` or ``"ignore"``.

    Raises:
        ValueError: If it is none of the three.
    """

    def __init__(self, uncovered: Uncovered) -> None:
        if uncovered not in ("warn", "raise", "ignore"):
            raise ValueError(f"unknown uncovered {uncovered!r}: choose from warn, raise, ignore")
        self.uncovered = uncovered
        self._said: set[str] = set()

    def check_survey(self, survey: rectifiers.Survey, *, whole: bool) -> None:
        """Report what a survey met and no rule reaches.

        Args:
            survey: Of the graph that a rule is about to be applied to.
            whole: Whether it spans the model from its output to its input, so that finding no
                rectifier says something about the model.

        Raises:
            RectifierCoverageError: If something is uncovered and ``uncovered`` is ``"raise"``, or
                the graph holds a reentrant checkpoint.
        """
        refuse_reentrant(survey)
        if self.uncovered == "ignore":
            return
        if survey.uncovered:
            lines = "; ".join(describe(finding) for finding in findings_of(survey.uncovered))
            self._report("uncovered", f"left with its ordinary gradient: {lines}")
        elif whole and not survey.rectifiers:
            self._report(
                "no rectifier",
                "no rectifier lies between the output and the inputs: the result is the plain "
                "gradient",
            )

    def _report(self, subject: str, message: str) -> None:
        if self.uncovered == "raise":
            raise RectifierCoverageError(message)
        if subject not in self._said:
            self._said.add(subject)
            warnings.warn(message, RectifierCoverageWarning, stacklevel=_depth_of_caller())

    def check_mode(self, forward_func: Callable[..., Any]) -> None:
        """Warn, once, of a model in train mode whose batch norm or dropout depends on it."""
        if "train mode" in self._said:
            return
        for module in modes.modules_of(forward_func):
            if isinstance(module, _MODE_DEPENDENT) and module.training:
                self._said.add("train mode")
                warnings.warn(
                    f"the model is in train mode, which {type(module).__name__} depends on: the "
                    "attribution is that of the batch's statistics or of one random mask (running "
                    "statistics are left as they were); call model.eval() for the network as it "
                    "predicts",
                    UserWarning,
                    stacklevel=_depth_of_caller(),
                )
                return


_MODE_DEPENDENT = (
    nn.modules.batchnorm._BatchNorm,
    nn.modules.dropout._DropoutNd,
)


def _depth_of_caller() -> int:
    """Return the stacklevel of the first frame outside this package and Captum."""
    depth, frame = 1, sys._getframe(1)
    while frame.f_back and frame.f_globals.get("__name__", "").split(".")[0] in (
        "captum",
        "captum_deconv",
        "contextlib",
    ):
        depth, frame = depth + 1, frame.f_back
    return depth

"""A plan made a network: what does not fit where it stands is left out."""

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fuzzing.making import maps
from fuzzing.mixing import MIXES, fit
from fuzzing.operations import OPERATIONS
from fuzzing.plans import Mix, Operate, Plan, Rectify, Reuse, Step
from fuzzing.rectifying import Rectifier

_LARGEST = 120_000
"""Values of a tensor beyond which nothing is made of it."""


class Call(nn.Module):
    """A function as a module."""

    def __init__(self, function: Callable[..., Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *tensors: Tensor) -> Tensor:
        return self.function(*tensors)


class Meeting(nn.Module):
    """Where two tensors meet; in a chain a tensor meets itself."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.mix = MIXES[name]

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        return self.mix(x, fit(x.flip(-1) if y is None else y, x))


class Network(nn.Module):
    """Steps that each take some of the tensors made before.

    Args:
        head: What makes the output of the last tensor.
        factor: Whether the last argument is a factor of it.
    """

    def __init__(self, head: nn.Module, *, factor: bool) -> None:
        super().__init__()
        self.steps = nn.ModuleList()
        self.sources: list[tuple[int, ...]] = []
        self.head = head
        self.factor = factor

    def forward(self, *tensors: Tensor) -> Any:
        known = list(tensors)
        factor = known.pop() if self.factor else None
        for step, sources in zip(self.steps, self.sources, strict=True):
            known.append(step(*(known[source] for source in sources)))
        return self.head(known[-1] if factor is None else known[-1] * factor)


# ---- Heads: from the last tensor (N, C, *map) to the output ----


class Classes(nn.Module):
    """Logits of three classes, by a linear layer or two."""

    def __init__(self, x: Tensor, *, flat: bool = False, hidden: bool = False) -> None:
        super().__init__()
        width = x[:1].numel() if flat and len(x) else x.shape[1]
        self.flat = flat and len(x) > 0
        self.hidden = nn.Linear(width, 5) if hidden else None
        self.last = nn.Linear(5 if hidden else width, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1) if self.flat else x.mean(maps(x))
        return self.last(x if self.hidden is None else F.relu(self.hidden(x)))


class Several(nn.Module):
    """Logits among other things."""

    def __init__(self, x: Tensor, *, named: bool) -> None:
        super().__init__()
        self.classes = Classes(x)
        self.named = named

    def forward(self, x: Tensor) -> Any:
        logits = self.classes(x)
        return {"out": logits, "aux": None} if self.named else (x.mean(), logits)


HEADS: dict[str, Callable[[Tensor], nn.Module]] = {
    "classes": Classes,
    "classes, flat": lambda x: Classes(x, flat=True),
    "classes, hidden": lambda x: Classes(x, hidden=True),
    "maps": lambda x: nn.Identity(),
    "one value": lambda x: Call(lambda x: x.flatten(1).mean(1)),
    "one column": lambda x: Call(lambda x: x.flatten(1).mean(1, keepdim=True)),
    "a scalar": lambda x: Call(lambda x: x.square().sum()),
    "dictionary": lambda x: Several(x, named=True),
    "tuple": lambda x: Several(x, named=False),
}
CHOICES: dict[str, Any] = {"dictionary": "out", "tuple": 1}
"""The option ``output`` for the heads that need it."""


# ---- Inputs ----


def _every_second(x: Tensor) -> Tensor:
    return torch.stack([x, x], -1)[..., 0]


def _channels_last(x: Tensor) -> Tensor:
    return x.movedim(1, -1).contiguous().movedim(-1, 1)


LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "contiguous": lambda x: x,
    "channels last": _channels_last,
    "strided": _every_second,
    "expanded": lambda x: x[:, :1].expand_as(x),
    "requires grad": lambda x: x.requires_grad_(),
    "not a leaf": lambda x: x.requires_grad_() * 1,
}


# ---- The network ----


@dataclass
class Built:
    """A network and what it is given.

    Attributes:
        plan: What it was made from.
        model: The module.
        inputs: Its inputs.
        arguments: What follows them.
        made: The names of the steps that it was made of.
        layers: By name, the shapes of what each module that ran took and returned last.
        output: The shape of the output that is explained.
        several: The layers that take several tensors.
    """

    plan: Plan
    model: nn.Module
    inputs: tuple[Tensor, ...]
    arguments: tuple[Tensor, ...]
    made: list[str]
    layers: dict[str, tuple[torch.Size, torch.Size]]
    output: torch.Size
    several: set[str] = field(default_factory=set)

    @property
    def random(self) -> bool:
        """Whether a pass draws random numbers."""
        return (
            any("training" in name or "always" in name for name in self.made)
            or any(
                isinstance(m, nn.modules.dropout._DropoutNd | nn.RReLU)
                or "Depth" in type(m).__name__
                for m in self.model.modules()
                if m.training
            )
            or any(
                isinstance(m, nn.TransformerEncoderLayer) and m.training
                for m in self.model.modules()
            )
        )


class UnusableError(Exception):
    """The network itself cannot be differentiated."""


def build(plan: Plan) -> Built:
    """Make a plan's network and its inputs.

    Raises:
        UnusableError: If plain autograd cannot differentiate it.
    """
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for copied in (False, True):
            torch.default_generator.manual_seed(plan.seed)
            try:
                built = _build(plan, copied=copied)
                _differentiate(built)
            except RuntimeError as error:
                reason = str(error)
                continue
            return built
    raise UnusableError(reason.split("\n")[0])


def _build(plan: Plan, *, copied: bool) -> Built:
    dtype = getattr(torch, plan.dtype)
    size = plan.size if plan.dimensions < 3 else min(plan.size, 7)
    sides = [size + axis % 2 for axis in range(plan.dimensions)]
    inputs = tuple(torch.randn(plan.batch, channels, *sides) for channels in _channels(plan))
    inputs = tuple(LAYOUTS[plan.layout](x.to(dtype)) for x in inputs)
    leaves = [x.detach().clone().requires_grad_() for x in inputs]
    known, modules, sources, made = [leaf.clone() for leaf in leaves], [], [], []
    for step in plan.steps:
        found = _place(step, plan, known, modules, copied=copied)
        if found is not None:
            module, taken, result = found
            known.append(result)
            modules.append(module)
            sources.append(taken)
            made.extend(_names(step))
    head = _settle(HEADS[plan.head](known[-1]), plan, dtype)
    if plan.chain:
        model: nn.Module = nn.Sequential(*modules, head)
    else:
        model = Network(head, factor=plan.factor)
        model.steps.extend(modules)
        model.sources = sources
        model.training = plan.training
    model.requires_grad_(not plan.frozen)
    factor = (torch.tensor(1.5).to(dtype),) if plan.factor and not plan.chain else ()
    return Built(plan, model, inputs, factor, made, {}, torch.Size())


def _channels(plan: Plan) -> tuple[int, ...]:
    return plan.channels[:1] if plan.chain else plan.channels


def _names(step: Step) -> Iterator[str]:
    if isinstance(step, Rectify):
        yield f"rectifier: {step.spelling}"
        yield f"place: {step.place}"
    elif isinstance(step, Reuse):
        yield "reuse"
    else:
        yield f"{'operation' if isinstance(step, Operate) else 'mix'}: {step.name}"


def _place(
    step: Step, plan: Plan, known: Sequence[Tensor], modules: Sequence[nn.Module], *, copied: bool
) -> tuple[nn.Module, tuple[int, ...], Tensor] | None:
    """Return the step's module, which tensors it takes, and what it returned; None if unfit."""
    taken = (_find(step.source, plan, known),)
    if isinstance(step, Mix) and not plan.chain:
        taken = (*taken, _find(step.other, plan, known))
    tensors = [known[index] for index in taken]
    versions = [tensor._version for tensor in known]
    try:
        if isinstance(step, Reuse):
            module = modules[step.step % len(modules)]
        else:
            module = _settle(_make(step, tensors[0], copied=copied), plan, tensors[0].dtype)
        result = module(*tensors)
        fits = (
            result.dim() == known[0].dim() or 2 < result.dim() < known[0].dim()
        ) and result.dtype == known[0].dtype
        fits = fits and result.shape[1:].numel() > 0 and result.numel() <= _LARGEST
        if not fits or len(result) != plan.batch:
            raise ValueError
    except Exception:  # whatever torch says of what does not fit
        if [tensor._version for tensor in known] != versions:
            raise
        return None
    return module, taken, result


def _find(source: int, plan: Plan, known: Sequence[Tensor]) -> int:
    return len(known) - 1 - (0 if plan.chain else source % len(known))


def _make(step: Step, x: Tensor, *, copied: bool) -> nn.Module:
    if isinstance(step, Rectify):
        return Rectifier(step.spelling, step.place, copied=copied)
    if isinstance(step, Mix):
        return Meeting(step.name)
    assert isinstance(step, Operate)
    made = OPERATIONS[step.name](x, step.knob)
    return made if isinstance(made, nn.Module) else Call(made)


def _settle(module: nn.Module, plan: Plan, dtype: torch.dtype) -> nn.Module:
    """Give a module its mode and type, and let no bias or statistic be what it is at first."""
    module.train(plan.training)
    for part in module.modules():
        part.training = part.training or getattr(part, "stays_in_training", False)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if parameter.dim() == 1 and "original" not in name:
                parameter.add_(0.3 * torch.randn_like(parameter))
        for name, buffer in module.named_buffers():
            if name.endswith("running_mean"):
                buffer.normal_(0, 0.3)
            elif name.endswith("running_var"):
                buffer.uniform_(0.5, 1.5)
    return module.to(dtype)


def _differentiate(built: Built) -> None:
    """Run the network forward and backward, and note what ran."""
    model, plan = built.model, built.plan
    notes: dict[str, tuple[torch.Size, torch.Size]] = {}
    several: set[str] = set()
    handles = []
    for name, module in model.named_modules():

        def note(module: Any, args: Any, output: Any, name: str = name) -> None:
            if args and isinstance(args[0], Tensor) and isinstance(output, Tensor):
                shapes = args[0].shape, output.shape
                if all(len(shape) > 1 and 0 not in shape[1:] for shape in shapes):
                    notes[name] = shapes
                    if len(args) > 1:
                        several.add(name)

        if name:
            handles.append(module.register_forward_hook(note))
    leaves = [x.detach().clone().requires_grad_() for x in built.inputs]
    kept = {name: buffer.clone() for name, buffer in model.named_buffers()}
    try:
        output = model(*(leaf.clone() for leaf in leaves), *built.arguments)
    finally:
        for handle in handles:
            handle.remove()
    if plan.head in CHOICES:
        output = output[CHOICES[plan.head]]
    if not output.isfinite().all():
        raise RuntimeError("its values are not finite, and of no side of a rectifier")
    torch.autograd.grad(output.float().sum(), leaves, allow_unused=True)
    with torch.no_grad():
        for name, buffer in model.named_buffers():
            buffer.copy_(kept[name])
    built.layers, built.several, built.output = notes, several, output.shape

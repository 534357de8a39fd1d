"""A network as its autograd graph shows it: steps in forward order, what feeds them, their names.

One pass is run, on shapes alone where the model allows that
(:mod:`captum_deconv.receptive_field.shapes`). Every operation leaves a node, and nodes know what
they were computed from and in which order they were made: so branches and skips are drawn as they
were taken, however the modules are nested. What only normalises, moves or copies is left out of the
drawing, and a rectifier is drawn with what it rectifies.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node, get_gradient_edge

from captum_deconv.engine import modes
from captum_deconv.engine.hooks import Hook, hooked
from captum_deconv.engine.rectifiers import survey
from captum_deconv.engine.structures import has_gradient, list_tensors
from captum_deconv.receptive_field.field import ReceptiveField, trace
from captum_deconv.receptive_field.nodes import shape_of
from captum_deconv.receptive_field.shapes import copy_shapes

_KINDS = {
    "Convolution": "convolution",
    "Addmm": "linear",
    "Mm": "linear",
    "Bmm": "matrix product",
    "MaxPool2DWithIndices": "max-pooling",
    "MaxPool3DWithIndices": "max-pooling",
    "AdaptiveMaxPool2D": "max-pooling",
    "AvgPool2D": "average",
    "AdaptiveAvgPool2D": "average",
    "MkldnnAdaptiveAvgPool2D": "average",
    "Mean": "average",
    "Cat": "concatenation",
    "Softmax": "softmax",
    "ScaledDotProductFlashAttentionForCpu": "attention",
    "ScaledDotProductAttentionMath": "attention",
    "UpsampleNearest2D": "upsampling",
    "UpsampleBilinear2D": "upsampling",
}
_JOINS = {"Add": "sum", "Sub": "difference", "Mul": "product"}
"""Drawn only where they join two branches."""

_INPUT = "image"
_TIMES = " \u00d7 "


@dataclass(frozen=True)
class Step:
    """One operation of the drawing.

    Attributes:
        kind: What it does, in words.
        name: Of the innermost module that gave its output; empty where there is none.
        shape: Of its output for one image, without the batch's axis.
        sources: The numbers of the steps that it is computed from.
        layers: The names of all modules that gave its output, the outermost last.
    """

    kind: str
    name: str
    shape: tuple[int, ...]
    sources: tuple[int, ...]
    layers: tuple[str, ...] = ()


@dataclass(frozen=True)
class Output:
    """What a module gave when it was last called.

    Attributes:
        shape: Its tensor's, with the batch's axis.
        node: What computed it.
        rectified: The family of the rectifier that is, or of those whose outputs it joins; empty
            where it is none.
    """

    shape: tuple[int, ...]
    node: Node
    rectified: str


@dataclass
class Network:
    """What one pass tells of a model.

    Attributes:
        steps: The drawing, in forward order; the first is the image.
        outputs: By module, in the order of their last calls; those that give one tensor of
            activations in channels.
        fields: The receptive fields of the layers that were asked for.
    """

    steps: list[Step]
    outputs: dict[str, Output]
    fields: dict[str, ReceptiveField] = field(default_factory=dict)


def read_network(model: nn.Module, image: Tensor, layers: Sequence[str] = ()) -> Network:
    """Read a network's structure.

    Args:
        model: In evaluation mode; it stays as it is.
        image: One of the images, ``(C, H, W)``.
        layers: Of which to find the receptive field, among those that give a map.

    Returns:
        What was found.

    Raises:
        RuntimeError: If the model's output does not depend on the image.
    """
    try:
        leaf = torch.empty((1, *image.shape), dtype=image.dtype, device="meta", requires_grad=True)
        return _read(copy_shapes(model), leaf, layers)
    except Exception:
        # No copy of it can be made, or it computes with values on the way: let it compute.
        return _read(model, image[None].detach().clone().requires_grad_(), layers)


def _read(model: nn.Module, leaf: Tensor, layers: Sequence[str]) -> Network:
    given: dict[str, _Given] = {}

    def work(held: modes.Pass) -> Network:
        named = model.named_modules()
        with hooked(*(Hook(module, _keep(given, name, layers)) for name, module in named)):
            result = model(leaf.clone())
        ends = [t for _, t in list_tensors(result) if t.requires_grad]
        if not ends:
            raise RuntimeError("the model's output does not depend on the image")
        return _Reader(leaf, ends, given).read(layers)

    return modes.differentiably(model, work)


class _Given(NamedTuple):
    """What a module gave: its node now, for what follows may work in place and change that."""

    shape: tuple[int, ...]
    node: Node
    copy: Tensor | None


def _keep(given: dict[str, _Given], name: str, layers: Sequence[str]) -> Any:
    def take(module: nn.Module, args: Any, output: Any) -> None:
        if isinstance(output, Tensor) and has_gradient(output) and output.requires_grad:
            given.pop(name, None)  # the last call counts, and its place in the order
            copy = output.clone() if name in layers else None
            given[name] = _Given(tuple(output.shape), get_gradient_edge(output).node, copy)

    return take


class _Reader:
    """Reads one recorded pass."""

    def __init__(self, leaf: Tensor, ends: Sequence[Tensor], given: dict[str, _Given]) -> None:
        self.leaf, self.given = leaf, given
        self.end = get_gradient_edge(leaf).node
        found = survey(ends, [leaf], "all").rectifiers
        self.rectifiers = {rectifier.node: rectifier for rectifier in found}
        self.nodes = self._collect([get_gradient_edge(end).node for end in ends])

    def read(self, layers: Sequence[str]) -> Network:
        """Return steps, outputs and fields."""
        outputs = {
            name: Output(shape, node, self._find_family(node))
            for name, (shape, node, _) in self.given.items()
            if name and len(shape) >= 2 and shape[0] == 1
        }
        fields = {
            name: trace(copy, self.leaf)
            for name, (_, _, copy) in self.given.items()
            if copy is not None and copy.dim() >= 2
        }
        return Network(self._draw(), outputs, fields)

    def _find_family(self, node: Node) -> str:
        joined = type(node).__name__.startswith("Cat")
        nodes = [source for source, _ in node.next_functions] if joined else [node]
        families = {self.rectifiers[each].family for each in nodes if each in self.rectifiers}
        every = all(each in self.rectifiers for each in nodes)
        return families.pop() if every and len(families) == 1 else ""

    def _collect(self, ends: Sequence[Node]) -> list[Node]:
        """Return the nodes that lead from the image to the ends, in the order of the pass."""
        found: dict[Node, None] = {}
        waiting = list(ends)
        while waiting:
            node = waiting.pop()
            if node in found or node is self.end:
                continue
            found[node] = None
            waiting += [source for source, _ in node.next_functions if source is not None]
        ordered = sorted(found, key=lambda node: node._sequence_nr())
        leads: dict[Node, bool] = {self.end: True}
        for node in ordered:  # weights lead nowhere
            leads[node] = any(s is not None and leads.get(s, False) for s, _ in node.next_functions)
        return [node for node in ordered if leads[node]]

    def _draw(self) -> list[Step]:
        """Make steps of nodes: each node becomes one, joins its source's, or is passed through."""
        modules: dict[Node, list[str]] = {}
        for name, (_, node, _) in self.given.items():
            modules.setdefault(node, []).append(name)
        shape = tuple(self.leaf.shape[1:])
        steps = [Step(_INPUT, "", shape, ())]
        of: dict[Node, int] = {self.end: 0}
        for node in self.nodes:
            sources = tuple(
                dict.fromkeys(of[each] for each, _ in node.next_functions if each in of)
            )
            names = tuple(name for name in modules.get(node, ()) if name)
            kind, last = self._name_kind(node, len(sources)), len(steps) - 1
            shape = shape_of(node)[0][1:]
            if kind is None or (node in self.rectifiers and sources == (last,) and last):
                of[node] = number = sources[0]
                drawn = steps[number]
                # Said of a step that another one does not already go on from.
                said = f"{drawn.kind}, {kind}" if kind else drawn.kind
                if names or kind:
                    name = drawn.name or ("".join(names[:1]) if number else "")
                    layers = (*drawn.layers, *names)
                    steps[number] = Step(said, name, drawn.shape, drawn.sources, layers)
            else:
                of[node] = len(steps)
                steps.append(Step(kind, "".join(names[:1]), shape, sources, names))
        return steps

    def _name_kind(self, node: Node, count: int) -> str | None:
        """Say what a node does; None where it is not drawn."""
        kind = re.sub(r"Backwards?\d*$", "", type(node).__name__)
        if node in self.rectifiers:
            return self.rectifiers[node].operation
        if kind in _KINDS:
            return _describe(node, _KINDS[kind])
        if count > 1:
            return _JOINS.get(kind, "join")
        return None


def _describe(node: Any, kind: str) -> str:
    """Say a convolution's and a pooling's size and stride."""
    if kind == "convolution":
        size, stride = node._saved_weight.shape[2:], node._saved_stride
        return _say(kind, size, stride)
    if hasattr(node, "_saved_kernel_size"):
        return _say(kind, node._saved_kernel_size, node._saved_stride or node._saved_kernel_size)
    return kind


def _say(kind: str, size: Sequence[int], stride: Sequence[int]) -> str:
    said = f"{_TIMES.join(map(str, size))} {kind}"
    return said if set(stride) == {1} else f"{said}, stride {stride[0]}"

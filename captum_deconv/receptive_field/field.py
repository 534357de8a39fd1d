"""The receptive field of a layer: traced through the graph once, then asked for any position."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.autograd.graph import Node, get_gradient_edge

from captum_deconv.engine import forward, modes
from captum_deconv.engine.checks import Checks
from captum_deconv.receptive_field.nodes import find_sources, shape_of
from captum_deconv.receptive_field.steps import Interval, Step

_LONGEST_PERIOD = 4096


@dataclass(frozen=True)
class ReceptiveField:
    """What part of the image a layer's neurons see, for each of the image's spatial axes.

    Attributes:
        size: Extent of a box that no border clips.
        stride: How far the box moves for one position of the layer: a whole number wherever
            nothing on the way is upsampled; 0 along an axis that something mixes globally.
        offset: Where the unclipped box of position 0 starts; negative where there is padding.
        alignment: A crop of the image shows every layer on the way the same grid, only moved, where
            it starts at a multiple of this; the stride, in a network that only downsamples.
        image_size: The image's.
        whole_image: Whether every neuron sees the whole image.
    """

    size: tuple[int, ...]
    stride: tuple[float, ...]
    offset: tuple[int, ...]
    alignment: tuple[int, ...]
    image_size: tuple[int, ...]
    whole_image: bool
    _paths: tuple[_Path | None, ...] = field(default=(), repr=False, compare=False)
    _map_size: tuple[int, ...] = field(default=(), repr=False, compare=False)

    def box(self, position: Sequence[int]) -> tuple[tuple[int, int], ...]:
        """Return what the neuron at a position sees, clipped to the image.

        Args:
            position: Its place in the layer's map; empty for a layer without one.

        Returns:
            Start and stop for each spatial axis of the image; both are 0 where padding is all that
            the neuron sees.

        Raises:
            IndexError: If the layer has no such position.
        """
        for place, size in zip(position, self._map_size, strict=bool(self._map_size)):
            if not 0 <= place < size:
                raise IndexError(
                    f"position {tuple(position)} is outside the layer's map {self._map_size}"
                )
        box = tuple(self._bound(axis, position) for axis in range(len(self.image_size)))
        # What sees padding only along one axis sees nothing of the image at all.
        return box if all(start < stop for start, stop in box) else ((0, 0),) * len(box)

    def reach(self, position: Sequence[int]) -> tuple[tuple[int, int], ...]:
        """Return what a crop must hold for the neuron not to tell it from the image.

        That is the box, and where the neuron sees past an edge of the image, all up to that edge:
        the gaps of a dilated layer may leave it out of the box.

        Args:
            position: As for the box.

        Returns:
            Start and stop for each spatial axis of the image; all of it where padding is all that
            the neuron sees.

        Raises:
            IndexError: If the layer has no such position.
        """
        ends = []
        for axis, (start, stop) in enumerate(self.box(position)):
            length = self.image_size[axis]
            path = self._paths[axis] if self._paths and self.stride[axis] else None
            past = path.follow(position[axis], bounded=False) if path else None
            if start == stop:
                start, stop = 0, length
            elif past is not None:
                start, stop = max(min(past.first, start), 0), min(max(past.last + 1, stop), length)
            ends.append((start, stop))
        return tuple(ends)

    def _bound(self, axis: int, position: Sequence[int]) -> tuple[int, int]:
        length = self.image_size[axis]
        if self.whole_image or self.stride[axis] == 0:
            return 0, length
        path = self._paths[axis] if self._paths else None
        if path is not None:
            seen = path.follow(position[axis], bounded=True)
            return (0, 0) if seen is None else (seen.first, seen.last + 1)
        start = math.floor(position[axis] * self.stride[axis]) + self.offset[axis]
        stop = start + self.size[axis]
        return min(max(start, 0), length), min(max(stop, 0), length)


class _Stage(NamedTuple):
    """One operation on the way: from one tensor's axis to the axis of a tensor it is made of."""

    output: int
    input: int
    step: Step
    sizes: tuple[int, int]  # of both

    @property
    def equivariant(self) -> bool:
        """Whether a part of the input, by whole steps, gives what it gives in the whole.

        It does where each position that the output does not have would read beyond the input's
        end. A slice has none for some that read inside, and of a part it leaves out others.
        """
        size, length = self.sizes
        period = self.step.scale.denominator
        before = (self._read(place, length).first for place in range(-period, 0))
        behind = (self._read(place, length).last for place in range(size, size + period))
        return (
            self.step.equivariant
            and all(first < 0 for first in before)
            and all(last >= length for last in behind)
        )

    def _read(self, place: int, length: int) -> Interval:
        return self.step.go_back(Interval(place, place), length, bounded=False)


@dataclass(frozen=True, eq=False)
class _Path:
    """The way back from one axis of a layer's map to one of the image, through all branches."""

    start: int
    end: int
    stages: tuple[_Stage, ...]
    scales: dict[int, Fraction]

    @functools.cached_property
    def _known(self) -> dict[tuple[int, bool], Interval | None]:
        return {}

    def follow(self, place: int, *, bounded: bool) -> Interval | None:
        """Return what one place is computed from; None if of nothing in the image.

        Unbounded, everything goes on for ever: what it would be computed from in a larger image.
        """
        if (place, bounded) not in self._known:
            self._known[place, bounded] = self._follow(place, bounded=bounded)
        return self._known[place, bounded]

    def _follow(self, place: int, *, bounded: bool) -> Interval | None:
        seen = {self.start: Interval(place, place)}
        for output, source, step, (_, size) in self.stages:
            if output not in seen:
                continue
            first, last = step.go_back(seen[output], size, bounded=bounded)
            if bounded:
                first, last = max(first, 0), min(last, size - 1)
            if first > last:
                continue  # padding, or a gap of a transposed convolution
            if source in seen:
                first, last = min(first, seen[source].first), max(last, seen[source].last)
            seen[source] = Interval(first, last)
        return seen.get(self.end)

    @property
    def equivariant(self) -> bool:
        """Whether the map of a moved image is the moved map."""
        return all(stage.equivariant for stage in self.stages)

    def measure(self) -> tuple[int, Fraction, int] | None:
        """Return size, stride and offset where nothing is clipped; None where they have no end."""
        period = math.lcm(*(scale.denominator for scale in self.scales.values()))
        if period > _LONGEST_PERIOD:
            return None
        boxes = [self._follow(place, bounded=False) for place in range(period)]
        found = [box for box in boxes if box is not None]
        if not found:
            return None
        stride = self.scales[self.end]
        return max(box.last - box.first + 1 for box in found), stride, found[0].first

    def align(self) -> int:
        """Return what a crop's start must be a multiple of, for every grid on the way."""
        stride = self.scales[self.end]
        return math.lcm(*((stride / scale).numerator for scale in self.scales.values()))


def of(
    model: Callable[..., Any], layer: nn.Module | str, inputs: Tensor | tuple[Tensor, ...]
) -> ReceptiveField:
    """Find the receptive field of a layer's neurons.

    Args:
        model: A module, or any callable that runs it; it is left as it is.
        layer: The module, or its dotted name, whose output is one tensor ``(N, C, *map)``.
        inputs: Images ``(N, C, *spatial)`` of the size in question, with what else the model
            takes; the field is on the first of them, and the values make no difference.

    Returns:
        The receptive field.

    Raises:
        ValueError: If the model has no such layer.
        TypeError: If the layer's output is not one tensor with channels, or the images are no
            floating-point tensor ``(N, C, *spatial)``.
        RuntimeError: If the pass never runs the layer, or the layer does not depend on the images.
    """
    images, *others = (inputs,) if isinstance(inputs, Tensor) else inputs
    if images.dim() < 3:
        raise TypeError(f"inputs must be images (N, C, *spatial), not {tuple(images.shape)}")

    def work(held: modes.Pass) -> ReceptiveField:
        checks = Checks()
        leaves = forward.make_leaves([images], checks)
        checks.settle()
        capture = forward.capture(model, layer, stop=True)
        with capture.hooked():
            forward.run(model, leaves, others, held)
        tensors = next(iter(capture.tensors.values()))
        if len(tensors) != 1:
            raise TypeError(f"layer {capture.name} returns {len(tensors)} tensors, not one")
        return trace(tensors[0], leaves[0])

    return modes.differentiably(model, work)


def trace(output: Tensor, images: Tensor) -> ReceptiveField:
    """Find the receptive field of a tensor's values on a graph that is already recorded.

    Args:
        output: A layer's output, ``(N, C, *map)``.
        images: What it was computed from, ``(N, C, *spatial)``, which requires grad.

    Returns:
        The receptive field.

    Raises:
        TypeError: If the output has no channels.
        RuntimeError: If the output does not depend on the images.
    """
    if output.dim() < 2:
        raise TypeError(f"the layer returns {tuple(output.shape)}, not (N, C, *map)")
    if not output.requires_grad:
        raise RuntimeError(
            "the layer's output does not require grad, so nothing leads back to the images: the "
            "model computes it under torch.no_grad, detaches it, or returns a constant"
        )
    paths = _trace_paths(output, images)
    image_size = tuple(images.shape[2:])
    measured = [None if path is None else path.measure() for path in paths]
    size, stride, offset, alignment = [], [], [], []
    for path, measure, length in zip(paths, measured, image_size, strict=True):
        extent, step, start = measure or (length, Fraction(0), 0)
        size.append(extent)
        stride.append(int(step) if step.denominator == 1 else float(step))
        offset.append(start)
        alignment.append(path.align() if path and measure and path.equivariant else length)
    return ReceptiveField(
        tuple(size),
        tuple(stride),
        tuple(offset),
        tuple(alignment),
        image_size,
        not any(measured),
        paths,
        tuple(output.shape[2:]),
    )


class _Track(NamedTuple):
    """Which axis of the layer's map runs along a dimension of a tensor, and how finely."""

    axis: int
    scale: Fraction
    place: int


def _trace_paths(output: Tensor, images: Tensor) -> tuple[_Path | None, ...]:
    """Follow each axis of the map back to the images' own; None where it is mixed globally."""
    edge, end = get_gradient_edge(output), get_gradient_edge(images)
    order = _order(edge.node, end.node)
    stages: list[_Stage] = []
    tracks = {
        (edge.node, edge.output_nr): {
            axis + 2: _Track(axis, Fraction(1), axis) for axis in range(output.dim() - 2)
        }
    }
    scales = dict.fromkeys(range(output.dim() - 2), Fraction(1))
    for node in order:
        if node is end.node:
            continue
        for number in range(len(shape_of(node))):
            known = tracks.get((node, number))
            if known is None:
                continue
            for (source, place), dims in find_sources(node, number):
                if source not in order:
                    continue
                of_output, of_input = shape_of(node)[number], shape_of(source)[place]
                arrived = {
                    dim: (known[out], step, (of_output[out], of_input[dim]))
                    for dim, (out, step) in dims.items()
                    if out in known
                }
                earlier = tracks.get((source, place))
                merged: dict[int, _Track] = {}
                for dim, (track, step, sizes) in arrived.items():
                    scale = track.scale * step.scale
                    if earlier is None:
                        merged[dim] = _Track(track.axis, scale, len(scales))
                        scales[len(scales)] = scale
                    elif dim in earlier and earlier[dim][:2] == (track.axis, scale):
                        merged[dim] = earlier[dim]
                    else:
                        continue
                    stages.append(_Stage(track.place, merged[dim].place, step, sizes))
                tracks[source, place] = merged
    found = tracks.get((end.node, end.output_nr))
    if found is None:
        raise RuntimeError("the layer does not depend on the images")
    return tuple(
        _prune(axis, found[axis + 2].place, stages, scales)
        if axis + 2 in found and found[axis + 2].axis == axis
        else None
        for axis in range(images.dim() - 2)
    )


def _prune(start: int, end: int, stages: list[_Stage], scales: dict[int, Fraction]) -> _Path:
    """Keep what leads from the start to the end."""
    needed, kept = {end}, []
    for stage in reversed(stages):
        if stage.input in needed:
            needed.add(stage.output)
            kept.append(stage)
    return _Path(start, end, tuple(reversed(kept)), {place: scales[place] for place in needed})


def _order(start: Node, end: Node) -> dict[Node, None]:
    """Return the nodes from an output down to an input, each after all that it feeds.

    Those that lead nowhere near the input are left out.
    """
    finished: list[Node] = []
    leads: dict[Node, bool] = {}
    waiting: list[tuple[Node, Iterator[Node]]] = [(start, _sources(start, end))]
    leads[start] = start is end
    while waiting:
        node, sources = waiting[-1]
        source = next(sources, None)
        if source is None:
            waiting.pop()
            leads[node] = node is end or any(leads[below] for below in _sources(node, end))
            finished.append(node)
        elif source not in leads:
            leads[source] = source is end
            waiting.append((source, _sources(source, end)))
    return {node: None for node in reversed(finished) if leads[node]}


def _sources(node: Node, end: Node) -> Iterator[Node]:
    if node is end:
        return iter(())
    return (source for source, _ in node.next_functions if source is not None)

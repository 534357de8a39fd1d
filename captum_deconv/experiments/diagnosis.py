r"""Tell by its features what is wrong with a network: what the paper read off by eye, measured.

Zeiler & Fergus 2013 (arXiv:1311.2901, section 4.1, figure 6) looked at the first layers of
Krizhevsky's network, found filters dead, frequencies missing and a grid in the second layer, and
mended it: smaller filters, a smaller stride. With `a[c, p]` the activations of channel `c` at place
`p`, over a data set, and `m_c` their maximum:

==============  ==================================================================================
dead            `m_c <= 0.01 max over c' of m_c'`
saturated       at least 90 % of `a[c, p]` are `>= 0.99 m_c`
border          at least 90 % of `sum over p of max(a[c, p], 0)` is on the map's outermost places
uncut           `min over p of a[c, p] > 0` behind a rectifier, which then never cuts
copies          a filter whose cosine with another one is above 0.95
frequencies     the gap of the first layer's spectrum is below 0.5
aliasing        the grid of the projections through the first large stride is above 1
==============  ==================================================================================

The last three are :mod:`captum_deconv.experiments.filters`'. A channel's fault is worth a finding
where at least 5 % of a layer's channels have it. Of fewer than 100 activations (images times
places) nothing is said: "never" and "always" need something to be said of.

Example:
    >>> import torch
    >>> from captum_deconv.sources import embedded
    >>> from captum_deconv.experiments import diagnose
    >>> images = torch.rand(4, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    >>> found = diagnose(embedded.load(), images)
    >>> [layer.name for layer in found.layers]
    ['relu1', 'relu2', 'relu3', 'relu4']
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from captum_deconv import features
from captum_deconv.engine import forward
from captum_deconv.experiments import watching
from captum_deconv.experiments.channels import Channels, find_activations, measure_channels
from captum_deconv.experiments.filters import (
    Spectrum,
    find_first,
    measure_grid,
    measure_likeness,
    measure_spectrum,
)
from captum_deconv.features.records import read_sample
from captum_deconv.gallery import project
from captum_deconv.receptive_field.shapes import find_field
from captum_deconv.sources.names import suggest

DEAD, SATURATED, BORDER, ALIKE, GAP, GRID, WORTH = 0.01, 0.9, 0.9, 0.95, 0.5, 1.0, 0.05
LEAST_VALUES = 100

_LOOKED_AT = 16
"""Modules behind the first convolution among which one to project is looked for."""

ADVICE = {
    "dead": "a smaller learning rate, He's initialisation, a batch norm or a leaky rectifier; what "
    "stays dead can be pruned. With few images a channel may only not have met its own: give more.",
    "saturated": "normalise the inputs, or put a batch norm in front, or initialise with less; no "
    "gradient passes where an activation is at its bound.",
    "border": "pad with less, or by reflection: such a channel sees the padding, not the image.",
    "uncut": "look at biases that are too large, or leave the rectifier out: for these channels "
    "the layer is linear.",
    "copies": "fewer filters, dropout or weight decay that sets them apart; if one filter "
    "dominates, renormalise (captum_deconv.experiments.renormalise).",
    "frequencies": "smaller first-layer filters (the paper: 7x7 in place of 11x11), and "
    "renormalised ones (captum_deconv.experiments.renormalise).",
    "aliasing": "a smaller stride (the paper: 2 in place of 4), a kernel that the stride divides, "
    "or blurring before the stride.",
}
"""What people do about each fault."""


@dataclass(frozen=True)
class Finding:
    """Something that is wrong.

    Attributes:
        fault: Its name, a key of ``ADVICE``.
        layer: Where.
        channels: Which of the layer's channels or filters; empty where it is the layer's.
        sentence: What was found.
        advice: What people do about it.
    """

    fault: str
    layer: str
    channels: tuple[int, ...]
    sentence: str
    advice: str


@dataclass(frozen=True)
class Layer:
    """A layer's channels with a fault, by fault; a fault that cannot be measured here is absent."""

    name: str
    count: int
    faults: Mapping[str, tuple[int, ...]]


@dataclass(frozen=True, eq=False)
class Diagnosis:
    """What was measured, and what is wrong.

    Attributes:
        images: How many there were, without those that could not be read.
        layers: Of activations: ``dead``, ``saturated``, ``border``, ``uncut``.
        filters: Of convolutions: ``copies``.
        first: The name of the first convolution; empty where there is none.
        weight: Its filters.
        spectrum: Of the first convolution; None where its kernel is too small to tell.
        stride: The first stride that is larger than one; 1 where there is none.
        grid: The energy of the projections by its phase, ``(stride, stride)``; None where there is
            no such stride, or nothing behind it that has space.
        through: The layer that was projected.
        notes: What could not be measured, and why.
    """

    images: int
    layers: tuple[Layer, ...]
    filters: tuple[Layer, ...]
    first: str = ""
    weight: Tensor = field(default_factory=lambda: torch.zeros(0))
    spectrum: Spectrum | None = None
    stride: int = 1
    grid: Tensor | None = None
    through: str = ""
    notes: tuple[str, ...] = ()

    @property
    def unevenness(self) -> float | None:
        """The grid's standard deviation over its mean; None where there is none."""
        if self.grid is None:
            return None
        return float(self.grid.std(correction=0) / self.grid.mean())

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What is wrong, in the order of the network."""
        found = []
        for layer in (*self.filters, *self.layers):
            for fault, channels in layer.faults.items():
                if channels and len(channels) >= WORTH * layer.count:
                    sentence = (
                        f"{len(channels)} of {layer.count} {_SENTENCES[fault]}, "
                        f"on these {self.images} images."
                    )
                    if fault == "copies":
                        sentence = f"{len(channels)} of {layer.count} {_SENTENCES[fault]}."
                    found.append((fault, layer.name, channels, sentence))
        if self.spectrum is not None and self.spectrum.gap < GAP:
            sentence = (
                f"the first layer's filters have {self.spectrum.gap:.0%} of the power in the "
                "middle frequencies that they have below or above: a mix of extremes."
            )
            found.append(("frequencies", self.first, (), sentence))
        if self.unevenness is not None and self.unevenness > GRID:
            sentence = (
                f"projections of {self.through} have a grid of {self.stride} pixels, the stride of "
                f"{self.first}: their energy by its phase varies by {self.unevenness:.2f} of its "
                "mean."
            )
            found.append(("aliasing", self.through, (), sentence))
        return tuple(Finding(*parts, ADVICE[parts[0]]) for parts in found)

    def to_dict(self) -> dict[str, Any]:
        """Return all of it but the filters, as JSON can hold it."""

        def tell(layer: Layer) -> dict[str, Any]:
            channels = {fault: list(which) for fault, which in layer.faults.items()}
            return {"name": layer.name, "channels": layer.count, **channels}

        return {
            "images": self.images,
            "findings": [
                {**vars(finding), "channels": list(finding.channels)} for finding in self.findings
            ],
            "layers": [tell(layer) for layer in self.layers],
            "filters": [tell(layer) for layer in self.filters],
            "first": self.first,
            "gap": None if self.spectrum is None else self.spectrum.gap,
            "spectrum": None if self.spectrum is None else list(self.spectrum.radial),
            "stride": self.stride,
            "through": self.through,
            "grid": None if self.grid is None else self.grid.tolist(),
            "unevenness": self.unevenness,
            "notes": list(self.notes),
        }


_SENTENCES = {
    "dead": f"channels never exceed {DEAD:.0%} of the layer's largest activation",
    "saturated": f"channels are within 1 % of their largest value in {SATURATED:.0%} of all places",
    "border": f"channels have {BORDER:.0%} of their activation on the map's outermost places",
    "uncut": "channels are above zero everywhere, so that the rectifier never cuts",
    "copies": f"filters have a near copy (a cosine above {ALIKE})",
}


def diagnose(
    model: nn.Module,
    dataset: Any,
    *,
    layers: Sequence[str] | None = None,
    batch_size: int = 16,
    workers: int = 0,
    projected: int = 32,
) -> Diagnosis:
    """Tell what is wrong with a network's features.

    Args:
        model: In evaluation mode; it stays as it is.
        dataset: At least two images of one size, as for :func:`captum_deconv.features.scan`.
        layers: Dotted names of the layers of activations and of the convolutions to look at; all
            where left out.
        batch_size: Images computed at a time.
        workers: Processes that read images.
        projected: Channels that are projected to look for a grid.

    Returns:
        What was measured.

    Raises:
        ValueError: If there are not two images, a layer is neither kind, or the model is in train
            mode.
    """
    if len(dataset) < 2:
        raise ValueError(
            f"a distribution needs several images, and this data set has {len(dataset)}: give at "
            "least 2, better hundreds"
        )
    image = watching.prepare(model, read_sample(dataset, 0)[None])
    calls = find_activations(model, image)
    convolutions = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Conv3d))
    }
    first = find_first(model, image.shape[1])
    notes: list[str] = []
    stride, grid, through = 1, None, ""
    if first is not None and max(first[1].stride) > 1:
        stride = max(first[1].stride)
        try:
            through, grid = _project_behind(model, dataset, first, projected, image)
        except (ValueError, TypeError, RuntimeError) as error:
            notes.append(f"the projections could not be made: {' '.join(str(error).split())}")
    if layers is not None:
        known = [call.layer for call in calls] + list(convolutions)
        for layer in layers:
            if layer not in known:
                raise ValueError(
                    f"layer {layer!r} is no convolution, and returns no activation function's "
                    f"output{suggest(layer, known)}"
                )
        calls = [call for call in calls if call.layer in layers]
        convolutions = {name: conv for name, conv in convolutions.items() if name in layers}
    if not calls:
        notes.append("no module returns the output of an activation function")
    unreadable: dict[int, str] = {}
    how = dataset, batch_size, workers, unreadable
    measured = measure_channels(model, calls, *how) if calls else []
    if unreadable:
        sample = min(unreadable)
        notes.append(
            f"{len(unreadable)} of {len(dataset)} samples could not be read and were left out: "
            f"sample {sample} ({unreadable[sample]})" + (", ..." if len(unreadable) > 1 else "")
        )
    spectrum = None if first is None else measure_spectrum(first[1].weight)
    if spectrum is None:
        notes.append("the first layer's kernel is too small to tell three octaves of frequency")
    few = [found for found in measured if found.values < LEAST_VALUES]
    if few:
        notes.append(
            f"{len(few)} of {len(measured)} layers of activations have fewer than {LEAST_VALUES} "
            "values of each channel on these images, and are not judged: give more images"
        )
    return Diagnosis(
        images=len(dataset) - len(unreadable),
        layers=tuple(map(_judge_channels, measured)),
        filters=tuple(
            found for name, conv in convolutions.items() if (found := _judge_filters(name, conv))
        ),
        first="" if first is None else first[0],
        weight=torch.zeros(0) if first is None else first[1].weight.detach().cpu().clone(),
        spectrum=spectrum,
        stride=stride,
        grid=grid,
        through=through,
        notes=tuple(notes),
    )


def _judge_channels(found: Channels) -> Layer:
    if found.values < LEAST_VALUES:
        return Layer(str(found.call), found.count, {})
    dead = found.highest <= DEAD * found.highest.max().clamp(min=0)
    faults = {"dead": dead, "saturated": (found.full >= SATURATED) & ~dead}
    if found.border is not None:
        faults["border"] = (found.border >= BORDER * found.positive) & ~dead
    if found.call.cuts:
        faults["uncut"] = found.lowest > 0
    which = {fault: tuple(mask.nonzero()[:, 0].tolist()) for fault, mask in faults.items()}
    return Layer(str(found.call), found.count, which)


def _judge_filters(name: str, conv: nn.Conv1d | nn.Conv2d | nn.Conv3d) -> Layer | None:
    likeness = measure_likeness(conv.weight, conv.groups)
    if likeness is None:
        return None
    alike = tuple((likeness > ALIKE).nonzero()[:, 0].tolist())
    return Layer(name, len(likeness), {"copies": alike})


def _project_behind(
    model: nn.Module, dataset: Any, first: tuple[str, nn.Conv2d], projected: int, image: Tensor
) -> tuple[str, Tensor | None]:
    """Project the layer right behind the first convolution and another one."""
    layer = _find_behind(model, first[0], image)
    if layer is None:
        return "", None
    index = features.scan(model, layer, dataset, k=2, progress=False)
    alive = (index.values[layer][:, 0] > 0).nonzero()[:, 0].tolist()
    if not alive:
        return layer, None
    chosen = alive[:: max(1, len(alive) // projected)][:projected]
    gallery = project(index, model, dataset, channels=chosen, check=False, uncovered="ignore")
    parts = gallery.projections.flatten(0, 1)
    corners = [(y, x) for y, x in gallery.boxes[..., 0].flatten(0, 1).tolist()]
    return layer, measure_grid(list(parts), corners, max(first[1].stride))


def _find_behind(model: nn.Module, first: str, image: Tensor) -> str | None:
    """Find the layer that sees least of those that see what another convolution adds."""
    seen = find_field(model, first, image[0])
    names = [name for name, _ in model.named_modules()]
    wide: dict[str, int] = {}
    for name in names[names.index(first) + 1 :][:_LOOKED_AT]:
        module = model.get_submodule(name)
        if type(module) in (nn.ModuleList, nn.ModuleDict):
            continue
        if not any(isinstance(part, nn.Conv2d) for part in module.modules()):
            continue
        # A pass that ends there takes crops of any size, as all that follows does not.
        if not forward.capture(model, name, stop=True).stop:
            continue
        try:
            field_of = find_field(model, name, image[0])
        except (TypeError, RuntimeError):
            continue  # its output is no map, or it does not run
        if field_of.whole_image or not all(field_of.stride):
            continue
        # As wide as another convolution makes it: a pooling of two alone adds one stride.
        if all(
            size >= own + 2 * by
            for size, own, by in zip(field_of.size, seen.size, seen.stride, strict=True)
        ):
            wide[name] = field_of.size[0]
    return min(wide, key=wide.__getitem__, default=None)

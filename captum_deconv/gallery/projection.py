"""Project the neurons of an index back to pixels, each on the smallest crop that gives the same.

A projection is the gradient of one neuron to its image under a method's rule (see
:mod:`captum_deconv.engine.rules`), seeded as in Zeiler & Fergus 2013 with the activation itself.
Each neuron is given only what it sees of its image (:mod:`captum_deconv.receptive_field.crops`),
the forward pass stops at the layer, and the crops of one size go through it together: one graph,
and one backward pass for each method, in which every example's neuron is another channel and place.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from captum_deconv.engine.coverage import Activations, Uncovered
from captum_deconv.engine.fast import FastCopy, make_fast
from captum_deconv.engine.lean import Memory, check_memory
from captum_deconv.engine.methods import prepare_methods
from captum_deconv.features.records import name_sample
from captum_deconv.gallery.collection import Gallery
from captum_deconv.gallery.projector import FieldTooSmallError, Neurons, Projector, Seed
from captum_deconv.gallery.samples import read_images
from captum_deconv.sources.names import suggest

if TYPE_CHECKING:
    from captum_deconv.features import ActivationIndex


def project(
    index: ActivationIndex,
    model: nn.Module,
    dataset: Any,
    *,
    layer: str | None = None,
    channels: int | Sequence[int] | None = None,
    method: str | Sequence[str] = "deconvnet",
    seed: Seed = "activation",
    activations: Activations = "relu",
    uncovered: Uncovered = "warn",
    restore: Callable[[Tensor], Tensor] | None = None,
    names: Callable[[int], str] | None = None,
    about: str = "",
    batch_size: int | None = None,
    workers: int = 0,
    check: bool = True,
    memory: Memory = "light",
    fast: bool = False,
) -> Gallery:
    """Project each channel's strongest neurons back to pixels.

    The result equals the projection on the whole image, and takes ``C * k * 3 * h * w * 4`` bytes
    for the patches and as many for each method, with ``(h, w)`` the size of a receptive field: for
    hundreds of channels deep in a network give ``channels`` in parts, and ``write_page`` all parts.

    Args:
        index: What :func:`captum_deconv.features.scan` found.
        model: The one it was found in, on any device; it stays as it is.
        dataset: The one it was found on: ``dataset[i]`` is an image ``(3, H, W)``, or a tuple that
            starts with one, the same at every call. Each image that is needed is read once.
        layer: Its dotted name; may be left out where the index holds one layer.
        channels: Numbers of the channels to project; all where left out.
        method: ``"deconvnet"``, ``"guided_backprop"``, ``"input_gradient"``, or several of them,
            which share the forward pass.
        seed: What a projection starts from: the neuron's ``"activation"``, as in the paper, or
            ``"one"``, which gives the gradient itself.
        activations: Which families a rule overrides, as for :func:`captum_deconv.gradient_func`.
        uncovered: What to do about activations that no rule reaches, as there.
        restore: Turns an image as the model takes it into one for looking at, in [0, 1]; where
            left out, images outside that range are stretched to it.
        names: Gives a sample's name by its number; where left out, the file's path where the data
            set tells it (``samples`` of an ``ImageFolder``), or else the number.
        about: A line on the model and the data, for captions.
        batch_size: Crops in one pass; where left out, as many as hold six images of 224 x 224
            pixels, on a GPU sixty-four.
        workers: Processes that read images.
        check: Whether to make sure that the index is of this model and data set, which hashes all
            weights once, and again when they change. Activations are compared in any case.
        memory: What is kept for the backward passes, as for :func:`captum_deconv.gradient_func`.
        fast: Whether to project through a faster copy of the model, as for
            :func:`captum_deconv.features.scan`; the gallery's ``about`` says how far the first
            batch of projections was from the model's own.

    Returns:
        The gallery, on the CPU.

    Raises:
        IndexError: If a channel is out of range.
        TypeError: If the data set's tensors are not of a floating-point type.
        UnreadableSampleError: If an image cannot be read.
        ValueError: If the layer, a method or the seed is unknown; if the images are not of one or
            three channels; if the index is of another model or data set; or if a neuron's
            activation is not what the index says, as when a data set's transform draws random
            crops.
    """
    layer = choose_layer(index, layer)
    rows = _choose_channels(index, layer, channels)
    methods = [method] if isinstance(method, str) else list(method)
    if seed not in ("activation", "one"):
        raise ValueError(f"unknown seed {seed!r}: choose from activation, one")
    if not methods or len(set(methods)) < len(methods):
        raise ValueError(f"method must name at least one method, each once, not {method!r}")
    asked = prepare_methods(methods, activations, uncovered)
    asked[0].guard.check_mode(model)
    check_memory(memory)
    if isinstance(model, nn.DataParallel):
        model = model.module
    if check:
        index.check(model, dataset)

    neurons = Neurons(
        channels=rows,
        values=index.values[layer][rows].detach().cpu(),
        samples=index.samples[layer][rows].cpu(),
        positions=index.positions[layer][rows].cpu(),
        exact="autocast" not in str(index.metadata.get("precision", "")),
    )
    given = layer, asked, seed, neurons, batch_size, restore
    largest = index.metadata.get("largest")
    faster = make_fast(model, [layer]) if fast else None
    used, reference = (model, None) if faster is None else (faster.model, model)
    how: dict[str, Any] = {"reference": reference, "memory": memory, "largest": largest}
    projector = Projector(used, *given, **how)
    by_sample = neurons.list_by_sample()
    try:
        projector.project_all(read_images(dataset, list(by_sample), workers), by_sample)
    except FieldTooSmallError as error:
        # A network that the analysis got wrong is slow rather than wrong. Where it is the images
        # that differ, this fails too, and says so.
        projector = Projector(used, *given, **how, whole=True)
        projector.project_all(read_images(dataset, list(by_sample), workers), by_sample)
        warnings.warn(
            f"the receptive field found for layer {layer!r} does not hold ({error}): projected "
            "from whole images instead",
            RuntimeWarning,
            stacklevel=2,
        )
    name = names or (lambda sample: name_sample(dataset, sample) or f"sample {sample}")
    return Gallery(
        layer=layer,
        channels=tuple(rows),
        values=neurons.values,
        samples=neurons.samples,
        positions=neurons.positions,
        patches=projector.patches,
        by_method=dict(zip(methods, projector.projections, strict=True)),
        boxes=projector.boxes,
        fields=projector.fields,
        images=projector.images,
        names={sample: str(name(sample)) for sample in by_sample},
        image_size=projector.image_size,
        seed=seed,
        about=f"{about} {_tell(faster, projector.difference)}".strip(),
    )


def _tell(faster: FastCopy | None, difference: float | None) -> str:
    if faster is None or difference is None:
        return ""
    return (
        f"Projected by a faster copy ({faster.describe()}); in its first batch the projections are "
        f"within {difference:.1e} of the largest."
    )


def choose_layer(index: ActivationIndex, layer: str | None) -> str:
    """Choose the layer of an index that is meant.

    Args:
        index: The index.
        layer: Its dotted name, or None where the index holds one layer.

    Returns:
        The name.

    Raises:
        ValueError: If none is named and there are several, or the index holds none of this name.
    """
    if layer is None:
        if len(index.layers) != 1:
            raise ValueError(
                f"the index holds {len(index.layers)} layers, so name one: "
                f"{', '.join(index.layers)}"
            )
        return index.layers[0]
    if layer not in index.layers:
        raise ValueError(f"the index holds no layer {layer!r}{suggest(layer, index.layers)}")
    return layer


def _choose_channels(
    index: ActivationIndex, layer: str, channels: int | Sequence[int] | None
) -> list[int]:
    count = len(index.values[layer])
    if channels is None:
        return list(range(count))
    asked = [channels] if isinstance(channels, int) else [int(channel) for channel in channels]
    for channel in asked:
        if not -count <= channel < count:
            raise IndexError(f"channel {channel} is out of range: layer {layer!r} has {count}")
    rows = [channel % count for channel in asked]
    if not rows or len(set(rows)) < len(rows):
        raise ValueError(f"channels must name at least one channel, each once, not {channels!r}")
    return rows

"""Questions about one photograph: from a network and an image to attributions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from captum_deconv.attribution import (
    GuidedGradCam,
    NeuronDeconvnet,
    NeuronGradient,
    NeuronGuidedBackprop,
)
from captum_deconv.engine.coverage import Coverage, coverage
from captum_deconv.engine.gradients import compare_each
from captum_deconv.explain.question import (
    GRADCAM,
    Question,
    QuestionError,
    find_targets,
    parse_neurons,
)
from captum_deconv.explain.results import Neuron, Result, Score
from captum_deconv.sources.images import Photograph
from captum_deconv.sources.models import LoadedModel, find_layer
from captum_deconv.sources.names import ModelError

if TYPE_CHECKING:
    from captum_deconv.engine.coverage import Activations


def prepare_inputs(
    loaded: LoadedModel, photographs: Sequence[Photograph], one_size: bool = False
) -> list[Tensor]:
    """Turn photographs into what the network takes, before any work is done on one of them.

    Args:
        loaded: The network, for its preprocessing.
        photographs: What to look at.
        one_size: Whether they must come out at one size, to be saved as one batch.

    Returns:
        A float tensor ``(C, H, W)`` for each.

    Raises:
        ModelError: If one cannot be prepared, see ``prepare_input``, or the sizes differ.
    """
    inputs = [prepare_input(loaded, photograph) for photograph in photographs]
    shapes = {tuple(tensor.shape): None for tensor in inputs}
    if one_size and len(shapes) > 1:
        raise ModelError(
            f"{loaded.name} takes these images at {len(shapes)} sizes "
            f"({', '.join(map(str, shapes))}), which cannot be saved as one batch: give --save one "
            "image at a time"
        )
    return inputs


def prepare_input(loaded: LoadedModel, photograph: Photograph) -> Tensor:
    """Turn a photograph into what the network takes.

    Args:
        loaded: The network, for its preprocessing.
        photograph: What to look at.

    Returns:
        A float tensor ``(C, H, W)``.

    Raises:
        ModelError: If the preprocessing fails, or gives anything but such a tensor, or NaN or
            infinite values.
    """
    try:
        inputs: Any = loaded.preprocess(photograph.image)
    except Exception as error:  # whatever a network's own preprocessing does
        raise ModelError(
            f"{loaded.name} takes no photographs: its preprocessing failed on {photograph.name} "
            f"({error})"
        ) from error
    if not isinstance(inputs, Tensor) or inputs.dim() != 3 or inputs.shape[0] not in (1, 3):
        what = tuple(inputs.shape) if isinstance(inputs, Tensor) else type(inputs).__name__
        raise ModelError(
            f"the preprocessing of {loaded.name} must give a tensor of shape (3, H, W) or "
            f"(1, H, W), not {what}"
        )
    if not inputs.is_floating_point():
        raise ModelError(
            f"the preprocessing of {loaded.name} gives integers ({inputs.dtype}), which have no "
            "gradient: convert them, for example with image.float() / 255, and normalise"
        )
    if not inputs.isfinite().all():
        raise ModelError(f"the preprocessing of {loaded.name} gives NaN or infinite values")
    return inputs


def explain_image(
    loaded: LoadedModel, photograph: Photograph, inputs: Tensor, question: Question
) -> list[Result]:
    """Answer a question about one photograph: by one forward pass for each kind of method.

    Args:
        loaded: The network.
        photograph: For its name and its notes.
        inputs: The photograph as ``prepare_input`` gives it, ``(C, H, W)``.
        question: What to attribute, and how.

    Returns:
        For each class or neuron that is asked for, in order, the prediction and the attributions,
        all on the CPU.

    Raises:
        ModelError: If a class is asked for and the output is no ``(1, classes)`` tensor of finite
            numbers, or the attributions hold NaN or infinite values.
    """
    batch = _move(inputs.unsqueeze(0), loaded.model)
    layer = None if question.layer is None else find_layer(loaded.model, question.layer)
    with torch.no_grad():
        output = loaded.model(batch)
    is_scores = isinstance(output, Tensor) and output.dim() == 2 and len(output) == 1
    if question.neuron is None and not is_scores:
        raise ModelError(_explain_wrapping(loaded.name, output))
    if question.neuron is None and not output.isfinite().all():
        raise ModelError(f"{loaded.name} answers {photograph.name} with NaN or infinite scores")
    probabilities = output[0].float().softmax(dim=0).cpu() if is_scores else None
    best = [] if probabilities is None else probabilities.topk(min(5, len(probabilities))).indices
    found: list[Result] = []
    explained: Iterator[tuple[Score | None, Neuron | None, dict[str, Tensor]]]
    if question.neuron is not None and layer is not None:
        explained = _attribute_neurons(loaded.model, layer, batch, question)
    else:
        indices = find_targets(question.target, loaded.categories, output[0])
        targets = [_name_score(loaded, probabilities, index) for index in indices]
        explained = _attribute_targets(loaded.model, layer, batch, targets, question)
    for target, neuron, attributions in explained:
        for method, attribution in attributions.items():
            if not attribution.isfinite().all():
                raise ModelError(f"{method} of {photograph.name} holds NaN or infinite values")
        found.append(
            Result(
                name=photograph.name,
                inputs=inputs,
                shown=loaded.restore(inputs),
                attributions={m: a.detach().cpu()[0] for m, a in attributions.items()},
                top=tuple(_name_score(loaded, probabilities, int(index)) for index in best),
                target=target,
                neuron=neuron,
                notes=photograph.notes,
            )
        )
    return found


def measure_coverage(
    loaded: LoadedModel,
    photograph: Photograph | None = None,
    size: tuple[int, int] | None = None,
    activations: Activations = "relu",
) -> Coverage:
    """Report which rectifiers of a network the rules reach, and what is left as it is.

    Args:
        loaded: The network; its output may hold its tensors in dictionaries and lists.
        photograph: What to show it, by default random numbers of the usual size.
        size: Height and width of the random numbers.
        activations: What the rules apply to: ``relu``, ``leaky`` or ``all``.

    Returns:
        The engine's report, printable.
    """
    if photograph is not None:
        inputs = prepare_input(loaded, photograph).unsqueeze(0)
    else:
        side = getattr(loaded.preprocess, "crop_size", None) or (224, 224)
        height, width = size or (int(side[0]), int(side[-1]))
        # Video networks take clips: 16 frames are what torchvision's were trained on.
        frames = (16,) if ".video." in type(loaded.model).__module__ else ()
        generator = torch.Generator().manual_seed(0)
        inputs = torch.rand(1, 3, *frames, height, width, generator=generator)
    model = loaded.model  # by itself, so that the function below is seen to run its modules
    forward: Callable[[Tensor], Any] = model
    if ".detection." in type(model).__module__:
        # torchvision's detectors take a list of images.
        forward = lambda batch: model(list(batch))  # noqa: E731
    return coverage(forward, _move(inputs, loaded.model), activations=activations)


def describe_run(loaded: LoadedModel, question: Question) -> dict[str, Any]:
    """Describe what was asked of which network, for the record beside the numbers.

    Args:
        loaded: The network.
        question: What was attributed, and how.

    Returns:
        The network, its weights and their hash, and the question; only what JSON can hold.
    """
    return {
        "model": loaded.name,
        "weights": loaded.weights,
        "weights_sha256": loaded.weights_hash,
        "layer": question.layer,
        "activations": question.activations,
        "uncovered": question.uncovered,
    }


def _move(inputs: Tensor, model: nn.Module) -> Tensor:
    weights = next((p for p in model.parameters() if p.is_floating_point()), None)
    return inputs if weights is None else inputs.to(weights.device, weights.dtype)


class _NeuronPicker:
    """A neuron selector that remembers what it selected."""

    def __init__(self, layer: str, channel: int | None, place: tuple[int, ...]) -> None:
        self.layer = layer
        self.channel = channel
        self.place = place
        self.neuron: Neuron | None = None

    def __call__(self, activation: Tensor | tuple[Tensor, ...]) -> Tensor:
        if isinstance(activation, tuple):
            activation = activation[0]
        shape = tuple(activation.shape[1:])
        values = activation.detach()[0]
        channel, place = self.channel, self.place
        for index, size in zip((channel or 0, *place), shape, strict=False):
            if not -size <= index < size:
                raise QuestionError(self._describe_range(shape))
        if len(place) not in (0, len(shape) - 1):
            raise QuestionError(self._describe_range(shape))
        if channel is None:
            channel = int(values.flatten(1).amax(dim=1).argmax()) if len(shape) > 1 else None
            channel = int(values.argmax()) if channel is None else channel
        if not place and len(shape) > 1:
            best = values[channel].argmax()
            place = tuple(int(i) for i in torch.unravel_index(best, values[channel].shape))
        selected = activation[0][channel].unsqueeze(0)
        for i in place:
            selected = selected[:, i]
        # As it is counted from the start.
        channel %= shape[0]
        place = tuple(i % size for i, size in zip(place, shape[1:], strict=True))
        self.neuron = Neuron(self.layer, channel, place, float(selected.detach()[0]))
        return selected

    def _describe_range(self, shape: tuple[int, ...]) -> str:
        asked = ":".join(map(str, (self.channel, *self.place)))
        return (
            f"neuron {asked} is out of range: the output of {self.layer} has "
            f"{shape[0]} channels of shape {shape[1:]}"
        )


def _attribute_neurons(
    model: nn.Module, layer: nn.Module, batch: Tensor, question: Question
) -> Iterator[tuple[None, Neuron | None, dict[str, Tensor]]]:
    rules = {
        "guided_backprop": NeuronGuidedBackprop,
        "deconvnet": NeuronDeconvnet,
    }
    asked = parse_neurons(str(question.neuron))
    pickers = [_NeuronPicker(str(question.layer), *neuron) for neuron in asked]
    by_method: dict[str, Iterator[Tensor]] = {}
    for method in question.list_methods():
        if method in rules:
            attribution: Any = rules[method](
                model, layer, activations=question.activations, uncovered=question.uncovered
            )
        else:
            # It overrides nothing, so there is nothing to say about what it overrides.
            attribution = NeuronGradient(model, layer)
        # One neuron takes as long in its image, where it is bit for bit what `attribute` gives.
        by_method[method] = attribution.attribute_each(batch, pickers, cropped=len(pickers) > 1)
    for picker in pickers:
        attributions = {method: next(answers) for method, answers in by_method.items()}
        yield None, picker.neuron, attributions


def _attribute_targets(
    model: nn.Module,
    layer: nn.Module | None,
    batch: Tensor,
    targets: Sequence[Score],
    question: Question,
) -> Iterator[tuple[Score, None, dict[str, Tensor]]]:
    names = question.list_methods()
    rules = tuple(name for name in names if name != GRADCAM)
    how: Any = {"activations": question.activations, "uncovered": question.uncovered}
    indices = [target.index for target in targets]
    by_rule = compare_each(model, batch, indices, methods=rules, **how) if rules else None
    gradcam = None
    if layer is not None and GRADCAM in names:
        gradcam = GuidedGradCam(model, layer, **how).attribute_each(batch, indices)
    for target in targets:
        found = dict(next(by_rule)) if by_rule is not None else {}
        if gradcam is not None:
            found[GRADCAM] = next(gradcam)
        yield target, None, {name: found[name] for name in names}


def _name_score(loaded: LoadedModel, probabilities: Tensor | None, index: int) -> Score:
    named = loaded.categories is not None and index < len(loaded.categories)
    label = loaded.categories[index] if named and loaded.categories else f"class {index}"
    return Score(index, label, 0.0 if probabilities is None else float(probabilities[index]))


def _explain_wrapping(name: str, output: Any) -> str:
    if isinstance(output, Tensor):
        what = f"a tensor of shape {tuple(output.shape)}"
    elif isinstance(output, dict):
        what = f"a dictionary ({', '.join(map(str, output))})"
    else:
        what = f"a {type(output).__name__}"
    return (
        f"{name} returns {what}, and a class is found in a tensor of shape (1, classes): wrap it "
        "in a module whose forward returns such a tensor, for example "
        "model(x)['out'].mean(dim=(2, 3)), and give it as --model your_module:YourWrapper; or ask "
        "for a neuron with --layer and --neuron"
    )

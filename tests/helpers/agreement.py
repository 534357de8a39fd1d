"""Hold the package's attributions against the reference: the same numbers, bit for bit."""

from collections.abc import Callable, Sequence
from typing import Any

import oracle
import torch
from torch import Tensor, nn

import captum_deconv as cd

OF_INPUTS = {
    "input_gradient": cd.InputGradient,
    "guided_backprop": cd.GuidedBackprop,
    "deconvnet": cd.Deconvnet,
}
OF_NEURON = {
    "input_gradient": cd.NeuronGradient,
    "guided_backprop": cd.NeuronGuidedBackprop,
    "deconvnet": cd.NeuronDeconvnet,
}
OF_LAYER = {
    "input_gradient": cd.LayerGradient,
    "guided_backprop": cd.LayerGuidedBackprop,
    "deconvnet": cd.LayerDeconvnet,
}


def as_tuple(value: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return value if isinstance(value, tuple) else (value,)


def assert_same(actual: Any, expected: Any, what: str) -> None:
    """Assert that tensors, or tuples of them, are equal in every bit that a number has."""
    actual, expected = as_tuple(actual), as_tuple(expected)
    assert len(actual) == len(expected), what
    for index, (ours, reference) in enumerate(zip(actual, expected, strict=True)):
        assert ours.dtype == reference.dtype, what
        assert ours.shape == reference.shape, what
        assert reference.isfinite().all(), f"{what}: the reference is not finite"
        if not torch.equal(ours, reference):
            error = (ours - reference).abs().max().item() / reference.abs().max().item()
            raise AssertionError(f"{what}, tensor {index}: relative error {error}, not 0")


def assert_methods_differ(references: dict[str, Any]) -> None:
    """Assert that one method's result could not pass for another's: the control of every case."""
    methods = list(references)
    for index, one in enumerate(methods):
        for other in methods[index + 1 :]:
            pairs = zip(as_tuple(references[one]), as_tuple(references[other]), strict=True)
            assert any(not torch.equal(a, b) for a, b in pairs), (
                f"{one} and {other} are the same here: this case tells nothing"
            )


def check_inputs(
    model: Callable[..., Any],
    inputs: Tensor | tuple[Tensor, ...],
    target: Any = None,
    *,
    eager: Callable[..., Any] | None = None,
    arguments: Sequence[Any] = (),
    activations: str = "relu",
) -> None:
    """Check all three methods from the output to the inputs.

    Args:
        model: What the package is given.
        inputs: A tensor or a tuple of them.
        target: An index into the output.
        eager: What the reference runs, where it is not the model itself.
        arguments: The model's additional arguments.
        activations: The families that count as rectifiers.
    """
    references = {
        method: oracle.input_attribution(
            eager or model, inputs, target, method, arguments, activations
        )
        for method in OF_INPUTS
    }
    assert_methods_differ(references)
    for method, kind in OF_INPUTS.items():
        actual = made(kind, model, activations=activations).attribute(
            inputs, target, additional_forward_args=tuple(arguments) or None
        )
        assert_same(actual, references[method], f"{method} to the input")


def check_neuron(model: nn.Module, layer: str, inputs: Any, selector: Any, **options: Any) -> None:
    """Check all three methods from a neuron of a layer to the inputs."""
    _check_at_layer(OF_NEURON, oracle.neuron_attribution, model, layer, inputs, selector, **options)


def check_layer(
    model: nn.Module, layer: str, inputs: Any, target: Any = None, **options: Any
) -> None:
    """Check all three methods from the output to a layer."""
    _check_at_layer(OF_LAYER, oracle.layer_attribution, model, layer, inputs, target, **options)


def _check_at_layer(
    kinds: dict[str, Any],
    reference: Callable[..., Any],
    model: nn.Module,
    layer: str,
    inputs: Tensor | tuple[Tensor, ...],
    question: Any,
    *,
    eager: nn.Module | None = None,
    arguments: Sequence[Any] = (),
    activations: str = "relu",
    of_layer_input: bool = False,
) -> None:
    eager = eager or model
    references = {
        method: reference(
            *(eager, eager.get_submodule(layer), inputs, question, method),
            *(arguments, activations, of_layer_input),
        )
        for method in kinds
    }
    assert_methods_differ(references)
    of_input = "attribute_to_neuron_input" if kinds is OF_NEURON else "attribute_to_layer_input"
    for method, kind in kinds.items():
        actual = made(kind, model, layer, activations=activations).attribute(
            inputs,
            question,
            additional_forward_args=tuple(arguments) or None,
            **{of_input: of_layer_input},
        )
        assert_same(actual, references[method], f"{method} at {layer}")


def made(kind: Any, *arguments: Any, activations: str) -> Any:
    """Make an attribution object; the plain gradient has no families to choose."""
    if activations == "relu" or kind.method == "input_gradient":
        return kind(*arguments)
    return kind(*arguments, activations=activations)


def check_all(
    model: nn.Module,
    inputs: Tensor,
    target: Any,
    *,
    neuron: tuple[str, Any],
    layer: str,
    **options: Any,
) -> None:
    """Check the three methods to the input, from a neuron, and to a layer."""
    check_inputs(model, inputs, target, **options)
    check_neuron(model, neuron[0], inputs, neuron[1], **options)
    check_layer(model, layer, inputs, target, **options)

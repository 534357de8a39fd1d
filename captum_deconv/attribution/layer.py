"""From the output to a layer."""

from collections.abc import Iterable, Iterator
from typing import Any

from captum_deconv.attribution.base import Inputs, OfLayer, OfLayerByRule
from captum_deconv.engine._captum import LayerAttribution, Target, log_usage
from captum_deconv.engine.recording import OfLayerTensors


class _Layer(OfLayer, LayerAttribution):  # type: ignore[misc]  # captum publishes no types
    """From the output to a layer; nothing below the layer is differentiated.

    A layer that the model calls several times counts with its last call.
    """

    @log_usage(part_of_slo=True)  # type: ignore[untyped-decorator]  # captum publishes no types
    def attribute(
        self,
        inputs: Inputs,
        target: Target = None,
        additional_forward_args: Any = None,
        attribute_to_layer_input: bool = False,
    ) -> Any:
        """Attribute the target to the layer's tensors."""
        call = self._call(inputs, additional_forward_args, attribute_to_layer_input)
        result = OfLayerTensors(call, [self._function]).answer(target)
        return result if len(result) > 1 else result[0]

    def attribute_each(
        self,
        inputs: Inputs,
        targets: Iterable[Target],
        additional_forward_args: Any = None,
        attribute_to_layer_input: bool = False,
    ) -> Iterator[Any]:
        """Attribute each of many targets, from one forward pass: an iterator, in their order."""
        call = self._call(inputs, additional_forward_args, attribute_to_layer_input)
        found = OfLayerTensors(call, [self._function]).answer_each(targets, "targets")
        return map(lambda result: result if len(result) > 1 else result[0], found)


class LayerGradient(_Layer):
    """The gradient of the target to a layer."""

    method = "input_gradient"


class LayerGuidedBackprop(OfLayerByRule, _Layer):
    """Guided backpropagation from the output to a layer."""

    method = "guided_backprop"


class LayerDeconvnet(OfLayerByRule, _Layer):
    """The deconvnet from the output to a layer."""

    method = "deconvnet"

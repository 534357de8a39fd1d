"""From a neuron of a layer to the input."""

from collections.abc import Iterable, Iterator
from typing import Any

from captum_deconv.attribution.base import Inputs, OfLayer, OfLayerByRule
from captum_deconv.attribution.cropped import OfCroppedNeuron
from captum_deconv.engine._captum import NeuronAttribution, NeuronSelector, like_inputs, log_usage
from captum_deconv.engine.recording import OfNeuron


class _Neuron(OfLayer, NeuronAttribution):  # type: ignore[misc]  # captum publishes no types
    """From a neuron of a layer to the input; the forward pass stops at the layer.

    A layer that the model calls several times counts with its last call.
    """

    @log_usage(part_of_slo=True)  # type: ignore[untyped-decorator]  # captum publishes no types
    def attribute(
        self,
        inputs: Inputs,
        neuron_selector: NeuronSelector,
        additional_forward_args: Any = None,
        attribute_to_neuron_input: bool = False,
    ) -> Any:
        """Attribute the neuron to the inputs."""
        call = self._call(inputs, additional_forward_args, attribute_to_neuron_input)
        result = OfNeuron(call, [self._function]).answer(neuron_selector)
        return like_inputs(inputs, result)

    def attribute_each(
        self,
        inputs: Inputs,
        neuron_selectors: Iterable[NeuronSelector],
        additional_forward_args: Any = None,
        attribute_to_neuron_input: bool = False,
        *,
        cropped: bool = True,
    ) -> Iterator[Any]:
        """Attribute each of many neurons, from one forward pass: an iterator, in their order.

        Where the graph proves that a neuron sees only a small part of large images, its gradient is
        taken on that part, which agrees with :meth:`attribute` to the rounding of the convolutions,
        about 1e-6 of the largest value; eight selectors are read ahead, and their crops pass
        together. With ``cropped=False`` every result is the same as there, bit for bit.
        """
        call = self._call(inputs, additional_forward_args, attribute_to_neuron_input)
        recording = OfCroppedNeuron(call, [self._function], cropped=cropped)
        found = recording.answer_each(neuron_selectors, "neuron_selectors")
        return map(lambda result: like_inputs(inputs, result), found)


class NeuronGradient(_Neuron):
    """The gradient of a neuron to the input."""

    method = "input_gradient"


class NeuronGuidedBackprop(OfLayerByRule, _Neuron):
    """Guided backpropagation from a neuron to the input."""

    method = "guided_backprop"


class NeuronDeconvnet(OfLayerByRule, _Neuron):
    """The deconvnet from a neuron to the input: the projection of Zeiler & Fergus."""

    method = "deconvnet"

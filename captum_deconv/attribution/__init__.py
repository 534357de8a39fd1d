"""The attribution classes: Captum's signatures, Captum's contract, the exact numbers.

Change one import and keep the rest of the code:

>>> import torch
>>> from torch import nn
>>> from captum_deconv import GuidedBackprop  # was: from captum.attr import GuidedBackprop
>>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
>>> GuidedBackprop(model).attribute(torch.rand(2, 4), target=1).shape
torch.Size([2, 4])

Every ``attribute`` takes these arguments, said once here:

- ``inputs``: a tensor ``(N, ...)`` of a floating-point type, or a tuple of them. They and the model
  are left exactly as they were.
- ``target``: which value of the model's output ``(N, ...)`` to explain: an int for all examples; a
  tuple of them for an output of more dimensions; a list of either, or a 1-D tensor, with one for
  each example; None where the model returns one value per example.
- ``neuron_selector``: which value of the layer's output ``(N, ...)`` to explain: an int, a tuple of
  ints and slices (slices are summed over), or a function from the layer's tensor, or its tuple of
  several, to one value per example, such as :func:`captum_deconv.strongest`.
- ``additional_forward_args``: what the model takes after the inputs; a tuple of several.
- ``attribute_to_layer_input``, ``attribute_to_neuron_input``: explain what the layer takes instead
  of what it returns.

A tensor that stands in the tuple twice counts as two inputs, each with its own place's gradient.

It returns detached tensors: of the inputs' shapes, a tuple where a tuple came in; for the layer
classes, of the layer's shapes, a tuple where the layer has several.

And every one raises ``AssertionError`` for a target or selector of the wrong kind or length,
``IndexError`` for one out of range, ``TypeError`` for inputs without gradients (integers) and for
outputs that are no tensor, ``ValueError`` for inputs with NaN or infinite values and for an unknown
layer name, ``RuntimeError`` for a layer that never runs and for an output without a way back, and
:class:`captum_deconv.RectifierCoverageError` where ``uncovered="raise"`` asks for it or a reentrant
checkpoint hides part of the graph.

In reading order: ``base`` (what all share, and what those of a layer share), ``input``, ``neuron``
(``cropped``: many of them, each on the part of the image that it sees), ``layer``, ``grad_cam``.
"""

from captum_deconv.attribution.grad_cam import GuidedGradCam
from captum_deconv.attribution.input import Deconvnet, Deconvolution, GuidedBackprop, InputGradient
from captum_deconv.attribution.layer import LayerDeconvnet, LayerGradient, LayerGuidedBackprop
from captum_deconv.attribution.neuron import NeuronDeconvnet, NeuronGradient, NeuronGuidedBackprop

__all__ = [
    "Deconvnet",
    "Deconvolution",
    "GuidedBackprop",
    "GuidedGradCam",
    "InputGradient",
    "LayerDeconvnet",
    "LayerGradient",
    "LayerGuidedBackprop",
    "NeuronDeconvnet",
    "NeuronGradient",
    "NeuronGuidedBackprop",
]

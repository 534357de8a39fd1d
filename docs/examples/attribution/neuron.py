"""
Explain a neuron
================

The question that a deconvnet was made for: which pattern made this *hidden* neuron fire? A channel
is seen best where it is most active, which :func:`captum_deconv.strongest` selects in each image.
"""

import torch

from captum_deconv import NeuronDeconvnet, NeuronGradient, NeuronGuidedBackprop, strongest
from captum_deconv.explain.figure import Row, find_support, plot_attributions
from captum_deconv.sources.datasets import read_photograph
from captum_deconv.sources.models import load_model

loaded = load_model("embedded")
names = ["coffee", "rocket", "chelsea"]
images = torch.stack([loaded.preprocess(read_photograph(name)) for name in names])
neurons = {
    "input_gradient": NeuronGradient(loaded.model, "relu3"),
    "guided_backprop": NeuronGuidedBackprop(loaded.model, "relu3"),
    "deconvnet": NeuronDeconvnet(loaded.model, "relu3"),
}
found = {name: each.attribute(images, strongest(11)) for name, each in neurons.items()}

# %%
# A neuron sees only a part of its image; outside it, its attribution is zero. The figure draws that
# part, and shows where it is.

rows = []
for number, name in enumerate(names):
    attributions = {method: tensor[number] for method, tensor in found.items()}
    box = find_support(list(attributions.values()))
    label = f"channel 11 of relu3\n{name}"
    rows.append(Row(loaded.restore(images[number]), attributions, label, box))
figure = plot_attributions(rows)
figure.set_label("Three photographs, the patch where channel 11 fires most, and its attributions.")

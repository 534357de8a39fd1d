"""
See what a neuron sees
======================

A neuron depends on a part of the image, which grows with depth. It is read from the strides,
kernels and paddings on the network's own graph, and is exact.
"""

import matplotlib.pyplot as plt
from matplotlib.patches import Rectangle

from captum_deconv import receptive_field
from captum_deconv.sources.datasets import read_photograph
from captum_deconv.sources.models import load_model

LAYERS = ("relu1", "relu2", "relu3", "relu4")
COLOURS = ("cyan", "lime", "yellow", "red")

loaded = load_model("embedded")
names = [name for name, _ in loaded.model.named_children()]
image = loaded.preprocess(read_photograph("astronaut"))

figure, panel = plt.subplots(figsize=(3.4, 3.4), layout="constrained")
panel.imshow(loaded.restore(image).permute(1, 2, 0).numpy())
panel.set_axis_off()
for layer, colour in zip(LAYERS, COLOURS, strict=True):
    field = receptive_field.of(loaded.model, layer, image[None])
    maps = loaded.model[: names.index(layer) + 1](image[None])
    height, width = maps.shape[2:]
    (top, bottom), (left, right) = field.box((height // 3, width // 2))
    print(f"{layer}: {field.size} pixels, {field.stride} from one neuron to the next")
    corner = (left - 0.5, top - 0.5)
    panel.add_patch(Rectangle(corner, right - left, bottom - top, fill=False, ec=colour, lw=2))
figure.set_label("An astronaut's face, and on it what a neuron of each of four layers sees.")

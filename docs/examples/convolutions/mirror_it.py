"""
Build the deconvnet as the paper drew it
========================================

:class:`captum_deconv.mirror.Mirror` goes down by explicit transposes, unpooling and rectification,
and knows nothing of autograd. It gives the same numbers as the rule on the graph.
"""

import matplotlib.pyplot as plt

from captum_deconv import NeuronDeconvnet, strongest
from captum_deconv.explain.figure import find_support
from captum_deconv.mirror import Mirror
from captum_deconv.sources import embedded
from captum_deconv.sources.datasets import read_photograph

model = embedded.load()
images = model.preprocess(read_photograph("coffee"))[None]
drawn = Mirror(model, seed="one").project(images, "relu3", strongest(11))
by_rule = NeuronDeconvnet(model, "relu3").attribute(images, strongest(11))
print(f"largest difference: {(drawn - by_rule).abs().max() / by_rule.abs().max():.0e}")

# %%
# Every stop on the way down can be looked at.

figure, panels = plt.subplots(1, 5, figsize=(7, 1.9), layout="constrained")
seen = find_support([drawn[0]])  # in pixels of the image, which is 224 by 224
stops = Mirror(model).reconstructions(images, "relu3", strongest(11))
for stop in stops:
    places = int(stop.signal.count_nonzero())
    print(f"below {stop.name}: {tuple(stop.signal.shape[1:])}, {places} of them not zero")
for panel, stop in zip(panels, [stops[n] for n in (0, 3, 5, 7, 8)], strict=True):
    strength = stop.signal[0].abs().amax(0)
    top, left, bottom, right = (edge * len(strength) // 224 for edge in seen)
    panel.imshow(strength[top:bottom, left:right].numpy(), cmap="gray_r")
    panel.set_title(f"below {stop.name}", fontsize=8)
    panel.set(xticks=[], yticks=[])
figure.set_label(
    "One place of relu3 spreads on its way down to the pixels, and thins at rectifiers."
)

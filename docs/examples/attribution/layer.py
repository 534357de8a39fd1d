"""
Stop at a layer
===============

The layer classes attribute the output to a layer's channels instead of the pixels. Captum has none
for these rules.
"""

import matplotlib.pyplot as plt

from captum_deconv import LayerDeconvnet, LayerGradient, LayerGuidedBackprop
from captum_deconv.sources.datasets import read_photograph
from captum_deconv.sources.models import load_model

loaded = load_model("embedded")
images = loaded.preprocess(read_photograph("rocket"))[None]
target = loaded.categories.index("rocket")

figure, panels = plt.subplots(1, 4, figsize=(7, 2.1), layout="constrained")
panels[0].imshow(loaded.restore(images[0]).permute(1, 2, 0).numpy())
panels[0].set_title("rocket", fontsize=8)
for panel, method in zip(
    panels[1:], [LayerGradient, LayerGuidedBackprop, LayerDeconvnet], strict=True
):
    found = method(loaded.model, "relu1").attribute(images, target)[0]
    channel = int(found.flatten(1).abs().sum(1).argmax())
    scale = float(found[channel].abs().max())
    panel.imshow(found[channel].numpy(), cmap="RdBu_r", vmin=-scale, vmax=scale)
    panel.set_title(f"{method.__name__}\nchannel {channel} of {len(found)}", fontsize=8)
for panel in panels:
    panel.set_axis_off()
figure.set_label(
    "A rocket, and by three methods the channel of relu1 that its class rests on most."
)

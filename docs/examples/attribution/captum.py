"""
Replace Captum's import
=======================

Signatures, targets and shapes are Captum's, so that only the import changes. On EfficientNet-Lite0,
whose rectifiers are ReLU6, Captum's class finds nothing to override: its guided backprop is the
plain gradient, and says so to nobody.
"""

import torch
from captum.attr import GuidedBackprop as CaptumsGuidedBackprop

from captum_deconv import GuidedBackprop, InputGradient
from captum_deconv.explain.figure import Row, plot_attributions
from captum_deconv.sources.images import read_demo_image
from captum_deconv.sources.models import load_model

loaded = load_model("efficientnet-lite0")
images = loaded.preprocess(read_demo_image().image)[None]
target = loaded.categories.index("tiger cat")

captums = CaptumsGuidedBackprop(loaded.model).attribute(images, target)
exact = GuidedBackprop(loaded.model).attribute(images, target)
gradient = InputGradient(loaded.model).attribute(images, target)
print("Captum's guided backprop is the gradient:", torch.allclose(captums, gradient))
print("this package's is:", torch.allclose(exact, gradient))

# %%
# Above in colour, below by magnitude.

columns = {"Captum's guided backprop": captums[0], "guided_backprop": exact[0]}
figure = plot_attributions([Row(loaded.restore(images[0]), columns, "tiger cat")])
figure.set_label("A cat; Captum's guided backprop, which is noise; the exact one, which is fur.")

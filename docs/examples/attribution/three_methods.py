"""
Compare three methods
=====================

The input gradient, the deconvnet and guided backprop differ in one place only: in what a rectifier
passes back. :func:`captum_deconv.compare` runs the network forward once, and back once for each.
"""

from captum_deconv import compare
from captum_deconv.explain.figure import Row, plot_attributions
from captum_deconv.sources.images import read_demo_image
from captum_deconv.sources.models import load_model

loaded = load_model("efficientnet-lite0")
images = loaded.preprocess(read_demo_image().image)[None]
target = loaded.categories.index("tiger cat")
found = compare(loaded.model, images, target)

# %%
# It is a dictionary of tensors by method, which a notebook shows like this:

found

# %%
# For a paper there is a figure, beside the image and with its scales.

attributions = {method: tensor[0] for method, tensor in found.items()}
figure = plot_attributions([Row(loaded.restore(images[0]), attributions, "tiger cat")])
figure.set_label("A cat and what three methods draw of the class tiger cat.")

# %%
# *Do not take the second and third picture for the class's*: guided backprop and the deconvnet of a
# deep network hardly depend on the class that is asked about
# (:doc:`/what-pictures-tell`).

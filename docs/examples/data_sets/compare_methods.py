"""
Ask what a method can be trusted for
====================================

On your own network and images: how alike are a method's maps once the network is random, or when
another class is asked about? A good explanation changes. The edge detector, which never sees the
network, is a control: a method that does no better has shown nothing here.
"""

import tempfile

import matplotlib.pyplot as plt

from captum_deconv import comparison
from captum_deconv.sources import embedded
from captum_deconv.sources.datasets import PhotographTiles

tiles = PhotographTiles(96, embedded.prepare_tile(), names=("coffee", "rocket", "motorcycle"))
images = [tiles[number] for number in (2, 14, 30)]
with tempfile.TemporaryDirectory() as folder:
    found = comparison.run(
        embedded.load(),
        images,
        methods=["input_gradient", "guided_backprop", "deconvnet", "gradcam", "edges"],
        metrics=["sanity_cascading", "other_class"],
        out=folder,
    )

# %%
# The mean over the images, lower is better, with a 95 % interval. Three images are too few to
# decide anything; the interval says so. All of it, measured: :doc:`/which-method`.

figure, panels = plt.subplots(1, 2, figsize=(7, 2.6), layout="constrained", sharey=True)
for panel, metric in zip(panels, found.question.metrics, strict=True):
    for method in found.question.methods:
        cell = found.find(metric, method)
        panel.plot([cell["low"], cell["high"]], [method, method], color="gray")
        panel.plot(cell["mean"], method, "o", color="black")
        print(f"{metric}, {method}: {cell['mean']:.2f} ({cell['low']:.2f} to {cell['high']:.2f})")
    panel.set(xlim=(0, 1.05), xlabel=metric)
panels[0].invert_yaxis()
figure.set_label("How alike five methods' maps stay by two metrics; the edge detector's at 1.")

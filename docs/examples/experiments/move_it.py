"""
Move, enlarge and turn it
=========================

Figure 5: how far do a layer's features go when the image is moved, enlarged or turned, and what
becomes of the class?
"""

import torch

from captum_deconv import experiments
from captum_deconv.experiments.invariance_figure import draw_invariance
from captum_deconv.sources.datasets import read_photograph
from captum_deconv.sources.models import load_model

loaded = load_model("embedded")
names = ["rocket", "astronaut", "coffee"]
images = torch.stack([loaded.preprocess(read_photograph(name)) for name in names])
found = experiments.measure_invariance(loaded.model, images, ["relu1", "relu4"], steps=9)
figure = draw_invariance(found, names=names, restore=loaded.restore, categories=loaded.categories)
figure.set_label("For translation, scale and rotation: distances of two layers, and the class.")

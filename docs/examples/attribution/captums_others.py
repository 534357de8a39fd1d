"""
Give Captum's other methods a rule
==================================

Every gradient method of Captum takes a rule as its ``gradient_func``, and ``NoiseTunnel`` takes the
classes here.
"""

import torch
from captum.attr import InputXGradient, NoiseTunnel

from captum_deconv import GuidedBackprop, gradient_func
from captum_deconv.explain.figure import Row, plot_attributions
from captum_deconv.sources.datasets import read_photograph
from captum_deconv.sources.models import load_model

loaded = load_model("embedded")
images = loaded.preprocess(read_photograph("motorcycle"))[None]
target = loaded.categories.index("motorcycle")

guided = GuidedBackprop(loaded.model)
times_input = InputXGradient(loaded.model)
times_input.gradient_func = gradient_func("guided_backprop")
torch.manual_seed(0)
attributions = {
    "guided_backprop": guided.attribute(images, target)[0],
    "averaged over noise": NoiseTunnel(guided).attribute(
        images, nt_type="smoothgrad", nt_samples=8, stdevs=0.3, target=target
    )[0],
    "times the input": times_input.attribute(images, target=target)[0],
}
figure = plot_attributions([Row(loaded.restore(images[0]), attributions, "motorcycle")])
figure.set_label("A motorcycle: guided backprop as it is, averaged over noise, times the input.")

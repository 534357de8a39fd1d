"""
Attribute where memory is short
===============================

A backward pass reads few of the activations that autograd keeps. By default those that only their
shape is read of are let go of; ``memory="lean"`` keeps of a rectifier one bit for each value, which
takes some time. The results are the same, bit for bit.
"""

import torch

from captum_deconv import GuidedBackprop
from captum_deconv.sources.images import read_demo_image
from captum_deconv.sources.models import load_model

loaded = load_model("efficientnet-lite0")
images = loaded.preprocess(read_demo_image().image)[None]
target = loaded.categories.index("tiger cat")

everything = GuidedBackprop(loaded.model, memory="autograd").attribute(images, target)
for memory in ("light", "lean"):
    found = GuidedBackprop(loaded.model, memory=memory).attribute(images, target)
    print(f"{memory}: the same, {torch.equal(found, everything)}")

"""
Build the deconvnet as the paper drew it
========================================

:class:`captum_deconv.mirror.Mirror` goes down by explicit transposes, unpooling and rectification,
and knows nothing of autograd. It gives the same numbers as the rule on the graph.
"""

from captum_deconv import NeuronDeconvnet, strongest
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

for stop in Mirror(model).reconstructions(images, "relu3", strongest(11)):
    places = int(stop.signal.count_nonzero())
    print(f"below {stop.name}: {tuple(stop.signal.shape[1:])}, {places} of them not zero")

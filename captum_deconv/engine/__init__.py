"""One forward pass, one backward pass per rule; the model never touched.

In reading order:

- ``rules``: what a rectifier passes back, by each method. All that the methods differ in.
- ``rectifiers``: find the rectifiers on a graph, and put a rule on them for one backward pass.
- ``modes``: the modes that a pass runs in, and what of the model it would change.
- ``forward``: run the model on copies, and capture a layer on the way.
- ``single_call``, ``aliases``: whether a pass may stop at that layer, from the model's source.
- ``coverage``: what a rule reaches and what it misses, by name.
- ``gradients``: all of it together, from an output or a neuron to the inputs or a layer.
- ``_captum``: the only module of the package that imports Captum.
"""

"""One forward pass, one backward pass per rule; the model never touched.

In reading order:

- ``rules``: what a rectifier passes back, by each method. All that the methods differ in.
- ``rectifiers``: find the rectifiers on a graph, and what else is nonlinear or opaque there.
- ``overriding``: put a rule on them for one backward pass.
- ``modes``: the modes that a pass runs in, and what of the model it would change.
- ``structures``: pick a tensor from what a module takes or returns.
- ``checks``: conditions on tensors' values, read from a device all at once.
- ``hooks``: hooks on modules that no interrupt leaves there.
- ``forward``: run the model on copies, and capture a layer on the way.
- ``single_call``, ``aliases``: whether a pass may stop at that layer, from the model's source.
- ``coverage``: what a rule reaches and what it misses, by name.
- ``saved``, ``lean``: what a backward pass reads, and a forward pass that keeps no more.
- ``methods``: a method as it is asked for: its rule, where it applies, whom to tell of the rest.
- ``recording``: all of it together: one forward pass, and the answers that are read off it.
- ``fast``: a faster copy of a model, for who asks for one.
- ``attributions``: the answers of several methods, as a notebook shows them.
- ``gradients``: Captum's ``gradient_func`` under a rule; ``compare`` and ``strongest``.
- ``_captum``: the only module of the package that imports Captum.
"""

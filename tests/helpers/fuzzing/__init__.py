"""Random networks and random questions about them, for the fuzz: see ``tests/fuzz``.

In reading order: ``plans`` (what is drawn); what a network is made of: ``operations``, from
``making``, ``convolving``, ``pooling``, ``gating``, ``moving`` and ``rare``, then ``mixing`` and
``rectifying``; ``networks`` (a plan as a network); ``references`` and ``asking`` (a question put to
the package and to the reference); ``counting``.
"""

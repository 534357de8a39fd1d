"""Random networks and random questions about them, for the fuzz: see ``tests/fuzz``.

In reading order: ``plans`` (what is drawn), ``operations``, ``mixing`` and ``rectifying`` (what a
network is made of), ``networks`` (a plan as a network), ``references``, ``asking`` (a question put to
the package and to the reference) and ``counting``.
"""

"""What a network is made of between its rectifiers, by name.

Each entry makes, for the tensor ``(N, C, *map)`` that it will get and a knob of 0 to 3, a module or
a function that returns one of the same number of dimensions, or of fewer. What does not fit that
tensor raises, and the network then goes without it.
"""

from fuzzing.convolving import CONVOLUTIONS
from fuzzing.gating import GATES
from fuzzing.making import Make
from fuzzing.moving import SHAPES
from fuzzing.pooling import NORMS, POOLS
from fuzzing.rare import RARE

OPERATIONS: dict[str, Make] = {**CONVOLUTIONS, **POOLS, **NORMS, **GATES, **SHAPES, **RARE}

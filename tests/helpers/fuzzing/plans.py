"""What is drawn: a network as a list of steps, and a question about it.

Both print as what makes them again:

>>> Plan((Rectify("clamp_"),)).steps
(Rectify(spelling='clamp_', place='straight', source=0),)
"""

from dataclasses import dataclass

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from fuzzing.convolving import CONVOLUTIONS
from fuzzing.gating import GATES
from fuzzing.mixing import MIXES
from fuzzing.moving import SHAPES
from fuzzing.pooling import NORMS, POOLS
from fuzzing.rare import RARE
from fuzzing.rectifying import IN_PLACE, LEAKY_ONES, ON_VIEWS, PLACES, RECTIFIERS, SMOOTH_ONES


@dataclass(frozen=True)
class Operate:
    """An operation among ``operations.OPERATIONS`` on one tensor.

    Here and below a source counts tensors back from the latest one, the inputs included.
    """

    name: str
    source: int = 0
    knob: int = 0


@dataclass(frozen=True)
class Mix:
    """Two tensors made one, by an entry of ``MIXES``."""

    name: str
    source: int = 0
    other: int = 1


@dataclass(frozen=True)
class Rectify:
    """A rectifier of a spelling in a place."""

    spelling: str
    place: str = "straight"
    source: int = 0


@dataclass(frozen=True)
class Reuse:
    """An earlier step's module, called again."""

    step: int = 0
    source: int = 0


Step = Operate | Mix | Rectify | Reuse


@dataclass(frozen=True)
class Plan:
    """A network and its inputs.

    Attributes:
        steps: One after another.
        head: What makes the output of the last tensor, among ``networks.HEADS``.
        dimensions: Of the maps.
        size: Of each side of the maps, but for every second of one more; 7 at most in 3-D.
        batch: Number of examples.
        channels: Of each input.
        dtype: A type of torch's, by name.
        chain: Whether it is an ``nn.Sequential``: every source is then the latest tensor.
        training: Whether the model is in training mode.
        frozen: Whether its parameters need no gradient.
        factor: Whether it takes an additional argument.
        layout: How the inputs lie in memory, among ``networks.LAYOUTS``.
        seed: Of weights, inputs and dropout.
    """

    steps: tuple[Step, ...]
    head: str = "classes"
    dimensions: int = 2
    size: int = 6
    batch: int = 3
    channels: tuple[int, ...] = (3,)
    dtype: str = "float64"
    chain: bool = False
    training: bool = False
    frozen: bool = False
    factor: bool = False
    layout: str = "contiguous"
    seed: int = 0


@dataclass(frozen=True)
class Question:
    """What is asked of the package.

    Attributes:
        kind: A class of the package's, ``"compare"``, ``"compare_each"`` or ``"gradient_func"``.
        method: Of ``"gradient_func"``, and the one left out by ``"compare"``.
        form: How the target, or the neuron selector, is written.
        index: Numbers that the target's index is made of.
        layer: Number of the layer, of those that ran.
        of_layer_input: Whether what the layer takes is meant.
        each: How many questions ``attribute_each`` is asked; none, and ``attribute`` is called.
        activations: The package's option.
        memory: The package's option.
        uncovered: The package's option.
        mode: The mode it is asked in: ``"grad"``, ``"no_grad"``, ``"inference"``, ``"autocast"``.
        caller: What it is given: a ``"module"``, ``"function"``, ``"partial"`` or ``"method"``.
    """

    kind: str = "Deconvnet"
    method: str = "deconvnet"
    form: int = 0
    index: tuple[int, int, int, int] = (0, 0, 0, 0)
    layer: int = 0
    of_layer_input: bool = False
    each: int = 0
    activations: str = "relu"
    memory: str = "light"
    uncovered: str = "warn"
    mode: str = "grad"
    caller: str = "module"


def _names(*tables: object) -> SearchStrategy[str]:
    return st.sampled_from([name for table in tables for name in table])  # type: ignore[attr-defined]


_SOURCES = st.sampled_from([0, 0, 0, 0, 0, 0, 1, 2])
_KNOBS = st.integers(0, 3)

_OPERATIONS = st.builds(
    Operate,
    st.sampled_from(
        [CONVOLUTIONS, POOLS, NORMS, NORMS, GATES, GATES, SHAPES, SHAPES, RARE]
    ).flatmap(_names),
    _SOURCES,
    _KNOBS,
)
_CONVOLUTIONS = st.builds(Operate, _names(CONVOLUTIONS), _SOURCES, _KNOBS)
_MIXES = st.builds(Mix, _names(MIXES), _SOURCES, st.integers(1, 4))
_ANYWHERE = sorted(set(PLACES) - ON_VIEWS)
_FAMILIES = st.sampled_from([RECTIFIERS] * 5 + [LEAKY_ONES, SMOOTH_ONES])
_RECTIFIERS = st.builds(
    Rectify,
    _FAMILIES.flatmap(_names),
    st.one_of(st.just("straight"), st.sampled_from(_ANYWHERE)),
    _SOURCES,
)
_ON_VIEWS = st.builds(
    Rectify, st.sampled_from(sorted(IN_PLACE)), st.sampled_from(sorted(ON_VIEWS)), _SOURCES
)
_REUSES = st.builds(Reuse, st.integers(0, 7), _SOURCES)

_STEPS = st.sampled_from(
    [_RECTIFIERS] * 8
    + [_OPERATIONS] * 8
    + [_CONVOLUTIONS] * 3
    + [_MIXES] * 3
    + [_REUSES, _ON_VIEWS]
).flatmap(lambda steps: steps)


def plans(heads: list[str], layouts: list[str]) -> SearchStrategy[Plan]:
    """Draw networks."""
    rarely = st.sampled_from([False, False, False, False, True])
    return st.builds(
        Plan,
        steps=st.lists(_STEPS, min_size=2, max_size=10).map(tuple),
        head=st.sampled_from(["classes, hidden"] * len(heads) + heads),
        dimensions=st.sampled_from([2, 2, 1, 3]),
        # A large one now and then: of a small map no neuron is asked on a crop.
        size=st.sampled_from([6, 7, 5, 4] * 12 + [96]),
        batch=st.sampled_from([3, 3, 3, 3, 3, 1, 1, 1, 1, 0]),
        channels=st.sampled_from([(3,), (3,), (4,), (2, 3), (3, 3, 2)]),
        dtype=st.sampled_from(["float64", "float64", "float32", "float32", "float16", "bfloat16"]),
        chain=rarely,
        training=st.sampled_from([False, False, True]),
        frozen=rarely,
        factor=rarely,
        layout=st.sampled_from(layouts),
        seed=st.integers(0, 99),
    )


KINDS = (
    *("Deconvnet", "GuidedBackprop", "InputGradient"),
    *("NeuronDeconvnet", "NeuronGuidedBackprop", "NeuronGradient"),
    *("LayerDeconvnet", "LayerGuidedBackprop", "LayerGradient"),
    *("GuidedGradCam", "compare", "compare_each", "gradient_func"),
)
_WEIGHTED = [kind for kind in KINDS for _ in range(1 if "Gradient" in kind else 3)]

QUESTIONS = st.builds(
    Question,
    kind=st.sampled_from(_WEIGHTED),
    method=st.sampled_from(["deconvnet", "guided_backprop", "input_gradient"]),
    form=st.integers(0, 7),
    index=st.tuples(*[st.integers(0, 7)] * 4),
    layer=st.sampled_from([0, 0, 0, 1, 1, 2, 3, 4, 5, 6, 8, 10, 13]),
    of_layer_input=st.booleans(),
    each=st.sampled_from([0, 0, 0, 1, 2]),
    activations=st.sampled_from(["relu", "relu", "relu", "leaky", "all"]),
    memory=st.sampled_from(["light", "lean", "autograd"]),
    uncovered=st.sampled_from(["warn", "warn", "ignore", "raise"]),
    mode=st.sampled_from(["grad", "grad", "grad", "no_grad", "inference", "autocast"]),
    caller=st.sampled_from(["module", "module", "function", "partial", "method"]),
)

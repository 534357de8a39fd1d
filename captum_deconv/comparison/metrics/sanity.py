"""Does the map need what the network learned? Adebayo et al. 2018, arXiv:1810.03292, section 3.

The network is made random stage by stage, in a copy, and each time the map is held against the
network's own. A method that shows what was learned must lose the likeness; an edge detector, which
never looks at the network, keeps all of it.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from captum_deconv.comparison.cases import Case, average
from captum_deconv.comparison.metrics.similarity import compare_maps


def cascading(case: Case) -> dict[str, float]:
    """Measure the likeness while stages are made random from the output down, one after another.

    Args:
        case: An image and a method.

    Returns:
        Each measure of :func:`compare_maps` after each stage, such as ``"ssim 1"`` after the one
        next to the output, and by its name alone the average over the stages.
    """
    return _randomise(case, case.randomised.cascade)


def independent(case: Case) -> dict[str, float]:
    """Measure the likeness while one stage alone is random; as :func:`cascading`."""
    return _randomise(case, case.randomised.alone)


def _randomise(case: Case, model_at: Callable[[int], nn.Module]) -> dict[str, float]:
    own = case.attribution
    found = [
        compare_maps(own, case.explain(model_at(stage)))
        for stage in range(len(case.randomised.stages))
    ]
    values = {name: average([each[name] for each in found]) for name in found[0]}
    for stage, each in enumerate(found, 1):
        values |= {f"{name} {stage}": value for name, value in each.items()}
    return values

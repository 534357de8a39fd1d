"""Does the map need the class, and how much of it comes from where the backward pass starts?"""

from __future__ import annotations

import torch

from captum_deconv.comparison.cases import Case, Mixed
from captum_deconv.comparison.methods import CannotError
from captum_deconv.comparison.metrics.similarity import compare_maps
from captum_deconv.comparison.seeds import seeded


def other_class(case: Case) -> dict[str, float]:
    """Compare the map with that of the likeliest other class, and with that of one at random.

    Sixt et al. 2020, "When explanations lie", arXiv:1912.09818, section 4 (random logit, SSIM); Nie
    et al. 2018, arXiv:1805.07039, of the likeliest two.

    Args:
        case: An image and a method.

    Returns:
        Each measure of :func:`compare_maps`, such as ``"ssim second"`` and ``"ssim random"``.

    Raises:
        CannotError: If the network has one class only.
    """
    if len(case.scores) < 2:
        raise CannotError("the network has one output: there is no other class")
    order = [int(k) for k in case.scores.argsort(descending=True) if int(k) != case.target]
    with seeded(*case.key, "other class"):
        chosen = order[int(torch.randint(len(order), ()))]
    values: dict[str, float] = {}
    for which, target in (("second", order[0]), ("random", chosen)):
        found = compare_maps(case.attribution, case.explain(target=target))
        values |= {f"{name} {which}": value for name, value in found.items()}
    return values


def noise_start(case: Case) -> dict[str, float]:
    """Start from positive noise on all outputs, instead of from one class, and compare the maps.

    Mahendran & Vedaldi 2016, "Salient deconvolutional networks", ECCV, section 3.2: what stays is
    the picture's, and says nothing of what was to be explained.

    Args:
        case: An image and a method.

    Returns:
        Each measure of :func:`compare_maps`.
    """
    with seeded(*case.key, "noise start"):
        noise = torch.randn(case.scores.shape).abs().to(case.scores)
    return compare_maps(case.attribution, case.explain(Mixed(case.model, noise), target=0))

"""What many images say together: means with intervals, and which methods differ.

Intervals are from the bootstrap over images (Efron 1987, bias-corrected and accelerated, by
:func:`scipy.stats.bootstrap`); differences are tested in pairs of the same images by Wilcoxon's
signed-rank test, with Holm's correction over all pairs of one metric (Holm 1979).
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.stats import bootstrap, wilcoxon

_DRAWS = 2000
_FEWEST = 6
"""Of fewer pairs no two-sided test can say anything at 5 %."""


def summarise(values: Sequence[float], seed: int = 0) -> dict[str, Any]:
    """Summarise one value over images.

    Args:
        values: One for each image.
        seed: Of the bootstrap's draws.

    Returns:
        ``mean``; ``low`` and ``high``, the 95 % interval, which are None for a single image; and
        ``images``, their number.
    """
    array = np.asarray(values, dtype=float)
    low: float | None = None
    high: float | None = None
    if len(array) > 1:
        if np.ptp(array) == 0:
            low = high = float(array[0])
        else:
            low, high = _bootstrap(array, seed)
    return {"mean": float(array.mean()), "low": low, "high": high, "images": len(array)}


def _bootstrap(array: Any, seed: int) -> tuple[float, float]:
    for method in ("BCa", "percentile"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a degenerate BCa interval, which is tried again
            interval = bootstrap(
                (array,),
                np.mean,
                n_resamples=_DRAWS,
                method=method,
                rng=np.random.default_rng(seed),
            ).confidence_interval
        if np.isfinite(interval.low) and np.isfinite(interval.high):
            break
    return float(interval.low), float(interval.high)


def compare_pairs(by_method: Mapping[str, Mapping[str, float]]) -> list[dict[str, Any]]:
    """Test each pair of methods on the images that both have a value of.

    Args:
        by_method: Of each method its value by image.

    Returns:
        Of each pair with at least six images in common: ``one``, ``other``, the number of
        ``images``, the ``median`` of one minus other, ``p``, and ``holm``, the corrected one.
    """
    found: list[dict[str, Any]] = []
    for one, other in itertools.combinations(by_method, 2):
        shared = [image for image in by_method[one] if image in by_method[other]]
        if len(shared) < _FEWEST:
            continue
        differences = np.array([by_method[one][i] - by_method[other][i] for i in shared])
        p = float(wilcoxon(differences).pvalue) if differences.any() else 1.0
        found.append(
            {
                "one": one,
                "other": other,
                "images": len(shared),
                "median": float(np.median(differences)),
                "p": p,
            }
        )
    for pair, corrected in zip(found, correct([pair["p"] for pair in found]), strict=True):
        pair["holm"] = corrected
    return found


def correct(probabilities: Sequence[float]) -> list[float]:
    """Correct for many tests by Holm's step-down procedure.

    Args:
        probabilities: Of each test.

    Returns:
        The corrected ones, in the same order.

    >>> correct([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    corrected = [0.0] * len(probabilities)
    largest = 0.0
    order = sorted(range(len(probabilities)), key=lambda index: probabilities[index])
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * probabilities[index]))
        corrected[index] = largest
    return corrected

"""How alike two maps are, by the measures of Adebayo et al. 2018, section 3.1.

Each is 1 for a map and itself. Where one of the two is the same everywhere, none is defined, and
the value is NaN.
"""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import rankdata
from torch import Tensor

Map = npt.NDArray[np.float64]


def compare_maps(one: Tensor, other: Tensor) -> dict[str, float]:
    """Compare two attributions by four measures.

    Args:
        one: ``(1, C, H, W)``.
        other: Of the same shape.

    Returns:
        ``"spearman"``, the rank correlation of the channels' sums; ``"spearman_abs"``, that of
        their summed magnitudes; ``"ssim"`` and ``"hog"``, the structural similarity of the
        magnitudes, each scaled to [0, 1], and the correlation of their histograms of oriented
        gradients.
    """
    signed = [_as_map(each.sum(1)) for each in (one, other)]
    sizes = [_as_map(each.abs().sum(1)) for each in (one, other)]
    return {
        "spearman": correlate_ranks(*signed),
        "spearman_abs": correlate_ranks(*sizes),
        "ssim": measure_ssim(*sizes),
        "hog": compare_gradients(*sizes),
    }


def _as_map(values: Tensor) -> Map:
    found: Map = values[0].double().cpu().numpy()
    return found


def correlate(one: npt.NDArray[Any], other: npt.NDArray[Any]) -> float:
    """Return Pearson's correlation, NaN where one of the two is the same everywhere."""
    if not (np.ptp(one) > 0 and np.ptp(other) > 0):
        return float("nan")
    return float(np.corrcoef(one.ravel(), other.ravel())[0, 1])


def correlate_ranks(one: Map, other: Map) -> float:
    """Return Spearman's rank correlation of two maps ``(H, W)``."""
    return correlate(rankdata(one), rankdata(other))


def measure_ssim(one: Map, other: Map) -> float:
    """Return the structural similarity (Wang et al. 2004) of two maps scaled to [0, 1].

    Args:
        one: ``(H, W)``, not below zero.
        other: Of the same shape.

    Returns:
        In [-1, 1].
    """
    metrics: Any = importlib.import_module("skimage.metrics")

    if not (np.ptp(one) > 0 and np.ptp(other) > 0):
        return float("nan")
    side = min(7, min(one.shape) - (min(one.shape) + 1) % 2)
    return float(
        metrics.structural_similarity(
            one / one.max(), other / other.max(), data_range=1, win_size=side
        )
    )


def compare_gradients(one: Map, other: Map) -> float:
    """Return the correlation of two maps' histograms of oriented gradients (Dalal & Triggs 2005).

    Args:
        one: ``(H, W)``.
        other: Of the same shape.

    Returns:
        In [-1, 1].
    """
    from skimage.feature import hog

    if not (np.ptp(one) > 0 and np.ptp(other) > 0):
        return float("nan")
    cell = max(1, min(16, min(one.shape) // 3))
    how = {"pixels_per_cell": (cell, cell), "cells_per_block": (1, 1)}
    return correlate(hog(one / one.max(), **how), hog(other / other.max(), **how))

"""How many pixels does the map name? A matter of taste: it says nothing of whether it is true."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np

from captum_deconv.comparison.cases import Case


def sparseness(case: Case) -> dict[str, float]:
    """Measure how unequal the pixels are: the Gini index of the magnitudes, as Quantus has it.

    Chalasani et al. 2020, arXiv:1810.06583, section 2.

    Args:
        case: An image and a method.

    Returns:
        ``"gini"``, in [0, 1]: 0 where all pixels are equal, near 1 where one has everything.
    """
    quantus: Any = importlib.import_module("quantus")
    return {"gini": _judge(quantus.Sparseness(disable_warnings=True, normalise=False), case)}


def entropy(case: Case) -> dict[str, float]:
    """Measure the entropy of the pixels' shares of the magnitude, as Quantus has it.

    Bhatt et al. 2020, arXiv:2005.00631, definition 4 (complexity).

    Args:
        case: An image and a method.

    Returns:
        ``"entropy"``, in nats, from 0 to the logarithm of the number of pixels.
    """
    quantus: Any = importlib.import_module("quantus")
    return {"entropy": _judge(quantus.Complexity(disable_warnings=True, normalise=False), case)}


def _judge(metric: Any, case: Case) -> float:
    (value,) = metric(
        case.model,
        case.image.mean(1, keepdim=True).cpu().numpy(),
        np.array([case.target]),
        a_batch=case.weights.abs()[None, None].cpu().numpy().astype(np.float64),
        device=case.image.device,
    )
    return float(value)

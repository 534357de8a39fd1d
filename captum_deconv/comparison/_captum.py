"""The only module of this room that imports Captum: the methods beside ours, and two metrics.

Captum publishes no types, and speaks of its own doings in warnings; both end here.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator

from captum.attr import (
    DeepLift,
    GradientShap,
    InputXGradient,
    IntegratedGradients,
    LayerGradCam,
    NoiseTunnel,
    Occlusion,
    Saliency,
)
from captum.metrics import infidelity, sensitivity_max

__all__ = [
    "DeepLift",
    "GradientShap",
    "InputXGradient",
    "IntegratedGradients",
    "LayerGradCam",
    "NoiseTunnel",
    "Occlusion",
    "Saliency",
    "infidelity",
    "quiet",
    "sensitivity_max",
]


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep back what Captum says of the hooks it sets and of gradients it turns on.

    Yields:
        Nothing.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Setting forward, backward hooks and attributes")
        warnings.filterwarnings("ignore", "Input Tensor \\d+ did not already require gradients")
        yield

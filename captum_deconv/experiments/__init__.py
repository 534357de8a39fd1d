"""What Zeiler & Fergus (2013, arXiv:1311.2901) did with a deconvnet, on a network of yours.

The pictures of feature maps are :mod:`captum_deconv.gallery`'s. Here is what the paper did beside
them: cover parts of an image, move it, ask whether parts correspond, and tell by the pictures what
is wrong with a network.

In reading order: ``watching`` (some layers of a plain forward pass), ``occlusion``, ``invariance``,
``correspondence``, ``channels`` and ``filters`` (what is measured of them), ``diagnosis`` (what is
wrong), ``renormalisation``, and ``printing`` with the ``..._figure`` of each.
"""

from captum_deconv.experiments.correspondence import Correspondence, correspond
from captum_deconv.experiments.diagnosis import Diagnosis, Finding, diagnose
from captum_deconv.experiments.invariance import Invariance, measure_invariance
from captum_deconv.experiments.occlusion import Occlusion, add_projections, occlude
from captum_deconv.experiments.renormalisation import renormalise
from captum_deconv.sources.boxes import BoxError

__all__ = [
    "BoxError",
    "Correspondence",
    "Diagnosis",
    "Finding",
    "Invariance",
    "Occlusion",
    "add_projections",
    "correspond",
    "diagnose",
    "measure_invariance",
    "occlude",
    "renormalise",
]

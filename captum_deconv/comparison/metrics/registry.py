"""The metrics by their names: what each measures, which way is better, where it is from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from captum_deconv.comparison.cases import Measure
from captum_deconv.comparison.metrics import (
    classes,
    complexity,
    convergence,
    faithfulness,
    localisation,
    sanity,
)

Better = Literal["higher", "lower", "neither"]


@dataclass(frozen=True)
class Metric:
    """A metric by its name.

    Attributes:
        name: As it is asked for.
        title: As it stands in a table.
        value: Which of its values stands for it.
        better: Which way that value is better.
        source: The paper.
        measure: Computes it.
        needs: The packages of the extra ``bench`` that it needs.
        boxes: Whether it is of images with a box only.
    """

    name: str
    title: str
    value: str
    better: Better
    source: str
    measure: Measure
    needs: tuple[str, ...] = ()
    boxes: bool = False


_SKIMAGE, _QUANTUS = ("skimage",), ("quantus",)

METRICS = {
    metric.name: metric
    for metric in (
        Metric(
            *("sanity_cascading", "Sanity: cascading", "spearman_abs", "lower"),
            "Adebayo et al. 2018, arXiv:1810.03292",
            sanity.cascading,
            _SKIMAGE,
        ),
        Metric(
            *("sanity_independent", "Sanity: one stage", "spearman_abs", "lower"),
            "Adebayo et al. 2018, arXiv:1810.03292",
            sanity.independent,
            _SKIMAGE,
        ),
        Metric(
            *("other_class", "Another class", "ssim random", "lower"),
            "Sixt et al. 2020, arXiv:1912.09818",
            classes.other_class,
            _SKIMAGE,
        ),
        Metric(
            *("noise_start", "Start from noise", "spearman_abs", "lower"),
            "Mahendran & Vedaldi 2016, ECCV",
            classes.noise_start,
            _SKIMAGE,
        ),
        Metric(
            *("convergence", "Convergence", "input", "lower"),
            "Sixt et al. 2020, arXiv:1912.09818",
            convergence.convergence,
        ),
        Metric(
            *("deletion", "Deletion", "area", "lower"),
            "Petsiuk et al. 2018, arXiv:1806.07421",
            faithfulness.deletion,
        ),
        Metric(
            *("insertion", "Insertion", "area", "higher"),
            "Petsiuk et al. 2018, arXiv:1806.07421",
            faithfulness.insertion,
        ),
        Metric(
            *("road", "ROAD", "accuracy", "lower"),
            "Rong et al. 2022, arXiv:2202.00449",
            faithfulness.road,
            _QUANTUS,
        ),
        Metric(
            *("pixel_flipping", "Pixel flipping", "area", "lower"),
            "Bach et al. 2015, doi:10.1371/journal.pone.0130140",
            faithfulness.pixel_flipping,
            _QUANTUS,
        ),
        Metric(
            *("faithfulness_correlation", "Faithfulness corr.", "correlation", "higher"),
            "Bhatt et al. 2020, arXiv:2005.00631",
            faithfulness.faithfulness_correlation,
            _QUANTUS,
        ),
        Metric(
            *("infidelity", "Infidelity", "infidelity", "lower"),
            "Yeh et al. 2019, arXiv:1901.09392",
            faithfulness.infidelity,
        ),
        Metric(
            *("sensitivity", "Max sensitivity", "sensitivity", "lower"),
            "Yeh et al. 2019, arXiv:1901.09392",
            faithfulness.sensitivity,
        ),
        Metric(
            *("inside", "Inside the box", "share", "higher"),
            "Kohlbrenner et al. 2020, arXiv:1910.09840",
            localisation.inside,
            boxes=True,
        ),
        Metric(
            *("pointing", "Pointing game", "hit", "higher"),
            "Zhang et al. 2016, arXiv:1608.00507",
            localisation.pointing,
            _QUANTUS,
            boxes=True,
        ),
        Metric(
            *("sparseness", "Sparseness", "gini", "neither"),
            "Chalasani et al. 2020, arXiv:1810.06583",
            complexity.sparseness,
            _QUANTUS,
        ),
        Metric(
            *("entropy", "Entropy", "entropy", "neither"),
            "Bhatt et al. 2020, arXiv:2005.00631",
            complexity.entropy,
            _QUANTUS,
        ),
    )
}
"""The metrics, in the order of the table."""

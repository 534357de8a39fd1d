"""Methods of attribution, compared by what the literature asks of them.

On any classifier and any images, ours, Captum's and two controls (a random map, an edge detector)
by sanity, class sensitivity, faithfulness, localisation and complexity:

    from captum_deconv import comparison

    found = comparison.run(model, images, out="report", metrics=["sanity_cascading", "deletion"])
    found.find("deletion", "guided_backprop")["mean"]

No number here says that a method is right. The controls say what one is worth: a metric in which
the edge detector does as well as a method has not seen the network.

In reading order: ``seeds``, ``methods`` (``_captum``: what is Captum's), ``randomising`` (a copy of
the network without what it learned), ``samples``, ``cases`` (one image as one method explains it),
``metrics``, ``cells`` (kept one by one, so that a killed run goes on), ``statistics``, ``results``,
``running``, ``report`` (table and figure), ``page`` (methods by images, to look at).
"""

from captum_deconv.comparison.cells import ComparisonError
from captum_deconv.comparison.methods import METHODS
from captum_deconv.comparison.metrics.registry import METRICS
from captum_deconv.comparison.results import Comparison
from captum_deconv.comparison.running import check_names, run

__all__ = ["METHODS", "METRICS", "Comparison", "ComparisonError", "check_names", "run"]

"""
See what the rules reach
========================

A rule belongs to a rectifier. What a network has beside them keeps its ordinary gradient, and
:func:`captum_deconv.coverage` says so by name.
"""

import torch
from torchvision.models import mobilenet_v3_small

from captum_deconv import GuidedBackprop, RectifierCoverageError, coverage

model = mobilenet_v3_small(weights=None).eval()
images = torch.rand(1, 3, 64, 64)
report = coverage(model, images)
report

# %%
# ``report.complete`` is a line for a test of your own. In a call the same is a warning, or an error
# where you ask for one:

print(report.complete)
try:
    GuidedBackprop(model, uncovered="raise").attribute(images, target=0)
except RectifierCoverageError as error:
    print(error)

"""
There and back: ct(c(x)) is not x
=================================

The transposed convolution is the adjoint, not the inverse: it multiplies by the singular values a
second time. Least squares divides by them, and finds the image where none of them is zero.
"""

import matplotlib.pyplot as plt
import torch
from torch import nn

from captum_deconv import adjoint
from captum_deconv.sources.datasets import read_photograph
from captum_deconv.sources.embedded import MEAN, STD, prepare_tile

image = prepare_tile()(read_photograph("coffee").crop((200, 120, 264, 184)))
torch.manual_seed(0)
conv = nn.Conv2d(3, 16, 3, padding=1)
found = adjoint.reconstruct(conv, image)
scale = (found.x * found.transposed).sum() / found.transposed.square().sum()

figure, panels = plt.subplots(1, 3, figsize=(6, 2.4), layout="constrained")
for panel, title, shown in (
    (panels[0], "x", found.x),
    (panels[1], "transpose, at the best scale", found.transposed * scale),
    (panels[2], "least squares", found.least_squares),
):
    residual = float((shown - found.x).norm() / found.x.norm())
    panel.imshow((shown * STD[0] + MEAN[0]).clamp(0, 1).permute(1, 2, 0).numpy())
    panel.set_title(f"{title}\nresidual {residual:.2f}", fontsize=8)
    panel.set_axis_off()
figure.set_label(
    "A photograph, what the transpose brings back, and what least squares brings back."
)

# %%
# All of it, judged: the transpose is the gradient, whatever it inverts.

print(adjoint.check(conv, (12, 12), spectrum=True))

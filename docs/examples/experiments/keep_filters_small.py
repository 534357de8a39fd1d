"""
Keep filters from growing
=========================

Section 3.1: a few filters came to dominate, so after each step those whose root mean square was
above a radius were set back to it. ``renormalise`` does that to any optimiser.
"""

import matplotlib.pyplot as plt
import torch
from torch import nn

from captum_deconv.experiments import renormalise


def train(radius=None):
    """Train eight filters at a rate that is too high; return the largest RMS after each step."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 7), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    optimizer = torch.optim.SGD(model.parameters(), lr=2.0, momentum=0.9)
    if radius is not None:
        renormalise(model, optimizer, radius)
    images, labels = torch.randn(64, 3, 16, 16), torch.randint(8, (64,))
    largest = []
    for _ in range(30):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()
        largest.append(float(model[0].weight.detach().square().mean(dim=(1, 2, 3)).sqrt().max()))
    return largest


figure, panel = plt.subplots(figsize=(5, 2.6), layout="constrained")
for radius in (None, 0.1):
    largest = train(radius)
    panel.plot(largest, label="without" if radius is None else f"radius {radius}")
    print(f"radius {radius}: the largest RMS is {largest[-1]:.3f} in the end")
panel.set(xlabel="step", ylabel="largest RMS of a filter")
panel.legend(frameon=False)
figure.set_label(
    "The largest filter's RMS by step: growing without a radius, flat at 0.1 with one."
)

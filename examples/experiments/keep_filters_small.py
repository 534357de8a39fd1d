"""
Keep filters from growing
=========================

Section 3.1: a few filters came to dominate, so after each step those whose root mean square was
above a radius were set back to it. ``renormalise`` does that to any optimiser.
"""

import torch
from torch import nn

from captum_deconv.experiments import renormalise


def train(radius=None):
    """Train eight filters for thirty steps at a rate that is too high; return the largest RMS."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 7), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    optimizer = torch.optim.SGD(model.parameters(), lr=2.0, momentum=0.9)
    if radius is not None:
        renormalise(model, optimizer, radius)
    images, labels = torch.randn(64, 3, 16, 16), torch.randint(8, (64,))
    for _ in range(30):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()
    return float(model[0].weight.detach().square().mean(dim=(1, 2, 3)).sqrt().max())


print(f"without: {train():.3f}")
print(f"radius 0.1: {train(0.1):.3f}")

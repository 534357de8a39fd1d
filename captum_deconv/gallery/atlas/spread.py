r"""How a layer's channels respond to a whole data set, from each image's strongest activations.

Let `m[i, c]` be the largest activation of channel `c` in image `i`. From these come:

* a histogram of `m[:, c]`;
* the selectivity of a channel, the sparseness of Vinje & Gallant (2000): with `n` images

      (1 - mean(m)^2 / mean(m^2)) / (1 - 1 / n),

  0 where it responds to all images alike, 1 where to a single one;
* the labels that excite it: of the five percent of the images (and at least nine) that excite it
  most, the share with a label over the share of the label in the data, its lift over chance;
* how alike two channels are: the cosine of `m[:, c]` and `m[:, d]`.

>>> spread = measure_spread(torch.eye(4)[:, :2], None)
>>> spread.selectivity.tolist(), spread.counts[0, 0].item(), spread.cosine(0).tolist()
([1.0, 1.0], 3, [1.0, 0.0])
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.cluster.hierarchy import leaves_list, linkage
from scipy.spatial.distance import squareform
from torch import Tensor

BINS, MOST_LABELS, ALIKE = 24, 5, 6
SHARE, LEAST = 0.05, 9
"""Of the images, those that labels are counted in: so many of them, and at least so many."""
_MOST_ORDERED = 4096
"""Channels that are put in the order of their likeness; the work grows with their square."""


@dataclass(frozen=True, eq=False)
class Spread:
    """How ``C`` channels respond to ``n`` images.

    Attributes:
        counts: The histograms, ``(C, BINS)``, from ``low`` to ``high``.
        low: ``(C,)``; 0 where nothing is below.
        high: ``(C,)``.
        selectivity: ``(C,)``, 0 to 1.
        labels: For each channel, the labels with the largest lift: ``(label, images with it among
            the strongest, lift)``.
        strongest: How many images those are counted in.
        images: ``n``.
    """

    counts: Tensor
    low: Tensor
    high: Tensor
    selectivity: Tensor
    labels: list[list[tuple[int, int, float]]]
    strongest: int
    images: int
    _directions: Tensor

    def cosine(self, channel: int) -> Tensor:
        """Return how alike each channel is to one, ``(C,)``."""
        return self._directions.T @ self._directions[:, channel]

    def find_alike(self, channel: int) -> list[tuple[int, float]]:
        """Return the channels most like one, and how much; none for one that never responds."""
        cosine = self.cosine(channel)
        cosine[channel] = 0
        found = cosine.topk(min(ALIKE, len(cosine)))
        # Of equals, which topk leaves open, the first ones come first.
        pairs = sorted(zip((-found.values).tolist(), found.indices.tolist(), strict=True))
        return [(other, -value) for value, other in pairs if value < 0]

    def order(self) -> list[int]:
        """Return the channels so that like ones are neighbours (average linkage of cosines)."""
        count = self._directions.shape[1]
        if not 2 < count <= _MOST_ORDERED:
            return list(range(count))
        distance = (1 - self._directions.T @ self._directions).clamp(min=0).double().numpy()
        distance = np.maximum(distance, distance.T)
        np.fill_diagonal(distance, 0)
        found: list[int] = leaves_list(linkage(squareform(distance), "average")).tolist()
        return found


def measure_spread(maxima: Tensor, labels: Tensor | None) -> Spread:
    """Measure how channels respond to a data set.

    Args:
        maxima: ``(N, C)``; rows of NaN, of images that could not be read, are left out.
        labels: ``(N,)``, -1 where there is none.

    Returns:
        What was measured.
    """
    read = ~maxima.isnan().any(1)
    values = maxima[read].float().nan_to_num(neginf=0.0)
    images, channels = values.shape
    low, high = values.amin(0).clamp(max=0), values.amax(0)
    width = torch.where(high > low, (high - low) / BINS, 1)
    place = ((values - low) / width).long().clamp(0, BINS - 1) + torch.arange(channels) * BINS
    counts = torch.bincount(place.flatten(), minlength=channels * BINS).view(channels, BINS)
    positive = values.clamp(min=0).double()
    squares = positive.square().mean(0)
    sparseness = 1 - positive.mean(0).square() / squares.clamp(min=1e-300)
    selectivity = torch.where(squares > 0, sparseness / max(1 - 1 / images, 1e-9), 0).clamp(0, 1)
    strongest = min(images, max(LEAST, round(SHARE * images)))
    found = [] if labels is None else _count_labels(values, labels[read], strongest)
    directions = positive / positive.norm(dim=0).clamp(min=1e-300)
    return Spread(
        counts,
        low,
        high,
        selectivity.float(),
        found or [[] for _ in range(channels)],
        strongest,
        images,
        directions.float(),
    )


def _count_labels(
    values: Tensor, labels: Tensor, strongest: int
) -> list[list[tuple[int, int, float]]]:
    known = labels[labels >= 0]
    if not len(known):
        return []
    total = torch.bincount(known)
    order = values.sort(dim=0, descending=True, stable=True)
    among = torch.where(order.values[:strongest] > 0, labels[order.indices[:strongest]], -1)
    found = []
    for column in among.unbind(1):
        counted = torch.bincount(column[column >= 0], minlength=len(total))
        lift = counted * len(labels) / (total.clamp(min=1) * strongest)
        best = lift.sort(descending=True, stable=True).indices[:MOST_LABELS].tolist()
        found.append([(n, int(counted[n]), float(lift[n])) for n in best if lift[n] > 1])
    return found

r"""The running top-k of a layer: for each channel its strongest places, over any number of batches.

Candidates are triples `(value, sample, position)` under one total order: the larger value first,
among equals the smaller sample, then the smaller position. The `k` first of a union are the `k`
first of the parts' `k` first,

    top(A | B) = top(top(A) | top(B))

so a standing ranking of `k` places is all that a scan needs to remember, and the order in which
batches or shards come in makes no difference to a single bit.

Example:
    >>> import torch
    >>> standing = Ranking.empty(channels=1, k=2, dimensions=1, dtype=torch.float32)
    >>> maps = torch.tensor([[[0.0, 3.0]], [[5.0, 1.0]]])
    >>> standing = standing.add(maps, take_maxima(maps), samples=torch.tensor([0, 1]))
    >>> standing.values.tolist(), standing.samples.tolist(), standing.positions.tolist()
    ([[5.0, 3.0]], [[1, 0]], [[[0], [1]]])
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

MISSING = -1
"""The sample, and each coordinate of the position, of a place that nothing has taken yet."""


@dataclass(frozen=True)
class Ranking:
    """The strongest places of each channel, the first one strongest.

    Attributes:
        values: ``(C, k)``; negative infinity where there are fewer than ``k`` places.
        samples: ``(C, k)``, indices into the data set; -1 where missing.
        positions: ``(C, k, dimensions)``, indices into the layer's map; -1 where missing.
    """

    values: Tensor
    samples: Tensor
    positions: Tensor

    @classmethod
    def empty(
        cls,
        channels: int,
        k: int,
        dimensions: int,
        dtype: torch.dtype,
        device: torch.device | None = None,
    ) -> Ranking:
        """Make a ranking in which every place is missing.

        Args:
            channels: How many channels the layer has.
            k: How many places each gets.
            dimensions: How many spatial dimensions its map has, from 0.
            dtype: Of the values.
            device: Where the ranking lives.

        Returns:
            The ranking.
        """
        return cls(
            torch.full((channels, k), -math.inf, dtype=dtype, device=device),
            torch.full((channels, k), MISSING, device=device),
            torch.full((channels, k, dimensions), MISSING, device=device),
        )

    def add(
        self, activations: Tensor, maxima: Tensor, samples: Tensor, per_image: int = 1
    ) -> Ranking:
        """Rank a batch's activations among the standing places.

        Args:
            activations: ``(N, C, *spatial)``, without NaN.
            maxima: From :func:`take_maxima`, ``(N, C)``.
            samples: ``(N,)``, the images' indices, ascending and greater than all the standing
                ones; -1 for an image that is only padding.
            per_image: How many places of one image may stand in one channel.

        Returns:
            The new ranking; this one stays as it is.
        """
        k = self.values.shape[1]
        spatial = activations.shape[2:]
        flat = activations.flatten(2) if spatial else activations.unsqueeze(2)
        maxima = maxima.to(self.values.dtype)
        maxima = maxima.masked_fill((samples == MISSING).unsqueeze(1), -math.inf)
        # An image behind k others' maxima has no place among the k first, so only k are looked at.
        chosen = _select_first(torch.cat([self.values, maxima.T], 1), k).sort(1).values - k
        channels, columns = (chosen >= 0).nonzero(as_tuple=True)
        images = chosen[channels, columns]
        per_image = min(per_image, flat.shape[2])
        values, places = _locate(flat, images, channels, per_image)
        shape = (len(self.values), k, per_image)
        new_values = self.values.new_full(shape, -math.inf)
        new_values[channels, columns] = values.to(new_values.dtype)
        new_samples = self.samples.new_full(shape, MISSING)
        new_samples[channels, columns] = samples[images].unsqueeze(1).expand(-1, per_image)
        new_positions = self.positions.new_full((*shape, len(spatial)), MISSING)
        new_positions[channels, columns] = unravel(places, spatial)
        return self._take_first(
            torch.cat([self.values, new_values.flatten(1)], 1),
            torch.cat([self.samples, new_samples.flatten(1)], 1),
            torch.cat([self.positions, new_positions.flatten(1, 2)], 1),
        )

    def merge(self, other: Ranking) -> Ranking:
        """Rank the places of two rankings of disjoint samples; whichever comes first.

        Args:
            other: Of the same layer, with the same ``k``.

        Returns:
            The ranking of both.
        """
        values = torch.cat([self.values, other.values], 1)
        samples = torch.cat([self.samples, other.samples], 1)
        positions = torch.cat([self.positions, other.positions], 1)
        order = torch.arange(values.shape[1], device=values.device).expand_as(values)
        for key in (*reversed(positions.unbind(2)), samples):
            by_key = key.gather(1, order).sort(dim=1, stable=True).indices
            order = order.gather(1, by_key)
        return self._take_first(
            values.gather(1, order),
            samples.gather(1, order),
            positions.gather(1, order.unsqueeze(2).expand_as(positions)),
        )

    def _take_first(self, values: Tensor, samples: Tensor, positions: Tensor) -> Ranking:
        """Keep the first k of candidates whose equals come in order of sample and position."""
        chosen = _select_first(values, self.values.shape[1])
        values, samples = values.gather(1, chosen), samples.gather(1, chosen)
        positions = positions.gather(1, chosen.unsqueeze(2).expand(-1, -1, positions.shape[2]))
        missing = values == -math.inf
        return Ranking(
            values,
            samples.masked_fill(missing, MISSING),
            positions.masked_fill(missing.unsqueeze(2), MISSING),
        )

    def to(self, device: torch.device | str) -> Ranking:
        """Return the same ranking on a device."""
        return Ranking(*(t.to(device) for t in (self.values, self.samples, self.positions)))


def take_maxima(activations: Tensor) -> Tensor:
    """Return the largest activation of each channel in each image.

    Where it stands is for few of them worth knowing, and not to ask is several times faster.

    Args:
        activations: ``(N, C, *spatial)``.

    Returns:
        ``(N, C)``; NaN where any activation is.
    """
    return activations.flatten(2).amax(2) if activations.dim() > 2 else activations


def _select_first(values: Tensor, k: int) -> Tensor:
    """Return the columns of each row's k largest, in order; of equals the leftmost come first.

    ``torch.topk`` leaves open which of several equals it takes, so it is asked twice: for the k-th
    largest value, and then for whole numbers that no two columns share.
    """
    columns = torch.arange(values.shape[1], device=values.device)
    last = values.topk(k, 1, sorted=True).values[:, -1:]
    tier = (values > last).long() + (values >= last).long()
    chosen = (tier * values.shape[1] - columns).topk(k, 1).indices.sort(1).values
    order = values.gather(1, chosen).sort(dim=1, descending=True, stable=True).indices
    return chosen.gather(1, order)


def _locate(flat: Tensor, images: Tensor, channels: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return the values and places ``(M, count)`` of the strongest activations of M maps."""
    values = flat.new_empty((len(images), count))
    places = torch.empty((len(images), count), dtype=torch.long, device=flat.device)
    # Maps are copied to be looked at: never more than an eighth of the layer's memory at a time.
    step = max(1, flat.shape[0] * flat.shape[1] // 8)
    for start in range(0, len(images), step):
        part = slice(start, start + step)
        maps = flat[images[part], channels[part]]
        for turn in range(count):
            place = maps.argmax(1, keepdim=True)  # among equals the first
            values[part, turn : turn + 1] = maps.gather(1, place)
            places[part, turn : turn + 1] = place
            maps.scatter_(1, place, -math.inf)
    return values, places


def unravel(places: Tensor, spatial: Sequence[int]) -> Tensor:
    """Turn flat places ``(*)`` into positions ``(*, dimensions)``.

    ``torch.unravel_index`` would wait for a GPU, once for each dimension.
    """
    positions = []
    for size in reversed(spatial):
        positions.append(places % size)
        places = places // size
    if not positions:
        return places.new_empty((*places.shape, 0))
    return torch.stack(positions[::-1], -1)

"""How channels respond to a data set, against the same computed one value at a time."""

import math

import numpy as np
import pytest
import torch

from captum_deconv.gallery.atlas.cost import say_seconds
from captum_deconv.gallery.atlas.spread import BINS, measure_spread


@pytest.fixture
def maxima():
    values = torch.rand(60, 5, generator=torch.Generator().manual_seed(0))
    values[:, 3] = 0  # dead
    values[7] = math.nan  # could not be read
    return values


def test_the_histogram_counts_every_image(maxima):
    spread = measure_spread(maxima, None)
    read = maxima[[n for n in range(60) if n != 7]].numpy()
    assert spread.images == 59
    for channel in (0, 1, 2, 4):
        counts, _ = np.histogram(read[:, channel], BINS, (0, read[:, channel].max()))
        assert spread.counts[channel].tolist() == counts.tolist()
        assert float(spread.high[channel]) == read[:, channel].max()
    assert spread.counts[3].tolist() == [59] + [0] * (BINS - 1)


def test_values_below_zero_have_bars_too():
    spread = measure_spread(torch.tensor([[-2.0], [-1.0], [2.0], [2.0]]), None)
    assert (float(spread.low), float(spread.high)) == (-2, 2)
    assert spread.counts[0].nonzero().flatten().tolist() == [0, BINS // 4, BINS - 1]


def test_selectivity_is_zero_for_all_alike_and_one_for_a_single_image():
    spread = measure_spread(torch.cat([torch.ones(4, 1), torch.eye(4)[:, :1]], 1), None)
    assert spread.selectivity.tolist() == [0, 1]


def test_lift_is_the_share_over_chance():
    """40 images, 10 with label 1; channel 0 is excited by those, channel 1 by all alike."""
    labels = torch.tensor([1] * 10 + [0] * 30)
    maxima = torch.stack([labels * 1.0, torch.arange(40) % 4 + 1.0], 1)
    spread = measure_spread(maxima, labels)
    assert spread.strongest == 9
    assert spread.labels[0] == [(1, 9, 4.0)]
    assert all(lift < 4 for _, _, lift in spread.labels[1])
    assert measure_spread(maxima, torch.full((40,), -1)).labels == [[], []]


def test_alike_is_the_cosine(maxima):
    spread = measure_spread(maxima, None)
    read = maxima[~maxima.isnan().any(1)].numpy()
    for channel in (0, 4):
        found = dict(spread.find_alike(channel))
        assert channel not in found
        assert 3 not in found, "a dead channel is like none"
        for other, cosine in found.items():
            a, b = read[:, channel], read[:, other]
            assert cosine == pytest.approx(a @ b / np.linalg.norm(a) / np.linalg.norm(b), abs=1e-5)
    assert spread.find_alike(3) == []


def test_like_channels_are_neighbours():
    one, other = torch.rand(2, 50, generator=torch.Generator().manual_seed(0))
    order = measure_spread(torch.stack([one, other, one * 2, other * 3], 1), None).order()
    assert sorted(order) == [0, 1, 2, 3]
    assert abs(order.index(0) - order.index(2)) == 1
    assert abs(order.index(1) - order.index(3)) == 1


@pytest.mark.parametrize("count", [1, 2, 4097])
def test_too_few_or_too_many_channels_stay_in_their_order(count):
    maxima = torch.rand(3, count, generator=torch.Generator().manual_seed(0))
    assert measure_spread(maxima, None).order() == list(range(count))


def test_times_are_said_as_a_person_does():
    said = {0.2: "1 s", 89: "89 s", 91: "2 min", 7100: "118 min", 9000: "2.5 h"}
    assert {seconds: say_seconds(seconds) for seconds in said} == said

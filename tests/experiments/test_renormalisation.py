import math

import pytest
import torch
from torch import nn

from captum_deconv.experiments import renormalise
from captum_deconv.experiments.renormalisation import limit_rms, measure_rms


def build():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 6, 5), nn.ReLU(), nn.Conv2d(6, 4, 3), nn.Flatten())


def test_filters_beyond_the_radius_are_set_back_and_others_stay():
    weight = torch.ones(3, 2, 2, 2) * torch.tensor([0.05, 0.1, 4.0]).view(3, 1, 1, 1)
    weight[2, 0] *= -3
    before = weight.clone()
    assert limit_rms(weight, 0.1 + 1e-9) == 1
    assert torch.equal(weight[:2], before[:2])
    # By hand: the direction stays, the root of the mean square is the radius.
    assert math.isclose(float((weight[2] ** 2).mean().sqrt()), 0.1, rel_tol=1e-6)
    torch.testing.assert_close(weight[2] / weight[2].norm(), before[2] / before[2].norm())
    assert limit_rms(weight, 0.1 + 1e-6) == 0


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.AdamW])
def test_no_filter_is_beyond_after_any_step(kind):
    def train(radius):
        model = build()
        optimizer = kind(model.parameters(), lr=0.3)
        handle = None if radius is None else renormalise(model, optimizer, radius)
        largest = []
        for _ in range(4):
            optimizer.zero_grad()
            model(torch.randn(2, 3, 9, 9)).square().sum().mul(-1).backward()
            optimizer.step()
            largest.append(max(float(measure_rms(model[i].weight).max()) for i in (0, 2)))
        return model, optimizer, handle, largest

    model, optimizer, handle, largest = train(0.1)
    assert max(largest) <= 0.1 * (1 + 1e-6)
    assert max(train(None)[3]) > 0.2  # the control: without it they grow
    assert not torch.equal(model[0].bias, build()[0].bias)
    handle.remove()
    model(torch.randn(2, 3, 9, 9)).square().sum().mul(-1).backward()
    optimizer.step()
    assert measure_rms(model[0].weight).max() > 0.1


def test_what_is_no_filter_stays():
    model = nn.Sequential(nn.Conv2d(3, 2, 3), nn.Flatten(), nn.Linear(2, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=100.0)
    renormalise(model, optimizer, 0.1)
    model(torch.ones(1, 3, 3, 3)).sum().backward()
    optimizer.step()
    assert measure_rms(model[2].weight).max() > 0.1
    assert measure_rms(model[0].weight).max() <= 0.1 * (1 + 1e-6)


def test_what_makes_no_sense_is_refused():
    model = build()
    optimizer = torch.optim.SGD(model[:1].parameters(), lr=1.0)
    with pytest.raises(ValueError, match="above 0, not 0"):
        renormalise(model, optimizer, 0)
    with pytest.raises(ValueError, match="changes no filter"):
        renormalise(nn.Linear(2, 2), optimizer)
    with pytest.raises(ValueError, match="changes no filter"):
        renormalise(nn.Sequential(nn.Conv2d(3, 2, 3)), optimizer)

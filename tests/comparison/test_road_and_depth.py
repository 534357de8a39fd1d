"""ROAD and the convergence over depth, against the papers' equations written out again."""

import itertools
import math

import numpy as np
import pytest
import torch
from comparing import Bright, make_case
from snapshot import Snapshot
from torch import nn

from captum_deconv import LayerGuidedBackprop
from captum_deconv.comparison.cases import Mixed
from captum_deconv.comparison.metrics import convergence, faithfulness, localisation
from captum_deconv.comparison.seeds import seeded

quantus = pytest.importorskip("quantus", reason="Quantus is not installed")


def solve_densely(image, gone):
    """The paper's system, written pixel by pixel: each one is its neighbours' weighted mean."""
    height, width = image.shape[1:]
    system, known = np.eye(height * width), image.reshape(len(image), -1).T.copy()
    for y, x in itertools.product(range(height), range(width)):
        if not gone[y, x]:
            continue
        known[y * width + x] = 0
        weights = {
            (y + dy, x + dx): 1 / 6 if 0 in (dy, dx) else 1 / 12
            for dy, dx in itertools.product((-1, 0, 1), repeat=2)
            if (dy, dx) != (0, 0) and 0 <= y + dy < height and 0 <= x + dx < width
        }
        for (row, column), weight in weights.items():
            system[y * width + x, row * width + column] = -weight / sum(weights.values())
    return np.linalg.solve(system, known).T.reshape(image.shape)


def test_roads_imputation_is_the_papers(squares, monkeypatch):
    image = squares[0][0].double()
    seen = []

    class Watch(nn.Module):
        def forward(self, x):
            seen.append(x)
            return x.mean((2, 3))

    monkeypatch.setattr(faithfulness, "_ROAD_NOISE", 0.0)
    weights = torch.rand(1, 3, 24, 24, generator=torch.Generator().manual_seed(3))
    case = make_case(Watch(), image, "input_gradient", weights)
    faithfulness.road(case)
    order = weights.sum(1).flatten().argsort(descending=True)
    for share, imputed in zip(faithfulness._ROAD_SHARES, seen[-1], strict=True):
        gone = torch.zeros(576, dtype=torch.bool)
        gone[order[: round(share * 576)]] = True
        expected = solve_densely(image.numpy(), gone.reshape(24, 24).numpy())
        # Two solvers of the same well-conditioned system in float64.
        np.testing.assert_allclose(imputed.numpy(), expected, atol=1e-9)
        kept = ~gone.reshape(24, 24)
        assert torch.equal(imputed[:, kept], image[:, kept])


def test_road_prefers_the_truth(squares):
    image, truth = squares[0][0].clone(), torch.zeros(1, 3, 24, 24)
    image[:, 3:9, 3:9] = 2
    truth[..., 3:9, 3:9] = 1
    true, false = (make_case(Bright().eval(), image, "occlusion", a) for a in (truth, -truth))
    assert faithfulness.road(true)["probability"] < faithfulness.road(false)["probability"] - 0.1
    assert faithfulness.road(true) == faithfulness.road(true)


def test_what_is_said_of_quantuss_own():
    """Why it is not used: the day that this fails, its ``ROAD`` is to be looked at again."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 2)).eval()
    rng = np.random.default_rng(0)
    how = {"percentages": [50], "normalise": False, "disable_warnings": True}
    images = rng.normal(size=(1, 3, 8, 8)).astype(np.float32)
    with pytest.raises(IndexError, match="out of bounds"):
        quantus.ROAD(**how)(
            model, images, np.array([0]), a_batch=rng.random((1, 1, 8, 8)), device="cpu"
        )
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 2)).eval()
    model[1].weight.data.zero_()
    model[1].bias.data = torch.tensor([1.0, 0.0])  # always the first class
    grey = rng.normal(size=(2, 1, 8, 8)).astype(np.float32)
    found = quantus.ROAD(**how)(
        model, grey, np.array([0, 1]), a_batch=rng.random(grey.shape), device="cpu", batch_size=1
    )
    assert found == {50: 1.0}  # of two images, one is right


def test_the_signals_at_a_layer_are_those_of_the_layer_methods(spot, squares):
    before = Snapshot(spot)
    case = make_case(spot, squares[0][0], "guided_backprop")
    values = convergence.convergence(case)
    before.assert_unchanged()
    assert list(values)[:2] == ["input", "start"]
    assert [v for v in values if v.startswith("at ")] == [
        *("at head", "at conv2", "at conv1", "at input"),
    ]
    found = {name: [] for name in ("conv1", "conv2")}
    for pair in range(4):
        with seeded(*case.key, "convergence", pair):
            sent = torch.randn(2, 4)
        for name, cosines in found.items():
            one, other = (
                LayerGuidedBackprop(Mixed(spot, signal), spot.get_submodule(name)).attribute(
                    case.image, 0
                )
                for signal in sent
            )
            places = [
                abs(float(a @ b / (a.norm() * b.norm())))
                for a, b in zip(one[0].flatten(1).T, other[0].flatten(1).T, strict=True)
                if a.any() and b.any()
            ]
            if places:
                cosines.append(sum(places) / len(places))
    for name, cosines in found.items():
        expected = sum(cosines) / len(cosines)
        assert values[f"at {name}"] == pytest.approx(expected, rel=1e-4), name  # float32
    assert values["at head"] == pytest.approx(values["start"], rel=1e-5)


def test_chance_is_what_random_vectors_have():
    torch.manual_seed(0)
    for channels in (2, 3, 20):
        one, other = torch.randn(2, 1, channels, 200, 200)
        expected = convergence.expect_chance(channels)
        assert convergence.align_places(one, other) == pytest.approx(expected, rel=0.02)
    assert convergence.expect_chance(3) == pytest.approx(0.5)
    assert math.isnan(convergence.align_places(one, torch.zeros_like(one)))
    assert convergence.align_places(one, -3 * one) == pytest.approx(1)


def test_one_narrow_layer_makes_everything_parallel(squares):
    """The control: after a layer of one channel nothing is left of what was sent."""
    torch.manual_seed(0)
    narrow = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 1, 3), nn.Flatten(), nn.Linear(400, 5)
    ).eval()
    case = make_case(narrow, squares[0][0], "input_gradient")
    values = convergence.convergence(case)
    assert values["at 2"] == pytest.approx(1)
    assert values["chance 2"] == pytest.approx(1)
    assert values["at 0"] < 0.95
    deep = nn.Sequential(nn.Conv2d(3, 30, 5), *(nn.Conv2d(30, 30, 1) for _ in range(12)))
    head = nn.Sequential(deep, nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    assert len(convergence.choose_layers(head, case.image)) == 8
    assert convergence.choose_layers(head, case.image)[::7] == ["0.12", "0.0"]


def test_a_mask_is_a_box_of_any_shape(spot, squares):
    box, mask = (3, 5, 11, 9), torch.zeros(24, 24, dtype=torch.bool)
    mask[5:9, 3:11] = True
    cases = [make_case(spot, squares[0][0], "input_gradient") for _ in range(2)]
    cases[0].box, cases[1].box = box, mask
    for metric in (localisation.inside, localisation.pointing):
        assert metric(cases[0]) == metric(cases[1])
    mask[0, 0] = True
    assert localisation.inside(cases[0]) != localisation.inside(cases[1])


def test_what_is_in_the_box_beside_what_chance_puts_there(spot, squares):
    case = make_case(spot, squares[0][0])
    case.box = (3, 5, 11, 9)
    weights = torch.ones(24, 24)
    weights[5:9, 3:11] = 3
    vars(case)["weights"] = weights  # what the method would have to give
    area = 8 * 4 / 24**2
    share = 3 * area / (3 * area + 1 - area)
    found = localisation.inside(case)
    assert found == pytest.approx({"share": share, "box": area, "over box": share / area})
    assert localisation.pointing(case) == {"hit": 1.0}
    vars(case)["weights"] = 4 - weights
    assert localisation.inside(case)["over box"] < 1
    assert localisation.pointing(case) == {"hit": 0.0}

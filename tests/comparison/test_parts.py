"""The parts: random copies, statistics, likeness; each against what it must not be."""

import numpy as np
import pytest
import torch
from comparing import Bright, make_case
from snapshot import Snapshot

from captum_deconv.comparison.cases import Mixed
from captum_deconv.comparison.methods import find_last_map
from captum_deconv.comparison.metrics import faithfulness
from captum_deconv.comparison.metrics.similarity import compare_maps
from captum_deconv.comparison.randomising import Randomised
from captum_deconv.comparison.seeds import seeded
from captum_deconv.comparison.statistics import compare_pairs, correct, summarise


def test_stages_are_random_one_after_another(spot):
    before = Snapshot(spot)
    randomised = Randomised(spot, 3, 0)
    assert randomised.stages == [("head",), ("conv2",), ("conv1",)]

    def changed(model):
        own = dict(spot.named_parameters())
        return {
            name.partition(".")[0]
            for name, parameter in model.named_parameters()
            if not torch.equal(parameter, own[name])
        }

    assert changed(randomised.cascade(0)) == {"head"}
    weight = randomised.cascade(0).get_parameter("head.weight").clone()
    assert changed(randomised.cascade(2)) == {"head", "conv2", "conv1"}
    assert changed(randomised.alone(1)) == {"conv2"}
    assert changed(randomised.cascade(1)) == {"head", "conv2"}
    assert torch.equal(randomised.cascade(0).get_parameter("head.weight"), weight)
    learned = spot.get_parameter("head.weight")
    assert weight.std().item() == pytest.approx(learned.std().item(), rel=0.1)
    before.assert_unchanged()


def test_a_map_is_like_itself_alone():
    generator = torch.Generator().manual_seed(0)
    one = torch.randn(1, 3, 24, 24, generator=generator)
    other = torch.randn(1, 3, 24, 24, generator=generator)
    assert all(v == pytest.approx(1) for v in compare_maps(one, one).values())
    far = compare_maps(one, other)
    assert max(abs(value) for value in far.values()) < 0.5
    opposed = compare_maps(one, -one)
    assert opposed["spearman"] == pytest.approx(-1)
    assert opposed["spearman_abs"] == pytest.approx(1)
    assert all(np.isnan(v) for v in compare_maps(one, torch.zeros_like(one)).values())


def test_noise_at_the_start_is_a_mixture_of_classes(spot, squares):
    image = squares[0][0][None]
    mixture = torch.tensor([0.0, 2.0, 0.0, 1.0])
    case = make_case(spot, image[0])
    expected = 2 * case.explain(target=1) + case.explain(target=3)
    torch.testing.assert_close(case.explain(Mixed(spot, mixture), target=0), expected)
    assert Mixed(spot, mixture).get_submodule("conv2") is spot.conv2


def test_the_truth_is_more_faithful_than_its_opposite(squares):
    """What is asked of the metrics, where the truth is known: the square's pixels."""
    image, truth = squares[0][0].clone(), torch.zeros(1, 3, 24, 24)
    image[:, 3:9, 3:9] = 2
    truth[..., 3:9, 3:9] = 1
    true, false = (make_case(Bright().eval(), image, "occlusion", a) for a in (truth, -truth))
    for metric, better in (
        (faithfulness.deletion, -1),
        (faithfulness.insertion, 1),
        (faithfulness.pixel_flipping, -1),
    ):
        gain = metric(true)["area"] - metric(false)["area"]
        assert gain * better > 0.2, metric.__name__
    correlation = "correlation"
    assert faithfulness.faithfulness_correlation(true)[correlation] > 0.3
    assert faithfulness.faithfulness_correlation(false)[correlation] < -0.3


def test_infidelity_knows_what_a_value_means(spot, squares):
    """Of a linear function both readings are exact: the gradient, and its product with x - mean."""
    torch.manual_seed(0)
    linear = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 24 * 24, 4)).eval()
    image = squares[0][0]
    gradient = make_case(linear, image, "input_gradient")
    share = (image - image.mean((1, 2), keepdim=True))[None] * gradient.attribution
    right = faithfulness.infidelity(make_case(linear, image, "occlusion", share))["infidelity"]
    wrong = faithfulness.infidelity(make_case(linear, image, "input_gradient", share))["infidelity"]
    assert faithfulness.infidelity(gradient)["infidelity"] < 0.05 * wrong
    assert right < 0.05 * wrong


def test_the_last_map_is_found(spot, squares):
    before = Snapshot(spot)
    assert find_last_map(spot, squares[0][0][None]) == "conv2"
    before.assert_unchanged()
    assert find_last_map(torch.nn.Flatten(), squares[0][0][None]) is None


def test_seeds_repeat_and_leave_the_callers(spot):
    states = torch.get_rng_state(), np.random.get_state()[1].copy()
    drawn = []
    for words in ((0, "a"), (0, "a"), (0, "b")):
        with seeded(*words):
            drawn.append((torch.rand(1).item(), np.random.rand()))
    assert drawn[0] == drawn[1] != drawn[2]
    assert torch.equal(torch.get_rng_state(), states[0])
    assert np.array_equal(np.random.get_state()[1], states[1])


def test_statistics():
    values = np.random.default_rng(0).normal(3, 1, 200)
    found = summarise(values)
    assert found["low"] < 3 < found["high"]
    assert found["high"] - found["low"] == pytest.approx(4 / 200**0.5, rel=0.2)
    assert summarise([2.0])["low"] is None
    assert summarise([2.0, 2.0]) == {"mean": 2.0, "low": 2.0, "high": 2.0, "images": 2}
    shifted = dict(enumerate(values[:40]))
    pairs = compare_pairs(
        {
            "one": shifted,
            "less": {i: v - 0.5 for i, v in shifted.items()},
            "same": dict(shifted),
            "few": {0: 1.0},
        }
    )
    by_pair = {(pair["one"], pair["other"]): pair for pair in pairs}
    assert set(by_pair) == {("one", "less"), ("one", "same"), ("less", "same")}
    assert by_pair["one", "less"]["holm"] < 1e-6
    assert by_pair["one", "less"]["median"] == pytest.approx(0.5)
    assert by_pair["one", "same"]["p"] == 1
    assert correct([0.01, 0.04, 0.03, 0.9]) == pytest.approx([0.04, 0.09, 0.09, 0.9])

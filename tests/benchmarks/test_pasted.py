"""The images of which the truth is known, and what is measured on them."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from comparison import pasted, truth

RESULT = Path(__file__).parents[2] / "benchmarks" / "results" / "comparison-cpu.json"


@pytest.fixture(scope="module")
def drawn():
    return pasted.draw(120, 3, learned=False)


def test_the_mask_is_what_was_pasted(drawn):
    changed = (drawn.images != drawn.without).any(1)
    assert not changed[~drawn.masks].any()
    assert changed[drawn.masks].float().mean() > 0.99
    share = drawn.masks.float().mean((1, 2))
    assert 0.02 < share.min() < share.max() < 0.25
    again = pasted.draw(120, 3, learned=False)
    assert torch.equal(again.images, drawn.images)
    assert again.samples == drawn.samples
    assert len(set(drawn.samples)) == 120
    assert not torch.equal(pasted.draw(120, 4, learned=False).images, drawn.images)
    few = drawn.select(torch.tensor([5, 7]))
    assert torch.equal(few.masks, drawn.masks[[5, 7]])
    assert few.labels["shape"].tolist() == drawn.labels["shape"][[5, 7]].tolist()


def test_nothing_is_tested_that_was_trained_on():
    width = 250
    photograph = torch.arange(width).repeat(200, 1)[..., None].repeat(1, 1, 3).byte().numpy()
    for learned, low, high in ((True, 0, 174), (False, 175, 249)):
        rng = np.random.default_rng(0)
        crops = [pasted._crop(photograph, rng, learned) * 255 for _ in range(50)]
        assert min(crop.min() for crop in crops) >= low
        assert max(crop.max() for crop in crops) <= high


def test_the_truth_is_told_apart_by_what_looks(drawn):
    """Shares as they must be of maps that are right by construction, and of controls."""
    shares = {
        "shape": {"occlusion": [0.9, 0.8, 0.7] * 4, "edges": [0.2, 0.3, 0.4] * 4},
        "background": {"occlusion": [0.1, 0.2, 0.3] * 4, "edges": [0.2, 0.3, 0.4] * 4},
    }

    class Kept:
        def __init__(self, what):
            self.what, self.cells = what, self

        def select(self, metric, value):
            return {method: dict(enumerate(values)) for method, values in shares[self.what].items()}

    found = truth._contrast({what: Kept(what) for what in shares})
    assert found["methods"]["occlusion"]["contrast"]["mean"] == pytest.approx(0.6)
    assert found["methods"]["occlusion"]["told apart"]["mean"] == 1
    assert found["methods"]["edges"]["contrast"]["mean"] == 0
    assert found["methods"]["edges"]["told apart"]["mean"] == 0.5
    assert found["tests"][0]["holm"] < 0.01


def test_a_trained_network_is_kept(drawn, tmp_path):
    file = tmp_path / "kept" / "shape.safetensors"
    state = torch.random.get_rng_state()
    model = pasted.learn("shape", drawn, 2, 0, file)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert not model.training
    kept = pasted.learn("shape", drawn, 10**9, 0, file)  # read, not trained
    for one, other in zip(model.parameters(), kept.parameters(), strict=True):
        assert torch.equal(one, other)
    assert pasted.name_all(model, drawn.images).shape == (120,)


def test_the_committed_networks_look_where_they_must():
    record = json.loads(RESULT.read_text())["truth"]
    shape, background = (record["networks"][what] for what in pasted.ASKED)
    assert shape["accuracy"] > 0.9
    assert shape["without the shape"] < 2 * shape["chance"]
    assert background["accuracy"] > 0.9
    assert background["without the shape"] > 0.9
    for control in ("random", "edges"):
        assert record["methods"][control]["contrast"]["mean"] == 0
        assert record["methods"][control]["told apart"]["mean"] == 0.5

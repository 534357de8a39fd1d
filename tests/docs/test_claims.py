"""A page whose sentences the numbers no longer bear out cannot be built."""

import copy
import json

import pictures_tell
import pytest


@pytest.fixture(scope="module")
def record():
    return json.loads(pictures_tell.RECORD.read_text(encoding="utf-8"))


@pytest.fixture
def shown():
    """Return what the picture shows, as the page has it."""
    alike = {"input_gradient": (0.37, 0.34, 0.08), "guided_backprop": (1.0, 0.79, 0.13)}
    alike |= {"deconvnet": (1.0, 0.51, 0.02), "gradcam": (-0.16, 0.22, 0.28)}
    columns = ("class", "later", "all")
    return {
        (method, column): value
        for method, values in alike.items()
        for column, value in zip(columns, values, strict=True)
    }


def test_the_numbers_bear_the_text_out(record, shown):
    pictures_tell.check(pictures_tell.Record(record), shown)


@pytest.mark.parametrize(
    ("metric", "method", "network", "said"),
    [
        ("noise_start", "guided_backprop", "efficientnet-lite0", "neither depends on the class"),
        ("other_class", "gradcam", "efficientnet-lite0", "the gradient and Grad-CAM do"),
        ("convergence", "deconvnet", "embedded", "in the shallow one with pooling"),
        ("sanity_cascading", "input_gradient", "embedded", "keeps most"),
    ],
)
def test_other_numbers_do_not(record, shown, metric, method, network, said):
    changed = copy.deepcopy(record)
    result = changed["results"][network]
    value = result["metrics"][metric]["value"]
    found = result["summary"][metric][value][method]
    found["mean"] = 1 - found["mean"]
    with pytest.raises(pictures_tell.ClaimError, match=said):
        pictures_tell.check(pictures_tell.Record(changed), shown)


def test_another_picture_does_not(record, shown):
    with pytest.raises(pictures_tell.ClaimError, match="the picture shows it"):
        pictures_tell.check(
            pictures_tell.Record(record), {**shown, ("guided_backprop", "later"): 0.2}
        )


def test_the_tables_hold_the_numbers(record):
    found = pictures_tell.read(pictures_tell.Record(record))
    mean = record["results"]["embedded"]["summary"]["other_class"]["ssim random"]["deconvnet"]
    assert f"| Deconvnet | {mean['mean']:.2f}, " in found["tell_depends"]
    # Of fewer images than the others.
    assert "†" in next(line for line in found["tell_depends"].split("\n") if "| Grad-CAM" in line)
    assert f"{record['truth']['methods']['gradcam']['shape']['mean']:.0%}" in found["tell_where"]


@pytest.mark.parametrize(
    ("place", "said"),
    [
        (("truth", "methods", "guided_backprop", "shape"), "where the truth is known"),
        (("truth", "methods", "guided_backprop", "background"), "where the truth is known"),
    ],
)
def test_another_truth_does_not(record, shown, place, said):
    changed = copy.deepcopy(record)
    found = changed
    for key in place:
        found = found[key]
    found["mean"] = 0.15
    with pytest.raises(pictures_tell.ClaimError, match=said):
        pictures_tell.check(pictures_tell.Record(changed), shown)


def test_a_better_box_than_the_edge_detectors_does_not(record, shown):
    changed = copy.deepcopy(record)
    inside = changed["results"]["embedded"]["summary"]["inside"]["over box"]
    inside["guided_backprop"]["mean"] += 1
    with pytest.raises(pictures_tell.ClaimError, match="an edge detector is as good"):
        pictures_tell.check(pictures_tell.Record(changed), shown)

"""Every method by every metric on a network that learned something; what is refused."""

import dataclasses
import importlib.util
import json

import pytest
import torch
from snapshot import Snapshot
from torch import nn
from torch.nn import functional as F

from captum_deconv import RectifierCoverageWarning, comparison
from captum_deconv.comparison import METHODS, METRICS
from captum_deconv.comparison.methods import CannotError
from captum_deconv.comparison.report import spell_cell
from captum_deconv.features import UnreadableSampleError
from captum_deconv.sources.names import UnknownNameError

CONTROLS = ("random", "edges")


@pytest.fixture(scope="module")
def found(spot, squares, tmp_path_factory):
    images, boxes = squares
    before = Snapshot(spot)
    state = torch.random.get_rng_state()
    found = comparison.run(
        spot, images, out=tmp_path_factory.mktemp("whole"), boxes=boxes, stages=3
    )
    before.assert_unchanged()
    assert torch.equal(torch.random.get_rng_state(), state)
    return found


def mean(found, metric, method, value=None):
    return found.summary[metric][value or METRICS[metric].value][method]["mean"]


def test_every_cell_is_there(found):
    for metric in METRICS:
        missing = set(METHODS) - set(found.summary[metric][METRICS[metric].value])
        expected = set()
        if metric == "convergence":  # of the three rules only
            expected = set(METHODS) - {"input_gradient", "guided_backprop", "deconvnet"}
        assert missing == set(found.cannot.get(metric, {})) == expected, metric


def test_the_random_map_loses(found):
    rivals = ("integrated_gradients", "occlusion", "input_x_gradient", "deeplift", "gradient_shap")
    for metric, better in {name: METRICS[name].better for name in METRICS}.items():
        if metric not in ("deletion", "pixel_flipping", "faithfulness_correlation", "inside"):
            continue
        for rival in rivals:
            ahead = mean(found, metric, rival) - mean(found, metric, "random")
            assert (ahead > 0) == (better == "higher"), (metric, rival)
    # A map that knows nothing has the box's share of everything in the box.
    assert mean(found, "inside", "random", "over box") == pytest.approx(1, abs=0.25)
    assert mean(found, "faithfulness_correlation", "random") == pytest.approx(0, abs=0.2)


def test_the_controls_do_not_see_the_network(found):
    for metric in ("sanity_cascading", "sanity_independent", "other_class", "noise_start"):
        for control in CONTROLS:
            for name, by_method in found.summary[metric].items():
                assert by_method[control]["mean"] == pytest.approx(1), (metric, name)
        assert mean(found, metric, "input_gradient") < 0.95, metric
    # What the last stage alone holds, a gradient must lose; and the images differ.
    assert found.summary["sanity_cascading"]["spearman 1"]["input_gradient"]["mean"] < 0.9
    one, other = (found.cells.values[image, "random", "sparseness"]["gini"] for image in "01")
    assert one != other


def test_the_written_summary_is_the_cells(found, spot, squares, tmp_path):
    record = found.as_record()
    assert record == json.loads(json.dumps(record, allow_nan=False))
    assert [image["name"] for image in record["images"]] == [str(n) for n in range(8)]
    assert record["about"]["seed"] == 0
    assert record["about"]["model"]["weights"]
    areas = [found.cells.values[str(n), "occlusion", "deletion"]["area"] for n in range(8)]
    summary = record["summary"]["deletion"]["area"]["occlusion"]
    assert summary["mean"] == pytest.approx(sum(areas) / 8)
    assert summary["low"] < summary["mean"] < summary["high"]
    pairs = {(pair["one"], pair["other"]): pair for pair in record["tests"]["inside"]}
    assert len(pairs) == len(METHODS) * (len(METHODS) - 1) // 2
    assert all(pair["p"] <= pair["holm"] <= 1 for pair in pairs.values())


def test_a_killed_run_goes_on(found, spot, squares, tmp_path, monkeypatch):
    images, boxes = squares
    how = {"methods": ["deconvnet", "random"], "metrics": ["deletion", "inside"]}

    class Killed(BaseException):
        pass

    measured = []

    def die(case, measure=METRICS["inside"].measure):
        if len(measured) == 5:
            raise Killed
        measured.append(case.method.name)
        return measure(case)

    def patch(measure):
        changed = dataclasses.replace(METRICS["inside"], measure=measure)
        monkeypatch.setitem(METRICS, "inside", changed)

    whole = METRICS["inside"].measure
    patch(die)
    with pytest.raises(Killed):
        comparison.run(spot, images, out=tmp_path, boxes=boxes, **how)
    cells = tmp_path / "cells.jsonl"
    kept = cells.read_text()
    cells.write_text(kept + '{"image": "7", "meth')  # cut off in the middle of a line
    again = []

    def count(case):
        again.append(case.method.name)
        return whole(case)

    patch(count)
    result = comparison.run(spot, images, out=tmp_path, boxes=boxes, **how)
    assert (len(measured), len(again)) == (5, 11)
    assert cells.read_text().startswith(kept)
    # Nothing depends on where it was cut, or on which other methods and metrics were asked.
    for key, values in result.cells.values.items():
        assert values == found.cells.values[key]
    assert result.question.methods == ("deconvnet", "random")


def test_a_folder_of_something_else_is_refused(spot, squares, tmp_path):
    images, _ = squares
    how = {"methods": ["edges"], "metrics": ["deletion"], "out": tmp_path}
    comparison.run(spot, images[:2], **how)
    with pytest.raises(comparison.ComparisonError, match="the data set"):
        comparison.run(spot, images[1:3], **how)
    with pytest.raises(comparison.ComparisonError, match="seed: 0, not 1"):
        comparison.run(spot, images[:2], seed=1, **how)
    torch.manual_seed(5)
    other = type(spot)().eval()
    with pytest.raises(comparison.ComparisonError, match="the weights"):
        comparison.run(other, images[:2], **how)
    (tmp_path / "cells.jsonl").write_text("mine\n")
    with pytest.raises(comparison.ComparisonError, match="not a file of cells"):
        comparison.run(spot, images[:2], **how)
    assert (tmp_path / "cells.jsonl").read_text() == "mine\n"


class Functional(nn.Module):
    """Rectifiers that are no modules: Captum's DeepLift does not see them."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.second = nn.Conv2d(8, 8, 3)
        self.head = nn.Linear(8, 4, bias=False)

    def forward(self, x):
        return self.head(F.relu(self.second(F.relu(self.conv(x) - 0.5))).mean((2, 3)))


def test_what_cannot_be_done_says_why(squares, tmp_path):
    torch.manual_seed(0)
    methods = ["deeplift", "gradcam", "occlusion"]
    how = {"methods": methods, "metrics": ["deletion"], "out": tmp_path}
    found = comparison.run(Functional().eval(), squares[0][:2], **how)
    assert set(found.cannot["deletion"]) == {"deeplift"}
    assert found.cannot["deletion"]["deeplift"]["images"] == 2
    assert (
        "DeepLift does not hold on this network" in (found.cannot["deletion"]["deeplift"]["reason"])
    )


def test_a_mean_of_fewer_images_says_so(spot, squares, tmp_path, monkeypatch):
    calls = []

    def explain(model, images, classes, layer):
        calls.append(1)
        if len(calls) == 1:
            raise CannotError("not this one")
        return METHODS["input_gradient"].explain(model, images, classes, layer)

    monkeypatch.setitem(METHODS, "edges", dataclasses.replace(METHODS["edges"], explain=explain))
    how = {"methods": ["edges", "random"], "metrics": ["deletion"], "out": tmp_path}
    found = comparison.run(spot, squares[0][:3], **how)
    assert spell_cell(found, "deletion", "edges").endswith("(2 of 3 images)")
    assert "images" not in spell_cell(found, "deletion", "random")


def test_what_is_refused(spot, squares, tmp_path):
    images, boxes = squares
    with pytest.raises(UnknownNameError, match="did you mean guided_backprop"):
        comparison.run(spot, images, out=tmp_path, methods=["guided_backpropp"])
    with pytest.raises(UnknownNameError, match="did you mean deletion"):
        comparison.run(spot, images, out=tmp_path, metrics=["deletions"])
    with pytest.raises(UnknownNameError, match="no metric 'x'"):
        comparison.run(spot, images, out=tmp_path, at_most={"x": 1})
    with pytest.raises(UnknownNameError, match="no layer 'conv3'; did you mean"):
        comparison.run(spot, images, out=tmp_path, layer="conv3")
    with pytest.raises(UnknownNameError, match="a box of no image '9'"):
        comparison.run(spot, images, out=tmp_path, boxes={"9": boxes["0"]})
    with pytest.raises(ValueError, match=r"the mask of 0 is \(3, 3\)"):
        comparison.run(spot, images, out=tmp_path, boxes={"0": torch.ones(3, 3)})
    with pytest.raises(ValueError, match="empty"):
        comparison.run(spot, [], out=tmp_path)
    with pytest.raises(ValueError, match=r"call model\.eval\(\)"):
        comparison.run(type(spot)(), images, out=tmp_path)
    with pytest.raises(ValueError, match=r"must return scores"):
        comparison.run(nn.Sequential(*list(spot)[:3]).eval(), images, out=tmp_path)
    with pytest.raises(ValueError, match=r"an image is \(C, H, W\), and the first is \(24,\)"):
        comparison.run(spot, list(images[0][0]), out=tmp_path)
    with pytest.raises(ValueError, match="no label"):
        comparison.run(spot, images, out=tmp_path, target="label")
    assert not (tmp_path / "comparison.json").exists()


@pytest.mark.parametrize("target", ["label", 3])
def test_a_target_of_the_users_a_mask_and_a_layer_are_recorded(target, spot, squares, tmp_path):
    mask = torch.zeros(24, 24)
    mask[3:9, 3:9] = 1
    labelled = [(image, number % 4) for number, image in enumerate(squares[0][:2])]
    how = {"methods": "gradcam", "metrics": "inside", "layer": "relu1", "out": tmp_path}
    found = comparison.run(spot, labelled, target=target, boxes={"0": mask}, **how)
    expected = [0, 1] if target == "label" else [3, 3]
    assert list(found.targets.values()) == expected
    about = json.loads((tmp_path / "cells.jsonl").read_text().splitlines()[0])["about"]
    assert (about["target"], about["layer"]) == (str(target), "relu1")
    assert {image for image, *_ in found.cells.values} == {"0"}  # the other has no mask
    with pytest.raises(comparison.ComparisonError, match="boxes"):
        comparison.run(spot, labelled, target=target, boxes={"0": 1 - mask}, **how)


def test_what_no_rule_reaches_is_said_once(squares, tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(
        *(nn.Conv2d(3, 4, 3), nn.GELU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 4))
    ).eval()
    how = {"methods": ["guided_backprop", "deconvnet"], "metrics": ["deletion"]}
    with pytest.warns(RectifierCoverageWarning, match="not all is covered: .*GELU") as said:
        comparison.run(model, squares[0][:2], out=tmp_path, **how)
    assert len(said) == 1


def test_missing_packages_are_named_before_anything_is_computed(
    spot, squares, tmp_path, monkeypatch
):
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "quantus" else real(name)
    )
    with pytest.raises(ImportError, match=r"need quantus: pip install 'captum-deconv\[bench\]'"):
        comparison.run(spot, squares[0][:1], out=tmp_path, metrics=["pointing"])
    assert not list(tmp_path.iterdir())


class Torn(list):
    """Images of which the first cannot be read."""

    def __getitem__(self, index):
        if index == 0:
            raise OSError("torn")
        return super().__getitem__(index)


def test_an_image_that_cannot_be_read_is_left_out_or_ends_it(spot, squares, tmp_path):
    how = {"methods": ["edges"], "metrics": ["deletion"], "out": tmp_path}
    with pytest.warns(UserWarning, match="1 images could not be read and were skipped: .*torn"):
        found = comparison.run(spot, Torn(squares[0][:3]), **how)
    assert len(found.targets) == 2
    with pytest.raises(UnreadableSampleError, match="torn"):
        comparison.run(spot, Torn(squares[0][:3]), strict=True, **how)
    with pytest.raises(UnreadableSampleError, match="none of the 1 images can be read"):
        comparison.run(spot, Torn(squares[0][:1]), **how)

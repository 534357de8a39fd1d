"""What cannot be measured says why: in the cells, in the table, after a restart."""

import dataclasses
import json

import pytest
import torch
from comparing import make_case
from torch import nn

from captum_deconv import comparison
from captum_deconv.comparison import METHODS
from captum_deconv.comparison.methods import CannotError, find_last_map
from captum_deconv.comparison.metrics import classes, localisation
from captum_deconv.comparison.page import write_page
from captum_deconv.comparison.report import draw_figure, spell_cell


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (torch.nan, "the attribution has values that are not finite"),
        (0.0, "the map is 0 everywhere: it names no pixel"),
    ],
)
def test_maps_that_name_no_pixel(value, reason, spot, squares, tmp_path, monkeypatch):
    def explain(model, images, *_):
        return torch.full_like(images, value)

    monkeypatch.setitem(METHODS, "edges", dataclasses.replace(METHODS["edges"], explain=explain))
    how = {"methods": ["edges", "random"], "metrics": ["deletion"], "out": tmp_path}
    found = comparison.run(spot, squares[0][:2], **how)
    assert found.cannot["deletion"] == {"edges": {"images": 2, "reason": reason}}
    assert spell_cell(found, "deletion", "edges") == "cannot"
    draw_figure(found, tmp_path / "figure.svg")
    assert (tmp_path / "figure.svg").stat().st_size
    cells = (tmp_path / "cells.jsonl").read_bytes()
    again = comparison.run(spot, squares[0][:2], **how)
    assert again.cannot == found.cannot
    assert (tmp_path / "cells.jsonl").read_bytes() == cells
    only = comparison.run(spot, squares[0][:2], **{**how, "methods": ["random"]})
    assert only.cannot == {}


@pytest.mark.parametrize("content", [[], 3, {}, {"about": None}])
def test_json_that_is_no_file_of_cells(content, spot, squares, tmp_path):
    (tmp_path / "cells.jsonl").write_text(json.dumps(content) + "\n")
    how = {"methods": ["edges"], "metrics": ["deletion"], "out": tmp_path}
    with pytest.raises(comparison.ComparisonError, match="not a file of cells; give another"):
        comparison.run(spot, squares[0][:2], **how)


def test_a_network_of_one_output_has_no_other_class(squares):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 1, 24), nn.Flatten()).eval()
    case = make_case(model, squares[0][0])
    with pytest.raises(CannotError, match="one output: there is no other class"):
        classes.other_class(case)


def test_a_share_that_speaks_against_the_class_everywhere(spot, squares):
    case = dataclasses.replace(make_case(spot, squares[0][0], "occlusion"), box=(3, 3, 9, 9))
    case.__dict__["attribution"] = -torch.ones(1, 3, 24, 24)
    with pytest.raises(CannotError, match="it names no pixel"):
        localisation.inside(case)


def test_the_last_map_has_more_than_one_place():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Conv2d(4, 5, 1)).eval()
    assert find_last_map(model, torch.rand(1, 3, 8, 8)) == "0"


def test_no_image_beyond_the_most_that_any_metric_takes(spot, squares, tmp_path):
    images = squares[0]
    how = {"methods": ["random"], "metrics": ["deletion", "sparseness"], "out": tmp_path}
    found = comparison.run(spot, images, at_most={"deletion": 1, "sparseness": 2}, **how)
    assert list(found.targets) == ["0", "1"]
    assert len(found.cells.values) == 3
    how = {"restore": torch.sigmoid, "title": "few", "most": 1}
    page = write_page(found, spot, images, tmp_path / "page", **how)
    assert len(list(page.parent.rglob("image-*"))) == 1


def test_a_figure_of_one_image_and_of_an_odd_number_of_metrics(spot, squares, tmp_path):
    metrics = ["deletion", "insertion", "sparseness", "other_class", "noise_start"]
    how = {"methods": ["edges"], "metrics": metrics, "out": tmp_path}
    found = comparison.run(spot, squares[0][:1], **how)
    draw_figure(found, tmp_path / "figure.svg")
    text = (tmp_path / "figure.svg").read_text()
    assert text.count('id="axes_') == len(metrics)

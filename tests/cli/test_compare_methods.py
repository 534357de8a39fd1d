"""The command ``compare-methods``: a folder in; a table, a figure, JSON and a page out."""

import json
import re
import shutil

import pytest
from command import assert_one_line, network
from PIL import Image


@pytest.fixture
def photographs(folder, tmp_path):
    """Return a folder with two photographs, and one that cannot be read."""
    place = tmp_path / "photographs"
    place.mkdir()
    shutil.copy(folder / "one.png", place / "a.png")
    shutil.copy(folder / "two.jpg", place / "b.jpg")
    (place / "torn.png").write_bytes(b"no image")
    return place


@pytest.mark.filterwarnings("ignore:1 images could not be read")
def test_a_report(call, photographs, tmp_path):
    words = ("compare-methods", "--data", photographs, "-m", network(), "--out", "report")
    words += ("--metrics", "sanity_independent, deletion", "--method", "guided_backprop")
    words += ("--method", "edges", "--method", "random")
    result = call(*words)
    assert result.exit_code == 0, result.output
    for word in ("Guided backprop", "Control: edges", "Deletion", "page: report/index.html"):
        assert word in result.output
    report = tmp_path / "report"
    record = json.loads((report / "comparison.json").read_text())
    assert [image["name"] for image in record["images"]] == ["a.png", "b.jpg"]
    assert list(record["methods"]) == ["guided_backprop", "edges", "random"]
    edges = record["summary"]["sanity_independent"]["spearman_abs"]["edges"]
    assert edges["mean"] == pytest.approx(1)
    with Image.open(report / "comparison.png") as figure:
        assert min(figure.size) > 200
    page = (report / "index.html").read_text()
    shown = re.findall(r'src="([^"]+)"', page)
    assert len(shown) == 2 * (1 + 3)
    assert all((report / name).is_file() for name in shown)
    assert "a.png" in page
    assert "torn.png" not in page
    assert "http" not in page  # nothing is fetched
    before = (report / "cells.jsonl").read_text()
    assert call(*words).exit_code == 0
    assert (report / "cells.jsonl").read_text() == before
    assert_one_line(call(*words, "--seed", "1"), 1, "holds a comparison of something else", "seed")


def test_what_is_refused(call, photographs, tmp_path):
    words = ("compare-methods", "--data", photographs, "-m", network(), "--out", "report")
    assert_one_line(call(*words, "--metrics", "deletoin"), 2, "did you mean deletion")
    assert_one_line(call(*words, "--method", "deconvent"), 2, "did you mean deconvnet")
    assert_one_line(call(*words, "-t", "dog"), 2, "--target is predicted")
    assert_one_line(call(*words, "-t", "label"), 2, "a folder for each class")
    empty = tmp_path / "empty"
    empty.mkdir()
    assert_one_line(call(*words[:2], empty, *words[3:]), 1, "no image in it")
    assert not (tmp_path / "report").exists()

"""The command ``atlas``: a folder of photographs in, a site out."""

import numpy as np
import pytest
import torch
from PIL import Image

from captum_deconv import gallery
from captum_deconv.sources import embedded


@pytest.fixture
def photographs(tmp_path):
    generator = np.random.default_rng(0)
    for number in range(6):
        folder = tmp_path / "photographs" / ("dark", "light")[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        pixels = generator.integers(0, 100, (40, 50, 3), dtype=np.uint8) + 150 * (number % 2)
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number}.png")
    return tmp_path / "photographs"


def test_a_folder_becomes_a_site(call, photographs, tmp_path):
    weights = tmp_path / "training"
    weights.mkdir()
    for step in (2, 10):
        torch.save(embedded.load().state_dict(), weights / f"step-{step}.pt")
    done = call(
        *("atlas", "--data", photographs, "--out", "site", "-l", "relu1", "-l", "relu[2]"),
        *("--channels", 3, "--method", "deconvnet", "--checkpoints", weights, "--top", 4),
    )
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    assert lines[:3] == [
        "2 layers, as asked for:",
        "  relu1: asked for",
        "  relu2: like relu[2]",
    ]
    assert "for 6 images and 24 projections" in lines[3]
    assert lines[4] == "page: site/index.html"
    found = gallery.Atlas.open("site")
    assert found.labels == ("dark", "light")
    assert found.steps == ("step-2", "step-10"), "numbers are numbers"
    assert found.title == "Atlas of embedded"
    again = call(
        *("atlas", "--data", photographs, "--out", "site", "-l", "relu1", "-l", "relu[2]"),
        *("--channels", 3, "--method", "deconvnet", "--checkpoints", weights, "--top", 4),
    )
    assert again.stdout.splitlines() == ["page: site/index.html"]


@pytest.mark.parametrize(
    ("words", "code", "match"),
    [
        (("-l", "auto", "-l", "relu1"), 2, "--layers is auto, or names and patterns, not both"),
        (("-l", "rleu1"), 1, "the model has no layer like 'rleu1'"),
        (("--channels", "0"), 2, "--channels"),
        (("--checkpoints", "."), 2, "no file of weights in it"),
        (("--model", "resnet5000"), 2, "resnet5000"),
    ],
)
def test_what_is_wrong_is_one_line(call, photographs, words, code, match):
    done = call("atlas", "--data", photographs, "--out", "site", *words)
    assert done.exit_code == code
    error = done.stderr.splitlines()[-1]
    assert error.startswith("captum-deconv: error: ")
    assert match in error


def test_a_folder_of_something_else(call, photographs, tmp_path):
    done = call("atlas", "--data", photographs, "--out", photographs)
    assert done.exit_code == 1
    assert "holds something else than an atlas" in done.stderr

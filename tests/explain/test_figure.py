import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from captum_deconv.drawing.colours import to_colour
from captum_deconv.drawing.figures import PICTURES, save_figure
from captum_deconv.explain.figure import (
    Row,
    describe_result,
    find_support,
    plot_attributions,
)
from captum_deconv.explain.results import Neuron, Result, Score


@pytest.fixture
def attribution():
    return torch.randn(3, 32, 32, generator=torch.Generator().manual_seed(0))


def make_row(attribution, **parts):
    return Row(
        torch.rand(3, 32, 32), {"guided_backprop": attribution, "mine": attribution}, **parts
    )


def test_support():
    attribution = torch.zeros(3, 100, 120)
    assert find_support([attribution]) is None
    attribution[1, 40:50, 60:64] = -1
    top, left, bottom, right = find_support([attribution], least=1)
    assert (top, bottom, right - left) == (40, 50, 10)
    assert left <= 60
    assert right >= 64
    assert find_support([torch.zeros_like(attribution), attribution])[2] == 57  # grown to 24
    attribution[0, 0, 0] = attribution[0, 99, 119] = 1
    assert find_support([attribution]) is None
    corner = torch.zeros(1, 50, 50)
    corner[0, 49, 49] = 1
    assert find_support([corner]) == (26, 26, 50, 50)


def test_figure_holds_every_panel(attribution):
    rows = [
        make_row(attribution, label="tabby\nclass 281"),
        make_row(attribution * 0, box=(2, 2, 20, 20)),
    ]
    figure = plot_attributions(rows, title="A title")
    pictures = [axes for axes in figure.axes if axes.images]
    assert len(pictures) == 2 * (1 + 2 * 2) + 1  # and the overview of the boxed row
    texts = [text.get_text() for axes in figure.axes for text in axes.texts]
    assert {"tabby", "class 281", "zero everywhere"} <= set(texts)
    assert [axes.get_title() for axes in pictures if axes.get_title()] == [
        "Input",
        "Guided backprop",
        "mine",
    ]
    drawn = pictures[1].images[0].get_array()
    assert np.allclose(drawn, to_colour(attribution))
    cropped = [axes.images[0].get_array().shape[:2] for axes in pictures[5:]]
    assert cropped.count((18, 18)) == 5
    assert cropped.count((32, 32)) == 1


def test_a_figure_has_an_end(attribution):
    with pytest.raises(ValueError, match="at most 32 rows, not 33"):
        plot_attributions([make_row(attribution)] * 33)


def test_rows_must_agree(attribution):
    with pytest.raises(ValueError, match="same methods"):
        plot_attributions([])
    with pytest.raises(ValueError, match="same methods"):
        plot_attributions([make_row(attribution), Row(torch.rand(3, 4, 4), {})])


@pytest.mark.parametrize("suffix", PICTURES)
def test_files_are_the_same_each_time(tmp_path, attribution, suffix):
    # A class's name is text, also where it looks like mathematics.
    row = make_row(attribution, label="cost $x^ and $y_")
    for name in ("a", "b"):
        save_figure(plot_attributions([row]), tmp_path / f"{name}{suffix}", dpi=60)
    first, second = ((tmp_path / f"{name}{suffix}").read_bytes() for name in ("a", "b"))
    assert first == second
    assert len(list(tmp_path.iterdir())) == 2
    if suffix == ".png":
        Image.open(tmp_path / "a.png").verify()


def test_a_failure_leaves_the_old_picture(tmp_path, attribution):
    path = tmp_path / "a.png"
    path.write_text("old")

    class Broken:
        def savefig(self, target, **_):
            target.write_text("half")
            raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        save_figure(Broken(), path)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_labels_say_what_was_explained(attribution):
    score = Score(281, "tabby", 0.25)
    parts = {"name": "cat.png", "inputs": attribution, "shown": attribution}
    target = describe_result(
        Result(**parts, attributions={"a": attribution}, target=score, top=(score,))
    )
    assert target.label.split("\n")[:3] == ["tabby", "class 281, probability 0.250", "cat.png"]
    assert target.box is None
    small = torch.zeros(3, 64, 64)
    small[:, 3, 3] = 1
    neuron = Neuron("features.3", 7, (2, 5), 1.5)
    row = describe_result(Result(**parts, attributions={"a": small}, neuron=neuron))
    assert row.label.startswith("Channel 7 at (2, 5)\nof features.3, activation 1.5")
    assert row.box == (0, 0, 24, 24)
    nothing = describe_result(Result(**parts, attributions={"a": attribution}, top=(score,)))
    assert nothing.label.split("\n") == ["cat.png", "", "The network's answer:", "0.250  tabby"]


def test_no_pyplot():
    code = (
        "import sys, torch; from captum_deconv.explain.figure import Row, plot_attributions\n"
        "plot_attributions([Row(torch.rand(3, 8, 8), {'a': torch.rand(3, 8, 8)})])\n"
        "sys.exit('matplotlib.pyplot' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

"""The examples run, with pictures that can be read aloud; the tour is what it is today."""

import base64
import io
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from matplotlib import pyplot
from matplotlib.figure import Figure
from PIL import Image

nbformat = pytest.importorskip("nbformat", reason="the extra docs is not installed")

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted((ROOT / "docs/examples").rglob("*.py"))
PRINTED = {"collect_and_read", "dictionary", "see_coverage", "short_of_memory"}
"""Those that draw nothing."""
PICTURE = re.compile(r"data:image/webp;base64,([^\"]+)")


# Captum's own, of its own doings.
@pytest.mark.filterwarnings("ignore:Input Tensor 0 did not already require gradients")
@pytest.mark.filterwarnings("ignore:Setting backward hooks on ReLU activations")
@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_runs(path, capsys):
    import torch

    with torch.random.fork_rng():
        made = runpy.run_path(str(path))
    pyplot.close("all")
    figures = [each for each in made.values() if isinstance(each, Figure)]
    assert bool(figures) != (path.stem in PRINTED)
    assert figures or capsys.readouterr().out
    for figure in figures:
        assert len(figure.get_label()) > 30
    text = path.read_text(encoding="utf-8")
    assert text.count("\n") <= 60
    title, line = text.splitlines()[1:3]
    assert len(title) == len(line)
    assert set(line) == {"="}


def test_there_is_an_example_for_each_way_in():
    text = "\n".join(path.read_text(encoding="utf-8") for path in EXAMPLES)
    for name in (
        *("compare(", "attribute_each(", "coverage(", "collect(", "gradient_func(", "strongest("),
        *("GuidedBackprop(", "NeuronDeconvnet(", "LayerDeconvnet", "GuidedGradCam(", "output="),
        *("features.scan(", "gallery.project(", "gallery.atlas(", "evolution(", "comparison.run("),
        *("occlude(", "measure_invariance(", "correspond(", "diagnose(", "renormalise("),
        *("adjoint.check(", "Mirror(", "receptive_field.of(", "memory=", "add_attributions("),
    ):
        assert name in text, name


@pytest.fixture(scope="module")
def tours(tmp_path_factory):
    """Return the tour as it is kept, and as it runs today."""
    target = tmp_path_factory.mktemp("tour") / "tour.ipynb"
    where = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    command = [sys.executable, str(ROOT / "docs" / "run_tour.py"), str(target)]
    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": where}
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return [nbformat.read(path, as_version=4) for path in (ROOT / "docs" / "tour.ipynb", target)]


def open_pictures(output):
    data = output.get("data", {})
    found = PICTURE.findall(data.get("text/html", ""))
    found += [data["image/png"]] if "image/png" in data else []
    return [
        np.asarray(Image.open(io.BytesIO(base64.b64decode(each))).convert("RGB"), dtype=float)
        for each in found
    ]


def test_the_tour_shows_what_it_shows_today(tours):
    kept, today = ([cell for cell in tour.cells if cell.cell_type == "code"] for tour in tours)
    assert [cell.source for cell in kept] == [cell.source for cell in today]
    pictures = 0
    for one, other in zip(kept, today, strict=True):
        assert one.execution_count == other.execution_count
        assert len(one.outputs) == len(other.outputs) > 0
        for before, now in zip(one.outputs, other.outputs, strict=True):
            assert before.get("text") == now.get("text")
            texts = [
                PICTURE.sub("", output.get("data", {}).get("text/html", ""))
                for output in (before, now)
            ]
            assert texts[0] == texts[1]
            drawn = [open_pictures(output) for output in (before, now)]
            for first, second in zip(*drawn, strict=True):
                # Rounding, on another processor, and what a compression makes of it.
                assert np.abs(first - second).mean() < 3
                pictures += 1
    assert pictures > 8


def test_the_tour_is_small_and_of_no_machine():
    path = ROOT / "docs" / "tour.ipynb"
    text = path.read_text(encoding="utf-8")
    assert len(text) < 1_000_000
    outside = re.sub(r"[A-Za-z0-9+/=]{200,}", "", text)
    assert not re.search(r"/(home|root|tmp|work|usr|opt|Users)/|site-packages", outside)
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            if "image/png" in output.get("data", {}):
                assert cell.metadata["mystnb"]["image"]["alt"]

"""The photographs and their boxes; the page is of the committed numbers; a smoke run."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from comparison import page, which
from comparison.photographs import Photographs
from parts.readme import find_table
from torchvision import transforms

from captum_deconv.sources.models import load_model

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
RESULT = BENCHMARKS / "results" / "comparison-cpu.json"


def test_the_boxes_lie_where_the_objects_are():
    data = Photographs(load_model("embedded").preprocess)
    assert len(data) == len(set(data.samples)) >= 40
    boxes = data.find_boxes()
    assert len(boxes) >= 12
    assert list(boxes) == data.samples[: len(boxes)]
    for left, top, right, bottom in boxes.values():
        assert 0 <= left < right <= 224
        assert 0 <= top < bottom <= 224
        assert (right - left) * (bottom - top) < 0.9 * 224**2
    # The dahlia is orange and nothing else is; the cell is bright and its photograph is not.
    left, top, right, bottom = boxes["dahlia"]
    red, _, blue = data[data.samples.index("dahlia")]
    orange = red - blue > 1.5
    assert orange[top:bottom, left:right].float().mean() > 0.4
    orange[top:bottom, left:right] = False
    assert orange[:top].sum() < 30
    left, top, right, bottom = boxes["cell"]
    grey = data[data.samples.index("cell")][0]
    bright = grey > 0
    assert bright[top:bottom, left:right].sum() > 0.99 * bright.sum() > 0


def test_the_page_is_of_the_committed_numbers(tmp_path):
    record = json.loads(RESULT.read_text())
    page.write_page(tmp_path / "page.md", record)
    shown = (BENCHMARKS.parent / "docs" / "methods.md").read_text()
    assert shown == (tmp_path / "page.md").read_text()
    for result in record["results"].values():
        # What never sees the network is like itself, whatever became of the network.
        for metric in ("sanity_cascading", "sanity_independent", "other_class", "noise_start"):
            for control in ("random", "edges"):
                summary = result["summary"][metric][result["metrics"][metric]["value"]]
                assert summary[control]["mean"] == pytest.approx(1)
        changed = json.loads(json.dumps(result))
        kept = changed["summary"]["sanity_cascading"]["spearman_abs"]["guided_backprop"]
        kept["mean"] = 0.1 if kept["mean"] > 0.3 else 0.9
        assert page.judge(changed, "guided_backprop") != page.judge(result, "guided_backprop")


def test_what_is_said_is_of_the_committed_numbers(tmp_path):
    record = json.loads(RESULT.read_text())
    root = BENCHMARKS.parent
    which.write_which(tmp_path / "which.md", record)
    assert (root / "docs" / "which-method.md").read_text() == (tmp_path / "which.md").read_text()
    table = find_table(which.NAME, (root / "README.md").read_text())
    assert table[1].splitlines() == which.make_table(record)
    # By hand no number is written: none is left once what is asked of the record is taken out.
    text = re.sub(
        r"{{.*?}}|{%.*?%}|{#.*?#}|arXiv:[\d.]+|`[^`]*`|[Ll]ite0|ReLU6",
        "",
        which.TEXT.read_text(),
        flags=re.S,
    )
    assert re.findall(r"\d+(?:\.\d+)?\s*%?", re.sub(r"et al\. \d{4}|20\d\d", "", text)) == []


def test_a_claim_that_is_not_so_cannot_be_written(tmp_path):
    record = json.loads(RESULT.read_text())
    text = tmp_path / "text.md"
    question = 'mean("embedded", "deletion", "occlusion")'
    text.write_text(f"{{{{ sure({question} < 1) }}}}{{{{ {question} | two }}}}")
    which.write_which(tmp_path / "page.md", record, text)
    assert re.fullmatch(r"0\.\d\d\n", (tmp_path / "page.md").read_text())
    text.write_text(f"{{{{ sure(true, {question} > 1) }}}}never")
    with pytest.raises(which.ClaimError, match=r"not so: \[2\]"):
        which.write_which(tmp_path / "page.md", record, text)
    # The hand-written page holds its claims against the numbers: others, and it fails.
    for method in record["truth"]["methods"].values():
        method["shape"], method["background"] = method["background"], method["shape"]
        method["contrast"]["mean"] = -method["contrast"]["mean"]
    with pytest.raises(which.ClaimError):
        which.write_which(tmp_path / "page.md", record)


def test_networks_by_name(tmp_path):
    def start(*words):
        command = [sys.executable, str(BENCHMARKS / "compare_methods.py"), *words]
        return subprocess.run(command, capture_output=True, text=True)

    wrong = start("--networks", "resnet5")
    assert wrong.returncode == 2
    assert "did you mean resnet50" in wrong.stderr


def test_the_boxes_are_right_whatever_the_preparation():
    """A network that sees the whole crop, at another size: the boxes lie elsewhere."""
    whole = Photographs(
        transforms.Compose([transforms.Resize((100, 100)), transforms.ToTensor()])
    ).find_boxes()
    # The astronaut's crop is 512 wide: 10, 5, 370, 512 at a scale of 100 / 512, to a pixel.
    assert whole["astronaut"] == pytest.approx((1.95, 0.98, 72.3, 100), abs=1)
    central = Photographs(load_model("embedded").preprocess).find_boxes()["astronaut"]
    assert central == pytest.approx((0, 0, 169, 224), abs=1)  # halved, less 16 pixels on each side


@pytest.mark.slow
def test_a_smoke_run(tmp_path):
    out = tmp_path / "result.json"
    command = [sys.executable, str(BENCHMARKS / "compare_methods.py"), "--smoke", "--out", str(out)]
    command += ["--work", str(tmp_path), "--images", "1", "--networks", "embedded"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-1500:]
    result = json.loads(out.read_text())["results"]["embedded"]
    assert [image["name"] for image in result["images"]] == ["astronaut"]
    assert len(result["summary"]["deletion"]["area"]) == 13

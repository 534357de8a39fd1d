"""Benchmarks run, at a size that takes seconds."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from parts import fast_page

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def run(name, tmp_path, *options):
    out = tmp_path / "result.json"
    command = [sys.executable, str(BENCHMARKS / f"{name}.py"), "--quick", "--out", str(out)]
    command += options
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-1500:]
    return json.loads(out.read_text())


def test_many(tmp_path):
    result = run("many", tmp_path)
    cases = [case for name, case in result.items() if name not in ("machine", "image")]
    assert len(cases) == 5
    for case in cases:
        assert case["difference"] < 1e-5
        assert case["times as fast as Captum"] > 0


@pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from Linux's /proc")
def test_memory(tmp_path):
    result = run("memory", tmp_path)
    assert set(result["resnet18"]["MiB"]) == {"captum", "autograd", "light", "lean", "forward"}
    assert result["resnet18"]["time over autograd's"]["autograd"] == 1.0
    assert set(result["largest batch of resnet18 in 4 GiB"].values()) == {3}  # the most it tries


def test_fast(tmp_path):
    page = tmp_path / "page.md"
    result = run("fast", tmp_path, "--page", str(page))["results"]["embedded"]
    assert result["as it is"] == {"time": 1.0, "largest": 0.0, "norm": 0.0}
    assert result["both"]["norm"] < 1e-4 < result["both, bfloat16"]["norm"]
    assert f"{result['both']['time']:.2f}, " in page.read_text()


def test_the_page_is_of_the_committed_numbers(tmp_path):
    record = json.loads((BENCHMARKS / "results" / "fast-cpu.json").read_text())
    fast_page.write_page(tmp_path / "page.md", record)
    page = BENCHMARKS.parent / "docs" / "faster.md"
    assert page.read_text() == (tmp_path / "page.md").read_text()


def test_occlusion(tmp_path):
    result = run("occlusion", tmp_path, "--networks", "efficientnet-lite0")
    result = result["efficientnet-lite0, stride 25"]
    assert result["windows"] == 4
    assert result["largest difference, of the largest fall"] < 1e-3


def test_diagnose(tmp_path):
    result = run("diagnose", tmp_path)
    assert set(result["random weights"]) == {"resnet18", "alexnet"}
    assert result["random weights"]["alexnet"]["stride"] == 4
    assert result["trained weights"]["embedded"]["images"] == 40


@pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from Linux's /proc")
def test_collect(tmp_path):
    result = run("collect", tmp_path)
    assert result["resnet18"]["pace over bare"] > 0
    assert result["reading"]["items"] == 300


def test_the_page_on_collections_has_the_committed_numbers():
    record = json.loads((BENCHMARKS / "results" / "collect-cpu.json").read_text())
    page = " ".join((BENCHMARKS.parent / "docs" / "collections.md").read_text().split())
    for loop, places in (("bare", 2), ("captum", 1)):
        row = [record[name][f"pace over {loop}"] for name in ("resnet50", "vgg16")]
        assert f"| {row[0]:.{places}f} | {row[1]:.{places}f} |" in page
    few, many = record["peak of resnet18 at 64x64, MiB, by images"].values()
    assert f"{few['process']:.0f} MiB for 500 images, {many['process']:.0f} for 5,000" in page
    reading = record["reading"]
    assert f"is opened in {reading['open, ms']:.1f} ms" in page
    assert f"of them is read in {reading['read one, ms']:.2f} ms" in page


@pytest.mark.slow
@pytest.mark.browser
def test_atlas(tmp_path):
    pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    result = run("atlas", tmp_path)
    assert 0 < result["networks"]["embedded, 2 channels a layer"]["share"] < 1
    assert result["page"]["layer"]["heap_megabytes"] < 150
    assert result["kills"]["different"] == []

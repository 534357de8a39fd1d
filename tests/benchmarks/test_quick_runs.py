"""The benchmarks of memory and of many questions run, at a size that takes seconds."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def run(name, tmp_path):
    out = tmp_path / "result.json"
    command = [sys.executable, str(BENCHMARKS / f"{name}.py"), "--quick", "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-1500:]
    return json.loads(out.read_text())


def test_many(tmp_path):
    result = run("many", tmp_path)
    cases = [case for name, case in result.items() if name not in ("machine", "image")]
    assert len(cases) == 3
    for case in cases:
        assert case["difference"] < 1e-5
        assert case["times as fast as Captum"] > 0


@pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from Linux's /proc")
def test_memory(tmp_path):
    result = run("memory", tmp_path)
    assert set(result["resnet18"]["MiB"]) == {"captum", "autograd", "light", "lean", "forward"}
    assert result["resnet18"]["time over autograd's"]["autograd"] == 1.0

"""What `make test-gpu` and `make bench-gpu` begin with."""

import subprocess
import sys
from pathlib import Path

import torch

ROOT = Path(__file__).parents[2]


def test_says_in_one_line_whether_there_is_a_gpu():
    script = ROOT / "benchmarks" / "parts" / "gpu.py"
    found = subprocess.run([sys.executable, script], capture_output=True, text=True)
    there = torch.cuda.is_available()
    assert found.returncode == (0 if there else 1)
    said = found.stdout if there else found.stderr
    assert said.startswith("GPU: " if there else "no GPU: torch ")
    assert (found.stdout + found.stderr).count("\n") == 1


def test_both_commands_ask_for_one_first():
    lines = (ROOT / "Makefile").read_text().splitlines()
    for target in ("test-gpu", "bench-gpu"):
        assert any(line.startswith(f"{target}: gpu ") for line in lines), target

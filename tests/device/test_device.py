"""The checks of this folder, each file in a process of its own on a device that is no CPU.

Autograd counts the devices at the first backward pass of a process, so the simulated one has to be
there by then; and it is there for good, which no other test should notice.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import simulated
import torch

CHECKS = sorted(path.stem for path in Path(__file__).parent.glob("check_*.py"))


def run_checks(name: str, device: str) -> None:
    path = Path(__file__).parent / f"{name}.py"
    found = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", path],
        env={**os.environ, "CAPTUM_DECONV_DEVICE": device},
        capture_output=True,
        text=True,
    )
    assert found.returncode == 0, found.stdout[-8000:] + found.stderr[-2000:]


@pytest.mark.parametrize("name", CHECKS)
@pytest.mark.skipif(simulated.find_lack() is not None, reason=str(simulated.find_lack()))
def test_on_the_simulated_device(name):
    run_checks(name, simulated.NAME)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", CHECKS)
def test_on_a_gpu(name):
    run_checks(name, "cuda")

"""Two processes of ``torchrun`` give the file that one gives, and one's death loses nothing."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import scan_program
import torch

from captum_deconv import features

PROGRAM = Path(scan_program.__file__)


def run_two(folder: Path, kind: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", "2", str(PROGRAM), str(folder), kind]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=100, check=False
    )


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> bytes:
    """Return the file of a scan by one process."""
    path = tmp_path_factory.mktemp("alone") / "index"
    with pytest.warns(features.ScanWarning):
        scan_program.scan(scan_program.Slow(0), None).save(path)
    return path.read_bytes()


def test_two_ranks_give_the_same_file(tmp_path, alone):
    finished = run_two(tmp_path, "0")
    assert finished.returncode == 0, finished.stderr
    assert (tmp_path / "index").read_bytes() == alone
    parts = [features.ActivationIndex.load(tmp_path / f"checkpoint.{rank}-of-2") for rank in (0, 1)]
    assert [part.covered for part in parts] == [[(0, 100)], [(100, 203)]]


def test_a_killed_rank_is_a_clear_failure_and_loses_nothing(tmp_path, alone):
    killed = run_two(tmp_path, "killer")
    assert killed.returncode != 0
    assert "SIGKILL" in killed.stderr or "exitcode  : -9" in killed.stderr, killed.stderr
    assert not (tmp_path / "index").exists(), "half an index is none"
    ((start, stop),) = features.ActivationIndex.load(tmp_path / "checkpoint.1-of-2").covered
    # All whole batches before the fatal sample, but for the one computed while that was read.
    assert start == 100
    assert stop in (144, 148)
    finished = run_two(tmp_path, "killer")
    assert finished.returncode == 0, finished.stderr
    assert (tmp_path / "index").read_bytes() == alone


def test_another_number_of_processes_is_an_error(tmp_path):
    images = torch.rand(8, 3, 8, 8)
    settings = {"checkpoint": tmp_path / "checkpoint", "progress": False}
    features.scan(scan_program.build_model(), "0", images, shard=(0, 2), **settings)
    with pytest.raises(ValueError, match=r"in 2 parts, and this one is in 3: start as many"):
        features.scan(scan_program.build_model(), "0", images, shard=(0, 3), **settings)


def test_a_lost_process_is_said_clearly(monkeypatch):
    from captum_deconv.features import distributed

    def fail(*_: object) -> None:
        raise RuntimeError("Connection closed by peer")

    monkeypatch.setattr(distributed.distributed, "get_world_size", lambda: 2)
    monkeypatch.setattr(distributed.distributed, "get_rank", lambda: 0)
    monkeypatch.setattr(distributed.distributed, "all_gather_object", fail)
    with pytest.raises(features.ScanInterruptedError, match="start the same command again"):
        distributed.gather({})

"""A run that is killed, or done in parts, leaves the files that an undisturbed one leaves."""

import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import collect_program
import pytest
import torch

from captum_deconv import Collection, collect
from captum_deconv.collection import CollectionError

PROGRAM = Path(collect_program.__file__)


def read(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((folder / "kept").iterdir())}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> dict[str, bytes]:
    """Return the files of a run that nothing disturbed."""
    folder = tmp_path_factory.mktemp("undisturbed")
    kept = collect_program.run(folder, "0")
    assert len(kept) == collect_program.LENGTH - 1
    files = read(folder)
    assert len(files) > 3  # several shards, and the manifest
    return files


def done(folder: Path) -> int:
    found = list((folder / "kept").glob("progress-*.json"))
    return sum(json.loads(path.read_text())["done"] for path in found)


@pytest.mark.parametrize("count", [1, 3])
def test_killed_twenty_times(count, tmp_path, undisturbed, monkeypatch):
    chance = random.Random(count)
    context = multiprocessing.get_context("forkserver")
    monkeypatch.setenv("PYTHONPATH", str(PROGRAM.parent))  # else it does not find the module
    context.set_forkserver_preload(["collect_program"])
    reached = [0]
    for _ in range(20):
        processes = [
            context.Process(
                target=collect_program.run,
                args=(tmp_path, "0.005"),
                kwargs={"shard": (number, count)},
            )
            for number in range(count)
        ]
        for process in processes:
            process.start()
        while done(tmp_path) <= reached[-1] and any(process.is_alive() for process in processes):
            time.sleep(0.002)
        for process in processes:
            time.sleep(chance.uniform(0, 0.02))
            process.kill()
        for process in processes:
            process.join()
        codes = {process.exitcode for process in processes}
        assert -signal.SIGKILL in codes, "all had finished: nothing was interrupted"
        with pytest.raises(CollectionError, match="run collect again to complete it"):
            Collection.open(tmp_path / "kept")
        reached.append(done(tmp_path))
    assert reached == sorted(set(reached)), "each went on from where the last one was"
    for number in range(count):
        collect_program.run(tmp_path, "0", shard=(number, count))
    assert read(tmp_path) == undisturbed


def test_only_what_is_left_is_computed(tmp_path, undisturbed, monkeypatch):
    reads: list[int] = []
    slow = collect_program.Slow.__getitem__

    def watched(self, index):
        reads.append(index)
        if len(reads) > 60:
            raise KeyboardInterrupt
        return slow(self, index)

    monkeypatch.setattr(collect_program.Slow, "__getitem__", watched)
    with pytest.raises(KeyboardInterrupt):
        collect_program.run(tmp_path, "0")
    first = done(tmp_path) * 4
    assert 0 < first < 60
    monkeypatch.setattr(collect_program.Slow, "__getitem__", slow)
    collect_program.run(tmp_path, "0")
    assert read(tmp_path) == undisturbed


def test_parts_by_number(tmp_path, undisturbed):
    assert collect_program.run(tmp_path, "0", shard=(1, 3)) is None
    assert collect_program.run(tmp_path, "0", shard=(2, 3)) is None
    with pytest.raises(CollectionError, match="in other parts than 2"):
        collect_program.run(tmp_path, "0", shard=(0, 2))
    assert collect_program.run(tmp_path, "0", shard=(0, 3)) is not None
    assert read(tmp_path) == undisturbed


@pytest.mark.parametrize("by_size", [False, True])
def test_two_processes_of_torchrun(by_size, tmp_path, undisturbed):
    if by_size:
        collect_program.run(tmp_path / "alone", "0", by_size=True)
        undisturbed = read(tmp_path / "alone")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", "2", str(PROGRAM), str(tmp_path), "0"]
    command += ["by-size"] * by_size
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    finished = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=100, check=False
    )
    assert finished.returncode == 0, finished.stderr
    assert read(tmp_path) == undisturbed


def test_a_complete_one_is_opened_and_another_is_refused(tmp_path):
    model, out = collect_program.build_model(), tmp_path / "kept"
    images = torch.rand(6, 3, 12, 12)
    how = {"progress": False, "methods": ["deconvnet"]}
    collect(model, images, out, **how)
    before = read(tmp_path)
    calls = []
    handle = model.register_forward_hook(lambda *_: calls.append(1))
    assert len(collect(model, images, out, **how)) == 6
    assert not calls
    handle.remove()
    for change, word in (
        ({"target": 3}, "target: predicted, not 3"),
        ({"output": lambda found: found}, "output: None, not function"),
        ({"batch_size": 2}, "batches: 6, not 2"),
        ({"dtype": torch.float32}, "dtype: float16, not float32"),
        ({"methods": ["guided_backprop"]}, "methods"),
    ):
        with pytest.raises(CollectionError, match=word):
            collect(model, images, out, **{**how, **change})
    with pytest.raises(CollectionError, match="other contents"):
        collect(model, images + 1, out, **how)
    model[0].weight.data += 1
    with pytest.raises(CollectionError, match="the weights"):
        collect(model, images, out, **how)
    assert read(tmp_path) == before

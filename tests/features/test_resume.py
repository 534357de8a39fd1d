"""A scan that is killed goes on where it was, and nothing tells that it ever stopped."""

import multiprocessing
import random
import signal
import time
from pathlib import Path

import pytest
import scan_program
import torch
from torch import nn

from captum_deconv import features


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> bytes:
    """Return the file of a scan that nothing disturbed."""
    path = tmp_path_factory.mktemp("undisturbed") / "index"
    with pytest.warns(features.ScanWarning, match="1 of 203 samples"):
        scan_program.scan(scan_program.Slow(0), None).save(path)
    return path.read_bytes()


def covered(folder: Path) -> int:
    checkpoint = folder / "checkpoint"
    if not checkpoint.exists():
        return 0
    ranges = features.ActivationIndex.load(checkpoint).covered
    return ranges[0][1] if ranges else 0


def test_killed_ten_times_at_random_moments(tmp_path, undisturbed):
    chance = random.Random(0)
    # Each process is a copy of one that has imported everything, as imports take seconds.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["captum_deconv.features"])
    reached = [0]
    for _ in range(10):
        process = context.Process(target=scan_program.run, args=(tmp_path, "0.005"))
        process.start()
        before = covered(tmp_path)
        # The moment is random from when there is something new to lose.
        while covered(tmp_path) <= before and process.is_alive():
            time.sleep(0.002)
        time.sleep(chance.uniform(0, 0.05))
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL, "it had finished: nothing was interrupted"
        reached.append(covered(tmp_path))
    assert reached == sorted(set(reached)), "each went on from where the last one was"
    assert reached[-1] < scan_program.LENGTH
    process = context.Process(target=scan_program.run, args=(tmp_path, "0"))
    process.start()
    process.join()
    assert process.exitcode == 0
    assert (tmp_path / "index").read_bytes() == undisturbed


def test_only_what_is_left_is_scanned(tmp_path, undisturbed):
    reads: list[int] = []

    class Watched(scan_program.Slow):
        limit = 100

        def __getitem__(self, index):
            reads.append(index)
            if len(reads) > self.limit:
                raise KeyboardInterrupt
            return super().__getitem__(index)

    with pytest.raises(KeyboardInterrupt):
        scan_program.scan(Watched(0), tmp_path / "checkpoint")
    done = covered(tmp_path)
    assert 0 < done < 100
    Watched.limit = 1000
    reads.clear()
    with pytest.warns(features.ScanWarning):
        index = scan_program.scan(Watched(0), tmp_path / "checkpoint")
    in_the_fingerprint = 16
    assert reads[in_the_fingerprint:] == list(range(done, scan_program.LENGTH))
    index.save(tmp_path / "index")
    assert (tmp_path / "index").read_bytes() == undisturbed


def test_a_finished_checkpoint_is_the_index(tmp_path, undisturbed):
    with pytest.warns(features.ScanWarning):
        scan_program.scan(scan_program.Slow(0), tmp_path / "checkpoint")
    assert (tmp_path / "checkpoint").read_bytes() == undisturbed
    model = scan_program.build_model()
    calls = []
    model[0].register_forward_hook(lambda *_: calls.append(1))
    with pytest.warns(features.ScanWarning):
        features.scan(
            model,
            ["0", "2"],
            scan_program.Slow(0),
            batch_size=4,
            checkpoint=tmp_path / "checkpoint",
            progress=False,
        )
    assert not calls, "nothing was left to do"


def test_a_checkpoint_of_another_scan_is_an_error(tmp_path):
    model = nn.Sequential(nn.Conv2d(3, 6, 3)).eval()
    images = torch.rand(8, 3, 8, 8)
    settings = {"checkpoint": tmp_path / "checkpoint", "progress": False}
    features.scan(model, "0", images, **settings)
    before = (tmp_path / "checkpoint").read_bytes()
    with pytest.raises(features.IndexMismatchError, match=r"another scan .*k: 9, not 3"):
        features.scan(model, "0", images, k=3, **settings)
    with pytest.raises(features.IndexMismatchError, match="other contents"):
        features.scan(model, "0", images + 1, **settings)
    model[0].weight.data += 1
    with pytest.raises(features.IndexMismatchError, match="the weights"):
        features.scan(model, "0", images, **settings)
    assert (tmp_path / "checkpoint").read_bytes() == before

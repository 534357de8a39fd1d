"""What a scan and an index refuse beyond wrong options, and the wrappers that they look into."""

import json
import threading

import pytest
import safetensors
import torch
from networks import Returning
from safetensors.torch import save_file
from scans import LAYERS, assert_equal
from torch import nn
from torch.utils.data import TensorDataset

from captum_deconv import features
from captum_deconv.features.records import name_sample


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (lambda x: x.argmax(1), r"layer '1' returns torch\.int64: activations are floating-point"),
        (lambda x: x.amax((1, 2, 3)), r"a tensor \(4,\) for 4 images: it must be \(N, C,"),
        (lambda x: x[:1], r"a tensor \(1, 5, 6, 6\) for 4 images"),
        (lambda x: (x, x), "returns a tuple where one tensor was expected: choose a layer inside"),
    ],
)
def test_a_layer_that_gives_no_activations(function, words):
    model = nn.Sequential(nn.Conv2d(3, 5, 3), Returning(function)).eval()
    with pytest.raises(TypeError, match=words):
        features.scan(model, "1", torch.rand(4, 3, 8, 8), batch_size=4, progress=False)


def test_channels_that_depend_on_the_image():
    model = nn.Sequential(nn.Flatten(), nn.ReLU()).eval()
    images = [torch.rand(1, 4, width) for width in (4, 4, 5, 5)]
    how = {"batch_size": 2, "progress": False}
    with pytest.raises(ValueError, match=r"returned \(2, 20\), and for earlier images 16 channels"):
        features.scan(model, "0", images, **how)
    parts = [features.scan(model, "0", images, shard=(part, 2), **how) for part in range(2)]
    with pytest.raises(features.IndexMismatchError, match=r"shape \(16, .*\(20, .*in the other"):
        parts[0].merge(parts[1])


def test_a_checkpoint_of_another_part(small, dataset, tmp_path):
    how = {"batch_size": 5, "checkpoint": tmp_path / "checkpoint", "progress": False}
    features.scan(small, "fc", dataset, shard=(1, 2), **how)
    (part,) = tmp_path.iterdir()
    part.rename(tmp_path / "checkpoint")
    with pytest.raises(features.IndexMismatchError, match=r"another part: it begins .*, not 0"):
        features.scan(small, "fc", dataset, **how)


def test_a_file_of_another_format(small, dataset, tmp_path):
    path = tmp_path / "index"
    features.scan(small, "fc", dataset, progress=False).save(path)
    with safetensors.safe_open(path, "pt") as file:
        ((name, record),) = file.metadata().items()
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    changed = json.dumps({**json.loads(record), "format": "a newer one"})
    save_file(tensors, path, {name: changed})
    with pytest.raises(features.IndexFileError, match="the format 'a newer one'; this version"):
        features.ActivationIndex.load(path)


def test_parts_without_a_sample_merge(small, dataset):
    data = TensorDataset(dataset.tensors[0][:2])
    how = {"batch_size": 2, "progress": False}
    whole = features.scan(small, LAYERS, data, **how)
    parts = [features.scan(small, LAYERS, data, shard=(part, 4), **how) for part in range(4)]
    empty = [part for part in parts if not part.covered]
    merged, *rest = [*empty, *(part for part in parts if part.covered)]
    assert len(empty) > 1
    for part in rest:
        merged = merged.merge(part)
    assert_equal(merged, whole)


@pytest.mark.parametrize("wrap", [nn.DataParallel, torch.compile])
def test_a_wrapped_model_is_the_model(wrap, small, dataset):
    plain = features.scan(small, LAYERS, dataset, progress=False)
    found = features.scan(wrap(small).eval(), LAYERS, dataset, device="cpu", progress=False)
    assert_equal(found, plain)


def test_another_thread_may_use_the_model_meanwhile(small, dataset):
    plain = features.scan(small, LAYERS, dataset, progress=False)
    owner, passes = threading.get_ident(), []

    def disturb(*_):
        if threading.get_ident() == owner:
            other = threading.Thread(
                target=lambda: passes.append(small(torch.full((9, 3, 8, 8), 99.0)))
            )
            other.start()
            other.join()

    small.pool.register_forward_hook(disturb)
    assert_equal(features.scan(small, LAYERS, dataset, progress=False), plain)
    assert passes


def test_samples_that_are_no_paths_have_no_name(dataset):
    dataset.samples = [(number, 0) for number in range(45)]
    assert name_sample(dataset, 3) is None
    dataset.samples[3] = ("photographs/a.png", 0)
    assert name_sample(dataset, 3) == "photographs/a.png"

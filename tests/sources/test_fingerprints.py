"""A hash is remembered while its tensors stay as they are, and never beyond."""

import hashlib

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from captum_deconv import features, gallery
from captum_deconv.features.records import describe_dataset
from captum_deconv.sources import weights
from captum_deconv.sources.weights import hash_weights


@pytest.fixture
def hashed(monkeypatch):
    """Count how often weights are hashed in full."""
    counted = []
    recall = weights.recall

    def count(key, tensors, compute):
        return recall(key, tensors, lambda: counted.append(1) or compute())

    monkeypatch.setattr(weights, "recall", count)
    return counted


def build():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 80, 5), nn.BatchNorm2d(80), nn.ReLU(), nn.Conv2d(80, 4, 3))


def hash_afresh(model):
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def test_the_same_weights_are_hashed_once(hashed):
    model = build()
    first = hash_weights(model)
    assert first == hash_weights(model) == hash_afresh(model)
    assert hashed == [1]
    assert hash_weights(build()) == first  # another model, the same values
    assert hashed == [1, 1]


def replace(model):
    model[0].weight = nn.Parameter(model[0].weight.detach() + 1)


CHANGES = {
    "in place": lambda m: torch.no_grad()(m[0].weight.add_)(1),
    "one value in place": lambda m: torch.no_grad()(m[0].weight[3, 1, 2, 2].mul_)(1.5),
    "by its data": lambda m: m[0].weight.data.mul_(1.001),
    "one value of a small one by its data": lambda m: m[1].running_var.data[7].add_(1e-3),
    "replaced": replace,
    "swapped memory": lambda m: setattr(m[0].weight, "data", m[0].weight.data.flip(0)),
    "another type": lambda m: m.double(),
    "loaded": lambda m: m.load_state_dict({k: v * 2 for k, v in build().state_dict().items()}),
    "a statistic": lambda m: m.train()(torch.rand(2, 3, 9, 9)) is not None and m.eval(),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_change_between_two_calls_is_noticed(change):
    model = build()
    before = hash_weights(model)
    change(model)
    assert hash_weights(model) == hash_afresh(model) != before


def test_a_change_of_weights_with_holes_in_their_memory_is_noticed():
    model = nn.Linear(200, 80)
    model.weight = nn.Parameter(torch.rand(80, 400)[:, ::2])
    before = hash_weights(model)
    model.weight.data.mul_(1.001)
    assert hash_weights(model) == hash_afresh(model) != before


def test_inference_tensors_are_hashed_each_time(hashed):
    with torch.inference_mode():
        model = build()
    assert hash_weights(model) == hash_weights(model)
    assert len(hashed) == 2


@pytest.mark.parametrize("wrap", [TensorDataset, lambda t: t, list])
def test_data_in_memory(wrap):
    images = torch.rand(20, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    dataset = wrap(images)
    first = describe_dataset(dataset)
    assert describe_dataset(dataset) == first
    images[0, 0, 0, 0] += 1
    assert describe_dataset(dataset)["fingerprint"] != first["fingerprint"]


def test_a_gallery_of_changed_weights_is_refused_and_an_unchanged_one_is_not_hashed_again(hashed):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()).eval()
    images = list(torch.rand(6, 3, 9, 9))
    index = features.scan(model, "1", images, progress=False)
    for _ in range(3):
        gallery.project(index, model, images)
    assert hashed == [1]
    model[0].bias.data[0] += 1e-6  # far less than activations would tell
    with pytest.raises(features.IndexMismatchError, match="the weights"):
        gallery.project(index, model, images)

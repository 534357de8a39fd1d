"""A field that is found from shapes alone: the same, at once, and without touching the model."""

import threading

import pytest
import torch
from snapshot import Snapshot
from torch import nn

from captum_deconv import receptive_field
from captum_deconv.receptive_field import shapes


def build():
    torch.manual_seed(0)
    body = [nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.MaxPool2d(2), nn.Conv2d(4, 2, 3)]
    return nn.Sequential(*body).eval()


IMAGE = torch.rand(3, 16, 20, generator=torch.Generator().manual_seed(0))


def test_it_is_the_field_that_a_pass_finds():
    model = build()
    for layer in ("0", "2", "3"):
        found = shapes.find_field(model, layer, IMAGE)
        assert found == receptive_field.of(model, layer, IMAGE[None])
        assert found.box((2, 3)) == receptive_field.of(model, layer, IMAGE[None]).box((2, 3))


def test_the_model_neither_runs_nor_changes():
    model = build().train()
    model[0].register_forward_hook(lambda *_: pytest.fail("the user's hook ran"))
    model[2].register_forward_pre_hook(lambda *_: pytest.fail("the user's hook ran"))
    snapshot = Snapshot(model, IMAGE)
    shapes.find_field(model, "3", IMAGE)
    snapshot.assert_unchanged()


@pytest.mark.parametrize("dtype", [torch.float, torch.double])
def test_a_head_that_does_not_fit_the_image_is_not_run(dtype):
    model = nn.Sequential(build(), nn.Flatten(), nn.Linear(7, 2)).to(dtype)
    model[0].register_forward_pre_hook(lambda *_: pytest.fail("the model ran"))
    assert shapes.find_field(model, "0.3", IMAGE.to(dtype)).size == (8, 8)


def test_asked_again_it_is_not_traced_again(monkeypatch):
    model, found = build(), []
    find = shapes._find
    monkeypatch.setattr(shapes, "_find", lambda *asked: found.append(asked[1:]) or find(*asked))
    first = shapes.find_field(model, "3", IMAGE)
    assert shapes.find_field(model, "3", torch.zeros_like(IMAGE)) is first
    assert len(found) == 1
    larger = shapes.find_field(model, "3", torch.zeros(3, 32, 32))
    assert larger.image_size == (32, 32)
    assert shapes.find_field(model, "2", IMAGE).size == (4, 4)
    model[3].stride = (2, 2)
    assert shapes.find_field(model, "3", IMAGE).stride == (4, 4)
    assert len(found) == 4
    shapes.find_field(build(), "3", IMAGE)  # of another model, if one of the same text
    assert len(found) == 5


def test_no_more_fields_are_kept_than_a_number(monkeypatch):
    monkeypatch.setattr(shapes, "_MOST", 2)
    model = build()
    for layer in ("0", "1", "2", "3"):
        shapes.find_field(model, layer, IMAGE)
        assert len(shapes._found[model]) <= 2
    assert {layer for layer, *_ in shapes._found[model]} == {"2", "3"}


class OfValues(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = build()

    def forward(self, x):
        return self.body(x if float(x.mean()) < 9 else -x)


class WithLock(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.lock = build(), threading.Lock()

    def forward(self, x):
        with self.lock:
            return self.body(x)


@pytest.mark.parametrize("model", [OfValues, WithLock])
def test_what_cannot_be_copied_or_reads_values_computes(model):
    model = model().eval()
    with pytest.raises((RuntimeError, TypeError)):
        shapes._trace_shapes(model, "body.3", IMAGE)
    found = shapes.find_field(model, "body.3", IMAGE)
    assert found == receptive_field.of(build(), "3", IMAGE[None])


def test_a_copy_has_shapes_and_no_values():
    model = build()
    model.tied = model[0]
    model[3].weight.requires_grad_(False)
    model[3].register_forward_hook(print)
    copied = shapes.copy_shapes(model)
    assert copied.tied is copied[0]
    for (name, ours), (other, theirs) in zip(
        copied.state_dict(keep_vars=True).items(),
        model.state_dict(keep_vars=True).items(),
        strict=True,
    ):
        assert (name, ours.shape, ours.dtype) == (other, theirs.shape, theirs.dtype)
        assert ours.is_meta
        assert not theirs.is_meta
        assert ours.requires_grad == theirs.requires_grad
        assert isinstance(ours, nn.Parameter) == isinstance(theirs, nn.Parameter)
    assert not copied[3]._forward_hooks
    assert len(model[3]._forward_hooks) == 1

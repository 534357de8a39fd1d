"""On a device that one waits for, all conditions of a call are read in one go."""

import pytest
import torch

from captum_deconv import (
    Deconvnet,
    GuidedBackprop,
    GuidedGradCam,
    LayerDeconvnet,
    NeuronDeconvnet,
    compare,
)
from captum_deconv.engine import _captum, checks


@pytest.fixture
def waits(monkeypatch):
    """Let the CPU stand for a device that one waits for, and count the waits."""
    counted = []
    settle = checks.Checks.settle

    def count(self):
        if self._waiting:
            counted.append(len(self._waiting))
        settle(self)

    monkeypatch.setattr(checks, "is_far", lambda tensor: True)
    monkeypatch.setattr(checks.Checks, "settle", count)
    return counted


@pytest.fixture
def far_targets(monkeypatch):
    """Let targets on the CPU stand for targets on a GPU."""
    select = _captum._select_targets
    monkeypatch.setattr(_captum, "is_far", lambda target: isinstance(target, torch.Tensor))
    monkeypatch.setattr(_captum, "_sent", lambda target, output: target)
    monkeypatch.setattr(
        _captum,
        "_select_targets",
        lambda output, target: (
            pytest.fail("Captum's reads it")
            if isinstance(target, torch.Tensor)
            else select(output, target)
        ),
    )


CALLS = [
    lambda model, x, target: GuidedBackprop(model).attribute(x, target),
    lambda model, x, target: LayerDeconvnet(model, "conv2").attribute(x, target),
    lambda model, x, target: GuidedGradCam(model, "conv2").attribute(x, target),
    lambda model, x, target: compare(model, x, target)["deconvnet"],
]


@pytest.mark.parametrize("call", CALLS)
def test_one_wait_for_all(call, model, images, waits, far_targets):
    expected = call(model, images, [0, 4, 2])
    del waits[:]
    result = call(model, images, torch.tensor([0, -1, 2]))
    assert torch.equal(result, expected)
    assert waits == [2]  # finite, and in range


@pytest.mark.parametrize("call", CALLS)
def test_the_errors_are_the_same(call, model, images, waits, far_targets):
    for target in ([0, 1, 5], [0, 1, -6]):
        with pytest.raises(IndexError, match=r"out of range.*0 to 4"):
            call(model, images, torch.tensor(target))
    one = call(model, images, torch.tensor(3))
    assert torch.equal(one, call(model, images, 3))
    images[0, 0, 0, 0] = float("nan")
    with pytest.raises(ValueError, match=r"inputs\[0\] holds 1 NaN"):
        call(model, images, torch.tensor([0, 1, 2]))


def test_a_neuron_waits_once(model, images, waits):
    NeuronDeconvnet(model, "conv1").attribute(images, (0, 1, 1))
    assert waits == [1]


def test_on_the_cpu_nothing_is_put_off(model, images):
    calls = []
    model.register_forward_hook(lambda *_: calls.append(1))
    images[0, 0, 0, 0] = float("inf")
    with pytest.raises(ValueError, match="infinite"):
        Deconvnet(model).attribute(images, 1)
    assert not calls


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
def test_on_a_gpu(model, images):
    model, images = model.cuda(), images.cuda()
    target = torch.tensor([0, 4, 2], device="cuda")
    torch.cuda.set_sync_debug_mode("error")
    try:
        call = GuidedBackprop(model)
        with pytest.raises(RuntimeError, match="synchronizing"):  # the one wait
            call.attribute(images, target)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    images[0, 0, 0, 0] = float("nan")
    with pytest.raises(ValueError, match="holds 1 NaN"):
        call.attribute(images, target)

"""The control: a tensor made without saying where fails the checks of the other files."""

import pytest
import torch
from calls import CALLS, build_model, make_images
from check_rooms import scan

from captum_deconv.engine import recording, rules
from captum_deconv.features import scanner

FOREIGN = "same device|on cpu|different device"


def plant(monkeypatch, owner, name):
    """Add zeros that are on the CPU to what a function returns."""
    original = getattr(owner, name)

    def planted(*args, **kwargs):
        found = original(*args, **kwargs)
        return found + torch.zeros(found.shape[-1:] or (1,))

    monkeypatch.setattr(owner, name, planted)


@pytest.mark.parametrize("call", ["InputGradient", "GuidedBackprop", "compare", "LayerDeconvnet"])
def test_in_a_forward_pass(call, device, monkeypatch):
    model, images = build_model().to(device), make_images().to(device)
    CALLS[call](model, images)
    plant(monkeypatch, recording, "select_target")
    with pytest.raises(RuntimeError, match=FOREIGN):
        CALLS[call](model, images)


@pytest.mark.parametrize("rule", ["guided_backprop", "deconvnet"])
def test_in_a_rule(rule, device, monkeypatch):
    model, images = build_model().to(device), make_images().to(device)
    original = rules.RULES[rule]
    monkeypatch.setitem(rules.RULES, rule, lambda *args: original(*args) + torch.zeros(1))
    with pytest.raises(RuntimeError, match=FOREIGN):
        CALLS["compare"](model, images)


def test_in_a_scan(device, monkeypatch):
    plant(monkeypatch, scanner, "take_maxima")
    with pytest.raises(RuntimeError, match=FOREIGN):
        scan(device)


def test_what_is_allowed_on_a_gpu_too(device):
    x = torch.ones(3, 4, device=device)
    assert (x * torch.tensor(2.0)).device == x.device  # a scalar may be the CPU's
    assert x[torch.tensor([0, 2])].shape == (2, 4)  # and so may indices
    with pytest.raises(RuntimeError, match=FOREIGN):
        torch.cat([x, torch.zeros(1, 4)])
    with pytest.raises(RuntimeError, match="generator"):
        torch.rand(2, generator=torch.Generator(), device=device)
    with pytest.raises(TypeError, match="numpy"):
        x.numpy()

"""Every public call on a device: the CPU's result, there, and no more waits than are needed."""

import pytest
import simulated
import torch
from calls import CALLS, build_model, make_images
from snapshot import Snapshot
from torch import nn

import captum_deconv as cd

ONCE = {"copy to the host": 1}
"""To read whether the inputs are finite and the target is in range, when the result is there."""

WAITS = {
    # Where the neurons are, too: the first's, and then all others' that were read ahead. One that
    # is in no small part of the image is asked for again before the next.
    "NeuronDeconvnet.attribute_each": {"copy to the host": 4},
    # Whether the crops' activations are the image's, beside the conditions on the image.
    "NeuronDeconvnet.attribute_each, by crops": {"copy to the host": 4},
    "gradient_func": {"copy from the host": 1, "copy to the host": 1},  # Captum's step sizes
}
"""By call, where it is more than once."""


@pytest.mark.parametrize("name", CALLS)
def test_equals_the_cpu(name, device, assert_like_cpu):
    model, images = build_model(), make_images()
    expected = CALLS[name](model, images)
    far_model, far_images = build_model().to(device), images.to(device)
    before = Snapshot(far_model, far_images)
    found = CALLS[name](far_model, far_images)
    before.assert_unchanged()
    assert_like_cpu(found, expected, name)


@pytest.mark.parametrize("name", CALLS)
def test_waits_for_the_device(name, device):
    if device != simulated.NAME:
        pytest.skip("waits are counted on the simulated device")
    model, images = build_model().to(device), make_images().to(device)
    CALLS[name](model, images)
    with simulated.count_waits() as waits:
        CALLS[name](model, images)
    assert dict(waits) == WAITS.get(name, ONCE)


@pytest.mark.parametrize("memory", ["light", "lean"])
def test_values_that_are_not_finite_are_told_of_when_the_result_is_there(memory, device):
    model, images = build_model().to(device), make_images()
    images[1, 0, 2, 3] = torch.nan
    method = cd.GuidedBackprop(model, memory=memory)
    with pytest.raises(ValueError, match="1 NaN or infinite values"):
        method.attribute(images.to(device), 1)


@pytest.mark.parametrize(
    "target",
    [2, [0, 2], torch.tensor([1, 2]), torch.tensor(2), None],
    ids=["int", "list", "one each", "one", "none"],
)
@pytest.mark.parametrize("there", [True, False])
def test_targets(target, there, device, assert_like_cpu):
    model, images = build_model(), make_images()
    model.append(nn.Flatten())  # scores either way
    if target is None:
        model.append(Sum())
    expected = cd.Deconvnet(model).attribute(images, target)
    if there and isinstance(target, torch.Tensor):
        target = target.to(device)
    found = cd.Deconvnet(model.to(device)).attribute(images.to(device), target)
    assert_like_cpu(found, expected)


@pytest.mark.parametrize("target", [3, [0, 3], torch.tensor([0, -4])])
def test_targets_out_of_range(target, device):
    model, images = build_model().to(device), make_images().to(device)
    if isinstance(target, torch.Tensor):
        target = target.to(device)
    with pytest.raises(IndexError, match="out of range"):
        cd.Deconvnet(model).attribute(images, target)


def test_a_model_on_the_one_and_images_on_the_other(device):
    with pytest.raises(RuntimeError, match=r"inputs\[0\] is on .*move one of them"):
        cd.Deconvnet(build_model().to(device)).attribute(make_images(), 1)
    with pytest.raises(RuntimeError, match=r"inputs\[0\] is on .*move one of them"):
        cd.Deconvnet(build_model()).attribute(make_images().to(device), 1)


def test_an_empty_attribution_is_where_its_input_is(device):
    class Beside(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = build_model()

        def forward(self, images, factors):
            return self.model(images) * factors

    inputs = make_images().to(device), torch.ones(2, 3, device=device)
    method = cd.GuidedGradCam(Beside().to(device), "model.second")
    with pytest.warns(UserWarning, match="its attribution is empty"):
        of_images, of_factors = method.attribute(inputs, 1)
    assert of_images.shape == inputs[0].shape
    assert of_factors.numel() == 0
    assert of_factors.device == inputs[1].device


class Sum(nn.Module):
    def forward(self, x):
        return x.sum(1)

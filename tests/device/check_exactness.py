"""The reference of ``tests/engine/test_exactness.py``, on a device."""

import networks
import pytest
import torch
import torch.nn.functional as F
from agreement import check_all, check_inputs
from torch import nn

import captum_deconv as cd

NEURON = ("second", (2, 1, 1))

SPELLINGS = {
    "relu": F.relu,
    "in place": lambda x: F.relu(x, inplace=True),
    "ReLU6": nn.ReLU6(),
    "threshold": nn.Threshold(0, 0),
    "clamp": lambda x: x.clamp(min=0),
    "clamp_max": lambda x: x.clamp(0, 4),
    "maximum": lambda x: torch.maximum(x, torch.zeros_like(x)),
    "maximum of a scalar": lambda x: torch.maximum(x, torch.zeros((), device=x.device)),
}


@pytest.fixture(autouse=True)
def deterministic(monkeypatch):
    """Let the same sum come out the same twice, where the device is a GPU."""
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)


def seeded(build, device, *arguments):
    torch.manual_seed(0)
    return build(*arguments).eval().to(device)


def image(device):
    return torch.randn(2, 3, 6, 7, generator=torch.Generator().manual_seed(1)).to(device)


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_spellings(spelling, device):
    model = seeded(networks.Plain, device, SPELLINGS[spelling])
    check_all(model, image(device), 1, neuron=NEURON, layer="first")


@pytest.mark.parametrize("build", [networks.Skip, networks.FirstInPlace, networks.FrozenBranch])
def test_networks(build, device):
    check_all(seeded(build, device), image(device), 1, neuron=NEURON, layer="first")


def test_a_rectifier_on_two_branches(device):
    model = seeded(networks.Branches, device, nn.ReLU())
    check_all(model, image(device), 1, neuron=NEURON, layer="first")


class Direct(networks.Checkpointed):
    def forward(self, x):
        return self.head(self.stage(x).mean((2, 3)))


def test_one_that_is_recomputed_by_the_thread_of_the_device(device):
    model, direct = seeded(networks.Checkpointed, device), seeded(Direct, device)
    check_inputs(model, image(device), 1, eager=direct)


def test_several_inputs(device):
    model = seeded(networks.SeveralInputs, device)
    first, second, third = (image(device) * factor for factor in (1, 0.5, 2))
    factor = torch.tensor(1.5, device=device)
    check_inputs(model, (first, second, third), 1, arguments=(factor, True))


@pytest.mark.parametrize("kind", [nn.LeakyReLU, nn.PReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Softplus])
def test_other_families(kind, device):
    model = seeded(networks.Plain, device, kind())
    check_inputs(model, image(device), 1, activations="all")


def test_what_is_left_alone_is_told(device):
    model = seeded(networks.Plain, device, nn.GELU())
    with pytest.warns(cd.RectifierCoverageWarning, match="GELU"):
        cd.GuidedBackprop(model).attribute(image(device), 1)

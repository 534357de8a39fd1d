"""Networks and chains for the tests of the mirror."""

import pytest
import torch
import torchvision
from chains import OPERATORS, small_chain
from torch import nn


@pytest.fixture(scope="module")
def networks():
    """AlexNet and VGG-11, with and without batch norm, random and in float64."""
    torch.manual_seed(0)
    made = {}
    for name in ("alexnet", "vgg11", "vgg11_bn"):
        with torch.device("meta"):
            network = getattr(torchvision.models, name)(weights=None)
        # 4096 units take a gigabyte in float64, and show nothing that 64 do not.
        for position, module in enumerate(network.classifier):
            if isinstance(module, nn.Linear):
                units = [64 if n == 4096 else n for n in (module.in_features, module.out_features)]
                network.classifier[position] = nn.Linear(*units, device="meta")
        network = network.to_empty(device="cpu").double().eval()
        for module in network.modules():
            if hasattr(module, "reset_parameters"):
                module.reset_parameters()
            if isinstance(module, nn.BatchNorm2d):  # as after training, some scales negative
                nn.init.normal_(module.running_mean)
                nn.init.uniform_(module.running_var, 0.5, 2)
                nn.init.normal_(module.weight)
                nn.init.normal_(module.bias)
        made[name] = network
    return made


@pytest.fixture
def chain():
    return small_chain()


@pytest.fixture
def inputs():
    generator = torch.Generator().manual_seed(3)
    return torch.randn(3, 3, 32, 32, dtype=torch.float64, generator=generator)


@pytest.fixture(params=OPERATORS)
def operator(request):
    """A module, a point to linearise it at, a direction there and a signal from above."""
    make, shape = OPERATORS[request.param]
    torch.manual_seed(4)
    module = make().double().eval()
    for tensor in module.state_dict().values():
        if tensor.is_floating_point():
            tensor.uniform_(0.5, 2)
    x, direction = 3 * torch.randn(2, 2, *shape, dtype=torch.float64)
    return module, x, direction, torch.randn_like(module(x))

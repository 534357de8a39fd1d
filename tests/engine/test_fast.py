"""The faster copy: the same function, the same names; the model stays as it is."""

import pytest
import torch
import torchvision
from snapshot import Snapshot
from torch import nn

from captum_deconv.engine.fast import make_fast, measure_difference


def with_statistics(model: nn.Module) -> nn.Module:
    """Give every batch norm statistics and weights that do something."""
    for module in model.modules():
        is_norm = isinstance(module, nn.modules.batchnorm._BatchNorm)
        if is_norm and module.running_mean is not None:
            nn.init.uniform_(module.running_mean, -0.5, 0.5)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.5, 0.5)
    return model.eval()


def count_norms(model):
    return sum(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in model.modules())


@pytest.mark.parametrize(
    ("name", "folded", "left"),
    [("resnet18", 20, 0), ("squeezenet1_1", 0, 0), ("vgg11_bn", 8, 0), ("densenet121", 59, 62)],
)
def test_torchvisions_networks(name, folded, left):
    torch.manual_seed(0)
    model = with_statistics(torchvision.models.get_model(name, weights=None)).double()
    images = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    before = Snapshot(model, images)
    copy = make_fast(model)
    before.assert_unchanged()
    assert (copy.folded, copy.left) == (folded, "")
    assert f"{folded} batch norms folded" in copy.describe()
    assert count_norms(copy.model) == left
    assert [n for n, _ in copy.model.named_modules()] == [n for n, _ in model.named_modules()]
    assert not {p.data_ptr() for p in copy.model.parameters()} & {
        p.data_ptr() for p in model.parameters()
    }
    weight = next(p for p in copy.model.parameters() if p.dim() == 4)
    assert weight.is_contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        assert measure_difference(copy.model(images), model(images)) < 1e-12


def test_efficientnet_lite_whose_convolutions_are_of_a_class_of_their_own():
    pytest.importorskip("efficientnet_lite_pytorch")
    from captum_deconv.sources.models import load_model

    model = load_model("efficientnet-lite0").model
    copy = make_fast(model)
    assert copy.folded == count_norms(model) > 40
    images = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        assert measure_difference(copy.model(images), model(images)) < 1e-4


class Standardised(nn.Conv2d):
    def forward(self, x):
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        return self._conv_forward(x, weight / weight.std((1, 2, 3), keepdim=True), self.bias)


class Branches(nn.Module):
    """Everything that must not be folded."""

    def __init__(self):
        super().__init__()
        self.twice, self.norm_of_twice = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3)
        self.shared, self.norm_of_shared = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)
        self.standardised, self.norm_of_standardised = Standardised(3, 3, 1), nn.BatchNorm2d(3)
        self.hooked, self.norm_of_hooked = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)
        self.first, self.batch = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3, track_running_stats=False)
        self.last, self.norm_of_last = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)
        self.hooked.register_forward_hook(lambda m, args, output: output * 2)

    def forward(self, x):
        x = self.norm_of_twice(self.twice(self.twice(x)))
        shared = self.shared(x)
        x = self.norm_of_shared(shared) + shared
        x = self.norm_of_standardised(self.standardised(x))
        x = self.norm_of_hooked(self.hooked(x))
        x = self.batch(self.first(x))
        return self.norm_of_last(self.last(x))


def test_what_another_module_sees_is_not_folded():
    torch.manual_seed(0)
    model = with_statistics(Branches())
    images = torch.randn(2, 3, 8, 8)
    copy = make_fast(model)
    assert copy.folded == 1
    assert isinstance(copy.model.norm_of_last, nn.Identity)
    with torch.no_grad():
        assert measure_difference(copy.model(images), model(images)) < 1e-5


@pytest.mark.parametrize(
    ("layer", "folded"),
    [
        ("conv1", 19),
        ("bn1", 20),
        ("layer1.0.conv2", 19),
        ("layer1", 20),
        ("layer2.0.downsample", 20),
    ],
)
def test_the_layers_that_are_asked_for_stay_what_they_are(layer, folded):
    torch.manual_seed(0)
    model = with_statistics(torchvision.models.resnet18(weights=None)).double()
    copy = make_fast(model, [layer])
    assert copy.folded == folded
    images, seen = torch.randn(1, 3, 64, 64, dtype=torch.float64), []
    for network in (copy.model, model):
        network.get_submodule(layer).register_forward_hook(
            lambda m, a, out: seen.append(out.clone())
        )
        with torch.no_grad():
            network(images)
    assert measure_difference(*seen) < 1e-12


def test_a_network_that_cannot_be_followed_is_left_as_it_is():
    class Decides(nn.Sequential):
        def forward(self, x):
            return super().forward(x) if x.sum() > 0 else super().forward(-x)

    model = Decides(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()).eval()
    copy = make_fast(model)
    assert copy.folded == 0
    assert "torch.fx cannot follow the network" in copy.left
    images = torch.randn(1, 3, 8, 8)
    torch.testing.assert_close(copy.model(images), model(images))

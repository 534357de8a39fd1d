"""Which calls of a rectifier are measured, and on which images."""

import torch
from torch import nn

from captum_deconv.experiments import diagnose
from captum_deconv.experiments.channels import find_activations, measure_channels


def draw_images(count):
    return torch.randn(count, 3, 16, 16, generator=torch.Generator().manual_seed(1))


class Pair(nn.Module):
    def forward(self, x):
        return x, x


class Unused(nn.Module):
    """Of two calls of one rectifier the output is of the second."""

    def __init__(self):
        super().__init__()
        self.conv, self.pair, self.act = nn.Conv2d(3, 4, 3), Pair(), nn.ReLU()

    def forward(self, x):
        x, _ = self.pair(self.conv(x))
        self.act(x * 0 + 100)
        return self.act(x)


def test_a_call_that_the_output_does_not_use_is_not_counted():
    torch.manual_seed(0)
    network, images = Unused().eval(), draw_images(3)
    calls = find_activations(network, images[:1])
    assert [str(call) for call in calls] == ["act (call 2)"]
    (measured,) = measure_channels(network, calls, images)
    with torch.no_grad():
        expected = network(images).amax((0, 2, 3))
    torch.testing.assert_close(measured.highest, expected)


class Torn(list):
    """A data set of which only the first two samples can be read."""

    def __getitem__(self, number):
        if number >= 2:
            raise OSError("torn")
        return super().__getitem__(number)


def test_samples_that_cannot_be_read_are_left_out_and_told():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()).eval()
    nn.init.constant_(network[0].bias[:1].detach(), -1e3)
    images = draw_images(5)
    torn = diagnose(network, Torn(images), batch_size=2)
    whole = diagnose(network, images[:2], batch_size=2)
    assert torn.layers == whole.layers
    assert torn.images == 2
    assert "3 of 5 samples could not be read and were left out: sample 2 (" in torn.notes[0]
    assert "torn" in torn.notes[0]
    assert [finding.sentence for finding in torn.findings] == [
        "1 of 4 channels never exceed 1% of the layer's largest activation, on these 2 images."
    ]

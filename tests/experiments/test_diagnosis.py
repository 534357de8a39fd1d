"""Each measure on a network built to have exactly that fault, and on one built not to."""

import json
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from captum_deconv.experiments import diagnose, diagnosis_figure
from captum_deconv.experiments.channels import find_activations
from captum_deconv.experiments.diagnosis_figure import draw_diagnosis
from captum_deconv.experiments.filters import measure_grid, measure_likeness, measure_spectrum


def draw_images(count=6, side=48):
    generator = torch.Generator().manual_seed(1)
    coarse = torch.randn(count, 3, side // 2, side // 2, generator=generator)
    fine = torch.randn(count, 3, side, side, generator=generator)
    return F.interpolate(coarse, scale_factor=2, mode="bilinear") + fine / 2


def build(rectifier=nn.ReLU, kernel=5, stride=1):
    """A healthy network: filters at random, of zero mean, and biases of zero."""
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 12, kernel, stride=stride, padding=kernel // 2, padding_mode="zeros"),
        rectifier(),
        nn.Conv2d(12, 10, 3, padding=1),
        rectifier(),
    )
    for layer in (network[0], network[2]):
        nn.init.normal_(layer.weight)
        with torch.no_grad():
            layer.weight -= layer.weight.mean((1, 2, 3), keepdim=True)
        nn.init.zeros_(layer.bias)
    return network.eval()


def faults_of(network, images=None):
    found = diagnose(network, draw_images() if images is None else images)
    return {(finding.fault, finding.layer): finding for finding in found.findings}


@pytest.mark.parametrize("rectifier", [nn.ReLU, nn.ReLU6])
def test_a_healthy_network_has_none(rectifier):
    network = build(rectifier)
    if rectifier is nn.ReLU6:
        with torch.no_grad():  # so that little is cut off above
            network[0].weight *= 0.1
    assert faults_of(network) == {}


def test_dead_channels():
    network = build()
    with torch.no_grad():
        network[0].bias[[2, 5]] = -1e3
        network[2].bias[1] = 1e-3  # the control: weak is not dead
    faults = faults_of(network)
    assert set(faults) == {("dead", "1")}
    assert faults["dead", "1"].channels == (2, 5)
    assert "2 of 12 channels never exceed 1%" in faults["dead", "1"].sentence
    assert "on these 6 images" in faults["dead", "1"].sentence


def test_saturated_channels():
    network = build(nn.ReLU6)
    with torch.no_grad():
        network[0].weight *= 0.1
        network[0].weight[3] = 0.001
        network[0].bias[3] = 1e3
        network[2].weight[:, 3] = 0.0  # else what follows would suffer from it
    found = faults_of(network)
    assert found["saturated", "1"].channels == (3,)
    # What is at its bound everywhere is never cut below either; nothing else is wrong.
    assert set(found) == {("saturated", "1"), ("uncut", "1")}


@pytest.mark.parametrize("bounded", [nn.ReLU6, nn.ReLU])
def test_half_saturated_is_not_saturated(bounded):
    network = build(bounded)
    with torch.no_grad():
        network[0].weight *= 20  # a half is at the bound, a half at zero
    assert not any(fault == "saturated" for fault, _ in faults_of(network))


def test_near_its_largest_value_is_not_at_its_bound():
    network = build(nn.ReLU6)
    with torch.no_grad():
        network[0].weight *= 0.1
        network[0].weight[3] *= 0.1
        network[0].bias[3] = 4.0  # from about 3 to 5 everywhere, and never at 6
    assert not any(fault == "saturated" for fault, _ in faults_of(network))


def test_channels_that_fire_on_borders_only():
    network = build()
    with torch.no_grad():
        # All that this filter sees is positive, unless it sees the padding.
        network[0].weight[4] = -1.0
        network[0].bias[4] = 60.0
    images = torch.full((4, 3, 48, 48), 1.0) + draw_images(4) * 1e-3
    found = diagnose(network, images)
    assert found.layers[0].faults["border"] == (4,)
    # The control: the same filter on images of another sign fires everywhere.
    other = diagnose(network, -images)
    assert 4 not in other.layers[0].faults["border"]


def test_a_rectifier_that_never_cuts():
    network = build()
    with torch.no_grad():
        network[0].bias[:3] = 1e3
    found = faults_of(network)
    assert found["uncut", "1"].channels == (0, 1, 2)
    with torch.no_grad():
        network[0].bias[:3] = 5.0
    assert ("uncut", "1") not in faults_of(network)


def test_smooth_activations_are_no_rectifiers():
    """A sigmoid-like unit above zero everywhere is nothing wrong."""
    found = diagnose(build(nn.Softplus), draw_images())
    assert [layer.name for layer in found.layers] == ["1", "3"]
    assert "uncut" not in found.layers[0].faults


def test_near_copies():
    network = build()
    with torch.no_grad():
        network[0].weight[7] = 3 * network[0].weight[1] + 0.02
        network[2].weight[2] = -network[2].weight[6]  # an opposite is no copy
    faults = faults_of(network)
    assert set(faults) == {("copies", "0")}
    assert faults["copies", "0"].channels == (1, 7)


def test_likeness_is_the_cosine_within_a_group():
    weight = torch.randn(6, 4, 3, 3, generator=torch.Generator().manual_seed(0))
    found = measure_likeness(weight, groups=2)
    for row in range(6):
        others = [i for i in range(6) if i // 3 == row // 3 and i != row]
        cosines = [
            F.cosine_similarity(weight[row].flatten(), weight[i].flatten(), 0) for i in others
        ]
        assert math.isclose(float(found[row]), float(max(cosines)), abs_tol=1e-6)
    assert measure_likeness(torch.randn(6, 1, 3, 3), groups=6) is None
    assert measure_likeness(torch.randn(6, 4, 1, 1)) is None


def gabor(frequency, angle, side=11, width=3.0):
    steps = torch.arange(side) - side // 2
    y, x = torch.meshgrid(steps, steps, indexing="ij")
    wave = torch.cos(2 * math.pi * frequency * (x * math.cos(angle) + y * math.sin(angle)))
    return (wave * torch.exp(-(x**2 + y**2) / (2 * width**2))).expand(3, -1, -1)


def test_missing_middle_frequencies():
    angles = [number * math.pi / 6 for number in range(6)]
    network = build(kernel=11)
    extremes = [gabor(f, a) for a in angles for f in (0.03, 0.45)]
    with torch.no_grad():
        network[0].weight.copy_(torch.stack(extremes))
    faults = faults_of(network)
    assert ("frequencies", "0") in faults
    assert "a mix of extremes" in faults["frequencies", "0"].sentence
    covered = [gabor(0.04 + 0.04 * n, angles[n % 6]) for n in range(12)]
    with torch.no_grad():
        network[0].weight.copy_(torch.stack(covered))
    assert ("frequencies", "0") not in faults_of(network)


def test_the_spectrum_of_noise_is_even():
    torch.manual_seed(0)
    noise = measure_spectrum(torch.randn(500, 3, 11, 11))
    assert 0.9 < noise.gap < 1.1
    # Each filter's power is its energy: the mean density over the plane is one.
    assert all(math.isclose(value, 1, abs_tol=0.1) for value in noise.radial)
    smooth = measure_spectrum(torch.ones(4, 3, 9, 9))
    assert smooth.low > 10 * smooth.middle > 10 * smooth.high
    assert smooth.gap > 1
    assert measure_spectrum(torch.randn(5, 3, 3, 3)) is None
    assert measure_spectrum(torch.zeros(5, 3, 7, 7)) is None


def test_the_grid_of_a_large_stride():
    network = build(kernel=9, stride=4)
    with torch.no_grad():
        # One pixel in each filter: a projection lights one in sixteen.
        network[0].weight.zero_()
        network[0].weight[torch.arange(12), torch.arange(12) % 3, 4, 4] = 1.0
        network[0].weight[6:] *= -1
    found = diagnose(network, draw_images())
    assert found.stride == 4
    assert math.isclose(found.unevenness, math.sqrt(15), rel_tol=1e-6)
    (finding,) = (f for f in found.findings if f.fault == "aliasing")
    assert "a grid of 4 pixels" in finding.sentence
    smooth = build(kernel=9, stride=4)
    with torch.no_grad():
        steps = (torch.arange(9) - 4.0) / 3
        bump = torch.exp(-(steps[:, None] ** 2 + steps[None] ** 2) / 2)
        smooth[0].weight.copy_(smooth[0].weight.mean((2, 3), keepdim=True).sign() * bump)
    healthy = diagnose(smooth, draw_images())
    assert healthy.unevenness < 0.5
    assert diagnose(build(), draw_images()).grid is None


def test_the_grid_is_of_the_image_not_of_the_patch():
    lit = torch.zeros(1, 8, 8)
    lit[0, ::2, ::2] = 1.0
    one = measure_grid([lit], [(0, 0)], 2)
    assert one.tolist() == [[4.0, 0.0], [0.0, 0.0]]
    # Patches that begin at other phases, lit as the image is.
    assert measure_grid([lit[:, 1:]], [(3, 0)], 2).tolist()[0][0] > 0
    both = measure_grid([lit, lit], [(0, 0), (1, 1)], 2)
    assert both.tolist() == [[2.0, 0.0], [0.0, 2.0]]
    assert measure_grid([torch.zeros(1, 8, 8)], [(0, 0)], 2) is None


class Listed(nn.Module):
    """Layers in a list, which itself is never called."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 9, stride=4)
        self.list = nn.ModuleList([nn.Conv2d(4, 4, 3)])

    def forward(self, x):
        x = self.stem(x)
        for layer in self.list:
            x = layer(x)
        return x


class Twice(Listed):
    def forward(self, x):
        return self.list[0](super().forward(x))


class Gate(nn.Module):
    """A convolution that is scaled by what all of the image holds."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 1)

    def forward(self, x):
        return self.conv(x) * x.mean((2, 3), keepdim=True).sigmoid()


def build_strided(*behind):
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 9, stride=4), nn.ReLU(), *behind).eval()


def test_the_grid_is_of_a_layer_in_a_list_too():
    found = diagnose(Listed().eval(), draw_images())
    assert found.through == "list.0"
    assert found.grid.shape == (4, 4)


@pytest.mark.parametrize(
    "network",
    [
        build_strided(),
        build_strided(nn.Conv2d(4, 4, 1)),
        build_strided(Gate()),
        Twice().eval(),
    ],
    ids=["nothing behind", "sees no more", "sees all of the image", "called twice"],
)
def test_no_grid_without_a_layer_behind_the_stride_that_crops_can_show(network):
    found = diagnose(network, draw_images(3))
    assert (found.stride, found.through, found.grid) == (4, "", None)


def test_no_grid_behind_a_layer_of_dead_channels():
    network = build_strided(nn.Conv2d(4, 4, 3), nn.ReLU())
    nn.init.constant_(network[2].bias, -1e3)
    found = diagnose(network, draw_images(3))
    assert (found.through, found.grid) == ("2", None)


def test_without_activations_and_without_filters_to_compare():
    found = diagnose(nn.Sequential(nn.Conv2d(3, 4, 1)).eval(), draw_images(3))
    assert (found.layers, found.filters) == ((), ())
    assert "no module returns the output of an activation function" in found.notes
    assert "No finding." in written(found)


def test_without_a_convolution_there_are_no_filters_to_draw():
    network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 5), nn.ReLU()).eval()
    found = diagnose(network, draw_images(100, 8))
    assert (found.first, found.stride) == ("", 1)
    text = written(found)
    assert "filters of" not in text
    assert "grid: not measured" in text


def test_rectifiers_are_found_however_they_are_written():
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.relu = nn.Conv2d(3, 3, 3, padding=1), nn.ReLU(inplace=True)

        def forward(self, x):
            return self.relu(self.conv(self.relu(self.conv(x))) + x)

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.block, self.functional, self.linear = Block(), Functional(), nn.Linear(3, 5)
            self.act = nn.GELU()

        def forward(self, x):
            x = F.dropout(self.functional(self.block(x)), training=self.training)
            return self.act(self.linear(x.flatten(2).mT))

    class Functional(nn.Module):
        def forward(self, x):
            return F.relu(x - 0.1)

    calls = find_activations(Net().eval(), torch.randn(1, 3, 8, 8))
    assert [str(call) for call in calls] == [
        "block.relu",
        "block.relu (call 2)",
        "functional",
        "act",
    ]
    assert [call.last for call in calls] == [False, False, False, True]
    assert [call.cuts for call in calls] == [True, True, True, False]
    found = diagnose(Net().eval(), draw_images(3, 8))
    assert [layer.count for layer in found.layers] == [3, 3, 3, 5]


def test_what_cannot_be_measured_is_refused():
    with pytest.raises(ValueError, match="a distribution needs several images"):
        diagnose(build(), draw_images(1))
    with pytest.raises(ValueError, match="layer '9' is no convolution"):
        diagnose(build(), draw_images(), layers=["9"])
    with pytest.raises(ValueError, match="train mode"):
        diagnose(build().train(), draw_images())


def test_nothing_is_said_of_a_handful_of_values():
    few = diagnose(build(), draw_images(2, 6))
    assert [layer.faults for layer in few.layers] == [{}, {}]
    assert "2 of 2 layers of activations have fewer than 100 values" in few.notes[-1]
    assert diagnose(build(), draw_images(3, 6)).layers[0].faults["dead"] == ()


def test_a_few_layers():
    found = diagnose(build(), draw_images(), layers=["2", "3"])
    assert [layer.name for layer in found.layers] == ["3"]
    assert [layer.name for layer in found.filters] == ["2"]


def test_json_holds_it():
    network = build(kernel=9, stride=4)
    record = json.loads(json.dumps(diagnose(network, draw_images()).to_dict()))
    assert record["images"] == 6
    assert {key: record["layers"][0][key] for key in ("name", "channels")} == {
        "name": "1",
        "channels": 12,
    }
    assert len(record["grid"]) == 4


def written(found):
    """Return all that the page of a diagnosis says, in one line."""
    figure = draw_diagnosis(found, about="about it")
    texts = [*figure.texts, *(text for axes in figure.axes for text in axes.texts)]
    return " ".join(text.get_text().replace("\n", " ") for text in texts)


def test_the_page_of_a_healthy_network_says_what_was_not_measured():
    text = written(diagnose(build(kernel=3), draw_images()))
    assert "No finding." in text
    assert "spectrum: not measured" in text
    assert "grid: not measured" in text
    assert "about it" in text


def test_the_page_tells_the_grid_and_the_layers_it_leaves_out(monkeypatch):
    network = build(kernel=9, stride=4)
    with torch.no_grad():
        network[0].weight.zero_()
        network[0].weight[torch.arange(12), torch.arange(12) % 3, 4, 4] = 1.0
        network[2].bias[:4] = -1e3
    found = diagnose(network, draw_images())
    rows = len([*found.layers, *found.filters])
    monkeypatch.setattr(diagnosis_figure, "_MOST_ROWS", 1)
    monkeypatch.setattr(diagnosis_figure, "_MOST_FINDINGS", 1)
    text = written(found)
    assert "grid of 4 pixels: 3.9 (wrong above" in text
    assert f"{rows - 1} layers with less wrong are left out" in text
    assert f"and {len(found.findings) - 1} more findings." in text
    assert len(found.findings) > 1

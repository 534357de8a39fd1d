"""What a pass tells of a network: its steps, what feeds them, and which layers to show."""

import random

import pytest
import torch
from atlases import build_network
from snapshot import Snapshot
from torch import nn
from torchvision import models

from captum_deconv.gallery.atlas.layers import choose_layers
from captum_deconv.gallery.atlas.network import read_network
from captum_deconv.gallery.atlas.rail import draw_rail

IMAGE = torch.zeros(3, 64, 64)


def choose(model, layers="auto", image=IMAGE):
    network = read_network(model, image)
    return [choice.name for choice in choose_layers(model, network, layers)]


def build(name, **how):
    torch.manual_seed(0)
    return getattr(models, name)(weights=None, **how).eval()


def test_branches_and_skips_are_drawn_as_they_were_taken():
    model = build_network()
    before = Snapshot(model)
    network = read_network(model, torch.zeros(3, 16, 20), ["joined", "stem"])
    before.assert_unchanged()
    drawn = [(step.kind.replace("\u00d7", "x"), step.sources) for step in network.steps]
    assert drawn == [
        ("image", ()),
        ("3 x 3 convolution, ReLU", (0,)),
        ("3 x 3 convolution", (1,)),
        ("sum, ReLU", (2, 1)),
        ("3 x 3 convolution", (3,)),
        ("sum, ReLU", (4, 3)),
        ("2 x 2 max-pooling, stride 2", (5,)),
        ("1 x 1 convolution, ReLU", (6,)),
        ("3 x 3 convolution, ReLU", (6,)),
        ("concatenation", (7, 8)),
        ("average", (9,)),
        ("linear", (10,)),
    ]
    assert network.steps[9].shape == (40, 8, 10)
    assert network.steps[9].layers == ("joined",)
    assert network.steps[1].name == "stem.0"
    assert {*network.steps[1].layers} == {"stem.0", "stem.1", "stem"}
    # 3 + 2 + 2 by the three convolutions, 1 by the pooling, 2 x 2 by the branch
    assert network.fields["joined"].size == (12, 12)
    assert network.fields["joined"].stride == (2, 2)
    assert network.fields["stem"].size == (3, 3)


@pytest.mark.parametrize(
    ("name", "chosen"),
    [
        ("resnet50", ["relu", "layer1", "layer2", "layer3", "layer4"]),
        ("vgg11", [f"features.{n}" for n in (1, 4, 7, 9, 12, 14, 17, 19)]),
        (
            "mobilenet_v2",
            [
                *("features.0", "features.1.conv.0", "features.3.conv.1", "features.6.conv.1"),
                *("features.10.conv.1", "features.13.conv.1", "features.16.conv.1"),
                *("features.17.conv.1", "features"),
            ],
        ),
    ],
)
def test_auto_takes_the_rectified_outputs_of_the_stages(name, chosen):
    assert choose(build(name), image=torch.zeros(3, 96, 96)) == chosen


def test_auto_says_why():
    model = build_network()
    found = choose_layers(model, read_network(model, IMAGE), "auto")
    assert [(each.name, each.why) for each in found] == [
        ("stem", "a rectifier's output"),
        ("blocks", "the last rectifier's output of 2 repeated blocks (Block)"),
        ("left", "a rectifier's output"),
        ("right", "a rectifier's output"),
        ("joined", "a rectifier's output"),
    ]


def test_names_and_patterns_come_in_forward_order():
    model = build_network()
    assert choose(model, ["right", "stem.?"]) == ["stem.0", "stem.1", "right"]
    assert choose(model, "blocks.*.conv") == ["blocks.0.conv", "blocks.1.conv"]


@pytest.mark.parametrize(
    ("layers", "match"),
    [
        ("blokcs", r"no layer like 'blokcs'.*blocks"),
        (["stem", "nothing.*"], r"no layer like 'nothing\.\*'"),
        ([], "layers is empty"),
    ],
)
def test_what_is_no_layer(layers, match):
    with pytest.raises(ValueError, match=match):
        choose(build_network(), layers)


def test_where_there_is_nothing_to_choose():
    linear = nn.Sequential(nn.Flatten(), nn.Linear(3 * 64 * 64, 4), nn.ReLU())
    with pytest.raises(ValueError, match="no rectifier whose output is a map: name the layers"):
        choose(linear)
    unused = build_network()
    unused.unused = nn.ReLU()
    with pytest.raises(ValueError, match=r"'unused' gives no activations in channels"):
        choose(unused, "unused")


def test_a_layer_that_gives_several_tensors_is_none_to_choose():
    class Pair(nn.Module):
        def forward(self, x):
            return x * 2, x * 3

    class Paired(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.pair = nn.Conv2d(3, 4, 3), Pair()

        def forward(self, x):
            double, triple = self.pair(self.conv(x))
            return double + triple

    assert list(read_network(Paired(), IMAGE).outputs) == ["conv"]
    with pytest.raises(ValueError, match="'pair' gives no activations in channels"):
        choose(Paired(), "pair")


def test_what_does_not_see_the_image_cannot_be_drawn():
    class Blind(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)

        def forward(self, x):
            return self.conv(x).detach()

    with pytest.raises(RuntimeError, match="the model's output does not depend on the image"):
        read_network(Blind(), IMAGE)


def test_a_model_of_values_is_run_as_it_is():
    """No copy on the meta device can decide on a value."""

    class Deciding(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)

        def forward(self, x):
            return self.conv(x).relu() if float(x.sum()) >= 0 else self.conv(x)

    assert [step.kind[-4:] for step in read_network(Deciding(), IMAGE).steps] == ["mage", "ReLU"]


def test_a_densely_connected_network_is_drawn():
    network = read_network(build("densenet121"), IMAGE)
    joins = [step for step in network.steps if step.kind.startswith("concatenation")]
    assert max(len(step.sources) for step in joins) == 24 + 1
    assert all(source < n for n, step in enumerate(network.steps) for source in step.sources)


def test_no_two_signals_share_a_lane():
    """Followed from row to row, every line ends where its signal is taken."""
    chance = random.Random(0)
    for _ in range(50):
        sources = [()]
        for number in range(1, 30):
            taken = {number - 1, *(chance.randrange(number) for _ in range(chance.randrange(4)))}
            sources.append(tuple(taken))
        rows = draw_rail(sources)
        last = {source: number for number, taken in enumerate(sources) for source in taken}
        for number, row in enumerate(rows):
            alive = [s for s in range(number) if last.get(s, -1) > number]
            lanes = [rows[signal].lane for signal in alive] + [row.lane]
            assert len(set(lanes)) == len(lanes), "the row's own lane, and those that pass it"
            for signal in alive:
                assert f"M{rows[signal].lane * 14 + 7} 0V10" in row.path
            for source in sources[number]:
                assert f"M{rows[source].lane * 14 + 7} 0" in row.path

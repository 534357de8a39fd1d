"""What a network's own preprocessing and layers may give, and what is refused."""

import pytest
import torch
from cli_networks import Network
from PIL import Image
from torch import nn
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.rpn import AnchorGenerator

from captum_deconv.explain.answer import explain_image, measure_coverage, prepare_input
from captum_deconv.explain.question import Question
from captum_deconv.sources.images import Photograph
from captum_deconv.sources.models import LoadedModel
from captum_deconv.sources.names import ModelError

PHOTOGRAPH = Photograph("a.png", Image.new("RGB", (24, 20), (200, 100, 50)))


def load(network, preprocess=None):
    preprocess = preprocess or network.preprocess
    return LoadedModel("mine", network.eval(), preprocess, None, "random", "")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (torch.zeros(1, 3, 20, 24), r"\(1, 3, 20, 24\)"),
        (torch.zeros(4, 20, 24), r"\(4, 20, 24\)"),
        (PHOTOGRAPH.image, "Image"),
    ],
)
def test_a_preprocessing_that_gives_no_image(given, said):
    message = rf"preprocessing of mine must give .* \(3, H, W\) or \(1, H, W\), not {said}"
    with pytest.raises(ModelError, match=message):
        prepare_input(load(Network(), lambda _: given), PHOTOGRAPH)


class Root(Network):
    """Of zero there is a square root, but no slope."""

    def forward(self, x):
        return (super().forward(x) * 0).sqrt()


class Pair(nn.Module):
    def forward(self, x):
        return x * 2, x * 3


class Paired(Network):
    def __init__(self):
        super().__init__()
        self.pair = Pair()

    def forward(self, x):
        double, triple = self.pair(self.features(x))
        return self.head((double + triple).mean(dim=(2, 3)))


def explain(loaded, **question):
    return explain_image(
        loaded, PHOTOGRAPH, prepare_input(loaded, PHOTOGRAPH), Question(**question)
    )


def test_a_score_without_a_slope_is_not_shown():
    with pytest.raises(ModelError, match=r"input_gradient of a\.png holds NaN or infinite values"):
        explain(load(Root()), methods=("input_gradient",))


def test_a_neuron_of_a_layer_of_several_tensors_is_of_the_first():
    torch.manual_seed(0)
    loaded = load(Paired())
    how = {"methods": ("input_gradient",), "neuron": "strongest"}
    (paired,) = explain(loaded, layer="pair", **how)
    (plain,) = explain(loaded, layer="features", **how)
    assert paired.neuron.activation == pytest.approx(2 * plain.neuron.activation)
    expected = 2 * plain.attributions["input_gradient"]
    assert expected.abs().max() > 0
    torch.testing.assert_close(paired.attributions["input_gradient"], expected)


def test_detectors_are_given_a_list_of_images():
    torch.manual_seed(0)
    backbone = nn.Sequential(nn.Conv2d(3, 4, 3, stride=8), nn.ReLU())
    backbone.out_channels = 4
    detector = FasterRCNN(
        *(backbone, 2),
        min_size=32,
        max_size=32,
        rpn_anchor_generator=AnchorGenerator(((8,),), ((1.0,),)),
    ).eval()
    images = torch.rand(1, 3, 32, 32)
    given = []
    detector.register_forward_pre_hook(lambda _, args: given.append(type(args[0])))
    found = measure_coverage(load(detector, lambda _: images[0]), PHOTOGRAPH)
    assert given == [list]
    assert "ReLU (ReluBackward0): 3, in 'backbone.1', 'roi_heads.box_head'" in str(found)

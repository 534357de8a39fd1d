import pytest
import torch
from captum.attr import Occlusion as CaptumsOcclusion
from torch import nn

from captum_deconv.drawing.figures import save_figure
from captum_deconv.experiments import add_projections, occlude
from captum_deconv.experiments.occlusion import place_squares
from captum_deconv.experiments.occlusion_figure import draw_occlusion
from captum_deconv.experiments.watching import find_grey
from captum_deconv.sources import embedded
from captum_deconv.sources.models import LoadedModel


@pytest.fixture(scope="module")
def network():
    return embedded.load()


@pytest.fixture(scope="module")
def image():
    smooth = torch.rand(3, 6, 7, generator=torch.Generator().manual_seed(1))
    return nn.functional.interpolate(smooth[None], (48, 56), mode="bilinear")[0] * 4 - 2


@pytest.fixture(scope="module")
def found(network, image):
    return occlude(network, image, "relu3", size=12, stride=5, value=0.25, batch_size=7)


def cover_each(image, size, stride, value):
    """Every window of the grid by hand, in rows."""
    for y in place_squares(image.shape[1:], size, stride)[0]:
        for x in place_squares(image.shape[1:], size, stride)[1]:
            covered = image.clone()
            covered[:, y : y + size, x : x + size] = value
            yield covered


def test_each_number_is_that_of_the_covered_image(network, image, found):
    covered = torch.stack(list(cover_each(image, 12, 5, 0.25)))
    with torch.no_grad():
        whole = network[:8](image[None])
        maps, chances = network[:8](covered), network(covered).softmax(1)
    channel = int(whole[0].sum((1, 2)).argmax())
    assert found.channel == channel
    target = int(network(image[None]).argmax())
    assert found.target == target
    shape = found.activation.shape
    assert shape == (9, 10)
    same = torch.testing.assert_close
    same(found.activation, maps[:, channel].sum((1, 2)).view(shape), rtol=1e-5, atol=1e-4)
    same(found.probability, chances[:, target].view(shape), rtol=1e-5, atol=1e-6)
    assert torch.equal(found.likeliest, chances.argmax(1).view(shape))
    same(found.whole[0], float(whole[0, channel].sum()), rtol=1e-5, atol=1e-4)
    # The control: the square makes a difference, and another one in each place.
    assert found.activation.std() > 1e-2 * found.activation.mean()
    assert found.probability.unique().numel() > 50


def test_the_windows_are_captums(network, image, found):
    """Captum lays each fall over its window and takes the mean: so does this, by hand."""
    captums = CaptumsOcclusion(lambda x: network(x).softmax(1)).attribute(
        image[None], (3, 12, 12), (3, 5, 5), 0.25, target=found.target, perturbations_per_eval=8
    )
    total, count = torch.zeros(48, 56), torch.zeros(48, 56)
    for row, top in enumerate(found.starts[0]):
        for column, left in enumerate(found.starts[1]):
            total[top : top + 12, left : left + 12] += (
                found.whole[1] - found.probability[row, column]
            )
            count[top : top + 12, left : left + 12] += 1
    torch.testing.assert_close(total / count, captums[0, 0].float(), rtol=1e-4, atol=1e-6)


def test_what_is_asked_for_is_shown(network, image):
    other = occlude(network, image, "relu2", size=24, stride=24, target=-1, channel=5)
    assert (other.target, other.channel) == (19, 5)
    assert other.activation.shape == (2, 3)  # the last column is cut off by the edge
    assert other.to_dict()["first columns"] == [0, 24, 48][: len(other.starts[1])]


def test_the_model_and_the_image_stay_as_they_were(network, image):
    before = image.clone()
    occlude(network, image, "relu2", size=24, stride=24)
    assert torch.equal(image, before)
    assert not any(module._forward_hooks for module in network.modules())


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"size": 49}, "must be 1 to 48, not 49: the network takes this image at 48 x 56 pixels"),
        ({"size": 8, "stride": 9}, "the stride must be 1 to the occluder's size 8, not 9"),
        ({"size": 8, "layer": "classify"}, "layer 'classify' has no space"),
        ({"size": 8, "layer": "relu9"}, "no layer 'relu9'"),
        ({"size": 8, "target": 20}, "class 20 is out of range: there are 20"),
        ({"size": 8, "channel": 96}, "channel 96 is out of range: there are 96"),
    ],
)
def test_what_cannot_be_is_refused(network, image, how, message):
    with pytest.raises((ValueError, IndexError), match=message):
        occlude(network, image, **{"layer": "relu3", **how})


def test_a_network_that_is_trained_or_classifies_nothing(image):
    conv = nn.Conv2d(3, 4, 3)
    with pytest.raises(ValueError, match="train mode"):
        occlude(nn.Sequential(conv), image, "0", size=8)
    with pytest.raises(TypeError, match="classes are scores"):
        occlude(nn.Sequential(conv).eval(), image, "0", size=8)


def test_a_batch_is_no_image(network, image):
    with pytest.raises(ValueError, match=r"must be \(C, H, W\), not \(1, 3, 48, 56\)"):
        occlude(network, image[None], "relu3", size=12)


def test_grey_is_as_the_network_takes_it(image):
    how = "mine", nn.Identity(), nn.Identity(), None, "", ""
    known = LoadedModel(*how, mean=(0.5, 0.1, 0.9), std=(1.0, 0.2, 0.4))
    torch.testing.assert_close(find_grey(known, image), torch.tensor([0.0, 2.0, -1.0]))
    unknown = LoadedModel(*how)
    torch.testing.assert_close(find_grey(unknown, image), image.flatten(1).mean(1))


class Odd(nn.Module):
    """A layer that gives no maps, and one that a pass does not run."""

    def __init__(self, given=None):
        super().__init__()
        self.conv, self.given = nn.Conv2d(3, 4, 3), given or nn.Identity()
        self.spare = nn.Conv2d(3, 4, 3)

    def forward(self, x):
        x = self.conv(x)
        self.given(x)
        return x.mean((2, 3))


class Pair(nn.Module):
    def forward(self, x):
        return x, x


class Signs(nn.Module):
    def forward(self, x):
        return x > 0


@pytest.mark.parametrize(
    ("given", "returned"),
    [
        (Pair(), "tuple"),
        (nn.Flatten(0), r"\(9936,\)"),
        (Signs(), r"\(1, 4, 46, 54\)"),
    ],
)
def test_a_layer_that_gives_no_activations(image, given, returned):
    with pytest.raises(TypeError, match=f"layer 'given' returns {returned}.*choose a layer inside"):
        occlude(Odd(given).eval(), image, "given", size=12)


def test_a_layer_that_does_not_run(image):
    with pytest.raises(RuntimeError, match="layer 'spare' did not run in the forward pass"):
        occlude(Odd().eval(), image, "spare", size=12)


def test_projections_are_of_this_image_and_of_the_strongest(network, image, found):
    others = torch.randn(5, 3, 48, 56, generator=torch.Generator().manual_seed(0))
    with_them = add_projections(found, network, others, k=3)
    own, strongest = with_them.projections
    assert own.names == {0: "this image"}
    assert own.channels == strongest.channels == (found.channel,)
    with torch.no_grad():
        maxima = network[:8](others)[:, found.channel].flatten(1).amax(1)
    assert strongest.samples[0].tolist() == maxima.topk(3).indices.tolist()
    assert len(add_projections(found, network).projections) == 1


@pytest.mark.parametrize("suffix", ["png", "pdf", "svg"])
def test_the_figure(network, image, found, tmp_path, suffix):
    others = torch.randn(5, 3, 48, 56, generator=torch.Generator().manual_seed(0))
    figure = draw_occlusion(
        add_projections(found, network, others), categories=["$x$, y"] * 20, about="Here."
    )
    # Four panels, two bars, and patch and projection of four images.
    assert len(figure.axes) == 4 + 2 + 8
    texts = " ".join(text.get_text() for text in figure.texts)
    assert f"activation of channel {found.channel}" in texts
    assert "$x$" in texts
    assert "Here." in texts
    assert torch.equal(torch.as_tensor(figure.axes[1].images[0].get_array().data), found.activation)
    save_figure(figure, tmp_path / f"a.{suffix}", dpi=60)
    assert (tmp_path / f"a.{suffix}").stat().st_size > 1000
    assert len(draw_occlusion(found).axes) == 6

"""What a gallery is not made of, and models that do not take what crops are."""

import pytest
import torch
from galleries import make_images, project_small, scan_small
from torch import nn

from captum_deconv import NeuronDeconvnet, features, gallery


class Bytes(nn.Module):
    """Takes pixels as they are stored."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x):
        return self.conv(x.float() / 255)


def project(model, layer, images, **how):
    index = features.scan(model, layer, images, k=2, progress=False)
    return gallery.project(index, model, images, **how)


def test_images_of_integers_have_no_projections():
    images = [(image * 255).to(torch.uint8) for image in make_images(3, 8, 8)]
    message = (
        r"sample \d is of type torch.uint8, and a floating-point type is needed: give the data"
    )
    with pytest.raises(TypeError, match=message):
        project(Bytes().eval(), "conv", images)


def test_what_is_no_image_cannot_be_shown():
    fields = list(torch.rand(3, 2, 8, 8))
    with pytest.raises(
        ValueError, match=r"sample \d is of shape \(2, 8, 8\): a gallery shows images"
    ):
        project(nn.Sequential(nn.Conv2d(2, 4, 3)).eval(), "0", fields)


class OneWay(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x * 2

    @staticmethod
    def backward(ctx, gradient):
        raise RuntimeError("there is no way back")


class NoWayBack(nn.Module):
    def forward(self, x):
        return OneWay.apply(x)


def test_what_fails_on_whole_images_fails_as_it_is():
    model = nn.Sequential(NoWayBack(), nn.Flatten(), nn.Linear(3 * 64, 4)).eval()
    with pytest.raises(RuntimeError, match=r"^there is no way back$"):
        project(model, "2", make_images(3, 8, 8), uncovered="ignore")


class Aside(nn.Module):
    """Pools beside the layer, by more than a crop of it has."""

    def __init__(self):
        super().__init__()
        self.pool, self.conv = nn.AvgPool2d(6), nn.Conv2d(3, 4, 3)

    def forward(self, x):
        beside = self.pool(x).mean()
        return self.conv(x).mean((2, 3)) + beside


def test_a_model_that_takes_no_crops_is_projected_from_whole_images():
    torch.manual_seed(0)
    model, images = Aside().eval(), make_images(3, 12, 12)
    with pytest.warns(RuntimeWarning, match="the model does not take its crops.*whole images inst"):
        found = project(model, "conv", images, seed="one")
    assert found.patches.shape[3:] == (12, 12)
    sample, place = int(found.samples[1, 0]), found.positions[1, 0].tolist()
    expected = NeuronDeconvnet(model, "conv").attribute(images[sample][None], (1, *place))[0]
    torch.testing.assert_close(found.full(1)[0], expected)
    assert expected.count_nonzero() == 27


def test_data_parallel_is_projected_as_the_model_inside():
    model, images, index = scan_small()
    parallel = gallery.project(index, nn.DataParallel(model), images, channels=[2])
    assert torch.equal(parallel.projections[0], project_small().by_method["deconvnet"][2])

"""A gallery of images of several sizes: each projection is that of its whole image."""

import pytest
import torch
from galleries import Pooled
from pages import open_page
from torch import nn

from captum_deconv import NeuronDeconvnet, NeuronGuidedBackprop, features, gallery

SIZES = [(40, 52), (31, 30), (40, 52), (64, 35), (12, 13), (31, 30), (40, 51), (29, 70)]
METHODS = {"deconvnet": NeuronDeconvnet, "guided_backprop": NeuronGuidedBackprop}


@pytest.fixture(scope="module")
def scanned():
    torch.manual_seed(0)
    model = Pooled().eval().double()
    generator = torch.Generator().manual_seed(0)
    images = [torch.rand(3, *size, generator=generator, dtype=torch.float64) for size in SIZES]
    return model, images, features.scan(model, "6", images, k=6, batch_size=3, progress=False)


def assert_exact(found, model, images, layer):
    """Every projection laid into its image is what the neuron gives in the whole image."""
    for method, kind in METHODS.items():
        ask = kind(model, layer)
        for row, channel in enumerate(found.channels):
            full = found.full(channel, method)
            for rank, sample in enumerate(found.samples[row].tolist()):
                place = tuple(found.positions[row, rank].tolist())
                image = images[sample][None]
                whole = ask.attribute(image, (channel, *place))[0]
                whole = whole * found.values[row, rank]
                height, width = image.shape[2:]
                # float64; a crop's convolutions may sum in another order
                assert torch.allclose(full[rank, :, :height, :width], whole, atol=1e-10)
                assert not full[rank, :, height:].any()
                assert not full[rank, :, :, width:].any()


def test_projections_are_exact_at_borders_too(scanned):
    model, images, index = scanned
    found = gallery.project(index, model, images, method=list(METHODS))
    sizes = {tuple(images[sample].shape[1:]) for sample in found.images}
    assert len(sizes) > 3
    assert_exact(found, model, images, "6")
    assert found.image_size == (64, 70)
    for sample, image in found.images.items():
        assert image.shape == images[sample].shape


def test_a_field_larger_than_some_images(scanned):
    """Seventeen pixels of images of twelve: the patch is what there is, and grey beside it."""
    model, images, index = scanned
    small = [images[4], *images[:3]]
    index = features.scan(model, "6", small, k=4, progress=False)
    found = gallery.project(index, model, small, method=list(METHODS))
    assert_exact(found, model, small, "6")
    assert found.patches.shape[3:] == (17, 17)
    row, rank = (found.samples == 0).nonzero()[0].tolist()
    (top, bottom), (left, right) = found.boxes[row, rank].tolist()
    assert (top, bottom, left, right) == (0, 12, 0, 13)
    shown = found.show_patch(row, rank)
    assert (shown[:, 12:] == 128).all()
    assert (shown[:, :, 13:] == 128).all()


def test_a_layer_that_sees_all_of_each(scanned):
    _, images, _ = scanned
    torch.manual_seed(0)
    pooled = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1)).double().eval()
    index = features.scan(pooled, "2", images, k=4, progress=False)
    parts = [
        gallery.project(index, pooled, images, method=list(METHODS), channels=channel)
        for channel in range(4)
    ]
    for part in parts:
        assert part.patches.shape[3:] == (64, 70), "of one size, whichever images a part is of"
        assert_exact(part, pooled, images, "2")


def test_figures_and_evolution_take_them(scanned):
    model, images, index = scanned
    assert gallery.project(index, model, images).figure(channels=[0, 1]).axes
    found = gallery.evolution({1: model, 2: model}, "6", images, channels=[0])
    assert found.patches.shape == (1, 2, 3, 17, 17)


@pytest.mark.browser
def test_the_page_draws_the_box_in_an_image_of_its_own_size(scanned, browser, tmp_path):
    model, images, index = scanned
    found = gallery.project(index, model, images, channels=range(4))
    address = gallery.write_page([found], tmp_path).as_uri()
    with open_page(browser, address) as opened:
        page = opened.page
        assert "of an image of up to 64 \u00d7 70" in page.locator("footer").inner_text()
        page.locator(".card").nth(2).click()
        for rank in range(6):
            page.locator("#views section").first.locator(".cell").nth(rank).click()
            page.locator("#whole").evaluate("image => image.decode()")
            height, width = found.images[int(found.samples[2, rank])].shape[1:]
            frame, box = page.locator(".frame").bounding_box(), page.locator("#box").bounding_box()
            assert frame["width"] / frame["height"] == pytest.approx(width / height, rel=0.02)
            (top, _), (left, _) = found.fields[2, rank].tolist()
            measured = [
                (box["y"] - frame["y"]) / frame["height"] * height,
                (box["x"] - frame["x"]) / frame["width"] * width,
            ]
            assert measured == pytest.approx([top, left], abs=0.3)

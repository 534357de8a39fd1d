import math

import pytest
import torch
from torch import nn

from captum_deconv.drawing.figures import save_figure
from captum_deconv.experiments import measure_invariance
from captum_deconv.experiments.invariance import choose_values, transform
from captum_deconv.experiments.invariance_figure import draw_invariance
from captum_deconv.sources import embedded

LAYERS = ["relu1", "relu4", "classify"]
FILL = torch.tensor([0.1, -0.2, 0.3])


@pytest.fixture(scope="module")
def network():
    return embedded.load()


@pytest.fixture(scope="module")
def images():
    smooth = torch.rand(2, 3, 6, 6, generator=torch.Generator().manual_seed(1))
    return nn.functional.interpolate(smooth, (48, 48), mode="bilinear") * 4 - 2


@pytest.fixture(scope="module")
def found(network, images):
    return measure_invariance(network, images, LAYERS, steps=5, fill=FILL, batch_size=3)


def test_a_translation_moves_pixels_and_fills_the_rest(images):
    moved = transform(images[0], "translation", 5.0, FILL)
    torch.testing.assert_close(moved[:, 5:], images[0][:, :-5], rtol=0, atol=1e-5)
    torch.testing.assert_close(moved[:, :5], FILL[:, None, None].expand(-1, 5, 48))
    up = transform(images[0], "translation", -5.0, FILL)
    torch.testing.assert_close(up[:, :-5], images[0][:, 5:], rtol=0, atol=1e-5)


def test_a_rotation_turns_clockwise_about_the_middle(images):
    turned = transform(images[0], "rotation", 90.0, FILL)
    torch.testing.assert_close(turned, images[0].rot90(-1, (1, 2)), rtol=0, atol=1e-4)
    # The corners of a square that is turned by an eighth come from beyond the border.
    tilted = transform(images[0], "rotation", 45.0, FILL)
    torch.testing.assert_close(tilted[:, 0, 0], FILL)


def test_a_scale_enlarges_about_the_middle():
    steps = torch.linspace(-1, 1, 48)
    slope = steps[None, :, None].expand(3, 48, 48)
    large = transform(slope, "scale", 1.6, FILL)
    torch.testing.assert_close(large[:, 5:-5], slope[:, 5:-5] / 1.6, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("kind", "value"), [("translation", 0.0), ("scale", 1.0), ("rotation", 0)])
def test_no_change_is_the_image_itself(images, kind, value):
    image = images[0]
    assert transform(image, kind, value, FILL) is image


def test_each_number_is_that_of_the_transformed_image(network, images, found):
    ends = {"relu1": 2, "relu4": 10, "classify": len(network)}
    for kind, curve in found.curves.items():
        for image in range(2):
            for column, value in enumerate(curve.values):
                moved = transform(images[image], kind, value, FILL)[None]
                with torch.no_grad():
                    chance = network(moved).softmax(1)[0, found.targets[image]]
                    for row, layer in enumerate(LAYERS):
                        cut = network[: ends[layer]]
                        far = (cut(moved) - cut(images[image][None])).square().sum().sqrt()
                        got = curve.distance[image, row, column]
                        torch.testing.assert_close(got, far, rtol=1e-4, atol=1e-4)
                torch.testing.assert_close(curve.probability[image, column], chance)
        zero = curve.values.index({"scale": 1.0}.get(kind, 0.0))
        # Alone and in a batch differ by rounding.
        assert float(curve.distance[:, :, zero].max()) < 1e-3
        assert float(curve.distance.max()) > 1
    assert found.targets == tuple(network(images).argmax(1).tolist())


def test_the_papers_values():
    values = choose_values(224)
    assert values["translation"] == tuple(float(v) for v in range(-60, 61, 5))
    assert (values["scale"][0], values["scale"][-1]) == (1.0, 1.8)
    assert values["rotation"] == tuple(float(v) for v in range(0, 360, 10))


def test_classes_and_kinds_may_be_chosen(network, images):
    found = measure_invariance(
        network, images, ["relu1"], targets=[3, -1], values={"rotation": [0, 180]}
    )
    assert found.targets == (3, 19)
    assert list(found.curves) == ["rotation"]
    assert found.to_dict()["rotation"]["values"] == [0.0, 180.0]


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"layers": ["relu9"]}, "no layer 'relu9'"),
        ({"targets": [1]}, "there are 2 images, and 1 targets"),
        ({"targets": [1, 20]}, "class 20 is out of range: there are 20"),
        ({"values": {"shear": [1.0]}}, "unknown transformation 'shear'"),
        ({"values": {"scale": [0.0]}}, "a scale must be above 0"),
    ],
)
def test_what_cannot_be_is_refused(network, images, how, message):
    given = {"layers": ["relu1"], "steps": 2, **how}
    with pytest.raises((ValueError, IndexError), match=message):
        measure_invariance(network, images, **given)
    with pytest.raises(ValueError, match="must be"):
        measure_invariance(network, images[0], ["relu1"])


@pytest.mark.parametrize("suffix", ["png", "pdf", "svg"])
def test_the_figure(found, tmp_path, suffix):
    figure = draw_invariance(found, names=["$a$", "b"], categories=embedded.CLASSES)
    # Of three kinds each three pictures, three layers and the class.
    assert len(figure.axes) == 3 * (3 + 3 + 1)
    curve = found.curves["scale"]
    chart = figure.axes[7 + 3]  # the second row's first chart
    assert chart.lines[1].get_ydata() == pytest.approx(curve.distance[1, 0].tolist())
    save_figure(figure, tmp_path / f"a.{suffix}", dpi=60)
    assert (tmp_path / f"a.{suffix}").stat().st_size > 1000
    many = type(found)(("a",) * 5, found.targets, found.curves)
    with pytest.raises(ValueError, match="at most 4 layers"):
        draw_invariance(many)
    assert math.isclose(figure.get_figwidth(), 7)

import json

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torchvision.transforms.functional import pil_to_tensor

from captum_deconv.drawing.figures import save_figure
from captum_deconv.experiments import BoxError, correspond
from captum_deconv.experiments.correspondence_figure import draw_correspondence
from captum_deconv.sources.boxes import check_boxes, read_boxes


def prepare(image):
    """The left half of a photograph."""
    return pil_to_tensor(image.crop((0, 0, 20, 30))) / 255 - 0.5


@pytest.fixture(scope="module")
def photographs():
    random = np.random.default_rng(0)
    return {
        name: Image.fromarray(random.integers(0, 256, (30, 40, 3), dtype=np.uint8))
        for name in "abc"
    }


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 5, 3), nn.ReLU(), nn.Conv2d(5, 4, 3), nn.Flatten(), nn.LazyLinear(6)
    ).eval()


BOXES = {
    "eye": {"a": (2, 3, 8, 9), "b": (4, 3, 10, 9), "c": (2, 5, 8, 11)},
    "nose": {"a": (15, 8, 22, 15), "c": (15, 2, 22, 9)},
}
LAYERS = ["1", "2", "4"]


@pytest.fixture(scope="module")
def found(network, photographs):
    return correspond(network, prepare, photographs, BOXES, LAYERS, draws=4)


def test_each_number_is_the_papers(network, photographs, found):
    """Table 1 by hand, in numpy, from the definition: over all ordered pairs."""
    for row, part in enumerate(BOXES):
        signs = []
        for name, (top, left, bottom, right) in BOXES[part].items():
            pixels = np.array(photographs[name])
            pixels[top:bottom, left:right] = 128
            whole, masked = prepare(photographs[name]), prepare(Image.fromarray(pixels))
            of_layers = []
            for end in (2, 3, 5):
                with torch.no_grad():
                    change = network[:end](whole[None]) - network[:end](masked[None])
                of_layers.append(np.sign(change.flatten().numpy()))
            signs.append(of_layers)
        for column in range(3):
            vectors = [of_layers[column] for of_layers in signs]
            total = sum(
                int((vectors[i] != vectors[j]).sum())
                for i in range(len(vectors))
                for j in range(len(vectors))
                if i != j
            )
            assert float(found.total[row, column]) == total > 0
            shares = [
                float((vectors[i] != vectors[j]).mean())
                for i in range(len(vectors))
                for j in range(i)
            ]
            assert float(found.mean[row, column]) == pytest.approx(np.mean(shares))
            if len(shares) > 1:
                error = np.std(shares, ddof=1) / len(shares) ** 0.5
                assert float(found.error[row, column]) == pytest.approx(error)
    assert found.error[1].isnan().all()  # one pair has none
    assert found.pairs.tolist() == [3, 1, 4 * 3]


def test_parts_that_correspond_are_told_from_random_places(photographs):
    """A network that answers one pattern: masking it does the same in every image."""
    torch.manual_seed(0)
    pattern = torch.randn(3, 6, 6)
    detector = nn.Sequential(nn.Conv2d(3, 8, 6, bias=False), nn.ReLU(), nn.AdaptiveMaxPool2d(1))
    nn.init.normal_(detector[0].weight)
    with torch.no_grad():
        detector[0].weight += pattern
    shown = {}
    marked = ((pattern / 4 + 0.5).clamp(0, 1) * 255).to(torch.uint8).permute(1, 2, 0).numpy()
    boxes = {"mark": {}}
    for number, name in enumerate("abcd"):
        pixels = np.full((30, 40, 3), 128, np.uint8)
        pixels += np.random.default_rng(number).integers(0, 12, pixels.shape, dtype=np.uint8)
        top, left = 3 + 4 * number, 2 + 3 * number
        pixels[top : top + 6, left : left + 6] = marked
        shown[name] = Image.fromarray(pixels)
        boxes["mark"][name] = (top, left, top + 6, left + 6)
    found = correspond(detector.eval(), prepare, shown, boxes, ["2"], draws=10)
    assert float(found.mean[0, 0]) < 0.2 * float(found.mean[1, 0])


def test_random_places_are_seen_seeded_and_of_the_parts_size(network, photographs):
    seen = []

    def watch(image):
        seen.append(np.array(image))
        return prepare(image)

    one = correspond(network, watch, photographs, BOXES, ["1"], draws=3, seed=5)
    for masked in seen[3 + 5 :]:
        grey = (masked == 128).all(2)
        assert int(grey.sum()) >= 36
    other = correspond(network, prepare, photographs, BOXES, ["1"], draws=3, seed=5)
    assert torch.equal(one.mean, other.mean)
    third = correspond(network, prepare, photographs, BOXES, ["1"], draws=3, seed=6)
    assert torch.equal(one.mean[:2], third.mean[:2])
    assert not torch.equal(one.mean[2], third.mean[2])


@pytest.mark.parametrize(
    ("boxes", "message"),
    [
        ({"eye": {"a": (0, 0, 5, 5), "b": (0, 35, 5, 41)}}, "b, eye: the box .* is outside the im"),
        ({"eye": {"a": (0, 0, 5, 5), "b": (4, 4, 4, 9)}}, "is outside the image, which is 30 pix"),
        ({"eye": {"a": (0, 0, 5, 5)}}, "part 'eye' is in 1 image, and pairs are compared"),
        ({"random": {"a": (0, 0, 5, 5), "b": (0, 0, 5, 5)}}, "cannot be called 'random'"),
        ({"ear": {"a": (0, 0, 5, 5), "b": (0, 25, 5, 30)}}, "b, ear: .* changes nothing"),
    ],
)
def test_boxes_that_mean_nothing_are_refused(network, photographs, boxes, message):
    with pytest.raises(BoxError, match=message):
        correspond(network, prepare, photographs, boxes, ["1"])


def test_a_network_that_sees_hardly_anything_has_no_random_place(network):
    random = np.random.default_rng(0)
    large = {
        name: Image.fromarray(random.integers(0, 100, (200, 200, 3), dtype=np.uint8))
        for name in "ab"
    }

    def peep(image):
        return (pil_to_tensor(image.crop((0, 0, 1, 1))) / 255).expand(3, 30, 20)

    boxes = {"corner": dict.fromkeys("ab", (0, 0, 1, 1))}
    with pytest.raises(BoxError, match="a: no random place was found that the network sees"):
        correspond(network, peep, large, boxes, ["1"], draws=1)


def test_boxes_are_read_from_both_kinds_of_file(tmp_path):
    lines = ["image, part, top, left, bottom, right"]
    lines += [f"{i}, {p}, {', '.join(map(str, b))}" for p in BOXES for i, b in BOXES[p].items()]
    (tmp_path / "b.csv").write_text("\n".join(lines))
    (tmp_path / "b.json").write_text(json.dumps(BOXES))
    assert read_boxes(tmp_path / "b.csv") == BOXES
    assert read_boxes(tmp_path / "b.json") == BOXES
    check_boxes(BOXES, dict.fromkeys("abc", (40, 30)))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("b.csv", "image,part,top,left\na,eye,1,2\n"),
        ("b.csv", "image,part,top,left,bottom,right\na,eye,1,2,x,4\n"),
        ("b.csv", "image,part,top,left,bottom,right\na,eye,1,2\n"),
        ("b.csv", ""),
        ("b.json", "[1, 2]"),
        ("b.json", "{"),
        ("b.json", '{"eye": {"a": [1, 2, 3]}}'),
    ],
)
def test_files_that_hold_no_boxes(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    with pytest.raises(BoxError, match=name):
        read_boxes(tmp_path / name)
    with pytest.raises(BoxError, match="no such file"):
        read_boxes(tmp_path / "none.csv")


@pytest.mark.parametrize("suffix", ["png", "pdf", "svg"])
def test_the_figure(found, photographs, tmp_path, suffix):
    figure = draw_correspondence(found, photographs, BOXES, about="Here.")
    assert len(figure.axes) == 3 + 3
    assert [len(axes.patches) for axes in figure.axes[:3]] == [4, 2, 4]
    bars = figure.axes[4].patches
    assert [bar.get_height() for bar in bars] == pytest.approx(found.mean[:, 1].tolist())
    save_figure(figure, tmp_path / f"a.{suffix}", dpi=60)
    assert (tmp_path / f"a.{suffix}").stat().st_size > 1000


def test_json_holds_it(found):
    record = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert record["nose"]["1"]["standard error"] is None
    assert record["eye"]["4"]["pairs"] == 3

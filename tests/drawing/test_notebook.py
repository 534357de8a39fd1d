"""What a notebook shows: parsed, with hostile names as text, and the numbers and pixels held."""

import base64
import io
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from galleries import project_small
from pages import HOSTILE
from PIL import Image
from torch import nn

from captum_deconv import collect, compare, coverage
from captum_deconv.drawing.colours import to_colour
from captum_deconv.drawing.notebook import lay_out, show_attribution
from captum_deconv.gallery import Atlas
from captum_deconv.gallery.atlas.reading import Layer

VOID = {"img"}


class Parsed(HTMLParser):
    """Elements, texts and pictures; every element that is opened is closed."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags, self.pictures, self.alternatives, self.texts = [], [], [], []
        self._open: list[str] = []
        self.feed(html)
        self.close()
        assert self._open == []
        known = {
            "p",
            "div",
            "figure",
            "figcaption",
            "img",
            "table",
            "thead",
            "tbody",
            "tr",
            "th",
            "td",
        }
        assert set(self.tags) <= known

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        assert not any(name.startswith("on") for name in found)
        self.tags.append(tag)
        if tag == "img":
            kind, _, data = found["src"].partition(",")
            assert kind == "data:image/webp;base64"
            self.pictures.append(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB"))
            self.alternatives.append(found["alt"])
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        if data.strip():
            self.texts.append(data.strip())


def test_a_hostile_name_is_text():
    picture = show_attribution(torch.ones(3, 4, 4), HOSTILE)
    found = Parsed(lay_out(HOSTILE, [picture], [HOSTILE], [[HOSTILE, HOSTILE]]))
    assert found.texts == [HOSTILE] * 5
    assert found.tags.count("img") == 1


def test_pixels_are_squares_where_they_are_enlarged():
    small, large = (show_attribution(torch.ones(3, side, side), "") for side in (64, 200))
    assert "image-rendering: pixelated" in lay_out("", [small])
    assert "image-rendering: auto" in lay_out("", [large])


def test_control_unescaped_markup_is_found():
    with pytest.raises(AssertionError):
        Parsed(f"<p>{HOSTILE}</p>")


def test_attributions(model, images):
    found = compare(model, images, target=1)
    assert found == dict(found)  # a dictionary, and nothing less
    parsed = Parsed(found._repr_html_())
    assert "Guided backprop, example 2" in parsed.texts
    assert f"{float(found['deconvnet'].max()):.3g}" in parsed.texts
    assert len(parsed.pictures) == 9
    drawn = np.asarray(parsed.pictures[0]) / 255
    assert np.abs(drawn - to_colour(found["input_gradient"][0])).max() <= 0.5 / 255 + 1e-6


def test_attributions_of_other_shapes(model, images):
    several = compare(lambda a, b: model(a) + b, (images, torch.zeros(3, 5)), target=1)
    parsed = Parsed(several._repr_html_())
    assert len(parsed.pictures) == 9
    assert "Deconvnet, input 1" in parsed.texts
    assert "(3, 5)" in parsed.texts
    planes = compare(lambda x: model(x[:, :3]), torch.cat([images, images], 1), target=1)
    assert len(Parsed(planes._repr_html_()).pictures) == 9
    none = compare(model, images[:0], target=1)
    assert "none" in Parsed(none._repr_html_()).texts


def test_coverage():
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.GELU(), nn.Sigmoid(), nn.ReLU())
    report = coverage(network, torch.rand(1, 3, 8, 8))
    parsed = Parsed(report._repr_html_())
    assert parsed.texts[0] == "overridden: 2 nodes"
    assert parsed.texts[1:5] == ["Operation", "Nodes", "In", "What becomes of it"]
    assert parsed.texts[5:9] == ["ReLU", "2", "'1', '4'", "overridden"]
    assert parsed.texts[9:12] == ["GELU", "1", "'2'"]
    assert parsed.texts[12].startswith("left as it is: ")
    assert parsed.texts[13:] == [
        *("Sigmoid", "1", "'3'", "keeps its ordinary gradient, as in the papers")
    ]
    nothing = coverage(nn.Flatten(), torch.rand(1, 3, 8, 8))
    assert Parsed(nothing._repr_html_()).tags == ["p"]


def test_coverage_of_what_is_cut_off():
    class Cut(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.ReLU()

        def forward(self, x):
            with torch.no_grad():
                y = self.inner(x)
            return (x + y).relu().flatten(1)

    parsed = Parsed(coverage(Cut(), torch.rand(1, 3, 8, 8))._repr_html_())
    assert "'inner'" in parsed.texts


def test_a_gallery():
    found = project_small()
    parsed = Parsed(found._repr_html_())
    assert parsed.texts == ["Gallery('6', 8 channels, k=9, deconvnet, guided_backprop)"]
    # Channel 4 is dead.
    assert parsed.alternatives == ["Patches and projections of the channels 0, 1, 2, 3, 5, 6, 7"]
    assert parsed.pictures[0].width == 770
    assert np.asarray(parsed.pictures[0]).std() > 10


def test_an_atlas(tmp_path):
    layer = Layer(HOSTILE, "", "slug", (4, 8, 8), (0, 1, 2), 1, (7, 9), (2.0, 2.0))
    fc = Layer("fc", "", "fc", (5,), (0,), 0, None, None)
    atlas = Atlas(tmp_path, HOSTILE, "", (layer, fc), ("deconvnet",), {})
    parsed = Parsed(atlas._repr_html_())
    assert parsed.texts[6:11] == [HOSTILE, "3", "1", "7 x 9", "2 x 2"]
    assert "the whole image" in parsed.texts
    assert f"{HOSTILE}: an atlas of 2 layers" in parsed.texts[0]


def test_a_collection(model, images, tmp_path):
    data = [{"image": image, "name": HOSTILE} for image in images]
    kept = collect(model, [each["image"] for each in data], tmp_path, progress=False)
    kept._names = [each["name"] for each in data]
    parsed = Parsed(kept._repr_html_())
    assert len(parsed.pictures) == 3
    assert parsed.texts[1].startswith(HOSTILE)

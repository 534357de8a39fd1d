"""The command ``collect``: folders, lists and patterns in, a collection out."""

import shutil

import pytest
import torch
from command import assert_one_line, network
from PIL import Image

import captum_deconv
from captum_deconv import Collection
from captum_deconv.sources.images import read_image
from captum_deconv.sources.models import load_model


@pytest.fixture
def photographs(folder, tmp_path):
    """Return a folder with two classes of photographs, one of which cannot be read."""
    place = tmp_path / "photographs"
    for name, files in {"tench": ("a.png", "b.png"), "tabby": ("c.png", "torn.png")}.items():
        (place / name).mkdir(parents=True)
        for file in files:
            shutil.copy(folder / "one.png", place / name / file)
    (place / "tabby" / "torn.png").write_bytes(b"no image")
    return place


@pytest.mark.filterwarnings("ignore:1 samples could not be read")
def test_a_folder_of_classes(call, photographs, tmp_path):
    words = ("collect", photographs, "-m", network(), "-t", "label", "-o", "kept")
    result = call(*words, "--dtype", "float32")
    assert result.exit_code == 0, result.output
    assert "collected: 3 images" in result.output
    assert set(Collection.open(tmp_path / "kept").skipped) == {1}
    kept = Collection.open(tmp_path / "kept")
    assert [(item["name"], item["label"]) for item in kept] == [
        ("tabby/c.png", 3),
        ("tench/a.png", 0),
        ("tench/b.png", 0),
    ]
    loaded = load_model(network())
    image = loaded.preprocess(read_image(photographs / "tench" / "a.png").image)[None]
    expected = captum_deconv.Deconvnet(loaded.model).attribute(image, 0)[0]
    torch.testing.assert_close(kept[1]["deconvnet"], expected, rtol=1e-5, atol=1e-7)
    assert call(*words, "--dtype", "float32").exit_code == 0  # again: it is there
    assert_one_line(call(*words), 1, "holds a collection of something else", "dtype")


def test_patterns_and_lists(call, photographs, tmp_path):
    (tmp_path / "list.txt").write_text("photographs/tabby/c.png\n\nphotographs/tench/b.png\n")
    for number, where in enumerate(("photographs/*/?.png", tmp_path / "list.txt")):
        words = ("collect", where, "-m", network(), "-o", f"kept{number}", "--method", "deconvnet")
        result = call(*words, "--reduce", "sum", "--reduce", "10")
        assert result.exit_code == 0, result.output
    names = [[item["name"] for item in Collection.open(tmp_path / f"kept{n}")] for n in (0, 1)]
    assert names == [["tabby/c.png", "tench/a.png", "tench/b.png"], ["tabby/c.png", "tench/b.png"]]
    kept = Collection.open(tmp_path / "kept1")
    assert kept.methods == ["deconvnet"]
    assert kept.tensor("deconvnet").shape == (2, 1, 10, 10)


@pytest.mark.parametrize(
    ("neuron", "place"), [("strongest", None), ("3", None), ("3:1:2", (3, 1, 2))]
)
def test_neurons(call, photographs, tmp_path, neuron, place):
    words = ("collect", photographs / "tench", "-m", network(), "-o", "kept")
    result = call(*words, "--layer", "features.2", "--neuron", neuron)
    assert result.exit_code == 0, result.output
    (item, _) = Collection.open(tmp_path / "kept")
    assert len(item["target"]) == 3
    assert place in (None, item["target"])


def test_what_is_refused(call, photographs, tmp_path):
    words = ("collect", photographs, "-m", network(), "-o", "kept")
    assert_one_line(call(*words, "--layer", "features.2"), 2, "give both or neither")
    several = ("--layer", "features.2", "--neuron", "0-3")
    assert_one_line(call(*words, *several), 2, "one neuron for each image")
    assert_one_line(call(*words, "--reduce", "mean"), 2, "--reduce is sum")
    assert_one_line(call(*words, "-t", "dog"), 2, "no label 'dog'")
    empty = tmp_path / "empty"
    empty.mkdir()
    assert_one_line(call("collect", empty, *words[2:]), 1, "no image in it")
    assert_one_line(call("collect", "x*.png", *words[2:]), 1, "no image's path is like this")
    assert_one_line(
        call("collect", photographs / "tench", *words[2:], "-t", "label"),
        2,
        "folder for each class",
    )
    (photographs / "tabby").rename(photographs / "lion")
    assert_one_line(call(*words, "-t", "label"), 2, "named as the network names it")
    (tmp_path / "file").write_text("mine")
    assert_one_line(call(*words[:4], "-o", "file"), 1, "this is a file")
    assert not (tmp_path / "kept").exists()


@pytest.mark.filterwarnings("ignore:1 samples could not be read")
def test_pictures_are_drawn_of_what_was_kept(call, photographs, tmp_path):
    words = ("collect", photographs, "-m", network(), "-o", "kept", "--pictures", "--fast")
    result = call(*words)
    assert result.exit_code == 0, result.output
    assert "the first batch is off by" in result.output
    assert "page: kept/index.html" in result.output
    (pictures,) = (tmp_path / "kept").glob("pictures-*")
    assert {path.name for path in pictures.glob("guided_backprop-*")} == {
        f"guided_backprop-{number}.webp" for number in range(3)
    }
    text = (tmp_path / "kept" / "index.html").read_text()
    assert "tench/b.png" in text
    assert "torn.png" not in text
    # Of fewer pixels, and the overlay is as large as the image all the same.
    again = call(*words[:5], "reduced", "--pictures", "--reduce", "sum", "--reduce", "8")
    assert again.exit_code == 0, again.output
    (reduced,) = (tmp_path / "reduced").glob("pictures-*")
    with (
        Image.open(pictures / "deconvnet-0.webp") as one,
        Image.open(reduced / "deconvnet-0.webp") as other,
    ):
        assert one.size == other.size

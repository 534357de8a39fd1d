import os
import subprocess
import sys
from pathlib import Path

import cli_networks
import numpy as np
import pytest
import torch
import typer
from command import assert_one_line, network
from PIL import Image
from torch import nn

from captum_deconv import features, gallery
from captum_deconv.cli import demo_galleries
from captum_deconv.cli.options import parse_channels
from captum_deconv.gallery import files
from captum_deconv.sources import embedded
from captum_deconv.sources.datasets import ImageFiles, PhotographTiles
from captum_deconv.sources.images import FolderError, find_images
from captum_deconv.sources.models import load_model

LAYER = "features.3"


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """Eleven images in two folders; the name of one is markup."""
    root = tmp_path_factory.mktemp("photographs")
    (root / "more").mkdir()
    random = np.random.default_rng(0)
    for number in range(11):
        pixels = random.integers(0, 256, (30, 40, 3), dtype=np.uint8)
        name = "<script>" if number == 4 else f"{number:02}"
        Image.fromarray(pixels).save(root / ("more" if number % 2 else ".") / f"{name}.png")
    (root / ".hidden.png").write_text("no image")
    (root / "notes.txt").write_text("no image")
    return root


def scan_by_hand(photographs, layers=(LAYER,), **options):
    loaded = load_model(network())
    dataset = ImageFiles(photographs, loaded.preprocess)
    return features.scan(loaded.model, layers, dataset, progress=False, **options)


def assert_equal_indices(one, other):
    assert one.layers == other.layers
    for layer in one.layers:
        for kind in ("values", "samples", "positions"):
            assert torch.equal(getattr(one, kind)[layer], getattr(other, kind)[layer])


@pytest.mark.parametrize("command", ["scan", "gallery", "features"])
def test_help_teaches(call, command):
    result = call(command, "--help")
    assert result.exit_code == 0
    assert "Example" in result.stdout
    assert f"captum-deconv {command}" in result.stdout
    for word in ("--model", "--layer", "--data", "--workers"):
        assert word in result.stdout


def test_scan_writes_what_the_function_finds(call, photographs, tmp_path):
    words = ("scan", "-m", network(), "-l", "features.1", "-l", LAYER, "--data", photographs)
    result = call(*words, "--top", "4", "--batch-size", "3", "--out", "i.safetensors")
    assert result.exit_code == 0, result.output
    assert result.stderr == ""
    assert "scanned: 11 images" in result.stdout
    assert f"{LAYER}: 5 channels" in result.stdout
    found = features.ActivationIndex.load(tmp_path / "i.safetensors")
    layers = ("features.1", LAYER)
    assert_equal_indices(found, scan_by_hand(photographs, layers, k=4, batch_size=3))
    loaded = load_model(network())
    found.check(loaded.model, ImageFiles(photographs, loaded.preprocess))


@pytest.mark.filterwarnings("default::captum_deconv.features.ScanWarning")
def test_what_cannot_be_read_is_named(call, folder, tmp_path):
    words = ("scan", "-m", network(), "-l", LAYER, "--data", folder, "-o", "i.safetensors")
    result = call(*words)
    assert result.exit_code == 0, result.output
    assert "scanned: 4 images, 2 of them unreadable" in result.stdout
    assert len(result.stderr.splitlines()) == 1
    assert "text.png" in result.stderr
    assert "half.png" in result.stderr
    assert "one.png" not in result.stderr
    assert len(features.ActivationIndex.load(tmp_path / "i.safetensors").skipped) == 2
    (tmp_path / "i.safetensors").unlink()
    assert_one_line(call(*words, "--strict"), 1, "half.png")
    assert not (tmp_path / "i.safetensors").exists()


def test_gallery_writes_page_and_sheets(call, photographs, tmp_path):
    scan_by_hand(photographs).save(tmp_path / "i.safetensors")
    words = ("gallery", "i.safetensors", "-m", network(), "--data", photographs)
    result = call(*words, "--channels", "0,2-3", "--method", "all", "--seed", "one", "-o", "out")
    assert result.exit_code == 0, result.output
    page = (tmp_path / "out" / "index.html").read_text(encoding="utf-8")
    assert f"{network()}: layer {LAYER}" in page
    assert "<script>.png" not in page  # a file's name is text
    assert "&lt;script&gt;.png" in page or "\\u003cscript\\u003e.png" in page
    drawn = {path.name for path in (tmp_path / "out").glob("pictures-*/strip-*")}
    assert drawn == {"strip-0.webp", "strip-2.webp", "strip-3.webp"}
    with Image.open(tmp_path / "out" / "sheet.png") as sheet:
        assert sheet.width == 2100
    assert (tmp_path / "out" / "sheet.pdf").read_bytes().startswith(b"%PDF")
    for path in ("index.html", "sheet.png", "sheet.pdf"):
        assert str(Path("out", path)) in result.stdout


def test_features_does_both(call, photographs, tmp_path):
    words = ("features", "-m", network(), "--data", photographs, "--batch-size", "4")
    result = call(*words, "-l", LAYER, "-o", "one")
    assert result.exit_code == 0, result.output
    assert (tmp_path / "one" / "index.html").exists()
    found = features.ActivationIndex.load(tmp_path / "one" / "index.safetensors")
    assert_equal_indices(found, scan_by_hand(photographs, batch_size=4))
    result = call(*words, "-l", LAYER, "-l", "features.1", "-o", "two")
    assert result.exit_code == 0, result.output
    assert not (tmp_path / "two" / "index.html").exists()
    for layer in (LAYER, "features.1"):
        assert (tmp_path / "two" / layer / "sheet.png").exists()


@pytest.mark.parametrize(
    ("code", "words", "said"),
    [
        (2, ("scan", "-l", "features.9", "-o", "a.safetensors"), "features.3"),
        (2, ("scan", "-l", LAYER, "-l", LAYER, "-o", "a.safetensors"), "twice"),
        (2, ("scan", "-l", LAYER, "--top", "0", "-o", "a.safetensors"), "--top"),
        (2, ("scan", "-l", LAYER, "-m", "vgg61", "-o", "a.safetensors"), "vgg16"),
        (2, ("scan", "-l", LAYER, "--device", "tpu", "-o", "a.safetensors"), "device"),
        (2, ("scan", "-l", LAYER), "--out"),
        (1, ("scan", "-l", LAYER, "-o", "a.txt"), ".safetensors"),
        (1, ("scan", "-l", LAYER, "-o", "nowhere/a.safetensors"), "no folder"),
        (1, ("scan", "-l", LAYER, "-o", "a.safetensors", "--checkpoint", "nowhere/c"), "no folder"),
        (
            1,
            ("scan", "-l", LAYER, "-o", "a.safetensors", "--checkpoint", "a.safetensors"),
            "a name each",
        ),
        (1, ("scan", "-l", LAYER, "-o", "a.safetensors", "--data", "nowhere"), "no such folder"),
        (1, ("scan", "-l", LAYER, "-o", "a.safetensors", "--data", "."), "no image in it"),
        (1, ("gallery", "nowhere.safetensors", "-o", "out"), "no such activation index"),
        (1, ("gallery", "bad.safetensors", "-o", "out"), "not an activation index"),
        (2, ("gallery", "two.safetensors", "-o", "out"), "add --layer"),
        (2, ("gallery", "two.safetensors", "-l", "features.4", "-o", "out"), "features.3"),
        (2, ("gallery", "one.safetensors", "--channels", "5", "-o", "out"), "has 5"),
        (2, ("gallery", "one.safetensors", "--channels", "3-1", "-o", "out"), "3-1"),
        (2, ("gallery", "one.safetensors", "--method", "magic", "-o", "out"), "magic"),
        (1, ("gallery", "other.safetensors", "-o", "out"), "data set"),
        (1, ("gallery", "one.safetensors", "-m", network("Smooth"), "-o", "out"), "model"),
        (1, ("gallery", "one.safetensors", "-o", "bad.safetensors"), "folder"),
        (2, ("features", "-l", LAYER, "--channels", "a", "-o", "out"), "channels"),
    ],
)
def test_bad_input_is_one_line(call, photographs, tmp_path, code, words, said):
    (tmp_path / "bad.safetensors").write_text("nothing")
    scan_by_hand(photographs).save(tmp_path / "one.safetensors")
    scan_by_hand(photographs, ("features.1", LAYER)).save(tmp_path / "two.safetensors")
    scan_by_hand(photographs / "more").save(tmp_path / "other.safetensors")
    given = list(words)
    if "--data" not in given:
        given += ["--data", photographs]
    if "-m" not in given:
        given += ["-m", network()]
    assert_one_line(call(*given), code, said)
    assert not (tmp_path / "a.safetensors").exists()


def test_channels_are_numbers_and_ranges():
    assert parse_channels("all") is None
    assert parse_channels("0,5, 10-12") == [0, 5, 10, 11, 12]
    assert parse_channels("3,1,3") == [3, 1]
    for text in ("", "1,", "-1", "1-", "a", "5-3", "0x1", "1.5"):
        with pytest.raises(typer.BadParameter):
            parse_channels(text)
    with pytest.raises(IndexError):
        parse_channels("0-99999999999")


def test_a_layer_in_parts_is_the_same_page(photographs, tmp_path, monkeypatch):
    index = scan_by_hand(photographs)
    loaded = load_model(network())
    dataset = ImageFiles(photographs, loaded.preprocess)
    monkeypatch.setattr(files, "SHEET", 2)
    pages = []
    for name, most, parts in (("whole", 2**29, [2, 3]), ("parts", 1, [2, 1, 1, 1])):
        sizes = []
        exhibit = files.show_layer(
            loaded,
            index,
            dataset,
            tmp_path / name,
            layer=LAYER,
            most_bytes=most,
            report=sizes.append,
        )
        assert sizes == parts
        assert exhibit.channels == 5
        pages.append(exhibit.page.read_text(encoding="utf-8"))
    # The folder of pictures, which the page names, is itself named by what is in the pictures.
    assert pages[0] == pages[1]
    other = scan_by_hand(photographs / "more")
    again = ImageFiles(photographs / "more", loaded.preprocess)
    exhibit = files.show_layer(loaded, other, again, tmp_path / "other", layer=LAYER)
    assert exhibit.page.read_text(encoding="utf-8") != pages[0]


def test_the_sheet_shows_living_channels_first(photographs, tmp_path, monkeypatch):
    index = scan_by_hand(photographs)
    index.values[LAYER][0] = 0.0
    shown = []
    draw = gallery.Gallery.figure
    monkeypatch.setattr(
        gallery.Gallery,
        "figure",
        lambda self, channels, **how: shown.append(list(channels)) or draw(self, channels, **how),
    )
    monkeypatch.setattr(files, "SHEET", 2)
    loaded = load_model(network())
    dataset = ImageFiles(photographs, loaded.preprocess)
    files.show_layer(
        loaded, index, dataset, tmp_path, layer=LAYER, channels=[1, 2, 3], methods=("deconvnet",)
    )
    alive = [c for c in (1, 2, 3) if index.values[LAYER][c, 0] > 0]
    assert shown == [alive[:2]]


def test_two_processes_write_the_same_index(photographs, tmp_path):
    helpers = str(Path(cli_networks.__file__).parent)
    inherited = {k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE")}
    environment = inherited | {"OMP_NUM_THREADS": "1", "PYTHONPATH": helpers}
    words = ["-m", "captum_deconv", "scan", "-m", network(), "-l", LAYER, "--data", photographs]
    words += ["--batch-size", "2", "--device", "cpu", "-o"]
    several = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    said = []
    for start, name in (([], "one"), (several, "two")):
        command = [sys.executable, *start, *map(str, words), str(tmp_path / f"{name}.safetensors")]
        done = subprocess.run(
            command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        said.append(done.stdout.count("scanned: 11 images"))
    assert said == [1, 1]
    one, two = (
        features.ActivationIndex.load(tmp_path / f"{name}.safetensors") for name in ("one", "two")
    )
    assert_equal_indices(one, two)
    assert (tmp_path / "one.safetensors").read_bytes() == (
        tmp_path / "two.safetensors"
    ).read_bytes()


def test_files_are_found_in_one_order(photographs, tmp_path):
    names = [path.relative_to(photographs).as_posix() for path in find_images(photographs)]
    assert len(names) == 11
    assert names[-1] == "more/09.png"
    assert ".hidden.png" not in names
    assert "notes.txt" not in names
    (tmp_path / "inside").mkdir()
    (tmp_path / "inside" / "A.PNG").write_text("")
    (tmp_path / "inside" / "again").symlink_to(tmp_path, target_is_directory=True)
    assert [path.name for path in find_images(tmp_path)] == ["A.PNG"]
    with pytest.raises(FolderError, match="this is a file"):
        find_images(photographs / "notes.txt")


def test_tiles_are_the_photographs():
    from skimage import data

    tiles = PhotographTiles(100, names=("coffee",))
    assert len(tiles) == 4 * 6
    assert tiles.samples[8] == "coffee 100:200"
    assert np.array_equal(np.asarray(tiles[8]), data.coffee()[100:200, 200:300])
    assert not np.array_equal(np.asarray(tiles[8]), np.asarray(tiles[7]))
    assert PhotographTiles(100, names=("retina",))[0].size == (100, 100)
    assert len(PhotographTiles(600, names=("retina",))) == 1  # halved: of 1411 pixels, 706 are left


def test_the_embedded_network_has_a_name():
    loaded = load_model("embedded")
    image = Image.new("RGB", (256, 256), (255, 0, 51))
    prepared = loaded.preprocess(image)
    shown = loaded.restore(prepared)
    assert torch.allclose(shown[:, 0, 0], torch.tensor([1.0, 0.0, 0.2]), atol=1e-6)
    assert loaded.categories == list(embedded.CLASSES)
    random = load_model("embedded", "none")
    assert random.weights_hash != loaded.weights_hash
    assert load_model("embedded", str(embedded.WEIGHTS)).weights_hash == loaded.weights_hash


def test_without_switches_a_deconvnet_gives_one_pattern():
    """What the demo's caption says of EfficientNet-Lite0, on small networks with and without."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        first, second = nn.Conv2d(3, 8, 3, stride=2), nn.Conv2d(8, 4, 3)
        images = torch.rand(20, 3, 32, 32)
    strided = nn.Sequential(first, nn.ReLU(), second, nn.ReLU()).eval()
    pooled = nn.Sequential(first, nn.ReLU(), nn.MaxPool2d(2), second, nn.ReLU()).eval()

    def measure_spread(model, method):
        last = str(len(model) - 1)
        index = features.scan(model, last, images, progress=False)
        found = gallery.project(index, model, images, method=method, seed="one")
        alike = found.projections[~found.dead]
        return float((alike - alike[:, :1]).abs().max() / alike.abs().max())

    assert measure_spread(strided, "deconvnet") < 1e-5
    # The controls: with switches, or with the forward pass's mask, each picture is its image's.
    assert measure_spread(pooled, "deconvnet") > 0.1
    assert measure_spread(strided, "guided_backprop") > 0.1


@pytest.mark.slow
def test_the_demo_shows_feature_maps(call, tmp_path):
    result = call("demo", "--out", "demo", "--device", "cpu")
    assert result.exit_code == 0, result.output
    assert result.stderr == ""
    for name, count in (("embedded", 64), ("efficientnet-lite0", 40)):
        page = (tmp_path / "demo" / name / "index.html").read_text(encoding="utf-8")
        drawn = list((tmp_path / "demo" / name).glob("pictures-*/strip-*"))
        assert len(drawn) == count
        assert ("no max-pooling" in page) == (name == "efficientnet-lite0")
    for name in ("cat.png", "cat_neuron.png", "evolution.png", "evolution.pdf"):
        assert (tmp_path / "demo" / name).exists()
    assert demo_galleries.LITE_LAYER in page

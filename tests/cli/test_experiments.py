import json

import pytest
from command import assert_one_line, network
from PIL import Image

from captum_deconv.experiments import occlude
from captum_deconv.explain.answer import prepare_input
from captum_deconv.sources.images import read_image
from captum_deconv.sources.models import load_model

LAYER = "features.3"


@pytest.mark.parametrize("command", ["occlude", "invariance", "correspond", "diagnose"])
def test_help_teaches(call, command):
    result = call(command, "--help")
    assert result.exit_code == 0
    assert f"captum-deconv {command}" in result.stdout
    for word in ("Example", "--model", "--layer", "--out", "--weights"):
        assert word in result.stdout


def test_occlude_draws_what_the_function_finds(call, folder, tmp_path):
    (tmp_path / "others").mkdir()
    for number in range(4):
        Image.new("RGB", (40, 30), (60 * number, 90, 10)).save(
            tmp_path / "others" / f"{number}.png"
        )
    words = ("occlude", folder / "one.png", "-m", network(), "-l", LAYER, "--size", "8")
    result = call(
        *words,
        "--stride",
        "4",
        "-t",
        "tabby",
        "--data",
        "others",
        "-o",
        "a.png",
        "--json",
        "a.json",
    )
    assert result.exit_code == 0, result.output
    assert "class: tabby (3)" in result.stdout
    assert "picture: a.png" in result.stdout
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.width == 2100
    numbers = json.loads((tmp_path / "a.json").read_text())
    loaded = load_model(network())
    image = prepare_input(loaded, read_image(folder / "one.png"))
    found = occlude(
        loaded.model, image, LAYER, target=3, size=8, stride=4, value=image.mean((1, 2))
    )
    assert numbers["channel"] == found.channel
    assert numbers["likeliest"] == found.likeliest.tolist()
    assert numbers["model"] == network()


@pytest.mark.parametrize(
    ("code", "words", "said"),
    [
        (1, ("--size", "21"), "must be 1 to 20, not 21"),
        (1, ("--size", "8", "--stride", "9"), "stride must be 1 to"),
        (1, ("--layer", "head", "--size", "8"), "layer 'head' has no space"),
        (2, ("--layer", "features.9", "--size", "8"), "features.3"),
        (2, ("--channel", "5", "--size", "8"), "channel 5 is out of range: there are 5"),
        (2, ("--target", "lion", "--size", "8"), "no label 'lion'"),
        (1, ("--data", "nowhere"), "no such folder"),
        (1, ("-m", network("Map"), "--size", "8"), "classes are scores"),
        (1, ("-o", "a.txt"), ".png"),
        (1, ("--json", "a.png"), ".json"),
    ],
)
def test_occlude_refuses_in_one_line(call, folder, tmp_path, code, words, said):
    given = ["occlude", folder / "one.png", *words]
    for option, value in (("-m", network()), ("--layer", LAYER), ("-o", "a.png")):
        if option not in words:
            given += [option, value]
    assert_one_line(call(*given), code, said)
    assert not list(tmp_path.iterdir())


def write_boxes(folder, tmp_path, text="0,0,10,10"):
    lines = ["image,part,top,left,bottom,right"]
    lines += [f"{folder / name},corner,{text}" for name in ("one.png", "two.jpg")]
    (tmp_path / "boxes.csv").write_text("\n".join(lines))


def test_invariance_draws_its_curves(call, folder, tmp_path):
    photos = (folder / "one.png", folder / "two.jpg")
    words = ("invariance", *photos, "-m", network(), "-l", "features.0", "-l", LAYER)
    result = call(*words, "--steps", "3", "-t", "tench", "-o", "a.svg", "--json", "a.json")
    assert result.exit_code == 0, result.output
    assert "two.jpg: rotation, the class's probability falls to" in result.stdout
    numbers = json.loads((tmp_path / "a.json").read_text())
    assert numbers["targets"] == [0, 0]
    assert numbers["rotation"]["values"] == [0.0, 120.0, 240.0]
    assert (tmp_path / "a.svg").read_text().startswith("<?xml")


def test_correspond_compares_parts(call, folder, tmp_path):
    write_boxes(folder, tmp_path)
    words = ("correspond", "boxes.csv", "-m", network(), "-l", LAYER, "--draws", "2")
    result = call(*words, "-o", "a.pdf", "--json", "a.json")
    assert result.exit_code == 0, result.output
    assert "corner" in result.stdout
    assert "random" in result.stdout
    numbers = json.loads((tmp_path / "a.json").read_text())
    assert numbers["corner"][LAYER]["pairs"] == 1
    assert (tmp_path / "a.pdf").read_bytes().startswith(b"%PDF")


def test_diagnose_writes_its_report(call, folder, tmp_path):
    (tmp_path / "data").mkdir()
    for name in ("one.png", "two.jpg"):
        (tmp_path / "data" / name).write_bytes((folder / name).read_bytes())
    words = ("diagnose", "-m", network(), "--data", "data", "-o", "out")
    result = call(*words)
    assert result.exit_code == 0, result.output
    report = json.loads((tmp_path / "out" / "diagnosis.json").read_text())
    assert [layer["name"] for layer in report["layers"]] == ["features.1", "features.3"]
    for finding in report["findings"]:
        assert finding["sentence"] in result.stdout
    assert (tmp_path / "out" / "diagnosis.pdf").read_bytes().startswith(b"%PDF")
    result = call(*words, "--layers", "features.0, features.1")
    assert result.exit_code == 0, result.output
    report = json.loads((tmp_path / "out" / "diagnosis.json").read_text())
    assert [layer["name"] for layer in report["layers"]] == ["features.1"]


@pytest.mark.parametrize(
    ("code", "words", "said"),
    [
        (1, ("invariance", "one.png", "two.png", "-m", network("Sizes"), "-l", LAYER), "2 sizes"),
        (2, ("invariance", "one.png", "-l", "features.9"), "features.3"),
        (2, ("invariance", "one.png", *("-l", LAYER) * 5), "at most 4 layers"),
        (2, ("invariance", "one.png", "-l", LAYER, "--steps", "1"), "--steps"),
        (1, ("correspond", "none.csv", "-l", LAYER), "no such file of boxes"),
        (1, ("correspond", "far.csv", "-l", LAYER), "is outside the image, which is 30 pixels"),
        (1, ("correspond", "text.csv", "-l", LAYER), "no box in it"),
        (1, ("diagnose", "--data", "single", "-o", "out"), "a distribution needs several images"),
        (1, ("diagnose", "--data", "pair", "--layers", "head", "-o", "out"), "is no convolution"),
    ],
)
def test_the_others_refuse_in_one_line(call, folder, tmp_path, code, words, said):
    image = (folder / "one.png").read_bytes()
    for name in ("one.png", "single/one.png", "pair/one.png", "pair/two.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(image)
    Image.new("RGB", (50, 50)).save(tmp_path / "two.png")
    write_boxes(folder, tmp_path, "0,0,31,10")
    (tmp_path / "boxes.csv").rename(tmp_path / "far.csv")
    (tmp_path / "text.csv").write_text("nothing")
    given = [*words]
    for option, value in (("-m", network()), ("-o", "a.png")):
        if option not in words:
            given += [option, value]
    assert_one_line(call(*given), code, said)
    assert not (tmp_path / "a.png").exists()

"""Bad input on the command line: one clear line on stderr, a non-zero exit, nothing left behind."""

import pytest
from command import assert_one_line, network
from PIL import Image


@pytest.mark.parametrize(
    ("words", "code", "expected"),
    [
        # What was typed
        (["--nonsense"], 2, ["--nonsense"]),
        (["--method", "deconv"], 2, ["--method", "deconvnet"]),
        (["--activations", "tanh"], 2, ["relu", "leaky"]),
        (["-t", "tabbi"], 2, ["no label 'tabbi'", "did you mean tabby"]),
        (["-t", "cat"], 2, ["1 tiger cat", "2 Egyptian cat"]),
        (["-t", "4"], 2, ["target 4", "0 to 3"]),
        (["-t", "-5"], 2, ["target -5", "0 to 3"]),
        (["--neuron", "1"], 2, ["--layer"]),
        (["--layer", "features.2", "--method", "deconvnet"], 2, ["--neuron"]),
        (["--layer", "features.9", "--neuron", "1"], 2, ["no layer 'features.9'", "features.3"]),
        (["--layer", "features.2", "--neuron", "5"], 2, ["neuron 5", "5 channels"]),
        (["--layer", "features.2", "--neuron", "1:99:0"], 2, ["neuron 1:99:0", "(8, 10)"]),
        (["--layer", "features.2", "--neuron", "1:2"], 2, ["neuron 1:2", "(8, 10)"]),
        (["--layer", "features.2", "--neuron", "one"], 2, ["CHANNEL"]),
        (["--device", "gpu"], 2, ["cuda"]),
        (["-m", "resnet5"], 2, ["did you mean resnet50"]),
        (["-m", network("Nothing")], 2, ["no 'Nothing'"]),
        # The work
        (["--layer", "idle", "--neuron", "0"], 1, ["idle"]),
        (["-m", network("Dictionary")], 1, ["dictionary (out)", "wrap"]),
        (["-m", network("Pair")], 1, ["tuple", "wrap"]),
        (["-m", network("Map")], 1, ["(1, 5, 8, 10)", "wrap"]),
        (["-m", network("Detached")], 1, ["require grad"]),
        (["-m", network("Integers")], 1, ["uint8", "/ 255"]),
        (["-m", network("NotANumber")], 1, ["NaN"]),
        (["-m", network("NaNWeights")], 1, ["NaN"]),
        (["-m", network("Failing")], 1, ["first line second line"]),
        (["-m", network("Speechless")], 1, ["AssertionError"]),
        (["-m", "r3d_18", "-w", "none"], 1, ["takes no photographs"]),
        (["-w", "none.pt"], 1, ["none.pt", "no such weights file"]),
        (["--device", "cuda:99"], 1, ["--device cpu"]),
        (["-o", "none/a.png"], 1, ["no folder"]),
        (["-o", "a.bmp"], 1, [".png or .pdf or .svg"]),
        (["-s", "a.pt"], 1, [".safetensors"]),
    ],
)
def test_bad_input(call, folder, tmp_path, words, code, expected):
    defaults = [] if "-m" in words else ["-m", network()]
    defaults += [] if "-o" in words else ["-o", "out.png"]
    result = call("attribute", folder / "one.png", *defaults, *words)
    if "none" in words:
        assert result.stderr.startswith("captum-deconv: note: random weights")
        result.stderr_bytes = b"\n".join(result.stderr_bytes.splitlines()[1:])
    assert_one_line(result, code, *expected)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("missing.png", "no such file"),
        ("text.png", "not an image"),
        ("half.png", "truncated"),
    ],
)
def test_bad_images(call, folder, name, word):
    # The second is bad: the first is not worked on, either.
    words = ("attribute", folder / "one.png", folder / name, "-m", network(), "-o", "a.png")
    assert_one_line(call(*words), 1, word)


def test_decompression_bomb(call, tmp_path, monkeypatch):
    Image.new("L", (60, 60)).save(tmp_path / "big.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 3000)
    words = ("attribute", "big.png", "-m", network(), "-o", "a.png")
    assert_one_line(call(*words), 1, "big.png", "decompression bomb")


def test_weights_that_do_not_fit(call, folder):
    words = ("attribute", folder / "one.png", "-m", network(), "-o", "a.png")
    result = call(*words, "-w", folder / "misfit.pt")
    assert_one_line(result, 1, "do not fit", "features.0.weight", "unexpected (a)")


def test_no_network(call, folder, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "cache"))

    def refuse(*_, **__):
        raise OSError("no route to host")

    monkeypatch.setattr("torch.hub.download_url_to_file", refuse)
    words = ("attribute", folder / "one.png", "-m", "resnet18", "-o", "a.png")
    assert_one_line(call(*words), 1, "no route to host", "--weights FILE", "checkpoints")


def test_nowhere_to_put_the_result(call, folder):
    assert_one_line(call("attribute", folder / "one.png", "-m", network()), 2, "--out", "--save")


def test_photographs_are_not_overwritten(call, folder, tmp_path):
    (tmp_path / "mine.png").write_bytes((folder / "one.png").read_bytes())
    words = ("attribute", "mine.png", "-m", network(), "-o", "./mine.png")
    assert_one_line(call(*words), 1, "overwrite")


def test_sizes_that_make_no_batch(call, folder):
    words = ("attribute", folder / "one.png", folder / "two.jpg", "-m", network("Sizes"))
    assert_one_line(call(*words, "-s", "a.safetensors"), 1, "2 sizes")
    assert call(*words, "-o", "a.png").exit_code == 0


def test_outputs_are_checked_before_the_work(call, folder, tmp_path, monkeypatch):
    def refuse(**_):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    # The network fails as soon as it is run, and is not.
    words = ("attribute", folder / "one.png", "-m", network("Failing"), "-o", "a.png")
    assert_one_line(call(*words), 1, "Read-only")
    assert_one_line(call("demo", "-o", "new"), 1, "Read-only")


def test_a_failure_leaves_the_old_results(call, folder, tmp_path, monkeypatch):
    for name in ("a.png", "a.safetensors"):
        (tmp_path / name).write_text("old")

    def break_off(_, path, **__):
        path.write_text("half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("matplotlib.figure.Figure.savefig", break_off)
    words = ("attribute", folder / "one.png", "-m", network(), "-o", "a.png")
    assert_one_line(call(*words), 1, "No space left")
    assert (tmp_path / "a.png").read_text() == "old"
    monkeypatch.setattr("pathlib.Path.write_bytes", lambda path, _: break_off(None, path))
    assert_one_line(call(*words, "-s", "a.safetensors"), 1, "No space left")
    assert (tmp_path / "a.safetensors").read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 2


def test_unknown_command(call):
    assert_one_line(call("atribute"), 2, "No such command", "atribute")


def test_too_many_images_for_a_picture(call, folder):
    words = ("attribute", *[folder / "one.png"] * 33, "-m", network())
    assert_one_line(call(*words, "-o", "a.png"), 2, "at most 32 rows", "33 images", "--save")
    assert call(*words, "-s", "a.safetensors", "--method", "deconvnet").exit_code == 0
    several = (*words[:12], "-m", network(), "-t", "top3", "-o", "a.png")
    assert_one_line(call(*several), 2, "at most 32 rows", "11 images with 3 rows each", "--save")

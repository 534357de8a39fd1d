import os

import pytest
import torch
from safetensors.torch import save_file

from captum_deconv.results import (
    Neuron,
    OutputError,
    Result,
    Score,
    check_folder,
    check_output,
    load_results,
    make_folder,
    replace_file,
    save_results,
)


def make_result(name="a.png", size=4, **parts):
    inputs = torch.rand(3, size, size)
    return Result(name, inputs, inputs, {"guided_backprop": inputs - 0.5}, **parts)


def test_round_trip(tmp_path):
    score = Score(3, "tabby", 0.5)
    results = [
        make_result("a.png", target=score, top=(score,)),
        make_result("b.png", neuron=Neuron("features.3", 2, (1, 4), 0.25)),
    ]
    save_results(results, tmp_path / "r.safetensors", {"model": "tiny"})
    tensors, record = load_results(tmp_path / "r.safetensors")
    assert set(tensors) == {"inputs", "guided_backprop"}
    for number, result in enumerate(results):
        assert torch.equal(tensors["inputs"][number], result.inputs)
        assert torch.equal(
            tensors["guided_backprop"][number], result.attributions["guided_backprop"]
        )
    assert record["model"] == "tiny"
    assert record["methods"] == ["guided_backprop"]
    assert record["versions"]["torch"] == torch.__version__.split("+")[0]
    first, second = record["images"]
    assert first["target"] == {"index": 3, "label": "tabby", "probability": 0.5}
    assert second["neuron"]["place"] == [1, 4]


def test_one_batch_needs_one_size(tmp_path):
    with pytest.raises(ValueError, match="one size"):
        save_results([make_result(), make_result(size=5)], tmp_path / "r.safetensors", {})
    with pytest.raises(ValueError, match="one size"):
        save_results([], tmp_path / "r.safetensors", {})
    assert not list(tmp_path.iterdir())


def test_foreign_safetensors(tmp_path):
    save_file({"a": torch.zeros(1)}, tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match="something else"):
        load_results(tmp_path / "a.safetensors")


def test_replacing_keeps_the_old_until_the_end(tmp_path):
    path = tmp_path / "r.txt"
    path.write_text("old")
    with replace_file(path) as temporary:
        temporary.write_text("new")
        assert temporary.parent == tmp_path
        assert temporary.suffix == ".txt"
        assert path.read_text() == "old"
    assert path.read_text() == "new"

    def write_half():
        with replace_file(path) as temporary:
            temporary.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_half()
    assert path.read_text() == "new"
    assert os.listdir(tmp_path) == ["r.txt"]


def test_replacing_keeps_the_mode(tmp_path):
    plain, kept = tmp_path / "plain", tmp_path / "kept"
    plain.write_text("")
    kept.write_text("")
    kept.chmod(0o640)
    for path, mode in ((tmp_path / "new", plain.stat().st_mode & 0o777), (kept, 0o640)):
        save_results([make_result()], path, {})
        assert path.stat().st_mode & 0o777 == mode


def test_replacing_through_a_link(tmp_path):
    (tmp_path / "real.txt").write_text("old")
    (tmp_path / "link.txt").symlink_to(tmp_path / "real.txt")
    with replace_file(tmp_path / "link.txt") as temporary:
        temporary.write_text("new")
    assert (tmp_path / "link.txt").is_symlink()
    assert (tmp_path / "real.txt").read_text() == "new"


def test_outputs_are_checked(tmp_path):
    check_output(tmp_path / "a.png", (".png",))
    check_output(tmp_path / "A.PNG", (".png",))
    (tmp_path / "file").write_text("")
    (tmp_path / "folder.png").mkdir()
    for path, word in (
        ("a.jpg", "must end in"),
        ("none/a.png", "no folder"),
        ("file/a.png", "no folder"),
        ("folder.png", "this is a folder"),
    ):
        with pytest.raises(OutputError, match=word):
            check_output(tmp_path / path, (".png",))
    with pytest.raises(OutputError, match="overwrite"):
        check_output(tmp_path / "a.png", (".png",), keep=[tmp_path / "x" / ".." / "a.png"])
    assert sorted(os.listdir(tmp_path)) == ["file", "folder.png"]


def test_folders_that_cannot_be_written(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be made"):
        make_folder(tmp_path / "file" / "below")
    make_folder(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").is_dir()

    def refuse(**_):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    with pytest.raises(OutputError, match="Read-only"):
        check_folder(tmp_path)

import os

import pytest

from captum_deconv.drawing.files import (
    OutputError,
    check_folder,
    check_output,
    make_folder,
    replace_file,
)


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
        with replace_file(path) as temporary:
            temporary.write_bytes(b"new")
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


def test_a_write_protected_file_is_not_replaced(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    path.write_text("old")
    # Not by its mode: root, as whom tests may run, can write to all.
    monkeypatch.setattr("os.access", lambda file, mode: not (file == path and mode == os.W_OK))
    with pytest.raises(OutputError, match=r"a\.png: the existing file is write-protected"):
        check_output(path, (".png",))


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

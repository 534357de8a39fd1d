"""Folders and lists of images: what is refused, and which class a folder stands for."""

import os

import pytest
from PIL import Image

from captum_deconv.sources.datasets import ImageFiles
from captum_deconv.sources.images import FolderError, find_images


@pytest.fixture
def folder(tmp_path):
    for name in ("b", "a"):
        (tmp_path / name).mkdir()
        Image.new("RGB", (4, 4)).save(tmp_path / name / "one.png")
    return tmp_path


@pytest.mark.parametrize(
    ("categories", "labels"),
    [(None, [0, 1]), (["x", "y"], [0, 1]), (["B", "A"], [1, 0]), (["x", "y", "z"], None)],
)
def test_a_folders_class_is_its_name_or_else_its_number(categories, labels, folder):
    assert ImageFiles(folder, lambda image: image).find_labels(categories) == labels


def test_a_list_without_a_path(tmp_path):
    (tmp_path / "empty.txt").write_text("\n  \n")
    with pytest.raises(FolderError, match=r"empty\.txt: no path in it; a list of images has one"):
        ImageFiles(tmp_path / "empty.txt", lambda image: image)


def test_a_folder_below_that_cannot_be_read(folder, monkeypatch):
    scan = os.scandir

    def refuse(path):
        if str(path).endswith("b"):
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)  # root may read everything
    with pytest.raises(FolderError, match=r"b: cannot be read \(Permission denied\)"):
        find_images(folder)

"""The index: kept, read back, held against what it was made from."""

import math
import os
from collections.abc import Callable

import pytest
from scans import LAYERS, Damaged, assert_equal
from torch import Tensor, nn
from torch.utils.data import TensorDataset
from torchvision import transforms

from captum_deconv import features

Places = list[list[tuple[float, int, tuple[int, ...]]]]


def test_save_and_load(small, dataset, tmp_path):
    images = dataset.tensors[0].clone()
    images[3] = math.nan
    damaged = Damaged(images, {2: OSError('a "quoted" line\nbreak <script>')})
    with pytest.warns(features.ScanWarning):
        index = features.scan(small, LAYERS, damaged, k=4, progress=False)
    path = tmp_path / "an index.safetensors"
    index.save(path)
    assert_equal(features.ActivationIndex.load(path), index)
    assert os.listdir(tmp_path) == [path.name]
    first = path.read_bytes()
    index.save(path)
    assert path.read_bytes() == first


def test_a_save_that_fails_leaves_the_old_file(small, dataset, tmp_path, monkeypatch):
    index = features.scan(small, "fc", dataset, progress=False)
    path = tmp_path / "index"
    index.save(path)
    before = path.read_bytes()

    def fail(descriptor: int) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="no space"):
        index.save(path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["index"]


@pytest.mark.parametrize(
    "damage", [lambda b: b[:-5], lambda b: b"", lambda b: b"PNG" * 99, lambda b: b[:40]]
)
def test_a_damaged_file_is_an_error(small, dataset, tmp_path, damage: Callable[[bytes], bytes]):
    path = tmp_path / "index"
    features.scan(small, "fc", dataset, progress=False).save(path)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(features.IndexFileError, match="not an activation index"):
        features.ActivationIndex.load(path)
    with pytest.raises(FileNotFoundError, match="no such activation index"):
        features.ActivationIndex.load(tmp_path / "other")


def test_check_says_which_differs(small, dataset):
    index = features.scan(small, "fc", dataset, progress=False)
    index.check(small, dataset)
    images = dataset.tensors[0]
    changed = images.clone()
    changed[17, 0, 0, 0] += 1
    with pytest.raises(features.IndexMismatchError, match="data set: as long, with other contents"):
        index.check(small, TensorDataset(changed))
    with pytest.raises(features.IndexMismatchError, match="45 samples, not 44"):
        index.check(small, TensorDataset(images[:44]))
    small.fc.bias.data[0] += 1
    with pytest.raises(features.IndexMismatchError, match="the weights"):
        index.check(small, dataset)
    small.pool.kernel_size = 3
    with pytest.raises(features.IndexMismatchError, match="another architecture"):
        index.check(small, dataset)
    with pytest.raises(features.IndexMismatchError, match=r"Small, not .*Conv2d"):
        index.check(small.conv1, dataset)


def test_check_names_the_transform(small, dataset):
    class Transformed(Damaged):
        def __init__(self, transform: nn.Module) -> None:
            super().__init__(dataset.tensors[0], {})
            self.transform = transform

        def __getitem__(self, index: int) -> Tensor:
            return self.transform(self.images[index])

    index = features.scan(small, "fc", Transformed(transforms.Pad(1)), progress=False)
    with pytest.raises(features.IndexMismatchError, match=r"transform: made with Pad.*not Pad"):
        index.check(small, Transformed(transforms.Pad(2)))

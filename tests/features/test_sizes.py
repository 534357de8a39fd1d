"""Images of several sizes: each is scanned as it is, in batches of its like."""

import re

import pytest
import torch
from scans import LAYERS, Damaged, Small, assert_equal

from captum_deconv import features

SIZES = [(12, 14), (9, 9), (12, 14), (10, 16), (9, 9), (12, 14), (9, 9), (16, 10)]


@pytest.fixture
def network():
    torch.manual_seed(0)
    return Small().eval().double()


@pytest.fixture
def photographs():
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(3, *s, generator=generator, dtype=torch.float64) for s in SIZES]


def scan(network, images, layers=LAYERS, **how):
    return features.scan(network, layers, images, **{"k": 3, "progress": False, **how})


def list_strongest(network, layer, images):
    """Every image alone, of every channel the three strongest."""
    kept = []
    module = network.get_submodule(layer)
    handle = module.register_forward_hook(lambda _, args, output: kept.append(output.clone()))
    with torch.no_grad():
        for image in images:
            network(image[None])
    handle.remove()
    maxima = torch.stack(
        [maps[0].flatten(1).amax(1) if maps.dim() > 2 else maps[0] for maps in kept]
    )
    return maxima, maxima.T.sort(dim=1, descending=True)


def test_each_image_is_scanned_as_it_is(network, photographs):
    index = scan(network, photographs, batch_size=2)
    for layer in LAYERS:
        _, (values, samples) = list_strongest(network, layer, photographs)
        # Convolutions of other batches sum in another order; float64 leaves 1e-12 of that.
        assert torch.allclose(index.values[layer], values[:, :3], atol=1e-12)
        assert torch.equal(index.samples[layer], samples[:, :3])
    assert index.metadata["by_size"] is True
    assert index.metadata["largest"] == [16, 16]
    assert index.complete


def test_batches_are_of_one_size_and_not_padded(network, photographs):
    shapes = []
    network.register_forward_pre_hook(lambda _, inputs: shapes.append(tuple(inputs[0].shape)))
    scan(network, photographs, batch_size=2)
    assert shapes == [
        *[(2, 3, 12, 14), (1, 3, 12, 14), (2, 3, 9, 9), (1, 3, 9, 9)],
        *[(1, 3, 10, 16), (1, 3, 16, 10)],
    ]


def test_equal_values_come_in_the_samples_order(network):
    """Batches out of order must not show: a constant image of each size gives ties."""
    images = [torch.zeros(3, *size, dtype=torch.float64) for size in SIZES]
    index = scan(network, images, ["pool"], batch_size=2, k=8)
    assert index.samples["pool"].tolist() == [list(range(8))] * 5


def test_parts_and_resuming_give_the_same(network, photographs, tmp_path):
    whole = scan(network, photographs, batch_size=2)
    parts = [scan(network, photographs, batch_size=2, shard=(n, 3)) for n in range(3)]
    assert_equal(parts[2].merge(parts[0]).merge(parts[1]), whole)

    class Stopped(list):
        def __getitem__(self, number):
            self.left -= 1
            if self.left < 0:
                raise KeyboardInterrupt
            return super().__getitem__(number)

    dataset, how = Stopped(photographs), {"checkpoint": tmp_path / "part", "checkpoint_seconds": 0}
    dataset.left = 8 + 8 + 6  # the fingerprint, the sizes, and some batches
    with pytest.raises(KeyboardInterrupt):
        scan(network, dataset, batch_size=2, **how)
    covered = features.ActivationIndex.load(tmp_path / "part").covered
    assert covered
    assert covered != [(0, 8)]
    dataset.left = 1000
    assert_equal(scan(network, dataset, batch_size=2, **how), whole)


def test_what_cannot_be_read_is_left_out(network, photographs):
    data = Damaged(photographs, {2: OSError("gone"), 3: ValueError("odd")})
    with pytest.warns(features.ScanWarning, match="2 of 8 samples"):
        index = scan(network, data, batch_size=2)
    assert sorted(index.skipped) == [2, 3]
    assert not {2, 3} & set(index.samples["conv1"].flatten().tolist())


def test_where_sizes_were_not_seen_the_error_says_what_to_do(network):
    images = [torch.zeros(3, 9, 9, dtype=torch.float64)] * 40
    images[1] = torch.zeros(3, 8, 8, dtype=torch.float64)
    with pytest.raises(ValueError, match=re.escape("give by_size=True where sizes differ")):
        scan(network, images)
    assert scan(network, images, by_size=True).metadata["largest"] == [9, 9]


class TestMaxima:
    """What ``keep_maxima`` keeps of every image."""

    @pytest.mark.parametrize("sizes", [SIZES, [(12, 14)] * 8], ids=["several", "one"])
    def test_each_images_strongest_and_its_label(self, network, sizes, tmp_path):
        generator = torch.Generator().manual_seed(1)
        images = [torch.randn(3, *s, generator=generator, dtype=torch.float64) for s in sizes]
        data = [(image, number % 3) for number, image in enumerate(images)]
        index = scan(network, data, batch_size=3, keep_maxima=True)
        for layer in LAYERS:
            maxima, _ = list_strongest(network, layer, images)
            assert torch.allclose(index.maxima[layer], maxima, atol=1e-12)
            assert torch.equal(index.maxima[layer].amax(0), index.values[layer][:, 0])
        assert index.labels.tolist() == [n % 3 for n in range(8)]
        index.save(tmp_path / "index")
        again = features.ActivationIndex.load(tmp_path / "index")
        assert torch.equal(again.maxima["fc"], index.maxima["fc"])
        assert torch.equal(again.labels, index.labels)
        parts = [scan(network, data, batch_size=3, keep_maxima=True, shard=(n, 2)) for n in (0, 1)]
        merged = parts[1].merge(parts[0])
        assert torch.equal(merged.maxima["conv1"], index.maxima["conv1"])
        assert torch.equal(merged.labels, index.labels)

    def test_they_are_not_kept_unasked_and_of_nothing_unreadable(self, network, photographs):
        assert scan(network, photographs).maxima == {}
        assert scan(network, photographs).labels is None
        data = Damaged(photographs, {2: OSError("gone")})
        with pytest.warns(features.ScanWarning):
            index = scan(network, data, keep_maxima=True)
        assert index.maxima["pool"].isnan().all(1).tolist() == [n == 2 for n in range(8)]
        assert index.labels[2] == -1

"""Samples of several sizes, models of several inputs, parts in folders of their own."""

import json

import collect_program
import pytest
import torch
from safetensors.torch import load_file
from scans import Damaged
from snapshot import Snapshot
from torch import nn
from torch.utils.data import DataLoader
from torchvision.models import resnet18

from captum_deconv import Collection, collect, compare
from captum_deconv.collection import CollectionError
from captum_deconv.features import UnreadableSampleError

METHODS = ("input_gradient", "guided_backprop", "deconvnet")
SIZES = [(12, 14), (9, 9), (12, 14), (10, 12), (9, 9), (12, 14), (9, 9)]
PLAIN = {"progress": False, "dtype": torch.float32}


@pytest.fixture
def network():
    torch.manual_seed(0)
    pooled = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5))
    return nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 4, 3), nn.ReLU(), *pooled
    ).eval()


@pytest.fixture
def photographs():
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(3, *size, generator=generator) for size in SIZES]


class Counted(list):
    """A data set that counts how often it is read."""

    reads = 0

    def __getitem__(self, index):
        self.reads += 1
        return super().__getitem__(index)


def expect(network, image, **how):
    return compare(network, image[None], network(image[None]).argmax(1), **how)


def test_images_of_several_sizes(network, photographs, tmp_path):
    batches = []
    network.register_forward_pre_hook(lambda _, inputs: batches.append(tuple(inputs[0].shape)))
    before = Snapshot(network, *photographs)
    kept = collect(network, photographs, tmp_path, batch_size=2, **PLAIN)
    before.assert_unchanged()
    assert batches == [(2, 3, 12, 14), (2, 3, 9, 9), (1, 3, 10, 12), (1, 3, 12, 14), (1, 3, 9, 9)]
    assert [item["name"] for item in kept] == list("0123456")
    for item, image in zip(kept, photographs, strict=True):
        for method, expected in expect(network, image).items():
            torch.testing.assert_close(item[method], expected[0], rtol=1e-5, atol=1e-7)
    assert kept.tensor("target").tolist() == [item["target"] for item in kept]
    norms = dict(zip(kept.methods, kept.tensor("norms")[3].tolist(), strict=True))
    assert norms["deconvnet"] == pytest.approx(float(kept[3]["deconvnet"].norm()))
    with pytest.raises(ValueError, match="deconvnet is not of one size"):
        kept.tensor("deconvnet")
    assert not (tmp_path / "sizes.json").exists()


def test_any_tool_reads_rows_of_several_sizes(network, photographs, tmp_path):
    kept = collect(network, photographs, tmp_path, batch_size=2, shard_bytes=16000, **PLAIN)
    files = sorted(tmp_path.glob("*.safetensors"))
    assert len(files) > 1
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    for path, (name, first, stop) in zip(files, manifest["shards"], strict=True):
        assert path.name == name
        tensors = load_file(path)
        for row in range(stop - first):
            shape, start = tensors["shape"][row], tensors["start"][row]
            flat = tensors["deconvnet"][start : start + shape.prod()]
            assert torch.equal(flat.view(*shape), kept[first + row]["deconvnet"])


def test_reduced_to_one_size(network, photographs, tmp_path):
    kept = collect(network, photographs, tmp_path, reduce=("sum", 4), **PLAIN)
    assert kept.tensor("guided_backprop").shape == (7, 1, 4, 4)
    expected = expect(network, photographs[3])["guided_backprop"].sum(1)
    pooled = torch.nn.functional.adaptive_avg_pool2d(expected, 4)
    torch.testing.assert_close(kept[3]["guided_backprop"], pooled, rtol=1e-5, atol=1e-7)


def test_sizes_are_read_once_by_all_parts_and_runs(network, photographs, tmp_path):
    whole = collect(network, photographs, tmp_path / "whole", batch_size=2, **PLAIN)
    data = Counted(photographs)
    for number in (2, 0, 1):
        found = collect(
            *(network, data, tmp_path / "parts"), batch_size=2, shard=(number, 3), **PLAIN
        )
    assert found is not None
    surveys = 1  # beside what recognises the data set, and the samples of the batches
    assert data.reads == (surveys + 1) * len(data) + 3 * 2 * len(data)
    for path in whole.folder.iterdir():
        assert (tmp_path / "parts" / path.name).read_bytes() == path.read_bytes()


def test_unreadable_ones_among_several_sizes(network, photographs, tmp_path):
    data = Damaged(photographs, {0: OSError("torn"), 4: OSError("torn")})
    with pytest.warns(UserWarning, match="2 samples could not be read"):
        kept = collect(network, data, tmp_path, batch_size=2, **PLAIN)
    assert [item["name"] for item in kept] == list("12356")
    for item in kept:
        expected = expect(network, photographs[int(item["name"])])["deconvnet"]
        torch.testing.assert_close(item["deconvnet"], expected[0], rtol=1e-5, atol=1e-7)


def test_a_loaders_batches_are_divided_by_size(network, photographs, tmp_path):
    batches = []
    network.register_forward_pre_hook(lambda _, inputs: batches.append(len(inputs[0])))
    kept = collect(network, DataLoader(photographs, batch_size=4), tmp_path, **PLAIN)
    assert batches == [2, 1, 1, 2, 1]
    expected = expect(network, photographs[6])["input_gradient"]
    torch.testing.assert_close(kept[6]["input_gradient"], expected[0], rtol=1e-5, atol=1e-7)


def test_a_data_set_that_gives_other_sizes_each_time(network, tmp_path):
    class Fickle(list):
        reads = 0

        def __getitem__(self, index):
            self.reads += 1
            return torch.ones(3, 9, 9 + self.reads)

    with pytest.raises(ValueError, match="the same each time"):
        collect(network, Fickle([0, 1, 2]), tmp_path, by_size=True, **PLAIN)


class Two(nn.Module):
    """Takes a photograph and a row of numbers."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.convolution, self.linear = nn.Conv2d(3, 5, 3), nn.Linear(4, 5)

    def forward(self, image, row):
        return torch.relu(self.convolution(image)).mean((2, 3)) + torch.relu(self.linear(row))


@pytest.mark.parametrize("sizes", [[(9, 9)] * 5, SIZES[:5]])
@pytest.mark.parametrize("as_dictionary", [False, True])
def test_a_model_of_two_inputs(sizes, as_dictionary, tmp_path):
    model = Two().eval()
    generator = torch.Generator().manual_seed(1)
    images = [torch.randn(3, *size, generator=generator) for size in sizes]
    rows = torch.randn(5, 4, generator=generator)
    data = [
        (image, row, label) for label, (image, row) in enumerate(zip(images, rows, strict=True))
    ]
    if as_dictionary:
        data = [{"image": i[None][0], "row": r[None], "label": k} for i, r, k in data]
        model.linear = nn.Sequential(nn.Flatten(), model.linear).eval()
        rows = rows[:, None]
    how = {"inputs": 2, "target": "label", "batch_size": 2, **PLAIN}
    kept = collect(model, data, tmp_path, **how)
    for number, item in enumerate(kept):
        given = images[number][None], rows[number][None]
        for method, expected in compare(model, given, number).items():
            image, row = item[method]
            torch.testing.assert_close(image, expected[0][0], rtol=1e-5, atol=1e-7)
            torch.testing.assert_close(row, expected[1][0], rtol=1e-5, atol=1e-7)
            norm = torch.cat([image.flatten(), row.flatten()]).norm()
            column = METHODS.index(method)
            assert float(kept.tensor("norms")[number, column]) == pytest.approx(float(norm))
    assert kept.tensor("deconvnet.1").shape == (5, *rows.shape[1:])
    assert kept[3]["label"] == 3


def test_too_few_inputs_are_unreadable(tmp_path):
    with pytest.raises(UnreadableSampleError, match="2 tensors were expected"):
        collect(Two().eval(), [torch.ones(3, 9, 9)], tmp_path, inputs=2, **PLAIN)


def test_parts_of_several_folders_are_merged(tmp_path):
    collect_program.run(tmp_path / "whole", "0")
    folders = []
    for number in (1, 2, 0):
        assert collect_program.run(tmp_path / str(number), "0", shard=(number, 3)) is None
        folders.append(tmp_path / str(number) / "kept")
    before = [sorted(folder.iterdir()) for folder in folders]
    out = tmp_path / "merged"
    with pytest.raises(CollectionError, match="parts 2 of 3"):
        Collection.merge([folders[0], folders[2]], out)
    assert not out.exists()
    merged = Collection.merge(folders, out)
    assert [sorted(folder.iterdir()) for folder in folders] == before
    assert len(merged) == collect_program.LENGTH - 1
    for path in (tmp_path / "whole" / "kept").iterdir():
        assert (out / path.name).read_bytes() == path.read_bytes()
    with pytest.raises(CollectionError, match="is not empty"):
        Collection.merge(folders, out)
    with pytest.raises(CollectionError, match="every part"):
        Collection.merge([out], tmp_path / "again")


def test_parts_of_different_runs_are_not_merged(network, photographs, tmp_path):
    for number, target in enumerate((0, 1)):
        collect(
            *(network, photographs, tmp_path / str(number)),
            target=target,
            shard=(number, 2),
            **PLAIN,
        )
    with pytest.raises(CollectionError, match="target"):
        Collection.merge([tmp_path / "0", tmp_path / "1"], tmp_path / "out")


def test_a_faster_copy_says_how_far_it_is_off(tmp_path):
    torch.manual_seed(0)
    model, images = resnet18(weights=None).eval(), torch.randn(4, 3, 64, 64)
    before = Snapshot(model, images)
    exact = collect(model, images, tmp_path / "exact", batch_size=2, target=3, **PLAIN)
    fast = collect(model, images, tmp_path / "fast", batch_size=2, target=3, fast=True, **PLAIN)
    before.assert_unchanged()
    assert exact.fast is None
    assert exact.record["precision"] == "exact"
    assert "batch norms" in fast.record["precision"]
    off = [
        float((a[method] - b[method]).abs().max() / max(c[method].abs().max() for c in exact[:2]))
        for a, b in zip(fast[:2], exact[:2], strict=True)
        for method in METHODS
    ]
    assert 0 < fast.fast < 0.1
    assert max(off) == pytest.approx(fast.fast, rel=1e-3)
    with pytest.raises(CollectionError, match="precision: exact, not"):
        collect(model, images, tmp_path / "exact", batch_size=2, target=3, fast=True, **PLAIN)


def test_a_length_that_lies_and_a_transform_that_raises(network, photographs, tmp_path):
    class TooLong(list):
        def __len__(self):
            return 9

    def work(image):
        if image.shape[-1] == 12:
            raise ZeroDivisionError("division by zero")
        return image

    class Transformed(list):
        def __getitem__(self, index):
            return work(super().__getitem__(index))

    with pytest.warns(UserWarning, match=r"2 samples could not be read .*7 \(IndexError"):
        assert len(collect(network, TooLong(photographs), tmp_path / "a", **PLAIN)) == 7
    with pytest.warns(UserWarning, match=r"1 samples .*3 \(ZeroDivisionError: division by zero\)"):
        assert len(collect(network, Transformed(photographs), tmp_path / "b", **PLAIN)) == 6


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_hugging_face_data_sets(network, photographs, tmp_path):
    datasets = pytest.importorskip("datasets")
    pixels = torch.stack([image[:, :9, :9] for image in photographs])
    table = datasets.Dataset.from_dict({"number": list(range(7)), "label": [4, 3, 2, 1, 0, 1, 2]})
    table = table.with_transform(
        lambda rows: {"pixel_values": [pixels[n] for n in rows["number"]], "label": rows["label"]}
    )
    kept = collect(network, table, tmp_path / "a", target="label", **PLAIN)
    plain = collect(
        *(network, list(zip(pixels, table["label"], strict=True)), tmp_path / "b"),
        target="label",
        **PLAIN,
    )
    assert kept.tensor("label").tolist() == [4, 3, 2, 1, 0, 1, 2]
    assert torch.equal(kept.tensor("deconvnet"), plain.tensor("deconvnet"))
    back = kept.to_datasets(tmp_path / "cache").with_format("torch")
    assert back["score"][:].tolist() == kept.tensor("score").tolist()
    assert torch.equal(back[2]["guided_backprop"], kept[2]["guided_backprop"])
    several = collect(network, photographs, tmp_path / "c", **PLAIN).to_datasets(tmp_path / "cache")
    found = torch.tensor(several[3]["deconvnet"])
    assert found.shape == (3, 10, 12)


def test_parts_of_another_number_and_files_of_another_size_are_not_merged(
    network, photographs, tmp_path
):
    for number, count in ((0, 2), (1, 2), (2, 3)):
        out = tmp_path / str(number)
        collect(network, photographs, out, shard=(number, count), **PLAIN)
    first, second, other = (tmp_path / str(number) for number in range(3))
    with pytest.raises(CollectionError, match="is of a run in 3 parts, others of 2"):
        Collection.merge([first, other], tmp_path / "out")
    (path,) = second.glob("*.safetensors")
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(CollectionError, match=f"{path.name} is not of one size in all folders"):
        Collection.merge([first, second], tmp_path / "out")
    with pytest.raises(CollectionError, match=f"{path.name} is of another size than it should be"):
        collect(network, photographs, second, shard=(0, 2), **PLAIN)


def test_sizes_of_other_samples_are_not_taken(network, photographs, tmp_path):
    collect(network, photographs, tmp_path / "one", shard=(0, 2), **PLAIN)
    (tmp_path / "two").mkdir()
    (tmp_path / "one" / "sizes.json").rename(tmp_path / "two" / "sizes.json")
    turned = [image.transpose(1, 2).contiguous() for image in photographs]
    kept = collect(network, turned, tmp_path / "two", **PLAIN)
    assert [item["deconvnet"].shape for item in kept] == [image.shape for image in turned]


def test_a_file_in_which_no_sample_could_be_read(network, photographs, tmp_path):
    data = Damaged(photographs, {0: OSError("torn"), 1: OSError("torn")})
    with pytest.warns(UserWarning, match="2 samples could not be read"):
        kept = collect(network, data, tmp_path, batch_size=2, shard_bytes=1, **PLAIN)
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    assert [item["name"] for item in kept] == list("23456")


def test_a_neuron_without_a_place(network, photographs, tmp_path):
    kept = collect(network, photographs[:3], tmp_path, layer="6", neuron=2, **PLAIN)
    assert kept.tensor("place").shape == (3, 0)
    assert [item["target"] for item in kept] == [(2,)] * 3

"""What is kept is what the classes give, of every kind of question; and what is refused."""

import errno
import os
import pickle
import shutil
import sys
import warnings

import pytest
import torch
from safetensors.torch import load_file
from scans import Damaged
from snapshot import Snapshot
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from captum_deconv import (
    Collection,
    NeuronDeconvnet,
    collect,
    compare,
    strongest,
)
from captum_deconv.collection import CollectionError, CollectWarning, questions
from captum_deconv.drawing.files import OutputError
from captum_deconv.features import UnreadableSampleError

METHODS = ("input_gradient", "guided_backprop", "deconvnet")


@pytest.fixture
def network():
    torch.manual_seed(0)
    return nn.Sequential(
        *(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 4, 3), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(36, 5)),
    ).eval()


@pytest.fixture
def photographs():
    return torch.randn(10, 3, 12, 12, generator=torch.Generator().manual_seed(1))


LABELS = torch.tensor([4, 3, 2, 1, 0, 0, 1, 2, 3, 4])


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("predicted", None),
        ("label", LABELS.tolist()),
        (3, [3] * 10),
        (-1, [4] * 10),
        ([1, 0] * 5, [1, 0] * 5),
        (lambda outputs, labels: (labels + 1) % 5, ((LABELS + 1) % 5).tolist()),
    ],
)
def test_of_classes(target, expected, network, photographs, tmp_path):
    data = TensorDataset(photographs, LABELS)
    before = Snapshot(network, photographs)
    kept = collect(
        network, data, tmp_path, target=target, dtype=torch.float32, batch_size=4, progress=False
    )
    before.assert_unchanged()
    scores = network(photographs).detach()
    targets = scores.argmax(1).tolist() if expected is None else expected
    assert len(kept) == 10
    assert [item["target"] for item in kept] == targets
    assert [item["predicted"] for item in kept] == scores.argmax(1).tolist()
    assert [item["label"] for item in kept] == LABELS.tolist()
    for start in range(0, 10, 4):  # bit for bit, in the batches that it was computed in
        part = slice(start, start + 4)
        for method, found in compare(network, photographs[part], targets[part]).items():
            assert torch.equal(kept.tensor(method)[part], found)
        picked = network(photographs[part]).detach()[range(len(targets[part])), targets[part]]
        assert torch.equal(kept.tensor("score")[part], picked)
    assert not torch.equal(kept.tensor("deconvnet"), kept.tensor("guided_backprop"))


@pytest.mark.parametrize("neuron", ["strongest", 2, -1, (2, 0, 1), (-1, -1, -1)])
def test_of_neurons(neuron, network, photographs, tmp_path):
    kept = collect(
        *(network, photographs, tmp_path),
        layer="3",
        neuron=neuron,
        dtype=torch.float32,
        progress=False,
    )
    layer = network[:4](photographs)

    def select(tensor):
        if neuron == "strongest":
            return tensor.flatten(1).amax(1)
        return (
            tensor[(slice(None), *neuron)]
            if isinstance(neuron, tuple)
            else strongest(neuron)(tensor)
        )

    expected = NeuronDeconvnet(network, "3").attribute(photographs, select)
    assert torch.equal(kept.tensor("deconvnet"), expected)
    for row, item in enumerate(kept):
        assert layer[(row, *item["target"])].item() == item["score"]
        assert item["predicted"] is None


def test_less_is_kept(network, photographs, tmp_path):
    full = collect(network, photographs, tmp_path / "full", dtype=torch.float64, progress=False)
    maps = full.tensor("deconvnet")
    pooled = nn.functional.avg_pool2d(maps, 3)
    cases = {
        "sum": maps.sum(1, keepdim=True),
        "abs_max": maps.abs().amax(1, keepdim=True),
        4: pooled,
        (4, 4): pooled,
        ("sum", 4): pooled.sum(1, keepdim=True),
    }
    for number, (reduce, expected) in enumerate(cases.items()):
        out = tmp_path / str(number)
        kept = collect(
            network, photographs, out, dtype=torch.float64, reduce=reduce, progress=False
        )
        torch.testing.assert_close(kept.tensor("deconvnet"), expected, rtol=1e-5, atol=1e-6)
    for dtype in (torch.float16, torch.bfloat16):
        kept = collect(network, photographs, tmp_path / str(dtype), dtype=dtype, progress=False)
        assert torch.equal(kept.tensor("deconvnet"), maps.to(dtype))
        assert torch.equal(kept.tensor("norms"), full.tensor("norms"))


def test_a_loader_gives_its_batches_and_its_order(network, photographs, tmp_path):
    data = TensorDataset(photographs, LABELS)
    loader = DataLoader(data, batch_sampler=[[9, 1], [0, 4, 7], [3]], num_workers=2)
    kept = collect(network, loader, tmp_path, target="label", progress=False)
    assert [item["label"] for item in kept] == LABELS[[9, 1, 0, 4, 7, 3]].tolist()
    expected = compare(network, photographs[[0, 4, 7]], LABELS[[0, 4, 7]])["deconvnet"].half()
    assert torch.equal(kept.tensor("deconvnet")[2:5], expected)
    with pytest.raises(TypeError, match="collate_fn of its own"):
        collect(network, DataLoader(data, collate_fn=list), tmp_path / "b", progress=False)


def test_dictionaries_and_outputs_that_are_no_tensor(photographs, tmp_path, network):
    class Returns(nn.Module):
        def __init__(self):
            super().__init__()
            self.network = network

        def forward(self, x):
            return {"logits": self.network(x)}

    data = [{"pixel_values": image, "label": i % 5} for i, image in enumerate(photographs)]
    model = Returns().eval()
    kept = collect(model, data, tmp_path, output="logits", target="label", progress=False)
    expected = compare(network, photographs, [i % 5 for i in range(10)])["guided_backprop"].half()
    assert torch.equal(kept.tensor("guided_backprop"), expected)
    with pytest.raises(TypeError, match="output='logits'"):
        collect(model, data, tmp_path / "b", progress=False)


def test_unreadable_samples_are_left_out_and_named(network, photographs, tmp_path):
    data = Damaged(photographs, {0: OSError("torn"), 5: ("no tensor",)})
    with pytest.warns(CollectWarning, match=r"2 samples could not be read .*0 \(OSError: torn\)"):
        kept = collect(network, data, tmp_path, batch_size=4, progress=False)
    assert len(kept) == len(list(kept)) == 8
    assert [item["name"] for item in kept] == list("12346789")
    assert set(kept.skipped) == {0, 5}
    expected = compare(network, photographs[[4, 6, 7]], network(photographs[[4, 6, 7]]).argmax(1))
    assert torch.equal(kept.tensor("deconvnet")[3:6], expected["deconvnet"].half())
    assert kept[3]["name"] == "4"
    with pytest.raises(UnreadableSampleError, match="sample 0 cannot be read: OSError: torn"):
        collect(network, data, tmp_path / "strict", strict=True, progress=False)
    nothing = Damaged(photographs, dict.fromkeys(range(10), OSError("torn")))
    with pytest.raises(UnreadableSampleError, match="none of the 10 samples"):
        collect(network, nothing, tmp_path / "nothing", progress=False)


def test_too_little_memory_halves_the_batch(network, photographs, tmp_path, monkeypatch):
    answer, sizes = questions.answer, []

    def starved(call, *rest):
        sizes.append(len(call.inputs[0]))
        if sizes[-1] > 3:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate")
        return answer(call, *rest)

    monkeypatch.setattr(questions, "answer", starved)
    with pytest.warns(CollectWarning, match="did not suffice for a batch of"):
        kept = collect(network, photographs, tmp_path, progress=False)
    assert sizes == [10, 5, 2, 3, 5, 2, 3]
    expected = compare(network, photographs, network(photographs).argmax(1))["deconvnet"]
    torch.testing.assert_close(kept.tensor("deconvnet").float(), expected, rtol=1e-3, atol=1e-5)
    monkeypatch.setattr(questions, "answer", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        collect(network, photographs, tmp_path / "b", progress=False)


@pytest.mark.parametrize("error", [MemoryError, torch.OutOfMemoryError])
def test_too_little_memory_for_one_image_ends_it(
    error, network, photographs, tmp_path, monkeypatch
):
    sizes = []

    def starve(call, *_):
        sizes.append(len(call.inputs[0]))
        raise error("no more")

    monkeypatch.setattr(questions, "answer", starve)
    with (
        pytest.warns(CollectWarning, match="did not suffice for a batch of"),
        pytest.raises(error, match="no more"),
    ):
        collect(network, photographs, tmp_path, progress=False)
    assert sizes == [10, 5, 2, 1]


def test_any_tool_reads_it(network, photographs, tmp_path):
    kept = collect(network, photographs, tmp_path, batch_size=4, shard_bytes=9000, progress=False)
    files = sorted(tmp_path.glob("*.safetensors"))
    assert len(files) == 4
    parts = [load_file(path) for path in files]
    for name in (*METHODS, "target", "score", "norms"):
        assert torch.equal(torch.cat([part[name] for part in parts]), kept.tensor(name))
    assert all(part["kept"].all() for part in parts)
    assert {p.name for p in tmp_path.iterdir()} == {p.name for p in files} | {"manifest.json"}


def test_a_collection_is_a_sequence_and_a_data_set(network, photographs, tmp_path):
    collect(network, photographs, tmp_path, progress=False, dtype=torch.float32)
    kept = Collection.open(tmp_path)
    assert [item["name"] for item in kept[2:8:3]] == ["2", "5"]
    assert kept[-1]["name"] == kept.by_name("9")["name"] == "9"
    with pytest.raises(IndexError, match="item 10 is out of range"):
        kept[10]
    with pytest.raises(KeyError, match="no item 'x'"):
        kept.by_name("x")
    with pytest.raises(KeyError, match=r"no field 'deconvent'.*deconvnet"):
        kept.tensor("deconvent")
    batch = next(
        iter(DataLoader(pickle.loads(pickle.dumps(kept)), 4, num_workers=1, collate_fn=list))
    )
    assert torch.equal(batch[1]["deconvnet"], kept.tensor("deconvnet")[1])
    assert kept._repr_html_().count("<img") == 10
    assert "10 items" in repr(kept)


def test_a_table_of_a_collection(network, photographs, tmp_path):
    pytest.importorskip("pandas", reason="pandas is not installed")
    kept = collect(network, photographs, tmp_path, progress=False, dtype=torch.float32)
    table = kept.to_pandas()
    assert list(table["target"]) == kept.tensor("target").tolist()
    norms = [item["deconvnet"].norm().item() for item in kept]
    assert table["norm_deconvnet"].tolist() == pytest.approx(norms, rel=1e-6)


@pytest.mark.parametrize(("name", "asked"), [("pandas", "to_pandas"), ("datasets", "to_datasets")])
def test_a_library_that_is_missing_is_named(
    name, asked, network, photographs, tmp_path, monkeypatch
):
    kept = collect(network, photographs[:2], tmp_path, progress=False)
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match=f"{asked} needs {name}: pip install {name}"):
        getattr(kept, asked)()


def test_writing_to_what_was_read_changes_no_file(network, photographs, tmp_path):
    kept = collect(network, photographs, tmp_path, progress=False)
    before = kept.tensor("deconvnet").clone()
    kept.tensor("deconvnet").zero_()
    kept[0]["deconvnet"].fill_(1)
    assert torch.equal(Collection.open(tmp_path).tensor("deconvnet"), before)


@pytest.mark.parametrize(
    ("how", "error", "words"),
    [
        ({"methods": ["deconvent"]}, ValueError, "unknown method 'deconvent'.*deconvnet"),
        ({"methods": []}, ValueError, "sequence of names"),
        ({"methods": "deconvnet"}, ValueError, "sequence of names"),
        ({"target": "labels"}, ValueError, "target must be"),
        ({"target": "label"}, ValueError, "sample 0 has none"),
        ({"target": 5}, IndexError, "target 5 is out of range: the model has 5 classes"),
        ({"target": [1, 2]}, ValueError, "2 entries, and the data set 10"),
        ({"target": lambda o, t: o}, TypeError, "one integer for each"),
        ({"layer": "3"}, ValueError, "give both or neither"),
        ({"layer": "3", "neuron": 1, "target": 2}, ValueError, "exclude each other"),
        ({"layer": "33", "neuron": 1}, ValueError, "no layer '33'"),
        ({"layer": "3", "neuron": 4}, IndexError, "neuron 4 does not fit"),
        ({"layer": "3", "neuron": (1, 2)}, IndexError, "does not fit"),
        ({"output": lambda scores: scores[:, 0]}, TypeError, r"returns \(10,\).*output="),
        ({"batch_size": 0}, ValueError, "batch_size must be at least 1"),
        ({"inputs": 0}, ValueError, "inputs must be at least 1"),
        ({"dtype": torch.int8}, ValueError, "dtype must be"),
        ({"reduce": "mean"}, ValueError, "reduce must be"),
        ({"reduce": 13}, ValueError, "does not fit"),
        ({"shard": (2, 2)}, ValueError, "the number must be in 0 to 1"),
        ({"memory": "least"}, ValueError, "memory"),
    ],
)
def test_bad_options(how, error, words, network, photographs, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(error, match=words):
        collect(network, photographs, out, progress=False, **how)
    assert not list(out.glob("*.json"))


def test_bad_data(network, photographs, tmp_path):
    with pytest.raises(ValueError, match="the data set is empty"):
        collect(network, [], tmp_path / "a", progress=False)
    with pytest.raises(TypeError, match="data set with a length"):
        collect(network, iter(photographs), tmp_path / "a", progress=False)
    with pytest.raises(TypeError, match="images are"):
        collect(network, (photographs * 9).byte(), tmp_path / "a", progress=False)
    mixed = [*photographs[:3], torch.zeros(3, 14, 14)]
    with pytest.raises(ValueError, match=r"samples 0 and 3 are of shape.*by_size=True"):
        collect(network, mixed, tmp_path / "a", by_size=False, progress=False)
    with pytest.raises(ValueError, match="evaluation mode"):
        collect(network.train(), photographs, tmp_path / "a", progress=False)


def test_bad_places(network, photographs, tmp_path, monkeypatch):
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.txt").write_text("mine")
    with pytest.raises(CollectionError, match=r"something else than a collection \(thesis.txt\)"):
        collect(network, photographs, other, progress=False)
    assert (other / "thesis.txt").read_text() == "mine"
    with pytest.raises(OutputError, match="this is a file"):
        collect(network, photographs, other / "thesis.txt", progress=False)
    with pytest.raises(CollectionError, match=r"no complete collection \(no manifest.json\)"):
        Collection.open(other)
    (other / "manifest.json").write_text("[]")
    with pytest.raises(CollectionError, match="no manifest of a collection"):
        Collection.open(other)
    (other / "manifest.json").write_text('{"format": "a newer one"}')
    with pytest.raises(CollectionError, match=r"manifest\.json is of the format 'a newer one'"):
        Collection.open(other)

    with pytest.raises(OutputError, match="the folder cannot be made"):
        collect(network, photographs, "/proc/kept", progress=False)  # not even root may

    calls = []
    network.register_forward_hook(lambda *_: calls.append(1))

    def full(*_):
        raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OutputError, match=r"no room for its .*quota"):
        collect(network, photographs, tmp_path / "quota", progress=False)
    assert not calls, "it was refused before the first forward pass"


def test_a_disk_that_is_too_small(network, photographs, tmp_path, monkeypatch):
    calls = []
    network.register_forward_hook(lambda *_: calls.append(1))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(9999, 0, 9999))
    with pytest.raises(OutputError, match=r"takes \d+\.\d kB, and the disk has 10\.0 kB left"):
        collect(network, photographs, tmp_path, progress=False)
    assert not calls


def test_a_damaged_file_is_said(network, photographs, tmp_path):
    collect(network, photographs, tmp_path, progress=False)
    (path,) = tmp_path.glob("*.safetensors")
    content = path.read_bytes()
    path.write_bytes(content[:9000])
    with pytest.raises(CollectionError, match="ends before its tensors do"):
        Collection.open(tmp_path).tensor("deconvnet")
    path.write_bytes(b"nothing")
    with pytest.raises(CollectionError, match="missing or damaged"):
        Collection.open(tmp_path)[0]


def test_one_warning_for_what_no_rule_reaches(photographs, tmp_path):
    model = nn.Sequential(nn.Flatten(), nn.Linear(432, 8), nn.GELU(), nn.Linear(8, 3)).eval()
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        collect(model, photographs, tmp_path, batch_size=2, progress=False)
    assert len([w for w in said if "GELU" in str(w.message)]) == 1


class Split(nn.Module):
    """Gives two tensors."""

    def forward(self, x):
        return x, x


def test_a_layer_of_several_tensors_is_refused(network, photographs, tmp_path):
    class Halves(nn.Module):
        def __init__(self):
            super().__init__()
            self.split, self.network = Split(), network

        def forward(self, x):
            return self.network(self.split(x)[0])

    how = {"layer": "split", "neuron": 1, "progress": False}
    with pytest.raises(TypeError, match=r"layer 'split' is not one tensor.*choose another layer"):
        collect(Halves().eval(), photographs, tmp_path, **how)


def test_what_is_no_picture_is_not_shown(tmp_path):
    class Sums(nn.Module):
        def forward(self, facts, image):
            return torch.stack([facts.sum(1), image.sum((1, 2, 3))], 1).relu()

    data = [(torch.rand(6), torch.rand(3, 8, 8)) for _ in range(2)]
    kept = collect(Sums().eval(), data, tmp_path, inputs=2, progress=False)
    assert kept[0]["deconvnet"][0].shape == (6,)
    assert "2 items" in kept._repr_html_()
    assert "<img" not in kept._repr_html_()

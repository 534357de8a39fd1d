"""The scan against a plain single pass that sorts everything, and the index's own promises."""

import itertools
import math
import os
import time

import pytest
import torch
from PIL import Image
from scans import LAYERS, Damaged, Small, assert_equal
from snapshot import Snapshot
from torch import Tensor, nn
from torch.utils.data import Subset, TensorDataset
from torchvision import transforms
from torchvision.datasets import ImageFolder

from captum_deconv import features
from captum_deconv.features.ranking import Ranking, take_maxima

Places = list[list[tuple[float, int, tuple[int, ...]]]]


def scan_plainly(
    model: nn.Module, layer: str, images: Tensor, *, k: int, batch_size: int, per_image: int = 1
) -> Places:
    """Keep every activation of every image, sort, and take the first: the definition."""
    kept: list[list[tuple[float, int, tuple[int, ...]]]] = []
    outputs: list[Tensor] = []
    module = model.get_submodule(layer)
    handle = module.register_forward_hook(lambda m, a, output: outputs.append(output.clone()))
    for start in range(0, len(images), batch_size):
        batch = images[start : start + batch_size]
        padding = torch.zeros(batch_size - len(batch), *images.shape[1:])
        outputs.clear()
        with torch.no_grad():
            model(torch.cat([batch, padding]))
        for number, maps in enumerate(outputs[-1][: len(batch)]):
            for channel, activations in enumerate(maps):
                if channel == len(kept):
                    kept.append([])
                places = itertools.product(*map(range, activations.shape))
                own = [(activations[place].item(), start + number, place) for place in places]
                own = [entry for entry in own if not math.isnan(entry[0])]
                own.sort(key=lambda entry: (-entry[0], entry[2]))
                kept[channel] += own[:per_image]
    handle.remove()
    return [sorted(entries, key=lambda e: (-e[0], e[1], e[2]))[:k] for entries in kept]


def places_of(index: features.ActivationIndex, layer: str) -> Places:
    """Write an index's tensors as the plain scan writes its own."""
    values, samples, positions = (
        getattr(index, kind)[layer] for kind in ("values", "samples", "positions")
    )
    missing = values == -math.inf
    assert ((samples == -1) == missing).all()
    assert ((positions == -1) == missing.unsqueeze(2)).all()
    return [
        [
            (value.item(), int(sample), tuple(position.tolist()))
            for value, sample, position in zip(*row, strict=True)
            if sample >= 0
        ]
        for row in zip(values, samples, positions, strict=True)
    ]


@pytest.mark.parametrize("per_image", [1, 3])
@pytest.mark.parametrize(("k", "batch_size"), [(9, 8), (1, 45), (4, 1), (60, 7)])
def test_equal_to_a_plain_single_pass(small, dataset, k, batch_size, per_image):
    index = features.scan(
        small, LAYERS, dataset, k=k, batch_size=batch_size, per_image=per_image, progress=False
    )
    for layer in LAYERS:
        settings = {"k": k, "batch_size": batch_size, "per_image": per_image}
        expected = scan_plainly(small, layer, dataset.tensors[0], **settings)
        assert places_of(index, layer) == expected, layer
    assert index.complete
    assert index.k == k


def test_the_plain_scan_tells_wrong_ties_apart(small, dataset):
    """The control: reversed, the data set has the same values at other samples."""
    flipped = TensorDataset(dataset.tensors[0].flip(0))
    settings = {"k": 9, "batch_size": 45}
    index = features.scan(small, "pool", flipped, progress=False, **settings)
    expected = scan_plainly(small, "pool", dataset.tensors[0], **settings)
    renamed = [[(v, 44 - s, p) for v, s, p in row] for row in places_of(index, "pool")]
    values = [[entry[0] for entry in row] for row in expected]
    assert [[entry[0] for entry in row] for row in renamed] == values
    assert renamed != expected


def test_shapes_and_types(small, dataset):
    index = features.scan(small, LAYERS, dataset, progress=False)
    assert index.layers == list(LAYERS)
    assert index.values["conv2"].shape == index.samples["conv2"].shape == (7, 9)
    assert index.positions["conv2"].shape == (7, 9, 2)
    assert index.positions["fc"].shape == (4, 9, 0)
    assert index.values["fc"].dtype == torch.float32
    assert index.samples["fc"].dtype == index.positions["fc"].dtype == torch.int64
    assert (index.values["fc"].diff(dim=1) <= 0).all()


@pytest.mark.parametrize("dimensions", [1, 3])
def test_one_and_three_dimensions(dimensions):
    torch.manual_seed(0)
    layer = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dimensions - 1](2, 3, 2)
    images = torch.randn(10, 2, *(5, 4, 3)[:dimensions])
    model = nn.Sequential(layer).eval()
    index = features.scan(model, "0", images, k=4, batch_size=4, progress=False)
    assert places_of(index, "0") == scan_plainly(model, "0", images, k=4, batch_size=4)


def test_between_batch_sizes_it_agrees_to_the_arithmetic(small, dataset):
    images = torch.rand(45, 3, 8, 8, generator=torch.Generator().manual_seed(2))
    one, other = (
        features.scan(small.double(), LAYERS, images.double(), batch_size=n, progress=False)
        for n in (1, 13)
    )
    for layer in LAYERS:
        torch.testing.assert_close(one.values[layer], other.values[layer], rtol=1e-12, atol=1e-12)
        assert one.values[layer].dtype == torch.float64
        assert torch.equal(one.samples[layer], other.samples[layer])


@pytest.mark.parametrize("count", [2, 3, 8])
def test_shards_merge_to_the_same_index_in_any_order(small, dataset, count, tmp_path):
    whole = features.scan(small, LAYERS, dataset, batch_size=8, progress=False)
    shards = [
        features.scan(small, LAYERS, dataset, batch_size=8, shard=(n, count), progress=False)
        for n in range(count)
    ]
    orders = list(itertools.permutations(range(count)))[:: 1 if count < 4 else 5000]
    for order in orders:
        merged = shards[order[0]]
        for number in order[1:]:
            merged = merged.merge(shards[number])
        assert_equal(merged, whole)
        merged.save(tmp_path / "merged")
        whole.save(tmp_path / "whole")
        assert (tmp_path / "merged").read_bytes() == (tmp_path / "whole").read_bytes()
    assert not shards[0].complete
    assert whole.complete


def test_merging_is_associative(small, dataset):
    a, b, c = (
        features.scan(small, LAYERS, dataset, batch_size=8, shard=(n, 3), progress=False)
        for n in range(3)
    )
    assert_equal(a.merge(b).merge(c), a.merge(b.merge(c)))
    assert_equal(a.merge(b), b.merge(a))
    with pytest.raises(features.IndexMismatchError, match="both indices cover the samples from 0"):
        a.merge(b).merge(a)


def test_merge_refuses_what_does_not_belong_together(small, dataset):
    one = features.scan(small, "conv1", dataset, shard=(0, 2), progress=False)
    other = features.scan(small, "conv1", dataset, k=3, shard=(1, 2), progress=False)
    with pytest.raises(features.IndexMismatchError, match="k: 9, not 3"):
        one.merge(other)


def test_workers_make_no_difference(small, dataset):
    alone = features.scan(small, LAYERS, dataset, batch_size=8, progress=False)
    helped = features.scan(small, LAYERS, dataset, batch_size=8, num_workers=2, progress=False)
    assert_equal(helped, alone)


def test_the_forward_stops_at_the_deepest_layer(small, dataset):
    calls = []
    small.fc.register_forward_hook(lambda *_: calls.append("fc"))
    small.conv2.register_forward_hook(lambda *_: calls.append("conv2"))
    features.scan(small, ["pool", "conv1"], dataset, batch_size=45, progress=False)
    assert calls == []
    features.scan(small, ["conv2", "conv1"], dataset, batch_size=45, progress=False)
    assert calls == ["conv2"]
    features.scan(small, ["fc"], dataset, batch_size=45, progress=False)
    assert calls == ["conv2", "conv2", "fc"]


def test_a_layer_called_twice_counts_with_its_last_call(model, dataset):
    """``SkipNet`` uses one ReLU after both convolutions."""
    images = dataset.tensors[0]
    index = features.scan(model, ["relu", "conv1"], images, batch_size=9, progress=False)
    assert places_of(index, "relu") == scan_plainly(model, "relu", images, k=9, batch_size=9)
    assert places_of(index, "conv1") == scan_plainly(model, "conv1", images, k=9, batch_size=9)


def test_mixed_precision(small, dataset):
    index = features.scan(small, LAYERS, dataset, autocast=torch.bfloat16, progress=False)
    plain = features.scan(small, LAYERS, dataset, progress=False)
    for layer in LAYERS:
        assert index.values[layer].dtype == torch.float32
        torch.testing.assert_close(index.values[layer], plain.values[layer], rtol=0.05, atol=0.05)
        rounded = index.values[layer].to(torch.bfloat16).float()
        assert torch.equal(index.values[layer], rounded), "computed in another precision"
    assert not torch.equal(index.values["conv1"], plain.values["conv1"])
    assert index.metadata["precision"] == "autocast to torch.bfloat16"


@pytest.mark.parametrize("num_workers", [0, 2])
def test_unreadable_samples_are_skipped_counted_and_named(small, dataset, num_workers):
    images = dataset.tensors[0]
    bad: dict[int, object] = {2: OSError("truncated"), 9: None, 44: ValueError("no"), 43: "x"}
    bad |= {n: KeyError(n) for n in range(16, 24)}  # a batch of which nothing is left
    with pytest.warns(features.ScanWarning, match=r"12 of 45 samples .* 2 \(OSError: truncated\)"):
        index = features.scan(
            small, LAYERS, Damaged(images, bad), batch_size=8, num_workers=num_workers
        )
    assert sorted(index.skipped) == sorted(bad)
    assert "a NoneType where a tensor was expected" in index.skipped[9]
    filled = images.clone()
    filled[list(bad)] = 0
    for layer in LAYERS:
        everything = scan_plainly(small, layer, filled, k=45, batch_size=8)
        expected = [[e for e in row if e[1] not in bad][:9] for row in everything]
        assert places_of(index, layer) == expected


def test_strict_stops_at_the_first_unreadable_sample(small, dataset):
    damaged = Damaged(dataset.tensors[0], {7: OSError("truncated")})
    with pytest.raises(features.UnreadableSampleError, match=r"sample 7 .*OSError: truncated"):
        features.scan(small, "fc", damaged, strict=True, progress=False)


def test_nothing_readable_is_an_error(small, dataset):
    damaged = Damaged(dataset.tensors[0], {n: OSError("gone") for n in range(45)})
    with pytest.raises(RuntimeError, match=r"none of the 45 samples could be read: 0 \(OSError"):
        features.scan(small, "fc", damaged, progress=False)


def test_nan_activations_are_reported_and_never_ranked(small, dataset):
    images = dataset.tensors[0].clone()
    images[5, :, 0, 0] = math.nan  # of conv1's map a corner only
    images[6] = math.nan
    images[7, 0, 0, 0] = math.inf
    with pytest.warns(features.ScanWarning) as caught:
        index = features.scan(small, ["conv1", "fc"], images, k=45, batch_size=8)
    assert len(caught) == 2
    assert "layer 'conv1' has NaN activations" in str(caught[0].message)
    assert "5 of 5 channels" in str(caught[0].message)
    assert index.nans["conv1"].tolist() == [2] * 5 or 7 in index.nan_samples["conv1"]
    assert index.nan_samples["conv1"][:2] == [5, 6]
    for layer in index.layers:
        assert not index.values[layer].isnan().any()
        assert places_of(index, layer) == scan_plainly(small, layer, images, k=45, batch_size=8)
    assert 6 not in index.samples["conv1"]
    assert 5 in index.samples["conv1"]


def test_image_folder(small, tmp_path):
    generator = torch.Generator().manual_seed(0)
    for number in range(6):
        pixels = torch.randint(0, 256, (8, 8, 3), generator=generator, dtype=torch.uint8)
        folder = tmp_path / f"class{number % 2}"
        folder.mkdir(exist_ok=True)
        Image.fromarray(pixels.numpy()).save(folder / f"{number}.png")
    (tmp_path / "class1" / "9.png").write_bytes(b"no image")
    folder = ImageFolder(tmp_path, transforms.ToTensor())
    reason = os.path.join("class1", "9.png") + ": UnidentifiedImageError"
    with pytest.warns(features.ScanWarning, match=f"6 \\({reason}"):
        index = features.scan(small, "conv2", folder, k=3, batch_size=4)
    images = torch.stack([folder[n][0] for n in range(6)])
    assert places_of(index, "conv2") == scan_plainly(small, "conv2", images, k=3, batch_size=4)
    assert index.metadata["dataset"]["transform"].startswith("ToTensor")
    index.check(small, folder)
    with pytest.raises(features.IndexMismatchError, match="made with 7 samples, not 3"):
        index.check(small, Subset(folder, [0, 1, 2]))
    (tmp_path / "class0" / "0.png").rename(tmp_path / "class0" / "00.png")
    with pytest.raises(features.IndexMismatchError, match="other contents"):
        index.check(small, ImageFolder(tmp_path, transforms.ToTensor()))


def test_the_model_and_the_caller_stay_as_they_were(small, dataset):
    snapshot = Snapshot(small, *dataset.tensors)
    state = torch.get_rng_state()
    features.scan(small, LAYERS, dataset, num_workers=1, progress=False)
    snapshot.assert_unchanged()
    small.register_module("bad", nn.Identity().eval())
    small.bad.forward = lambda x: (x,)
    small.forward = lambda x: small.bad(x)
    with pytest.raises(TypeError, match="layer 'bad'"):
        features.scan(small, "bad", dataset, progress=False)
    assert not small.bad._forward_hooks
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_the_callers_mode_makes_no_difference(small, dataset, context):
    expected = features.scan(small, LAYERS, dataset, progress=False)
    with context():
        found = features.scan(small, LAYERS, dataset, progress=False)
    assert_equal(found, expected)
    assert not any(tensor.requires_grad for tensor in found.values.values())


def test_memory_does_not_grow_with_the_data_set(small):
    """What stays from batch to batch is the ranking: counted in live bytes, not guessed."""
    ranking = Ranking.empty(5, 9, 2, torch.float32)
    sizes = []
    for start in range(0, 400, 8):
        maps = torch.randn(8, 5, 6, 6)
        ranking = ranking.add(maps, take_maxima(maps), torch.arange(start, start + 8))
        tensors = (ranking.values, ranking.samples, ranking.positions)
        sizes.append(sum(t.untyped_storage().nbytes() for t in tensors))
    assert len(set(sizes)) == 1


def test_errors(small, dataset):
    def fail(error: type[Exception], match: str, **changes: object) -> None:
        settings: dict[str, object] = {"model": small, "layers": "conv1", "dataset": dataset}
        settings |= {"progress": False, **changes}
        with pytest.raises(error, match=match):
            features.scan(**settings)

    fail(ValueError, "no layer 'conv9'.*did you mean", layers="conv9")
    fail(ValueError, "layers is empty", layers=[])
    fail(ValueError, "names one twice", layers=["conv1", "conv1"])
    fail(ValueError, "k must be at least 1, not 0", k=0)
    fail(ValueError, "per_image must be at least 1", per_image=0)
    fail(ValueError, "the data set is empty", dataset=TensorDataset(torch.zeros(0, 3, 8, 8)))
    fail(ValueError, r"shard \(2, 2\)", shard=(2, 2))
    fail(ValueError, "model is on cpu, not on meta", device="meta")
    fail(TypeError, "must be a torch.nn.Module", model=lambda x: x)
    images = [torch.zeros(3, 8, 8), torch.zeros(3, 9, 8)]
    fail(ValueError, r"samples 0 and 1 are of shape \(3, 8, 8\)", dataset=images, by_size=False)
    fail(RuntimeError, "did not run", model=_with_unused(), layers="unused")
    small.conv2.train()
    fail(ValueError, r"'conv2' is in train mode.*call model.eval\(\)")


def _with_unused() -> nn.Module:
    model = Small()
    model.unused = nn.ReLU()
    return model.eval()


def test_the_bar_shows_rate_and_time_left():
    from io import StringIO

    from rich.console import Console

    from captum_deconv.features.progress import show_progress

    def draw(shown: bool, terminal: bool) -> str:
        text = StringIO()
        console = Console(file=text, force_terminal=terminal, width=120)
        with show_progress(100, 20, shown=shown, console=console) as advance:
            for _ in range(4):
                advance(10)
                time.sleep(0.02)
        return text.getvalue()

    drawn = draw(shown=True, terminal=True)
    assert "60/100" in drawn
    assert "images/s" in drawn
    assert "left:" in drawn
    assert draw(shown=False, terminal=True).strip("\n") == ""
    assert draw(shown=True, terminal=False).strip("\n") == ""


def test_a_fast_scan_says_how_far_it_is_from_the_model():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.ReLU(inplace=True), nn.Conv2d(5, 4, 3)
    ).eval()
    nn.init.uniform_(model[1].running_mean, -0.5, 0.5)
    images = torch.rand(10, 3, 12, 12)
    before = Snapshot(model, images)
    exact = features.scan(model, ["0", "1", "3"], images, k=3, batch_size=4, progress=False)
    fast = features.scan(model, ["1", "3"], images, k=3, batch_size=4, progress=False, fast=True)
    before.assert_unchanged()
    assert "1 batch norms folded" in fast.metadata["precision"]
    assert set(fast.metadata["fast"]) == {"1", "3"}
    assert all(0 <= difference < 1e-5 for difference in fast.metadata["fast"].values())
    for layer in ("1", "3"):
        assert torch.equal(fast.samples[layer], exact.samples[layer])
        torch.testing.assert_close(fast.values[layer], exact.values[layer])
    fast.check(model, images)  # it is the model's own index
    kept = features.scan(model, ["0"], images, k=3, batch_size=4, progress=False, fast=True)
    assert "0 batch norms folded" in kept.metadata["precision"]
    assert "fast" not in exact.metadata


def test_a_fast_scan_goes_on_and_no_other_takes_its_checkpoint(tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.ReLU()).eval()
    images, file = torch.rand(10, 3, 12, 12), tmp_path / "part.ckpt"
    how = {"k": 3, "batch_size": 4, "progress": False, "checkpoint": file}
    found = features.scan(model, "2", images, fast=True, **how)
    again = features.scan(model, "2", images, fast=True, **how)
    assert_equal(found, again)
    with pytest.raises(features.IndexMismatchError, match="precision"):
        features.scan(model, "2", images, **how)
    parts = [
        features.scan(
            model, "2", images, k=3, batch_size=4, progress=False, fast=True, shard=(n, 2)
        )
        for n in range(2)
    ]
    merged = parts[0].merge(parts[1])
    assert torch.equal(merged.values["2"], found.values["2"])


def test_a_module_used_at_two_widths_counts_with_its_last_call():
    """Such as the one rectifier of a network's stem and head, over several batches."""

    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.other = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 6, 3)
            self.act = nn.ReLU()

        def forward(self, x):
            return self.act(self.other(self.act(self.one(x))))

    torch.manual_seed(0)
    model, images = Twice().eval(), torch.rand(5, 3, 8, 8)
    index = features.scan(model, "act", images, batch_size=2, k=2, progress=False)
    whole = model(images).amax((2, 3)).T.sort(dim=1, descending=True).values[:, :2]
    assert torch.allclose(index.values["act"], whole, atol=1e-6)

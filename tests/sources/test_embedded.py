"""The network in the package: read safely, as accurate as its record says, and a chain."""

import copy
import importlib.util
import itertools
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

from captum_deconv.mirror import Mirror
from captum_deconv.sources import embedded, models

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
LIMIT = 2_000_000
# One crop in 720 is 0.0014. The weights are fixed, so only crops on the edge between two classes
# can change sides with the order in which a processor adds: three of them may.
TOLERANCE = 0.0045


@pytest.fixture(scope="module")
def training():
    path = BENCHMARKS / "train_embedded.py"
    spec = importlib.util.spec_from_file_location("benchmark_train_embedded", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def record():
    return json.loads((BENCHMARKS / "results" / "embedded-training.json").read_text())


@pytest.fixture(scope="module")
def photographs(training):
    return training.read_photographs()


@pytest.fixture(scope="module")
def held_out(training, photographs):
    return training.cut_held_out(photographs)


class TestWeights:
    def test_are_small_and_no_pickle(self):
        assert embedded.WEIGHTS.stat().st_size <= LIMIT
        assert embedded.TRAINING.stat().st_size + embedded.WEIGHTS.stat().st_size <= LIMIT
        for path in (embedded.WEIGHTS, embedded.TRAINING):
            content = path.read_bytes()
            # safetensors: the length of a JSON header, the header, then nothing but numbers.
            length = int.from_bytes(content[:8], "little")
            header = json.loads(content[8 : 8 + length])
            end = max(entry["data_offsets"][1] for entry in header.values())
            assert len(content) == 8 + length + end
            assert {entry["dtype"] for entry in header.values()} == {"F16"}

    def test_load_without_unpickling_or_drawing(self, monkeypatch):
        def refuse(*args, **kwargs):
            raise AssertionError("unpickled")

        monkeypatch.setattr("pickle.Unpickler", refuse)
        monkeypatch.setattr("pickle.load", refuse)
        monkeypatch.setattr("pickle.loads", refuse)
        monkeypatch.setattr("torch.load", refuse)
        torch.manual_seed(5)
        before = torch.get_rng_state()
        first, second = embedded.load(), embedded.load()
        assert torch.equal(before, torch.get_rng_state())
        assert not first.training
        assert all(value.dtype == torch.float32 for value in first.parameters())
        assert all(value.isfinite().all() and value.requires_grad for value in first.parameters())
        # Two networks, not two names of one.
        with torch.no_grad():
            first.conv1.weight.zero_()
        assert second.conv1.weight.abs().sum() > 0

    def test_are_those_of_the_record(self, record):
        network = embedded.load()
        assert sum(value.numel() for value in network.parameters()) == record["parameters"]
        assert record["bytes"] == {
            path.name: path.stat().st_size for path in (embedded.WEIGHTS, embedded.TRAINING)
        }


class TestAccuracy:
    def test_held_out_is_as_recorded_and_far_above_chance(self, training, held_out, record):
        accuracy = training.measure_accuracy(embedded.load(), *held_out)
        assert accuracy == pytest.approx(record["held_out_accuracy"], abs=TOLERANCE)
        assert accuracy > 10 * record["chance"]
        assert record["chance"] == 1 / len(embedded.CLASSES)
        assert record["held_out_crops"] == len(held_out[0]) == 720

    def test_falls_to_chance_when_the_weights_are_shuffled(self, training, held_out):
        # The control: neither the crops nor the measure give the answer away.
        network = embedded.load()
        torch.manual_seed(0)
        with torch.no_grad():
            for value in network.parameters():
                value.copy_(value.flatten()[torch.randperm(value.numel())].view_as(value))
        assert training.measure_accuracy(network, *held_out) < 0.15

    def test_training_crops_hold_no_pixel_of_the_held_out_part(self, training, photographs):
        def draws_finite(spoil):
            spoiled = [photograph.clone() for photograph in photographs]
            for photograph in spoiled:
                spoil(photograph, round(training.TRAINED_SHARE * photograph.shape[-1]))
            crops = training.Crops(spoiled, seed=0)
            return all(crops.draw()[0].isfinite().all() for _ in range(4))

        def spoil_right(photograph, edge):
            photograph[..., edge:] = torch.nan

        def spoil_left_edge(photograph, edge):
            photograph[..., edge - 8 : edge] = torch.nan

        assert draws_finite(spoil_right)
        assert not draws_finite(spoil_left_edge)  # the control: the last columns are drawn from


class TestNetwork:
    def test_is_a_plain_chain(self):
        kinds = (nn.Conv2d, nn.ReLU, nn.MaxPool2d, nn.AdaptiveAvgPool2d, nn.Flatten, nn.Linear)
        network = embedded.load()
        assert isinstance(network, nn.Sequential)
        assert all(type(layer) in kinds for layer in network)

    @pytest.mark.parametrize("layer", ["relu1", "relu2", "relu3", "relu4", "classify"])
    def test_mirrors_to_the_input_gradient(self, layer, held_out):
        network = embedded.load().double()
        crops = held_out[0][:720:240].double().requires_grad_()
        end = [name for name, _ in network.named_children()].index(layer) + 1
        output = network[:end](crops)
        strongest = np.unravel_index(output[0].argmax().item(), output.shape[1:])
        selected = tuple(map(int, strongest))
        (expected,) = torch.autograd.grad(output[(slice(None), *selected)].sum(), crops)
        mirror = Mirror(network, rectify=False, seed="one")
        found = mirror.project(crops.detach(), layer, selected)
        # float64 over at most 1600 products in each of five layers.
        assert (found - expected).abs().max() <= 1e-12 * expected.abs().max()
        assert expected.abs().max() > 0

    @pytest.mark.parametrize("size", [(16, 16), (64, 64), (224, 224), (75, 130)])
    def test_takes_any_size_from_sixteen_pixels(self, size):
        assert embedded.load()(torch.zeros(2, 3, *size)).shape == (2, len(embedded.CLASSES))

    def test_is_known_to_the_command_line(self, photographs):
        loaded = models.load_model("captum_deconv.sources.embedded:load")
        assert loaded.categories == list(embedded.CLASSES)
        assert loaded.notes == ()
        pixels = (photographs[embedded.CLASSES.index("chelsea")] * 255).byte()
        image = Image.fromarray(pixels.permute(1, 2, 0).numpy())
        inputs = loaded.preprocess(image)
        assert inputs.shape == (3, 224, 224)
        assert inputs.min() >= -2
        assert inputs.max() <= 2
        with torch.no_grad():
            found = loaded.model(inputs[None]).argmax().item()
        assert loaded.categories[found] == "chelsea"
        grey = embedded.EmbeddedNetwork.preprocess(image.convert("L"))
        assert torch.equal(grey[0], grey[2])

    def test_can_be_sliced_and_copied(self):
        network = embedded.load()
        crops = torch.rand(1, 3, 32, 32)
        head = network[:3]
        assert [name for name, _ in head.named_children()] == ["conv1", "relu1", "pool1"]
        assert torch.equal(network[3:](head(crops)), network(crops))
        assert torch.equal(copy.deepcopy(network)(crops), network(crops))


class TestCheckpoints:
    def test_are_the_first_layers_up_to_the_shipped_ones(self, record):
        steps = embedded.list_checkpoints()
        assert 5 <= len(steps) <= 6
        assert list(steps) == sorted(map(int, record["accuracy_by_step"]))
        assert steps[-1] == record["steps"]
        last, whole = embedded.load_checkpoint(steps[-1]), embedded.load()
        names = [name for name, _ in last.named_children()]
        assert names == [name for name, _ in whole.named_children()][: len(names)]
        assert names[-1] == "relu3"
        for name, value in last.state_dict().items():
            assert torch.equal(value, whole.state_dict()[name])

    def test_differ_and_run(self, held_out):
        maps = [
            embedded.load_checkpoint(step)(held_out[0][:2]) for step in embedded.list_checkpoints()
        ]
        assert {tuple(one.shape) for one in maps} == {(2, 96, 8, 8)}
        assert all(not torch.equal(a, b) for a, b in itertools.pairwise(maps))

    def test_refuse_a_step_that_was_not_kept(self):
        with pytest.raises(ValueError, match=r"no weights were kept at step 7; there are \d+, "):
            embedded.load_checkpoint(7)


class TestTraining:
    def test_folding_changes_nothing_but_the_precision(self, training, photographs, held_out):
        torch.manual_seed(0)
        network = training.build_trainable()
        for layer in network:
            if isinstance(layer, nn.BatchNorm2d):
                nn.init.uniform_(layer.weight, 0.5, 2)
                nn.init.normal_(layer.bias)
        training.settle_norms(network, training.Crops(photographs, seed=0), batches=1)
        crops = held_out[0][::100]
        expected = network.eval()(crops)
        found = training.fold(network)(crops)
        # Half precision keeps 11 bits of each weight: 5e-4, through five layers.
        assert (found - expected).abs().max() <= 1e-2 * expected.abs().max()
        unfolded = embedded.EmbeddedNetwork().eval()
        assert (unfolded(crops) - expected).abs().max() > 0.1 * expected.abs().max()

    def test_draws_the_same_crops_for_the_same_seed(self, training, photographs):
        first, again, other = (training.Crops(photographs, seed).draw()[0] for seed in (0, 0, 1))
        assert torch.equal(first, again)
        assert not torch.equal(first, other)
        assert first.shape == (80, 3, 64, 64)

    def test_colours_are_mixed_without_changing_the_light(self, training, photographs):
        crops = training.Crops(photographs, seed=0)
        plain = torch.rand(80, 3, 8, 8)
        plain[crops.grey] = plain[crops.grey].mean(1, keepdim=True)
        mixed = crops._change_colours(plain)
        torch.testing.assert_close(mixed.mean(1), plain.mean(1))
        coloured = (mixed - mixed.mean(1, keepdim=True)).abs().amax((1, 2, 3)) > 0.01
        # Neither kind is told by being grey: some of each are, most of each are not.
        for kind in (crops.grey, ~crops.grey):
            assert 0.5 < coloured[kind].float().mean() < 1

    def test_roughness_is_least_for_what_is_smooth(self, training):
        torch.manual_seed(0)
        noise = torch.randn(1, 3, 7, 7)
        smooth = F.avg_pool2d(noise, 3, 1, 1)
        found = [training.measure_roughness(w).item() for w in (smooth, noise, 5 * noise)]
        assert found[0] < 0.5 * found[1]
        assert found[1] == pytest.approx(found[2])
        assert found[1] == pytest.approx(4, rel=0.25)  # each weight against four neighbours

    def test_the_script_runs_and_records(self, training, tmp_path, monkeypatch, capsys):
        monkeypatch.setattr(training, "CROPS_PER_PHOTOGRAPH", 1)
        monkeypatch.setattr(torch, "set_num_threads", lambda count: None)
        weights, out = tmp_path / "weights.safetensors", tmp_path / "deep" / "record.json"
        paths = ["--weights", weights, "--training", tmp_path / "t.safetensors", "--out", out]
        training.main(["--steps", "2", *map(str, paths)])
        written = json.loads(out.read_text())
        assert written["steps"] == 2
        assert 0 <= written["held_out_accuracy"] <= 1
        assert "held-out crops" in capsys.readouterr().out
        monkeypatch.setattr(embedded, "WEIGHTS", weights)
        assert embedded.load()(torch.zeros(1, 3, 64, 64)).isfinite().all()


def test_importing_loads_neither_the_photographs_nor_torchvision():
    code = (
        "import sys, captum_deconv.sources.embedded as e; e.load(); "
        "print([m for m in ('skimage', 'sklearn', 'torchvision', 'captum') if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"

"""The two benchmarks of the transpose: they run, they record, and they can fail."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def load(name):
    # Scripts find their neighbours because Python puts their folder on the path; so does this.
    spec = importlib.util.spec_from_file_location(f"benchmark_{name}", BENCHMARKS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(BENCHMARKS))
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(BENCHMARKS))
    return module


@pytest.fixture(scope="module")
def bench():
    return load("adjoint")


@pytest.fixture(scope="module")
def question():
    return load("transpose_is_no_inverse")


SMALL = ["--models", "mnasnet0_5", "--sample", "4", "--time", "1"]


class TestHarvest:
    def test_finds_each_convolution_once_at_its_size(self, bench):
        owners = bench.harvest(["vgg11", "vgg11_bn", "alexnet"])
        assert len(owners) == 7 + 5  # vgg11 has one twice
        sizes = {str(key): key.input_size for key in owners}
        assert sizes["Conv2d 3->64 k11x11 s4x4 p2x2 @ 224x224"] == (224, 224)
        assert sizes["Conv2d 512->512 k3x3 p1x1 @ 14x14"] == (14, 14)
        shared = [models for models in owners.values() if models == ["vgg11", "vgg11_bn"]]
        assert len(shared) == 7

    def test_reaches_auxiliary_heads_video_flow_and_widths_that_are_computed(self, bench):
        names = ["googlenet", "mc3_18", "raft_small", "regnet_x_400mf"]
        owners = bench.harvest(names)
        assert {name for models in owners.values() for name in models} == set(names)
        assert any(key.layer == "Conv3d" and len(key.input_size) == 3 for key in owners)
        # The auxiliary classifiers, which run in training mode only.
        assert any(key.input_size == (4, 4) and key.out_channels == 128 for key in owners)

    def test_runs_a_detector_for_real(self, bench):
        owners = bench.harvest(["ssdlite320_mobilenet_v3_large"])
        assert any(key.input_size == (1, 1) for key in owners)
        assert any(key.input_size == (320, 320) for key in owners)

    def test_leaves_out_the_quantised(self, bench):
        names = bench.list_builders()
        assert "resnet50" in names
        assert "maskrcnn_resnet50_fpn" in names
        assert not any("quantized" in name for name in names)

    def test_builds_what_it_recorded(self, bench):
        for configuration in bench.harvest(["raft_small"]):
            layer = configuration.build()
            assert type(layer).__name__ == configuration.layer
            assert layer.bias is None
            assert torch.equal(layer.weight, configuration.build().weight)


class TestAdjoint:
    def test_passes_and_records(self, bench, tmp_path, capsys):
        out = tmp_path / "found.json"
        assert bench.main([*SMALL, "--out", str(out)]) == 0
        found = json.loads(out.read_text())
        assert found["models"] == 1
        assert found["checked"] == 4
        assert len(found["rows"]) == 4
        assert set(found["rows"][0]["results"]) == {"float64 contiguous", "float32 contiguous"}
        assert all(len(row["results"]["float64 contiguous"]) == 9 for row in found["rows"])
        assert all(found["controls_caught"].values())
        assert found["machine"]["torch"] == torch.__version__
        assert found["machine"]["cpu_count"] >= 1
        assert found["summary"][0]["passed"] == 4
        assert found["timings"][0]["conv_transpose_ratio"] > 0
        assert "4 of 4 passed" in capsys.readouterr().out

    def test_a_failing_check_is_exit_status_one(self, bench, tmp_path, monkeypatch):
        real = bench.adjoint.check

        def check(layer, *args, **options):
            options["transpose"] = lambda copied, size: nn.Identity()
            return real(layer, *args, **options)

        monkeypatch.setattr(bench.adjoint, "check", check)
        out = tmp_path / "found.json"
        assert bench.main([*SMALL, "--time", "0", "--out", str(out)]) == 1
        assert json.loads(out.read_text())["summary"][0]["passed"] < 4

    def test_a_control_that_passes_is_exit_status_one(self, bench, tmp_path, monkeypatch):
        monkeypatch.setattr(bench, "run_controls", lambda device: {"unflip": False})
        assert bench.main([*SMALL, "--time", "0", "--out", str(tmp_path / "found.json")]) == 1

    def test_lists_every_setting_of_a_gpu(self, bench):
        names = [entry["name"] for entry in bench.list_settings(bench.parse(["--device", "cuda"]))]
        assert len(names) == len(set(names)) == (4 + 1) * 2 * 3
        assert "float32 channels_last tf32 deterministic" in names
        assert "bfloat16 contiguous benchmark" in names

    def test_what_torch_lacks_is_counted_and_not_failed(self, bench, monkeypatch):
        def refuse(*args, **options):
            raise RuntimeError("\"slow_conv\" not implemented for 'Half'")

        monkeypatch.setattr(bench.adjoint, "check", refuse)
        configuration = next(iter(bench.harvest(["alexnet"])))
        settings = bench.list_settings(bench.parse([]))[0]
        answer = bench.examine(configuration, settings, "cpu")
        assert "not implemented" in answer
        summary = bench.summarise("half", {configuration: answer})
        assert (summary["checked"], summary["unsupported"]) == (0, 1)

    def test_other_errors_are_not_swallowed(self, bench, monkeypatch):
        def fail(*args, **options):
            raise RuntimeError("out of memory")

        monkeypatch.setattr(bench.adjoint, "check", fail)
        configuration = next(iter(bench.harvest(["alexnet"])))
        settings = bench.list_settings(bench.parse([]))[0]
        with pytest.raises(RuntimeError, match="out of memory"):
            bench.examine(configuration, settings, "cpu")

    @pytest.mark.gpu
    @pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device, found none")
    def test_runs_unchanged_on_a_gpu(self, bench, tmp_path):
        out = tmp_path / "found.json"
        assert bench.main(["--device", "cuda", *SMALL, "--out", str(out)]) == 0
        assert len(json.loads(out.read_text())["summary"]) == 30


class TestTransposeIsNoInverse:
    @pytest.fixture(autouse=True)
    def keep_global_seed(self):
        with torch.random.fork_rng(devices=[]):
            yield

    @pytest.mark.parametrize("seed", range(5))
    def test_the_image_does_not_come_back(self, question, seed):
        found = question.compare_with_image(seed)
        assert found["same_shape"]
        assert not found["same_values"]
        assert found["residual"] > 0.1
        assert found["rank"] == 81
        assert 0 < found["least_squares_residual"] < found["residual"]

    @pytest.mark.parametrize("seed", range(5))
    def test_the_gradient_is_the_transpose(self, question, seed):
        found = question.compare_with_gradient(seed)
        assert found["same_values"]
        assert found["largest_difference"] < 1e-14

    def test_it_can_fail(self, question, monkeypatch):
        def share_flipped(conv):
            ct = nn.ConvTranspose2d(1, 1, 2, bias=False, dtype=torch.float64)
            ct.weight = nn.Parameter(conv.weight.detach().flip(2, 3))
            return ct

        monkeypatch.setattr(question, "share_weight", share_flipped)
        assert not question.compare_with_gradient()["same_values"]
        assert question.main([]) == 1

    def test_prints_what_and_why(self, question, capsys, tmp_path):
        assert question.main(["--out", str(tmp_path / "found.json")]) == 0
        out = capsys.readouterr().out
        assert "torch.allclose(ct(c(x)), x):      False" in out
        assert "torch.allclose(ct(o.grad), x.grad): True" in out
        assert json.loads((tmp_path / "found.json").read_text())["image"]["rank"] == 81

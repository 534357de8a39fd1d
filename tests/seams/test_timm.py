"""timm's networks: exact in Python, by name on the command line."""

import importlib.util
import sys

import pytest
import timm
import torch
from agreement import check_inputs
from command import assert_one_line
from PIL import Image

from captum_deconv.explain.results import load_results


@pytest.mark.parametrize("name", ["resnet10t", "regnetx_002", "mobilenetv2_035", "densenet121"])
def test_exact(name):
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=5).eval()
    images = torch.randn(2, 3, 64, 64)
    check_inputs(model, images, 1)


def test_attribute_by_name(call, folder, tmp_path):
    result = call(
        *("attribute", folder / "one.png", "-m", "timm/resnet10t", "--weights", "none"),
        *("-t", "tabby", "--device", "cpu", "--out", "a.png", "--save", "a.safetensors"),
    )
    assert result.exit_code == 0, result.output
    assert "target: tabby, tabby cat (281)" in result.stdout
    Image.open(tmp_path / "a.png").verify()
    tensors = load_results(tmp_path / "a.safetensors")[0]
    assert tensors["deconvnet"].shape == (1, 3, 176, 176)
    assert tensors["deconvnet"].any()


def test_coverage_by_name_at_the_networks_own_size(call):
    name = "vit_tiny_patch16_384"
    result = call("coverage", "-m", f"timm/{name}", "--weights", "none", "--device", "cpu")
    assert result.exit_code == 0, result.output
    assert "GELU" in result.stdout
    with pytest.raises(AssertionError, match="384"):  # the size that is usual elsewhere
        timm.create_model(name)(torch.zeros(1, 3, 224, 224))


def test_unknown_and_missing(call, folder, monkeypatch):
    words = ("attribute", folder / "one.png", "--out", "a.png", "-m")
    assert_one_line(call(*words, "timm/resnet26e"), 2, "timm/resnet26e", "did you mean")
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda n, *a: None if n == "timm" else find(n))
    assert_one_line(call(*words, "timm/resnet26d"), 1, "pip install 'captum-deconv[timm]'")
    assert "timm" in sys.modules

"""A representative third of torchvision's networks: one or two of each family, the quick ones.

``benchmarks/zoo.py`` runs all of them, Captum beside, and writes the table in the documentation.
"""

import json
import sys

import pytest
import torch
import zoo
from parts import zoo_page
from parts.builders import build, list_builders

NETWORKS = [
    "alexnet",
    "convnext_tiny",
    "densenet121",
    "efficientnet_b0",
    "efficientnet_v2_s",
    "googlenet",
    "inception_v3",
    "mnasnet0_5",
    "mobilenet_v2",
    "mobilenet_v3_small",
    "regnet_x_400mf",
    "regnet_x_800mf",
    "regnet_y_400mf",
    "resnet18",
    "resnet34",
    "resnet50",
    "resnext50_32x4d",
    "shufflenet_v2_x0_5",
    "squeezenet1_0",
    "squeezenet1_1",
    "swin_t",
    "swin_v2_t",
    "vgg11",
    "vgg11_bn",
    "vit_b_32",
    "deeplabv3_mobilenet_v3_large",
    "fcn_resnet50",
    "lraspp_mobilenet_v3_large",
    "fasterrcnn_mobilenet_v3_large_320_fpn",
    "fcos_resnet50_fpn",
    "maskrcnn_resnet50_fpn_v2",
    "retinanet_resnet50_fpn",
    "ssdlite320_mobilenet_v3_large",
    "r3d_18",
    "swin3d_t",
]

pytestmark = pytest.mark.filterwarnings("ignore:The default weight initialization of")


@pytest.mark.parametrize("name", NETWORKS)
def test_exact(name):
    result = zoo.measure(build(name), with_captum=False)
    assert result["errors"] == dict.fromkeys(zoo.CAPTUMS, 0.0)
    assert result["overridden"] or result["left"], "nothing to check here"
    if result["overridden"]:
        # The control: the methods' references are of different sizes, so they are different.
        assert len(set(result["largest"].values())) == 3


def test_a_third_of_the_builders_of_every_kind_is_here():
    kinds = list_builders()
    assert set(NETWORKS) <= set(kinds)
    assert 3 * len(NETWORKS) >= 0.9 * len(kinds)
    assert {kinds[name] for name in NETWORKS} | {"optical flow"} == set(kinds.values())
    assert not any("quantized" in name for name in kinds)


def test_captum_is_wrong_where_it_cannot_see_the_rectifiers_and_right_where_it_can():
    blind = zoo.measure(build("mobilenet_v2"))["captum"]
    assert blind["input_gradient"] == 0
    assert blind["guided_backprop"] > 0.1
    assert blind["deconvnet"] > 0.1
    assert zoo.measure(build("resnet18"))["captum"] == dict.fromkeys(zoo.CAPTUMS, 0.0)


def test_control_a_package_that_misses_a_rectifier_is_found(monkeypatch):
    specimen = build("squeezenet1_1")

    def plain_gradient(network, inputs, target):
        gradient = zoo.oracle.input_attribution(network, inputs, target)
        return dict.fromkeys(zoo.CAPTUMS, gradient)

    monkeypatch.setattr(zoo, "compare", plain_gradient)
    errors = zoo.measure(specimen, with_captum=False)["errors"]
    assert errors["input_gradient"] == 0
    assert errors["guided_backprop"] > 0.1
    assert errors["deconvnet"] > 0.1


def test_captums_hooks_are_cleared_after_it_crashes(monkeypatch):
    specimen = build("resnet18")

    def crash(model, *arguments):
        model.relu.register_forward_hook(lambda *args: None)
        raise ZeroDivisionError

    monkeypatch.setitem(zoo.CAPTUMS, "deconvnet", crash)
    result = zoo.measure(specimen)
    assert result["captum"]["deconvnet"] == "ZeroDivisionError"
    assert not specimen.network.relu._forward_hooks


def test_the_benchmark_records_resumes_and_writes_its_page(tmp_path, monkeypatch, capsys):
    out, page = tmp_path / "zoo.json", tmp_path / "zoo.md"
    arguments = ["zoo.py", "--out", str(out), "--page", str(page), "--only", "^(alexnet|resnet18)$"]
    monkeypatch.setattr(sys, "argv", [*arguments, "--shard", "2/2"])
    zoo.main()
    assert list(json.loads(out.read_text())["results"]) == ["resnet18"]
    seconds = json.loads(out.read_text())["results"]["resnet18"]["seconds"]
    monkeypatch.setattr(sys, "argv", arguments)
    zoo.main()
    results = json.loads(out.read_text())["results"]
    assert list(results) == ["alexnet", "resnet18"]
    assert results["resnet18"]["seconds"] == seconds, "measured once"
    assert "2 of 2 networks exact" in page.read_text()
    assert "| resnet18 | 17 ReLU |  | 0 | 0 | 0 | 0 | 0 | 0 |" in page.read_text()
    assert "quantised" in capsys.readouterr().out


def test_a_failure_is_recorded_and_counts_as_not_exact(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(zoo, "build", lambda name: 1 / 0)
    result = zoo.measure_by_name("resnet18", torch.device("cpu"))
    assert result["failure"] == "ZeroDivisionError: division by zero"
    capsys.readouterr()
    machine = zoo.describe_machine(torch.device("cpu"))
    zoo_page.write_page(tmp_path / "z.md", {"machine": machine, "results": {"resnet18": result}})
    text = (tmp_path / "z.md").read_text()
    assert "0 of 1 networks exact" in text
    assert "- resnet18: ZeroDivisionError" in text

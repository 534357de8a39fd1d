"""The command ``check``: the report for a person, its files, and what it refuses."""

import json

import pytest
import torch
from command import assert_one_line, network
from PIL import Image
from torch import nn

from captum_deconv import adjoint
from captum_deconv.cli.check import reports as reporting

CONV = "in=2,out=3,kernel=3,stride=2,padding=1"


def test_a_convolution_has_the_printed_report(call):
    result = call("check", "--conv", CONV, "--size", "7x6", "--device", "cpu")
    assert result.exit_code == 0, result.output
    assert result.stderr == ""
    torch.manual_seed(0)
    conv = nn.Conv2d(2, 3, 3, stride=2, padding=1, bias=False)
    assert result.stdout == f"{adjoint.check(conv, (7, 6), spectrum=True)}\n"


@pytest.mark.parametrize(
    ("text", "size", "expected"),
    [
        ("in=2,out=4,kernel=3,dims=1,dilation=2", ["9"], "9 -> 5"),
        ("in=2,out=4,kernel=3x1x2,dims=3,groups=2", ["4"], "4x4x4 -> 2x4x3"),
        ("IN=1, out=2, kernel=2, stride=2x1, mode=circular, padding=1", ["4", "5"], "4x5 -> 3x6"),
        ("in=2,out=1,kernel=3,stride=2,transposed=true,output_padding=1", ["4,3"], "4x3 -> 10x8"),
        ("in=1,out=1,kernel=3,padding=same", ["5"], "5x5 -> 5x5"),
    ],
)
def test_convolutions_of_every_kind(call, text, size, expected):
    result = call("check", "--conv", text, "--size", *size)
    assert result.exit_code == 0, result.output
    assert f"  {expected}, float64 on " in result.stdout
    assert "singular" in result.stdout


def test_spectrum_and_dtype(call):
    words = ("check", "--conv", CONV, "--size", "6")
    assert "singular" not in call(*words, "--no-spectrum").stdout
    assert "float32 on" in call(*words, "--dtype", "float32").stdout
    # A layer too large for a dense decomposition has one only where it is asked for.
    assert "singular" not in call("check", "--conv", CONV, "--size", "120").stdout


def test_a_network_has_a_table(call, tmp_path):
    result = call("check", "-m", network(), "--size", "12", "14", "--json", "a.json")
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    rows = {line.split()[0]: line.split() for line in lines if line.startswith(("feat", "head"))}
    assert list(rows) == ["features.0", "features.2", "head"]
    assert rows["features.2"][1:7] == ["Conv2d", "10x12", "->", "4x5", "yes", "yes"]
    assert rows["head"][1:3] == ["Linear", "-"]
    assert f"3 layers of {network()}, float64 on" in result.stdout
    assert "all passed" in result.stdout
    record = json.loads((tmp_path / "a.json").read_text())
    assert record["subject"] == network()
    assert record["passed"] is True
    found = record["layers"]["features.2"]
    assert found["input_size"] == [10, 12]
    assert f"{found['residual']:.3f}" == rows["features.2"][8]
    assert found["rank"] is None
    measured = call("check", "-m", network(), "--size", "12", "14", "--spectrum")
    assert "null space" in measured.stdout
    assert "null space" not in result.stdout


def test_a_wrong_transpose_fails(call, monkeypatch, tmp_path):
    right = adjoint.transpose_of

    def unflipped(layer, size):
        flipped = nn.Conv2d(layer.in_channels, layer.out_channels, layer.kernel_size)
        flipped.weight = nn.Parameter(layer.weight.detach().flip(-1))
        return right(flipped, size)

    words = ("check", "--conv", "in=1,out=2,kernel=3", "--size", "6", "--json", "a.json")
    assert call(*words).exit_code == 0
    assert json.loads((tmp_path / "a.json").read_text())["passed"] is True
    monkeypatch.setattr(reporting.adjoint, "transpose_of", unflipped)
    result = call(*words)
    assert result.exit_code == 1
    assert "FAILED" in result.stdout
    assert "failed: autograd's input gradient" in result.stdout
    assert json.loads((tmp_path / "a.json").read_text())["passed"] is False


def test_a_failing_layer_of_a_network_is_named(call, monkeypatch):
    right = adjoint.transpose_of

    def spoiled(layer, size):
        transpose = right(layer, size)
        return (lambda g: transpose(g) * 1.01) if isinstance(layer, nn.Linear) else transpose

    monkeypatch.setattr(reporting.adjoint, "transpose_of", spoiled)
    result = call("check", "-m", network(), "--size", "12")
    assert result.exit_code == 1
    assert ": 1 FAILED" in result.stdout
    assert "worst: head, error 1.0e-02" in result.stdout
    assert "failed: head: autograd's input gradient: 0.01" in result.stdout


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (("--conv", CONV, "--size", "12"), "a.png"),
        (("-m", network(), "--size", "12"), "a.svg"),
        (("--conv", "in=1,out=5,kernel=3,dims=1", "--size", "20"), "a.pdf"),
    ],
)
def test_figure(call, tmp_path, words, name):
    result = call("check", *words, "--no-spectrum", "--figure", name)
    assert result.exit_code == 0, result.output
    assert f"picture: {name}" in result.stdout
    if name == "a.png":
        with Image.open(tmp_path / name) as picture:
            assert picture.width > 2000
    assert (tmp_path / name).stat().st_size > 5000


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ((), "either --model or --conv"),
        (("-m", "alexnet", "--conv", CONV), "either --model or --conv"),
        (("--conv", CONV, "-w", "none"), "--weights goes with --model"),
        (("--conv", CONV, "stray"), "'stray'"),
        (("--conv", "in=3"), "needs out and kernel"),
        (("--conv", "in=3,out=3,kernels=2"), "did you mean kernel?"),
        (("--conv", "in=3,out=3,kernel"), "'kernel' is none"),
        (("--conv", "in=3,in=3,out=3,kernel=2"), "in twice"),
        (("--conv", "in=3,out=3,kernel=x"), "at least 1, not 'x'"),
        (("--conv", "in=3,out=3,kernel=0"), "at least 1, not '0'"),
        (("--conv", "in=3,out=3,kernel=3,padding=-1"), "at least 0, not '-1'"),
        (("--conv", "in=3,out=4,kernel=3,groups=2"), "divisible by groups"),
        (("--conv", "in=3,out=4,kernel=3x3x3"), "3 axes, and dims is 2"),
        (("--conv", "in=3,out=4,kernel=3,dims=4"), "1, 2 or 3"),
        (("--conv", "in=3,out=4,kernel=3,mode=mirror"), "zeros, reflect, replicate or circular"),
        (("--conv", "in=3,out=4,kernel=3,transposed=perhaps"), "true or false"),
        (("--conv", "in=3,out=4,kernel=3,output_padding=1"), "transposed=true"),
        (("--conv", "in=3,out=4,kernel=3,padding=same,transposed=true"), "padding=same"),
        (("--conv", "in=3,out=4,kernel=3,padding=same,stride=2"), "strided"),
        (("--conv", "in=99999,out=99999,kernel=9"), "weight would have"),
        (("--conv", CONV, "--size", "99999x99999"), "input would have"),
        (("--conv", "in=3,out=4,kernel=5", "--size", "4"), "at least 5"),
        (("--conv", CONV, "--size", "4x4x4"), "3 axes where 2"),
        (("--conv", CONV, "--size", "4xa"), "'4xa'"),
        (("--conv", CONV, "--size", "0"), "positive integers"),
        (("--conv", CONV, "--dtype", "int8"), "int8"),
        (("--conv", CONV, "--device", "tpu"), "tpu"),
        (("-m", "resnet5"), "did you mean resnet50"),
        (("-m", network(), "--size", "4x4x4"), "3 axes where 2"),
    ],
)
def test_bad_questions(call, words, says):
    assert_one_line(call("check", *words), 2, says)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--figure", "a.gif"), "must end in .png"),
        (("--figure", "missing/a.png"), "no folder"),
        (("--json", "a.txt"), "must end in .json"),
        (("--json", "missing/a.json"), "no folder"),
    ],
)
def test_places_are_checked_before_the_work(call, monkeypatch, words, says):
    monkeypatch.setattr(
        "captum_deconv.cli.check.reports.check_subject", None
    )  # would fail if it were called
    assert_one_line(call("check", "--conv", CONV, *words), 1, says)


def test_networks_that_cannot_be_checked(call):
    failing = call("check", "-m", network("Failing"), "--size", "12")
    assert_one_line(failing, 1, "1 x 3 x 12 x 12", "first line second line")
    small = call("check", "-m", network(), "--size", "2")
    assert_one_line(small, 1, "1 x 3 x 2 x 2", "Kernel size")
    for name, says in (("Pointless", "no convolution"), ("Idle", "ran")):
        assert_one_line(call("check", "-m", f"{__name__}:{name}"), 1, says)


class Pointless(nn.ReLU):
    pass


class Idle(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 1, 1)

    def forward(self, x):
        return x


def test_linear_networks_have_no_picture(call):
    words = ("check", "-m", f"{__name__}:Flat")
    assert call(*words).exit_code == 0
    refused = call(*words, "--figure", "a.png")
    assert refused.exit_code == 1
    assert "a linear layer has no picture" in refused.stderr
    assert_one_line(call(*words, "--size", "3"), 2, "takes no --size")


class Flat(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 2))

"""What a report says, to the letter, and what of it JSON takes."""

import dataclasses
import json
import math

import pytest

from captum_deconv.adjoint import AdjointReport

PLAIN = AdjointReport(
    layer="Conv2d(2, 3, kernel_size=(3, 3))",
    input_size=(7, 8),
    output_size=(5, 6),
    dtype="float32",
    device="cpu",
    passed=True,
    failures=(),
    relative_error=0.0,
    bitwise=True,
    ulps=0,
    grad_error=1.25e-7,
    grad_bitwise=False,
    tolerance=2.5e-6,
    dot_gap=3e-8,
    dot_tolerance=5e-6,
    flip_error=2e-7,
    residual=0.9714,
    scaled_residual=0.5,
    inverts=False,
)


def test_a_report_of_a_convolution():
    assert str(PLAIN).splitlines() == [
        "Conv2d(2, 3, kernel_size=(3, 3))",
        "  7x8 -> 5x6, float32 on cpu: passed",
        "  ct(g) against autograd            0.00e+00  bit for bit",
        "  ct(g) against torch.nn.grad       1.25e-07  not bitwise",
        "  ct(g) against flipped filters        2e-07",
        "    tolerance of the three          2.50e-06",
        "  <Wx, y> - <x, ct(y)>              3.00e-08  tolerance 5.00e-06",
        "  |x - ct(c(x))| / |x|                 0.971  ct does not invert c",
        "    after the best factor                0.5",
    ]


def test_a_report_that_failed_of_a_linear_layer_with_its_spectrum():
    report = dataclasses.replace(
        PLAIN,
        layer="Linear(4, 3)",
        input_size=(),
        output_size=(),
        passed=False,
        failures=("this", "and that"),
        bitwise=False,
        ulps=17,
        grad_error=None,
        grad_bitwise=None,
        flip_error=None,
        inverts=True,
        singular_max=2.5,
        singular_min=0.125,
        rank=3,
        null_fraction=0.25,
        spectrum_method="dense",
        least_squares_residual=0.4321,
        least_squares_converged=True,
    )
    assert str(report).splitlines() == [
        "Linear(4, 3)",
        "  () -> (), float32 on cpu: FAILED",
        "  ct(g) against autograd            0.00e+00  not bitwise, at most 17 ulps",
        "  ct(g) against torch.nn.grad              -",
        "  ct(g) against flipped filters            -",
        "    tolerance of the three          2.50e-06",
        "  <Wx, y> - <x, ct(y)>              3.00e-08  tolerance 5.00e-06",
        "  |x - ct(c(x))| / |x|                 0.971  ct inverts c",
        "    after the best factor                0.5",
        "    by least squares instead           0.432",
        "  largest singular value                 2.5  dense",
        "  smallest singular value              0.125",
        "  rank                                     3  null space 25.0%",
        "  failed: this",
        "  failed: and that",
    ]


def test_a_report_of_a_spectrum_that_is_not_known_to_its_end():
    report = dataclasses.replace(
        PLAIN,
        grad_bitwise=True,
        singular_max=2.5,
        least_squares_residual=0.4321,
        least_squares_converged=False,
    )
    lines = str(report).splitlines()
    assert lines[3] == "  ct(g) against torch.nn.grad       1.25e-07  bit for bit"
    assert lines[9:] == [
        "    by least squares instead           0.432  LSMR did not converge: an upper bound",
        "  largest singular value                 2.5",
        "  smallest singular value                  -",
        "  rank                               unknown  null space unknown",
    ]


def test_json_takes_lists_and_null_for_what_is_not_finite():
    report = dataclasses.replace(
        PLAIN, relative_error=math.inf, dot_gap=math.nan, failures=("this",), ulps=None
    )
    found = report.to_dict()
    assert found == {
        **dataclasses.asdict(PLAIN),
        "input_size": [7, 8],
        "output_size": [5, 6],
        "failures": ["this"],
        "relative_error": None,
        "dot_gap": None,
        "ulps": None,
    }
    assert json.loads(report.to_json()) == found
    assert "\n" not in report.to_json()
    assert report.to_json(2).splitlines()[1] == '  "layer": "Conv2d(2, 3, kernel_size=(3, 3))",'


def test_no_number_that_is_none_of_jsons_is_written(monkeypatch):
    monkeypatch.setattr(AdjointReport, "to_dict", lambda self: {"residual": math.nan})
    with pytest.raises(ValueError, match="JSON"):
        PLAIN.to_json()

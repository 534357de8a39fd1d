"""What stands behind the command ``check``: subjects, and the figure."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

from captum_deconv import adjoint
from captum_deconv.cli.check import figure as pictures
from captum_deconv.cli.check import reports as reporting
from captum_deconv.cli.check import subjects, typed
from captum_deconv.explain.question import QuestionError
from captum_deconv.sources.models import LoadedModel


def load(model, preprocess=None):
    return LoadedModel("mine", model, preprocess, None, "", "")


def make_cosines():
    """Make the block transform of JPEG's kind, for which ``W^T W = I``."""
    place = torch.arange(4, dtype=torch.float64)
    basis = torch.cos(torch.pi / 4 * (place + 0.5) * place[:, None]) * 2**-0.5
    basis[0] *= 2**-0.5
    conv = nn.Conv2d(1, 16, 4, stride=4, bias=False).double()
    conv.weight.data = torch.einsum("ai,bj->abij", basis, basis).reshape(16, 1, 4, 4)
    return conv


def find_texts(figure):
    return [text.get_text() for axes in figure.axes for text in axes.texts]


@pytest.mark.parametrize(
    ("words", "size"),
    [
        (["224x192"], (224, 192)),
        (["8", "9"], (8, 9)),
        (["5,6,7"], (5, 6, 7)),
        (["3"], (3,)),
        ([], None),
    ],
)
def test_sizes_as_they_are_typed(words, size):
    assert typed.parse_size(words) == size


def test_the_weights_are_seeded_and_the_generator_stays():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    one, two = (subjects.describe_convolution("in=1,out=2,kernel=3") for _ in range(2))
    assert torch.equal(one.model.weight, two.model.weight)
    assert torch.equal(torch.get_rng_state(), before)
    assert one.shape == (1, 1, 32, 32)


def test_networks_get_inputs_of_their_first_layers_shape():
    sizes = {
        nn.Conv1d(2, 1, 3): (1, 2, 224),
        nn.Sequential(nn.ReLU(), nn.Conv2d(4, 1, 3)): (1, 4, 224, 224),
        nn.Conv3d(3, 1, 3): (1, 3, 16, 224, 224),
        nn.Linear(7, 2): (1, 7),
    }
    for model, shape in sizes.items():
        assert subjects.describe_network(load(model)).shape == shape
    clip = load(nn.Conv3d(3, 1, 3).double())
    assert subjects.describe_network(clip, (20, 24)).shape == (1, 3, 16, 20, 24)
    assert subjects.describe_network(clip, (4, 20, 24)).shape == (1, 3, 4, 20, 24)
    assert subjects.describe_network(clip).inputs[0].dtype == torch.float64
    with pytest.raises(QuestionError, match="4 axes"):
        subjects.describe_network(clip, (1, 2, 3, 4))


def test_every_layer_is_announced():
    seen = []
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3))
    subject = subjects.describe_network(load(model), (9, 9))
    reports = reporting.check_subject(subject, advance=lambda: seen.append(1))
    assert len(seen) == len(reports) == 2


def test_flipped_filters_are_compared_for_a_single_layer_of_moderate_size(monkeypatch):
    single = subjects.describe_convolution("in=1,out=2,kernel=3,stride=2", (9, 9))
    assert reporting.check_subject(single)[""].flip_error < 1e-14
    # A vision transformer's first layer would need tens of gigabytes for them.
    monkeypatch.setattr(reporting, "_MOST", 2 * 9 * 81 - 1)
    assert reporting.check_subject(single)[""].flip_error is None
    monkeypatch.setattr(reporting, "_MOST", 2 * 9 * 81)
    assert reporting.check_subject(single)[""].flip_error is not None


def test_figure_of_a_transform_that_inverts():
    # All its singular values are equal, and at this size they are too many for all at once.
    texts = find_texts(pictures.draw_round_trip(make_cosines(), (64, 64)))
    assert texts[0].startswith("1\N{MULTIPLICATION SIGN}64")
    assert texts[2].startswith("residual 0, up to rounding")
    assert texts[3] == "residual 0, up to rounding"
    assert not any("null space" in text for text in texts)


def test_figure_of_a_convolution_that_loses():
    conv = subjects.describe_convolution("in=3,out=8,kernel=3,stride=2,padding=1", (20, 20)).model
    figure = pictures.draw_round_trip(conv, (20, 20))
    texts = find_texts(figure)
    x = pictures._make_image(adjoint.geometry.describe(conv, (20, 20)))
    found = adjoint.reconstruct(conv, x)
    residual = float((found.x - found.transposed).norm() / found.x.norm())
    least = float((found.x - found.least_squares).norm() / found.x.norm())
    assert 0.3 < least < residual
    assert texts[2].startswith(f"residual {residual:.3f}; drawn")
    assert texts[3] == f"residual {least:.3f}"
    assert texts[1].endswith("drawn: channels 1 to 4")
    assert texts[4] == "null space:\n33.3% of the input"
    # The curve is that of all singular values.
    curve = figure.axes[-1].patches[0].get_data().values
    assert np.allclose(curve, adjoint.singular_values(conv, (20, 20)))


def test_figure_of_a_large_input_is_smaller(monkeypatch):
    conv = subjects.describe_convolution("in=1,out=1,kernel=3").model
    assert find_texts(pictures.draw_round_trip(conv, (300, 150)))[0].endswith(
        "75\N{MULTIPLICATION SIGN}37 = 2775 values"
    )
    monkeypatch.setattr(pictures, "_MOST_VALUES", 300)
    assert find_texts(pictures.draw_round_trip(conv, (40, 40)))[0].endswith("10 = 100 values")


@pytest.mark.parametrize(
    ("text", "size", "shown"),
    [
        ("in=2,out=5,kernel=3,dims=1", (30,), "drawn: channel 1"),
        ("in=8,out=2,kernel=2,dims=3,stride=2", (4, 6, 6), "drawn: channels 1 to 3, frame 3"),
        ("in=3,out=2,kernel=3,stride=2,transposed=true", (6, 9), "3\N{MULTIPLICATION SIGN}6"),
    ],
)
def test_figures_of_other_dimensions(text, size, shown):
    subject = subjects.describe_convolution(text, size)
    figure = pictures.draw_round_trip(subject.model, size)
    assert shown in find_texts(figure)[0]
    figure.draw_without_rendering()


def test_figure_of_a_layer_of_zeros():
    conv = nn.Conv2d(1, 1, 3)
    nn.init.zeros_(conv.weight)
    texts = find_texts(pictures.draw_round_trip(conv, (8, 8)))
    assert texts[-1] == "null space:\n100.0% of the input"
    assert texts[2].startswith("residual 1.000")


def test_figure_without_the_extra(monkeypatch):
    conv = nn.Conv2d(3, 2, 3)
    geometry = adjoint.geometry.describe(conv, (8, 9))
    photograph = pictures._make_image(geometry)
    monkeypatch.setitem(sys.modules, "skimage", None)
    noise = pictures._make_image(geometry)
    assert noise.shape == photograph.shape == (3, 8, 9)
    assert not torch.equal(noise, photograph)
    assert torch.equal(noise, pictures._make_image(geometry))
    for image in (noise, photograph):
        assert 0 <= image.min() < image.max() <= 1


def test_no_pyplot():
    code = (
        "import sys\n"
        "from captum_deconv.cli.check import figure, subjects\n"
        "subject = subjects.describe_convolution('in=1,out=1,kernel=2', (4, 4))\n"
        "assert 'matplotlib' not in sys.modules\n"
        "figure.draw_round_trip(subject.model, (4, 4))\n"
        "assert 'matplotlib' in sys.modules\n"
        "assert not {'matplotlib.pyplot', 'captum'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr

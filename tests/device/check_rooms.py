"""What runs a model over data, on a device: the CPU's result, and so many waits in each batch."""

import copy

import pytest
import simulated
import torch
from calls import build_model
from galleries import scan_small
from scans import assert_equal
from torch import nn
from torch.utils.data import TensorDataset

from captum_deconv import (
    adjoint,
    collect,
    comparison,
    experiments,
    features,
    gallery,
    receptive_field,
)
from captum_deconv.comparison import METRICS
from captum_deconv.engine.fast import make_fast
from captum_deconv.mirror import Mirror

LAYERS = ["first", "relu", "second"]


def list_photographs(count=12):
    return torch.rand(count, 3, 16, 16, generator=torch.Generator().manual_seed(2))


def make_far(model, device):
    return copy.deepcopy(model).to(device)


def scan(device, count=12, **how):
    dataset = TensorDataset(list_photographs(count))
    return features.scan(
        build_model().to(device), LAYERS, dataset, batch_size=4, progress=False, **how
    )


@pytest.mark.parametrize("how", [{}, {"per_image": 2}, {"keep_maxima": True}, {"by_size": True}])
def test_scan(how, device):
    if device != simulated.NAME:
        index, expected = scan(device, **how), scan("cpu", **how)
        for layer in LAYERS:
            torch.testing.assert_close(index.values[layer], expected.values[layer])
        return
    assert_equal(scan(device, **how), scan("cpu", **how))


def test_scan_that_was_interrupted(device, tmp_path):
    kept = {"checkpoint": tmp_path / "checkpoint", "checkpoint_seconds": 0}
    first = scan(device, **kept)
    assert_equal(scan(device, **kept), first)


@pytest.mark.parametrize("method", ["deconvnet", "guided_backprop", "input_gradient"])
@pytest.mark.parametrize("memory", ["light", "lean"])
def test_projections(method, memory, device):
    model, images, index = scan_small()
    expected = gallery.project(index, model, images, method=method, memory=memory)
    found = gallery.project(index, make_far(model, device), images, method=method, memory=memory)
    torch.testing.assert_close(found.projections, expected.projections)
    assert torch.equal(found.patches, expected.patches)
    assert found.projections.count_nonzero()


@pytest.mark.parametrize(
    "how",
    [
        {},
        {"target": "label"},
        {"methods": ["deconvnet"]},
        {"layer": "second", "neuron": 1},
        {"reduce": "sum"},
        {"memory": "lean"},
        {"fast": True},
    ],
    ids=str,
)
def test_collect(how, device, tmp_path):
    data = TensorDataset(list_photographs(), torch.arange(12) % 3)
    found, expected = (
        collect(
            build_model().to(place),
            data,
            tmp_path / place,
            batch_size=4,
            dtype=torch.float32,
            progress=False,
            **how,
        )
        for place in (device, "cpu")
    )
    assert len(found) == len(expected) == 12
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.keys() == theirs.keys()
        for name, value in theirs.items():
            if isinstance(value, torch.Tensor):
                torch.testing.assert_close(ours[name], value)
            elif isinstance(value, float):
                assert ours[name] == pytest.approx(value)
            else:
                assert ours[name] == value


@pytest.mark.parametrize("unpool", ["accumulate", "overwrite"])
def test_mirror(unpool, device, assert_like_cpu):
    model, images = build_model().double(), list_photographs(2).double()
    expected = Mirror(model, unpool=unpool).project(images, "second", (1, 2, 2))
    found = Mirror(make_far(model, device), unpool=unpool).project(
        images.to(device), "second", (1, 2, 2)
    )
    assert_like_cpu(found, expected)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(
    ("layer", "size"),
    [
        (nn.Conv2d(3, 4, 3, stride=2, padding=1), (9, 8)),
        (nn.Conv1d(2, 4, 3, padding=1, padding_mode="reflect"), (7,)),
        (nn.ConvTranspose2d(4, 6, 3, stride=2, groups=2), (5, 5)),
        (nn.Linear(5, 4), (5,)),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_adjoint(layer, size, dtype, device):
    report = adjoint.check(layer, size, dtype=dtype, device=device)
    assert report.passed, str(report)
    assert report.device.startswith(device)
    assert layer.weight.device.type == "cpu"


def test_adjoint_of_a_whole_model(device):
    reports = adjoint.layers(build_model().to(device), list_photographs(1).to(device))
    assert {"first", "second", "head"} <= set(reports)
    assert all(report.passed and report.device.startswith(device) for report in reports.values())


def test_adjoint_of_a_layer_that_is_there(device):
    conv, image = nn.Conv2d(2, 3, 3), torch.rand(2, 8, 8)
    far = make_far(conv, device)
    expected, found = adjoint.reconstruct(conv, image), adjoint.reconstruct(far, image.to(device))
    for there, here in zip(found[:5], expected[:5], strict=True):
        torch.testing.assert_close(there, here)  # all on the CPU
    operator = adjoint.linear_operator(far, (8, 8))
    product = operator.matvec(image.flatten().double().numpy())
    torch.testing.assert_close(torch.from_numpy(product), expected.activation.flatten())
    assert adjoint.matrix(far, (8, 8)).shape == operator.shape
    report = adjoint.check(far, (8, 8), spectrum=True)
    assert report.singular_max == pytest.approx(expected.singular_values[0].item())


def test_receptive_field(device):
    model, images = build_model(), list_photographs(2)
    expected = receptive_field.of(model, "second", images)
    assert receptive_field.of(make_far(model, device), "second", images.to(device)) == expected


def test_a_faster_copy(device, assert_like_cpu):
    model, images = build_model(), list_photographs(2)
    expected = make_fast(model)
    found = make_fast(make_far(model, device))
    assert found.folded == expected.folded == 1
    with torch.no_grad():
        assert_like_cpu(found.model(images.to(device)), expected.model(images))


def test_occlusion(device):
    model, image = build_model(), list_photographs(1)[0]
    how = {"size": 5, "stride": 3, "value": torch.tensor([0.1, 0.2, 0.3])}
    expected = experiments.occlude(model, image, "second", **how)
    found = experiments.occlude(make_far(model, device), image.to(device), "second", **how)
    for name in ("activation", "probability", "likeliest"):
        torch.testing.assert_close(getattr(found, name), getattr(expected, name))


def test_invariance(device):
    model, images, layers = build_model(), list_photographs(2), ["first", "second"]
    expected = experiments.measure_invariance(model, images, layers, steps=2)
    found = experiments.measure_invariance(
        make_far(model, device), images.to(device), layers, steps=2
    )
    assert found.targets == expected.targets
    for kind, curve in expected.curves.items():
        torch.testing.assert_close(found.curves[kind].distance, curve.distance)
        torch.testing.assert_close(found.curves[kind].probability, curve.probability)


def test_diagnosis(device):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 7, stride=2), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU())
    images = list(torch.rand(6, 3, 40, 40, generator=torch.Generator().manual_seed(0)))
    expected = experiments.diagnose(model.eval(), images)
    found = experiments.diagnose(make_far(model, device), images)
    assert str(found) == str(expected)


def test_renormalisation(device):
    models = [build_model(), make_far(build_model(), device)]
    for model in models:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        experiments.renormalise(model, optimizer, radius=0.05)
        model(list_photographs(2).to(next(model.parameters()).device)).sum().backward()
        optimizer.step()
    near, far = (model.first.weight.detach().cpu() for model in models)
    torch.testing.assert_close(far, near)


@pytest.mark.filterwarnings("ignore:Setting backward hooks:UserWarning")
def test_comparison(device, tmp_path):
    found, expected = (
        comparison.run(
            make_far(build_model(), place),
            list_photographs(2),
            out=tmp_path / place,
            methods=["guided_backprop", "deconvnet", "guided_gradcam", "integrated_gradients"],
            boxes={"0": (2, 2, 9, 9), "1": (4, 4, 12, 12)},
            layer="second",
            stages=2,
        ).summary
        for place in (device, "cpu")
    )
    if device == simulated.NAME:
        assert found == expected
    assert found.keys() == expected.keys() == METRICS.keys()


# ---- Waits, in each batch ----


def collect_some(device, folder, count, **how):
    data = TensorDataset(list_photographs(count), torch.arange(count) % 3)
    collect(
        build_model().to(device), data, folder / str(count), batch_size=4, progress=False, **how
    )


FIELDS = 8  # of a collection by the three methods, which go to the host when all is computed

IN_A_BATCH = {
    # Of each of three layers: is there a NaN, and how many of the images have a place?
    "scan": {"value read": 3, "size read": 3},
    "collect": {"copy to the host": 1 + FIELDS},
    "collect by label": {"copy to the host": 1 + FIELDS},
    "collect a neuron's": {"copy to the host": 1 + FIELDS},
    # The crops go there; their activations, the conditions on them and the projections come back.
    "project, two batches": {"copy from the host": 2, "copy to the host": 6},
}


def project_some(device, batch_size):
    model, images, index = scan_small()
    gallery.project(index, make_far(model, device), images, channels=[0, 1], batch_size=batch_size)


@pytest.mark.parametrize("name", IN_A_BATCH)
def test_waits_for_the_device(name, device, tmp_path):
    if device != simulated.NAME:
        pytest.skip("waits are counted on the simulated device")
    how = {
        "collect by label": {"target": "label"},
        "collect a neuron's": {"layer": "second", "neuron": 1},
    }.get(name, {})
    waits = []
    for more in (0, 1):
        with simulated.count_waits() as found:
            if name == "scan":
                scan(device, 8 + 4 * more)
            elif name == "project, two batches":
                project_some(device, 9 - 4 * more)
            else:
                collect_some(device, tmp_path, 8 + 4 * more, **how)
        waits.append(found)
    assert dict(waits[1] - waits[0]) == IN_A_BATCH[name]

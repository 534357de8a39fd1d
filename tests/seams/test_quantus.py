"""Quantus's own metrics run on every method, and get from it what the classes return."""

import copy
import sys

import numpy as np
import pytest
import quantus
import torch
from snapshot import Snapshot

from captum_deconv import Deconvnet, GuidedBackprop, GuidedGradCam, InputGradient
from captum_deconv.seams.quantus import explain_func

RULES = {"input_gradient": InputGradient, "guided_backprop": GuidedBackprop, "deconvnet": Deconvnet}
METHODS = [*RULES, "guided_gradcam"]
METRICS = {
    "PixelFlipping": lambda **how: quantus.PixelFlipping(features_in_step=8, **how),
    "MaxSensitivity": lambda **how: quantus.MaxSensitivity(nr_samples=2, **how),
    "RandomLogit": lambda **how: quantus.RandomLogit(num_classes=5, **how),
    "EfficientMPRT": lambda **how: quantus.EfficientMPRT(**how),
}


def make(method, **how):
    return explain_func(method, layer="conv2" if method == "guided_gradcam" else None, **how)


@pytest.fixture
def arrays(images):
    return images.numpy(), np.array([1, 0, 4])


def judge(metric, model, arrays, explain):
    state = np.random.get_state()
    with torch.random.fork_rng():
        np.random.seed(0)
        made = METRICS[metric](disable_warnings=True, display_progressbar=False, abs=True)
        scores = made(model, *arrays, explain_func=explain)
    np.random.set_state(state)
    return np.asarray(scores, dtype=float)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("metric", METRICS)
def test_metrics_run(model, arrays, metric, method):
    def by_class(model, inputs, targets, **_):
        inputs, targets = torch.as_tensor(inputs), torch.as_tensor(targets)
        if method == "guided_gradcam":
            return GuidedGradCam(model, model.conv2).attribute(inputs, targets).numpy()
        return RULES[method](model).attribute(inputs, targets).numpy()

    before = Snapshot(model)
    scores = judge(metric, model, arrays, make(method))
    before.assert_unchanged()
    assert scores.size
    assert np.isfinite(scores).all()
    assert np.array_equal(scores, judge(metric, model, arrays, by_class))
    # Another explanation is judged otherwise, and one of a single channel is taken as well.
    other = judge(metric, model, arrays, lambda inputs, **_: np.asarray(inputs) ** 2)
    assert not np.allclose(scores, other)
    reduced = judge(metric, model, arrays, make(method, reduce="abs_max"))
    assert np.isfinite(reduced).all()


@pytest.mark.parametrize("method", RULES)
def test_it_is_what_the_class_returns(model, images, arrays, method):
    expected = RULES[method](model).attribute(images, torch.tensor(arrays[1]))
    found = explain_func(method)(model, *arrays)
    assert type(found) is np.ndarray
    assert np.array_equal(found, expected.numpy())
    flat = {
        "sum": expected.sum(1),
        "abs_sum": expected.abs().sum(1),
        "abs_max": expected.abs().amax(1),
    }
    for reduce, wanted in flat.items():
        found = explain_func(method, reduce=reduce)(model, *arrays)
        assert found.shape == (3, 1, 8, 8)
        assert np.array_equal(found[:, 0], wanted.numpy())


def test_grad_cam_finds_its_layer_in_a_copy(model, images, arrays):
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.conv2.weight.mul_(-1)
    explain = make("guided_gradcam")
    found = [explain(each, *arrays) for each in (model, other)]
    for each, result in zip((model, other), found, strict=True):
        expected = GuidedGradCam(each, each.conv2).attribute(images, torch.tensor(arrays[1]))
        assert np.array_equal(result, expected.numpy())
    assert not np.array_equal(*found)


def test_the_inputs_take_the_models_type(model, arrays):
    images, labels = arrays
    double = explain_func("deconvnet")(model.double(), images, labels)
    assert double.dtype == np.float64
    half = explain_func("deconvnet")(model.bfloat16(), images.astype(np.float64), labels)
    assert half.dtype == np.float32
    assert np.abs(half - double).max() < 0.05 * np.abs(double).max() != 0


@pytest.mark.filterwarnings("ignore:the model is in train mode")
def test_the_model_is_left_in_its_mode(model, arrays):
    before = Snapshot(model.train())
    explain_func("guided_backprop")(model, *arrays, device="cpu")
    before.assert_unchanged()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_inputs_go_to_the_models_device(model, arrays):
    explain = explain_func("guided_backprop")
    here = explain(model, *arrays)
    there = explain(model.cuda(), *arrays)
    assert np.abs(here - there).max() < 1e-3 * np.abs(here).max()


def test_what_cannot_be_meant(monkeypatch):
    with pytest.raises(ValueError, match="guided_backprop"):
        explain_func("guided")
    with pytest.raises(ValueError, match="abs_max"):
        explain_func("deconvnet", reduce="max")
    with pytest.raises(ValueError, match="needs one"):
        explain_func("guided_gradcam")
    with pytest.raises(ValueError, match="guided_gradcam"):
        explain_func("deconvnet", layer="conv1")
    monkeypatch.setitem(sys.modules, "quantus", None)
    with pytest.raises(ImportError, match=r"pip install 'captum-deconv\[bench\]'"):
        explain_func("deconvnet")

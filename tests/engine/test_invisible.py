"""Nothing of the user's changes: by no call, exception, interruption or other thread."""

import functools
import gc
import sys
import threading
import warnings
import weakref

import pytest
import torch
from snapshot import Snapshot
from torch import nn

from captum_deconv import (
    Deconvnet,
    GuidedBackprop,
    GuidedGradCam,
    InputGradient,
    LayerDeconvnet,
    NeuronDeconvnet,
    NeuronGuidedBackprop,
    compare,
    coverage,
)

CALLS = {
    "input gradient": lambda model, x: InputGradient(model).attribute(x, 1),
    "guided backprop": lambda model, x: GuidedBackprop(model).attribute(x, 1),
    "deconvnet": lambda model, x: Deconvnet(model).attribute(x, 1),
    "neuron, stopped": lambda model, x: NeuronDeconvnet(model, "conv1").attribute(x, (0, 1, 1)),
    "neuron, run on": lambda model, x: NeuronDeconvnet(model, "relu").attribute(x, (0, 1, 1)),
    "layer": lambda model, x: LayerDeconvnet(model, "conv2").attribute(x, 1),
    "grad-cam": lambda model, x: GuidedGradCam(model, "conv2").attribute(x, 1),
    "compare": lambda model, x: compare(model, x, 1)["deconvnet"],
    "coverage": lambda model, x: torch.tensor(float(coverage(model, x).complete)),
}


@pytest.fixture(params=CALLS.values(), ids=CALLS.keys())
def call(request):
    return request.param


def test_a_call_changes_nothing(call, model, images):
    model.conv1.weight.grad = torch.ones_like(model.conv1.weight)
    model.conv2.requires_grad_(False)
    handle = model.conv2.register_forward_hook(lambda *_: None)
    images.requires_grad_().grad = torch.zeros_like(images)
    snapshot = Snapshot(model, images)
    call(model, images)
    snapshot.assert_unchanged()
    handle.remove()
    with pytest.raises(AssertionError, match="hooks"):  # the control: the snapshot sees a hook
        snapshot.assert_unchanged()


def test_an_input_that_is_no_leaf_is_left_alone(call, model, images):
    leaf = images.requires_grad_()
    computed = leaf * 2
    snapshot = Snapshot(model, leaf, computed)
    call(model, computed)
    snapshot.assert_unchanged()
    assert leaf.grad is None


class Failing(nn.Module):
    """Raises in the middle of its forward pass."""

    def __init__(self, error: type[BaseException]) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 6, 3)
        self.conv2 = nn.Conv2d(6, 6, 3)
        self.relu = nn.ReLU(inplace=True)
        self.error = error

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.relu(x)
        if self.error is not None:
            raise self.error
        return self.relu(self.conv2(self.relu(self.conv1(x)))).flatten(1)


@pytest.mark.parametrize("error", [RuntimeError, ZeroDivisionError, KeyboardInterrupt])
def test_an_exception_in_forward_changes_nothing(call, error, images):
    model = Failing(error).eval()
    snapshot = Snapshot(model, images)
    with pytest.raises(error):
        call(model, images)
    snapshot.assert_unchanged()


def test_an_interruption_in_backward_changes_nothing(images):
    class Interrupting(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, gradient):
            raise KeyboardInterrupt

    class Model(Failing):
        def forward(self, x):
            return super().forward(Interrupting.apply(x))

    model = Model(None).eval()
    snapshot = Snapshot(model, images)
    for cls in (InputGradient, GuidedBackprop, Deconvnet):
        arguments = {} if cls is InputGradient else {"uncovered": "ignore"}
        with pytest.raises(KeyboardInterrupt):
            cls(model, **arguments).attribute(images, 1)
    snapshot.assert_unchanged()


@pytest.mark.parametrize("target", [99, "cat", [1]])
def test_a_bad_target_changes_nothing(target, model, images):
    snapshot = Snapshot(model, images)
    for method in (Deconvnet(model), LayerDeconvnet(model, "conv2"), GuidedGradCam(model, "conv2")):
        with pytest.raises((AssertionError, IndexError)):
            method.attribute(images, target)
    snapshot.assert_unchanged()


def test_an_in_place_first_operation_does_not_reach_the_users_data(images):
    model = nn.Sequential(nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(192, 2))
    extra = torch.randn(3)
    snapshot = Snapshot(model, images, extra)
    assert images.min() < 0
    compare(model, images, 1)
    LayerDeconvnet(model, "0").attribute(images, 1)
    InputGradient(lambda x, y: (x * y.mul_(2)).sum((1, 2, 3))).attribute(
        images[..., :3, :], additional_forward_args=extra.reshape(3, 1)
    )
    snapshot.assert_unchanged()


@pytest.mark.parametrize("mode", ["grad", "no_grad", "inference", "autocast"])
def test_the_callers_modes_stay(mode, call, model, images):
    expected = call(model, images)
    contexts = {
        "grad": torch.enable_grad,
        "no_grad": torch.no_grad,
        "inference": torch.inference_mode,
        "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    }
    with contexts[mode]():
        snapshot = Snapshot(model, images)
        result = call(model, images)
        snapshot.assert_unchanged()
    assert not result.requires_grad
    if mode != "autocast":
        assert torch.equal(result, expected)


def test_inference_tensors_are_taken(call, model, images):
    expected = call(model, images)
    with torch.inference_mode():
        inference = images.clone()
        assert torch.equal(call(model, inference), expected)
    assert torch.equal(call(model, inference), expected)


def test_running_statistics_survive_train_mode(images):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.5), nn.Flatten()
    ).train()
    snapshot = Snapshot(model, images)
    method = GuidedBackprop(model)
    with pytest.warns(UserWarning, match="train mode.*BatchNorm2d.*running statistics are left"):
        method.attribute(images, 1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        method.attribute(images, 1)  # once per object
    snapshot.assert_unchanged()
    model(images)
    with pytest.raises(AssertionError, match="running_mean"):  # the control
        snapshot.assert_unchanged()


def test_a_normal_call_warns_of_nothing(call, model, images):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        call(model, images)
        call(model, images.clone().requires_grad_())


def test_eight_threads_on_one_model(model, images):
    work = {
        "input gradient": InputGradient(model),
        "guided backprop": GuidedBackprop(model),
        "deconvnet": Deconvnet(model),
        "layer": LayerDeconvnet(model, "conv2"),
    }
    neurons = {
        "stopped": NeuronDeconvnet(model, "conv2"),
        "run on": NeuronGuidedBackprop(model, "relu"),
    }
    calls = [lambda m=m: m.attribute(images, 1) for m in work.values()]
    calls += [lambda m=m: m.attribute(images, (0, 1, 1)) for m in neurons.values()]
    calls += [lambda: GuidedGradCam(model, "conv2").attribute(images, 1)]
    calls += [lambda: compare(model, images, 3)["guided_backprop"]]
    expected = [call() for call in calls]
    wrong: list[int] = []
    failed: list[BaseException] = []

    def repeat(index):
        try:
            for _ in range(500):
                if not torch.equal(calls[index](), expected[index]):
                    wrong.append(index)
        except BaseException as error:  # a thread's exception would vanish
            failed.append(error)

    snapshot = Snapshot(model, images)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)  # as many interleavings as can be had
    threads = [threading.Thread(target=repeat, args=(index,)) for index in range(8)]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert not failed
    assert not wrong
    snapshot.assert_unchanged()


def test_a_thousand_calls_leave_nothing_behind(images):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3)).eval()
    methods = [GuidedBackprop(model), Deconvnet(lambda x: model(x).clamp(min=0))]
    neuron = NeuronDeconvnet(model, "1")

    def call_all(times):
        for _ in range(times):
            for method in methods:
                method.attribute(images, 1)
            neuron.attribute(images, (0, 1, 1))

    def count():
        gc.collect()
        return len(gc.get_objects())

    call_all(20)
    before = count()
    call_all(1000)
    assert count() <= before + 20  # the collector's own bookkeeping moves a little
    result = weakref.ref(methods[0].attribute(images, 1))
    assert result() is None  # no cycle keeps a result, or the graph behind it, alive


def test_a_compiled_models_cache_stays_usable(images):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3)).eval()
    counts = []

    def backend(graph, inputs):
        counts.append(1)
        return graph.forward

    compiled = torch.compile(model, backend=backend)
    with torch.no_grad():
        expected = compiled(images)
        assert len(counts) == 1
        snapshot = Snapshot(model, images)
        result = Deconvnet(compiled).attribute(images, 1)
        NeuronDeconvnet(compiled, model[1]).attribute(images, (0, 1, 1))
        snapshot.assert_unchanged()
        assert torch.equal(compiled(images), expected)
    assert len(counts) == 1, "the model was compiled again"
    assert torch.equal(result, Deconvnet(model).attribute(images, 1))


def normed():
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3)
    return nn.Sequential(*layers).train()


@pytest.mark.filterwarnings("ignore:the model is in train mode")
def test_a_backward_pass_of_the_users_is_not_disturbed(images):
    model = normed()
    loss = model(images).sum()
    GuidedBackprop(model).attribute(images, 1)
    loss.backward()
    assert model[0].weight.grad is not None


@pytest.mark.parametrize(
    "wrap",
    [
        lambda model: lambda x: model(x),
        lambda model: functools.partial(model),
        lambda model: model.forward,
    ],
)
def test_a_callable_around_a_model_in_train_mode(wrap, images):
    model = normed()
    snapshot = Snapshot(model, images)
    with pytest.warns(UserWarning, match="train mode"):
        GuidedBackprop(wrap(model)).attribute(images, 1)
    snapshot.assert_unchanged()


@pytest.mark.filterwarnings("ignore:the model is in train mode")
def test_threads_keep_running_statistics_and_reports_apart(images):
    model = normed()
    snapshot = Snapshot(model, images)
    method = Deconvnet(model)
    expected = str(coverage(model, images)), method.attribute(images, 1)
    failed: list[BaseException] = []

    def repeat(call, right):
        try:
            assert all(right(call()) for _ in range(100))
        except BaseException as error:  # a thread's exception would vanish
            failed.append(error)

    work = [
        (lambda: coverage(model, images), lambda report: str(report) == expected[0]),
        (lambda: method.attribute(images, 1), lambda result: torch.equal(result, expected[1])),
    ]
    threads = [threading.Thread(target=repeat, args=pair) for pair in work * 3]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    snapshot.assert_unchanged()

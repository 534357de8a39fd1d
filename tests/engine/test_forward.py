"""Bad input, from Python: one precise exception each, before anything is computed wrongly."""

import functools

import oracle
import pytest
import torch
from agreement import check_layer
from networks import Returning
from torch import nn

from captum_deconv import (
    Deconvnet,
    GuidedBackprop,
    GuidedGradCam,
    InputGradient,
    LayerDeconvnet,
    LayerGradient,
    NeuronDeconvnet,
    NeuronGradient,
    compare,
    coverage,
)
from captum_deconv.engine import forward


@pytest.mark.parametrize("cls", [InputGradient, GuidedBackprop, Deconvnet])
@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8, torch.bool])
def test_integer_inputs(cls, dtype, model, images):
    with pytest.raises(TypeError, match=r"inputs\[0\] is of type .*convert images with .float\(\)"):
        cls(model).attribute(images.to(dtype), 1)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_nan_and_infinite_inputs(value, model, images):
    images[1, 2, 3, 4] = value
    with pytest.raises(ValueError, match=r"inputs\[0\] holds 1 NaN or infinite values of 576"):
        Deconvnet(model).attribute(images, 1)


def test_what_is_no_tensor(model, images):
    with pytest.raises(TypeError, match="inputs is None: give a tensor"):
        Deconvnet(model).attribute(None)
    with pytest.raises(AssertionError):
        Deconvnet(model).attribute("cat", 1)
    with pytest.raises(TypeError, match="additional_forward_args"):
        Deconvnet(model).attribute((images, 3), 1)
    with pytest.raises(TypeError, match="empty tuple"):
        Deconvnet(model).attribute((), 1)


@pytest.mark.parametrize(
    ("output", "hint"),
    [
        (lambda x: {"out": x, "aux": x}, r"is a dict of 2 tensors: \['out'\].*with output='out'"),
        (lambda x: (x, x), r"is a tuple of 2 tensors: \[0\] \(3, 3, 8, 8\).*with output=0"),
        (lambda x: [x], r"is a list of 1 tensor: .*with output=0"),
        (lambda x: [[x]], r"with output=lambda value: value\[0\]\[0\]"),
        (lambda x: None, "is a NoneType without a tensor"),
    ],
)
def test_outputs_that_are_no_tensor(output, hint, images):
    for call in (
        lambda: Deconvnet(output).attribute(images),
        lambda: compare(output, images),
        lambda: LayerDeconvnet(nn.Sequential(nn.ReLU(), Returning(output)), "0").attribute(images),
    ):
        with pytest.raises(TypeError, match=hint):
            call()


@pytest.mark.parametrize(
    "forward",
    [
        lambda x: x.detach().flatten(1).sum(1),
        lambda x: torch.no_grad()(torch.relu)(x).flatten(1).sum(1),
        lambda x: torch.ones(len(x)),
        lambda x: (x > 0).flatten(1).sum(1),
    ],
)
def test_outputs_without_a_way_back(forward, images):
    for cls in (InputGradient, Deconvnet):
        with pytest.raises(RuntimeError, match=r"does not require grad.*no_grad.*detaches"):
            cls(forward).attribute(images)


def test_layer_names(model, images):
    with pytest.raises(ValueError, match="no layer 'conv3': did you mean 'conv"):
        NeuronDeconvnet(model, "conv3").attribute(images, 0)
    with pytest.raises(ValueError, match="no layer 'zzz': see named_modules"):
        LayerDeconvnet(model, "zzz").attribute(images, 0)
    with pytest.raises(TypeError, match="module or its dotted name"):
        NeuronDeconvnet(model, 3).attribute(images, 0)
    with pytest.raises(TypeError, match="give the module itself"):
        NeuronDeconvnet(lambda x: model(x), "conv1").attribute(images, 0)


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")
def test_layers_that_never_run(model, images):
    model.unused = nn.Linear(2, 2)
    for method in (NeuronDeconvnet(model, "unused"), LayerDeconvnet(model, nn.ReLU())):
        with pytest.raises(RuntimeError, match="did not run"):
            method.attribute(images, 0)
    scripted = torch.jit.trace(model, images)
    with pytest.raises(RuntimeError, match="inside TorchScript"):
        NeuronDeconvnet(scripted, scripted.conv1).attribute(images, 0)


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")
@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")
@pytest.mark.parametrize("of_input", [False, True])
def test_layers_of_torchscript(of_input, images):
    scripted = torch.jit.script(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()))
    how = {"attribute_to_neuron_input": of_input}
    for model, layer in ((scripted, "0"), (nn.Sequential(scripted, nn.ReLU()), "0")):
        with pytest.raises(
            RuntimeError, match=r"'0' is TorchScript.* use the model it was scripted"
        ):
            NeuronDeconvnet(model, layer).attribute(images, (0, 0, 0), **how)


def test_a_layer_without_positional_arguments_has_no_input_to_capture():
    class ByName(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 4)

        def forward(self, x):
            return self.layer(input=x)

    method, inputs = LayerDeconvnet(ByName(), "layer"), torch.randn(2, 4)
    assert torch.equal(method.attribute(inputs, 1)[:, 1], torch.ones(2))
    with pytest.raises(TypeError, match="'layer' takes no positional argument"):
        method.attribute(inputs, 1, attribute_to_layer_input=True)


def test_layers_that_return_no_tensors(images):
    model = nn.Sequential(Returning(lambda x: {"size": 3}), Returning(lambda d: d["size"]))
    with pytest.raises(TypeError, match="layer '0' returns is a dict without a tensor"):
        NeuronGradient(model, "0").attribute(images, 0)
    with pytest.raises(TypeError, match="layer '1' takes is a tuple without a tensor"):
        NeuronGradient(model, "1").attribute(images, 0, attribute_to_neuron_input=True)


def test_layers_with_several_tensors_need_a_selector_function(images):
    model = nn.Sequential(Returning(lambda x: (torch.relu(x), x)), Returning(lambda pair: pair[0]))
    method = NeuronDeconvnet(model, "0")
    with pytest.raises(AssertionError, match="neuron selector function"):
        method.attribute(images, (0, 0, 0))
    chosen = method.attribute(images, lambda pair: pair[0][:, 0, 1, 1])
    expected = torch.zeros_like(images)
    expected[:, 0, 1, 1] = 1
    assert torch.equal(chosen, expected)


def test_a_layer_of_integers_gives_zeros(images):
    layer = Returning(lambda x: (x * 1, x.argmax(1)))
    model = nn.Sequential(layer, Returning(lambda pair: torch.relu(pair[0]).flatten(1).sum(1)))
    floats, integers = LayerGradient(model, "0").attribute(images)
    assert torch.equal(floats, (images > 0).float())
    assert torch.equal(integers, torch.zeros(3, 8, 8, dtype=torch.int64))


def test_a_scalar_output_is_one_value_for_the_batch(images):
    result = GuidedBackprop(lambda x: torch.relu(x).sum()).attribute(images)
    assert torch.equal(result, (images > 0).float())


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")
@pytest.mark.parametrize("count", [0, 2])
def test_torchscript_with_the_wrong_number_of_arguments(count, images):
    scripted = torch.jit.trace(nn.Sequential(nn.ReLU(), nn.Flatten()), images)
    given = tuple(images for _ in range(count)) or torch.ones(3)
    arguments = {"additional_forward_args": None} if count else {"additional_forward_args": (1, 2)}
    with pytest.raises(RuntimeError, match="argument"):
        InputGradient(scripted).attribute(given, 1, **arguments)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_a_layer_that_nothing_records_has_a_gradient_all_the_same(mode, images):
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True))
            self.threshold = nn.Parameter(torch.tensor(0.5))

        def forward(self, x):
            with mode():
                features = self.body(x)
            return torch.relu(features - self.threshold).flatten(1).sum(1)

    torch.manual_seed(0)
    model = Model()
    for layer in ("body", "body.1"):
        result = LayerGradient(model, layer).attribute(images)
        assert torch.equal(result, (model.body(images) > 0.5).float())
        with pytest.raises(RuntimeError, match="the layer does not require grad"):
            GuidedGradCam(model, layer).attribute(images)


def test_inference_tensors_inside_arguments(images):
    with torch.inference_mode():
        scale = {"by": [torch.tensor(3.0)]}
    result = GuidedBackprop(lambda x, s: (torch.relu(x) * s["by"][0]).flatten(1).sum(1)).attribute(
        images, additional_forward_args=(scale,)
    )
    assert torch.equal(result, 3.0 * (images > 0))


def test_inference_tensors_that_require_grad(images):
    with torch.inference_mode():
        inference = images.clone().requires_grad_()
        result = InputGradient(lambda x: torch.relu(x).flatten(1).sum(1)).attribute(inference)
    assert torch.equal(result, (images > 0).float())


@pytest.mark.parametrize("target", [torch.tensor([0.0, 1.0, 2.0]), [0.0, 1.0, 2.0]])
def test_targets_that_are_no_integers(target, model, images):
    with pytest.raises(AssertionError, match="not valid"):
        Deconvnet(model).attribute(images, target)


@pytest.mark.parametrize("selector", [None, ..., 1.5, ("a",)])
def test_selectors_of_no_kind(selector, model, images):
    with pytest.raises(AssertionError, match="is not valid: give an int, a tuple"):
        NeuronDeconvnet(model, "conv1").attribute(images, selector)


def test_what_is_wrong_with_the_second_input_is_said_of_the_second(images):
    bad = images.clone()
    bad[0, 0, 0, 0] = torch.nan
    for second, error, said in (
        (bad, ValueError, r"inputs\[1\] holds 1 NaN or infinite values of 576"),
        (images.long(), TypeError, r"inputs\[1\] is of type torch.int64"),
    ):
        for call in (Deconvnet(torch.mul).attribute, lambda x: coverage(torch.mul, x)):
            with pytest.raises(error, match=said):
                call((images, second))


def test_an_integer_input_of_a_layers_comes_before_others(images):
    layer = Returning(torch.relu)
    order = torch.tensor([2, 0, 1])

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = layer

        def forward(self, index, x):
            return self.layer(x[index]).flatten(1).sum(1)

    result = LayerDeconvnet(Model(), "layer").attribute((order, images))
    assert torch.equal(result, torch.ones_like(images))


class Held:
    """The modes of a pass that finds the compiler loaded, or not, each time it looks."""

    def __init__(self, *loaded):
        self.loaded = list(loaded)

    def run_eagerly(self):
        return self.loaded.pop(0)


def counted(failures):
    calls = []

    def model(x, by):
        calls.append((x, by))
        if len(calls) <= failures:
            raise KeyError(len(calls))
        return x * by * len(calls)

    return model, calls


def test_a_pass_that_came_too_early_is_run_again(images):
    for failures in (0, 1):
        model, calls = counted(failures)
        assert torch.equal(forward.run(model, [images], [2], Held(True)), images * 2 * 2)
        assert len(calls) == 2
        assert all(x is not images for x, _ in calls)
    model, calls = counted(0)
    assert torch.equal(forward.run(model, [images], [2], Held(False)), images * 2)
    assert len(calls) == 1


@pytest.mark.parametrize("modes", [None, Held])
def test_a_pass_that_fails_of_itself_is_not_run_again(modes, images):
    model, calls = counted(1)
    with pytest.raises(KeyError):
        forward.run(model, [images], [2], modes and modes(False))
    assert len(calls) == 1
    assert torch.equal(forward.run(model, [images], [2]), images * 4)


def test_an_error_of_another_kind_is_left_as_it_is_whatever_the_inputs_type(images):
    class OwnError(RuntimeError):
        pass

    class Model(nn.Module):
        def __init__(self, error):
            super().__init__()
            self.register_parameter("weight", nn.Parameter(torch.ones(1)))
            self.error = error

        def forward(self, x):
            raise self.error

    for error in (OwnError("mine"), torch.OutOfMemoryError("no memory")):
        with pytest.raises(type(error)) as said:
            Deconvnet(Model(error)).attribute(images.double())
        assert said.value is error
    # With inputs of the weights' own type the model's error is not explained by it.
    with pytest.raises(RuntimeError, match=r"^mine$"):
        Deconvnet(Model(RuntimeError("mine"))).attribute(images)


def test_the_first_input_that_differs_from_the_weights_is_named(images):
    model = nn.Bilinear(8, 8, 2)
    model.register_parameter("places", nn.Parameter(torch.zeros(3).long(), requires_grad=False))
    rows = images[0, 0]
    with pytest.raises(RuntimeError, match=r"inputs\[1\] is of type torch.float64"):
        Deconvnet(model).attribute((rows, rows.double()), 1)
    embedding = nn.Embedding(3, 8)
    assert forward._find_mismatch(embedding, [rows.long(), rows.double()]).startswith("inputs[1]")
    assert forward._find_mismatch(embedding, [rows.long(), rows]) is None
    assert forward._find_mismatch(nn.ReLU(), [rows.double()]) is None
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert forward._find_mismatch(embedding, [rows.double()]) is None


def test_three_layers_of_names_alike_are_proposed():
    model = nn.ModuleDict({name: nn.ReLU() for name in ("conv1", "conv2", "conv3", "conv4")})
    said = "the model has no layer 'conv': did you mean 'conv4' or 'conv3' or 'conv2'?"
    with pytest.raises(ValueError) as refused:
        forward.capture(model, "conv")
    assert str(refused.value) == said


def test_a_layer_that_has_two_names_is_found_by_both():
    relu = nn.ReLU()
    model = nn.ModuleDict({"first": relu, "second": relu})
    for name in ("first", "second"):
        assert forward.capture(model, name).layer is relu
    assert forward.capture(model, relu).name == "'first'"
    assert forward.capture(model, nn.Tanh()).name == "of class Tanh"
    assert forward.capture(model, model).name == "of class ModuleDict"


class Again(nn.Module):
    """A layer that returns what it takes, which is changed or used by its old name after it."""

    def __init__(self, after):
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Conv2d(3, 4, 3)
        self.same = nn.Identity()
        self.head = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 5))
        self.after = after

    def forward(self, x):
        x = self.first(x)
        return self.head(self.after(self.same(x), x).mean((2, 3)))


AFTER = {
    "changed": lambda y, x: y + x.sub_(0.3).relu_(),
    "changed by little": lambda y, x: y + x.mul_(1.0001),
    "used": lambda y, x: y.relu_() - 2 * x,
    "neither": lambda y, x: y.relu_(),
}


@pytest.mark.parametrize("after", AFTER)
@pytest.mark.parametrize("of_input", [False, True])
def test_a_neuron_of_a_tensor_that_is_changed_by_another_name(after, of_input, images):
    def select(tensor):
        return tensor.square().flatten(1).sum(1)  # by the values as well

    model = Again(AFTER[after])
    result = NeuronDeconvnet(model, "same").attribute(
        images, select, attribute_to_neuron_input=of_input
    )
    reference = oracle.neuron_attribution(
        *(model, model.same, images, select, "deconvnet"), of_layer_input=of_input
    )
    assert torch.equal(result, reference[0])


@pytest.mark.parametrize("after", AFTER)
@pytest.mark.parametrize("of_input", [False, True])
def test_a_layer_that_shares_its_memory_is_right_or_an_error(after, of_input, images):
    model = Again(AFTER[after])
    ways = (
        lambda: LayerDeconvnet(model, "same").attribute(
            images, 1, attribute_to_layer_input=of_input
        ),
        lambda: GuidedGradCam(model, "same").attribute(
            images, 1, attribute_to_layer_input=of_input
        ),
    )
    if after == "neither":
        check_layer(model, "same", images, 1, of_layer_input=of_input)
        assert ways[1]().shape == images.shape
        return
    for way in ways:
        with pytest.raises(RuntimeError, match="layer 'same' shares its memory with a tensor"):
            way()


class Wrapper(nn.Module):
    """As ``torch.compile`` wraps a module."""

    def __init__(self, module):
        super().__init__()
        self._orig_mod = module

    def forward(self, x):
        return self._orig_mod(x)


def test_a_layer_is_found_through_what_is_around_the_model(images):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
    for around in (model, model.forward, functools.partial(model.forward), Wrapper(model)):
        assert forward.capture(around, "1").layer is model[1]
    found = forward.capture(Wrapper(nn.DataParallel(model)), model[1])
    assert (found.name, found.layer) == ("'1'", model[1])
    assert (found.of_input, found.cut, found.stop, found.any_thread) == (False,) * 4
    assert forward.capture(lambda x: model(x), model[1]).name == "of class ReLU"
    assert forward.capture(model, model[1], stop=True).stop is True
    assert forward.capture(model, nn.Tanh(), stop=True).stop is False


@pytest.mark.parametrize("stop_at", [1, 2, 3])
def test_a_pass_ends_at_the_call_that_is_asked_for(stop_at, images):
    relu, calls = nn.ReLU(), []
    capture = forward.Capture(relu, "'relu'", stop_at=stop_at)
    for _ in range(2):  # counted anew in each pass
        calls.clear()
        with capture.hooked():
            for number in range(1, 5):
                relu(images * number)
                calls.append(number)
        assert calls == list(range(1, stop_at))
        assert torch.equal(capture.tensors[images.device][0], (images * stop_at).relu())

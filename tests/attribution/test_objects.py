"""The objects themselves: what they load, say and refuse."""

import pickle

import pytest
import torch
from torch.utils.checkpoint import checkpoint

import captum_deconv
from captum_deconv import (
    Deconvnet,
    GuidedBackprop,
    GuidedGradCam,
    InputGradient,
    LayerDeconvnet,
    LayerGradient,
    LayerGuidedBackprop,
    NeuronDeconvnet,
    NeuronGradient,
    NeuronGuidedBackprop,
    strongest,
)

PLAIN = [InputGradient, GuidedBackprop, Deconvnet]
NEURON = [NeuronGradient, NeuronGuidedBackprop, NeuronDeconvnet]
LAYER = [LayerGradient, LayerGuidedBackprop, LayerDeconvnet]
METHODS = ["input_gradient", "guided_backprop", "deconvnet"]


def test_import_loads_no_pyplot_and_no_command_line():
    import subprocess
    import sys

    program = (
        "import sys, captum_deconv; loaded = set(sys.modules); "
        "print(loaded & {'torchvision', 'matplotlib.pyplot', 'typer', 'captum_deconv.cli'})"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "set()"


def test_the_first_call_of_a_process_loads_nothing_large():
    import subprocess
    import sys

    program = (
        "import sys, torch, captum_deconv as cd; before = set(sys.modules)\n"
        "model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.ReLU())\n"
        "cd.GuidedBackprop(model)\n"
        "loaded = set(sys.modules)\n"
        "cd.GuidedBackprop(model).attribute(torch.ones(1, 3), 0)\n"
        "print(len(set(sys.modules) - loaded) < 10, 'sympy' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["True", "False"]


def test_every_public_name_loads():
    for name in captum_deconv.__all__:
        assert getattr(captum_deconv, name).__doc__
    with pytest.raises(AttributeError, match="no attribute 'Saliency'"):
        _ = captum_deconv.Saliency


def test_a_selector_of_the_strongest_travels(model, images):
    selector = pickle.loads(pickle.dumps(strongest(2)))
    expected = NeuronDeconvnet(model, "conv1").attribute(images, strongest(2))
    assert torch.equal(NeuronDeconvnet(model, "conv1").attribute(images, selector), expected)
    with pytest.raises(TypeError, match="integer"):
        strongest(1.5)


def test_promoted_and_checkpointed_bounds(images):
    def checkpointed(x):
        return checkpoint(lambda q: q.clamp(min=0), x, use_reentrant=False).flatten(1).sum(1)

    def promoted(x):
        return torch.maximum(x, torch.zeros(1, dtype=torch.float64)).flatten(1).sum(1)

    for function in (checkpointed, promoted):
        result = GuidedBackprop(function).attribute(images)
        assert result.dtype == images.dtype
        assert torch.equal(result, (images > 0).float())


def test_objects_say_what_they_are(model):
    assert repr(InputGradient(model)) == "InputGradient(SkipNet)"
    assert repr(GuidedBackprop(model)) == 'GuidedBackprop(SkipNet, activations="relu")'
    method = NeuronDeconvnet(model, "conv1", activations="all", layer_tensor=0)
    said = "NeuronDeconvnet(SkipNet, 'conv1', activations=\"all\", layer_tensor=0)"
    assert repr(method) == said
    assert repr(LayerGradient(model, model.fc, output="out")) == (
        "LayerGradient(SkipNet, Linear, output='out')"
    )
    assert repr(InputGradient(model.forward)) == "InputGradient(SkipNet.forward)"


@pytest.mark.parametrize("cls", [*PLAIN, *NEURON, *LAYER, GuidedGradCam])
@pytest.mark.parametrize("given", [None, "resnet50", {"weights": 1}])
def test_what_cannot_be_called_is_refused_at_once(cls, given):
    arguments = () if cls in PLAIN else ("layer",)
    with pytest.raises(
        TypeError, match=rf"{cls.__name__} needs a module, or a function.*be called"
    ):
        cls(given, *arguments)


def test_an_input_of_another_type_than_the_weights(model, images):
    with pytest.raises(
        RuntimeError, match=r"inputs\[0\] is of type torch.float64 and the model's"
    ) as said:
        Deconvnet(model).attribute(images.double(), 1)
    assert "inputs.to(torch.float32)" in str(said.value)
    assert isinstance(said.value.__cause__, RuntimeError)  # torch's own
    double = lambda x: model(x.float())  # noqa: E731  # one that takes what it is given is let alone
    assert Deconvnet(double).attribute(images.double(), 1).dtype == torch.float64


def test_an_input_on_another_device_than_the_weights(model, images):
    with pytest.raises(
        RuntimeError, match=r"inputs\[0\] is on cpu and the model's weights are on meta"
    ):
        Deconvnet(model.to("meta")).attribute(images, 1)


def test_an_error_of_the_models_own_is_left_as_it_is(images):
    class OwnError(RuntimeError):
        pass

    def fail(x):
        raise OwnError("mine")

    with pytest.raises(OwnError, match=r"^mine$"):
        Deconvnet(fail).attribute(images.double())

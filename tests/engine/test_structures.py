"""Tensors inside what a model or a layer returns: taken where there is one, else chosen."""

import dataclasses
from collections import OrderedDict, namedtuple

import pytest
import torch
from torch import nn

from captum_deconv import (
    Deconvnet,
    GuidedBackprop,
    GuidedGradCam,
    InputGradient,
    LayerDeconvnet,
    LayerGradient,
    NeuronDeconvnet,
    compare,
    gradient_func,
)
from captum_deconv.engine.structures import list_tensors, replace_tensors

Named = namedtuple("Named", ["first", "second"])


@dataclasses.dataclass
class Record:
    first: torch.Tensor
    second: object


class Wrapping(nn.Module):
    """A network whose middle and whose end are wrapped into something."""

    def __init__(self, wrap, unwrap):
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 4, 3)
        self.block = Block(wrap)
        self.unwrap = unwrap
        self.head = nn.Linear(4, 5)

    def forward(self, x):
        hidden = self.unwrap(self.block(self.conv(x)))
        return torch.relu(self.head(torch.relu(hidden).mean((2, 3))))


class Block(nn.Module):
    def __init__(self, wrap):
        super().__init__()
        self.wrap = wrap

    def forward(self, x):
        return self.wrap(torch.relu(x))


WRAPS = {
    "tuple with None": (lambda y: (y, None), lambda v: v[0]),
    "list with a number": (lambda y: [3, y], lambda v: v[1]),
    "named tuple": (lambda y: Named(None, y), lambda v: v.second),
    "dictionary": (lambda y: {"states": y, "loss": None}, lambda v: v["states"]),
    "ordered": (lambda y: OrderedDict(states=y), lambda v: v["states"]),
    "dataclass": (lambda y: Record(y, "text"), lambda v: v.first),
    "nested": (lambda y: (None, {"inner": [y]}), lambda v: v[1]["inner"][0]),
    "integers beside": (lambda y: (y, y.argmax(1), None), lambda v: v[0]),
}


@pytest.mark.parametrize(("wrap", "unwrap"), WRAPS.values(), ids=WRAPS)
def test_the_one_tensor_of_a_layer_is_taken(wrap, unwrap, images):
    wrapped = Wrapping(wrap, unwrap).eval()
    plain = Wrapping(lambda y: y, lambda v: v).eval()
    for make in (
        lambda m: NeuronDeconvnet(m, "block").attribute(images, (1, 2, 2)),
        lambda m: LayerDeconvnet(m, "block").attribute(images, 2),
        lambda m: GuidedGradCam(m, "block").attribute(images, 2),
    ):
        result = make(wrapped)
        assert result.abs().max() > 0
        assert torch.equal(result, make(plain))


@pytest.mark.parametrize(
    ("wrap", "unwrap", "choice"),
    [
        (lambda y: (-y, None, y), lambda v: v[2] + v[0], 2),
        (lambda y: {"a": -y, "b": y, "c": None}, lambda v: v["b"] + v["a"], "b"),
        (lambda y: Record(y, -y), lambda v: v.first + v.second, "first"),
        (lambda y: Record(y, -y), lambda v: v.first + v.second, lambda v: v.first),
    ],
)
def test_one_of_several_tensors_of_a_layer_is_chosen(wrap, unwrap, choice, images):
    model = Wrapping(wrap, unwrap).eval()
    with pytest.raises(TypeError, match=r"of 2 tensors: .*choose one with layer_tensor="):
        LayerGradient(model, "block").attribute(images, 2)
    neuron = NeuronDeconvnet(model, "block", layer_tensor=choice)
    plain = Wrapping(lambda y: y, lambda v: v).eval()
    expected = NeuronDeconvnet(plain, "block").attribute(images, (1, 2, 2))
    assert torch.equal(neuron.attribute(images, (1, 2, 2)), expected)
    layer = LayerGradient(model, "block", layer_tensor=choice).attribute(images, 2)
    assert layer.shape == (3, 4, 6, 6)  # one tensor, no tuple
    with pytest.raises((TypeError, ValueError), match="layer_tensor='loss'"):
        LayerGradient(model, "block", layer_tensor="loss").attribute(images, 2)


OUTPUTS = {
    0: lambda y: (y, y * 2),
    "logits": lambda y: {"logits": y, "aux": y * 2},
    "first": lambda y: Record(y, None),
}


@pytest.mark.parametrize("choice", OUTPUTS)
def test_a_models_output_is_chosen_on_every_class(choice, model, images):
    def wrapped(x):
        return OUTPUTS[choice](model(x))

    class Wrapped(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = model

        def forward(self, x):
            return wrapped(x)

    for make in (
        lambda f, **how: InputGradient(f, **how).attribute(images, 2),
        lambda f, **how: GuidedBackprop(f, **how).attribute(images, 2),
        lambda f, **how: Deconvnet(f, **how).attribute(images, 2),
        lambda f, **how: compare(f, images, 2, **how)["deconvnet"],
        lambda f, **how: gradient_func("deconvnet", **how)(f, images, 2)[0],
    ):
        assert torch.equal(make(wrapped, output=choice), make(model))
    for cls in (LayerGradient, LayerDeconvnet, GuidedGradCam):
        chosen = cls(Wrapped(), "inner.conv2", output=choice).attribute(images, 2)
        assert torch.equal(chosen, cls(model, "conv2").attribute(images, 2))
    with pytest.raises(ValueError, match="output='nothing' names nothing: what the model returned"):
        InputGradient(wrapped, output="nothing").attribute(images, 2)
    with pytest.raises(ValueError, match=r"names nothing: .* is a Tensor of shape \(3, 5\)"):
        InputGradient(model, output="logits").attribute(images, 2)
    # An index would choose one of the examples, a name what torch keeps of a tensor.
    for unmeant in (0, "data"):
        with pytest.raises(ValueError, match=f"output={unmeant!r} names nothing"):
            InputGradient(model, output=unmeant).attribute(images, 2)
        with pytest.raises(ValueError, match=f"layer_tensor={unmeant!r} names nothing"):
            LayerGradient(model, "conv2", layer_tensor=unmeant).attribute(images, 2)
    with pytest.raises(TypeError, match="gives a str, not a tensor"):
        InputGradient(wrapped, output=lambda value: "text").attribute(images, 2)


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning", "ignore:.*torch.jit")
def test_a_scripted_module_that_returns_a_tuple_is_exact_with_a_selector(images):
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.conv = nn.Conv2d(3, 4, 3)

        def forward(self, x):
            y = torch.relu(self.conv(x))
            return (y - 2 * torch.relu(y - 0.1)).flatten(1), y

    model = Two().eval()
    scripted = torch.jit.script(model)
    for _ in range(3):
        scripted(images.clone().requires_grad_())  # warm: its executor would fuse it
    with pytest.raises(TypeError, match="choose one with output=0"):
        Deconvnet(scripted).attribute(images, 2)
    expected = Deconvnet(model, output=0).attribute(images, 2)
    assert torch.equal(
        Deconvnet(scripted, output=0, uncovered="raise").attribute(images, 2), expected
    )
    assert not torch.equal(expected, InputGradient(model, output=0).attribute(images, 2))


def test_replaced_tensors_keep_their_structure_and_the_users_value():
    a, b = torch.zeros(2), torch.ones(2)
    value = {"pair": Named(a, [b, 3]), "record": Record(a, None), "same": (4, 5)}
    new = {id(a): [torch.full((2,), 7.0)]}
    result = replace_tensors(value, new)
    assert result["pair"].first is result["record"].first is new[id(a)][0]
    assert isinstance(result["pair"], Named)
    assert result["pair"].second is value["pair"].second  # nothing in it was replaced
    assert result["same"] is value["same"]
    assert value["record"].first is a
    twice = replace_tensors((a, a), {id(a): [b, torch.zeros(1)]})
    assert twice[0] is b
    assert twice[1].shape == (1,)
    assert [path for path, _ in list_tensors(value)] == [
        "['pair'][0]",
        "['pair'][1][0]",
        "['record'].first",
    ]

"""How often a forward pass calls a layer, read from the source; and that passes stop there."""

import pytest
import torch
import torchvision
from torch import nn

from captum_deconv import NeuronDeconvnet, NeuronGradient
from captum_deconv.engine.single_call import calls_once


class Once(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.other = nn.Linear(4, 4)
        self.many = nn.ModuleList([nn.Linear(4, 4), nn.ReLU()])
        self.flag = True
        self.kept = [1, 2]

    def helper(self, x):
        return self.layer(x)


class Plain(Once):
    def forward(self, x):
        return self.other(self.layer(x)) * len(self.kept)


class ByHelper(Once):
    def forward(self, x):
        if self.flag:
            x = self.other(x)
        return self.helper(x)


class InBranches(Once):
    def forward(self, x):
        if x.sum() > 0:  # noqa: SIM108  # two call sites are the point
            x = self.layer(x)
        else:
            x = self.layer(-x)
        return x if self.training else self.other(x)


class InLoop(Once):
    def forward(self, x):
        for index, member in enumerate(self.many):
            x = member(x) * index
        return x


class UnderAutocast(Once):
    @torch.autocast("cpu", enabled=False)
    def forward(self, x):
        return self.other(self.layer(x))


class InLoopOfPairs(Once):
    def __init__(self):
        super().__init__()
        self.many = nn.ModuleDict({"a": nn.Linear(4, 4), "b": nn.ReLU()})

    def forward(self, x):
        for _, member in self.many.items():
            x = member(x)
        return x


class Twice(Once):
    def forward(self, x):
        return self.layer(self.layer(x))


class Repeated(Once):
    def forward(self, x):
        for _ in range(2):
            x = self.layer(x)
        return x


class Aliased(Once):
    def forward(self, x):
        layer = self.layer
        return layer(layer(x))


class HandedOn(Once):
    def forward(self, x):
        return twice(self.layer, x)


class MethodHandedOn(Once):
    def forward(self, x):
        return twice(self.helper, x)


class SelfHandedOn(Once):
    def forward(self, x):
        return apply_all(self, x)


class ByChildren(Once):
    def forward(self, x):
        for child in self.children():
            x = child(x) if child is self.layer else x
        return self.layer(x)


class ByPythonList(Once):
    def __init__(self):
        super().__init__()
        self.kept = [self.layer]

    def forward(self, x):
        return self.layer(self.kept[0](x))


class LoopTwice(Once):
    def forward(self, x):
        for member in self.many:
            x = member(member(x))
        return x


class LoopAliased(Once):
    def forward(self, x):
        for member in self.many:
            again = member
            x = again(member(x))
        return x


class Comprehended(Once):
    def forward(self, x):
        return sum(self.layer(x) for _ in range(3))


class WithoutSelf(Once):
    def forward(*given):
        return given[0].layer(given[0].layer(given[1]))


class CalledTwice(Once):
    def __call__(self, x):
        return super().__call__(super().__call__(x))

    def forward(self, x):
        return self.layer(x)


class Recursive(Once):
    def forward(self, x, depth=2):
        return self.again(x, depth)

    def again(self, x, depth):
        return self.layer(x if depth == 0 else self.again(x, depth - 1))


def twice(function, x):
    return function(function(x))


def apply_all(module, x):
    return module.layer(module.layer(x))


@pytest.mark.parametrize("cls", [Plain, ByHelper, InBranches, UnderAutocast])
def test_one_call_is_proved(cls):
    assert calls_once(cls(), "layer")
    assert calls_once(nn.Sequential(cls(), nn.ReLU()), "0.layer")


def test_members_of_a_list_called_in_a_loop():
    assert calls_once(InLoop(), "many.0")
    assert calls_once(InLoopOfPairs(), "many.a")
    assert not calls_once(LoopTwice(), "many.0")
    assert not calls_once(LoopAliased(), "many.1")


@pytest.mark.parametrize(
    "cls",
    [
        *(Twice, Repeated, Aliased, HandedOn, MethodHandedOn, SelfHandedOn),
        *(ByChildren, ByPythonList, Comprehended, Recursive, WithoutSelf, CalledTwice),
    ],
)
def test_a_doubt_is_no_proof(cls):
    model = cls()
    assert not calls_once(model, "layer")
    called = []
    model.layer.register_forward_hook(lambda *_: called.append(1))
    model(torch.randn(2, 4))
    assert len(called) > 1  # each of these really calls it several times


def test_a_layer_that_may_call_itself_is_no_proof():
    for layer in (WithoutSelf(), CalledTwice()):
        assert not calls_once(nn.Sequential(layer, nn.ReLU()), "0")


def test_a_shared_or_replaced_layer_is_no_proof():
    relu = nn.ReLU()
    assert not calls_once(nn.Sequential(relu, nn.Linear(2, 2), relu), "0")
    model = Plain()
    model.forward = lambda x: model.layer(model.layer(x))
    assert not calls_once(model, "layer")
    scope: dict = {"nn": nn}
    exec("class Hidden(nn.Module):\n    def forward(self, x):\n        return self.layer(x)", scope)
    hidden = scope["Hidden"]()
    hidden.layer = nn.Linear(2, 2)
    assert not calls_once(hidden, "layer")  # no source to read


@pytest.mark.parametrize(
    ("name", "once", "several"),
    [
        ("resnet18", ["layer1", "layer1.0.conv1", "layer4.1.bn2", "fc"], ["layer1.0.relu"]),
        ("vgg11", ["features.8", "classifier.3"], []),
        ("mobilenet_v2", ["features.3.conv.0.0"], []),
        ("densenet121", ["features.denseblock2"], []),
        ("squeezenet1_1", ["features.4.expand1x1"], []),
        ("shufflenet_v2_x0_5", ["stage3"], []),
    ],
)
def test_torchvisions_networks(name, once, several):
    model = torchvision.models.get_model(name, weights=None)
    assert [calls_once(model, layer) for layer in once] == [True] * len(once)
    assert [calls_once(model, layer) for layer in several] == [False] * len(several)


class Tail(nn.Module):
    """Fails where the forward pass goes on beyond its layer."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
        self.head = nn.Linear(4, 2)

    def forward(self, x):
        x = self.body(x)
        raise RuntimeError("beyond the layer")


@pytest.mark.parametrize("of_input", [False, True])
def test_a_neurons_forward_pass_stops_at_its_layer(of_input):
    model = Tail()
    ran = []
    model.body[2].register_forward_hook(lambda *_: ran.append(1))
    result = NeuronDeconvnet(model, "body.1").attribute(
        torch.randn(2, 4), 1, attribute_to_neuron_input=of_input
    )
    assert result.abs().max() > 0
    assert not ran
    with pytest.raises(RuntimeError, match="beyond"):
        model(torch.randn(2, 4))


def test_no_except_clause_of_the_model_stops_the_stop():
    class Careful(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 4)
            self.beyond = nn.Linear(4, 4)

        def forward(self, x):
            try:
                x = self.layer(x)
            except Exception:
                x = x * 0
            return self.beyond(x)

    model = Careful()
    ran = []
    model.beyond.register_forward_hook(lambda *_: ran.append(1))
    result = NeuronGradient(model, model.layer).attribute(torch.randn(2, 4), 3)
    assert torch.equal(result, model.layer.weight[3].expand(2, 4))
    assert not ran

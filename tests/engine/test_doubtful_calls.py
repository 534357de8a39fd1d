"""Layers called again by ways that are hard to see: none may be taken for called once.

Each network here calls its layer several times. A neuron's attribution that stopped at the first
call would be silently wrong.
"""

import functools

import pytest
import torch
from torch import nn

from captum_deconv import NeuronGradient
from captum_deconv.engine.single_call import calls_once


class Base(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Sequential(nn.Linear(4, 4), nn.Tanh())


def run_twice(function):
    @functools.wraps(function)
    def inner(self, x):
        return function(self, function(self, x))

    return inner


class Decorated(Base):
    @run_twice
    def forward(self, x):
        return self.layer(x)


class HoldsAList(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.kept = [layer]

    def forward(self, x):
        return self.kept[0](x)


class BesideAHolder(Base):
    def __init__(self):
        super().__init__()
        self.holder = HoldsAList(self.layer)

    def forward(self, x):
        return self.holder(self.layer(x))


class PositionalOnly(Base):
    def forward(self, /, x):
        return self.layer(self.layer(x.mul(2)))


class Once(Base):
    def forward(self, x):
        return self.layer(x)


class Forwarding(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = Once()

    def __getattr__(self, name):
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.inner, name)

    def forward(self, x):
        return self.layer(self.inner(x))


class Aliased(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.__dict__["alias"] = self.layer

    def forward(self, x):
        return self.alias(self.layer(x))


class BoundMethod(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.run = self.layer.__call__

    def forward(self, x):
        return self.run(self.layer(x))


SHARED = nn.Sequential(nn.Linear(4, 4), nn.Tanh())


def apply_shared(x):
    return SHARED(x)


class Global(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = SHARED

    def forward(self, x):
        return SHARED(self.layer(x))


class GlobalFunction(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = SHARED

    def forward(self, x):
        return apply_shared(self.layer(x))


def make_closure():
    layer = nn.Linear(4, 4)

    class Closure(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = layer

        def forward(self, x):
            return layer(self.layer(x))

    return Closure()


class CalledTwice(Base):
    def __call__(self, x):
        return super().__call__(super().__call__(x))

    def forward(self, x):
        return self.layer(x)


class Evaluated(Base):
    def forward(self, x):
        return self.layer(eval("self.layer(x)"))


class InLen(Base):
    def forward(self, x):
        y = self.layer(x)
        return y * len(self.layer(y))


class Finally(Base):
    def forward(self, x):
        try:
            x = self.layer(x)
        finally:
            x = self.layer(x)
        return x


class Property(Base):
    @property
    def again(self):
        return self.layer

    def forward(self, x):
        return self.again(self.layer(x))


class Partial(Base):
    def run(self, k, x):
        return self.layer(self.layer(x)) * k

    forward = functools.partialmethod(run, 2)


class Inherited(Once):
    def forward(self, x):
        return super().forward(super().forward(x))


class NestedDictionary(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.kept = {"a": {"b": self.layer}}

    def forward(self, x):
        return self.kept["a"]["b"](self.layer(x))


class Caller:
    def __init__(self, model):
        self.model = model

    def __call__(self, x):
        return self.model.layer(x)


class HoldsAnObject(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.caller = Caller(self)

    def forward(self, x):
        return self.caller(self.layer(x))


class Lists(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(4, 4) for _ in range(3)])


class LoopInLoop(Lists):
    def step(self, x):
        for layer in self.layers:
            x = layer(x)
        return x

    def forward(self, x):
        for _ in self.layers:
            x = self.step(x)
        return x


class AfterTheLoop(Lists):
    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return layer(x)


class TwiceOver(nn.Sequential):
    def __iter__(self):
        for module in super().__iter__():
            yield module
            yield module


class Recursive(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x, depth=2):
        return torch.tanh(self.linear(self(x, depth - 1))) if depth else x * 2


def hooked():
    model = Once()
    model.register_forward_hook(lambda module, args, output: module.layer(output))
    return model


def in_sequential():
    layer = nn.Sequential(nn.Linear(4, 4), nn.Tanh())
    return nn.Sequential(layer, HoldsAList(layer))


CASES = [
    *((cls, "layer") for cls in (Decorated, BesideAHolder, PositionalOnly, Aliased, BoundMethod)),
    *((cls, "layer") for cls in (Global, GlobalFunction, make_closure, CalledTwice, Evaluated)),
    *((cls, "layer") for cls in (InLen, Finally, Property, Partial, Inherited, hooked)),
    *((cls, "layer") for cls in (NestedDictionary, HoldsAnObject)),
    *((Forwarding, "inner.layer"), (in_sequential, "0")),
    *((LoopInLoop, "layers.0"), (AfterTheLoop, "layers.2")),
    (lambda: TwiceOver(nn.Linear(4, 4), nn.Tanh()), "0"),
    (lambda: nn.Sequential(Recursive(), nn.Linear(4, 4)), "0"),
]


@pytest.mark.parametrize(("make", "name"), CASES)
def test_the_last_call_counts(make, name):
    torch.manual_seed(0)
    model = make()
    layer = model.get_submodule(name)
    outputs = []
    leaf = torch.randn(2, 4).requires_grad_()
    handle = layer.register_forward_hook(lambda module, args, output: outputs.append(output))
    model(leaf)
    handle.remove()
    assert len(outputs) > 1  # each of these really calls it several times
    assert not calls_once(model, name)
    (expected,) = torch.autograd.grad(outputs[-1][:, 0].sum(), leaf)
    result = NeuronGradient(model, layer).attribute(leaf.detach(), 0)
    assert torch.equal(result, expected)

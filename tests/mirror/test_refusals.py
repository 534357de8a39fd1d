"""What is no chain is refused by name, and nothing of the user's changes."""

import pytest
import torch
import torch.nn.functional as F
import torchvision
from chains import TOLERANCE, relative_error
from torch import nn

from captum_deconv.mirror import Mirror


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.body, self.last = (
            nn.Conv2d(3, 3, 1),
            nn.Conv2d(3, 3, 1),
            nn.Conv2d(3, 2, 1),
        )

    def forward(self, x):
        x = self.first(x)
        return self.last(x + self.body(x))


class Between(nn.Module):
    """Calls a function between two modules."""

    def __init__(self, function):
        super().__init__()
        self.function = function
        self.first, self.last = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 2, 1)

    def forward(self, x):
        return self.last(self.function(self.first(x)))


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.left, self.right = nn.Conv2d(3, 2, 1), nn.Conv2d(3, 2, 1)

    def forward(self, x):
        self.left(x)
        return self.right(x)


class Masked(nn.Conv2d):
    def forward(self, x):
        return super().forward(x * (x > 0))


def fill(x):
    x[:, 0] = 0
    return x


NO_CHAINS = {
    "skip": (Residual, r"'last' \(Conv2d\).*'body'.*add"),
    "relu": (lambda: Between(F.relu), r"'last' \(Conv2d\).*'first'.*relu"),
    "relu-in-place": (lambda: Between(torch.relu_), r"'last' \(Conv2d\).*'first'.*relu_"),
    "indexing-in-place": (lambda: Between(fill), r"'last' \(Conv2d\).*'first'.*__setitem__"),
    "transpose": (lambda: Between(lambda x: x.mT), r"'last' \(Conv2d\).*'first'"),
    "branch": (Twice, r"'right' \(Conv2d\).*'left'"),
    "sigmoid": (lambda: nn.Sequential(nn.Conv2d(3, 2, 1), nn.Sigmoid()), r"'1' \(Sigmoid\)"),
    "subclass": (lambda: nn.Sequential(Masked(3, 2, 1)), r"'0' \(Masked\)"),
    "indices": (lambda: nn.Sequential(nn.MaxPool2d(2, return_indices=True)), "'0'.*two tensors"),
    "hardtanh": (lambda: nn.Sequential(nn.Hardtanh()), "'0'.*clips at -1"),
    "statistics": (
        lambda: nn.Sequential(nn.BatchNorm2d(3, track_running_stats=False)),
        r"'0' \(BatchNorm2d\).*model.eval",
    ),
    "resnet": (lambda: torchvision.models.resnet18(weights=None), r"'layer1\.0\.relu' \(ReLU\)"),
    "densenet": (
        lambda: torchvision.models.DenseNet(4, (2, 2), 8),
        r"'features\.denseblock1\.denselayer1\.norm1'.*cat",
    ),
}


@pytest.mark.parametrize("case", NO_CHAINS)
def test_names_the_first_module_it_cannot_mirror(case, inputs):
    make, message = NO_CHAINS[case]
    model = make().double().eval()
    layer = next(name for name, m in model.named_modules() if not any(m.children()))
    with pytest.raises(ValueError, match=message):
        Mirror(model).project(inputs, layer, (0, 1, 1))


def test_a_model_that_changes_its_last_output_is_no_chain(inputs):
    class Ending(nn.Sequential):
        def forward(self, x):
            return super().forward(x).softmax(1)

    with pytest.raises(ValueError, match=r"Ending.*no chain.*'0'.*softmax"):
        Mirror(Ending(nn.Conv2d(3, 2, 1)).double()).project(inputs, "0", (0, 1, 1))


def test_a_layer_that_changes_its_last_output_is_no_part_of_a_chain(inputs):
    class Ending(nn.Sequential):
        def forward(self, x):
            return super().forward(x).softmax(1)

    model = nn.Sequential(Ending(nn.Conv2d(3, 2, 1)), nn.Conv2d(2, 2, 1)).double()
    with pytest.raises(ValueError, match=r"layer '0' \(Ending\) cannot be.*'0\.0'.*softmax"):
        Mirror(model).project(inputs, "0", (0, 1, 1))


def test_a_layer_must_keep_examples_apart(inputs):
    model = nn.Sequential(nn.Conv2d(3, 2, 1), nn.Flatten(0)).double()
    message = r"layer '1' must return one row for each of the 3 examples, not \(6144,\)"
    with pytest.raises(ValueError, match=message):
        Mirror(model).project(inputs, "1", 0)


@pytest.mark.parametrize(
    "function", [lambda x: F.dropout(x, training=False), torch.clone, lambda x: x.view(x.shape)]
)
def test_what_changes_nothing_may_stand_between_modules(function, inputs):
    model = Between(function).double()
    found = Mirror(model, rectify=False, seed="one").project(inputs, model.last, (0, 1, 1))
    leaf = inputs.clone().requires_grad_()
    (expected,) = torch.autograd.grad(model(leaf)[:, 0, 1, 1].sum(), leaf)
    assert relative_error(found, expected) < TOLERANCE


def test_parametrised_weights_are_those_of_the_pass(inputs):
    torch.manual_seed(0)
    conv = nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 2, 3))
    model = nn.Sequential(conv).double().eval()
    found = Mirror(model, seed="one").project(inputs, "0", (0, 1, 1))
    leaf = inputs.clone().requires_grad_()
    (expected,) = torch.autograd.grad(model(leaf)[:, 0, 1, 1].sum(), leaf)
    assert relative_error(found, expected) < TOLERANCE


@pytest.mark.parametrize("name", ["4.0", "4.3", "9"])
def test_refuses_the_training_mode_that_draws_on_the_batch_or_on_chance(chain, inputs, name):
    chain.get_submodule(name).train()
    with pytest.raises(ValueError, match=rf"'{name}'.*model\.eval\(\)"):
        Mirror(chain).project(inputs, "10", 1)


@pytest.mark.parametrize(
    ("layer", "selector", "error", "message"),
    [
        ("10", 4, IndexError, "out of bounds"),
        ("10", (0, 1), IndexError, "too long"),
        ("3", 1, ValueError, "each dimension"),
        ("3", "channel", TypeError, "neuron_selector"),
        ("3", (1, 2.0, 3), TypeError, "int and slice"),
        ("3", lambda a: a[:, 0], ValueError, "3 values"),
        ("3", lambda a: 1.0, ValueError, "3 values"),
        ("3", lambda a: (a > 0).double().flatten(1).sum(1), ValueError, "does not depend"),
        ("11", 1, ValueError, "no layer '11'"),
        (nn.Linear(2, 2), 1, ValueError, "not part"),
        (3, 1, TypeError, "layer"),
    ],
)
def test_explains_a_request_it_cannot_meet(chain, inputs, layer, selector, error, message):
    with pytest.raises(error, match=message):
        Mirror(chain).project(inputs, layer, selector)


def test_explains_a_layer_that_does_not_run(inputs):
    model = Between(torch.clone).double()
    model.unused = nn.Linear(2, 2)
    with pytest.raises(ValueError, match="'unused' does not run"):
        Mirror(model).project(inputs, "unused", 0)


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        (torch.ones(1, 3, 32, 32, dtype=torch.long), TypeError),
        (torch.ones(1, 3, 32, 32, dtype=torch.complex64), TypeError),
        ((torch.ones(1, 3, 32, 32),), TypeError),
        (torch.ones(0, 3, 32, 32), ValueError),
        (torch.ones(3, 32, 32, dtype=torch.float64), ValueError),
    ],
)
def test_explains_inputs_it_cannot_take(chain, wrong, error):
    with pytest.raises(error, match="must"):
        Mirror(chain).project(wrong, "3", (0, 1, 1))


@pytest.mark.parametrize(
    ("model", "options", "error"),
    [
        (F.relu, {}, TypeError),
        (nn.Sequential(nn.LazyLinear(3)), {}, ValueError),
        (nn.Sequential(torch.compile(nn.ReLU())), {}, ValueError),
        (nn.ReLU(), {"unpool": "sum"}, ValueError),
        (nn.ReLU(), {"normalization": "inverse"}, ValueError),
        (nn.ReLU(), {"seed": 1}, ValueError),
    ],
)
# Lazy modules warn when they are made.
@pytest.mark.filterwarnings("ignore:Lazy modules:UserWarning")
def test_explains_a_mirror_it_cannot_make(model, options, error):
    with pytest.raises(error):
        Mirror(model, **options)


@pytest.mark.filterwarnings("ignore:`torch.jit.trace:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:`torch.jit.trace:FutureWarning")
def test_refuses_models_it_cannot_look_into(inputs):
    model = nn.Sequential(nn.Conv2d(3, 2, 1), nn.ReLU()).double()
    for hidden in (torch.jit.trace(model, inputs), torch.compile(model)):
        with pytest.raises(ValueError, match="the model it was made from"):
            Mirror(hidden)
    Mirror(model)  # untouched by either
    model.compile()
    with pytest.raises(ValueError, match="the model it was made from"):
        Mirror(model)


# ---- What is left behind: nothing ----


def state_of(model, inputs):
    """All that a call might change: data, flags, gradients, hooks."""
    hooks = [
        (len(m._forward_hooks), len(m._forward_pre_hooks), len(m._forward_pre_hooks_with_kwargs))
        for m in model.modules()
    ]
    tensors = [*model.state_dict().values(), inputs]
    flags = [(p.requires_grad, p.grad) for p in [*model.parameters(), inputs]]
    modes = [m.training for m in model.modules()]
    return [t.clone() for t in tensors], (hooks, flags, modes, [t._version for t in tensors])


@pytest.mark.parametrize("fails", [None, "in the selector", "in the model", "as it is no chain"])
def test_leaves_the_model_and_the_inputs_as_they_were(chain, inputs, fails):
    model = nn.Sequential(nn.ReLU(inplace=True), chain).double().eval()
    if fails == "in the model":
        model[1][7] = nn.Linear(107, 16).double()
    if fails == "as it is no chain":
        model[1][5] = nn.Sigmoid()
    model[1][0][0].weight.requires_grad_(False)
    inputs.requires_grad_()
    tensors, rest = state_of(model, inputs)

    def select(outputs):
        if fails == "in the selector":
            raise RuntimeError("no")
        return outputs[:, 0]

    if fails:
        with pytest.raises((RuntimeError, ValueError)):
            Mirror(model).project(inputs, model[1][9], select)
    else:
        Mirror(model).project(inputs, model[1][9], select)
    after, rest_after = state_of(model, inputs)
    assert all(map(torch.equal, tensors, after))
    assert rest == rest_after

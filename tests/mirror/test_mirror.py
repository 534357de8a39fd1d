"""The explicit deconvnet: each way back is a transpose, and together they are the deconvnet.

Everything runs in float64. TOLERANCE is 1e-12 of the largest value: a projection through VGG-11
sums up to 4608 products in each of 11 layers, so that rounding may reach some 1e3 times the machine
epsilon of 2.2e-16; what is wrong by its mathematics is wrong by 1e-3 or more.
"""

import copy
from functools import partial

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn

import captum_deconv
from captum_deconv.mirror import Mirror

TOLERANCE = 1e-12


def relative_error(found, expected):
    return ((found - expected).abs().max() / expected.abs().max()).item()


def contract_with(signal):
    """A neuron selector whose seed, with seed="one", is `signal` itself."""
    return lambda outputs: (outputs * signal).flatten(1).sum(1)


# ---- The reference: the three rules as custom functions, and autograd for the rest ----


class Rectifier(torch.autograd.Function):
    """ReLU forwards; backwards the rule named."""

    @staticmethod
    def forward(ctx, x, rule, ceiling):
        ctx.save_for_backward((x > 0) & (x < ceiling))
        ctx.rule = rule
        return x.clamp(0, ceiling)

    @staticmethod
    def backward(ctx, signal):
        (mask,) = ctx.saved_tensors
        if ctx.rule in ("deconvnet", "guided"):
            signal = torch.where(signal > 0, signal, 0)
        if ctx.rule in ("gradient", "guided"):
            signal = torch.where(mask, signal, 0)
        return signal, None, None


class RuledReLU(nn.Module):
    def __init__(self, rule, ceiling):
        super().__init__()
        self.rule, self.ceiling = rule, ceiling

    def forward(self, x):
        return Rectifier.apply(x, self.rule, self.ceiling)


def project_by_autograd(model, inputs, layer, selector, rule="deconvnet"):
    model = copy.deepcopy(model)
    for name, module in list(model.named_modules(remove_duplicate=False)):
        if isinstance(module, nn.ReLU | nn.ReLU6):
            ceiling = 6.0 if isinstance(module, nn.ReLU6) else float("inf")
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, RuledReLU(rule, ceiling))
    inputs = inputs.clone().requires_grad_()
    outputs = []
    handle = model.get_submodule(layer).register_forward_hook(lambda *args: outputs.append(args[2]))
    model(inputs)
    handle.remove()
    selected = selector(outputs[-1])
    return torch.autograd.grad(selected.sum(), inputs)[0]


RULES = {
    "deconvnet": {"rectify": True},
    "gradient": {"rectify": False},
    "guided": {"rectify": True, "forward_masks": True},
    "linear": {"rectify": False, "forward_masks": False},
}


# ---- Networks ----


@pytest.fixture(scope="module")
def networks():
    """AlexNet and VGG-11, with and without batch norm, random and in float64."""
    torch.manual_seed(0)
    made = {}
    for name in ("alexnet", "vgg11", "vgg11_bn"):
        with torch.device("meta"):
            network = getattr(torchvision.models, name)(weights=None)
        # 4096 units take a gigabyte in float64, and show nothing that 64 do not.
        for position, module in enumerate(network.classifier):
            if isinstance(module, nn.Linear):
                units = [64 if n == 4096 else n for n in (module.in_features, module.out_features)]
                network.classifier[position] = nn.Linear(*units, device="meta")
        network = network.to_empty(device="cpu").double().eval()
        for module in network.modules():
            if hasattr(module, "reset_parameters"):
                module.reset_parameters()
            if isinstance(module, nn.BatchNorm2d):  # as after training, some scales negative
                nn.init.normal_(module.running_mean)
                nn.init.uniform_(module.running_var, 0.5, 2)
                nn.init.normal_(module.weight)
                nn.init.normal_(module.bias)
        made[name] = network
    return made


def make_images(name):
    """Two images of the smallest size the network takes without emptying a map."""
    size = 64 if name == "alexnet" else 32
    generator = torch.Generator().manual_seed(1)
    return torch.randn(2, 3, size, size, dtype=torch.float64, generator=generator)


def small_chain():
    """A nested chain with a bit of everything, one rectifier used three times, in place."""
    torch.manual_seed(2)
    relu = nn.ReLU(inplace=True)
    return (
        nn.Sequential(
            nn.Sequential(nn.Conv2d(3, 8, 5, stride=2, padding=2), relu, nn.LocalResponseNorm(5)),
            nn.MaxPool2d(3, 2, padding=1, ceil_mode=True),
            nn.Sequential(nn.Conv2d(8, 12, 3, groups=4, padding_mode="reflect", padding=1), relu),
            nn.AvgPool2d(3, 2, padding=1),
            nn.Sequential(nn.BatchNorm2d(12), nn.ReLU6(), nn.Identity(), nn.Dropout2d()),
            nn.AdaptiveAvgPool2d(3),
            nn.Flatten(),
            nn.Linear(108, 16),
            relu,
            nn.Dropout(),
            nn.Linear(16, 4),
        )
        .double()
        .eval()
    )


@pytest.fixture
def chain():
    return small_chain()


@pytest.fixture
def inputs():
    generator = torch.Generator().manual_seed(3)
    return torch.randn(3, 3, 32, 32, dtype=torch.float64, generator=generator)


LEAVES = [name for name, m in small_chain().named_modules() if not any(m.children())]


# ---- Each way back is a transpose ----

pad_by_copy = pytest.mark.filterwarnings("ignore:Using padding='same' with even:UserWarning")

# Module and input shape without the batch: every mirrored type, and what is easy to get wrong.
OPERATORS = {
    "conv1d": (partial(nn.Conv1d, 4, 6, 3, stride=2, padding=1), (4, 12)),
    "conv1d-circular": (partial(nn.Conv1d, 4, 6, 5, padding=3, padding_mode="circular"), (4, 9)),
    "conv2d": (partial(nn.Conv2d, 4, 6, 3), (4, 9, 8)),
    "conv2d-strided": (partial(nn.Conv2d, 4, 6, (3, 2), stride=(3, 2), padding=(1, 0)), (4, 12, 9)),
    "conv2d-skipping": (partial(nn.Conv2d, 4, 6, 1, stride=3), (4, 9, 9)),
    "conv2d-dilated": (partial(nn.Conv2d, 4, 6, 3, dilation=(2, 3), stride=2), (4, 12, 13)),
    "conv2d-grouped": (partial(nn.Conv2d, 4, 6, 3, groups=2, padding=2), (4, 7, 7)),
    "conv2d-depthwise": (partial(nn.Conv2d, 4, 8, 3, groups=4, bias=False), (4, 7, 7)),
    "conv2d-same-even": (partial(nn.Conv2d, 4, 6, (4, 2), padding="same", dilation=3), (4, 12, 9)),
    "conv2d-valid": (partial(nn.Conv2d, 4, 6, 3, padding="valid"), (4, 7, 9)),
    "conv2d-reflect": (
        partial(nn.Conv2d, 4, 6, 3, padding=(2, 1), padding_mode="reflect", stride=2),
        (4, 7, 8),
    ),
    "conv2d-replicate-same": (
        partial(nn.Conv2d, 4, 6, 4, padding="same", padding_mode="replicate"),
        (4, 7, 8),
    ),
    "conv3d": (partial(nn.Conv3d, 2, 4, (3, 2, 3), stride=(1, 2, 2), padding=1), (2, 5, 7, 6)),
    "linear": (partial(nn.Linear, 12, 7), (12,)),
    "linear-of-rows": (partial(nn.Linear, 12, 7), (3, 12)),
    "relu": (nn.ReLU, (4, 6)),
    "relu6": (nn.ReLU6, (4, 6)),
    "maxpool1d": (partial(nn.MaxPool1d, 3, 2), (2, 9)),
    "maxpool2d": (partial(nn.MaxPool2d, 2, 2), (2, 8, 9)),
    "maxpool2d-overlapping": (partial(nn.MaxPool2d, 3, 2), (2, 9, 9)),
    "maxpool2d-ceil-padded": (partial(nn.MaxPool2d, 3, 2, padding=1, ceil_mode=True), (2, 8, 8)),
    "maxpool2d-dilated": (partial(nn.MaxPool2d, (2, 3), (1, 2), dilation=(3, 2)), (2, 8, 9)),
    "maxpool3d": (partial(nn.MaxPool3d, 3, 2, padding=1), (2, 5, 6, 7)),
    "avgpool1d": (partial(nn.AvgPool1d, 3, 2, padding=1), (2, 9)),
    "avgpool2d": (partial(nn.AvgPool2d, (3, 2), stride=(2, 1), padding=(1, 0)), (2, 8, 9)),
    "avgpool2d-uncounted": (
        partial(nn.AvgPool2d, 3, 2, padding=1, count_include_pad=False, ceil_mode=True),
        (2, 8, 8),
    ),
    "avgpool2d-ceil": (partial(nn.AvgPool2d, 3, 2, padding=1, ceil_mode=True), (2, 8, 10)),
    "avgpool2d-divisor": (partial(nn.AvgPool2d, 3, divisor_override=5), (2, 9, 9)),
    "avgpool3d": (partial(nn.AvgPool3d, 2, stride=2, padding=1), (2, 4, 5, 6)),
    "adaptive1d": (partial(nn.AdaptiveAvgPool1d, 4), (2, 10)),
    "adaptive2d-uneven": (partial(nn.AdaptiveAvgPool2d, (3, 5)), (2, 7, 8)),
    "adaptive2d-growing": (partial(nn.AdaptiveAvgPool2d, (7, None)), (2, 4, 5)),
    "adaptive3d": (partial(nn.AdaptiveAvgPool3d, 2), (2, 3, 4, 5)),
    "batchnorm1d": (partial(nn.BatchNorm1d, 5), (5,)),
    "batchnorm2d": (partial(nn.BatchNorm2d, 5), (5, 3, 4)),
    "batchnorm3d-plain": (partial(nn.BatchNorm3d, 5, affine=False), (5, 2, 3, 4)),
    "lrn-odd": (partial(nn.LocalResponseNorm, 5, alpha=0.5), (8, 3, 4)),
    "lrn-even": (partial(nn.LocalResponseNorm, 4, alpha=0.3, beta=0.6, k=2.0), (8, 6)),
    "lrn-3d": (partial(nn.LocalResponseNorm, 3, alpha=1.0), (6, 2, 3, 4)),
    "flatten": (nn.Flatten, (2, 3, 4)),
    "unflatten": (partial(nn.Unflatten, 1, (2, 3)), (6, 4)),
    "dropout": (nn.Dropout, (6,)),
    "identity": (nn.Identity, (6,)),
}


@pytest.fixture(params=OPERATORS)
def operator(request):
    """A module, a point to linearise it at, a direction there and a signal from above."""
    make, shape = OPERATORS[request.param]
    torch.manual_seed(4)
    module = make().double().eval()
    for tensor in module.state_dict().values():
        if tensor.is_floating_point():
            tensor.uniform_(0.5, 2)
    x, direction = 3 * torch.randn(2, 2, *shape, dtype=torch.float64)
    return module, x, direction, torch.randn_like(module(x))


@pad_by_copy
# PyTorch scripts some of its own decompositions for forward mode, and warns itself.
@pytest.mark.filterwarnings("ignore:`torch.jit.script:FutureWarning")
def test_each_way_back_is_the_transpose(operator):
    """`<J v, y> = <v, J^T y>`, with `J v` from forward-mode differentiation."""
    module, x, direction, signal = operator
    _, image = torch.func.jvp(module, (x,), (direction,))
    back = Mirror(module, rectify=False, seed="one").project(x, "", contract_with(signal))
    gap = (image * signal).sum() - (direction * back).sum()
    # The gap is rounding of the two sums, each at most as large as the product of the norms.
    assert gap.abs() < TOLERANCE * image.norm() * signal.norm()
    assert back.shape == x.shape
    # Control: another vector in the transpose's place does not close the gap.
    wrong = (image * signal).sum() - (direction * back.roll(1, -1)).sum()
    assert wrong.abs() > 1e-3


@pad_by_copy
def test_each_way_back_is_the_input_gradient(operator):
    module, x, _, signal = operator
    leaf = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(module(leaf), leaf, signal)
    back = Mirror(module, rectify=False, seed="one").project(x, "", contract_with(signal))
    assert relative_error(back, gradient) < TOLERANCE


# ---- The whole way down ----


def first_neurons(outputs):
    """A different neuron in each dimension, at a third of its length."""
    return tuple(size // 3 for size in outputs.shape[1:])


def layers_of(network, images):
    """Every module that runs, containers too, with a neuron near the middle of its output."""
    neurons, handles = {}, []
    for name, module in network.named_modules():

        def note(module, args, outputs, name=name):
            neurons[name] = first_neurons(outputs)

        handles.append(module.register_forward_hook(note))
    with torch.no_grad():
        network(images)
    for handle in handles:
        handle.remove()
    return neurons


@pytest.mark.parametrize("name", ["alexnet", "vgg11"])
def test_equals_the_deconvnet_at_every_layer(networks, name):
    network, images = networks[name], make_images(name)
    mirror = Mirror(network, seed="one")
    worst = {}
    for layer, neuron in layers_of(network, images).items():
        found = mirror.project(images, layer, neuron)
        engine = captum_deconv.NeuronDeconvnet(network, network.get_submodule(layer))
        worst[layer] = relative_error(found, engine.attribute(images, neuron))
    assert len(worst) > 20
    assert max(worst.values()) < TOLERANCE, worst


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("alexnet", "features.10"),
        ("alexnet", "classifier.6"),
        ("vgg11", "features"),
        ("vgg11_bn", "features.15"),
        ("vgg11_bn", "classifier.3"),
    ],
)
def test_follows_each_rule(networks, name, layer, rule):
    network, images = networks[name], make_images(name)
    neuron = layers_of(network, images)[layer]
    neuron = (slice(1, None, 2), *[slice(None)] * len(neuron[1:]))  # half the channels, whole

    def select(outputs):
        return outputs[:, 1::2].flatten(1).sum(1)

    expected = project_by_autograd(network, images, layer, select, rule)
    found = Mirror(network, seed="one", **RULES[rule]).project(images, layer, neuron)
    assert relative_error(found, expected) < TOLERANCE
    # Control: another rule's projection is told apart.
    other = Mirror(network, seed="one", **RULES["gradient" if rule == "linear" else "linear"])
    assert relative_error(other.project(images, layer, neuron), expected) > 1e-3


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("layer", LEAVES)
def test_mirrors_a_chain_with_a_bit_of_everything(chain, inputs, layer, rule):
    def select(outputs):
        return outputs.flatten(1)[:, ::7].sum(1)

    # The reference has a rectifier in each place. Of one that is used three times the last counts.
    last = "8" if layer == "0.1" else layer
    expected = project_by_autograd(chain, inputs, last, select, rule)
    found = Mirror(chain, seed="one", **RULES[rule]).project(inputs, layer, select)
    assert relative_error(found, expected) < TOLERANCE


# ---- Switches ----


def pooled(kernel, stride):
    """A convolution, a pooling that overlaps or not, and a convolution, on which to differ."""
    torch.manual_seed(5)
    layers = nn.Conv2d(3, 6, 3), nn.ReLU(), nn.MaxPool2d(kernel, stride), nn.Conv2d(6, 4, 3)
    return nn.Sequential(*layers).double().eval()


WHOLE = (slice(None), slice(None), slice(None))


def test_overwriting_is_the_adjoint_where_windows_do_not_overlap(inputs):
    model = pooled(2, 2)
    accumulated = Mirror(model).project(inputs, "3", WHOLE)
    assert torch.equal(Mirror(model, unpool="overwrite").project(inputs, "3", WHOLE), accumulated)


def test_overwriting_is_not_the_adjoint_where_windows_overlap(inputs):
    model = pooled(3, 2)
    accumulated = Mirror(model).project(inputs, "3", WHOLE)
    overwritten = Mirror(model, unpool="overwrite").project(inputs, "3", WHOLE)
    difference = ((overwritten - accumulated).norm() / accumulated.norm()).item()
    assert 0.3 < difference < 1  # 0.571 when written


def test_overwriting_alexnet_is_not_the_deconvnet(networks):
    """The control of the test above: with the wrong unpooling it must not hold."""
    network, images = networks["alexnet"], make_images("alexnet")
    engine = captum_deconv.NeuronDeconvnet(network, network.features[10])
    wrong = Mirror(network, unpool="overwrite", seed="one").project(images, "features.10", WHOLE)
    assert relative_error(wrong, engine.attribute(images, WHOLE)) > 0.1


@pytest.mark.parametrize(
    ("pool", "shape"),
    [
        (nn.MaxPool1d(3, 1, padding=1), (2, 3, 17)),
        (nn.MaxPool2d(3, 2), (2, 3, 17, 15)),
        (nn.MaxPool2d(3, 2, padding=1, ceil_mode=True), (2, 3, 16, 14)),
        (nn.MaxPool3d(3, 2), (2, 3, 7, 9, 7)),
    ],
)
def test_overwriting_is_max_unpool(pool, shape):
    torch.manual_seed(6)
    x = torch.randn(shape, dtype=torch.float64)
    dimensions = len(shape) - 2
    max_pool = getattr(F, f"max_pool{dimensions}d")
    settings = pool.kernel_size, pool.stride, pool.padding, pool.dilation, pool.ceil_mode
    values, switches = max_pool(x, *settings, return_indices=True)
    signal = torch.randn_like(values)
    # MaxUnpool keeps the last writer too, on a CPU, where each map is written by one thread.
    unpool = getattr(F, f"max_unpool{dimensions}d")
    expected = unpool(signal, switches, pool.kernel_size, pool.stride, pool.padding, shape)
    found = Mirror(pool, unpool="overwrite", seed="one").project(x, "", contract_with(signal))
    assert torch.equal(found, expected)
    # Control: several windows do share a maximum here.
    assert not torch.equal(Mirror(pool, seed="one").project(x, "", contract_with(signal)), expected)


# ---- Seeds, selectors, stops, normalisation ----


def test_the_activation_scales_its_own_projection(chain, inputs):
    """A single seed `a` gives `a` times the projection of one: every rule is positively linear."""
    activation = chain[:2](inputs)[:, 1, 4, 4]
    assert (activation > 0).all()
    one = Mirror(chain, seed="one").project(inputs, chain[1], (1, 4, 4))
    own = Mirror(chain).project(inputs, chain[1], (1, 4, 4))
    # Scaling at the top or at the bottom rounds differently.
    assert relative_error(own, one * activation.reshape(-1, 1, 1, 1)) < TOLERANCE
    assert relative_error(own, one) > 1e-3


def test_slices_and_functions_select_what_they_say(chain, inputs):
    mirror = Mirror(chain)
    block = mirror.project(inputs, "3", (slice(2, 5), 1, slice(None)))
    assert torch.equal(mirror.project(inputs, "3", lambda a: a[:, 2:5, 1].sum((1, 2))), block)
    assert torch.equal(mirror.project(inputs, "10", (-1,)), mirror.project(inputs, "10", 3))
    strongest = mirror.project(inputs, "3", lambda a: a[:, 2].amax((1, 2)))
    place = chain[:4](inputs)[0, 2].argmax().item()
    assert torch.equal(strongest[:1], mirror.project(inputs[:1], "3", (2, place // 5, place % 5)))


def test_seed_of_an_in_place_rectifiers_input_is_the_value_before(chain, inputs):
    """Layer "0.0" is overwritten by the rectifier after it; its own activation is what counts."""
    seed = Mirror(chain).reconstructions(inputs, "0.0", (0, 0, 0))[0].signal
    assert torch.equal(seed[:, 0, 0, 0], chain[0][0](inputs)[:, 0, 0, 0])
    assert (seed < 0).any()
    assert seed.count_nonzero() == len(inputs)


def test_every_stop_on_the_way_down_is_the_projection_of_what_lies_above(chain, inputs):
    stops = Mirror(chain).reconstructions(inputs, "3", (2, 1, 1))
    assert [stop.name for stop in stops] == ["3", "3", "0.1", "2.0", "1", "0.2", "0.1", "0.0"]
    signals = [chain[:4](inputs), chain[:3](inputs), chain[2][0](chain[:2](inputs))]
    assert [stop.signal.shape for stop in stops[:3]] == [signal.shape for signal in signals]
    assert torch.equal(stops[-1].signal, Mirror(chain).project(inputs, "3", (2, 1, 1)))
    # From any stop on, the rest of the way is a projection of its own.
    below = Mirror(chain, seed="one").project(inputs, "1", contract_with(stops[3].signal))
    above = Mirror(chain).reconstructions(inputs, "3", (2, 1, 1))[4].signal
    part = Mirror(chain[1], seed="one").project(
        chain[0](inputs), "", contract_with(stops[3].signal)
    )
    assert torch.equal(part, above)
    assert torch.equal(below, stops[-1].signal)


def test_skipping_the_response_norm_leaves_it_out(chain, inputs):
    torch.manual_seed(7)
    norm = nn.LocalResponseNorm(5, alpha=1.0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), norm, nn.Conv2d(8, 4, 3)).double()
    without = nn.Sequential(model[0], model[2])
    skipped = Mirror(model, normalization="skip", seed="one").project(inputs, "2", WHOLE)
    assert torch.equal(skipped, Mirror(without, seed="one").project(inputs, "1", WHOLE))
    assert relative_error(Mirror(model, seed="one").project(inputs, "2", WHOLE), skipped) > 0.1


def test_keeps_dtype_and_runs_wherever_the_user_is(chain, inputs):
    single = copy.deepcopy(chain).float()
    expected = Mirror(single).project(inputs.float(), "10", 1)
    assert expected.dtype == torch.float32
    assert not expected.requires_grad
    for mode in (torch.no_grad, torch.inference_mode, torch.enable_grad):
        with mode():
            assert torch.equal(Mirror(single).project(inputs.float(), "10", 1), expected)
    with torch.inference_mode():
        made_there = inputs.float().clone()
        strongest = Mirror(single).project(made_there, "10", lambda a: a[:, 1])
    assert torch.equal(strongest, expected)
    # Rounding of float32 through five layers, against the same in float64.
    assert relative_error(expected.double(), Mirror(chain).project(inputs, "10", 1)) < 1e-4


# ---- What is no chain, and what is no request ----


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


@pytest.mark.parametrize(
    "function", [lambda x: F.dropout(x, training=False), torch.clone, lambda x: x.view(x.shape)]
)
def test_what_changes_nothing_may_stand_between_modules(function, inputs):
    model = Between(function).double()
    found = Mirror(model, rectify=False, seed="one").project(inputs, model.last, (0, 1, 1))
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

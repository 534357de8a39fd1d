"""Chains to mirror, their operators, and projections by autograd to hold them against."""

import copy
from functools import partial

import pytest
import torch
from torch import nn

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

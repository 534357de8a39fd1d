"""The libraries, each called as its own documentation calls it, in one spelling.

A class here imports its library when it is made, so this module loads without any of them.
``attribute`` is the usage that the library's documentation shows first; ``again`` is another way to
the same numbers that it documents, or that its own parts make: a cell that condemns a library is
checked with both.

None of the classes cleans up: what a library leaves behind is part of what is measured.
"""

from collections.abc import Callable, Iterable, Iterator
from importlib import import_module
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

Inputs = tuple[Tensor, ...]
Selector = Callable[[Tensor], Tensor]

GRADIENT, GUIDED, DECONVNET = METHODS = ("input_gradient", "guided_backprop", "deconvnet")


class CannotError(Exception):
    """The library does not offer what was asked for."""


class Peer:
    """What is asked of each of them; what one does not define, it cannot do.

    Attributes:
        requirements: For ``pip install --no-deps``; the first names the library's own release.
        methods: Of ``METHODS``, those that it offers.
        batches: Whether a call answers for every example of a batch.
        note: How it is called, where its own signature leaves that open.
    """

    requirements: ClassVar[tuple[str, ...]] = ()
    methods: ClassVar[tuple[str, ...]] = METHODS
    batches: ClassVar[bool] = True
    note: ClassVar[str] = ""

    def attribute(self, method: str, model: Any, inputs: Inputs, target: int) -> Inputs:
        """Return the attribution of an output to each of the inputs."""
        raise CannotError

    def again(self, method: str, model: Any, inputs: Inputs, target: int) -> Inputs:
        """Return the same by another documented way."""
        return self.attribute(method, model, inputs, target)

    def all_methods(self, model: nn.Module, inputs: Inputs, target: int) -> object:
        """Return all three methods' attributions."""
        if self.methods != METHODS:
            raise CannotError
        return [self.attribute(method, model, inputs, target) for method in METHODS]

    def targets(self, model: nn.Module, inputs: Inputs, targets: Iterable[int]) -> Iterator[object]:
        """Yield guided backprop of one target after another."""
        return (self.attribute(GUIDED, model, inputs, target) for target in targets)

    def neurons(
        self, model: nn.Module, layer: str, inputs: Inputs, selectors: Iterable[Selector]
    ) -> Iterator[object]:
        """Yield guided backprop of one neuron of a layer after another."""
        raise CannotError

    def projections(
        self, model: nn.Module, layer: str, images: Tensor, channels: Iterable[int]
    ) -> Iterator[object]:
        """Yield guided backprop of all images, by one channel's strongest neuron after another."""
        return self.neurons(model, layer, (images,), map(strongest, channels))


class Ours(Peer):
    """``captum_deconv``."""

    def __init__(self) -> None:
        self.package = import_module("captum_deconv")
        names = ("InputGradient", "GuidedBackprop", "Deconvnet")
        self.kinds = dict(zip(METHODS, (getattr(self.package, n) for n in names), strict=True))

    def attribute(self, method: str, model: Any, inputs: Inputs, target: int) -> Inputs:
        return self.kinds[method](model).attribute(inputs, target)

    def again(self, method: str, model: Any, inputs: Inputs, target: int) -> Inputs:
        return self.package.compare(model, inputs, target)[method]

    def all_methods(self, model: nn.Module, inputs: Inputs, target: int) -> object:
        return self.package.compare(model, inputs, target)

    def targets(self, model: nn.Module, inputs: Inputs, targets: Iterable[int]) -> Iterator[object]:
        return self.kinds[GUIDED](model).attribute_each(inputs, targets)

    def neurons(
        self, model: nn.Module, layer: str, inputs: Inputs, selectors: Iterable[Selector]
    ) -> Iterator[object]:
        method = self.package.NeuronGuidedBackprop(model, layer)
        return method.attribute_each(inputs, selectors)

    def projections(
        self, model: nn.Module, layer: str, images: Tensor, channels: Iterable[int]
    ) -> Iterator[object]:
        features = import_module("captum_deconv.features")
        gallery = import_module("captum_deconv.gallery")
        data, chosen = list(images), list(channels)
        index = features.scan(model, layer, data, k=len(data), progress=False)
        how = {"channels": chosen, "method": GUIDED, "seed": "one"}
        return (gallery.project(index, model, data, **how) for _ in range(1))


class Captum(Peer):
    """Captum's classes; again: its neuron classes, the neuron being the model's output."""

    def __init__(self) -> None:
        self.attr = import_module("captum.attr")

    def attribute(self, method: str, model: Any, inputs: Inputs, target: int) -> Inputs:
        if method == GRADIENT:
            return self.attr.Saliency(model).attribute(inputs, target, abs=False)
        name = {GUIDED: "GuidedBackprop", DECONVNET: "Deconvolution"}[method]
        return getattr(self.attr, name)(model).attribute(inputs, target)

    def again(self, method: str, model: Any, inputs: Inputs, target: int) -> Inputs:
        whole = nn.Sequential(model) if len(inputs) == 1 else _Around(model)
        kind = {
            GRADIENT: "NeuronGradient",
            GUIDED: "NeuronGuidedBackprop",
            DECONVNET: "NeuronDeconvolution",
        }[method]
        return getattr(self.attr, kind)(whole, next(whole.children())).attribute(inputs, (target,))

    def neurons(
        self, model: nn.Module, layer: str, inputs: Inputs, selectors: Iterable[Selector]
    ) -> Iterator[object]:
        method = self.attr.NeuronGuidedBackprop(model, model.get_submodule(layer))
        return (method.attribute(inputs, selector) for selector in selectors)


class _Around(nn.Module):
    """A model in a module that hands on several inputs."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, *inputs: Tensor) -> Tensor:
        """Return what the model returns."""
        return self.model(*inputs)


class Zennit(Peer):
    """``Gradient`` with a composite; again: the composite's context and ``torch.autograd``.

    Its attributor takes one input; of several, only the context remains.
    """

    requirements = ("zennit==0.5.1",)
    note = "of several inputs by its composite's context, since its attributor takes one"

    def __init__(self) -> None:
        self.attribution = import_module("zennit.attribution")
        self.composites = import_module("zennit.composites")

    def _composite(self, method: str) -> Any:
        kinds = {GUIDED: "GuidedBackprop", DECONVNET: "DeconvNet"}
        return getattr(self.composites, kinds[method])() if method in kinds else None

    def attribute(self, method: str, model: Any, inputs: Inputs, target: int) -> Inputs:
        if len(inputs) > 1:
            return self.again(method, model, inputs, target)
        with self.attribution.Gradient(model, self._composite(method)) as attributor:
            return (attributor(*inputs, lambda output: one_hot(output, target))[1],)

    def again(self, method: str, model: Any, inputs: Inputs, target: int) -> Inputs:
        leaves = tuple(tensor.requires_grad_() for tensor in inputs)
        composite = self._composite(method)
        if composite is None:
            output = model(*leaves)
            return torch.autograd.grad(output, leaves, one_hot(output, target))
        with composite.context(model) as modified:
            output = modified(*leaves)
            return torch.autograd.grad(output, leaves, one_hot(output, target))


class GradCam(Peer):
    """``GuidedBackpropReLUModel``; again: its own ReLU put in by its own function.

    It returns the first example of a batch, as a NumPy array (height, width, channels).
    """

    requirements = ("grad-cam==1.5.7", "ttach")
    methods = (GUIDED,)
    batches = False
    note = "the array that it returns, (height, width, channels), is put back into torch's order"

    def __init__(self) -> None:
        self.package = import_module("pytorch_grad_cam")
        self.layers = import_module("pytorch_grad_cam.utils.find_layers")

    def attribute(self, method: str, model: Any, inputs: Inputs, target: int) -> Inputs:
        if len(inputs) > 1:
            raise CannotError
        found = self.package.GuidedBackpropReLUModel(model, inputs[0].device)(inputs[0], target)
        return (torch.from_numpy(found.transpose(2, 0, 1).copy())[None],)

    def again(self, method: str, model: Any, inputs: Inputs, target: int) -> Inputs:
        rule = import_module("pytorch_grad_cam.guided_backprop").GuidedBackpropReLUasModule()
        self.layers.replace_all_layer_type_recursive(model, nn.ReLU, rule)
        leaves = tuple(tensor.requires_grad_() for tensor in inputs)
        return torch.autograd.grad(model(*leaves)[0, target], leaves)


class TorchRay(Peer):
    """``guided_backprop(…)`` with the signed gradient; again: its context, by hand.

    By default it returns the largest absolute value over the channels.
    """

    requirements = ("torchray==1.0.0.2", "importlib_resources")
    note = (
        "with `gradient_to_saliency=lambda x: x.grad`, for signed values of each channel; of "
        "several inputs by its context, since its function takes one"
    )

    def __init__(self) -> None:
        self.modules = {
            GRADIENT: import_module("torchray.attribution.gradient"),
            GUIDED: import_module("torchray.attribution.guided_backprop"),
            DECONVNET: import_module("torchray.attribution.deconvnet"),
        }
        self.common = import_module("torchray.attribution.common")

    def attribute(self, method: str, model: Any, inputs: Inputs, target: int) -> Inputs:
        if len(inputs) > 1:
            return self.again(method, model, inputs, target)
        name = "gradient" if method == GRADIENT else method
        call = getattr(self.modules[method], name)
        return (call(model, *inputs, target, gradient_to_saliency=lambda x: x.grad),)

    def again(self, method: str, model: Any, inputs: Inputs, target: int) -> Inputs:
        contexts = {GUIDED: "GuidedBackpropContext", DECONVNET: "DeConvNetContext"}
        module = self.modules[method] if method in contexts else self.common
        leaves = tuple(tensor.requires_grad_() for tensor in inputs)
        with getattr(module, contexts.get(method, "NullContext"))():
            output = model(*leaves)
            output.backward(self.common.get_backward_gradient(output, [target] * len(output)))
        return tuple(leaf.grad for leaf in leaves)


class FlashTorch(Peer):
    """``Backprop(model).calculate_gradients``; again: what ``visualize`` returns.

    It answers for the likeliest class, whatever is asked, and for the first example.
    """

    requirements = ("flashtorch==0.1.3", "importlib_resources")
    methods = (GRADIENT, GUIDED)
    batches = False
    note = (
        "it answers for the likeliest class only, so that is the target for all; its guided "
        "backprop multiplies by the rectifier's output, where the paper has 0 or 1"
    )

    def __init__(self) -> None:
        self.saliency = import_module("flashtorch.saliency")

    def attribute(self, method: str, model: Any, inputs: Inputs, target: int) -> Inputs:
        if len(inputs) > 1:
            raise CannotError
        (image,) = inputs
        backprop = self.saliency.Backprop(model)
        guided = method == GUIDED
        return (backprop.calculate_gradients(image.requires_grad_(), target, guided=guided)[None],)

    def again(self, method: str, model: Any, inputs: Inputs, target: int) -> Inputs:
        plots = import_module("matplotlib.pyplot")
        backprop = self.saliency.Backprop(model)
        found = backprop.visualize(
            inputs[0].requires_grad_(), target, method == GUIDED, return_output=True
        )
        plots.close("all")
        return (found[0][None],)

    def targets(self, model: nn.Module, inputs: Inputs, targets: Iterable[int]) -> Iterator[object]:
        raise CannotError


class Saliency(Peer):
    """PAIR's ``GradientSaliency``; the gradient itself is the user's function, as in its README.

    Its guided backprop is for TensorFlow 1 only.
    """

    requirements = ("saliency==0.2.1",)
    methods = (GRADIENT,)
    batches = False
    note = "the gradient is taken by a function that the user writes; guided backprop is for TF 1"

    def __init__(self) -> None:
        self.core = import_module("saliency.core")

    def attribute(self, method: str, model: Any, inputs: Inputs, target: int) -> Inputs:
        if len(inputs) > 1:
            raise CannotError

        def call_model(
            images: np.ndarray, call_model_args: Any = None, expected_keys: Any = None
        ) -> dict[str, np.ndarray]:
            leaf = torch.from_numpy(images).requires_grad_()
            gradient = torch.autograd.grad(model(leaf)[:, target].sum(), leaf)[0]
            return {self.core.INPUT_OUTPUT_GRADIENTS: gradient.numpy()}

        mask = self.core.GradientSaliency().GetMask(inputs[0][0].numpy(), call_model)
        return (torch.from_numpy(mask)[None],)


class Lucent(Peer):
    """Pictures by optimisation; none of the three methods."""

    requirements = ("torch-lucent==0.1.8",)
    methods = ()

    def __init__(self) -> None:
        import_module("lucent.optvis")


class Bare(Peer):
    """torch alone, the gradient whatever the method: what a time is measured against."""

    def attribute(self, method: str, model: Any, inputs: Inputs, target: int) -> Inputs:
        leaves = tuple(tensor.detach().clone().requires_grad_() for tensor in inputs)
        return torch.autograd.grad(model(*leaves)[:, target].sum(), leaves)

    def all_methods(self, model: nn.Module, inputs: Inputs, target: int) -> object:
        return [self.attribute(method, model, inputs, target) for method in METHODS]

    def neurons(
        self, model: nn.Module, layer: str, inputs: Inputs, selectors: Iterable[Selector]
    ) -> Iterator[object]:
        return (self._neuron(model, layer, inputs, selector) for selector in selectors)

    def _neuron(self, model: nn.Module, layer: str, inputs: Inputs, selector: Selector) -> Inputs:
        leaves = tuple(tensor.detach().clone().requires_grad_() for tensor in inputs)
        seen: list[Tensor] = []
        keep = model.get_submodule(layer).register_forward_hook(lambda *call: seen.append(call[2]))
        try:
            model(*leaves)
        finally:
            keep.remove()
        return torch.autograd.grad(selector(seen[0]).sum(), leaves)


LIBRARIES: dict[str, type[Peer]] = {
    "captum-deconv": Ours,
    "captum": Captum,
    "zennit": Zennit,
    "grad-cam": GradCam,
    "torchray": TorchRay,
    "flashtorch": FlashTorch,
    "saliency": Saliency,
    "torch-lucent": Lucent,
}
"""By the names that PyPI has them under."""


def strongest(channel: int) -> Selector:
    """Return the selector of a channel's largest activation in each example."""
    return lambda activations: activations[:, channel].flatten(1).amax(1)


def one_hot(output: Tensor, target: int) -> Tensor:
    """Return ones at a target and zeros elsewhere, in the shape of an output ``(N, classes)``."""
    chosen = torch.zeros_like(output)
    chosen[:, target] = 1
    return chosen

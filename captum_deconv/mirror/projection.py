"""The deconvnet as a whole: record the chain on the way up, go down through its mirror image."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple, TypeAlias, get_args

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from captum_deconv.mirror.chain import Ascent
from captum_deconv.mirror.transposes import Normalization, Options, Unpool

NeuronSelector: TypeAlias = int | tuple[int | slice, ...] | Callable[[Tensor], Tensor]
Seed = Literal["activation", "one"]


class Reconstruction(NamedTuple):
    """One stop on the way down.

    Attributes:
        name: The dotted name of the module just passed; for the first stop, of the layer itself.
        signal: The signal below that module, shaped like its input; for the first stop the seed,
            shaped like the layer's output.
    """

    name: str
    signal: Tensor


class Mirror:
    """A chain of modules, and the deconvnet that mirrors it.

    What a rectifier passes on is decided by two switches, and their four settings are the three
    classic methods and the linear map without any rectifier (`x` is the rectifier's input):

    ===========  =================  ==============================  =======================
    `rectify`    `forward_masks`    passed on                       method
    ===========  =================  ==============================  =======================
    True         False (default)    `max(R, 0)`                     deconvnet
    False        True (default)     `R * 1[x > 0]`                  input gradient
    True         True               `max(R, 0) * 1[x > 0]`          guided backprop
    False        False              `R`                             linear, no rectifier
    ===========  =================  ==============================  =======================

    A chain is a model in which each module takes what the one before it returned, up to a
    flattening or reshaping. The modules may be convolutions, ReLU and ReLU6, max, average and
    adaptive average pooling, batch norm and dropout in evaluation mode, local response norm,
    linear, flatten and identity, in any nesting and in 1, 2 or 3 dimensions. AlexNet and VGG are
    such chains.

    The model and the inputs are the same after a call as before it, whatever happened in it.

    Args:
        model: The chain. Whether it is one shows when it runs.
        unpool: What becomes of two maxima that came from the same place, which overlapping pooling
            windows bring about: "accumulate" adds them and is the adjoint of max-pooling,
            "overwrite" keeps the last in row-major order, as `nn.MaxUnpool2d` does on a CPU.
        rectify: Whether a rectifier keeps only what is positive in the signal from above.
        forward_masks: Whether a rectifier lets through only where its own input was positive (for
            ReLU6, below six too). None means the opposite of `rectify`.
        normalization: Whether local response norm goes back through the transpose of its Jacobian
            ("adjoint") or is left out, as in the paper ("skip"). Batch norm in evaluation mode
            scales channels by constants, and goes back through its scale in either case.
        seed: What stands in the selected places at the start, all others being zero: the
            "activation" there, as in the paper, or "one".

    Raises:
        TypeError: `model` is no `nn.Module`.
        ValueError: An option is none of those above, or the model is scripted, compiled or not
            initialised yet.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        unpool: Unpool = "accumulate",
        rectify: bool = True,
        forward_masks: bool | None = None,
        normalization: Normalization = "adjoint",
        seed: Seed = "activation",
    ) -> None:
        if not isinstance(model, nn.Module):
            raise TypeError(f"model must be an nn.Module, not {type(model).__name__}")
        for option, value, choices in (
            ("unpool", unpool, get_args(Unpool)),
            ("normalization", normalization, get_args(Normalization)),
            ("seed", seed, get_args(Seed)),
        ):
            if value not in choices:
                raise ValueError(f"{option} must be one of {choices}, not {value!r}")
        for name, module in model.named_modules():
            if isinstance(module, torch.jit.ScriptModule) or _is_compiled(module):
                raise ValueError(
                    f"{name!r} ({type(module).__name__}) is scripted or compiled, which hides its "
                    "modules: pass the model it was made from"
                )
        # Running a lazy module would initialise it, and so change the user's model.
        lazy = [name for name, parameter in model.named_parameters() if is_lazy(parameter)]
        if lazy:
            raise ValueError(f"{lazy[0]!r} is not initialised yet: run the model once first")
        self.model = model
        masks = not rectify if forward_masks is None else forward_masks
        self.options = Options(unpool, rectify, masks, normalization)
        self.seed = seed

    def project(
        self, inputs: Tensor, layer: nn.Module | str, neuron_selector: NeuronSelector
    ) -> Tensor:
        """Carry selected activations of a layer down to the inputs.

        Args:
            inputs: What the model takes, `(N, ...)`, floating point.
            layer: A module of the chain, or its dotted name. Where it runs twice, the last counts.
            neuron_selector: Which of the layer's outputs `(N, ...)` to start from, in each example:
                an index for a layer of one dimension; a tuple of an index or slice for each
                dimension, where all that slices select are seeds at once; or a function from the
                layer's outputs to one value per example, whose derivative weighs the seeds. An
                index beyond the layer's range is an IndexError.

        Returns:
            The projection, shaped like `inputs`. Errors are those of `reconstructions`.
        """
        return self.reconstructions(inputs, layer, neuron_selector)[-1].signal

    def reconstructions(
        self, inputs: Tensor, layer: nn.Module | str, neuron_selector: NeuronSelector
    ) -> list[Reconstruction]:
        """Carry selected activations of a layer down, and keep every stop on the way.

        Args:
            inputs: As for `project`.
            layer: As for `project`.
            neuron_selector: As for `project`.

        Returns:
            The seed first, then the signal below each module from the layer downwards. The last
            is the projection, shaped like `inputs`.

        Raises:
            TypeError: `inputs` is no floating-point tensor, `layer` neither module nor name, or
                `neuron_selector` none of its kinds.
            ValueError: The model is no chain (the message names the first module that cannot be
                mirrored), a module is in training mode that must not be, the layer is not in the
                model or does not run, `inputs` are empty, or `neuron_selector` does not give one
                value per example.
        """
        if not isinstance(inputs, Tensor) or not inputs.is_floating_point():
            kind = inputs.dtype if isinstance(inputs, Tensor) else type(inputs).__name__
            raise TypeError(f"inputs must be a floating-point tensor, not {kind}")
        if inputs.dim() == 0 or inputs.numel() == 0:
            raise ValueError(f"inputs must be a batch that is not empty, not {tuple(inputs.shape)}")
        name, module = _find_layer(self.model, layer)
        with torch.inference_mode(False), torch.no_grad():
            ascent = Ascent(self.model, self.options, name, module)
            ascent.run(inputs.detach().clone())
            steps, activation = ascent.below_layer(len(inputs))
            signal = _plant_seed(activation, neuron_selector)
            if self.seed == "activation":
                signal = signal * activation
            stops = [Reconstruction(name, signal)]
            for step in reversed(steps):
                signal = step.go_back(signal.reshape(step.output_shape))
                stops.append(Reconstruction(step.name, signal))
            # A model may reshape its inputs before the first module.
            stops[-1] = stops[-1]._replace(signal=signal.reshape(inputs.shape))
        return stops


def _is_compiled(module: nn.Module) -> bool:
    # `torch.compile(model)` wraps the model, `model.compile()` marks it. Asking for the wrapper's
    # type would import the compiler.
    return hasattr(module, "_orig_mod") or module._compiled_call_impl is not None


def _find_layer(model: nn.Module, layer: nn.Module | str) -> tuple[str, nn.Module]:
    if isinstance(layer, str):
        modules = dict(model.named_modules(remove_duplicate=False))
        if layer not in modules:
            raise ValueError(f"the model has no layer {layer!r}; it has {', '.join(modules)}")
        return layer, modules[layer]
    if not isinstance(layer, nn.Module):
        raise TypeError(f"layer must be a module or its name, not {type(layer).__name__}")
    for name, module in model.named_modules():
        if module is layer:
            return name, module
    raise ValueError(f"the layer {type(layer).__name__} is not part of the model")


def _plant_seed(activation: Tensor, selector: NeuronSelector) -> Tensor:
    """Give one in the selected places, zero elsewhere; for a callable, its derivative."""
    examples = len(activation)
    if isinstance(selector, int | tuple):
        index = (slice(None), *(selector if isinstance(selector, tuple) else (selector,)))
        if not all(isinstance(entry, int | slice) for entry in index):
            raise TypeError(f"a neuron_selector tuple holds int and slice only, not {selector}")
        if len(index) > activation.dim():
            raise IndexError(f"{selector} is too long for layer outputs {tuple(activation.shape)}")
        if (
            not any(isinstance(entry, slice) for entry in index[1:])
            and len(index) != activation.dim()
        ):
            raise ValueError(
                f"neuron_selector {selector} must select one value per example of a layer whose "
                f"outputs are {tuple(activation.shape)}: give each dimension an index or a slice"
            )
        seed = torch.zeros_like(activation)
        seed[index] = 1
        return seed
    if not callable(selector):
        raise TypeError(
            f"neuron_selector must be an int, a tuple or a callable, not {type(selector).__name__}"
        )
    # The user's function alone is differentiated here: the way down has not begun.
    with torch.enable_grad():
        leaf = activation.clone().requires_grad_()
        values = selector(leaf)
        if not isinstance(values, Tensor) or values.shape not in ((examples,), (examples, 1)):
            got = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
            raise ValueError(f"neuron_selector must return {examples} values, one each, not {got}")
        if not values.requires_grad:
            raise ValueError("what neuron_selector returns does not depend on the layer's output")
        return torch.autograd.grad(values.sum(), leaf)[0]

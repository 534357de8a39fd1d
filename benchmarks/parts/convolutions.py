r"""Every distinct convolution of torchvision's models, at the input size that it sees there.

The models are built without weights and run once. All but detection run on the meta device, where a
tensor has a shape and no values, so that the largest takes a second and no memory. The quantised
builders are left out: their integer kernels have no gradient and are no linear operators.

Example:
    >>> owners = harvest(["alexnet"])
    >>> print(next(iter(owners)))
    Conv2d 3->64 k11x11 s4x4 p2x2 @ 224x224
"""

import contextlib
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torchvision import models

LAYERS = (
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
)


@dataclass(frozen=True)
class Configuration:
    """A convolution and the spatial size of its input; its constructor's arguments by name."""

    layer: str
    in_channels: int
    out_channels: int
    kernel_size: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...] | str
    dilation: tuple[int, ...]
    groups: int
    padding_mode: str
    output_padding: tuple[int, ...]
    input_size: tuple[int, ...]

    def build(self, seed: int = 0) -> nn.Module:
        """Build the convolution, with seeded normal weights that keep a signal's scale."""
        settings = asdict(self)
        make = getattr(nn, settings.pop("layer"))
        del settings["input_size"]
        if "Transpose" not in self.layer:
            del settings["output_padding"]
        layer = make(**settings, bias=False, device="meta").to_empty(device="cpu")
        generator = torch.Generator().manual_seed(seed)
        fan_in = self.in_channels // self.groups * math.prod(self.kernel_size)
        with torch.no_grad():
            layer.weight.normal_(0, fan_in**-0.5, generator=generator)
        return layer

    def __str__(self) -> str:
        parts = [f"{self.layer} {self.in_channels}->{self.out_channels} k{_x(self.kernel_size)}"]
        parts += [f"s{_x(self.stride)}"] if set(self.stride) != {1} else []
        parts += [f"p{_x(self.padding)}"] if set(self.padding) != {0} else []
        parts += [f"d{_x(self.dilation)}"] if set(self.dilation) != {1} else []
        parts += [f"g{self.groups}"] if self.groups > 1 else []
        parts += [f"op{_x(self.output_padding)}"] if any(self.output_padding) else []
        parts += [self.padding_mode] if self.padding_mode != "zeros" else []
        return f"{' '.join(parts)} @ {_x(self.input_size)}"


def _x(size: Sequence[int] | str) -> str:
    return size if isinstance(size, str) else "x".join(str(n) for n in size)


def list_builders() -> list[str]:
    """List every torchvision model builder but the quantised ones."""
    return [name for name in models.list_models() if not name.startswith("quantized_")]


def harvest(names: Sequence[str]) -> dict[Configuration, list[str]]:
    """Find every distinct convolution of the named models and which models have it."""
    found: dict[Configuration, list[str]] = {}
    for name in names:
        for configuration in harvest_model(name):
            found.setdefault(configuration, []).append(name)
    return found


def harvest_model(name: str) -> list[Configuration]:
    """Run a model once, without weights, and record what each of its convolutions is given."""
    builder = models.get_model_builder(name)
    family = builder.__module__.split(".")[2]
    none: dict[str, Any] = {"weights": None}
    if family in ("detection", "segmentation"):
        none["weights_backbone"] = None
    # Detection decides by values what to run next, so it needs real ones; all others only shapes.
    device = "cpu" if family == "detection" else "meta"
    if name in ("googlenet", "inception_v3"):
        none["init_weights"] = False  # slow, and warned about
    with _WeightsOnMeta() if device == "meta" else contextlib.nullcontext():
        model = builder(**none).to(device)
    # In training mode the auxiliary classifiers run too.
    model.train(device == "meta")
    seen: dict[Configuration, None] = {}
    handles = [
        part.register_forward_pre_hook(lambda part, given: seen.setdefault(_record(part, given[0])))
        for part in model.modules()
        if isinstance(part, LAYERS)
    ]
    with torch.no_grad():
        model(*_make_inputs(name, family, model, device))
    for handle in handles:
        handle.remove()
    return list(seen)


class _WeightsOnMeta(TorchFunctionMode):
    """Puts what layers allocate for their weights on the meta device, and nothing else.

    Under `torch.device("meta")` the regnets cannot work out their widths, which they do in tensors.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Replace the device of `torch.empty`."""
        kwargs = kwargs or {}
        return func(*args, **(kwargs | {"device": "meta"} if func is torch.empty else kwargs))


def _record(part: Any, x: Tensor) -> Configuration:
    axes = len(part.kernel_size)
    return Configuration(
        next(layer.__name__ for layer in LAYERS if isinstance(part, layer)),
        part.in_channels,
        part.out_channels,
        part.kernel_size,
        part.stride,
        part.padding,
        part.dilation,
        part.groups,
        part.padding_mode,
        part.output_padding,
        tuple(x.shape[-axes:]),
    )


def _make_inputs(name: str, family: str, model: Any, device: str) -> list[Any]:
    """Make what the model was trained on: the sizes are those of its published weights."""
    if family == "detection":
        side = model.transform.min_size[-1]
        return [[torch.rand(3, side, side, generator=torch.Generator().manual_seed(0))]]
    if family == "optical_flow":
        frame = torch.empty(2, 3, 520, 960, device=device)
        return [frame, frame, 1]
    preset = models.get_model_weights(name).DEFAULT.transforms()
    if family == "segmentation":
        side = preset.resize_size[0]
        return [torch.empty(2, 3, side, side, device=device)]
    # vit_h_14 was published at 518, which its builder has to be told; without weights it is 224.
    sides = [model.image_size] if hasattr(model, "image_size") else list(preset.crop_size)
    crop = (sides[0], sides[-1])
    frames = (16,) if family == "video" else ()
    return [torch.empty(2, 3, *frames, *crop, device=device)]

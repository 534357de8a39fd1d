"""Every torchvision builder as a network that an attribution can be asked of.

Random weights, evaluation mode, float32, one example of the smallest size that the network takes,
and an output of one value per target:

- classification and video: the logits;
- segmentation: the mean over the pixels of each class's logits in ``"out"``;
- detection: the sum of everything that the network's heads return before it is turned into boxes
  (the class logits and box regressions; the RPN's objectness; the mask and keypoint logits). The
  detector runs whole: resizing, backbone, feature pyramid, proposals, RoIAlign, heads;
- optical flow: the mean over the pixels of each component of the flow between two images, after two
  updates.

Batch norms get the statistics of one random batch, since with those of a fresh network signals
vanish or explode over the depth. Layers that start at zero (a vision transformer's head) get small
random weights.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
import torchvision.models
from torch import Tensor, nn
from torchvision.models import detection, optical_flow, quantization, segmentation, video

KINDS = {
    "detection": detection,
    "segmentation": segmentation,
    "video": video,
    "optical flow": optical_flow,
}
"""torchvision's modules of builders; what is in none of them classifies images."""

# Image sizes where 64 does not do, and what a builder needs for it.
_SIZES = {
    "inception_v3": 96,
    "maxvit_t": 224,
    "ssd300_vgg16": 300,
    "ssdlite320_mobilenet_v3_large": 320,
}
_OPTIONS: dict[str, dict[str, Any]] = {
    "googlenet": {"init_weights": True},
    "inception_v3": {"init_weights": False},
    "maxvit_t": {"input_size": (224, 224)},
}
_CLIPS = {"mvit_v1_b": (16, 224), "mvit_v2_s": (16, 224), "s3d": (16, 224)}
_RCNN = {
    # No score is high in a random network, so every box is kept, and few of them suffice.
    "box_score_thresh": 0.0,
    "box_detections_per_img": 8,
    "rpn_pre_nms_top_n_test": 64,
    "rpn_post_nms_top_n_test": 32,
}


class Specimen(NamedTuple):
    """A network in evaluation mode, its inputs and the target to explain."""

    network: nn.Module
    inputs: tuple[Tensor, ...]
    target: int | None


class Segmenter(nn.Module):
    """The mean over the pixels of each class's logits, ``(N, classes)``."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, images: Tensor) -> Tensor:
        """Segment images ``(N, 3, H, W)``."""
        return self.inner(images)["out"].mean((2, 3))


class Detector(nn.Module):
    """The sum of what a detector's heads return for an image, ``(1,)``."""

    HEADS = (
        "head",
        "rpn.head",
        "roi_heads.box_predictor",
        "roi_heads.mask_predictor",
        "roi_heads.keypoint_predictor",
    )

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, image: Tensor) -> Tensor:
        """Detect in an image ``(1, 3, H, W)``, or in several, whose values are summed."""
        modules = dict(self.inner.named_modules())
        raw: list[Tensor] = []
        handles = [
            modules[name].register_forward_hook(lambda _, args, out: raw.extend(_tensors_in(out)))
            for name in self.HEADS
            if name in modules
        ]
        try:
            self.inner(list(image))
        finally:
            for handle in handles:
                handle.remove()
        return torch.stack([tensor.sum() for tensor in raw]).sum().reshape(1)


class FlowEstimator(nn.Module):
    """The mean over the pixels of the flow's two components, ``(N, 2)``."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """Estimate the flow between images ``(N, 3, H, W)``."""
        return self.inner(first, second, num_flow_updates=2)[-1].mean((2, 3))


def _tensors_in(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    else:
        for part in value.values() if isinstance(value, dict) else value:
            yield from _tensors_in(part)


def list_builders() -> dict[str, str]:
    """Return the kind of each builder by its name; those of quantised networks are left out.

    They compute in integers, through which no gradient leads.
    """
    quantized = set(torchvision.models.list_models(module=quantization))
    kinds = {
        name: kind
        for kind, module in KINDS.items()
        for name in torchvision.models.list_models(module=module)
    }
    return {
        name: kinds.get(name, "classification")
        for name in torchvision.models.list_models()
        if name not in quantized
    }


def build(name: str, seed: int = 0) -> Specimen:
    """Build a network with seeded random weights, and an example for it.

    Args:
        name: As torchvision lists it.
        seed: Of the weights, the statistics and the inputs.

    Returns:
        The specimen, on the CPU.
    """
    kind = list_builders()[name]
    torch.manual_seed(seed)
    inner = torchvision.models.get_model(name, weights=None, **_options(name, kind))
    wrapper = {
        "detection": Detector,
        "segmentation": Segmenter,
        "optical flow": FlowEstimator,
    }.get(kind)
    network = (wrapper(inner) if wrapper else inner).eval()
    _fill_empty_weights(network)
    _calibrate(network, _random_inputs(name, kind, examples=4))
    inputs = _random_inputs(name, kind, examples=1)
    return Specimen(network, inputs, _choose_target(name, kind, network, inputs))


def _choose_target(
    name: str, kind: str, network: nn.Module, inputs: tuple[Tensor, ...]
) -> int | None:
    if kind == "detection":
        return None
    if name.startswith("squeezenet"):
        # It rectifies its logits, and through one that is zero no gradient leads.
        with torch.no_grad():
            return int(network(*inputs).argmax())
    return 1


def _options(name: str, kind: str) -> dict[str, Any]:
    if kind in ("segmentation", "detection"):
        options: dict[str, Any] = {"weights_backbone": None}
        if "rcnn" in name:
            options |= _RCNN
        if kind == "detection" and not name.startswith("ssd"):
            options |= {"min_size": _size(name), "max_size": _size(name)}
        return options
    if name.startswith("vit"):
        return {"image_size": _size(name)}
    return _OPTIONS.get(name, {})


def _size(name: str) -> int:
    if name.startswith("vit"):
        return 2 * int(name.rpartition("_")[2])  # four patches
    if name.startswith(("fasterrcnn", "maskrcnn", "keypointrcnn", "retinanet", "fcos", "raft")):
        return 128
    return _SIZES.get(name, 64)


def _random_inputs(name: str, kind: str, examples: int) -> tuple[Tensor, ...]:
    if kind == "video":
        frames, size = _CLIPS.get(name, (8, 64))
        return (torch.randn(examples, 3, frames, size, size),)
    if kind == "detection":  # these normalise images of 0 to 1 themselves
        return (torch.rand(examples, 3, _size(name), _size(name)),)
    images = 2 if kind == "optical flow" else 1
    return tuple(torch.randn(examples, 3, _size(name), _size(name)) for _ in range(images))


def _fill_empty_weights(network: nn.Module) -> None:
    """Give random weights to layers that start at zero, such as a vision transformer's head."""
    for parameter in network.parameters():
        if parameter.dim() > 1 and not parameter.any():
            nn.init.normal_(parameter, std=0.02)


def _calibrate(network: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    """Give each batch norm the statistics of a batch."""
    norms = [m for m in network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    if norms:
        with _learning(norms), torch.no_grad():
            network(*inputs)


@contextmanager
def _learning(norms: list[nn.Module]) -> Iterator[None]:
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.train()
        norm.momentum = 1.0
    try:
        yield
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.eval()
            norm.momentum = momentum

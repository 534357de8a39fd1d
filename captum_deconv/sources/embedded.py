r"""A small trained network that comes with the package, so that there is something to look into.

Twenty photographs that scikit-image and scikit-learn ship are its twenty classes: shown a crop it
says which photograph that crop is from. It learned from the left 70 % of each, and tells 80 % of
720 crops from the right 30 %, of which it saw no pixel; chance is 5 %. The script
``benchmarks/train_embedded.py`` made every number in the files of weights, and
``benchmarks/results/embedded-training.json`` says what it measured and on what.

What it is good for: looking at. It is a chain of convolutions, rectifiers and max-pooling as in
AlexNet and VGG, so that every method here applies to it, ``captum_deconv.mirror`` too; its first
layer has learned edges in many directions and opposed colours, its second strokes, corners, curves
and patches of colour; it runs in milliseconds. That the first layer's filters are so clean is also
because its training asked for smooth filters and sparse responses. What it is not: a classifier of
anything else. A photograph it was not trained on gets one of the twenty names
all the same, and nothing about natural images at large follows from twenty of them.

    >>> import torch
    >>> from captum_deconv.sources import embedded
    >>> model = embedded.load()
    >>> model(torch.zeros(1, 3, 64, 64)).shape
    torch.Size([1, 20])
    >>> [name for name, _ in model.named_children()][:6]
    ['conv1', 'relu1', 'pool1', 'conv2', 'relu2', 'pool2']

The command line knows it as ``captum_deconv.sources.embedded:load``.
"""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import safe_open
from torch import Tensor, nn

if TYPE_CHECKING:
    from collections.abc import Callable

    from PIL import Image

CLASSES = (
    *("astronaut", "brick", "camera", "cell", "chelsea", "china", "clock", "coffee", "coins"),
    *("flower", "grass", "gravel", "hubble_deep_field", "immunohistochemistry", "moon"),
    *("motorcycle", "page", "retina", "rocket", "text"),
)
"""The photographs, in the order of the network's outputs: scikit-image's names for its own."""

MEAN = (0.5, 0.5, 0.5)
STD = (0.25, 0.25, 0.25)

WEIGHTS = Path(__file__).parent / "data" / "embedded.safetensors"
TRAINING = Path(__file__).parent / "data" / "embedded-training.safetensors"


class EmbeddedNetwork(nn.Sequential):
    """Four convolutions, each with its rectifier, and three max-poolings: no branch, no norm.

    Takes normalised RGB `(N, 3, H, W)`, at least 16 pixels each way (it learned from 64), and
    returns logits `(N, 20)` in the order of `CLASSES`. What a photograph shows in several places is
    averaged, so that whole photographs may be given as well as crops.

    `preprocess` and `categories` are what `captum_deconv.sources.models.load_model` asks a network
    for.

    Args:
        layers: What to chain instead, by name; all the layers, with random weights, if left out.
    """

    categories = CLASSES

    def __init__(self, layers: OrderedDict[str, nn.Module] | None = None) -> None:
        # A slice of a Sequential is made by handing its class the layers.
        super().__init__(self._draw_layers() if layers is None else layers)

    @staticmethod
    def _draw_layers() -> OrderedDict[str, nn.Module]:
        return OrderedDict(
            conv1=nn.Conv2d(3, 32, kernel_size=7, stride=2, padding=3),
            relu1=nn.ReLU(),
            pool1=nn.MaxPool2d(2),
            conv2=nn.Conv2d(32, 64, kernel_size=5, padding=2),
            relu2=nn.ReLU(),
            pool2=nn.MaxPool2d(2),
            conv3=nn.Conv2d(64, 96, kernel_size=3, padding=1),
            relu3=nn.ReLU(),
            conv4=nn.Conv2d(96, 192, kernel_size=3, padding=1),
            relu4=nn.ReLU(),
            pool4=nn.MaxPool2d(2),
            average=nn.AdaptiveAvgPool2d(1),
            flatten=nn.Flatten(),
            classify=nn.Linear(192, len(CLASSES)),
        )

    @staticmethod
    def preprocess(image: Image.Image) -> Tensor:
        """Turn a photograph into the network's input.

        Args:
            image: Any Pillow image; what is not RGB is converted.

        Returns:
            The central 224 x 224 pixels after the shorter side was resized to 256, normalised by
            `MEAN` and `STD`: `(3, 224, 224)`, between -2 and 2.
        """
        from torchvision import transforms

        # Resized no further down than to 256: the photographs were learned near their own size.
        steps = transforms.Compose(
            [
                transforms.Resize(256),
                transforms.CenterCrop(224),
                transforms.ToTensor(),
                transforms.Normalize(MEAN, STD),
            ]
        )
        prepared: Tensor = steps(image.convert("RGB"))
        return prepared


def prepare_tile() -> Callable[[Image.Image], Tensor]:
    """Return the network's preprocessing without its resizing: tiles have their size."""
    from torchvision import transforms

    steps: Callable[[Image.Image], Tensor] = transforms.Compose(
        [transforms.ToTensor(), transforms.Normalize(MEAN, STD)]
    )
    return steps


def load() -> EmbeddedNetwork:
    """Load the network with the weights it was shipped with.

    They are stored in half precision, in which its accuracy was measured, and used in float32.

    Returns:
        The network, in evaluation mode, on the CPU.
    """
    with safe_open(WEIGHTS, framework="pt") as file:
        state = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118
    network = _build_empty()
    network.load_state_dict(state, assign=True)
    return network.eval()


def list_checkpoints() -> tuple[int, ...]:
    """List the training steps at which the network's first layers were kept.

    Returns:
        The steps in ascending order; the last is the end of the training.
    """
    with safe_open(TRAINING, framework="pt") as file:
        return tuple(sorted({int(name.partition(".")[0]) for name in file.keys()}))  # noqa: SIM118


def load_checkpoint(step: int) -> nn.Sequential:
    """Load the network's first layers as they were during its training.

    Everything up to `relu3` was kept, the layers named as in the whole network, whose weights the
    last step's are.

    Args:
        step: One of `list_checkpoints()`.

    Returns:
        The chain from `conv1` to `relu3`, in evaluation mode, on the CPU: RGB `(N, 3, H, W)` to
        feature maps `(N, 96, H // 8, W // 8)`.

    Raises:
        ValueError: No weights were kept at this step.
    """
    prefix = f"{step}."
    with safe_open(TRAINING, framework="pt") as file:
        state = {
            name.removeprefix(prefix): file.get_tensor(name).float()
            for name in file.keys()  # noqa: SIM118
            if name.startswith(prefix)
        }
    if not state:
        kept = ", ".join(map(str, list_checkpoints()))
        raise ValueError(f"no weights were kept at step {step}; there are {kept}")
    children = list(_build_empty().named_children())
    end = [name for name, _ in children].index("relu3") + 1
    first = nn.Sequential(OrderedDict(children[:end]))
    first.load_state_dict(state, assign=True)
    return first.eval()


def _build_empty() -> EmbeddedNetwork:
    # On the meta device: no weights are drawn, so loading leaves the random state as it was.
    with torch.device("meta"):
        return EmbeddedNetwork()

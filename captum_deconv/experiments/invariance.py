r"""Move, enlarge and turn an image, and see how far its features go.

Figure 5 of Zeiler & Fergus 2013 (arXiv:1311.2901). With `T(v)` a vertical translation by `v`
pixels, a scaling by `v` or a rotation by `v` degrees, and `f_l` the feature vector of layer `l`,

    d_l(v) = |f_l(T(v) x) - f_l(x)|    (Euclidean),    P(v) = P(y | T(v) x),

with `y` the true class. The lower a layer, the faster `d_l` rises: "small transformations have a
dramatic effect in the first layer of the model, but a lesser impact at the top".

The image is transformed as the network takes it, about its middle, with bilinear interpolation, and
keeps its size. What comes in from beyond its border is one colour (mid-grey on the command line),
and what leaves it is gone.

Example:
    >>> import torch
    >>> from captum_deconv.sources import embedded
    >>> from captum_deconv.experiments import measure_invariance
    >>> image = torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(0))
    >>> found = measure_invariance(embedded.load(), image[None], ["relu1", "relu4"], steps=4)
    >>> found.curves["rotation"].values
    (0.0, 90.0, 180.0, 270.0)
    >>> found.curves["rotation"].distance.shape  # one image, two layers, four angles
    torch.Size([1, 2, 4])
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from captum_deconv.experiments import watching

UNITS = {
    "translation": "vertical translation, pixels",
    "scale": "scale",
    "rotation": "rotation, degrees",
}
_IDENTITY = {"translation": 0.0, "scale": 1.0, "rotation": 0.0}


@dataclass(frozen=True, eq=False)
class Curve:
    """What one kind of transformation does to ``N`` images.

    Attributes:
        values: How far each is transformed, ``V`` of them.
        distance: Of the feature vectors from those of the image as it is, ``(N, layers, V)``.
        probability: Of the class, ``(N, V)``, in [0, 1].
        pictures: The first image transformed: the first, the middle and the last one,
            ``(3, C, H, W)``.
    """

    values: tuple[float, ...]
    distance: Tensor
    probability: Tensor
    pictures: Tensor


@dataclass(frozen=True, eq=False)
class Invariance:
    """How features and classes change with an image.

    Attributes:
        layers: Dotted names.
        targets: The class of each image.
        curves: By kind: ``"translation"``, ``"scale"`` and ``"rotation"``.
    """

    layers: tuple[str, ...]
    targets: tuple[int, ...]
    curves: Mapping[str, Curve]

    def to_dict(self) -> dict[str, Any]:
        """Return the numbers, as JSON can hold them."""
        return {
            "layers": list(self.layers),
            "targets": list(self.targets),
            **{
                kind: {
                    "values": list(curve.values),
                    "distance": curve.distance.tolist(),
                    "probability": curve.probability.tolist(),
                }
                for kind, curve in self.curves.items()
            },
        }


def choose_values(height: int, steps: int | None = None) -> dict[str, tuple[float, ...]]:
    """Choose how far to transform: as the paper did, of images of 224 pixels.

    Args:
        height: The images'; they are moved by up to a little more than a quarter of it.
        steps: Values of each kind; 25, 17 and 36 where left out.

    Returns:
        By kind: translations both ways, scales from 1 to 1.8, and a full turn.
    """
    most = round(height * 60 / 224)
    translations = torch.linspace(-most, most, steps or 25).round()
    return {
        "translation": tuple(sorted({float(value) for value in translations} | {0.0})),
        "scale": tuple(round(float(value), 4) for value in torch.linspace(1, 1.8, steps or 17)),
        "rotation": tuple(360.0 * step / (steps or 36) for step in range(steps or 36)),
    }


def transform(image: Tensor, kind: str, value: float, fill: Tensor) -> Tensor:
    """Transform an image.

    Args:
        image: ``(C, H, W)``.
        kind: ``"translation"`` (downwards), ``"scale"`` or ``"rotation"`` (clockwise).
        value: By how much.
        fill: What comes in from beyond the border, ``(C,)``.

    Returns:
        ``(C, H, W)``; the image itself where the value is that of no change.
    """
    from torchvision.transforms import InterpolationMode
    from torchvision.transforms.v2 import functional

    if value == _IDENTITY[kind]:
        return image
    turned: Tensor = functional.affine(
        image,
        angle=value if kind == "rotation" else 0.0,
        translate=[0.0, value if kind == "translation" else 0.0],
        scale=value if kind == "scale" else 1.0,
        shear=[0.0, 0.0],
        interpolation=InterpolationMode.BILINEAR,
        fill=fill.tolist(),
    )
    return turned


def measure_invariance(
    model: nn.Module,
    images: Tensor,
    layers: Sequence[str],
    *,
    targets: Sequence[int] | None = None,
    values: Mapping[str, Sequence[float]] | None = None,
    steps: int | None = None,
    fill: float | Tensor = 0.0,
    batch_size: int = 16,
    report: Callable[[], None] | None = None,
) -> Invariance:
    """Measure how far features go when images are moved, enlarged and turned.

    Args:
        model: In evaluation mode; it stays as it is.
        images: As the model takes them, ``(N, C, H, W)``.
        layers: Dotted names, with or without space; one that is called several times counts with
            its last call.
        targets: Each image's class; the likeliest for the image as it is where left out.
        values: By kind how far to transform; as the paper did where left out.
        steps: Values of each kind, where ``values`` is left out.
        fill: What comes in from beyond the border, as the model takes it: a number, or ``(C,)``.
        batch_size: Images in one pass.
        report: Called after each image.

    Returns:
        The curves, on the CPU.

    Raises:
        ValueError: If the model has no such layer or is in train mode, a kind is unknown, a scale
            is not above zero, or there are not as many targets as images.
        IndexError: If there is no such class.
        TypeError: If the model returns anything but scores ``(N, classes)``.
    """
    if images.dim() != 4 or not len(images):
        raise ValueError(f"the images must be (N, C, H, W), not {tuple(images.shape)}")
    images = watching.prepare(model, images)
    chosen = choose_values(images.shape[2], steps) if values is None else dict(values)
    unknown = [kind for kind in chosen if kind not in UNITS]
    if unknown:
        raise ValueError(f"unknown transformation {unknown[0]!r}: choose from {', '.join(UNITS)}")
    if any(value <= 0 for value in chosen.get("scale", ())):
        raise ValueError("a scale must be above 0")
    if targets is not None and len(targets) != len(images):
        raise ValueError(f"there are {len(images)} images, and {len(targets)} targets")
    filling = torch.as_tensor(fill).to(images).expand(images.shape[1])
    seen: dict[str, Tensor] = {}

    def take(layer: str, output: Tensor) -> None:
        seen[layer] = output.detach().flatten(1).clone()

    def look(batch: Tensor) -> tuple[Tensor, list[Tensor]]:
        seen.clear()
        with watching.watched(model, layers, take), torch.no_grad():
            probabilities = watching.find_probabilities(model(batch))
        watching.check_ran(layers, list(seen))
        return probabilities, [seen[layer] for layer in layers]

    distances: dict[str, list[Tensor]] = {kind: [] for kind in chosen}
    chances: dict[str, list[Tensor]] = {kind: [] for kind in chosen}
    pictures: dict[str, Tensor] = {}
    classes: list[int] = []
    for number, image in enumerate(images):
        whole, features = look(image[None])
        asked = None if targets is None else targets[number]
        classes.append(watching.check_index(asked, whole.shape[1], "class", int(whole.argmax())))
        for kind, moves in chosen.items():
            parts = []
            moved = torch.stack([transform(image, kind, value, filling) for value in moves])
            pictures.setdefault(kind, moved[[0, len(moved) // 2, -1]].cpu())
            for batch in torch.split(moved, batch_size):
                probabilities, found = look(batch)
                far = [(one - own).norm(dim=1) for one, own in zip(found, features, strict=True)]
                parts.append((probabilities[:, classes[-1]], torch.stack(far).float().cpu()))
            chances[kind].append(torch.cat([probability for probability, _ in parts]))
            distances[kind].append(torch.cat([far for _, far in parts], 1))
        if report is not None:
            report()
    curves = {
        kind: Curve(
            tuple(float(value) for value in moves),
            torch.stack(distances[kind]),
            torch.stack(chances[kind]),
            pictures[kind],
        )
        for kind, moves in chosen.items()
    }
    return Invariance(tuple(layers), tuple(classes), curves)

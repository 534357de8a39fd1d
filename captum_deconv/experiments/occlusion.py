r"""Cover a part of an image, and see what the network makes of the rest.

Section 4.2 of Zeiler & Fergus 2013 (arXiv:1311.2901). A grey square of side `w` covers the image at
`(u, v)`; with `x(u, v)` the image that is left, figure 7 shows as functions of the square's place

    A(u, v) = sum over p of a[c*, p](x(u, v)),   c* = argmax over c of sum over p of a[c, p](x),
    P(u, v) = P(y | x(u, v)),
    Y(u, v) = argmax over k of P(k | x(u, v)),

the total activation of the feature map `c*` that is strongest in the whole image, the probability
of the true class `y`, and the likeliest class. Where `A` falls, the map saw what it looks for;
where `P` falls, the class rests on what is covered.

Example:
    >>> import torch
    >>> from captum_deconv.sources import embedded
    >>> from captum_deconv.experiments import occlude
    >>> image = torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(0))
    >>> found = occlude(embedded.load(), image, "relu3", size=8, stride=4)
    >>> found.activation.shape, found.probability.shape, found.starts
    (torch.Size([7, 7]), torch.Size([7, 7]), ((0, 4, 8, 12, 16, 20, 24), (0, 4, 8, 12, 16, 20, 24)))
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from captum_deconv import features
from captum_deconv.experiments import watching
from captum_deconv.gallery import Gallery, project
from captum_deconv.receptive_field.changed import sum_channel
from captum_deconv.receptive_field.changes import Changes

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from captum_deconv.receptive_field.spans import Box

_BATCH = 36  # a tile of 6 x 6 places


@dataclass(frozen=True, eq=False)
class Occlusion:
    """What a network makes of an image with a square covered, by the square's place.

    Attributes:
        layer: The layer's dotted name.
        channel: Which of its feature maps.
        target: The class.
        starts: The squares' first rows, and their first columns.
        size: The square's side, in pixels of the image as the network takes it.
        activation: The map's total activation, ``(rows, columns)``.
        probability: Of the class, ``(rows, columns)``, in [0, 1].
        likeliest: The likeliest class, ``(rows, columns)``.
        whole: Of the image without a square the same three.
        image: ``(C, H, W)``, as the network took it.
        value: What the squares were filled with, ``(C,)``.
        projections: The map's projections: from this image, then from those that excite it most.
    """

    layer: str
    channel: int
    target: int
    starts: tuple[tuple[int, ...], tuple[int, ...]]
    size: int
    activation: Tensor
    probability: Tensor
    likeliest: Tensor
    whole: tuple[float, float, int]
    image: Tensor
    value: Tensor
    projections: tuple[Gallery, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return the numbers, as JSON can hold them."""
        names = ("activation", "probability", "likeliest")
        return {
            "layer": self.layer,
            "channel": self.channel,
            "target": self.target,
            "size": self.size,
            "first rows": list(self.starts[0]),
            "first columns": list(self.starts[1]),
            "whole image": dict(zip(names, self.whole, strict=True)),
            **{name: getattr(self, name).tolist() for name in names},
        }


def place_squares(
    image_size: Sequence[int], size: int, stride: int
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Say where a square stands: from the upper left corner on, the last ones cut off by the edge.

    These are the windows of Captum's ``Occlusion``.

    Args:
        image_size: Height and width.
        size: The square's side.
        stride: How far it moves.

    Returns:
        Its first rows, and its first columns.

    Raises:
        ValueError: If the square is larger than the image, or does not move on by 1 to its side.
    """
    if not 1 <= size <= min(image_size):
        height, width = image_size
        raise ValueError(
            f"the occluder's size must be 1 to {min(image_size)}, not {size}: the network takes "
            f"this image at {height} x {width} pixels"
        )
    if not 1 <= stride <= size:
        raise ValueError(f"the stride must be 1 to the occluder's size {size}, not {stride}")
    rows, columns = (
        tuple(step * stride for step in range(math.ceil((length - size) / stride) + 1))
        for length in image_size
    )
    return rows, columns


def occlude(
    model: nn.Module,
    image: Tensor,
    layer: str,
    *,
    target: int | None = None,
    channel: int | None = None,
    size: int = 50,
    stride: int = 5,
    value: float | Tensor = 0.0,
    batch_size: int = _BATCH,
    report: Callable[[], None] | None = None,
) -> Occlusion:
    """Slide a square over an image.

    Of the maps only what the square changes is computed anew
    (:mod:`captum_deconv.receptive_field.changes`); the numbers are those of the whole images, up to
    rounding.

    Args:
        model: In evaluation mode; it stays as it is.
        image: As the model takes it, ``(C, H, W)``.
        layer: Dotted name of a layer with space, ``(N, C, H, W)``; one that is called several times
            counts with its last call.
        target: The class; the likeliest for the whole image where left out.
        channel: The feature map; the one of the largest total where left out.
        size: The square's side in pixels.
        stride: How far it moves.
        value: What it is filled with, as the model takes it: a number, or ``(C,)``.
        batch_size: Places in one pass, at most.
        report: Called after each pass.

    Returns:
        The numbers, on the CPU.

    Raises:
        ValueError: If the square is larger than the image or moves on by more than its side, or the
            layer has no space, or the model has none of that name, or is in train mode.
        IndexError: If there is no such class or channel.
        TypeError: If the model returns anything but scores ``(N, classes)``.
    """
    if image.dim() != 3:
        raise ValueError(f"the image must be (C, H, W), not {tuple(image.shape)}")
    starts = place_squares(image.shape[1:], size, stride)
    image = watching.prepare(model, image)
    filling = torch.as_tensor(value).to(image).expand(len(image))
    seen: list[Tensor] = []

    def choose(_: str, output: Tensor) -> None:
        watching.check_has_space(layer, output)
        seen[:] = [output.detach().flatten(2).sum(2)[0]]

    with watching.watched(model, [layer], choose), torch.no_grad():
        first = watching.find_probabilities(model(image[None]))[0]
    watching.check_ran([layer], [layer] * len(seen))
    target = watching.check_index(target, len(first), "class", int(first.argmax()))
    channel = watching.check_index(channel, len(seen[0]), "channel", int(seen[0].argmax()))
    whole = float(seen[0][channel]), float(first[target]), int(first.argmax())

    def add_up(_: str, output: Tensor) -> None:
        seen[:] = [sum_channel(output.detach(), channel).cpu()]

    limits = image.shape[1:]
    shape = len(starts[0]), len(starts[1])
    activation, probability = torch.empty(shape), torch.empty(shape)
    likeliest = torch.empty(shape, dtype=torch.int64)
    changes = Changes(model, image)
    with watching.watched(model, [layer], add_up):
        for places in _list_tiles(*shape, batch_size):
            corners = [(starts[0][row], starts[1][column]) for row, column in places]
            boxes: list[Box] = [
                ((y, min(y + size, limits[0])), (x, min(x + size, limits[1]))) for y, x in corners
            ]
            probabilities = watching.find_probabilities(changes.run(boxes, filling))
            where = torch.tensor(places).unbind(1)
            activation[where] = seen[0].float()
            probability[where] = probabilities[:, target]
            likeliest[where] = probabilities.argmax(1)
            if report is not None:
                report()
    return Occlusion(
        layer=layer,
        channel=channel,
        target=target,
        starts=starts,
        size=size,
        activation=activation,
        probability=probability,
        likeliest=likeliest,
        whole=whole,
        image=image.cpu(),
        value=filling.cpu(),
    )


def _list_tiles(rows: int, columns: int, most: int) -> list[list[tuple[int, int]]]:
    """List the places of a grid by square tiles of at most so many.

    What squares near each other change is of one size, and less at an edge than elsewhere.
    """
    side = math.isqrt(most)
    return [
        [
            (row, column)
            for row in range(top, min(top + side, rows))
            for column in range(left, min(left + side, columns))
        ]
        for top in range(0, rows, side)
        for left in range(0, columns, side)
    ]


def count_passes(starts: Sequence[Sequence[int]], batch_size: int) -> int:
    """Count the passes that squares need; as :func:`place_squares` gives them."""
    return len(_list_tiles(len(starts[0]), len(starts[1]), batch_size))


def add_projections(
    found: Occlusion,
    model: nn.Module,
    dataset: Any = None,
    *,
    k: int = 3,
    method: str = "deconvnet",
    restore: Callable[[Tensor], Tensor] | None = None,
    names: Callable[[int], str] | None = None,
) -> Occlusion:
    """Add the feature map's projections, as beside the maps of the paper's figure 7.

    Args:
        found: What :func:`occlude` found.
        model: The same model.
        dataset: Where to look for the images that excite the map most, as for
            :func:`captum_deconv.features.scan`; None for none of them.
        k: How many.
        method: As for :func:`captum_deconv.gallery.project`.
        restore: As there.
        names: As there, of the data set's samples.

    Returns:
        The same with ``projections``.

    Raises:
        ValueError: For whatever ``features.scan`` and ``gallery.project`` refuse.
    """
    galleries = []
    for samples, count in (([found.image], 1), (dataset, k)):
        if samples is None:
            continue
        index = features.scan(
            model, found.layer, samples, k=min(count, len(samples)), progress=False, batch_size=8
        )
        galleries.append(
            project(
                index,
                model,
                samples,
                channels=found.channel,
                method=method,
                restore=restore,
                names=names if samples is dataset else lambda _: "this image",
                check=False,  # the index was made a moment ago
            )
        )
    return replace(found, projections=tuple(galleries))

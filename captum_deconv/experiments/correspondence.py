r"""Mask the same part in several images, and see whether the network changes its mind alike.

Section 4.3 and table 1 of Zeiler & Fergus 2013 (arXiv:1311.2901). With `x_i` and `m_i` the feature
vectors of layer `l` for an image and for the same image with a part masked, and `e_i = x_i - m_i`,

    Delta_l = sum over i != j of H(sign(e_i), sign(e_j)),

`H` the Hamming distance, a sign being one of -1, 0 and 1. A lower value says that masking the part
does the same in all images: the network knows that the parts correspond, though nobody told it that
dogs have eyes. It is to be seen beside masks at random places. Pairs of images differ, and so there
is a mean of `H(...) / n`, over the vectors' `n` entries, with its standard error over the pairs;
pairs that share an image are not independent, which the standard error does not know.

Example:
    >>> from captum_deconv.experiments import correspond
    >>> from captum_deconv.sources import embedded
    >>> from captum_deconv.sources.datasets import PhotographTiles
    >>> tiles = PhotographTiles(96, names=("coffee",))
    >>> photographs = {f"tile {number}": tiles[number] for number in range(3)}
    >>> boxes = {"corner": dict.fromkeys(photographs, (0, 0, 48, 48))}
    >>> model = embedded.load()
    >>> found = correspond(model, model.preprocess, photographs, boxes, ["relu3"], draws=2)
    >>> found.parts, found.mean.shape  # the part and the random masks, in one layer
    (('corner', 'random'), torch.Size([2, 1]))
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from captum_deconv.experiments import watching
from captum_deconv.sources.boxes import RANDOM, Box, BoxError, Boxes, check_boxes

if TYPE_CHECKING:
    from PIL import Image

GREY = (128, 128, 128)
_MOST_TRIES = 100


@dataclass(frozen=True, eq=False)
class Correspondence:
    """How alike a network's changes of mind are, for ``P`` parts and ``L`` layers.

    Attributes:
        parts: Their names; the last is that of the masks at random places.
        layers: Dotted names.
        total: The paper's sum of Hamming distances over all ordered pairs, ``(P, L)``; of random
            masks the mean over the draws.
        mean: Over the pairs, of the share of signs that differ, ``(P, L)``, in [0, 1].
        error: The mean's standard error over the pairs, ``(P, L)``; NaN for one pair.
        pairs: How many there were, ``(P,)``.
    """

    parts: tuple[str, ...]
    layers: tuple[str, ...]
    total: Tensor
    mean: Tensor
    error: Tensor
    pairs: Tensor

    def to_dict(self) -> dict[str, Any]:
        """Return the numbers, as JSON can hold them; a standard error of one pair is none."""
        return {
            part: {
                layer: {
                    "sum of distances": float(self.total[row, column]),
                    "mean": float(self.mean[row, column]),
                    "standard error": None
                    if self.error[row, column].isnan()
                    else float(self.error[row, column]),
                    "pairs": int(self.pairs[row]),
                }
                for column, layer in enumerate(self.layers)
            }
            for row, part in enumerate(self.parts)
        }


def mask(photograph: Image.Image, box: Box, fill: tuple[int, int, int] = GREY) -> Image.Image:
    """Return a photograph with a box filled."""
    top, left, bottom, right = box
    masked = photograph.copy()
    masked.paste(fill, (left, top, right, bottom))
    return masked


def correspond(
    model: nn.Module,
    prepare: Callable[[Image.Image], Tensor],
    photographs: Mapping[str, Image.Image],
    boxes: Boxes,
    layers: Sequence[str],
    *,
    draws: int = 10,
    seed: int = 0,
    report: Callable[[], None] | None = None,
) -> Correspondence:
    """Compare what masking the same part does to the features of several images.

    Args:
        model: In evaluation mode; it stays as it is.
        prepare: Turns a photograph into what the model takes, ``(C, H, W)``. A part is masked
            before, so that boxes are in the photograph's own pixels.
        photographs: In RGB, by name.
        boxes: By part, then by photograph: each part in two of them at least.
        layers: Dotted names, with or without space.
        draws: How often to mask random places, as large as one of the image's parts, for
            comparison.
        seed: Of these places.
        report: Called after each part and each draw.

    Returns:
        How alike the changes are.

    Raises:
        BoxError: If a box is outside its photograph or outside what the network sees of it, or a
            part is in fewer than two.
        ValueError: If the model has no such layer or is in train mode.
    """
    check_boxes(boxes, {name: photograph.size for name, photograph in photographs.items()})
    used = list(dict.fromkeys(image for by_image in boxes.values() for image in by_image))
    inputs = {name: prepare(photographs[name]) for name in used}
    generator = torch.Generator().manual_seed(seed)
    whole = {name: _look(model, layers, inputs[name]) for name in used}

    def change(name: str, masked: Tensor) -> list[Tensor]:
        found = _look(model, layers, masked)
        return [(one - own).sign() for one, own in zip(whole[name], found, strict=True)]

    def cover(name: str, box: Box, part: str) -> Tensor:
        masked = prepare(mask(photographs[name], box))
        if torch.equal(masked, inputs[name]):
            raise BoxError(
                f"{name}, {part}: the box {box} changes nothing of what the network sees, such as "
                "the middle of the photograph"
            )
        return masked

    def cover_anywhere(name: str) -> Tensor:
        """Mask a random place; another one where the network sees nothing of it."""
        for _ in range(_MOST_TRIES):
            masked = prepare(mask(photographs[name], _draw(name, boxes, photographs, generator)))
            if not torch.equal(masked, inputs[name]):
                return masked
        raise BoxError(f"{name}: no random place was found that the network sees")

    shares: list[list[list[float]]] = []  # by part, by layer, the pairs
    totals: list[list[float]] = []

    def compare(changes: Sequence[list[Tensor]]) -> tuple[list[list[float]], list[float]]:
        by_layer, sums = [], []
        for signs in zip(*changes, strict=True):
            pairs = itertools.combinations(signs, 2)
            differing = [int((one != other).sum()) for one, other in pairs]
            by_layer.append([count / signs[0].numel() for count in differing])
            sums.append(2.0 * sum(differing))  # each pair both ways
        return by_layer, sums

    for part, by_image in boxes.items():
        pairs, sums = compare(
            [change(name, cover(name, box, part)) for name, box in by_image.items()]
        )
        shares.append(pairs)
        totals.append(sums)
        if report is not None:
            report()
    shares.append([[] for _ in layers])
    totals.append([0.0] * len(layers))
    for _ in range(draws):
        drawn = [change(name, cover_anywhere(name)) for name in used]
        pairs, sums = compare(drawn)
        for known, more in zip(shares[-1], pairs, strict=True):
            known += more
        totals[-1] = [a + b / draws for a, b in zip(totals[-1], sums, strict=True)]
        if report is not None:
            report()
    values = [torch.tensor(of_part, dtype=torch.float64) for of_part in shares]
    count = torch.tensor([of_part.shape[1] for of_part in values])
    return Correspondence(
        parts=(*boxes, RANDOM),
        layers=tuple(layers),
        total=torch.tensor(totals, dtype=torch.float64),
        mean=torch.stack([of_part.mean(1) for of_part in values]),
        error=torch.stack([_find_error(of_part) for of_part in values]),
        pairs=count,
    )


def _find_error(values: Tensor) -> Tensor:
    """Return the standard error of each row's mean; NaN where it has one value."""
    if values.shape[1] < 2:
        return torch.full((len(values),), float("nan"), dtype=values.dtype)
    return values.std(1).div(values.shape[1] ** 0.5)


def _draw(
    name: str, boxes: Boxes, photographs: Mapping[str, Image.Image], generator: torch.Generator
) -> Box:
    """Draw a box as large as one of an image's parts, anywhere in it."""

    def draw(count: int) -> int:
        return int(torch.randint(count, (), generator=generator))

    own = [by_image[name] for by_image in boxes.values() if name in by_image]
    top, left, bottom, right = own[draw(len(own))]
    width, height = photographs[name].size
    y, x = draw(height - (bottom - top) + 1), draw(width - (right - left) + 1)
    return y, x, y + bottom - top, x + right - left


def _look(model: nn.Module, layers: Sequence[str], image: Tensor) -> list[Tensor]:
    """Return the layers' features of one image; alone, what is the same is so to the bit."""
    seen: dict[str, Tensor] = {}

    def take(layer: str, output: Tensor) -> None:
        seen[layer] = output.detach().flatten().cpu()

    with watching.watched(model, layers, take), torch.no_grad():
        model(watching.prepare(model, image[None]))
    watching.check_ran(layers, list(seen))
    return [seen[layer].clone() for layer in layers]

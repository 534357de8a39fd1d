"""Write galleries as a page: of each channel a thumbnail and a strip, and the whole images."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from captum_deconv.drawing.colours import TITLES
from captum_deconv.drawing.page import Page, replace_page, shrink
from captum_deconv.gallery import pictures
from captum_deconv.gallery.data import GalleryData, Normalise

_THUMB, _CELL, WHOLE = 44, 144, 320
"""Pixels of a picture's longer side: one of a thumbnail's nine, one in a strip, a whole image."""

_LOSSLESS = 32
"""Patches up to this size are kept to the bit: the browser enlarges them, and would show it."""


@dataclass(frozen=True)
class _Layer:
    """What all galleries of a page have in common."""

    layer: str
    methods: tuple[str, ...]
    k: int
    cell: tuple[int, int]
    image_size: tuple[int, int]
    seed: str


@dataclass
class _Card:
    """One channel, as the template and the script see it."""

    channel: int
    dead: bool
    label: str
    neurons: list[dict[str, Any]] = field(default_factory=list)


def write_page(
    galleries: Iterable[GalleryData],
    folder: str | Path,
    *,
    title: str | None = None,
    normalise: Normalise = "projection",
) -> Path:
    """Write galleries of one layer as one page.

    For a layer that is too large for memory, give a generator that projects some channels at a
    time: each gallery is let go before the next is asked for.

    Args:
        galleries: Of the same layer and methods, each of other channels.
        folder: Made where it is missing; other files in it are left alone.
        title: The page's heading; the layer's name where left out.
        normalise: Whether each projection has its own scale or the channel one for all.

    Returns:
        The page's path, ``folder/index.html``.

    Raises:
        OutputError: If the folder cannot be made or written to.
        ValueError: If there is no gallery, or they differ in layer, methods or size, or show the
            same channel twice.
    """
    folder = Path(folder)
    with replace_page(folder) as page:
        writer = _Writer(page, normalise)
        for gallery in galleries:
            writer.add(gallery)
        _render(writer, title)
    return folder / "index.html"


class _Writer:
    """Writes pictures gallery by gallery, and collects what the page says of them."""

    def __init__(self, page: Page, normalise: Normalise) -> None:
        self.page, self.normalise = page, normalise
        self.layer: _Layer | None = None
        self.about = ""
        self.cards: dict[int, _Card] = {}
        self.names: dict[int, str] = {}
        self.sizes: dict[int, list[int]] = {}

    def add(self, gallery: GalleryData) -> None:
        """Write a gallery's pictures."""
        height, width = gallery.patches.shape[3:]
        layer = _Layer(
            gallery.layer,
            gallery.methods,
            gallery.k,
            (height, width),
            gallery.image_size,
            gallery.seed,
        )
        if self.layer not in (None, layer):
            raise ValueError(
                "the galleries of one page must be of one layer, by the same methods, from images "
                f"of one size, and these differ: {self.layer} and {layer}"
            )
        self.layer, self.about = layer, gallery.about
        for sample, image in gallery.images.items():
            if sample not in self.names:
                self.names[sample] = gallery.names.get(sample, f"sample {sample}")
                self.sizes[sample] = list(image.shape[1:])
                self.page.save(shrink(image, WHOLE), f"image-{sample}")
        for row, channel in enumerate(gallery.channels):
            if channel in self.cards:
                raise ValueError(f"channel {channel} is in two of the galleries")
            self.cards[channel] = _describe_channel(gallery, row)
            self._draw(gallery, row)

    def _draw(self, gallery: GalleryData, row: int) -> None:
        """Write a channel's thumbnail, one view under the other, and its strip, a row a view."""
        views = draw_views(gallery, row, self.normalise)
        small = [shrink(view, _THUMB) for view in views]
        thumb = torch.cat([pictures.lay_grid(view, 1, gap=0.04) for view in small], 1)
        # The page shines through between the nine, light or dark.
        opaque = pictures.lay_grid(torch.full_like(small[0], 255), 1, gap=0.04, paper=0)[:1]
        channel = gallery.channels[row]
        alpha = opaque.repeat(1, len(views), 1)
        self.page.save(torch.cat([thumb, alpha]), f"thumb-{channel}")
        strip, lossless = lay_strip(views)
        self.page.save(strip, f"strip-{channel}", lossless=lossless)


def draw_views(gallery: GalleryData, row: int, normalise: Normalise = "projection") -> list[Tensor]:
    """Draw a channel's patches, and its projections by each method: ``uint8``, ``(k, 3, h, w)``."""
    projections = (
        pictures.draw_projections(gallery, row, method, normalise) for method in gallery.methods
    )
    return [pictures.draw_patches(gallery, row), *projections]


def lay_strip(views: Sequence[Tensor]) -> tuple[Tensor, bool]:
    """Lay a channel's views out, a row each: the strip, and whether it is kept to the bit."""
    rows = [torch.cat(list(shrink(view, _CELL)), 2) for view in views]
    return torch.cat(rows, 1), max(views[0].shape[2:]) <= _LOSSLESS


def describe_neurons(gallery: GalleryData, row: int) -> list[dict[str, Any]]:
    """Describe a channel's neurons, as the script sees them."""
    neurons = []
    for rank in range(gallery.k):
        sample = int(gallery.samples[row, rank])
        if sample < 0:
            continue
        (top, bottom), (left, right) = gallery.fields[row, rank].tolist()
        neurons.append(
            {
                "sample": sample,
                "value": f"{float(gallery.values[row, rank]):.4g}",
                "place": ", ".join(map(str, gallery.positions[row, rank].tolist())),
                "field": [top, left, bottom, right],
                "zero": not any(gallery.by_method[m][row, rank].any() for m in gallery.methods),
            }
        )
    return neurons


def _describe_channel(gallery: GalleryData, row: int) -> _Card:
    channel, dead = gallery.channels[row], bool(gallery.dead[row])
    card = _Card(channel, dead, "no activation", describe_neurons(gallery, row))
    if card.neurons:
        card.label = ("dead, " if dead else "") + f"strongest {card.neurons[0]['value']}"
    return card


def _render(writer: _Writer, title: str | None) -> None:
    layer = writer.layer
    if layer is None or not writer.cards:
        raise ValueError("there is no channel to write a page of")
    cards = [writer.cards[channel] for channel in sorted(writer.cards)]
    views = ["Patches", *(TITLES.get(method, method) for method in layer.methods)]
    data = {
        "layer": layer.layer,
        "pictures": writer.page.pictures,
        "views": views,
        "k": layer.k,
        "cell": layer.cell,
        "image": layer.image_size,
        # Where images differ in size.
        "sizes": writer.sizes if len(set(map(tuple, writer.sizes.values()))) > 1 else {},
        "names": writer.names,
        "channels": [
            {"channel": card.channel, "dead": card.dead, "neurons": card.neurons} for card in cards
        ],
    }
    writer.page.render(
        "captum_deconv.gallery",
        "gallery.html",
        noun="channel",
        title=title or f"What activates layer {layer.layer}",
        about=writer.about,
        layer=layer.layer,
        k=layer.k,
        cell=layer.cell,
        image=layer.image_size,
        seed="its activation" if layer.seed == "activation" else "one",
        cards=cards,
        dead=sum(card.dead for card in cards),
        views=views,
        across=pictures.count_across(layer.k),
        scale=pictures.describe_scale(writer.normalise),
        data=data,
    )

"""A collection to look at: each method's overlay of each image, and a page of them all."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from captum_deconv.collection.reading import Collection
from captum_deconv.drawing.colours import PERCENTILE, TITLES, as_picture, to_overlay
from captum_deconv.drawing.page import Page, replace_page, shrink

_THUMB, _WHOLE = 160, 448
"""Pixels of a picture's longer side: in a thumbnail, and where it is shown large."""

_LOSSLESS = 64
"""Pictures up to this size are kept to the bit: the browser enlarges them, and would show it."""


def write_pictures(
    collection: Collection,
    images: Iterable[Tensor],
    folder: str | Path,
    *,
    title: str,
    categories: Sequence[str] | None = None,
    report: Callable[[int], None] | None = None,
) -> Path:
    """Draw a collection's attributions over its images, and write a page that shows them.

    Of item 7 there are ``image-7.webp``, for each method an overlay such as ``deconvnet-7.webp``,
    and ``thumb-7.webp``, which holds all of them small, one under the other. One item is in memory
    at a time.

    Args:
        collection: Where the model takes several inputs, the first one's attributions are shown.
        images: Of each item, in order, the image as the network saw it: ``(1 or 3, H, W)``, floats
            in [0, 1] or ``uint8``. A generator may read them.
        folder: Gets ``index.html`` and a folder of pictures. It is made where it is missing; other
            files in it are left alone, and a page that was there before is replaced.
        title: The page's heading.
        categories: The classes' names.
        report: Called with the number of images after each part that was drawn.

    Returns:
        The page's path, ``folder/index.html``.

    Raises:
        OutputError: If the folder cannot be made or written to.
        ValueError: If the collection is empty, or there are more or fewer images than items.
    """
    folder = Path(folder)
    with replace_page(folder) as page:
        writer = _Writer(page, collection.methods, categories)
        for number, (item, image) in enumerate(zip_longest(collection, images)):
            if item is None or image is None:
                raise ValueError(
                    f"the collection has {len(collection)} items, and there are "
                    f"{'more' if item is None else number} images: give one for each item"
                )
            writer.add(number, item, image)
            if report is not None:
                report(1)
        _render(writer, collection, title)
    return folder / "index.html"


class _Writer:
    """Writes pictures item by item, and collects what the page says of them."""

    def __init__(self, page: Page, methods: list[str], categories: Sequence[str] | None) -> None:
        self.page, self.methods, self.categories = page, methods, categories or ()
        self.cell: tuple[int, int] | None = None
        self.texts: dict[str, int] = {}
        self.items: list[list[Any]] = []
        self.cards: list[dict[str, Any]] = []

    def add(self, number: int, item: dict[str, Any], image: Tensor) -> None:
        """Write an item's pictures."""
        views = shrink(self._draw(item, image), _WHOLE)
        lossless = max(views.shape[2:]) <= _LOSSLESS
        for name, view in zip(("image", *self.methods), views, strict=True):
            self.page.save(view, f"{name}-{number}", lossless=lossless)
        if self.cell is None:
            height, width = shrink(views, _THUMB).shape[2:]
            self.cell = height, width
        thumb = torch.cat(list(_fit(views, self.cell)), 1)
        self.page.save(thumb, f"thumb-{number}", lossless=lossless)
        target, predicted, label = (item[key] for key in ("target", "predicted", "label"))
        wrong = None not in (predicted, label) and predicted != label
        said = [self._say(each) for each in (target, predicted, label)]
        known = [self.texts.setdefault(text, len(self.texts)) if text else None for text in said]
        self.items.append([item["name"], *known, f"{item['score']:.4g}"])
        self.cards.append({"name": Path(item["name"]).name, "target": said[0], "wrong": wrong})

    def _draw(self, item: dict[str, Any], image: Tensor) -> Tensor:
        """Draw the image, and each method over it: ``uint8``, ``(views, 3, H, W)``."""
        image = image.detach().cpu()
        image = image / 255 if image.dtype == torch.uint8 else image.float().clamp(0, 1)
        views = [as_picture(image)]
        for method in self.methods:
            maps = item[method]
            views.append(to_overlay(maps[0] if isinstance(maps, tuple) else maps, image))
        drawn = (np.stack(views) * 255).round().astype(np.uint8)
        return torch.from_numpy(drawn).permute(0, 3, 1, 2)

    def _say(self, target: int | tuple[int, ...] | None) -> str:
        """Say which class or neuron it is; nothing where there is none."""
        if target is None:
            return ""
        if isinstance(target, tuple):
            channel, *place = target
            return f"channel {channel}" + (f" at ({', '.join(map(str, place))})" if place else "")
        known = target < len(self.categories)
        return f"{self.categories[target]} ({target})" if known else f"class {target}"


def _fit(views: Tensor, cell: tuple[int, int]) -> Tensor:
    """Lay pictures ``(views, 3, h, w)`` into cells, with nothing around: ``(views, 4, *cell)``."""
    by = min(size / side for size, side in zip(cell, views.shape[2:], strict=True))
    small = shrink(views, max(1, int(by * max(views.shape[2:]))))
    height, width = small.shape[2:]
    top, left = (cell[0] - height) // 2, (cell[1] - width) // 2
    laid = torch.zeros(len(views), 4, *cell, dtype=torch.uint8)
    inside = laid[:, :, top : top + height, left : left + width]
    inside[:, :3], inside[:, 3] = small, 255
    return laid


def _render(writer: _Writer, collection: Collection, title: str) -> None:
    if writer.cell is None:
        raise ValueError("the collection has no item to show")
    views = ["Photograph", *(TITLES.get(method, method) for method in writer.methods)]
    layer = collection.record["layer"]
    explained = {"predicted": "the likeliest class", "label": "the class of its label"}.get(
        str(collection.record["target"]), "its target class"
    )
    writer.page.render(
        "captum_deconv.collection",
        "pictures.html",
        noun="image",
        title=title,
        explained=f"a neuron of layer {layer}" if layer else explained,
        wrong=sum(card["wrong"] for card in writer.cards),
        views=views,
        cell=writer.cell,
        small=max(writer.cell) <= _LOSSLESS,
        percentile=f"{PERCENTILE:g}",
        cards=writer.cards,
        data={
            "pictures": writer.page.pictures,
            "views": views,
            "files": ["image", *writer.methods],
            "small": _LOSSLESS,
            "texts": list(writer.texts),
            "items": writer.items,
        },
    )

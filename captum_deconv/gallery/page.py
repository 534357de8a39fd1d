"""Write galleries as a page that opens from disk, with no server and no network.

``index.html`` holds the markup, the style, the script and the numbers; the pictures lie beside it
in one folder, a thumbnail and a strip for each channel, so that a browser loads what is looked at.
That folder is named by what is in it. It is complete before ``index.html`` is replaced, in one
step, by a page that points to it, and the old one goes last: whoever opens the page, or kills this
process, at any moment, finds the old page or the new one.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import shutil
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

from captum_deconv.drawing.colours import TITLES
from captum_deconv.drawing.files import OutputError, make_folder, replace_file
from captum_deconv.gallery import pictures
from captum_deconv.gallery.data import GalleryData, Normalise

_THUMB, _CELL, _WHOLE = 44, 144, 320
"""Pixels of a picture's longer side: one of a thumbnail's nine, one in a strip, a whole image."""

_LOSSLESS = 32
"""Patches up to this size are kept to the bit: the browser enlarges them, and would show it."""

_PICTURES = re.compile(r'data-pictures="(pictures-[0-9a-f]{16})"')


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
    make_folder(folder)
    page = folder / "index.html"
    unfinished = folder / f".pictures-{secrets.token_hex(8)}"
    before, useless = _find_pictures(page), [unfinished]
    try:
        unfinished.mkdir()
        writer = _Writer(unfinished, normalise)
        for gallery in galleries:
            writer.add(gallery)
        name = f"pictures-{writer.digest.hexdigest()[:16]}"
        text = _render(writer, title, name)
        if not (folder / name).is_dir():  # else the same pictures are there already, complete
            os.replace(unfinished, folder / name)
            useless.append(folder / name)
        with replace_file(page) as temporary:
            temporary.write_text(text, encoding="utf-8")
        useless[1:] = [] if before in (None, name) else [folder / before]
    except OutputError:
        raise
    except OSError as error:
        raise OutputError(f"{folder}: the page cannot be written ({error})") from error
    finally:
        # What no page points to: the old pictures, or the new ones where something went wrong.
        for left in useless:
            shutil.rmtree(left, ignore_errors=True)
    return page


def _find_pictures(page: Path) -> str | None:
    """Return the folder of pictures that a page of ours points to."""
    try:
        found = _PICTURES.search(page.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError):
        return None
    return found.group(1) if found else None


class _Writer:
    """Writes pictures gallery by gallery, and collects what the page says of them."""

    def __init__(self, folder: Path, normalise: Normalise) -> None:
        self.folder, self.normalise = folder, normalise
        self.layer: _Layer | None = None
        self.about = ""
        self.cards: dict[int, _Card] = {}
        self.names: dict[int, str] = {}
        self.digest = hashlib.sha256()

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
                self._save(_shrink(image, _WHOLE), f"image-{sample}", lossless=False)
        for row, channel in enumerate(gallery.channels):
            if channel in self.cards:
                raise ValueError(f"channel {channel} is in two of the galleries")
            self.cards[channel] = _describe_channel(gallery, row)
            self._draw(gallery, row)

    def _draw(self, gallery: GalleryData, row: int) -> None:
        """Write a channel's thumbnail, one view under the other, and its strip, a row a view."""
        views = [pictures.draw_patches(gallery, row)]
        for method in gallery.methods:
            views.append(pictures.draw_projections(gallery, row, method, self.normalise))
        small = [_shrink(view, _THUMB) for view in views]
        thumb = torch.cat([pictures.lay_grid(view, 1, gap=0.04) for view in small], 1)
        # The page shines through between the nine, light or dark.
        opaque = pictures.lay_grid(torch.full_like(small[0], 255), 1, gap=0.04, paper=0)[:1]
        channel = gallery.channels[row]
        alpha = opaque.repeat(1, len(views), 1)
        self._save(torch.cat([thumb, alpha]), f"thumb-{channel}", lossless=False)
        lossless = max(views[0].shape[2:]) <= _LOSSLESS
        rows = [torch.cat(list(_shrink(view, _CELL)), 2) for view in views]
        self._save(torch.cat(rows, 1), f"strip-{channel}", lossless=lossless)

    def _save(self, picture: Tensor, name: str, *, lossless: bool) -> None:
        path = self.folder / f"{name}.webp"
        image = Image.fromarray(picture.permute(1, 2, 0).contiguous().numpy())
        image.save(path, lossless=lossless, quality=85, method=2)
        self.digest.update(name.encode() + path.read_bytes())


def _shrink(image: Tensor, side: int) -> Tensor:
    """Shrink pictures ``(..., 3, h, w)`` so that the longer side is at most ``side``."""
    height, width = image.shape[-2:]
    by = side / max(height, width)
    if by >= 1:
        return image
    size = [max(1, round(height * by)), max(1, round(width * by))]
    batch = image.reshape(-1, *image.shape[-3:]).float()
    small = interpolate(batch, size, mode="bilinear", antialias=True, align_corners=False)
    return small.round().clamp(0, 255).to(torch.uint8).reshape(*image.shape[:-2], *size)


def _describe_channel(gallery: GalleryData, row: int) -> _Card:
    channel, dead = gallery.channels[row], bool(gallery.dead[row])
    card = _Card(channel, dead, "no activation")
    for rank in range(gallery.k):
        sample = int(gallery.samples[row, rank])
        if sample < 0:
            continue
        (top, bottom), (left, right) = gallery.fields[row, rank].tolist()
        card.neurons.append(
            {
                "sample": sample,
                "value": f"{float(gallery.values[row, rank]):.4g}",
                "place": ", ".join(map(str, gallery.positions[row, rank].tolist())),
                "field": [top, left, bottom, right],
                "zero": not any(gallery.by_method[m][row, rank].any() for m in gallery.methods),
            }
        )
    if card.neurons:
        card.label = ("dead, " if dead else "") + f"strongest {card.neurons[0]['value']}"
    return card


def _render(writer: _Writer, title: str | None, pictures_name: str) -> str:
    """Fill the template: autoescaped, because a file's name may hold any markup."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    layer = writer.layer
    if layer is None or not writer.cards:
        raise ValueError("there is no channel to write a page of")
    environment = Environment(
        loader=PackageLoader("captum_deconv.gallery"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    cards = [writer.cards[channel] for channel in sorted(writer.cards)]
    views = ["Patches", *(TITLES.get(method, method) for method in layer.methods)]
    data = {
        "layer": layer.layer,
        "pictures": pictures_name,
        "views": views,
        "k": layer.k,
        "cell": layer.cell,
        "image": layer.image_size,
        "names": writer.names,
        "channels": [
            {"channel": card.channel, "dead": card.dead, "neurons": card.neurons} for card in cards
        ],
    }
    text: str = environment.get_template("page.html").render(
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
        pictures=pictures_name,
        across=pictures.count_across(layer.k),
        scale=pictures.describe_scale(writer.normalise),
        data=data,
    )
    return text

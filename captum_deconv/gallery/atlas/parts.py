"""A layer's channels, some at a time: projected, drawn, and kept as files.

A part's folder is made beside its place and moved there when it is complete: whatever is there is
whole, and a run that was killed goes on with the parts that are missing. It holds

* ``sheet.webp``: of each channel the strongest patch, and below it its projection by each method;
* ``strip-12.webp``: channel 12, a row of patches and one of projections by each method;
* ``part.json``: the neurons, and what a projection's darkest and brightest stand for.

Images are shared by all parts, in a folder of their own.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from captum_deconv.drawing.page import save_picture, shrink
from captum_deconv.gallery.data import GalleryData
from captum_deconv.gallery.page import WHOLE, describe_neurons, draw_views, lay_strip
from captum_deconv.gallery.pictures import measure_scales

PART = 32
"""Channels of a part, side by side in its sheet."""

THUMB = 112
"""Pixels of a picture's longer side in a sheet."""

IMAGES = "images"
_LOSSLESS = 32


@dataclass(frozen=True)
class Part:
    """Some channels of a layer.

    Attributes:
        layer: Its dotted name.
        folder: That of the layer's pictures.
        number: Of the part, from 0.
        channels: Their numbers.
    """

    layer: str
    folder: Path
    number: int
    channels: tuple[int, ...]

    @property
    def path(self) -> Path:
        """The part's folder."""
        return self.folder / f"part-{self.number}"

    def step_path(self, number: int) -> Path:
        """The picture of the part's channels at a checkpoint."""
        return self.folder / f"step-{number}-{self.number}.webp"

    def read(self) -> dict[str, Any]:
        """Read what was kept of the part beside its pictures."""
        found: dict[str, Any] = json.loads((self.path / "part.json").read_text(encoding="utf-8"))
        return found


def split(layer: str, folder: Path, channels: Sequence[int]) -> list[Part]:
    """Split a layer's channels into parts."""
    starts = range(0, len(channels), PART)
    return [
        Part(layer, folder, number, tuple(channels[start : start + PART]))
        for number, start in enumerate(starts)
    ]


def write_part(part: Part, galleries: Iterable[GalleryData]) -> None:
    """Draw a part and keep it.

    Args:
        part: Which.
        galleries: Of its channels, in order, some at a time.
    """
    unfinished = part.folder / f".part-{part.number}-{secrets.token_hex(4)}"
    unfinished.mkdir(parents=True)
    try:
        kept: dict[str, Any] = {"channels": {}, "sizes": {}, "names": {}}
        columns = []
        for gallery in galleries:
            kept["cell"] = list(gallery.patches.shape[3:])
            kept["image"] = list(gallery.image_size)
            for sample, image in gallery.images.items():
                kept["sizes"][str(sample)] = list(image.shape[1:])
                kept["names"][str(sample)] = gallery.names[sample]
                _share(image, part.folder.parent / IMAGES / f"image-{sample}.webp")
            for row, channel in enumerate(gallery.channels):
                views = draw_views(gallery, row)
                strip, lossless = lay_strip(views)
                save_picture(strip, unfinished / f"strip-{channel}.webp", lossless=lossless)
                columns.append(torch.cat([shrink(view[0], THUMB) for view in views], 1))
                kept["channels"][str(channel)] = {
                    "neurons": describe_neurons(gallery, row),
                    "scales": {
                        method: measure_scales(projections[row])
                        for method, projections in gallery.by_method.items()
                    },
                }
        _save_sheet(columns, unfinished / "sheet.webp")
        text = json.dumps(kept, separators=(",", ":"))
        (unfinished / "part.json").write_text(text, encoding="utf-8")
        os.replace(unfinished, part.path)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def write_step(part: Part, number: int, gallery: GalleryData) -> None:
    """Draw of each channel the strongest neuron at a checkpoint: its patch and its projection."""
    columns = []
    for row in range(len(gallery.channels)):
        views = draw_views(gallery, row)
        columns.append(torch.cat([shrink(view[0], THUMB) for view in views], 1))
    _write_beside(part.step_path(number), lambda path: _save_sheet(columns, path))


def _save_sheet(columns: Sequence[Tensor], path: Path) -> None:
    # As wide for a part with fewer channels, so that a column's place is the same in all.
    missing = [torch.full_like(columns[0], 128)] * (PART - len(columns))
    sheet = torch.cat([*columns, *missing], 2)
    save_picture(sheet, path, lossless=sheet.shape[2] <= PART * _LOSSLESS)


def _share(image: Tensor, path: Path) -> None:
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        _write_beside(path, lambda beside: save_picture(shrink(image, WHOLE), beside))


def _write_beside(path: Path, write: Callable[[Path], None]) -> None:
    """Write a file beside its place, and move it there whole."""
    beside = path.with_name(f".{secrets.token_hex(4)}-{path.name}")
    try:
        write(beside)
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)

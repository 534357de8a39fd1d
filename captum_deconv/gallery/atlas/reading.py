"""An atlas, read back: what was found, and the pictures as numbers again."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from captum_deconv.features import ActivationIndex
from captum_deconv.gallery.atlas.parts import Part, split
from captum_deconv.gallery.atlas.spread import Spread, measure_spread
from captum_deconv.sources.names import suggest

FORMAT = "captum-deconv atlas 1"
KEPT = "atlas"
MANIFEST, INDEX, RECORD = "atlas.json", "index.safetensors", "record.json"
PICTURES = "pictures"


class AtlasError(ValueError):
    """A folder that holds no atlas, another one, or a damaged one; the message says which."""


@dataclass(frozen=True)
class Layer:
    """A layer of an atlas.

    Attributes:
        name: Its dotted name.
        why: Why it was chosen.
        slug: What its files are called.
        shape: Of its output for one image.
        channels: The numbers of those that are shown.
        dead: How many of them were never above zero.
        size: What a neuron sees, in pixels along each axis; None of a layer that sees all.
        stride: How far that moves from one neuron to the next.
    """

    name: str
    why: str
    slug: str
    shape: tuple[int, ...]
    channels: tuple[int, ...]
    dead: int
    size: tuple[int, ...] | None
    stride: tuple[float, ...] | None

    @property
    def page(self) -> str:
        """The file of its page."""
        return f"layer-{self.slug}.html"

    def split(self, folder: Path) -> list[Part]:
        """Return its parts in the atlas of a folder."""
        return split(self.name, folder / PICTURES / self.slug, self.channels)


@dataclass(frozen=True, eq=False)
class Atlas:
    """What a network's layers have learned, as it is kept beside the pages that show it.

    Attributes:
        folder: Where it is.
        title: The site's.
        about: A line on the model and the data.
        layers: The layers, in forward order.
        methods: Those of the projections.
        record: What it was made from.
        labels: The names of the data's labels; empty where there are none.
        steps: What the checkpoints of training are called.
    """

    folder: Path
    title: str
    about: str
    layers: tuple[Layer, ...]
    methods: tuple[str, ...]
    record: dict[str, Any]
    labels: tuple[str, ...] = ()
    steps: tuple[str, ...] = ()
    _spreads: dict[str, Spread] = field(default_factory=dict, repr=False)

    @classmethod
    def open(cls, folder: str | Path) -> Atlas:
        """Open an atlas.

        Args:
            folder: What :func:`captum_deconv.gallery.atlas` was given.

        Returns:
            The atlas; its tensors stay on the disk until they are used.

        Raises:
            AtlasError: If there is none, it is not complete, or it is damaged.
        """
        folder = Path(folder)
        path = folder / KEPT / MANIFEST
        if not path.exists():
            begun = (folder / KEPT / RECORD).exists()
            raise AtlasError(
                f"{folder} holds no complete atlas"
                + (": run the same command again to complete it" if begun else f" (no {path.name})")
            )
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            if found.pop("format") != FORMAT:
                raise AtlasError(f"{path} is of another format; this version reads {FORMAT!r}")
            layers = tuple(
                Layer(**{key: _freeze(value) for key, value in layer.items()})
                for layer in found.pop("layers")
            )
            rest = {key: _freeze(value) for key, value in found.items()}
            return cls(folder, layers=layers, **rest)
        except (KeyError, TypeError, ValueError) as error:
            if isinstance(error, AtlasError):
                raise
            raise AtlasError(f"{path} is no manifest of an atlas ({error})") from error

    @cached_property
    def index(self) -> ActivationIndex:
        """The index of the scan, with each image's strongest activations."""
        return ActivationIndex.load(self.folder / KEPT / INDEX)

    @property
    def page(self) -> Path:
        """The front page."""
        return self.folder / "index.html"

    def layer(self, name: str) -> Layer:
        """Return a layer by its name.

        Args:
            name: Its dotted name.

        Returns:
            The layer.

        Raises:
            KeyError: If the atlas does not show it; the closest names are given.
        """
        found = next((layer for layer in self.layers if layer.name == name), None)
        if found is None:
            known = [layer.name for layer in self.layers]
            raise KeyError(f"the atlas shows no layer {name!r}{suggest(name, known)}")
        return found

    def spread(self, layer: str) -> Spread:
        """Return how a layer's channels respond to the data set, all of them."""
        if layer not in self._spreads:
            self._spreads[layer] = measure_spread(self.index.maxima[layer], self.index.labels)
        return self._spreads[layer]

    def patches(self, layer: str, channel: int) -> Tensor:
        """Return a channel's strongest patches, as the page shows them.

        Args:
            layer: The layer's name.
            channel: The channel's number.

        Returns:
            ``uint8``, ``(k, 3, h, w)``; larger ones are shrunk to 144 pixels.

        Raises:
            KeyError: If the atlas does not show the layer.
            IndexError: If it does not show the channel.
        """
        return self._read_strip(layer, channel)[1][0]

    def projections(self, layer: str, channel: int, method: str | None = None) -> Tensor:
        """Return a channel's projections, read back from the page's pictures.

        Those have 256 levels, are of at most 144 pixels, and above 32 are compressed with losses;
        :func:`captum_deconv.gallery.project`, given ``index``, makes them in full.

        Args:
            layer: The layer's name.
            channel: The channel's number.
            method: One of ``methods``; the first where left out.

        Returns:
            ``(k, 3, h, w)``, float32.

        Raises:
            KeyError: If the atlas does not show the layer or the method.
            IndexError: If it does not show the channel.
        """
        method = self.methods[0] if method is None else method
        if method not in self.methods:
            raise KeyError(f"no projections by {method!r}: there are {', '.join(self.methods)}")
        kept, views = self._read_strip(layer, channel)
        scales = torch.tensor(kept["scales"][method]).view(-1, 1, 1, 1)
        drawn = views[1 + self.methods.index(method)].float()
        return (drawn - 128) / 127.5 * scales

    def _repr_html_(self) -> str:
        """Show its layers, for a notebook."""
        from captum_deconv.drawing.notebook import lay_out

        columns = ("Layer", "Channels", "Dead", "Sees", "Stride")
        rows = [
            (
                *(layer.name, f"{len(layer.channels):,}", layer.dead),
                *(_by(layer.size, "the whole image"), _by(layer.stride, "")),
            )
            for layer in self.layers
        ]
        heading = f"{self.title}: an atlas of {len(rows)} layers, to be opened at {self.page}"
        return lay_out(heading, columns=columns, rows=rows)

    def _read_strip(self, name: str, channel: int) -> tuple[dict[str, Any], list[Tensor]]:
        layer = self.layer(name)
        for part in layer.split(self.folder):
            if channel in part.channels:
                break
        else:
            raise IndexError(f"the atlas does not show channel {channel} of layer {name!r}")
        with Image.open(part.path / f"strip-{channel}.webp") as image:
            pixels = torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)
        rows = pixels.chunk(1 + len(self.methods), 1)
        k = self.index.k
        kept: dict[str, Any] = part.read()["channels"][str(channel)]
        return kept, [torch.stack(row.chunk(k, 2)) for row in rows]


def _by(sizes: tuple[float, ...] | None, otherwise: str) -> str:
    return otherwise if sizes is None else " x ".join(f"{size:g}" for size in sizes)


def _freeze(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value

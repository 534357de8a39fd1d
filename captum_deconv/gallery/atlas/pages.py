"""The pages of an atlas: the network, a page for each layer, and the pictures.

They share the gallery's templates. A page holds its numbers as JSON, of which what belongs to one
channel or picture is text until that is looked at; pictures are loaded as they come into view.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from captum_deconv.drawing.colours import TITLES
from captum_deconv.drawing.files import replace_file
from captum_deconv.drawing.page import render
from captum_deconv.features import ActivationIndex
from captum_deconv.gallery.atlas.network import Network, Step
from captum_deconv.gallery.atlas.parts import IMAGES, PART
from captum_deconv.gallery.atlas.rail import HEIGHT, LANE, draw_rail
from captum_deconv.gallery.atlas.reading import PICTURES, Atlas, Layer
from captum_deconv.gallery.atlas.spread import measure_spread
from captum_deconv.gallery.pictures import describe_scale

_TEMPLATES = ("captum_deconv.gallery.atlas", "captum_deconv.gallery")
_IMAGES = f"{PICTURES}/{IMAGES}"
_BEST = 10
"""Channels that a search for a label finds."""

_TIMES, _DOT = " \u00d7 ", " \u00b7 "

Entry = tuple[int, int, int]
"""Of an image: a layer's number, a channel, and the image's place among its strongest."""


def write_pages(
    atlas: Atlas,
    network: Network,
    index: ActivationIndex,
    values: Sequence[Mapping[str, list[float]]],
) -> None:
    """Write the pages of an atlas whose parts are complete; the front page last.

    Args:
        atlas: What it is.
        network: The drawing.
        index: The scan's.
        values: For each checkpoint by layer the strongest activation of each channel.
    """
    names: dict[int, str] = {}
    cells: dict[str, list[int]] = {}
    seen: dict[int, list[Entry]] = defaultdict(list)
    best: dict[int, list[tuple[float, int, int]]] = defaultdict(list)
    for number, layer in enumerate(atlas.layers):
        page = _Layer(atlas, number, index, values)
        names |= page.names
        cells[layer.name] = page.cell
        for sample, entries in page.seen.items():
            seen[sample] += entries
        for label, channels in page.best.items():
            best[label] = sorted([*best[label], *channels], reverse=True)[:_BEST]
        _write(atlas, layer.page, "layer.html", **page.describe())
    _write(atlas, "pictures.html", "pictures.html", **_describe_pictures(atlas, index, names, seen))
    length = index.metadata["dataset"]["length"]
    front = _describe_front(atlas, network, names, best, cells, length)
    _write(atlas, "index.html", "front.html", **front)


def _write(atlas: Atlas, name: str, template: str, **values: Any) -> None:
    text = render(_TEMPLATES, template, site=atlas.title, **values)
    with replace_file(atlas.folder / name) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _round(value: float) -> float:
    return float(f"{value:.4g}")


def _pack(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))


class _Layer:
    """What a layer's page says, and what it gives to the other pages."""

    def __init__(
        self,
        atlas: Atlas,
        number: int,
        index: ActivationIndex,
        values: Sequence[Mapping[str, list[float]]],
    ) -> None:
        self.atlas, self.number, self.layer = atlas, number, atlas.layers[number]
        self.index, self.values = index, values
        name = self.layer.name
        maxima = index.maxima[name][:, : len(self.layer.channels)]
        self.spread = measure_spread(maxima, index.labels if atlas.labels else None)
        self.names: dict[int, str] = {}
        self.sizes: dict[int, list[int]] = {}
        self.seen: dict[int, list[Entry]] = defaultdict(list)
        self.best: dict[int, list[tuple[float, int, int]]] = defaultdict(list)
        self.rows: list[list[Any]] = []
        self.details: list[dict[str, Any]] = []
        for part in self.layer.split(atlas.folder):
            kept = part.read()
            self.cell, self.image = kept["cell"], kept["image"]
            self.names |= {int(key): text for key, text in kept["names"].items()}
            self.sizes |= {int(key): size for key, size in kept["sizes"].items()}
            for channel in part.channels:
                self._add(channel, kept["channels"][str(channel)]["neurons"])

    def _add(self, channel: int, neurons: list[dict[str, Any]]) -> None:
        row, spread = len(self.rows), self.spread
        strongest = float(self.index.values[self.layer.name][channel, 0])
        labels = spread.labels[row]
        for label, _, lift in labels:
            self.best[label].append((_round(lift), -self.number, -channel))
        for place, neuron in enumerate(neurons, 1):
            self.seen[neuron["sample"]].append((self.number, channel, place))
        samples = list(dict.fromkeys(neuron["sample"] for neuron in neurons))
        self.rows.append(
            [
                channel,
                _round(strongest) if neurons else None,
                0 if strongest > 0 else 1,
                round(float(spread.selectivity[row]), 3),
                samples,
                [label for label, *_ in labels],
            ]
        )
        more = {
            "neurons": neurons,
            "counts": spread.counts[row].tolist(),
            "low": f"{float(spread.low[row]):.3g}",
            "high": f"{float(spread.high[row]):.3g}",
            "labels": [(label, count, f"{lift:.1f}") for label, count, lift in labels],
            "alike": [(other, f"{cosine:.2f}") for other, cosine in spread.find_alike(row)],
            "steps": [
                (step, f"{found[self.layer.name][channel]:.3g}")
                for step, found in enumerate(self.values)
                if self.layer.name in found
            ],
        }
        self.details.append(more)

    def describe(self) -> dict[str, Any]:
        """Return what the template asks for."""
        atlas, layer = self.atlas, self.layer
        around = [
            (word, atlas.layers[place].page)
            for word, place in (("previous layer", self.number - 1), ("next", self.number + 1))
            if 0 <= place < len(atlas.layers)
        ]
        views = ["Patches", *(TITLES.get(method, method) for method in atlas.methods)]
        every = layer.shape[0]
        shown = f"{every}" if len(self.rows) == every else f"The first {len(self.rows)} of {every}"
        length = self.index.metadata["dataset"]["length"]
        sizes = set(map(tuple, self.sizes.values()))
        return {
            "noun": "channel",
            "title": f"Layer {layer.name}",
            "layer": layer.name,
            "around": around,
            "said": f"{shown} channels, each by its {self.index.k} strongest activations in "
            f"{length} images.",
            "about": atlas.about,
            "cards": [],
            "parts": [self.details[n : n + PART] for n in range(0, len(self.details), PART)],
            "dead": [row[0] for row in self.rows if row[2]],
            "views": views,
            "cell": self.cell,
            "image": self.image,
            "across": 3,
            "part": PART,
            "k": self.index.k,
            "images": self.spread.images,
            "strongest": self.spread.strongest,
            "seed": "its activation" if atlas.record["seed"] == "activation" else "one",
            "scale": describe_scale("projection"),
            "data": {
                "layer": layer.name,
                "views": views,
                "k": self.index.k,
                "cell": self.cell,
                "image": self.image,
                "sizes": self.sizes if len(sizes) > 1 else {},
                "folder": f"{PICTURES}/{layer.slug}",
                "images": _IMAGES,
                "page": "pictures.html",
                "part": PART,
                "names": self.names,
                "labels": atlas.labels,
                "steps": atlas.steps,
                "strongest": self.spread.strongest,
                "similar": self.spread.order(),
                "rows": self.rows,
            },
        }


def _describe_pictures(
    atlas: Atlas,
    index: ActivationIndex,
    names: Mapping[int, str],
    seen: Mapping[int, list[Entry]],
) -> dict[str, Any]:
    samples = sorted(seen)
    details = []
    for sample in samples:
        by_layer: dict[int, dict[int, int]] = defaultdict(dict)
        for layer, channel, place in sorted(seen[sample]):
            by_layer[layer].setdefault(channel, place)
        details.append(_pack([(layer, [*found.items()]) for layer, found in by_layer.items()]))
    labels = index.labels if atlas.labels else None
    return {
        "noun": "picture",
        "title": "Pictures",
        "total": len(samples),
        "part": PART,
        "k": index.k,
        "cards": [],
        "views": ["Images"],
        "cell": [1, 1],
        "data": {
            "rows": [[sample, -1 if labels is None else int(labels[sample])] for sample in samples],
            "names": {sample: names[sample] for sample in samples},
            "details": details,
            "labels": atlas.labels,
            "images": _IMAGES,
            "layers": [{"name": layer.name, "page": layer.page} for layer in atlas.layers],
        },
    }


def _describe_front(
    atlas: Atlas,
    network: Network,
    names: Mapping[int, str],
    best: Mapping[int, list[tuple[float, int, int]]],
    cells: Mapping[str, Sequence[int]],
    length: int,
) -> dict[str, Any]:
    channels = sum(len(layer.channels) for layer in atlas.layers)
    rows = draw_rail([step.sources for step in network.steps])
    wide = LANE * (1 + max(row.lane for row in rows))
    left = {layer.name for layer in atlas.layers}
    steps: list[dict[str, Any]] = []
    for step, row in zip(network.steps, rows, strict=True):
        doors = [layer for layer in atlas.layers if layer.name in {*step.layers} & left]
        left -= {layer.name for layer in doors}
        steps.append(
            {
                "kind": step.kind,
                "name": step.name,
                "path": row.path,
                "left": LANE * row.lane + LANE // 2,
                "size": _TIMES.join(map(str, step.shape)),
                "takes": _say_sources(network.steps, len(steps)),
                "doors": [
                    _describe_door(layer, len(atlas.methods), cells[layer.name]) for layer in doors
                ],
            }
        )
    for layer in atlas.layers:  # what gives no step of its own, at the end
        if layer.name in left:
            steps[-1]["doors"].append(_describe_door(layer, len(atlas.methods), cells[layer.name]))
    known = [
        {"name": atlas.labels[label], "best": [(-place, -c, lift) for lift, place, c in found]}
        for label, found in sorted(best.items())
        if label < len(atlas.labels)
    ]
    return {
        "title": atlas.title,
        "said": f"{len(atlas.layers)} layers, {channels} channels, by their strongest activations "
        f"in {length} images.",
        "about": atlas.about,
        "steps": steps,
        "wide": wide,
        "high": HEIGHT,
        "caption": "The network as its forward pass recorded it, from the image down; each line is "
        "what one operation gives to others. A layer that is shown is a door: how many channels it "
        "has, the size of its map, what a neuron sees of the image, and how far that moves from "
        "one neuron to the next. Its pictures are the strongest patches of its first channels.",
        "data": {
            "layers": [
                {"name": layer.name, "page": layer.page, "channels": len(layer.channels)}
                for layer in atlas.layers
            ],
            "labels": known,
            "pictures": sorted(names.items()),
        },
    }


def _say_sources(steps: Sequence[Step], number: int) -> str:
    """Say what a step takes, where it is not just the step before."""
    sources = steps[number].sources
    if sources in ((), (number - 1,)):
        return ""
    said = [steps[source].name or steps[source].kind for source in sources[:4]]
    more = [f"{len(sources) - 4} more"] if len(sources) > 4 else []
    return " and ".join([", ".join(said), *more] if more or len(said) != 2 else said)


def _describe_door(layer: Layer, methods: int, cell: Sequence[int]) -> dict[str, Any]:
    facts = [f"{layer.shape[0]} channels", _TIMES.join(map(str, layer.shape[1:])) or "no map"]
    if layer.size is None:
        facts.append("sees all of the image")
    else:
        facts.append(f"sees {_TIMES.join(map(str, layer.size))}")
    if layer.stride is not None:
        facts.append(f"stride {_TIMES.join(f'{step:g}' for step in dict.fromkeys(layer.stride))}")
    return {
        "name": layer.name,
        "page": layer.page,
        "dead": layer.dead,
        "facts": _DOT.join(facts),
        "tall": 1 + methods,
        "wide": f"{min(PART, len(layer.channels)) * cell[1] / cell[0]:.4g}",
        "film": f"{PICTURES}/{layer.slug}/part-0/sheet.webp",
        "small": max(cell) <= 32,
    }

"""A layer's gallery as files: the page and the contact sheets, whatever the layer's size.

A gallery holds its projections in memory: for 512 channels of a deep layer, of 224 x 224 pixels and
with three methods, 11 GB. So a layer is projected some channels at a time, and each part is written
before the next is made. The channels of the contact sheet come first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from captum_deconv.drawing.figures import save_figure
from captum_deconv.drawing.files import make_folder
from captum_deconv.features import ActivationIndex
from captum_deconv.gallery import projection
from captum_deconv.gallery.collection import Gallery
from captum_deconv.gallery.page import write_page
from captum_deconv.sources.models import LoadedModel

if TYPE_CHECKING:
    from captum_deconv.gallery.projector import Seed

SHEET = 24
"""Channels of a contact sheet."""

_MOST_BYTES = 2**29


@dataclass(frozen=True)
class Exhibit:
    """What was written of a layer.

    Attributes:
        page: The page.
        sheets: The contact sheet, as PNG and as PDF.
        channels: How many channels the page shows.
        dead: How many of them were never above zero.
    """

    page: Path
    sheets: tuple[Path, ...]
    channels: int
    dead: int


def describe(loaded: LoadedModel, data: str) -> str:
    """Describe network and data, for a caption.

    Args:
        loaded: The network.
        data: What was scanned.

    Returns:
        A sentence.
    """
    return f"{loaded.name} ({loaded.weights}) on {data}."


def show_layer(
    loaded: LoadedModel,
    index: ActivationIndex,
    dataset: Any,
    folder: str | Path,
    *,
    layer: str,
    channels: Sequence[int] | None = None,
    methods: Sequence[str] = ("deconvnet",),
    seed: Seed = "activation",
    workers: int = 0,
    fast: bool = False,
    about: str = "",
    most_bytes: int = _MOST_BYTES,
    report: Callable[[int], None] | None = None,
) -> Exhibit:
    """Project a layer of an index, and write its page and its contact sheet.

    Args:
        loaded: The network.
        index: What was found in it.
        dataset: The data set it was found on.
        folder: Gets ``index.html`` with its pictures, ``sheet.png`` and ``sheet.pdf``.
        layer: The layer's dotted name.
        channels: Which to show; all where left out. The sheet shows the first ones that are not
            dead, up to 24.
        methods: As for ``gallery.project``.
        seed: As there.
        workers: Processes that read images.
        fast: As for ``gallery.project``.
        about: What captions should add on the model and the data.
        most_bytes: About how much memory projections may take at a time.
        report: Called with the number of channels after each part that was projected.

    Returns:
        What was written.

    Raises:
        IndexError: If the layer has no such channel.
        IndexMismatchError: If the index is of another model or data set.
        OutputError: If the folder cannot be made or written to.
    """
    count = len(index.values[layer])
    asked = list(range(count)) if channels is None else list(channels)
    for channel in asked:
        if channel >= count:
            raise IndexError(
                f"channel {channel} is out of range: layer {layer!r} has {count}, from 0"
            )
    folder = Path(folder)
    make_folder(folder)
    alive = (index.values[layer] > 0).any(dim=1).tolist()
    # Dead ones only where there are no others: all the same, a sheet says so.
    shown = [c for c in asked if alive[c]][:SHEET] or asked[:SHEET]
    rest = [c for c in asked if c not in set(shown)]
    sheets = (folder / "sheet.png", folder / "sheet.pdf")

    def project(part: Sequence[int], check: bool) -> Gallery:
        found = projection.project(
            index,
            loaded.model,
            dataset,
            layer=layer,
            channels=part,
            method=methods,
            seed=seed,
            restore=loaded.restore,
            about=about,
            workers=workers,
            check=check,
            fast=fast,
        )
        if report is not None:
            report(len(part))
        return found

    def make_parts() -> Iterator[Gallery]:
        first = project(shown, True)
        # To the sheet its part would be the whole layer.
        note = f"The layer has {count} channels, {sum(not a for a in alive)} of them dead. {about}"
        figure = replace(first, about=note.strip()).figure(shown)
        for path in sheets:
            save_figure(figure, path)
        size = max(1, most_bytes // _measure_channel(first))
        yield first
        del first  # else it would be held through all that follows
        for start in range(0, len(rest), size):
            yield project(rest[start : start + size], False)

    page = write_page(make_parts(), folder, title=f"{loaded.name}: layer {layer}")
    return Exhibit(page, sheets, len(asked), sum(not alive[channel] for channel in asked))


def _measure_channel(part: Gallery) -> int:
    """Return the bytes that a channel takes: its patches, and as many for each method."""
    whole = part.patches.nelement() * part.patches.element_size() * (1 + len(part.methods))
    return max(1, whole // len(part.channels))

"""What an atlas's folder holds: taken up where a run was cut off, and completed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from captum_deconv.drawing.files import replace_file
from captum_deconv.features import ActivationIndex
from captum_deconv.features.records import find_differences
from captum_deconv.gallery.atlas.network import Network
from captum_deconv.gallery.atlas.pages import write_pages
from captum_deconv.gallery.atlas.reading import (
    FORMAT,
    KEPT,
    MANIFEST,
    PICTURES,
    RECORD,
    Atlas,
    AtlasError,
    Layer,
)

_MOST_LABELS = 100_000
"""Larger numbers are no classes."""


def take_up(folder: Path, record: Mapping[str, Any]) -> bool:
    """Hold a folder against what is asked for.

    Args:
        folder: It may be missing, empty, or hold an atlas.
        record: What is asked for.

    Returns:
        Whether the atlas is complete.

    Raises:
        AtlasError: If the folder holds something else; it names what differs.
    """
    kept = folder / KEPT / RECORD
    if kept.exists():
        try:
            known = json.loads(kept.read_text(encoding="utf-8"))
        except ValueError as error:
            raise AtlasError(f"{kept} is damaged ({error}): delete the folder") from error
        differences = find_differences(known, json.loads(json.dumps(record)))
        if differences:
            raise AtlasError(
                f"{folder} holds an atlas of something else (choose another folder, or delete "
                f"it): {'; '.join(differences)}"
            )
        return (folder / KEPT / MANIFEST).exists()
    if folder.is_dir():
        strange = [path.name for path in sorted(folder.iterdir()) if path.name != KEPT]
        if strange:
            raise AtlasError(
                f"{folder} holds something else than an atlas ({strange[0]}): choose a folder of "
                "its own"
            )
    return False


def finish(
    folder: Path,
    network: Network,
    layers: Sequence[Layer],
    index: ActivationIndex,
    record: Mapping[str, Any],
    values: Sequence[Mapping[str, list[float]]],
) -> None:
    """Write the pages, and last of all the manifest that says that all is there.

    Args:
        folder: The atlas's.
        network: The drawing.
        layers: The layers.
        index: The scan's.
        record: What it is made from.
        values: For each checkpoint by layer the strongest activation of each channel.
    """
    _clean(folder)
    labels = record["labels"] or _number_labels(index)
    made = Atlas(
        folder=folder,
        title=record["title"] or f"Atlas of {record['model']['name'].rpartition('.')[2]}",
        about=record["about"],
        layers=tuple(layers),
        methods=tuple(record["methods"]),
        record=dict(record),
        labels=tuple(labels),
        steps=tuple(record["checkpoints"]),
    )
    write_pages(made, network, index, values)
    manifest = {
        "format": FORMAT,
        "title": made.title,
        "about": made.about,
        "methods": made.methods,
        "labels": made.labels,
        "steps": made.steps,
        "record": record,
        "layers": [vars(layer) for layer in layers],
    }
    with replace_file(folder / KEPT / MANIFEST) as temporary:
        temporary.write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")


def _number_labels(index: ActivationIndex) -> list[str]:
    """Call labels by their numbers, where the data has labels and no names for them."""
    most = -1 if index.labels is None else int(index.labels.max())
    return [f"label {number}" for number in range(most + 1)] if most < _MOST_LABELS else []


def _clean(folder: Path) -> None:
    """Remove what processes that were killed left half-written."""
    for pattern in (".*", f"{KEPT}/.*", f"{PICTURES}/*/.*"):
        for left in folder.glob(pattern):
            if left.is_dir():
                shutil.rmtree(left, ignore_errors=True)
            else:
                left.unlink(missing_ok=True)

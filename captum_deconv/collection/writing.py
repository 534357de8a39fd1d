"""A run under way: answers to their rows, and a record of how far it has come.

Rows are written into place; from time to time what was written is made durable, and only then is
it recorded as done. What a run that was killed had written since is written again, the same.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from captum_deconv.collection.layout import FORMAT, MANIFEST, SIZES, CollectionError, Shard
from captum_deconv.drawing.files import make_folder, replace_file
from captum_deconv.features.records import find_differences

_BLOCK = 2**24
_WAITING = 2
"""Batches that may wait for the disk; with more of them memory would grow."""


class Progress:
    """How far one part of a run has come: a file, until the collection is complete.

    Args:
        folder: The collection's.
        number: Of the part.
        count: How many parts there are.
        record: What the collection is made from.

    Raises:
        CollectionError: If the folder holds a run of something else, or in other parts.
    """

    def __init__(self, folder: Path, number: int, count: int, record: Mapping[str, Any]) -> None:
        self.folder, self.number, self.count = folder, number, count
        self.record = json.loads(json.dumps(record))
        self.done = 0
        self.skipped: dict[str, str] = {}
        self.difference: float | None = None
        """How far a faster copy's attributions of the first batch are off."""
        for path in sorted(folder.glob("progress-*.json")):
            self._check(path)
        if self._path(number).exists():
            found = json.loads(self._path(number).read_text(encoding="utf-8"))
            self.done, self.skipped = found["done"], found["skipped"]
            self.difference = found["difference"]

    def _path(self, number: int) -> Path:
        return self.folder / f"progress-{number}-of-{self.count}.json"

    def _check(self, path: Path) -> None:
        if not path.stem.endswith(f"-of-{self.count}"):
            raise CollectionError(
                f"{path} is of a run in other parts than {self.count}: start as many, or delete "
                f"{self.folder} to begin afresh"
            )
        found = json.loads(path.read_text(encoding="utf-8"))["record"]
        check_record(self.folder, found, self.record)

    def save(self, whole: Mapping[str, Any] | None = None) -> None:
        """Write the file; with what the manifest is to say of the whole, if the part is done."""
        content = {
            "record": self.record,
            "done": self.done,
            "skipped": self.skipped,
            "difference": self.difference,
            "whole": whole,
        }
        with replace_file(self._path(self.number)) as temporary:
            temporary.write_text(json.dumps(content), encoding="utf-8")


def read_parts(folders: Sequence[Path]) -> tuple[list[dict[str, Any]], str]:
    """Read how far the parts of a run have come.

    Args:
        folders: Where they are.

    Returns:
        What each part that is complete wrote, by its number; and in words what is missing.

    Raises:
        CollectionError: If folders are of different runs.
    """
    found: dict[int, dict[str, Any]] = {}
    count = 0
    for path in (path for folder in folders for path in sorted(folder.glob("progress-*.json"))):
        _, number, _, parts = path.stem.split("-")
        if count not in (0, int(parts)):
            raise CollectionError(f"{path} is of a run in {parts} parts, others of {count}")
        count = int(parts)
        part = json.loads(path.read_text(encoding="utf-8"))
        for other in found.values():
            check_record(path.parent, part["record"], other["record"])
        if part["whole"] is not None:
            found[int(number)] = part
    missing = [str(number) for number in range(count) if number not in found]
    if missing or not count:
        return [], f"parts {', '.join(missing)} of {count}" if count else "every part"
    return [found[number] for number in range(count)], ""


def finish(folder: Path, parts: Sequence[Path]) -> bool:
    """Write the manifest if all parts are complete.

    Args:
        folder: The collection's.
        parts: Where the parts' progress is.

    Returns:
        Whether they were.
    """
    try:
        found, missing = read_parts(parts)
    except FileNotFoundError:
        missing = "another part has just finished"
    if missing:
        return (folder / MANIFEST).exists()
    skipped = {row: why for part in found for row, why in part["skipped"].items()}
    manifest = {
        "format": FORMAT,
        **found[0]["whole"],
        "skipped": {row: skipped[row] for row in sorted(skipped, key=int)},
        "difference": found[0]["difference"],
        "record": found[0]["record"],
    }
    with replace_file(folder / MANIFEST) as temporary:
        temporary.write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
    done = (f"{dot}{name}" for dot in ("", ".*-") for name in ("progress-*.json", SIZES))
    for path in (path for pattern in done for path in folder.glob(pattern)):
        path.unlink(missing_ok=True)  # a killed process leaves half-written ones
    return True


def merge_parts(folders: Sequence[Path], folder: Path) -> None:
    """Put together parts that were made in different folders.

    What a part has not written is zero in its files, so that the whole is the parts' bits together.

    Args:
        folders: The parts'.
        folder: For the whole.

    Raises:
        CollectionError: If a part is missing or not complete, or the folder holds something.
    """
    found, missing = read_parts(folders)
    if missing:
        raise CollectionError(
            f"{missing} cannot be found complete in {', '.join(map(str, folders))}: each part is "
            "made by collect with shard=(number, count)"
        )
    if folder.exists() and any(folder.iterdir()):
        raise CollectionError(f"{folder} is not empty: give a new folder")
    make_folder(folder)
    for name, *_ in found[0]["whole"]["shards"]:
        sources = [source / name for source in folders]
        if len({source.stat().st_size for source in sources}) > 1:
            raise CollectionError(f"{name} is not of one size in all folders: one is damaged")
        with replace_file(folder / name) as temporary:
            shutil.copyfile(sources[0], temporary)
            whole = np.memmap(temporary, np.uint8, "r+")
            for source in sources[1:]:
                part = np.memmap(source, np.uint8, "r")
                for start in range(0, len(whole), _BLOCK):
                    whole[start : start + _BLOCK] |= part[start : start + _BLOCK]
            whole.flush()
    finish(folder, folders)


def check_record(folder: Path, found: Mapping[str, Any], record: Mapping[str, Any]) -> None:
    """Hold what a folder was made from against what is asked for.

    Args:
        folder: The collection's.
        found: Its record.
        record: Of what is asked for.

    Raises:
        CollectionError: If they differ; it names what does.
    """
    differences = find_differences(dict(found), dict(record))
    if differences:
        raise CollectionError(
            f"{folder} holds a collection of something else (choose another folder, or delete "
            f"it): {'; '.join(differences)}"
        )


class Writer:
    """Writes rows in a thread of its own, while the model runs.

    Args:
        shards: The files.
        progress: What is recorded as done.
        seconds: How often.
    """

    def __init__(self, shards: Sequence[Shard], progress: Progress, seconds: float) -> None:
        self.shards, self.progress, self._seconds = shards, progress, seconds
        self._open: dict[Path, int] = {}
        self._waiting: list[Future[None]] = []
        self._saved = time.monotonic()

    @contextmanager
    def running(self) -> Iterator[None]:
        """Write until the context ends; then everything that was put is on the disk."""
        try:
            with ThreadPoolExecutor(1) as self._thread:  # at its end nothing is being written
                yield
                self._settle(0)
                self._commit()
        finally:
            for descriptor in self._open.values():
                os.close(descriptor)
            self._open = {}

    def put(self, rows: Sequence[int], values: Mapping[str, Tensor], done: int) -> None:
        """Give rows to write.

        Args:
            rows: Their numbers.
            values: Of each field a row for each, on the CPU.
            done: How many batches are complete with these.
        """
        self._settle(_WAITING - 1)
        self._waiting.append(self._thread.submit(self._write, list(rows), dict(values)))
        self.progress.done = done
        if time.monotonic() - self._saved >= self._seconds:
            self._settle(0)
            self._commit()

    def _settle(self, left: int) -> None:
        while len(self._waiting) > left:
            self._waiting.pop(0).result()

    def _commit(self) -> None:
        for descriptor in self._open.values():
            os.fsync(descriptor)
        self.progress.save()
        self._saved = time.monotonic()

    def _write(self, rows: list[int], values: dict[str, Tensor]) -> None:
        for shard in self.shards:
            inside = [place for place, row in enumerate(rows) if shard.start <= row < shard.stop]
            if not inside:
                continue
            if shard.path not in self._open:
                self._open[shard.path] = os.open(shard.path, os.O_RDWR)
            for field in shard.fields:
                content = values[field.name].contiguous().view(len(rows), -1)
                for place in inside:
                    at = shard.locate(field, rows[place])
                    data = content[place].view(torch.uint8).numpy().tobytes()
                    os.pwrite(self._open[shard.path], data, at)

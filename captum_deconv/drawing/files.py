"""Files written whole or not at all, and what to find out before the work about where they go."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path


class OutputError(OSError):
    """A place that nothing can be written to; the message names it and the reason."""


@contextlib.contextmanager
def replace_file(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Write a file so that a crash at any moment leaves the old content or the new one, whole.

    Args:
        path: The file.

    Yields:
        A path beside it, with the same suffix, to write to; it takes the file's place at the end,
        or is removed if something went wrong.
    """
    # Through a link to the file it stands for: the link itself is not what should be replaced.
    path = Path(path).resolve()
    temporary = path.with_name(f".{secrets.token_hex(6)}-{path.name}")
    try:
        yield temporary
        if path.exists():
            shutil.copymode(path, temporary)
        _make_durable(temporary)
        os.replace(temporary, path)
        if hasattr(os, "O_DIRECTORY"):  # the new name itself is durable once its folder is
            _make_durable(path.parent, os.O_DIRECTORY)
    finally:
        temporary.unlink(missing_ok=True)


def _make_durable(path: Path, flags: int = 0) -> None:
    descriptor = os.open(path, os.O_RDONLY | flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def check_output(
    path: str | Path, suffixes: Sequence[str], keep: Sequence[str | Path] = ()
) -> None:
    """Find out before the work whether a file can be written.

    Args:
        path: The file to be.
        suffixes: The endings it may have, such as ``.png``.
        keep: Files it must not be, such as the photograph that is read.

    Raises:
        OutputError: If its ending is another, its folder is missing or cannot be written to, the
            path is a folder, or it is one of the files to keep.
    """
    path = Path(path)
    if path.suffix.lower() not in suffixes:
        raise OutputError(f"{path}: the name must end in {' or '.join(suffixes)}")
    if path.is_dir():
        raise OutputError(f"{path}: this is a folder")
    if path.resolve() in [Path(kept).resolve() for kept in keep]:
        raise OutputError(f"{path}: this would overwrite the photograph; choose another name")
    folder = path.resolve().parent
    if not folder.is_dir():
        raise OutputError(f"{path}: there is no folder {folder}")
    check_folder(folder)
    if path.exists() and not os.access(path, os.W_OK):
        raise OutputError(f"{path}: the existing file is write-protected")


def make_folder(folder: str | Path) -> None:
    """Make a folder, with those above it, and find out whether files can be written into it.

    Args:
        folder: It may exist.

    Raises:
        OutputError: If it cannot be made or written to.
    """
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder}: the folder cannot be made ({error.strerror})") from error
    check_folder(folder)


def check_folder(folder: str | Path) -> None:
    """Find out whether files can be written into a folder, by writing one.

    Args:
        folder: An existing folder.

    Raises:
        OutputError: If they cannot.
    """
    try:
        # Tried, not asked: permissions alone do not tell of read-only and full file systems.
        with tempfile.TemporaryFile(dir=folder) as probe:
            probe.write(b"captum-deconv")
    except OSError as error:
        raise OutputError(f"{folder}: cannot be written to ({error.strerror})") from error

"""Pages that open from disk, with no server and no network.

``index.html`` holds the markup, the style, the script and the numbers; the pictures lie beside it
in one folder, so that a browser loads what is looked at. That folder is named by what is in it. It
is complete before ``index.html`` is replaced, in one step, by a page that points to it, and the old
one goes last: whoever opens the page, or kills this process, at any moment, finds the old page or
the new one.

A room's own template extends ``base.html`` here, or ``page.html``: cards, a filter, a dialog.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import secrets
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from captum_deconv.drawing.files import OutputError, make_folder, replace_file

if TYPE_CHECKING:
    from torch import Tensor

_PICTURES = re.compile(r'data-pictures="(pictures-[0-9a-f]{16})"')


class Page:
    """A page under way: pictures first, then the text that shows them."""

    def __init__(self, unfinished: Path) -> None:
        self.text = ""
        self._unfinished, self._digest = unfinished, hashlib.sha256()

    @property
    def pictures(self) -> str:
        """The name that the folder of the pictures has once the last one is saved."""
        return f"pictures-{self._digest.hexdigest()[:16]}"

    def save(self, picture: Tensor, name: str, *, lossless: bool = False) -> None:
        """Save a picture as WebP.

        Args:
            picture: ``uint8``, ``(3, H, W)``, or ``(4, H, W)`` where parts are transparent.
            name: Of the file, without its ending.
            lossless: Whether every pixel is kept as it is.
        """
        path = self._unfinished / f"{name}.webp"
        save_picture(picture, path, lossless=lossless)
        self._digest.update(name.encode() + path.read_bytes())

    def render(self, package: str, template: str, **values: Any) -> None:
        """Fill a template: autoescaped, because a file's name may hold any markup.

        Args:
            package: Whose ``templates`` folder holds it.
            template: Its file; it may extend and include those of this package.
            **values: What it asks for, beside ``pictures``.
        """
        self.text = render([package], template, pictures=self.pictures, **values)


def save_picture(picture: Tensor, path: Path, *, lossless: bool = False) -> None:
    """Save a picture as WebP; as `Page.save`."""
    from PIL import Image

    image = Image.fromarray(picture.permute(1, 2, 0).contiguous().numpy())
    image.save(path, "WEBP", lossless=lossless, quality=85, method=2)


def render(packages: Sequence[str], template: str, **values: Any) -> str:
    """Fill a template; as `Page.render`, of several packages, the first one's templates first."""
    from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

    loaders = [PackageLoader(package) for package in (*packages, "captum_deconv.drawing")]
    environment = Environment(
        loader=ChoiceLoader(loaders),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(**values)


@contextlib.contextmanager
def replace_page(folder: Path) -> Iterator[Page]:
    """Write a page; at the end it takes the place of the one that is there, whole or not at all.

    Args:
        folder: Made where it is missing; other files in it are left alone.

    Yields:
        The page, to save pictures of and to render.

    Raises:
        OutputError: If the folder cannot be made or written to.
    """
    make_folder(folder)
    index = folder / "index.html"
    unfinished = folder / f".pictures-{secrets.token_hex(8)}"
    before, useless = _find_pictures(index), [unfinished]
    try:
        unfinished.mkdir()
        page = Page(unfinished)
        yield page
        name = page.pictures
        if not (folder / name).is_dir():  # else the same pictures are there already, complete
            os.replace(unfinished, folder / name)
            useless.append(folder / name)
        with replace_file(index) as temporary:
            temporary.write_text(page.text, encoding="utf-8")
        useless[1:] = [] if before in (None, name) else [folder / before]
    except OutputError:
        raise
    except OSError as error:
        raise OutputError(f"{folder}: the page cannot be written ({error})") from error
    finally:
        # What no page points to: the old pictures, or the new ones where something went wrong.
        for left in useless:
            shutil.rmtree(left, ignore_errors=True)


def _find_pictures(index: Path) -> str | None:
    """Return the folder of pictures that a page of ours points to."""
    try:
        found = _PICTURES.search(index.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError):
        return None
    return found.group(1) if found else None


def shrink(picture: Tensor, side: int) -> Tensor:
    """Shrink pictures so that the longer side is at most ``side``.

    Args:
        picture: ``uint8``, ``(..., 3, H, W)``.
        side: In pixels.

    Returns:
        The same where they are as small already.
    """
    import torch
    from torch.nn.functional import interpolate

    height, width = picture.shape[-2:]
    by = side / max(height, width)
    if by >= 1:
        return picture
    size = [max(1, round(height * by)), max(1, round(width * by))]
    batch = picture.reshape(-1, *picture.shape[-3:]).float()
    small = interpolate(batch, size, mode="bilinear", antialias=True, align_corners=False)
    return small.round().clamp(0, 255).to(torch.uint8).reshape(*picture.shape[:-2], *size)

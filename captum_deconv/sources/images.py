"""Photographs for a network: any file Pillow reads, as plain RGB.

Whatever a file says about orientation, transparency or depth is settled here, once, and whatever
had to be decided on the way is kept as a note for the person who asked.
"""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

LONGEST_RATIO = 64
"""Longer to shorter side, at most: a resize of the shorter side to 256 pixels must stay small."""


class ImageError(ValueError):
    """A file that cannot be used as a photograph; the message names the file and the reason."""


class FolderError(OSError):
    """A folder that no images can be read from; the message names it and the reason."""


@dataclass(frozen=True)
class Photograph:
    """One image, ready for a network's preprocessing.

    ``image`` has mode RGB and stands upright; ``notes`` says what was decided on the way there,
    such as a transparent background laid over white.
    """

    name: str
    image: Image.Image
    notes: tuple[str, ...] = ()


def read_image(path: str | Path) -> Photograph:
    """Read an image file as upright RGB.

    The EXIF orientation is honoured, transparency is laid over white, grey, palette, CMYK and
    16-bit images are converted, and of several frames or pages the first is taken.

    Args:
        path: A file in any format Pillow reads.

    Returns:
        The photograph, with notes on what was decided.

    Raises:
        ImageError: If there is no such file, or it is a folder, no image, truncated, so large that
            it may be a decompression bomb, more than 64 times as long as wide, or in float pixels
            whose scale cannot be told (NaN, infinite, or outside 0 to 255).
    """
    path = Path(path)
    if path.is_dir():
        raise ImageError(f"{path}: this is a folder, not an image file")
    try:
        with warnings.catch_warnings():
            # Pillow warns at 89 million pixels and refuses at twice that; a network needs neither.
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as opened:
                frames = getattr(opened, "n_frames", 1)
                opened.load()
                upright = ImageOps.exif_transpose(opened)
    except FileNotFoundError:
        raise ImageError(f"{path}: no such file") from None
    except PermissionError:
        raise ImageError(f"{path}: the file may not be read (permission denied)") from None
    except UnidentifiedImageError:
        raise ImageError(f"{path}: not an image, or in a format Pillow cannot read") from None
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise ImageError(f"{path}: too large, perhaps a decompression bomb ({error})") from None
    except Exception as error:  # Pillow's decoders raise whatever the damage led them to
        raise ImageError(f"{path}: damaged or truncated ({error})") from error

    notes = [f"the first of {frames} frames is used"] if frames > 1 else []
    longer, shorter = max(upright.size), min(upright.size)
    if longer > LONGEST_RATIO * shorter:
        raise ImageError(
            f"{path}: {upright.width} x {upright.height} pixels is too narrow a strip "
            f"(at most {LONGEST_RATIO} times as long as wide); crop it first"
        )
    try:
        image, note = _convert_to_rgb(upright)
    except ImageError as error:
        raise ImageError(f"{path}: {error}") from None
    except (OSError, ValueError) as error:
        raise ImageError(f"{path}: mode {upright.mode} cannot be made RGB ({error})") from error
    return Photograph(path.name, image, tuple(notes + note))


def check_is_folder(folder: Path) -> None:
    """Check that there is a folder, whatever is in it; a FolderError says that there is none."""
    if not folder.is_dir():
        what = "this is a file" if folder.exists() else "there is no such folder"
        raise FolderError(f"{folder}: {what}; name a folder of images")


def find_images(folder: Path) -> list[Path]:
    """Find the images in a folder and in those below it.

    Args:
        folder: Where to look; links to folders are followed.

    Returns:
        The files, sorted by their paths below the folder, the same on every machine.

    Raises:
        FolderError: If there is no such folder, it cannot be read, or no image is in it.
    """
    check_is_folder(folder)
    endings = tuple(Image.registered_extensions())
    found: list[tuple[tuple[str, ...], Path]] = []
    problems: list[OSError] = []
    seen: set[str] = set()
    for above, folders, files in os.walk(folder, onerror=problems.append, followlinks=True):
        real = os.path.realpath(above)
        if real in seen:  # a link to a folder above would go round for ever
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in files:
            if name.lower().endswith(endings) and not name.startswith("."):
                path = Path(above, name)
                found.append((path.relative_to(folder).parts, path))
    if problems:
        raise FolderError(f"{problems[0].filename}: cannot be read ({problems[0].strerror})")
    if not found:
        raise FolderError(f"{folder}: no image in it or below (a file named .jpg, .png, ...)")
    return [path for _, path in sorted(found)]


def read_demo_image() -> Photograph:
    """Read the photograph of the cat Chelsea, which scikit-image ships.

    Returns:
        The photograph, 451 x 300 pixels.

    Raises:
        ImageError: If scikit-image is not installed.
    """
    try:
        from skimage import data
    except ImportError:
        raise ImageError(
            "the demo's photograph needs the extra: pip install 'captum-deconv[demo]'"
        ) from None
    return Photograph("chelsea.png", Image.fromarray(cast(Any, data).chelsea()))


def _convert_to_rgb(image: Image.Image) -> tuple[Image.Image, list[str]]:
    if image.mode in ("RGBA", "RGBa", "LA", "La", "PA") or "transparency" in image.info:
        layer = image.convert("RGBA")
        opaque = layer.getchannel("A").getextrema() == (255, 255)
        white = Image.new("RGBA", layer.size, "white")
        flat = Image.alpha_composite(white, layer).convert("RGB")
        return flat, [] if opaque else ["transparent parts are laid over white"]
    if image.mode.startswith("I") or image.mode == "F":
        # Pillow's own conversion clips these at 255 and shows a white rectangle.
        return _scale_deep_grey(np.asarray(image)).convert("RGB"), [
            "deep grey values are scaled to 8 bits"
        ]
    return image.convert("RGB"), []


def _scale_deep_grey(pixels: np.ndarray) -> Image.Image:
    if not np.isfinite(pixels).all():
        raise ImageError("the pixels hold NaN or infinite values")
    low, high = float(pixels.min()), float(pixels.max())
    floating = np.issubdtype(pixels.dtype, np.floating)
    top = (1.0 if high <= 1 else 255.0) if floating else 65535.0
    if low < 0 or high > top:
        raise ImageError(
            f"pixel values run from {low:g} to {high:g}, so their scale cannot be told; "
            "save the image as 8-bit or 16-bit first"
        )
    return Image.fromarray(np.round(pixels * (255.0 / top)).astype(np.uint8))

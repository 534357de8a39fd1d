"""Attributions as pictures of TensorBoard.

from torch.utils.tensorboard import SummaryWriter
from captum_deconv import compare
from captum_deconv.seams.tensorboard import add_attributions

with SummaryWriter("runs") as writer:
    add_attributions(writer, "attributions", compare(model, images, target), global_step=0)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from torch import Tensor

from captum_deconv.drawing.colours import to_colour, to_magnitude

Pictures = npt.NDArray[np.uint8]
Style = Literal["colour", "magnitude"]


def add_attributions(
    writer: Any,
    tag: str,
    attributions: Tensor | Mapping[str, Tensor],
    global_step: int | None = None,
    *,
    style: Style = "colour",
) -> None:
    """Write attributions as images: one grid for each method, a picture for each example.

    Args:
        writer: A ``torch.utils.tensorboard.SummaryWriter``, or another with its ``add_images``.
        tag: What the images are called; of a dictionary, ``tag/method``.
        attributions: ``(N, C, H, W)``, or a dictionary of them by method, as
            :func:`captum_deconv.compare` returns it.
        global_step: The step of the training that they belong to.
        style: As for :func:`to_pictures`.

    Raises:
        TypeError: If the writer takes no images.
        ValueError: If an attribution is of another shape, or the style unknown.
    """
    if not hasattr(writer, "add_images"):
        raise TypeError(
            f"a {type(writer).__name__} takes no images; a torch.utils.tensorboard.SummaryWriter "
            "does: pip install 'captum-deconv[lightning]' has TensorBoard"
        )
    named = {tag: attributions} if isinstance(attributions, Tensor) else _nest(tag, attributions)
    drawn = {name: to_pictures(attribution, style) for name, attribution in named.items()}
    for name, pictures in drawn.items():
        writer.add_images(name, pictures, global_step, dataformats="NHWC")


def to_pictures(attributions: Tensor, style: Style = "colour") -> Pictures:
    """Draw each example's attribution, each on its own scale.

    Args:
        attributions: ``(N, C, H, W)``.
        style: ``"colour"``, signed, around mid-grey, for one or three channels; or ``"magnitude"``,
            the largest absolute value over the channels, white on black.

    Returns:
        ``(N, H, W, 3)``, in 0 to 255.

    Raises:
        ValueError: If the attributions are of another shape, or the style is unknown.
    """
    if attributions.dim() != 4:
        raise ValueError(
            f"attributions to draw have shape (N, C, H, W), not {tuple(attributions.shape)}"
        )
    if style == "colour":
        drawn = [to_colour(attribution) for attribution in attributions]
    elif style == "magnitude":
        drawn = [np.stack([to_magnitude(each)] * 3, axis=-1) for each in attributions]
    else:
        raise ValueError(f"unknown style {style!r}: choose from colour, magnitude")
    return np.rint(255 * np.stack(drawn)).astype(np.uint8)


def _nest(tag: str, attributions: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"{tag}/{method}": attribution for method, attribution in attributions.items()}

r"""Signed values as colours.

An attribution ``a`` of shape ``(C, H, W)`` has signs and no natural scale. Three views are drawn of
it, each on a scale ``s``, a high percentile of the non-zero ``|a|``, so that one stray pixel does
not turn all others grey:

* in colour, around mid-grey: ``0.5 + a / (2 s)``, clipped to [0, 1];
* its magnitude, the largest over the channels: ``max_c |a_c| / s``, clipped, black on white;
* over the photograph, faint and grey: the sum over the channels, red above zero and blue below, as
  opaque as ``|sum_c a_c| / s``, clipped.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from torch import Tensor

Array = npt.NDArray[np.float32]

PERCENTILE = 99.5
TITLES = {
    "input_gradient": "Input gradient",
    "guided_backprop": "Guided backprop",
    "deconvnet": "Deconvnet",
    "guided_gradcam": "Guided Grad-CAM",
}
"""What a method is called above its picture."""

_ABOVE, _BELOW = np.array([[0.78, 0.06, 0.1], [0.05, 0.3, 0.75]], np.float32)
_FAINT = 0.3
"""How much of the photograph's contrast is left under the colours."""


def measure_scale(attribution: Tensor, percentile: float = PERCENTILE) -> float:
    """Measure the value that is drawn at full strength.

    Args:
        attribution: Any shape.
        percentile: Of the absolute values that are not zero, in (0, 100].

    Returns:
        The scale ``s``, positive; 1 where all is zero.
    """
    magnitude = attribution.detach().abs().float().cpu().numpy().ravel()
    magnitude = magnitude[magnitude > 0]
    return float(np.percentile(magnitude, percentile)) if magnitude.size else 1.0


def to_colour(attribution: Tensor, percentile: float = PERCENTILE) -> Array:
    """Draw signed values around mid-grey: ``0.5 + a / (2 s)``.

    Args:
        attribution: ``(3, H, W)``, or ``(1, H, W)`` for a grey picture.
        percentile: What sets the scale ``s``, see ``measure_scale``.

    Returns:
        ``(H, W, 3)`` in [0, 1]; 0.5 is zero.
    """
    signed = as_picture(attribution) / (2 * measure_scale(attribution, percentile))
    colour: Array = np.clip(0.5 + signed, 0, 1)
    return colour


def to_magnitude(attribution: Tensor, percentile: float = PERCENTILE) -> Array:
    """Draw how much each pixel matters, whatever the sign and the channel: ``max_c |a_c| / s``.

    Args:
        attribution: ``(C, H, W)``.
        percentile: What sets the scale ``s``, the same as for ``to_colour``.

    Returns:
        ``(H, W)`` in [0, 1]; 0 is nothing.
    """
    magnitude = attribution.detach().abs().float().cpu().amax(dim=0)
    scaled: Array = (magnitude / measure_scale(attribution, percentile)).clamp(max=1).numpy()
    return scaled


def to_overlay(attribution: Tensor, photograph: Tensor, percentile: float = PERCENTILE) -> Array:
    """Draw the channels' sum over a photograph: red above zero, blue below.

    Args:
        attribution: ``(C, H, W)``, enlarged where it is smaller than the photograph.
        photograph: ``(1 or 3, H, W)`` in [0, 1].
        percentile: What sets the scale ``s`` of the sum, see ``measure_scale``.

    Returns:
        ``(H, W, 3)`` in [0, 1].
    """
    from torch.nn.functional import interpolate

    total = attribution.detach().cpu().float().sum(0).nan_to_num()
    scale = measure_scale(total, percentile)
    size = photograph.shape[-2:]
    if total.shape != size:
        total = interpolate(total[None, None], size, mode="bilinear", align_corners=False)[0, 0]
    signed = (total / scale).clamp(-1, 1).numpy()[..., None]
    opacity = np.abs(signed)
    faint = 1 - (1 - as_picture(photograph).mean(2, keepdims=True)) * _FAINT
    overlay: Array = faint * (1 - opacity) + np.where(signed > 0, _ABOVE, _BELOW) * opacity
    return overlay


def as_picture(tensor: Tensor) -> Array:
    """Lay an image out as matplotlib takes it.

    Args:
        tensor: ``(3, H, W)``, or ``(1, H, W)`` for a grey one.

    Returns:
        The same values, ``(H, W, 3)``.

    Raises:
        ValueError: If it is of another shape.
    """
    if tensor.dim() != 3 or tensor.shape[0] not in (1, 3):
        raise ValueError(
            f"a picture has shape (1, H, W) or (3, H, W), this tensor {tuple(tensor.shape)}"
        )
    array: Array = tensor.detach().float().cpu().permute(1, 2, 0).numpy()
    return np.broadcast_to(array, (*array.shape[:2], 3))

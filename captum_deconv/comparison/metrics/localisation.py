"""Does the map name the object's pixels, where a box or a mask says where it is?

Judged is the image's own class; a map may rightly name what is beside the object, if the network
looks there.
"""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import torch
from torch import Tensor

from captum_deconv.comparison.cases import NO_PIXEL, Case
from captum_deconv.comparison.methods import CannotError

NO_BOX = "no box is known of this image"


def inside(case: Case) -> dict[str, float]:
    """Measure how much of what the map names lies in the box, or on the mask.

    Kohlbrenner et al. 2020, arXiv:1910.09840, section 4.1 (attribution localisation): the positive
    part within the box over all of it. Computed here, since Quantus 0.6 divides by zero where it is
    given one image, and adds 1e-9 to a sum that may itself be as small.

    Args:
        case: An image and a method.

    Returns:
        ``"share"``, in [0, 1]; ``"box"``, the box's share of the image, which a map that knows
        nothing gets; and ``"over box"``, the first over the second.
    """
    mask, weights = _mask(case).to(case.image), _weigh(case)
    share = float((weights * mask).sum() / weights.sum())
    area = float(mask.mean())
    return {"share": share, "box": area, "over box": share / area}


def pointing(case: Case) -> dict[str, float]:
    """Tell whether the map's strongest pixel lies in the box.

    Zhang et al. 2016, arXiv:1608.00507, section 4.2 (the pointing game), as Quantus has it.

    Args:
        case: An image and a method.

    Returns:
        ``"hit"``, 0 or 1.
    """
    quantus: Any = importlib.import_module("quantus")

    mask, weights = _mask(case), _weigh(case)
    (hit,) = quantus.PointingGame(normalise=False, disable_warnings=True)(
        case.model,
        case.image.cpu().numpy(),
        np.array([case.target]),
        a_batch=weights[None, None].cpu().numpy(),
        s_batch=mask[None, None].numpy(),
        device=case.image.device,
    )
    return {"hit": float(np.asarray(hit).item())}


def _mask(case: Case) -> Tensor:
    if case.box is None:
        raise CannotError(NO_BOX)
    if isinstance(case.box, Tensor):
        return case.box.float().cpu()
    left, top, right, bottom = case.box
    mask = torch.zeros(case.image.shape[2:])
    mask[top:bottom, left:right] = 1
    return mask


def _weigh(case: Case) -> Tensor:
    weights = case.weights.clamp(min=0)
    if not weights.any():
        raise CannotError(NO_PIXEL)
    return weights

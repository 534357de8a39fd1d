"""Do the pixels that the map names matter to the output?"""

from __future__ import annotations

import importlib
import warnings
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.functional import gaussian_blur

from captum_deconv.comparison import _captum
from captum_deconv.comparison.cases import Case
from captum_deconv.comparison.seeds import seeded

_POINTS = 16
_STEPS_AT_MOST = 32
_ROAD_SHARES = (0.1, 0.3, 0.5, 0.7, 0.9)
_ROAD_NOISE = 0.01
"""Of the authors' code; far below what is left of any image once it is normalised."""


def deletion(case: Case) -> dict[str, float]:
    """Take the pixels away, the most important ones first: the lower the curve, the better.

    Petsiuk et al. 2018, "RISE", arXiv:1806.07421, section 4.1; a pixel that is taken away is the
    mean of the image.

    Args:
        case: An image and a method.

    Returns:
        ``"area"`` under the class's probability, in [0, 1].
    """
    gone = case.image.mean((2, 3), keepdim=True).expand_as(case.image)
    return {"area": _area(case.ask(_replace(case, case.image, gone)))}


def insertion(case: Case) -> dict[str, float]:
    """Bring the pixels back into a blurred image, the most important ones first.

    Petsiuk et al. 2018, section 4.1: the higher the curve, the better.

    Args:
        case: An image and a method.

    Returns:
        ``"area"`` under the class's probability, in [0, 1].
    """
    return {"area": _area(case.ask(_replace(case, _blur(case.image), case.image)))}


def _replace(case: Case, old: Tensor, new: Tensor) -> Tensor:
    """Return images ``(P, C, H, W)`` in which ever more of the old pixels are the new one's."""
    ranks = case.weights.flatten().argsort(descending=True, stable=True).argsort()
    ranks = ranks.reshape(case.weights.shape)
    shares = torch.linspace(0, 1, _POINTS + 1, device=ranks.device)
    replaced = ranks < (shares * ranks.numel()).round()[:, None, None]
    return torch.where(replaced[:, None], new, old)


def _area(curve: Tensor) -> float:
    return float(torch.trapezoid(curve.double(), dx=1 / (len(curve) - 1)))


def _blur(image: Tensor) -> Tensor:
    side = min(image.shape[2:])
    kernel = min(51, 2 * (side // 4) + 1)
    blurred: Tensor = gaussian_blur(image, [kernel, kernel], [kernel / 4, kernel / 4])
    return blurred


def road(case: Case) -> dict[str, float]:
    """Take the pixels away as ROAD does, the most important ones first: the lower, the better.

    Rong et al. 2022, arXiv:2202.00449, section 5: each pixel that is taken away becomes the
    weighted mean of its eight neighbours, those taken away among them, plus noise; so the shape of
    what was taken away tells little of the class. The imputation is Quantus's. Its metric ``ROAD``
    is not used: Quantus 0.6 counts the values of all channels as pixels, an ``IndexError`` on any
    image of more than one channel, and of several batches it returns the first one's result.

    Args:
        case: An image and a method.

    Returns:
        ``"accuracy"``, the share of the steps at which the class still has the highest score, the
        paper's measure once it is averaged over images; and ``"probability"``, that of the class,
        averaged over the steps.
    """
    imputing: Any = importlib.import_module("quantus.functions.perturb_func")

    image = case.image[0].double().cpu().numpy()
    order = case.weights.flatten().argsort(descending=True, stable=True).cpu().numpy()
    with seeded(*case.key, "road"):
        imputed = [
            imputing.noisy_linear_imputation(
                image, order[: round(share * len(order))].copy(), noise=_ROAD_NOISE
            )
            for share in _ROAD_SHARES
        ]
    images = torch.from_numpy(np.stack(imputed)).to(case.image)
    with torch.no_grad():
        scores = case.model(images)
    kept, given = scores.argmax(1) == case.target, scores.softmax(1)[:, case.target]
    return {"accuracy": float(kept.float().mean()), "probability": float(given.mean())}


def pixel_flipping(case: Case) -> dict[str, float]:
    """Flip pixels to the mean, the most important ones first, as Quantus does it.

    Bach et al. 2015, doi:10.1371/journal.pone.0130140. What Quantus 0.6 flips is not a pixel of the
    paper but a value of one channel: it repeats the map for each channel and sorts all values.

    Args:
        case: An image and a method.

    Returns:
        ``"area"`` under the class's probability; the lower, the better.
    """
    quantus: Any = importlib.import_module("quantus")

    channels, height, width = case.image.shape[1:]
    steps = next(s for s in range(height * width, 0, -1) if _divides(s, channels, height * width))
    metric = quantus.PixelFlipping(
        features_in_step=height * width // steps,
        perturb_baseline="mean",
        normalise=False,
        disable_warnings=True,
    )
    (curve,) = _judge(metric, case, softmax=True)
    return {"area": _area(torch.tensor(curve))}


def _divides(steps: int, channels: int, pixels: int) -> bool:
    return pixels % steps == 0 and channels * steps <= _STEPS_AT_MOST


def faithfulness_correlation(case: Case) -> dict[str, float]:
    """Correlate what random pixels are said to matter with what hiding them changes.

    Bhatt et al. 2020, arXiv:2005.00631, definition 3, as Quantus has it; of the class's score,
    which is what the methods explain.

    Args:
        case: An image and a method.

    Returns:
        ``"correlation"``, in [-1, 1]; the higher, the better.
    """
    quantus: Any = importlib.import_module("quantus")

    metric = quantus.FaithfulnessCorrelation(
        nr_runs=24,
        subset_size=case.image[0, 0].numel() // 8,
        perturb_baseline="mean",
        normalise=False,
        return_aggregate=False,
        disable_warnings=True,
    )
    (correlation,) = _judge(metric, case, softmax=False)
    return {"correlation": float(correlation)}


def _judge(metric: Any, case: Case, **how: Any) -> Any:
    with seeded(*case.key, type(metric).__name__), warnings.catch_warnings():
        # Where the output does not change, there is no correlation: the value is NaN.
        warnings.filterwarnings("ignore", "An input array is constant")
        return metric(
            case.model,
            case.image.cpu().numpy(),
            np.array([case.target]),
            a_batch=case.weights[None, None].cpu().numpy(),
            device=case.image.device,
            **how,
        )


def infidelity(case: Case) -> dict[str, float]:
    """Measure the infidelity to hiding a random square, as Captum does it.

    Yeh et al. 2019, arXiv:1901.09392, definition 2.1 and section 2.2 (square removal), with the
    best scaling (``normalize``); of the class's score. A gradient is multiplied by the change of
    the image, as the paper has it; a share already counts the change, and is summed over the
    square.

    Args:
        case: An image and a method.

    Returns:
        ``"infidelity"``, from 0; the lower, the better.
    """
    image, gradient = case.image, case.method.values == "gradient"
    mean = image.mean((2, 3), keepdim=True)

    def hide(inputs: Tensor) -> tuple[Tensor, Tensor]:
        hidden = torch.stack([_draw_square(inputs) for _ in inputs])[:, None]
        change = hidden * (inputs - mean)
        return change if gradient else hidden.expand_as(inputs).to(inputs), inputs - change

    def ask(inputs: Tensor) -> Tensor:
        found: Tensor = case.model(inputs)[:, case.target]
        return found

    attribution = case.attribution
    if attribution.shape != image.shape:  # one value for all channels of a pixel
        attribution = attribution.expand_as(image) / image.shape[1]
    with seeded(*case.key, "infidelity"), torch.no_grad(), _captum.quiet():
        found = _captum.infidelity(
            ask,
            hide,
            image,
            attribution,
            n_perturb_samples=32,
            max_examples_per_batch=16,
            normalize=True,
        )
    return {"infidelity": float(found)}


def _draw_square(inputs: Tensor) -> Tensor:
    height, width = inputs.shape[2:]
    side = max(1, min(height, width) // 4)
    top, left = (int(torch.randint(size - side + 1, ())) for size in (height, width))
    square = torch.zeros(height, width, dtype=torch.bool, device=inputs.device)
    square[top : top + side, left : left + side] = True
    return square


def sensitivity(case: Case) -> dict[str, float]:
    """Measure how far a change nobody sees can move the map, as Captum does it.

    Yeh et al. 2019, definition 3.1: the largest change over noise of at most 0.02, over the map's
    norm. A map that never changes has 0, a good one only among those that depend on the network.

    Args:
        case: An image and a method.

    Returns:
        ``"sensitivity"``, from 0.
    """

    def explain(inputs: Any, **_: Any) -> Tensor:
        return case.explain(image=inputs[0] if isinstance(inputs, tuple) else inputs)

    with seeded(*case.key, "sensitivity"), _captum.quiet():
        found = _captum.sensitivity_max(
            explain,
            case.image,
            perturb_radius=0.02,
            n_perturb_samples=4,
            max_examples_per_batch=1,
        )
    return {"sensitivity": float(found)}

"""One image as one method explains it: what a metric is given."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from captum_deconv.comparison.methods import CannotError, Method
from captum_deconv.comparison.randomising import Randomised
from captum_deconv.comparison.seeds import seeded

Box = tuple[int, int, int, int]
"""Left, top, right and bottom of an object, in pixels of the network's input; the right and the
bottom are the first ones outside."""

Where = Box | Tensor
"""Where an object is: a box, or a mask ``(H, W)``, true on its pixels."""


@dataclass
class Case:
    """One image as one method explains it.

    Attributes:
        model: The network.
        randomised: Its copies with random weights.
        method: The method.
        image: ``(1, C, H, W)``.
        target: The class that is explained.
        layer: Grad-CAM's, by its name.
        box: Where the object is, if that is known: a box or a mask.
        key: What the case's randomness is drawn from: the seed and the image, not the method, so
            that all methods meet the same noise.
    """

    model: nn.Module
    randomised: Randomised
    method: Method
    image: Tensor
    target: int
    layer: str | None
    box: Where | None
    key: tuple[Any, ...]

    def explain(
        self,
        model: nn.Module | None = None,
        image: Tensor | None = None,
        target: int | None = None,
    ) -> Tensor:
        """Explain something: the same each time, since the method's own noise is the image's.

        Args:
            model: Another network; the case's where left out.
            image: Other images ``(N, C, H, W)``.
            target: Another class.

        Returns:
            The attribution, ``(N, C or 1, H, W)``, finite.

        Raises:
            CannotError: If the method cannot explain this, and why.
        """
        model = self.model if model is None else model
        image = self.image if image is None else image
        target = self.target if target is None else target
        classes = torch.full((len(image),), target, device=image.device)
        with seeded(*self.key, "method"):
            try:
                found = self.method.explain(model, image, classes, self.layer)
            except CannotError:
                raise
            except Exception as error:  # whatever a method does on a network it was not made for
                raise CannotError(f"{type(error).__name__}: {error}") from error
        if not bool(found.isfinite().all()):
            raise CannotError("the attribution has values that are not finite")
        return found.detach().float()

    @cached_property
    def attribution(self) -> Tensor:
        """The attribution of the image's own class, ``(1, C or 1, H, W)``."""
        return self.explain()

    @cached_property
    def weights(self) -> Tensor:
        """How much each pixel matters, ``(H, W)``: :meth:`Method.weigh`; never 0 everywhere."""
        weights = self.method.weigh(self.attribution)[0]
        if not weights.any():
            raise CannotError(NO_PIXEL)
        return weights

    @cached_property
    def scores(self) -> Tensor:
        """The network's output for the image, ``(classes,)``."""
        with torch.no_grad():
            output: Tensor = self.model(self.image)
        return output[0]

    def ask(self, images: Tensor) -> Tensor:
        """Return the probability that the network gives the class in each image, ``(N,)``.

        Args:
            images: ``(N, C, H, W)``.

        Returns:
            In [0, 1]: the softmax over the network's outputs.
        """
        with torch.no_grad():
            batches = [
                self.model(batch).softmax(1)[:, self.target] for batch in torch.split(images, 16)
            ]
        return torch.cat(batches)


NO_PIXEL = "the map is 0 everywhere: it names no pixel"

Measure = Callable[[Case], dict[str, float]]
"""A metric: from a case to its values by their names, NaN where one is not defined."""


class Mixed(nn.Module):
    """A network whose one output is a mixture of another's: ``sum_k v_k f_k(x)``.

    Its backward pass starts from ``v`` where that of class ``k`` starts from 1 at ``k`` alone.

    Args:
        model: The other network; its layers keep their names.
        mixture: ``v``, one for each output.
    """

    def __init__(self, model: nn.Module, mixture: Tensor) -> None:
        super().__init__()
        self.model, self.mixture = model, mixture

    def forward(self, images: Tensor) -> Tensor:
        """Return the mixture, ``(N, 1)``."""
        mixed: Tensor = (self.model(images) * self.mixture).sum(1, keepdim=True)
        return mixed

    def get_submodule(self, target: str) -> nn.Module:
        """Find a layer by the name that it has in the other network."""
        return self.model.get_submodule(target)


def average(values: Sequence[float]) -> float:
    """Return the mean of the finite values; NaN where there is none."""
    finite = torch.tensor([value for value in values if value == value])
    return float(finite.mean()) if len(finite) else float("nan")

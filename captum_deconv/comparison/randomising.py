"""A copy of a network, stage by stage without what it learned.

Adebayo et al. 2018, "Sanity checks for saliency maps", arXiv:1810.03292, section 3. They initialise
the weights anew; here each parameter is drawn from a normal distribution of its own mean and
standard deviation, and what batch norms counted is kept, so that signals stay of about the size
that they were in deep networks, too.
"""

from __future__ import annotations

import copy
import itertools

import torch
from torch import Tensor, nn

from captum_deconv.comparison.seeds import seeded


class Randomised:
    """One copy of a network, in which any stages can be made random.

    Args:
        model: The network, which is left as it is.
        stages: Into how many stages to divide it, by its parameters' order.
        seed: What the random weights are drawn from, the same for every image and method.
    """

    def __init__(self, model: nn.Module, stages: int, seed: int) -> None:
        self._copy = copy.deepcopy(model)
        self._learned = {name: each.detach() for name, each in model.named_parameters()}
        self._seed = seed
        owners = list(dict.fromkeys(name.rpartition(".")[0] for name in self._learned))
        count = min(stages, len(owners))
        bounds = [len(owners) * stage // count for stage in range(count + 1)] if count else [0]
        self.stages = [tuple(owners[first:last]) for first, last in itertools.pairwise(bounds)][
            ::-1
        ]
        """Names of the modules in each stage, the one next to the output first."""
        self._random: set[str] = set()

    def cascade(self, stage: int) -> nn.Module:
        """Return the copy with all stages from the output down to this one random.

        Args:
            stage: The last of them; 0 is the one next to the output.

        Returns:
            The copy, valid until the next call.
        """
        return self._randomise({name for each in self.stages[: stage + 1] for name in each})

    def alone(self, stage: int) -> nn.Module:
        """Return the copy with this stage alone random, valid until the next call."""
        return self._randomise(set(self.stages[stage]))

    @torch.no_grad()
    def _randomise(self, owners: set[str]) -> nn.Module:
        for name, parameter in self._copy.named_parameters():
            owner = name.rpartition(".")[0]
            if owner in owners and owner not in self._random:
                parameter.copy_(self._draw(name))
            elif owner in self._random and owner not in owners:
                parameter.copy_(self._learned[name])
        self._random = owners
        return self._copy

    def _draw(self, name: str) -> Tensor:
        learned = self._learned[name].float().cpu()
        spread = learned.std(unbiased=False)
        with seeded(self._seed, name):
            return torch.randn(learned.shape) * spread + learned.mean()

"""Conditions on tensors' values, read from a device all at once.

To read one value of a tensor on a GPU is to wait until the GPU has done all that it was told to. So
there a condition is written down when it is known, and all of them are read in one go, when the
result is there and would be waited for anyway. On the CPU each is read at once.
"""

from collections.abc import Callable

import torch
from torch import Tensor


class Checks:
    """What is to be true of one call's tensors."""

    def __init__(self) -> None:
        self._waiting: list[tuple[Tensor, Callable[[], Exception]]] = []

    def require(self, condition: Tensor, error: Callable[[], Exception]) -> None:
        """Require a condition.

        Args:
            condition: A tensor of one bool.
            error: Makes what is raised where it is false: now, or by :meth:`settle`.
        """
        if is_far(condition):
            self._waiting.append((condition, error))
        elif not condition:
            raise error()

    def settle(self) -> None:
        """Wait for the device, once, and raise the first error there is."""
        if not self._waiting:
            return
        waiting, self._waiting = self._waiting, []
        device = waiting[0][0].device
        conditions = torch.stack([condition.to(device) for condition, _ in waiting])
        for holds, (_, error) in zip(conditions.tolist(), waiting, strict=True):
            if not holds:
                raise error()


def is_far(tensor: Tensor) -> bool:
    """Tell whether reading a value means waiting."""
    return tensor.device.type != "cpu"

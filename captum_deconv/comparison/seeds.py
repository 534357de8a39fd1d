"""Randomness that is the same each time, and leaves the caller's as it was."""

from __future__ import annotations

import contextlib
import zlib
from collections.abc import Iterator

import numpy as np
import torch


@contextlib.contextmanager
def seeded(*words: object) -> Iterator[None]:
    """Seed torch's and NumPy's global generators, which Captum and Quantus draw from.

    Args:
        *words: What the randomness is of; the same words give the same numbers.

    Yields:
        Nothing; afterwards the generators go on as if nothing had been drawn.
    """
    seed = zlib.crc32("/".join(map(str, words)).encode())
    state = np.random.get_state()
    with torch.random.fork_rng():
        try:
            torch.manual_seed(seed)
            np.random.seed(seed)
            yield
        finally:
            np.random.set_state(state)

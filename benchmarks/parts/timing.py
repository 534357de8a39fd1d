"""Times that are told as ratios: calls in turn, in one process."""

import statistics
import time
from collections.abc import Callable

import torch
from parts.machine import synchronize


def time_alternately(
    calls: dict[str, Callable[[], object]], device: torch.device, rounds: int
) -> dict[str, list[float]]:
    """Return the seconds of each call in each round; the calls take turns within a round."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(rounds + 1):
        for name, call in calls.items():
            synchronize(device)
            start = time.perf_counter()
            call()
            synchronize(device)
            if number:  # the first round warms up
                seconds[name].append(time.perf_counter() - start)
    return seconds


def ratio(numerator: list[float], denominator: list[float]) -> dict[str, float]:
    """Return the median of the ratios pair by pair, with the quartiles."""
    ratios = [a / b for a, b in zip(numerator, denominator, strict=True)]
    low, middle, high = statistics.quantiles(ratios, n=4)
    return {"median": round(middle, 4), "quartiles": [round(low, 4), round(high, 4)]}

"""A network drawn beside the list of its steps: a lane for each signal that is still needed.

Steps come in forward order, one below the other. A signal goes down its lane until the last step
that takes it; what a step gives takes the leftmost lane that is free. A skip is then a line that
passes a block by, and a branch one that leaves it.

>>> skip = [(), (0,), (1, 0)]  # a step, and the sum of what it gives with what it took
>>> [row.lane for row in draw_rail(skip)]
[0, 1, 0]
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

LANE, HEIGHT = 14, 10
"""Width of a lane; height of a row, which the page stretches to that of its text."""


@dataclass(frozen=True)
class Row:
    """One step's part of the drawing.

    Attributes:
        lane: The step's, from the left.
        path: Lines as SVG writes them, in a box ``HEIGHT`` high.
    """

    lane: int
    path: str


def draw_rail(sources: Sequence[Sequence[int]]) -> list[Row]:
    """Lay out the steps of a network.

    Args:
        sources: Of each step those that it takes, earlier ones.

    Returns:
        A row for each.
    """
    last = {source: number for number, taken in enumerate(sources) for source in taken}
    lanes: list[int | None] = []
    rows = []
    for number, taken in enumerate(sources):
        passing = [lane for lane, signal in enumerate(lanes) if signal is not None]
        entering = [lane for lane in passing if lanes[lane] in taken]
        for lane in entering:
            if last[lanes[lane] or 0] == number:
                lanes[lane] = None
        own = lanes.index(None) if None in lanes else len(lanes)
        if own == len(lanes):
            lanes.append(None)
        going = [lane for lane in passing if lanes[lane] is not None]
        lanes[own] = number if number in last else None
        paths = [f"M{_x(lane)} 0V{HEIGHT}" for lane in going]
        middle = HEIGHT // 2
        for lane in entering:
            curve = f"C{_x(lane)} {middle} {_x(own)} 0 {_x(own)} {middle}"
            paths.append(f"M{_x(lane)} 0{curve if lane != own else f'V{middle}'}")
        if number in last:
            paths.append(f"M{_x(own)} {middle}V{HEIGHT}")
        rows.append(Row(own, "".join(paths)))
    return rows


def _x(lane: int) -> int:
    return lane * LANE + LANE // 2

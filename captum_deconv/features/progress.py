"""A bar for a long run: images done, their rate, and the time that is left."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text


class _RateColumn(ProgressColumn):
    """Images per second, or whatever is counted, over the last half minute."""

    def __init__(self, unit: str) -> None:
        super().__init__()
        self.unit = unit

    def render(self, task: Task) -> Text:
        """Draw the rate."""
        speed = task.finished_speed or task.speed
        return Text(
            "" if speed is None else f"{speed:.1f} {self.unit}/s", style="progress.data.speed"
        )


@contextmanager
def show_progress(
    total: int,
    done: int,
    *,
    shown: bool,
    what: str = "scan",
    unit: str = "images",
    console: Console | None = None,
) -> Iterator[Callable[[float], None]]:
    """Show a bar on stderr where there is a terminal to show it on.

    Args:
        total: How many images there are.
        done: How many an earlier run did already.
        shown: Whether a bar is wanted.
        what: What is being done.
        unit: What is counted.
        console: Where to draw, instead of stderr.

    Yields:
        What to call with the number of images done since the last call.
    """
    console = console or Console(stderr=True)
    if not (shown and console.is_terminal):  # a disabled bar ends in an empty line before rich 15
        yield lambda count: None
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        _RateColumn(unit),
        TextColumn("left:"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(what, total=total, completed=done)
        yield lambda count: progress.advance(task, count)

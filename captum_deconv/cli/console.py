"""How the command line speaks: one line for an error, a warning or a note, a bar for long work.

The exit code is 2 where the command itself was wrong (an unknown option, model, layer or label, a
number out of range) and 1 where the work failed (a file that is no image, weights that do not fit,
no network).
"""

from __future__ import annotations

import functools
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import typer
from typer.core import TyperGroup

PROGRAM = "captum-deconv"


class OneLineErrors(TyperGroup):
    """Commands whose errors and warnings are one line on stderr each."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Run the command and exit with its code.

        Args:
            *args: As for any click command.
            **kwargs: As for any click command; with ``standalone_mode=False`` errors are raised,
                and nothing exits.

        Returns:
            The command's value or exit code, where nothing exits.
        """
        if not kwargs.get("standalone_mode", True):
            return super().main(*args, **kwargs)
        kwargs["standalone_mode"] = False
        try:
            with _print_warnings():
                code = super().main(*args, **kwargs)
        except Exception as error:  # the last stop: whatever it is, it becomes a line and a code
            typed = kwargs.get("args") or (args[0] if args else None) or sys.argv[1:]
            if "--debug" in typed:
                traceback.print_exc()
            message = _describe_error(error)
            if message:  # none where the help was asked for by giving no arguments
                print_line("error", message)
            sys.exit(_find_exit_code(error))
        sys.exit(code if isinstance(code, int) else 0)


@contextmanager
def track(count: int, what: str = "images") -> Iterator[Callable[[], None]]:
    """Show a progress bar on stderr where there are several images and somebody to see it.

    Args:
        count: How many images there are.
        what: What else is counted.

    Yields:
        What to call after each.
    """
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    console = Console(stderr=True)
    if count < 2 or not console.is_terminal:  # a disabled bar ends in an empty line before rich 15
        yield lambda: None
        return
    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(what, total=count)
        yield functools.partial(progress.advance, task)


@contextmanager
def _print_warnings() -> Iterator[None]:
    """Print each warning as one line, under whatever filters are set.

    Yields:
        Nothing.
    """
    seen: set[str] = set()

    def show(message: Warning | str, *_: Any, **__: Any) -> None:
        text = str(message)
        if text not in seen:
            seen.add(text)
            print_line("warning", text)

    with warnings.catch_warnings():
        warnings.showwarning = show
        yield


def print_line(kind: str, text: str) -> None:
    """Print one line on stderr, whatever line breaks the text has.

    Args:
        kind: ``error``, ``warning`` or ``note``.
        text: What to say.
    """
    typer.echo(f"{PROGRAM}: {kind}: {' '.join(text.split())}", err=True)


def _describe_error(error: Exception) -> str:
    # typer's and click's own errors, wherever the installed typer keeps their classes.
    if hasattr(error, "format_message"):
        return str(error.format_message())
    if not str(error):
        return type(error).__name__
    if type(error).__module__.startswith(("captum_deconv", "builtins")):
        return str(error)
    return f"{type(error).__name__}: {error}"


def _find_exit_code(error: Exception) -> int:
    from captum_deconv.explain.question import QuestionError
    from captum_deconv.sources.names import UnknownNameError

    if hasattr(error, "format_message"):
        return int(getattr(error, "exit_code", 2))
    return 2 if isinstance(error, (QuestionError, UnknownNameError, IndexError)) else 1

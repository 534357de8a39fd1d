"""Ctrl-C at a moment of one's choice."""

import sys
from collections.abc import Callable
from types import CodeType, FrameType
from typing import Any


class Interrupt:
    """Raises KeyboardInterrupt at one of the moments of a call: at a line, or at an opcode.

    Args:
        at: Which moment, counted from 1; with 0 it only looks.
        files: Parts of the names of the files whose lines count; all files where left out.
        opcodes: Whether each of a line's opcodes is a moment.

    Attributes:
        places: The code and the line, or the opcode's offset, of each moment so far.
    """

    def __init__(self, at: int = 0, files: tuple[str, ...] = ("",), *, opcodes: bool = False):
        self.at, self.files, self.opcodes = at, files, opcodes
        self.places: list[tuple[CodeType, int]] = []
        self._dropped = False

    def __call__(self, frame: FrameType, event: str, argument: Any) -> Any:
        """Look at an event, as the function given to :func:`sys.settrace`."""
        if not any(part in frame.f_code.co_filename for part in self.files):
            return None
        frame.f_trace_opcodes = self.opcodes
        if event == ("opcode" if self.opcodes else "line"):
            self.places.append((frame.f_code, frame.f_lasti if self.opcodes else frame.f_lineno))
            if len(self.places) == self.at:
                raise KeyboardInterrupt
        return self

    def run(self, call: Callable[[], Any], look: Callable[[], Any] = lambda: None) -> bool:
        """Make a call, and tell whether it was interrupted.

        Python itself drops what comes while it closes a generator that nobody holds any more, as
        Python 3.13 does torch's: the call then goes on to its end.

        Args:
            call: What to interrupt.
            look: Called after the interrupt, while the frames that it tore apart are still alive.
        """
        before, unraisable = sys.gettrace(), sys.unraisablehook  # what measures coverage; pytest's
        sys.unraisablehook = self._note_dropped
        sys.settrace(self)
        try:
            call()
        except KeyboardInterrupt:
            sys.settrace(before)
            look()
            return True
        finally:
            sys.settrace(before)
            sys.unraisablehook = unraisable
        if self._dropped:
            look()
        return self._dropped

    def _note_dropped(self, dropped: Any) -> None:
        if isinstance(dropped.exc_value, KeyboardInterrupt):
            self._dropped = True
        else:
            sys.__unraisablehook__(dropped)

    def describe(self) -> str:
        """Say where it last was."""
        code, place = self.places[-1]
        return f"{code.co_filename}:{place} in {code.co_name}"

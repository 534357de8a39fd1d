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

        Args:
            call: What to interrupt.
            look: Called after the interrupt, while the frames that it tore apart are still alive.
        """
        before = sys.gettrace()  # what measures coverage
        sys.settrace(self)
        try:
            call()
        except KeyboardInterrupt:
            sys.settrace(before)
            look()
            return True
        finally:
            sys.settrace(before)
        return False

    def describe(self) -> str:
        """Say where it last was."""
        code, place = self.places[-1]
        return f"{code.co_filename}:{place} in {code.co_name}"

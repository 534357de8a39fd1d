"""Names that are known, and what to say of one that is not."""

from __future__ import annotations

import difflib
from collections.abc import Sequence


class UnknownNameError(LookupError):
    """A name that means nothing here (a model, a layer, a label), with the closest that do."""


def suggest(word: str, known: Sequence[str]) -> str:
    """Say which known words come close to an unknown one.

    Args:
        word: What was typed.
        known: What could have been meant.

    Returns:
        The end of a sentence: the closest words, or else the first few known ones.
    """
    close = difflib.get_close_matches(word, known, n=3, cutoff=0.5)
    if close:
        return f"; did you mean {' or '.join(close)}?"
    few = ", ".join(known[:5])
    return f"; there are {few}{', ...' if len(known) > 5 else ''}" if few else "; there are none"

"""Figures written as files for print."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from captum_deconv.drawing.files import replace_file

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PICTURES = (".png", ".pdf", ".svg")
"""The endings that a figure's file may have."""


def save_figure(figure: Figure, path: str | Path, dpi: int = 300) -> None:
    """Write a figure; an existing file is replaced whole or not at all.

    Args:
        figure: Any figure.
        path: A ``.png``, ``.pdf`` or ``.svg`` file.
        dpi: Dots per inch, also of the pictures inside a PDF or SVG.
    """
    import matplotlib

    # No date, so that the same figure gives the same bytes; TrueType, which journals ask for.
    suffix = Path(path).suffix.lower()
    stamp = {".pdf": {"CreationDate": None}, ".svg": {"Date": None}}.get(suffix)
    with (
        matplotlib.rc_context({"pdf.fonttype": 42, "svg.hashsalt": "captum-deconv"}),
        replace_file(path) as temporary,
    ):
        figure.savefig(temporary, dpi=dpi, metadata=stamp)

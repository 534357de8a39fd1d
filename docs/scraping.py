"""The figures of an example, for sphinx-gallery; its own scraper knows only pyplot's."""

from __future__ import annotations

import weakref
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from sphinx_gallery.scrapers import figure_rst

_SAVED: weakref.WeakSet[Figure] = weakref.WeakSet()


def draw_printed(path: Path) -> None:
    """Draw the thumbnail of an example that prints and draws nothing.

    Args:
        path: Where it goes.
    """
    figure = Figure(figsize=(4, 2.8), facecolor="white")
    figure.text(0.5, 0.5, ">>>", ha="center", va="center", fontsize=40, color="#888888")
    figure.savefig(path, dpi=100)


def scrape(block: Any, variables: dict[str, Any], configuration: dict[str, Any]) -> str:
    """Save the figures that a block made; a figure's label is its alternative text.

    Args:
        block: The block; not looked at.
        variables: What the example holds, and where its pictures go.
        configuration: Of the gallery.

    Returns:
        The reStructuredText that shows them.
    """
    texts, paths = [], []
    for figure in list(variables["example_globals"].values()):
        if isinstance(figure, Figure) and figure not in _SAVED:
            _SAVED.add(figure)
            label = figure.get_label()
            if not label:
                raise ValueError(f"{variables['src_file']}: a figure has no label to be read aloud")
            paths.append(next(variables["image_path_iterator"]))
            texts.append(label)
            figure.savefig(paths[-1], dpi=160)
    return "".join(
        figure_rst([path], configuration["src_dir"], text)
        for path, text in zip(paths, texts, strict=True)
    )

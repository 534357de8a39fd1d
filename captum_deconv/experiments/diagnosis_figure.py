"""A diagnosis on one page."""

from __future__ import annotations

import math
import textwrap
from typing import TYPE_CHECKING, Any

import torch

from captum_deconv.experiments import printing
from captum_deconv.experiments.diagnosis import GAP, GRID, WORTH
from captum_deconv.experiments.filters import HIGH, LOW
from captum_deconv.experiments.printing import COLOURS, FAINT, MARGIN, WIDTH, Sheet, shorten
from captum_deconv.gallery.pictures import lay_grid

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from captum_deconv.experiments.diagnosis import Diagnosis

_FAULTS = ("dead", "saturated", "border", "uncut", "copies")
_MOST_ROWS, _MOST_FILTERS, _MOST_FINDINGS = 60, 64, 8
_ROW, _TOP, _SIDE = 0.105, 1.75, 1.4
_LINE = 0.12


def draw_diagnosis(found: Diagnosis, *, about: str = "") -> Figure:
    """Draw what was measured: the first layer, and the channels with a fault by layer.

    Args:
        found: What was found.
        about: A line on network and data, for the caption.

    Returns:
        The figure; `captum_deconv.drawing.figures.save_figure` writes it.
    """
    findings = found.findings
    lines = [
        (line, number == 0)
        for finding in findings[:_MOST_FINDINGS]
        for number, line in enumerate(
            textwrap.wrap(
                f"{finding.fault}, {finding.layer or 'the network'}: {finding.sentence}", 150
            )
        )
    ]
    if len(findings) > _MOST_FINDINGS:
        lines.append((f"… and {len(findings) - _MOST_FINDINGS} more findings.", True))
    if not findings:
        lines.append(("No finding.", True))
    rows = [*found.layers, *found.filters]
    hidden = len(rows) - _MOST_ROWS
    if hidden > 0:  # those with most wrong, in their order
        worst = sorted(rows, key=lambda row: -max(map(len, row.faults.values())) / row.count)
        kept = set(map(id, worst[:_MOST_ROWS]))
        rows = [row for row in rows if id(row) in kept]
    text = _LINE * len(lines)
    height = MARGIN + 0.1 + _TOP + 0.35 + text + 0.4 + _ROW * len(rows)
    sheet = Sheet(height, _describe(found, max(hidden, 0), about))
    top = MARGIN + 0.2
    _draw_first(sheet, found, top)
    top += _TOP + 0.25
    for number, (line, begins) in enumerate(lines):
        indent = 0.0 if begins else 0.1
        sheet.write(MARGIN + indent, top + _LINE * number, line, 6)
    _draw_table(sheet, rows, top + text + 0.3)
    return sheet.figure


def _draw_first(sheet: Sheet, found: Diagnosis, top: float) -> None:
    """Draw the first layer's filters, their spectrum and the grid of its stride."""
    left = MARGIN
    if found.weight.dim() == 4:
        weight = found.weight[:_MOST_FILTERS]
        weight = (
            weight if weight.shape[1] == 3 else weight.mean(1, keepdim=True).expand(-1, 3, -1, -1)
        )
        scale = weight.abs().flatten(1).amax(1).clamp(min=1e-30).view(-1, 1, 1, 1)
        cells = ((0.5 + weight / (2 * scale)) * 255).round().to(torch.uint8)
        grid = lay_grid(cells, 24)
        tall = _SIDE * grid.shape[1] / grid.shape[2]
        printing.show(sheet.axes(left, top, _SIDE, tall), grid.permute(1, 2, 0).numpy())
        sheet.write(left, top - 0.05, shorten(f"filters of {found.first}", 30))
    left += _SIDE + 0.55
    wide = 1.9
    if found.spectrum is not None:
        axes = printing.chart(
            sheet.axes(left, top, wide, _SIDE), "cycles per pixel", "power, of noise's"
        )
        count = len(found.spectrum.radial)
        places = [(number + 0.5) / count / 2 for number in range(count)]
        axes.axvspan(LOW, HIGH, color="#eeeeee", lw=0)
        axes.axhline(1, color=FAINT, lw=0.5, ls=":")
        axes.semilogy(places, found.spectrum.radial, color=COLOURS[0], lw=1)
        axes.set_xlim(0, 0.5)
        axes.tick_params(which="minor", length=1, width=0.3)
        sheet.write(
            left, top - 0.05, f"spectrum: gap {found.spectrum.gap:.2g} (wrong below {GAP:g})"
        )
    else:
        sheet.write(left, top - 0.05, "spectrum: not measured", color=FAINT)
    left += wide + 0.35
    if found.grid is not None and found.unevenness is not None:
        image = printing.show(
            sheet.axes(left, top, _SIDE, _SIDE),
            found.grid.numpy(),
            cmap="viridis",
            vmin=0,
            vmax=max(2.0, float(found.grid.max())),
        )
        sheet.bar(image, left, top + _SIDE + 0.05, _SIDE)
        text = f"grid of {found.stride} pixels: {found.unevenness:.2g} (wrong above {GRID:g})"
        sheet.write(left, top - 0.05, text)
    else:
        sheet.write(left, top - 0.05, "grid: not measured", color=FAINT)


def _draw_table(sheet: Sheet, rows: Any, top: float) -> None:
    """Draw a row for each layer: of how many channels which share has each fault."""
    columns = 2.2, 0.65, *[0.8] * len(_FAULTS)
    lefts = [MARGIN + sum(columns[:number]) for number in range(len(columns))]
    for left, name in zip(lefts, ("layer", "channels", *_FAULTS), strict=True):
        sheet.write(left, top - 0.06, name, 6.5, fontweight="bold")
    if not rows:
        return
    from matplotlib.patches import Rectangle

    for number, row in enumerate(rows):
        y = top + _ROW * (number + 0.75)
        sheet.write(lefts[0], y, shorten(row.name, 44), 5.5)
        sheet.write(lefts[1], y, str(row.count), 5.5)
        for left, fault in zip(lefts[2:], _FAULTS, strict=True):
            if fault not in row.faults:
                sheet.write(left, y, "-", 5.5, color=FAINT)
                continue
            share = len(row.faults[fault]) / row.count
            if share:
                low = 1 - (y + 0.02) / sheet.height
                box = (left / WIDTH, low), 0.72 * math.sqrt(share) / WIDTH, 0.085 / sheet.height
                colour = COLOURS[1] if share >= WORTH else "#f7c9d0"
                sheet.figure.patches.append(
                    Rectangle(
                        *box, color=colour, lw=0, transform=sheet.figure.transFigure, zorder=-1
                    )
                )
            sheet.write(left + 0.02, y, str(len(row.faults[fault])), 5.5)


def _describe(found: Diagnosis, hidden: int, about: str) -> str:
    text = (
        f"Channels and filters with a fault, by layer, on {found.images} images (bars: the square "
        f"root of their share; strong from {WORTH:.0%} on). Above: the first layer's filters, the "
        "density of their spectrum by frequency with the middle octave in grey, and the energy of "
        "projections"
        + (f" of {found.through}" if found.through else "")
        + " by its phase in the first large stride."
    )
    if hidden:
        text += f" {hidden} layers with less wrong are left out."
    return " ".join([text, *(f"Note: {note}." for note in found.notes), about]).strip()

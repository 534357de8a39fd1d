"""The figures and the numbers of the documentation, computed when it is built.

Each figure is drawn twice, for light and for dark pages, as SVG without a background of its own.
Each function below also returns the numbers that the text quotes, so that none is typed by hand.
"""

# ruff: noqa: RUF001  # the figures' labels have multiplication signs

from __future__ import annotations

import contextlib
import io
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from drawing import THEMES, WIDTH, Theme, show_matrix, style_for, write_values
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle, Rectangle
from matplotlib.ticker import NullLocator
from scipy.sparse.linalg import lsmr
from skimage import data
from torch import Tensor, nn

from captum_deconv import adjoint
from captum_deconv.mirror import Mirror

Numbers = dict[str, str]


def build(folder: Path) -> Numbers:
    """Draw every figure, run every snippet, and gather the numbers.

    Args:
        folder: Where they go: `<figure>-light.svg`, `<figure>-dark.svg` and `<snippet>.txt`.

    Returns:
        What the text quotes, by name.
    """
    folder.mkdir(parents=True, exist_ok=True)
    numbers: Numbers = {}
    for draw in (draw_matrix, draw_round_trip, draw_spectrum, draw_switches, draw_rules):
        for theme in THEMES:
            with style_for(theme):
                figure, found = draw(theme)
                figure.savefig(
                    folder / f"{draw.__name__[5:]}-{theme.name}.svg", metadata={"Date": None}
                )
        numbers |= found
    for snippet in sorted((Path(__file__).parent / "snippets").glob("*.py")):
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            runpy.run_path(str(snippet))
        (folder / f"{snippet.stem}.txt").write_text(printed.getvalue(), encoding="utf-8")
    return numbers | measure_overlap()


def draw_matrix(theme: Theme) -> tuple[Figure, Numbers]:
    """Draw the matrix of a 3x3 convolution of a 5x5 image, its transpose, and their product.

    Args:
        theme: The colours.

    Returns:
        The figure, and the numbers the text quotes.
    """
    conv = nn.Conv2d(1, 1, 3, bias=False).double()
    kernel = torch.tensor([[1.0, 2, -1], [0, 3, -2], [-1, 1, 2]], dtype=torch.float64)
    conv.weight.data = kernel[None, None]
    whole = adjoint.matrix(conv, (5, 5)).toarray()
    projector = np.linalg.pinv(whole) @ whole
    panels = [
        (kernel.numpy(), "filter"),
        (whole, "$W$: 9 outputs × 25 pixels"),
        (whole.T, "$W^T$"),
        (whole.T @ whole, "$W^T W$, the way there and back"),
        (projector, "$W^+ W$, the best way back"),
        (np.eye(25), "$I$, as an inverse would have it"),
    ]
    figure = Figure(figsize=(WIDTH, 5.0))
    rows = figure.add_gridspec(2, 1, hspace=0.16, left=0.01, right=0.99, top=0.94, bottom=0.01)
    # The upper row's squares have one size, the lower row's another.
    upper = rows[0].subgridspec(1, 3, width_ratios=[3, 25, 9], wspace=0.3)
    lower = rows[1].subgridspec(1, 3, wspace=0.1)
    for place, (values, title) in zip([*upper, *lower], panels, strict=True):
        axes = figure.add_subplot(place)
        show_matrix(axes, values, theme)
        axes.set_title(title)
    return figure, {"matrix_rank": str(np.linalg.matrix_rank(whole))}


def _read_photograph(size: int) -> Tensor:
    """Read scikit-image's cat, the part around the eyes, in grey: `(1, size, size)` in [0, 1]."""
    photograph = torch.from_numpy(data.chelsea()).double().mean(2) / 255
    eyes = photograph[20:276, 90:346]
    return torch.nn.functional.adaptive_avg_pool2d(eyes[None], size)


def _make_layers() -> dict[str, nn.Conv2d]:
    """Make three convolutions: one that loses, one that keeps, one whose transpose inverts it."""
    torch.manual_seed(0)
    loses = nn.Conv2d(1, 1, 3, stride=2, padding=1, bias=False)
    keeps = nn.Conv2d(1, 8, 3, padding=1, bias=False)
    inverts = nn.Conv2d(1, 16, 4, stride=4, bias=False)
    nn.init.uniform_(loses.weight, 0, 0.4)  # an average of sorts, so that something is seen
    # The cosine basis of JPEG's kind: rows of an orthogonal matrix, one for each frequency.
    place = torch.arange(4, dtype=torch.float64)
    basis = torch.cos(torch.pi / 4 * (place + 0.5) * place[:, None]) * 2**-0.5
    basis[0] *= 2**-0.5
    inverts.weight.data = torch.einsum("ai,bj->abij", basis, basis).reshape(16, 1, 4, 4)
    return {
        "one 3×3 filter,\nstride 2": loses.double(),
        "eight 3×3 filters,\nstride 1": keeps.double(),
        "cosine transform of\n4×4 blocks": inverts.double(),
    }


def draw_round_trip(theme: Theme) -> tuple[Figure, Numbers]:
    """Draw a photograph, what three convolutions make of it, and two ways back.

    Args:
        theme: The colours.

    Returns:
        The figure, and the numbers the text quotes.
    """
    photograph = _read_photograph(96)
    figure = Figure(figsize=(WIDTH, 5.9))
    grid = figure.subplots(
        3, 4, gridspec_kw={"hspace": 0.24, "wspace": 0.06, "left": 0.19, "right": 0.995,
                           "top": 0.95, "bottom": 0.05},
    )  # fmt: skip
    numbers: Numbers = {}
    for key, (label, layer), row in zip(
        ("loses", "keeps", "inverts"), _make_layers().items(), grid, strict=True
    ):
        operator = adjoint.linear_operator(layer, photograph.shape[1:])
        x = photograph.flatten().numpy()
        activation = operator.matvec(x)
        back = operator.rmatvec(activation)
        least = lsmr(operator, activation, atol=1e-13, btol=1e-13, conlim=0)[0]
        factor = (x @ back) / (back @ back)
        norm = np.linalg.norm
        errors = [norm(x - way) / norm(x) for way in (back, factor * back, least)]
        # The first four channels of several, two by two.
        maps = activation.reshape(layer.out_channels, -1, 96 // layer.stride[0])
        montage = np.block([[maps[0], maps[1]], [maps[2], maps[3]]]) if len(maps) > 1 else maps[0]
        pictures = [picture.reshape(96, 96) for picture in (x, factor * back, least)]
        pictures.insert(1, montage)
        for axes, picture in zip(row, pictures, strict=True):
            low, high = (0, 1) if picture is not montage else (montage.min(), montage.max())
            axes.imshow(picture, cmap="gray", vmin=low, vmax=high, interpolation="nearest")
            axes.set(xticks=[], yticks=[])
            for spine in axes.spines.values():
                spine.set_visible(False)
        row[0].set_ylabel(label, rotation=0, ha="right", va="center", labelpad=8)
        row[1].set_xlabel(f"{x.size} pixels → {activation.size} values")
        row[2].set_xlabel(f"residual {_say(errors[1])}")
        row[3].set_xlabel(f"residual {_say(errors[2])}")
        numbers |= {
            f"{key}_residual": _say(errors[0]),
            f"{key}_scaled": _say(errors[1]),
            f"{key}_least": _say(errors[2]),
        }
    titles = ("$x$", "$c(x)$", "$c_t(c(x))$, best factor", "least squares, $W^+ W x$")
    for axes, title in zip(grid[0], titles, strict=True):
        axes.set_title(title)
    return figure, numbers


def _say(value: float) -> str:
    """Write a relative error: two places, or that it is rounding."""
    return f"{value:.2f}" if value > 5e-3 else f"{value:.0e}".replace("e-0", "e-")


def draw_spectrum(theme: Theme) -> tuple[Figure, Numbers]:
    """Draw the singular values of the three convolutions.

    Args:
        theme: The colours.

    Returns:
        The figure, and the numbers the text quotes.
    """
    figure = Figure(figsize=(WIDTH, 2.9))
    axes = figure.add_axes((0.08, 0.17, 0.59, 0.78))
    numbers: Numbers = {}
    for key, colour, (label, layer) in zip(
        ("loses", "keeps", "inverts"), theme.marks, _make_layers().items(), strict=True
    ):
        values = adjoint.singular_values(layer, (16, 16))
        share = np.arange(1, len(values) + 1) / 256
        axes.plot(share, values, color=colour, linewidth=2)
        note = label.replace("\n", " ")
        rank = int((values > 1e-10).sum())
        if rank < 256:
            axes.plot(share[-1], values[-1], "o", color=colour, markersize=4)
            note += f":\nnothing of {1 - rank / 256:.0%} of the directions"
        height = {"loses": 0.1, "keeps": 0.85, "inverts": 0.45}[key]
        axes.text(1.04, height, note, transform=axes.transAxes, color=colour, va="center")
        numbers |= {
            f"{key}_largest": f"{values[0]:.2f}",
            f"{key}_smallest": f"{values[-1]:.2f}",
            f"{key}_lost": f"{1 - rank / 256:.0%}",
        }
    axes.set(yscale="log", xlim=(0, 1), xlabel="share of the 256 directions of a 16×16 image")
    axes.set_ylabel("singular value of $W$")
    axes.set_yticks([0.25, 0.5, 1, 2], ["¼", "½", "1", "2"])
    axes.yaxis.set_minor_locator(NullLocator())
    return figure, numbers


def _contract(signal: Tensor) -> Callable[[Tensor], Tensor]:
    """Make a neuron selector whose seed is this signal."""
    return lambda outputs: (outputs * signal).flatten(1).sum(1)


def draw_switches(theme: Theme) -> tuple[Figure, Numbers]:
    """Draw unpooling by accumulation and by overwriting, with and without overlap.

    Args:
        theme: The colours.

    Returns:
        The figure, and no numbers.
    """
    maps = {
        (2, 2): [[3, 1, 4, 2], [2, 5, 1, 3], [6, 2, 2, 7], [1, 4, 3, 5]],
        (3, 2): [[3, 1, 4, 2, 5], [2, 6, 1, 3, 2], [6, 2, 9, 1, 4], [1, 4, 3, 5, 2],
                 [7, 2, 1, 3, 6]],
    }  # fmt: skip
    signal = torch.tensor([[1.0, 2], [3, 4]], dtype=torch.float64)
    figure = Figure(figsize=(WIDTH, 4.5))
    grid = figure.subplots(
        2, 4, gridspec_kw={"width_ratios": [5, 3, 5, 5], "hspace": 0.14, "wspace": 0.16,
                           "left": 0.13, "right": 0.995, "top": 0.92, "bottom": 0.01},
    )  # fmt: skip
    for row, ((kernel, stride), values) in zip(grid, maps.items(), strict=True):
        x = torch.tensor(values, dtype=torch.float64)
        pool = nn.MaxPool2d(kernel, stride)
        back = [
            Mirror(pool, unpool=unpool, seed="one").project(x[None, None], pool, _contract(signal))
            for unpool in ("accumulate", "overwrite")
        ]
        pictures = (x, signal, back[0][0, 0], back[1][0, 0])
        for axes, picture in zip(row, pictures, strict=True):
            # The map stays plain: its windows are what is to be seen.
            show_matrix(axes, picture.numpy() * (picture is not x), theme)
            write_values(axes, picture.numpy(), theme, plain=picture is x)
        _outline_windows(row[0], x, kernel, stride, theme)
        row[0].set_ylabel(
            f"{kernel}×{kernel} windows,\nstride {stride}", rotation=0, ha="right", va="center"
        )
    titles = ("map, windows, switches", "signal $R$", "accumulated", "overwritten")
    for axes, title in zip(grid[0], titles, strict=True):
        axes.set_title(title)
    return figure, {}


def _outline_windows(axes: Axes, x: Tensor, kernel: int, stride: int, theme: Theme) -> None:
    """Outline each pooling window and circle its maximum."""
    colours = (*theme.marks, theme.ink)
    starts = [(i, j) for i in range(0, len(x) - kernel + 1, stride)
              for j in range(0, len(x) - kernel + 1, stride)]  # fmt: skip
    for order, (colour, (top, left)) in enumerate(zip(colours, starts, strict=True)):
        inset = 0.06 + 0.05 * order  # so that overlapping outlines stay apart
        corner = (left - 0.5 + inset, top - 0.5 + inset)
        side = kernel - 2 * inset
        axes.add_patch(Rectangle(corner, side, side, fill=False, edgecolor=colour, linewidth=1.4))
        window = x[top : top + kernel, left : left + kernel]
        row, column = divmod(int(window.argmax()), kernel)
        place = (left + column, top + row)
        axes.add_patch(
            Circle(place, 0.45 - 0.055 * order, fill=False, edgecolor=colour, linewidth=1.4)
        )


def draw_rules(theme: Theme) -> tuple[Figure, Numbers]:
    """Draw what each rule passes on of one signal at one rectifier.

    Args:
        theme: The colours.

    Returns:
        The figure, and no numbers.
    """
    x = torch.tensor([[1.0, -1, 5], [2, -5, -7], [-3, 2, 4]], dtype=torch.float64)
    signal = torch.tensor([[-2.0, 3, -1], [6, -3, 1], [2, -1, 3]], dtype=torch.float64)
    rules: dict[str, dict[str, Any]] = {
        "input gradient": {"rectify": False},
        "deconvnet": {"rectify": True},
        "guided backprop": {"rectify": True, "forward_masks": True},
    }
    panels = {"rectifier's input $x$": x, "signal from above $R$": signal}
    for name, options in rules.items():
        mirror = Mirror(nn.ReLU(), seed="one", **options)
        panels[name] = mirror.project(x[None, None], "", _contract(signal))[0, 0]
    figure = Figure(figsize=(WIDTH, 1.75))
    grid = figure.subplots(
        1, 5, gridspec_kw={"wspace": 0.14, "left": 0.005, "right": 0.995, "top": 0.86,
                           "bottom": 0.02},
    )  # fmt: skip
    for axes, (title, values) in zip(grid, panels.items(), strict=True):
        show_matrix(axes, values.numpy(), theme)
        write_values(axes, values.numpy(), theme)
        axes.set_title(title)
    return figure, {}


def measure_overlap() -> Numbers:
    """Measure overlapping pools on a photograph: shared maxima, and what overwriting changes.

    Returns:
        The numbers the text quotes.
    """
    torch.manual_seed(0)
    photograph = torch.from_numpy(data.chelsea()).double().permute(2, 0, 1)[None] / 255
    stem = nn.Sequential(nn.Conv2d(3, 64, 11, stride=4, padding=2), nn.ReLU()).double()
    numbers: Numbers = {}
    for name, pool in (("overlapping", nn.MaxPool2d(3, 2)), ("tiled", nn.MaxPool2d(2, 2))):
        with torch.no_grad():
            maxima, switches = nn.functional.max_pool2d(
                stem(photograph), pool.kernel_size, pool.stride, return_indices=True
            )
        distinct = sum(len(each.unique()) for each in switches.flatten(2)[0])
        model = nn.Sequential(stem, pool)
        select = _contract(maxima)
        ways = [
            Mirror(model, unpool=unpool, seed="one").project(photograph, pool, select)
            for unpool in ("accumulate", "overwrite")
        ]
        difference = (ways[0] - ways[1]).norm() / ways[0].norm()
        numbers |= {
            f"{name}_duplicates": f"{1 - distinct / switches.numel():.0%}",
            f"{name}_difference": f"{float(difference):.0%}",
        }
    return numbers

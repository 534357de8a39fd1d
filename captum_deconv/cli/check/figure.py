r"""One layer as a picture: an image, its map, the two ways back, and the singular values.

    x,   c(x) = W x,   ct(c(x)) = W^T W x,   W^+ W x,   and the `s` of W = U diag(s) V^T

The transpose weighs each direction of the image by `s^2`; where all `s` are 1 the third picture is
the first. Directions with `s = 0` are lost to every way back.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from captum_deconv import adjoint
from captum_deconv.adjoint.geometry import Geometry, describe
from captum_deconv.cli.check.typed import Size
from captum_deconv.sources.images import ImageError, read_demo_image

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Array = npt.NDArray[np.float64]

# Inches. Four panels are as wide as a page's text, 7 inches.
_PANEL, _GAP, _MARGIN, _HEAD, _NOTE, _SPECTRUM = 1.62, 0.07, 0.14, 0.30, 0.42, 1.25
_INK, _FAINT, _ACCENT, _LOST = "#222222", "#777777", "#1f5fa8", "#c8501e"
_MOST_VALUES = 300_000  # of image and map together: least squares takes seconds up to here
_MOST_WORK = 4 * 10**9  # of all singular values together, seconds again
_LARGEST = {1: 512, 2: 96, 3: 24}
"""By dimensions, the longest side of the image drawn; more would be too small to see."""
_EYES = (90, 20, 346, 276)
"""Of the photograph: the part with the structure, around the cat's eyes."""


def draw_round_trip(layer: nn.Module, input_size: Size) -> Figure:
    """Draw a photograph's way through a convolution and back, and the convolution's spectrum.

    The photograph comes with scikit-image; without it the image is seeded random numbers. An input
    too large to be solved for in seconds is drawn smaller, and so is one too large for all singular
    values measured smaller; the figure says at which sizes.

    Args:
        layer: An `nn.Conv` or `nn.ConvTranspose` of 1, 2 or 3 dimensions.
        input_size: The spatial size alone.

    Returns:
        The figure, as wide as a page's text; no pyplot, no display, no global state.
    """
    from matplotlib.figure import Figure

    dims = len(input_size)
    largest = _LARGEST[dims]
    size = _shrink(
        layer,
        tuple(input_size),
        lambda g: max(g.input_size) <= largest and sum(g.shape) <= _MOST_VALUES,
    )
    found = adjoint.reconstruct(layer, _make_image(describe(layer, size)), leading=1)
    measured, values = size, found.singular_values.numpy()
    if not found.complete:
        measured = _shrink(layer, size, lambda g: _count_work(g) <= _MOST_WORK)
        values = adjoint.singular_values(layer, measured)

    shape = size if dims > 1 else (1, 1)
    tall = _PANEL * min(max(shape[-2] / shape[-1], 0.35), 1.6)
    width = 2 * _MARGIN + 4 * _PANEL + 3 * _GAP
    height = _HEAD + tall + _NOTE + _SPECTRUM + 0.86
    figure = Figure(figsize=(width, height), facecolor="white")
    factor = _find_factor(found.x, found.transposed)
    panels = (
        ("$x$", found.x, _say_shape(found.x, False)),
        ("$c(x) = W\\,x$", found.activation, _say_shape(found.activation, True)),
        (
            "$c_t(c(x)) = W^T W\\,x$",
            factor * found.transposed,
            f"residual {_say(_residual(found.x, found.transposed))}; drawn with the\n"
            f"best factor, {_say(_residual(found.x, factor * found.transposed))}",
        ),
        (
            "least squares, $W^+ W\\,x$",
            found.least_squares,
            f"residual {_say(_residual(found.x, found.least_squares))}",
        ),
    )
    for column, (title, tensor, note) in enumerate(panels):
        left = _MARGIN + column * (_PANEL + _GAP)
        box = (left / width, 1 - (_HEAD + tall) / height, _PANEL / width, tall / height)
        axes = figure.add_axes(box)
        _show(axes, tensor, found.x, is_map=tensor is found.activation)
        axes.set_title(title, fontsize=8.5, color=_INK, pad=4)
        axes.text(
            *(0.5, -0.05, note),
            transform=axes.transAxes,
            ha="center",
            va="top",
            fontsize=6.5,
            color=_INK,
            linespacing=1.35,
        )
    left, bottom = 0.62, 0.66
    axes = figure.add_axes(
        (left / width, bottom / height, 1 - (left + _MARGIN) / width, _SPECTRUM / height)
    )
    _plot_spectrum(axes, values, describe(layer, measured))
    figure.text(
        _MARGIN / width,
        0.09 / height,
        _describe_layer(describe(layer, size)),
        va="bottom",
        fontsize=6.5,
        color=_FAINT,
    )
    return figure


def _shrink(layer: nn.Module, size: Size, suffices: Callable[[Geometry], bool]) -> Size:
    """Halve a size until it suffices, or the layer does not fit a smaller one."""
    while not suffices(describe(layer, size)):
        smaller = tuple(max(1, n // 2) for n in size)
        try:
            describe(layer, smaller)
        except ValueError:
            break
        if smaller == size:
            break
        size = smaller
    return size


def _count_work(geometry: Geometry) -> int:
    rows, columns = geometry.shape
    return rows * columns * min(rows, columns) // geometry.groups**2


def _make_image(geometry: Geometry) -> Tensor:
    """Make an image `(C, *size)` in [0, 1]: the photograph, in as many channels as there are."""
    channels, size = geometry.in_channels, geometry.input_size
    # Of one dimension: a line through the eyes. Of three: a view that moves to the right.
    height, width = size[-2:] if len(size) > 1 else (16, size[0])
    colours = _read_photograph(height, width)
    if len(size) == 1:
        colours = colours[:, height // 2]
    if len(size) == 3:
        colours = torch.stack([colours.roll(2 * frame, -1) for frame in range(size[0])], dim=1)
    if channels == 1:
        return colours.mean(dim=0, keepdim=True)
    return colours[[channel % 3 for channel in range(channels)]]


def _read_photograph(height: int, width: int) -> Tensor:
    try:
        photograph = read_demo_image().image
    except ImageError:  # the extra is not installed
        return torch.rand(3, height, width, generator=torch.Generator().manual_seed(0)).double()
    part = np.asarray(photograph.resize((width, height), box=_EYES), dtype=np.float64)
    return torch.from_numpy(part / 255).permute(2, 0, 1)


def _find_factor(x: Tensor, back: Tensor) -> float:
    energy = float((back * back).sum())
    return float((x * back).sum()) / energy if energy else 0.0


def _residual(x: Tensor, other: Tensor) -> float:
    return float((x - other).norm() / x.norm())


def _say(value: float) -> str:
    return f"{value:.3f}" if value >= 5e-4 else "0, up to rounding"


def _say_size(size: Size) -> str:
    return "\N{MULTIPLICATION SIGN}".join(map(str, size))


def _say_shape(tensor: Tensor, is_map: bool) -> str:
    shown, count = _count_shown(tensor, is_map), len(tensor)
    parts = [f"channel{'s' * (shown > 1)} {'1 to ' * (shown > 1)}{shown}"] * (shown < count)
    if tensor.dim() == 4:
        parts.append(f"frame {tensor.shape[1] // 2 + 1}")
    drawn = f"\ndrawn: {', '.join(parts)}" if parts else ""
    return f"{_say_size(tuple(tensor.shape))} = {tensor.numel()} values{drawn}"


def _count_shown(tensor: Tensor, is_map: bool) -> int:
    """Count the channels drawn: of an image one or three, of a map one, or four in a square."""
    if is_map:
        return 4 if len(tensor) >= 4 else 1
    return 3 if len(tensor) >= 3 and tensor.dim() > 2 else 1


def _show(axes: Axes, tensor: Tensor, x: Tensor, is_map: bool) -> None:
    axes.set(xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set(linewidth=0.4, color="#888888")
    if tensor.dim() == 2:
        _plot_lines(axes, tensor, x, is_map)
        return
    if tensor.dim() == 4:
        tensor = tensor[:, tensor.shape[1] // 2]  # the frame in the middle
    if is_map:
        # Signed, so zero is mid-grey; all channels on one scale.
        maps = tensor[: _count_shown(tensor, is_map)].numpy()
        scale = float(np.abs(maps).max()) or 1.0
        gap = np.full((maps.shape[1], max(1, maps.shape[2] // 32)), np.nan)
        picture = maps[0]
        if len(maps) == 4:
            rows = [np.hstack([maps[i], gap, maps[i + 1]]) for i in (0, 2)]
            between = np.full((max(1, maps.shape[1] // 32), rows[0].shape[1]), np.nan)
            picture = np.vstack([rows[0], between, rows[1]])
        axes.imshow(picture, cmap="gray", vmin=-scale, vmax=scale, interpolation="nearest")
    elif len(tensor) >= 3:
        axes.imshow(tensor[:3].permute(1, 2, 0).clamp(0, 1).numpy(), interpolation="nearest")
    else:
        axes.imshow(tensor[0].numpy(), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    axes.set_anchor("N")


def _plot_lines(axes: Axes, tensor: Tensor, x: Tensor, is_map: bool) -> None:
    if is_map:
        shown = tensor[: _count_shown(tensor, True)]
        for line, opacity in zip(shown, (1.0, 0.6, 0.4, 0.25), strict=False):
            axes.plot(line.numpy(), color=_INK, alpha=opacity, linewidth=0.7)
        return
    if tensor is not x:
        axes.plot(x[0].numpy(), color="#bbbbbb", linewidth=1.6)
    axes.plot(tensor[0].numpy(), color=_INK if tensor is x else _ACCENT, linewidth=0.6)
    low, high = float(x[0].min()), float(x[0].max())
    margin = 0.15 * (high - low) or 0.5
    axes.set_ylim(low - margin, high + margin)


def _plot_spectrum(axes: Axes, values: Array, geometry: Geometry) -> None:
    """Plot the singular values in descending order, and what part of the input has none."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    columns = geometry.shape[1]
    # NumPy's matrix_rank has the same threshold.
    threshold = max(geometry.shape) * np.finfo(np.float64).eps * values[0]
    kept = values[values > threshold]
    rank = len(kept)
    axes.axhline(1, color=_FAINT, linewidth=0.6, linestyle=(0, (4, 3)))
    # A step for each value, so that a single one is seen too.
    axes.stairs(kept, baseline=None, color=_ACCENT, linewidth=1.4)
    axes.set(xlim=(0, columns), yscale="log")
    low, high = (float(kept[-1]), float(kept[0])) if rank else (1.0, 1.0)
    low, high = min(low, 1.0), max(high, 1.0)
    room = max(high / low, 4.0) ** 0.12
    axes.set_ylim(low / room, high * room)
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if high / low < 50 else (1.0,)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    if rank < columns:
        axes.axvspan(rank, columns, color=_LOST, alpha=0.13, linewidth=0)
        share = 1 - rank / columns
        inside = share > 0.22
        axes.text(
            # The curve falls, so beside a narrow one there is room above.
            (rank + columns) / 2 if inside else rank - 0.01 * columns,
            0.5 if inside else 0.88,
            f"null space:\n{share:.1%} of the input",
            transform=axes.get_xaxis_transform(),
            ha="center" if inside else "right",
            va="center",
            fontsize=6.5,
            color=_LOST,
        )
    for spine in ("top", "right"):
        axes.spines[spine].set_visible(False)
    for spine in ("left", "bottom"):
        axes.spines[spine].set(linewidth=0.5, color=_FAINT)
    axes.tick_params(labelsize=6.5, width=0.5, length=2.5, which="both", color=_FAINT)
    axes.set_ylabel("singular value of $W$", fontsize=7, color=_INK)
    axes.set_xlabel(
        f"the {columns} directions of an input of {_say_size(geometry.input_shape)} "
        f"(dashed: where all are 1, the transpose is the inverse)",
        fontsize=7,
        color=_INK,
    )


def _describe_layer(geometry: Geometry) -> str:
    """Say in a line which layer it is; what is as usual is left out."""
    dims = len(geometry.kernel)
    name = "Convolution" if geometry.kind == "convolution" else "Transposed convolution"
    parts = [
        f"{name}, {geometry.in_channels} to {geometry.out_channels} channels, "
        f"kernel {_say_size(geometry.kernel)}"
    ]
    for what, given, usual in (
        ("stride", geometry.stride, 1),
        ("padding", geometry.before, 0),
        ("dilation", geometry.dilation, 1),
        ("output padding", geometry.output_padding, 0),
    ):
        if given != (usual,) * dims:
            parts.append(f"{what} {given[0] if len(set(given)) == 1 else _say_size(given)}")
    if geometry.mode != "zeros":
        parts.append(f"{geometry.mode} padding")
    if geometry.groups > 1:
        parts.append(f"{geometry.groups} groups")
    rows, columns = geometry.shape
    grey = " Maps around mid-grey." if dims > 1 else ""
    return f"{', '.join(parts)}. W has {rows} rows and {columns} columns.{grey}"

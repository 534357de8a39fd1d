r"""How feature maps came about: the same channels, projected at several moments of training.

After figure 4 of Zeiler & Fergus 2013 (arXiv:1311.2901). At each checkpoint the data set is scanned
anew, and of each channel the one strongest activation of all,

    (image, p) = argmax a[c, p](image),

is projected back to pixels. From one checkpoint to the next the strongest image may be another:
what then looks like a jump is a jump of the maximum.

Example:
    >>> import torch
    >>> from captum_deconv.sources import embedded
    >>> from captum_deconv.gallery import evolution
    >>> models = {step: embedded.load_checkpoint(step) for step in embedded.list_checkpoints()[-2:]}
    >>> images = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    >>> found = evolution(models, "relu1", images, channels=[0, 1, 2])
    >>> found.projections.shape  # three channels, two checkpoints, the 7 x 7 pixels a neuron sees
    torch.Size([3, 2, 3, 7, 7])
    >>> figure = found.figure()
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from captum_deconv import features
from captum_deconv.drawing.colours import to_colour
from captum_deconv.gallery import pictures
from captum_deconv.gallery.data import GalleryData
from captum_deconv.gallery.projection import project

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from captum_deconv.gallery.projector import Seed

MOST_CHANNELS = 120
"""Of one figure; a longer one is no picture any more."""

# Inches.
_LEAST_CELL, _GAP, _GUTTER, _MARGIN, _LABEL, _HEAD, _LINE = 0.4, 0.04, 0.2, 0.12, 0.26, 0.2, 0.115
_INK, _FAINT = "#222222", "#666666"


@dataclass(frozen=True, eq=False)
class Evolution:
    """The strongest neuron of some channels at several checkpoints.

    ``C`` channels and ``S`` checkpoints; all tensors are on the CPU.

    Attributes:
        layer: The layer's dotted name.
        channels: The channels' numbers; row ``i`` of every tensor is ``channels[i]``.
        labels: What the checkpoints are called, in their order.
        method: How the neurons were projected.
        values: The activations, ``(C, S)``. None above zero: the channel was dead then.
        samples: Which sample of the data set each is of, ``(C, S)``.
        projections: ``(C, S, 3, h, w)``, of the size of a receptive field.
        patches: What each neuron saw, for looking at: ``uint8``, ``(C, S, 3, h, w)``.
        seed: What the projections start from: ``"activation"`` or ``"one"``.
        about: A line on the models and the data, for the caption.
    """

    layer: str
    channels: tuple[int, ...]
    labels: tuple[str, ...]
    method: str
    values: Tensor
    samples: Tensor
    projections: Tensor
    patches: Tensor
    seed: str = "activation"
    about: str = ""

    def figure(
        self,
        channels: Sequence[int] | None = None,
        *,
        patches: bool = False,
        columns: int | None = None,
        width: float = 7.0,
        title: str | None = None,
    ) -> Figure:
        """Draw a contact sheet: a row for each channel, a column for each checkpoint.

        Projections are drawn around mid-grey, each by its own scale, as the caption says: what
        grows is not seen, but what takes shape is.

        Args:
            channels: Their numbers, in the order to show them; all where left out.
            patches: Whether to show beside each projection the patch it came from.
            columns: Blocks of channels side by side; where left out, as many as stay legible.
            width: In inches; 7 is a page's text.
            title: A line above all.

        Returns:
            The figure; `captum_deconv.drawing.figures.save_figure` writes it.

        Raises:
            IndexError: If one of the channels is not shown here.
            ValueError: If there is no channel to show, or more than 120.
        """
        rows = self._find_rows(self.channels if channels is None else channels)
        cells = 2 if patches else 1
        across = len(self.labels)
        inside = width - 2 * _MARGIN
        if columns is None:
            least = _LABEL + across * (cells * _LEAST_CELL + _GAP)
            columns = int((inside + _GUTTER) / (least + _GUTTER))
        columns = max(1, min(columns, len(rows)))
        down = math.ceil(len(rows) / columns)
        block = (inside - (columns - 1) * _GUTTER) / columns
        step = min((block - _LABEL) / across, 1.3 * cells)
        picture = (step - _GAP) / cells
        tall = picture * self.projections.shape[3] / self.projections.shape[4]
        caption = textwrap.wrap(self._describe(len(rows)), max(40, int(width * 23)))
        head = _MARGIN + (0.3 if title else 0.0) + _HEAD
        height = head + down * (tall + _GAP) + 0.1 + _LINE * len(caption) + 0.5 * _MARGIN

        from matplotlib.figure import Figure

        figure = Figure(figsize=(width, height), facecolor="white")

        def write(x: float, y: float, text: str, size: float, **how: Any) -> None:
            """Write at so many inches from the left and from the top."""
            # Names are text, also where they hold a dollar sign.
            style: dict[str, Any] = {"color": _INK, "parse_math": False, **how}
            figure.text(x / width, 1 - y / height, text, fontsize=size, **style)

        if title:
            write(_MARGIN, _MARGIN + 0.14, title, 9)
        for number, row in enumerate(rows):
            left = _MARGIN + number // down * (block + _GUTTER)
            top = head + number % down * (tall + _GAP)
            if number % down == 0:
                for column, label in enumerate(self.labels):
                    middle = left + _LABEL + column * step + (step - _GAP) / 2
                    write(middle, head - 0.05, label, 6.5, ha="center", color=_FAINT)
            channel = str(self.channels[row])
            write(left + _LABEL - 0.05, top + tall / 2, channel, 6.5, ha="right", va="center")
            for column in range(across):
                drawn = [to_colour(self.projections[row, column])]
                if patches:
                    drawn.insert(0, self.patches[row, column].permute(1, 2, 0).numpy())
                for part, cell in enumerate(drawn):
                    x = left + _LABEL + column * step + part * picture
                    box = (x / width, 1 - (top + tall) / height, picture / width, tall / height)
                    axes = figure.add_axes(box)
                    axes.imshow(cell, interpolation="nearest", aspect="auto")
                    axes.set_axis_off()
        for number, line in enumerate(caption):
            y = height - 0.5 * _MARGIN - _LINE * (len(caption) - 1 - number)
            write(_MARGIN, y, line, 5.8, color=_FAINT)
        return figure

    def _find_rows(self, channels: Sequence[int]) -> list[int]:
        if not 0 < len(channels) <= MOST_CHANNELS:
            raise ValueError(f"a figure shows 1 to {MOST_CHANNELS} channels, not {len(channels)}")
        for channel in channels:
            if channel not in self.channels:
                few = ", ".join(map(str, self.channels[:8]))
                more = ", ..." if len(self.channels) > 8 else ""
                raise IndexError(f"channel {channel} is not shown here; there are {few}{more}")
        return [self.channels.index(channel) for channel in channels]

    def _describe(self, shown: int) -> str:
        what = "its activation" if self.seed == "activation" else "one"
        text = (
            f"Layer {self.layer}: {shown} channels from top to bottom, {len(self.labels)} "
            f"checkpoints from left to right; each by its strongest activation of the data set at "
            f"that checkpoint, {what} projected back to pixels by {self.method}. "
            f"Projections: {pictures.describe_scale('projection')}."
        )
        return f"{text} {self.about}".strip()


def evolution(
    models: Mapping[Any, nn.Module],
    layer: str,
    dataset: Any,
    *,
    channels: int | Sequence[int] | None = None,
    method: str = "deconvnet",
    seed: Seed = "activation",
    batch_size: int = 32,
    num_workers: int = 0,
    restore: Callable[[Tensor], Tensor] | None = None,
    about: str = "",
    progress: bool = False,
) -> Evolution:
    """Project the strongest neuron of each channel at several checkpoints of training.

    Args:
        models: The networks by what to call them, such as steps of training, in the order to show
            them. They are asked for one at a time: a mapping that loads each when asked keeps one
            in memory.
        layer: The layer's dotted name, the same in all.
        dataset: As for `features.scan`; it is scanned once for each network.
        channels: Numbers of the channels; all where left out.
        method: As for `gallery.project`.
        seed: As there.
        batch_size: Images computed at a time in the scans.
        num_workers: Processes that read images.
        restore: As for `gallery.project`.
        about: A line on the models and the data, for the caption.
        progress: Whether to show a bar for each scan where there is a terminal.

    Returns:
        The evolution, on the CPU.

    Raises:
        ValueError: If there is no network, or the layer's neurons do not see as much in all of
            them; and for whatever `features.scan` and `gallery.project` refuse.
    """
    found: list[GalleryData] = []
    for label in models:
        model = models[label]
        index = features.scan(
            model,
            layer,
            dataset,
            k=1,
            batch_size=batch_size,
            num_workers=num_workers,
            progress=progress,
        )
        part = project(
            index,
            model,
            dataset,
            channels=channels,
            method=method,
            seed=seed,
            restore=restore,
            workers=num_workers,
            check=False,  # the index was made a moment ago
        )
        if found and part.patches.shape != found[0].patches.shape:
            raise ValueError(
                f"layer {layer!r} has patches of shape {tuple(part.patches.shape)} in the network "
                f"{label!r} and of {tuple(found[0].patches.shape)} in the first: checkpoints of "
                "one network are needed"
            )
        found.append(part)
    if not found:
        raise ValueError("there is no network to show: models is empty")
    rows = range(len(found[0].channels))
    return Evolution(
        layer=layer,
        channels=found[0].channels,
        labels=tuple(map(str, models)),
        method=method,
        values=torch.stack([part.values[:, 0] for part in found], dim=1),
        samples=torch.stack([part.samples[:, 0] for part in found], dim=1),
        projections=torch.stack([part.projections[:, 0] for part in found], dim=1),
        patches=torch.stack(
            [torch.stack([part.show_patch(row, 0) for row in rows]) for part in found], dim=1
        ),
        seed=seed,
        about=about,
    )

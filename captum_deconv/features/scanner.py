"""A scan under way: batch after batch through the model, the checkpoint, the hooks on its layers.

A hook ranks a layer's activations while they are still warm and keeps nothing else, so memory does
not grow with the data set, and the pass ends at the deepest layer asked for wherever the model's
source proves that nothing comes after it.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from captum_deconv.engine import forward, modes
from captum_deconv.engine.fast import measure_difference
from captum_deconv.engine.hooks import Hook, hooked
from captum_deconv.features.batches import Batch, read_batches
from captum_deconv.features.index import (
    ActivationIndex,
    IndexMismatchError,
    first_samples,
    join_ranges,
)
from captum_deconv.features.progress import show_progress
from captum_deconv.features.ranking import MISSING, Ranking, take_maxima
from captum_deconv.features.records import UnreadableSampleError


class _Reached(BaseException):
    """Ends a forward pass at the last layer; no ``except Exception`` in a model's code stops it."""


class _OtherShapeError(ValueError):
    """A call of a layer gave other channels than before."""


@dataclass
class _Finding:
    """What a layer's call adds.

    Attributes:
        ranking: The new one.
        maxima: Of each image and channel.
        nans: Which channels of which samples were NaN.
    """

    ranking: Ranking
    maxima: Tensor
    nans: Tensor | None


@dataclass
class Run:
    """A scan under way: what it works on, and what it has found."""

    model: nn.Module
    reference: nn.Module | None
    dataset: Any
    index: ActivationIndex
    device: torch.device
    autocast: torch.dtype | None
    strict: bool
    checkpoint: Path | None
    checkpoint_seconds: float
    rankings: dict[str, Ranking] = field(default_factory=dict)

    @property
    def by_size(self) -> bool:
        """Whether batches are of one size each, rather than all of one."""
        return bool(self.index.metadata.get("by_size"))

    def scan(self, batches: Sequence[Sequence[int]], num_workers: int, progress: bool) -> None:
        """Scan batches of samples, from where the checkpoint left them."""
        done = self._resume(batches)
        total, before = sum(map(len, batches)), sum(map(len, batches[:done]))
        captures = {
            name: forward.capture(self.model, name, stop=True) for name in self.index.layers
        }
        size = None if self.by_size else self.index.metadata["batch_size"]
        read = read_batches(
            *(self.dataset, batches[done:], size, num_workers),
            pin_memory=self.device.type == "cuda",
        )
        with show_progress(total, before, shown=progress) as advance:

            def work(held: modes.Pass) -> None:
                with torch.no_grad():
                    saved = time.monotonic()
                    for number, batch in enumerate(read, done + 1):
                        self._scan_batch(batch, captures)
                        advance(batch.count)
                        if self.checkpoint and time.monotonic() - saved >= self.checkpoint_seconds:
                            self._save(batches[:number])
                            saved = time.monotonic()

            # Not for gradients: compiled parts run as they were written, so that their hooks run.
            modes.differentiably(self.model, work)
        self._save(batches)

    def _save(self, batches: Sequence[Sequence[int]]) -> None:
        """Put what was found in the batches into the index, and write the checkpoint."""
        self.index.covered = _cover(batches)
        self._take_rankings()
        if self.checkpoint:
            self.index.save(self.checkpoint)

    def _resume(self, batches: Sequence[Sequence[int]]) -> int:
        """Take up the checkpoint, if there is one, and return the first batch still to do."""
        if self.checkpoint is None or not self.checkpoint.exists():
            return 0
        found = ActivationIndex.load(self.checkpoint)
        found.check_metadata(
            self.index.metadata,
            f"{self.checkpoint} is the checkpoint of another scan (delete it to begin afresh)",
        )
        self.index = found
        done, left = 0, sum(stop - start for start, stop in found.covered)
        while left > 0 and done < len(batches):
            left -= len(batches[done])
            done += 1
        if found.covered != _cover(batches[:done]):
            raise IndexMismatchError(
                f"{self.checkpoint} is the checkpoint of another part: it begins with sample "
                f"{found.covered[0][0]}, not {batches[0][0] if batches else 'any'}"
            )
        self.rankings = {layer: found.ranking_of(layer).to(self.device) for layer in found.values}
        return done

    def _take_rankings(self) -> None:
        for layer in self.index.layers:
            if layer in self.rankings:
                ranking = self.rankings[layer].to("cpu")
                self.index.values[layer] = ranking.values
                self.index.samples[layer] = ranking.samples
                self.index.positions[layer] = ranking.positions

    def _scan_batch(self, batch: Batch, captures: dict[str, forward.Capture]) -> None:
        for sample, reason in batch.unreadable.items():
            if self.strict:
                raise UnreadableSampleError(f"sample {sample} cannot be read: {reason}")
            self.index.skipped[sample] = reason
        if batch.images is None:
            return
        samples = batch.samples.to(self.device, non_blocking=True)
        images = batch.images.to(self.device, non_blocking=True)
        if self.reference is not None and "fast" not in self.index.metadata:
            self.index.metadata["fast"] = self._measure_differences(self.reference, images)
        findings: dict[str, _Finding | _OtherShapeError] = {}
        with self._watched(captures, samples, findings), self._precision():
            self.model(images)
        for layer in captures:
            if layer not in findings:
                raise RuntimeError(
                    f"layer {layer!r} did not run in the forward pass: choose one that the model "
                    "calls from Python (inside TorchScript no layer can be seen)"
                )
            finding = findings[layer]
            if isinstance(finding, _OtherShapeError):
                raise finding
            self.rankings[layer] = finding.ranking
            self._count_nans(layer, finding, batch.samples)
            if self.index.metadata.get("maxima"):
                self._keep_maxima(layer, finding.maxima, batch)

    def _keep_maxima(self, layer: str, maxima: Tensor, batch: Batch) -> None:
        """Keep each image's strongest activation of each channel, and the image's label."""
        length, read = self.index.metadata["dataset"]["length"], batch.samples != MISSING
        if layer not in self.index.maxima:
            dtype = self.rankings[layer].values.dtype
            empty = torch.full((length, maxima.shape[1]), math.nan, dtype=dtype)
            self.index.maxima[layer] = empty
        kept = self.index.maxima[layer]
        kept[batch.samples[read]] = maxima.cpu().to(kept.dtype)[read]
        if self.index.labels is None:
            self.index.labels = torch.full((length,), MISSING)
        self.index.labels[batch.samples[read]] = batch.labels[read]

    def _measure_differences(self, reference: nn.Module, images: Tensor) -> dict[str, float]:
        """Return how far each layer's activations are from the reference's, of their largest."""
        by_model = []
        for model in (self.model, reference):
            found: dict[str, Tensor] = {}
            hooks = (
                Hook(model.get_submodule(layer), partial(_keep, found, layer, len(images)))
                for layer in self.index.layers
            )
            with hooked(*hooks), self._precision():
                model(images)
            by_model.append(found)
        fast, exact = by_model
        return {layer: measure_difference(fast[layer], exact[layer]) for layer in fast}

    def _precision(self) -> torch.autocast:
        # Weights cast once would be kept for the pass: a gain in time that costs their memory.
        return torch.autocast(self.device.type, self.autocast, enabled=self.autocast is not None)

    @contextmanager
    def _watched(
        self,
        captures: dict[str, forward.Capture],
        samples: Tensor,
        findings: dict[str, _Finding | _OtherShapeError],
    ) -> Iterator[None]:
        """Rank what the layers return; the pass ends when no further call can come."""
        stop = all(capture.stop for capture in captures.values())
        thread = threading.get_ident()

        def rank(layer: str) -> Callable[..., None]:
            def take(module: nn.Module, args: Any, output: Any) -> None:
                if threading.get_ident() != thread:
                    return  # another thread's pass through the same model
                try:
                    findings[layer] = self._rank(layer, output, samples)
                except _OtherShapeError as error:  # of no account where another call follows
                    findings[layer] = error
                if stop and len(findings) == len(captures):
                    raise _Reached

            return take

        hooks = (Hook(capture.layer, rank(layer)) for layer, capture in captures.items())
        with hooked(*hooks), suppress(_Reached):
            yield

    def _rank(self, layer: str, output: Any, samples: Tensor) -> _Finding:
        activations = _check_output(layer, output, len(samples))
        channels, dimensions = activations.shape[1], activations.dim() - 2
        standing = self.rankings.get(layer)
        if standing is None:
            dtype = torch.float64 if activations.dtype == torch.float64 else torch.float32
            k = self.index.k
            standing = Ranking.empty(channels, k, dimensions, dtype, activations.device)
        if standing.positions.shape[::2] != (channels, dimensions):
            raise _OtherShapeError(
                f"layer {layer!r} returned {tuple(activations.shape)}, and for earlier images "
                f"{standing.positions.shape[0]} channels with {standing.positions.shape[2]} "
                "spatial dimensions: choose a layer whose channels are always the same"
            )
        nans = None
        maxima = take_maxima(activations)
        if maxima.isnan().any():  # else no activation is
            missing = activations.isnan()
            nans = missing.flatten(2).any(2) if dimensions else missing
            nans &= (samples != MISSING).unsqueeze(1)
            activations = activations.masked_fill(missing, -math.inf)
            maxima = take_maxima(activations)
        per_image = self.index.metadata["per_image"]
        if self.by_size:  # the samples do not come in their order
            empty = Ranking.empty(
                *(channels, self.index.k, dimensions, standing.values.dtype, activations.device)
            )
            ranking = standing.merge(empty.add(activations, maxima, samples, per_image))
        else:
            ranking = standing.add(activations, maxima, samples, per_image)
        return _Finding(ranking, maxima, nans)

    def _count_nans(self, layer: str, finding: _Finding, samples: Tensor) -> None:
        known = self.index.nans.get(layer)
        if known is None:
            known = torch.zeros(len(finding.ranking.values), dtype=torch.long)
            self.index.nans[layer] = known
        if finding.nans is None or not finding.nans.any():
            return
        nans = finding.nans.cpu()
        self.index.nans[layer] = known + nans.sum(0)
        affected = samples[nans.any(1)].tolist()
        self.index.nan_samples[layer] = first_samples(
            self.index.nan_samples.get(layer, []), affected
        )


def _cover(batches: Sequence[Sequence[int]]) -> list[tuple[int, int]]:
    """Return the samples of batches as sorted ranges."""
    ranges = []
    for batch in batches:
        whole = [(batch.start, batch.stop)] if isinstance(batch, range) else None
        ranges += whole or [(row, row + 1) for row in batch]
    return join_ranges(ranges)


def _keep(
    found: dict[str, Tensor], layer: str, batch_size: int, module: nn.Module, args: Any, output: Any
) -> None:
    found[layer] = _check_output(layer, output, batch_size).clone()  # before anything in place


def _check_output(layer: str, output: Any, batch_size: int) -> Tensor:
    """Return a layer's output, if it is one tensor of activations in channels."""
    if not isinstance(output, Tensor):
        raise TypeError(
            f"layer {layer!r} returns a {type(output).__name__} where one tensor was expected: "
            "choose a layer inside it"
        )
    if not output.is_floating_point():
        raise TypeError(f"layer {layer!r} returns {output.dtype}: activations are floating-point")
    if output.dim() < 2 or len(output) != batch_size:
        raise TypeError(
            f"layer {layer!r} returns a tensor {tuple(output.shape)} for {batch_size} images: "
            "it must be (N, C, *spatial)"
        )
    return output

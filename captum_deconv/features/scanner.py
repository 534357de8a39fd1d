"""A scan under way: batch after batch through the model, the checkpoint, the hooks on its layers.

A hook ranks a layer's activations while they are still warm and keeps nothing else, so memory does
not grow with the data set, and the pass ends at the deepest layer asked for wherever the model's
source proves that nothing comes after it.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from captum_deconv.engine import forward, modes
from captum_deconv.engine.fast import measure_difference
from captum_deconv.features.batches import Batch, read_batches
from captum_deconv.features.index import ActivationIndex, IndexMismatchError, first_samples
from captum_deconv.features.progress import show_progress
from captum_deconv.features.ranking import MISSING, Ranking, take_maxima
from captum_deconv.features.records import UnreadableSampleError


class _Reached(BaseException):
    """Ends a forward pass at the last layer; no ``except Exception`` in a model's code stops it."""


@dataclass
class _Finding:
    """What a layer's call adds: the new ranking, and which channels of which samples were NaN."""

    ranking: Ranking
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

    def scan_range(self, start: int, stop: int, num_workers: int, progress: bool) -> None:
        """Scan the samples of a range, from where the checkpoint left it."""
        at = self._resume(start, stop)
        captures = {
            name: forward.capture(self.model, name, stop=True) for name in self.index.layers
        }
        batches = read_batches(
            *(self.dataset, at, stop, self.index.metadata["batch_size"], num_workers),
            pin_memory=self.device.type == "cuda",
        )
        with show_progress(stop - start, at - start, shown=progress) as advance:

            def work(held: modes.Pass) -> None:
                with torch.no_grad():
                    self._scan_batches(batches, captures, start, at, advance)

            # Not for gradients: compiled parts run as they were written, so that their hooks run.
            modes.differentiably(self.model, work)
        self._take_rankings()
        if self.checkpoint:
            self.index.save(self.checkpoint)

    def _scan_batches(
        self,
        batches: Iterator[Batch],
        captures: dict[str, forward.Capture],
        start: int,
        at: int,
        advance: Callable[[int], None],
    ) -> None:
        saved = time.monotonic()
        for batch in batches:
            self._scan_batch(batch, captures)
            self.index.covered = [(start, batch.stop)]
            advance(batch.stop - at)
            at = batch.stop
            if self.checkpoint and time.monotonic() - saved >= self.checkpoint_seconds:
                self._take_rankings()
                self.index.save(self.checkpoint)
                saved = time.monotonic()

    def _resume(self, start: int, stop: int) -> int:
        """Take up the checkpoint, if there is one, and return the first sample still to do."""
        if self.checkpoint is None or not self.checkpoint.exists():
            return start
        found = ActivationIndex.load(self.checkpoint)
        found.check_metadata(
            self.index.metadata,
            f"{self.checkpoint} is the checkpoint of another scan (delete it to begin afresh)",
        )
        self.index = found
        if found.covered and found.covered[0][0] != start:
            raise IndexMismatchError(
                f"{self.checkpoint} is the checkpoint of another part: it begins with sample "
                f"{found.covered[0][0]}, not {start}"
            )
        self.rankings = {layer: found.ranking_of(layer).to(self.device) for layer in found.values}
        return found.covered[0][1] if found.covered else start

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
        findings: dict[str, _Finding] = {}
        with self._watched(captures, samples, findings), self._precision():
            self.model(images)
        for layer in captures:
            if layer not in findings:
                raise RuntimeError(
                    f"layer {layer!r} did not run in the forward pass: choose one that the model "
                    "calls from Python (inside TorchScript no layer can be seen)"
                )
            self.rankings[layer] = findings[layer].ranking
            self._count_nans(layer, findings[layer], batch.samples)

    def _measure_differences(self, reference: nn.Module, images: Tensor) -> dict[str, float]:
        """Return how far each layer's activations are from the reference's, of their largest."""
        by_model = []
        for model in (self.model, reference):
            found: dict[str, Tensor] = {}
            with ExitStack() as hooks, self._precision():
                for layer in self.index.layers:
                    keep = partial(_keep, found, layer, len(images))
                    hook = model.get_submodule(layer).register_forward_hook(keep)
                    hooks.callback(hook.remove)
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
        findings: dict[str, _Finding],
    ) -> Iterator[None]:
        """Rank what the layers return; the pass ends when no further call can come."""
        stop = all(capture.stop for capture in captures.values())
        thread = threading.get_ident()

        def rank(layer: str) -> Callable[..., None]:
            def take(module: nn.Module, args: Any, output: Any) -> None:
                if threading.get_ident() != thread:
                    return  # another thread's pass through the same model
                findings[layer] = self._rank(layer, output, samples)
                if stop and len(findings) == len(captures):
                    raise _Reached

            return take

        with ExitStack() as hooks:
            for layer, capture in captures.items():
                hooks.callback(capture.layer.register_forward_hook(rank(layer)).remove)
            with suppress(_Reached):
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
            raise ValueError(
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
        ranking = standing.add(activations, maxima, samples, self.index.metadata["per_image"])
        return _Finding(ranking, nans)

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

"""The index of a scan: each channel's strongest places, and what they were found with.

On disk it is one safetensors file whose header holds the records as JSON. It is written beside its
place and moved there, so a reader finds the old file or the new one and never half of either.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from captum_deconv.drawing.files import replace_file
from captum_deconv.features.ranking import Ranking
from captum_deconv.features.records import describe_dataset, describe_model, find_differences

FORMAT = "captum-deconv activation index 1"
_RECORD = "captum_deconv"
_NAMED_NANS = 10
_KINDS = ("values", "samples", "positions", "nans", "maxima")


class IndexMismatchError(ValueError):
    """An index held against what it was not made from; the message says which differs."""


class IndexFileError(ValueError):
    """A file that is no activation index, or a damaged one."""


@dataclass(eq=False)
class ActivationIndex:
    """The strongest activations of every channel of some layers over a data set.

    All dictionaries have the layers' dotted names as keys; ``k`` places come strongest first, and
    where a channel has fewer, the value is negative infinity and sample and position are -1.

    Attributes:
        values: Activations, ``(C, k)``.
        samples: Indices into the data set, ``(C, k)``.
        positions: Places in the layer's map, ``(C, k, spatial dimensions)``; the last dimension has
            size 0 for a layer without a map.
        nans: In how many samples a channel had NaN activations, ``(C,)``; they are never ranked.
        nan_samples: The first ten of those samples, of any channel.
        maxima: Where they were asked for, each image's strongest activation of each channel,
            ``(N, C)``; NaN of an image that was not looked at, or could not be read.
        labels: With them, each image's label, ``(N,)``; -1 where there is none.
        skipped: The samples that could not be read: by index, the name and the reason.
        covered: The samples that were looked at, as sorted ranges ``(start, stop)``.
        metadata: What the index was made from: ``model``, ``dataset``, ``layers``, ``k``,
            ``per_image``, ``batch_size``, ``precision`` and ``versions``; of a fast scan, under
            ``fast``, by layer the difference that it made; where images differ in size,
            ``by_size`` and the ``largest`` height and width of all.
    """

    values: dict[str, Tensor]
    samples: dict[str, Tensor]
    positions: dict[str, Tensor]
    metadata: dict[str, Any]
    nans: dict[str, Tensor] = field(default_factory=dict)
    nan_samples: dict[str, list[int]] = field(default_factory=dict)
    maxima: dict[str, Tensor] = field(default_factory=dict)
    labels: Tensor | None = None
    skipped: dict[int, str] = field(default_factory=dict)
    covered: list[tuple[int, int]] = field(default_factory=list)

    @property
    def k(self) -> int:
        """How many places each channel has."""
        return int(self.metadata["k"])

    @property
    def layers(self) -> list[str]:
        """The layers' dotted names, in the order in which they were asked for."""
        return list(self.metadata["layers"])

    @property
    def complete(self) -> bool:
        """Whether every sample of the data set was looked at; a shard's index is not complete."""
        return self.covered == [(0, self.metadata["dataset"]["length"])]

    def ranking_of(self, layer: str) -> Ranking:
        """Return a layer's places as a ranking.

        Args:
            layer: Its dotted name.

        Returns:
            The same tensors.
        """
        return Ranking(self.values[layer], self.samples[layer], self.positions[layer])

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the index to one safetensors file, all of it or nothing.

        Args:
            path: The file; one that is there is replaced.
        """
        tensors = {
            f"{kind}/{layer}": tensor.contiguous()
            for kind in _KINDS
            for layer, tensor in getattr(self, kind).items()
        }
        if self.labels is not None:
            tensors["labels"] = self.labels
        record = {
            "format": FORMAT,
            "metadata": self.metadata,
            "skipped": {str(index): self.skipped[index] for index in sorted(self.skipped)},
            "nan_samples": self.nan_samples,
            "covered": self.covered,
        }
        # One entry only: safetensors keeps several in no particular order.
        header = {_RECORD: json.dumps(record, sort_keys=True)}
        with replace_file(path) as temporary:
            # Not `save_file`, whose files only their owner may read.
            temporary.write_bytes(safetensors.torch.save(tensors, header))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> ActivationIndex:
        """Read an index from its file.

        Args:
            path: What :meth:`save` wrote.

        Returns:
            The index, on the CPU. Hold it against a model and a data set with :meth:`check`.

        Raises:
            FileNotFoundError: If there is no such file.
            IndexFileError: If it is no index, or damaged.
        """
        if not Path(path).exists():
            raise FileNotFoundError(f"{os.fspath(path)}: no such activation index")
        try:
            with safetensors.safe_open(os.fspath(path), "pt") as file:
                record = json.loads((file.metadata() or {})[_RECORD])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            if record["format"] != FORMAT:
                raise IndexFileError(
                    f"{os.fspath(path)}: of the format {record['format']!r}; this version reads "
                    f"{FORMAT!r}"
                )
            by_kind: dict[str, dict[str, Tensor]] = {}
            for layer in record["metadata"]["layers"]:
                for kind in _KINDS:
                    by_kind.setdefault(kind, {})
                    if f"{kind}/{layer}" in tensors:
                        by_kind[kind][layer] = tensors[f"{kind}/{layer}"]
            return cls(
                **by_kind,
                labels=tensors.get("labels"),
                metadata=record["metadata"],
                nan_samples=record["nan_samples"],
                skipped={int(index): reason for index, reason in record["skipped"].items()},
                covered=[(start, stop) for start, stop in record["covered"]],
            )
        except (safetensors.SafetensorError, KeyError, json.JSONDecodeError) as error:
            raise IndexFileError(
                f"{os.fspath(path)}: not an activation index, or a damaged one ({error})"
            ) from error

    def check(self, model: nn.Module, dataset: Any) -> None:
        """Make sure that the index was made with this model, these weights and this data set.

        Args:
            model: The model to be used with the index.
            dataset: The data set to be used with it.

        Raises:
            IndexMismatchError: If one differs; the message says which.
        """
        found = {"model": describe_model(model), "dataset": describe_dataset(dataset)}
        self.check_metadata(found, "this index belongs to something else")

    def check_metadata(self, found: dict[str, Any], problem: str) -> None:
        """Compare metadata records.

        Args:
            found: The entries to compare with the index's own.
            problem: How the message begins.

        Raises:
            IndexMismatchError: If one differs.
        """
        differences = find_differences(self.metadata, found)
        if differences:
            raise IndexMismatchError(f"{problem}: {'; '.join(differences)}")

    def merge(self, other: ActivationIndex) -> ActivationIndex:
        """Join the indices of two disjoint parts of one data set.

        The order makes no difference, neither of the two nor of several merges.

        Args:
            other: An index of other samples, made with the same settings.

        Returns:
            A new index of both parts.

        Raises:
            IndexMismatchError: If the two were made from different things, with different
                settings, or have samples in common.
        """
        self.check_metadata(other.metadata, "these indices do not belong together")
        covered = join_ranges([*self.covered, *other.covered])
        rankings = {}
        for layer in self.layers:
            parts = [index.ranking_of(layer) for index in (self, other) if layer in index.values]
            if len(parts) == 2:
                _check_shapes(layer, *parts)
                rankings[layer] = parts[0].merge(parts[1])
            elif parts:
                rankings[layer] = parts[0]
        nans: dict[str, Tensor] = {}
        for layer, count in [*self.nans.items(), *other.nans.items()]:
            nans[layer] = nans[layer] + count if layer in nans else count
        nan_samples = {
            layer: first_samples(self.nan_samples.get(layer, []), other.nan_samples.get(layer, []))
            for layer in {**self.nan_samples, **other.nan_samples}
        }
        maxima = {
            layer: torch.where(known.isnan(), other.maxima.get(layer, known), known)
            for layer, known in {**other.maxima, **self.maxima}.items()
        }
        labels = [found.labels for found in (self, other) if found.labels is not None]
        return ActivationIndex(
            values={layer: ranking.values for layer, ranking in rankings.items()},
            samples={layer: ranking.samples for layer, ranking in rankings.items()},
            positions={layer: ranking.positions for layer, ranking in rankings.items()},
            metadata=self.metadata,
            nans={layer: nans[layer] for layer in self.layers if layer in nans},
            nan_samples=nan_samples,
            maxima={layer: maxima[layer] for layer in self.layers if layer in maxima},
            labels=torch.stack(labels).amax(0) if labels else None,  # -1 where one looked not
            skipped={**self.skipped, **other.skipped},
            covered=covered,
        )


def first_samples(known: Sequence[int], more: Sequence[int]) -> list[int]:
    """Return the first ten of two lists of samples, ascending."""
    return sorted({*known, *more})[:_NAMED_NANS]


def _check_shapes(layer: str, one: Ranking, other: Ranking) -> None:
    if one.positions.shape != other.positions.shape or one.values.dtype != other.values.dtype:
        raise IndexMismatchError(
            f"layer {layer!r} has places of shape {tuple(one.positions.shape)} in one index and "
            f"{tuple(other.positions.shape)} in the other"
        )


def join_ranges(ranges: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Join ranges that touch.

    Args:
        ranges: Of samples, start and stop.

    Returns:
        The same samples, sorted.

    Raises:
        IndexMismatchError: If a sample is in two of them.
    """
    joined: list[tuple[int, int]] = []
    for start, stop in sorted(ranges):
        if joined and start < joined[-1][1]:
            raise IndexMismatchError(
                f"both indices cover the samples from {start} to {min(stop, joined[-1][1]) - 1}: "
                "merge indices of disjoint parts"
            )
        if joined and start == joined[-1][1]:
            joined[-1] = (joined[-1][0], stop)
        else:
            joined.append((start, stop))
    return joined

"""What is done to every batch: a forward pass, a backward pass for each method, rows of both."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from captum_deconv.collection.layout import name_map
from captum_deconv.collection.questions import Answer, Reduce, answer_in_parts, reduce_maps
from captum_deconv.collection.samples import NO_LABEL, Batch, Sample
from captum_deconv.engine.fast import measure_difference
from captum_deconv.engine.lean import Memory
from captum_deconv.engine.methods import Method
from captum_deconv.engine.recording import ModelCall
from captum_deconv.engine.structures import Choice


class CollectWarning(UserWarning):
    """What had to be left out of a collection, or done otherwise than asked."""


@dataclass
class Job:
    """What is done to every batch; as ``collect`` takes it, where nothing else is said.

    Attributes:
        model: The model that is asked, a faster copy perhaps.
        methods: The methods, prepared.
        target: The class to explain.
        layer: A layer, to explain a neuron of it.
        neuron: Which of the layer's.
        output: Which of the model's outputs is meant.
        memory: What is kept for the backward passes.
        dtype: What attributions are kept as.
        reduce: What of them is kept.
        device: Where the model is.
        reference: The model itself, where a faster copy is asked.
        difference: How far the copy was off on the first batch.
    """

    model: nn.Module
    methods: list[Method]
    target: Any
    layer: str | None
    neuron: Any
    output: Choice
    memory: Memory
    dtype: torch.dtype
    reduce: Reduce
    device: torch.device
    reference: nn.Module | None = None
    difference: float | None = None

    def work(self, batch: Batch) -> dict[str, Tensor]:
        """Return the rows of a batch, by field."""
        if self.target == "label" and NO_LABEL in batch.labels:
            row = batch.rows[batch.labels.index(NO_LABEL)]
            raise ValueError(
                f'target="label" needs a label of every sample, and sample {row} has none: give '
                "a data set of (tensor, label), or another target"
            )
        labels = torch.tensor(batch.labels)
        found = self._answer(self.model, batch, labels)
        if self.reference is not None and self.difference is None:
            exact = self._answer(self.reference, batch, labels)
            self.difference = max(
                measure_difference(one, other)
                for name, maps in found.attributions.items()
                for one, other in zip(maps, exact.attributions[name], strict=True)
            )
        norms = [
            torch.cat([each.flatten(1) for each in maps], 1).norm(dim=1)
            for maps in found.attributions.values()
        ]
        values = {
            "target": found.target,
            "place": found.place,
            "predicted": found.predicted,
            "label": labels,
            "norms": torch.stack(norms, 1).float(),
            "score": found.score.float(),
            "kept": torch.ones(len(batch.rows), dtype=torch.uint8),
        }
        for name, maps in found.attributions.items():
            for number, each in enumerate(maps):
                kept = reduce_maps(each, self.reduce)
                values[name_map(name, number)] = kept.to(self.dtype)
                shape = torch.tensor(kept.shape[1:]).expand(len(kept), -1)
                values[name_map("shape", number)] = shape
        return {name: value.detach().cpu() for name, value in values.items()}

    def _answer(self, model: nn.Module, batch: Batch, labels: Tensor) -> Answer:
        call = ModelCall(
            model,
            tuple(each.to(self.device, non_blocking=True) for each in batch.inputs),
            output=self.output,
            layer=self.layer or "",
            memory=self.memory,
        )
        question = self.target if self.layer is None else self.neuron
        return answer_in_parts(*(call, self.methods, question, labels, batch.rows, _tell_halved))


def count_axes(job: Job, sample: Sample) -> int:
    """Count the axes of a neuron's place.

    Args:
        job: What is done.
        sample: To do it to.

    Returns:
        Those of its layer's map for one image; 0 for a class.
    """
    if job.layer is None:
        return 0
    if isinstance(job.neuron, tuple):
        return len(job.neuron) - 1
    one = Batch([0], tuple(each[None] for each in sample.inputs), [NO_LABEL])
    return job.work(one)["place"].shape[1]


def _tell_halved(count: int) -> None:
    warnings.warn(
        f"memory did not suffice for a batch of {count}: it was done in two halves",
        CollectWarning,
        stacklevel=2,
    )

"""Several processes for one scan: each takes a run of whole batches, and all merge at the end.

The batches are those of a scan by one process, so the merged index is the same to the last bit.
``torchrun`` starts the processes, on one machine or on several:

    torchrun --nproc-per-node 8 -m captum_deconv scan ...
    torchrun --nnodes 4 --nproc-per-node 8 --rdzv-backend c10d --rdzv-endpoint HOST:PORT \
        -m captum_deconv scan ...

In a program of your own, ``scan`` shares the work wherever ``torch.distributed`` is set up:

>>> from captum_deconv import features
>>> with features.processes("cpu") as process:  # one process, as torchrun did not start this one
...     process.rank, process.count, process.device
(0, 1, device(type='cpu'))
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import distributed

# Shards take unequally long, and the first to finish waits for the last.
_PATIENCE = timedelta(days=7)

Record = TypeVar("Record")


class ScanInterruptedError(RuntimeError):
    """Another process of the scan is gone; the message says how to go on."""


@dataclass(frozen=True)
class Process:
    """One of the processes of a scan.

    Attributes:
        rank: Its number, from 0; the first one writes the index.
        count: How many there are.
        device: Where it computes.
    """

    rank: int
    count: int
    device: torch.device


@contextmanager
def processes(device: str | torch.device | None = None) -> Iterator[Process]:
    """Join the processes that ``torchrun`` started, for the length of the context.

    On GPUs they talk through NCCL and each takes the one of its local rank; otherwise Gloo.

    Args:
        device: ``"cpu"``, ``"cuda"`` or one GPU; None takes GPUs where there are any.

    Yields:
        Which process this is; the only one where ``torchrun`` did not start it.
    """
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(device)
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield Process(0, 1, device)
        return
    if device == torch.device("cuda"):
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(device)
    backend = "nccl" if device.type == "cuda" else "gloo"
    distributed.init_process_group(backend, timeout=_PATIENCE)
    try:
        yield Process(distributed.get_rank(), distributed.get_world_size(), device)
    finally:
        distributed.destroy_process_group()


def find_shard() -> tuple[int, int]:
    """Return this process's rank and the number of processes that ``torch.distributed`` joins."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return 0, 1
    return distributed.get_rank(), distributed.get_world_size()


def gather(record: Record) -> list[Record]:
    """Collect a record from every process, on every process.

    Args:
        record: This process's; anything that can be pickled.

    Returns:
        One for each process, in the order of their ranks.

    Raises:
        ScanInterruptedError: If another process is gone.
    """
    records: list[Any] = [None] * distributed.get_world_size()
    try:
        distributed.all_gather_object(records, record)
    except RuntimeError as error:
        raise ScanInterruptedError(
            f"process {distributed.get_rank()} of {len(records)} lost another process of the "
            "scan: start the same command again with as many processes, and each goes on from "
            f"its checkpoint where one was asked for ({error})"
        ) from error
    return records

"""What keeping attributions costs beside computing them, and how fast they are read again.

Throughput: ``collect`` by three methods over the bare loop (a forward pass and a backward pass for
each method, nothing kept), and over a plain Captum loop that saves with ``torch.save``; in turn,
hashes and files included. Memory: the peak of a process of its own, for some images and for ten
times as many. Reading: the median time of one attribution at random.

    python benchmarks/collect.py                    # and results/collect-cpu.json
    python benchmarks/collect.py --quick            # a few small images, for a test
"""

import argparse
import gc
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import captum.attr
import torch
import torchvision
from parts.machine import describe_machine, read_kilobytes, reset_peak, synchronize
from torch import Tensor, nn
from torch.utils.data import Dataset

from captum_deconv import Collection, collect

METHODS = ("input_gradient", "guided_backprop", "deconvnet")
BATCH = 8


class Random(Dataset[Tensor]):
    """Images that are made when they are asked for, and the same each time."""

    def __init__(self, length: int, size: int) -> None:
        self.length, self.size = length, size

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Tensor:
        if index >= self.length:
            raise IndexError(index)  # ends a for loop
        generator = torch.Generator().manual_seed(index)
        return torch.randn(3, self.size, self.size, generator=generator)


def build(name: str) -> nn.Module:
    """Return a network with seeded random weights."""
    torch.manual_seed(0)
    return torchvision.models.get_model(name, weights=None).eval()


def keep(model: nn.Module, data: Dataset[Tensor], **how: Any) -> None:
    """Collect into a folder that is gone afterwards."""
    with tempfile.TemporaryDirectory() as folder:
        collect(model, data, folder, batch_size=BATCH, progress=False, **how)


def loop_barely(model: nn.Module, images: list[Tensor], device: torch.device) -> None:
    """Run the passes, and keep nothing."""
    for start in range(0, len(images), BATCH):
        leaf = torch.stack(images[start : start + BATCH]).to(device).requires_grad_()
        scores = model(leaf).amax(1).sum()
        for _ in METHODS:
            torch.autograd.grad(scores, leaf, retain_graph=True)


def loop_by_captum(model: nn.Module, images: list[Tensor], device: torch.device) -> None:
    """Attribute by Captum's three classes, and save each batch."""
    methods = {
        "input_gradient": captum.attr.Saliency(model),
        "guided_backprop": captum.attr.GuidedBackprop(model),
        "deconvnet": captum.attr.Deconvolution(model),
    }
    with tempfile.TemporaryDirectory() as folder:
        for start in range(0, len(images), BATCH):
            batch = torch.stack(images[start : start + BATCH]).to(device)
            with torch.no_grad():
                target = model(batch).argmax(1)
            for name, method in methods.items():
                found = method.attribute(batch.clone().requires_grad_(), target)
                torch.save(found.half().cpu(), Path(folder) / f"{name}-{start}.pt")


def measure_pace(name: str, count: int, size: int, rounds: int, device: torch.device) -> Any:
    """Return the pace of ``collect`` over that of the two loops."""
    model = build(name).to(device)
    images = list(Random(count, size))
    calls = {
        "collect": lambda: keep(model, images),
        "bare": lambda: loop_barely(model, images, device),
        "captum": lambda: loop_by_captum(model, images, device),
    }
    over: dict[str, list[float]] = {"bare": [], "captum": []}
    loop_barely(model, images[:BATCH], device)
    for _ in range(rounds):
        seconds = {}
        for who, call in calls.items():
            synchronize(device)
            begun = time.perf_counter()
            call()
            synchronize(device)
            seconds[who] = time.perf_counter() - begun
        for who, ratios in over.items():
            ratios.append(seconds[who] / seconds["collect"])
    return {f"pace over {who}": round(statistics.median(r), 3) for who, r in over.items()}


def measure_peak(count: int, size: int) -> tuple[float, float]:
    """Return the MiB that a process of its own takes at its peak: whole, and for collecting."""
    model = build("resnet18")
    keep(model, Random(2 * BATCH, size))
    gc.collect()
    before = read_kilobytes("VmRSS")
    reset_peak()
    keep(model, Random(count, size))
    peak = read_kilobytes("VmHWM")
    return peak / 2**10, (peak - before) / 2**10


def measure_peak_apart(count: int, size: int) -> dict[str, float]:
    """Return the median of the peaks of three processes."""
    command = [sys.executable, __file__, "--peak", str(count), str(size)]
    runs = [
        subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
        for _ in range(3)
    ]
    columns = zip(("process", "collecting"), zip(*runs, strict=True), strict=True)
    return {name: round(statistics.median(map(float, column)), 1) for name, column in columns}


def measure_reading(count: int) -> dict[str, float]:
    """Return the milliseconds of opening a large collection, and of reading one attribution."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3, stride=4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    ).eval()
    with tempfile.TemporaryDirectory() as folder:
        how = {"batch_size": 256, "reduce": "sum", "methods": ["deconvnet"], "progress": False}
        collect(model, Random(count, 56), folder, **how)
        begun = time.perf_counter()
        kept = Collection.open(folder)
        opened = time.perf_counter() - begun
        chance, times = random.Random(0), []
        for _ in range(500):
            index = chance.randrange(count)
            begun = time.perf_counter()
            assert kept[index]["deconvnet"].shape == (1, 56, 56)
            times.append(time.perf_counter() - begun)
    return {
        "items": count,
        "open, ms": round(opened * 1e3, 2),
        "read one, ms": round(statistics.median(times) * 1e3, 3),
    }


def main() -> None:
    """Print what was measured, and write it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu", type=torch.device)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--peak", nargs=2, type=int, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    warnings.simplefilter("ignore")  # Captum warns of the hooks it sets
    if options.peak:
        print(*measure_peak(*options.peak))
        return
    quick = options.quick
    names, images, size, rounds = ("resnet50", "vgg16"), 32, 224, 3
    few, read = 500, 50_000
    if quick:
        names, images, size, rounds, few, read = ("resnet18",), 8, 64, 1, 16, 300
    result: dict[str, Any] = {"machine": describe_machine(options.device), "batch": BATCH}
    for name in names:
        result[name] = measure_pace(name, images, size, rounds, options.device)
        print(name, result[name], flush=True)
    peaks = {count: measure_peak_apart(count, 64) for count in (few, few if quick else 10 * few)}
    result["peak of resnet18 at 64x64, MiB, by images"] = peaks
    print("MiB by images:", peaks, flush=True)
    result["reading"] = measure_reading(read)
    print("reading:", result["reading"])
    if not quick or options.out:
        results = Path(__file__).parent / "results"
        out = options.out or results / f"collect-{options.device.type}.json"
        out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        print(f"written to {out}")


if __name__ == "__main__":
    main()

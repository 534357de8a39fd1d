"""What a scan costs beside the bare forward pass to the same layer: its pace, and its memory.

The layers are VGG-16's convolutions at 224x224. The bare pass is the network cut off behind the
layer, called on the same batches one after the other. A scan also begins with something of its own
(the hashes of the weights and of the data set), which does not grow; so its pace is that of the
batches by which a long scan is longer than a short one. Peak memory is that of a process which does
the one or the other and nothing else; on a GPU it is what torch's allocator counted.

    python benchmarks/scan.py --device auto --out benchmarks/results
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import torchvision
from parts.machine import describe_machine, synchronize
from torch import Tensor, nn

from captum_deconv import features

LAYERS = ("7", "14", "21", "28")
IMAGENET = 1_281_167
PACE, MEMORY = 0.9, 1.2
MEGABYTE = 2**20


class Repeated(Sequence[Tensor]):
    """A data set as long as one likes of a few images, which are in memory."""

    def __init__(self, length: int) -> None:
        generator = torch.Generator().manual_seed(0)
        self.images = torch.randn(8, 3, 224, 224, generator=generator)
        self.length = length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Tensor:
        if not 0 <= index < self.length:
            raise IndexError(index)
        return self.images[index % len(self.images)]


def build(device: torch.device) -> nn.Sequential:
    """Return VGG-16's convolutional part, with random weights."""
    with torch.device("meta"):  # the classifier's weights would be most of a process's peak
        model = torchvision.models.vgg16(weights=None).features.eval()
    model = model.to_empty(device=device)
    generator = torch.Generator(device).manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            fan_in = parameter[0].numel() if parameter.dim() > 1 else 1e4
            parameter.normal_(0, (2 / fan_in) ** 0.5, generator=generator)
    return model


def forward_barely(model: nn.Sequential, layer: str, batch: int, count: int) -> None:
    """Run batches through the network up to a layer."""
    device = next(model.parameters()).device
    cut = model[: int(layer) + 1]
    images = Repeated(batch)
    with torch.no_grad():
        for _ in range(count):
            cut(torch.stack(list(images)).to(device))


def scan(model: nn.Sequential, layers: Sequence[str], batch: int, count: int) -> None:
    """Scan as many batches."""
    features.scan(model, layers, Repeated(batch * count), batch_size=batch, progress=False)


def measure_pace(
    layer: str, device: torch.device, batch: int, batches: int, rounds: int
) -> dict[str, float]:
    """Return images per second of both, the median of their ratios, and what a scan begins with."""
    model = build(device)
    forward_barely(model, layer, batch, 1)
    bare, scanned, begun = [], [], []
    for _ in range(rounds):
        seconds = measure(device, lambda: forward_barely(model, layer, batch, batches))
        short = measure(device, lambda: scan(model, [layer], batch, 1))
        long = measure(device, lambda: scan(model, [layer], batch, 1 + batches))
        bare.append(batch * batches / seconds)
        scanned.append(batch * batches / (long - short))
        begun.append(max(short - (long - short) / batches, 0))
    ratios = [one / other for one, other in zip(scanned, bare, strict=True)]
    return {
        "bare": statistics.median(bare),
        "scan": statistics.median(scanned),
        "ratio": statistics.median(ratios),
        "seconds_to_begin": statistics.median(begun),
    }


def measure(device: torch.device, call: Callable[[], None]) -> float:
    """Return the seconds that a call takes."""
    synchronize(device)
    start = time.perf_counter()
    call()
    synchronize(device)
    return time.perf_counter() - start


def measure_peak(what: str, layer: str, device: torch.device, batch: int) -> float:
    """Return the peak of one process's memory, in MiB."""
    command = [sys.executable, __file__, "--device", str(device), "--batch", str(batch)]
    command += ["--peak-of", what, "--layer", layer]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def read_peak() -> int:
    """Return this process's largest resident memory in bytes.

    Linux hands ``ru_maxrss`` down from the parent process, so its own high-water mark comes first.
    """
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def report_peak(what: str, layer: str, device: torch.device, batch: int) -> None:
    """Do one thing, then print this process's peak."""
    model = build(device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    run = {"bare": forward_barely, "scan": scan}[what]
    run(model, layer if what == "bare" else [layer], batch, 3)
    peak = read_peak()
    if device.type == "cuda":
        peak = torch.cuda.max_memory_allocated()
    print(peak / MEGABYTE)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--batches", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--layers", nargs="+", choices=LAYERS, default=LAYERS)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--peak-of", choices=("bare", "scan"), help=argparse.SUPPRESS)
    parser.add_argument("--layer", help=argparse.SUPPRESS)
    options = parser.parse_args()
    name = options.device
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(name)
    if options.peak_of:
        report_peak(options.peak_of, options.layer, device, options.batch)
        return
    table = {}
    print("layer    bare/s    scan/s     ratio   begins  ImageNet   bare MiB   scan MiB   ratio")
    for layer in options.layers:
        row = measure_pace(layer, device, options.batch, options.batches, options.rounds)
        for what in ("bare", "scan"):
            row[f"{what}_peak"] = measure_peak(what, layer, device, options.batch)
        row["peak_ratio"] = row["scan_peak"] / row["bare_peak"]
        row["hours_for_imagenet"] = (IMAGENET / row["scan"] + row["seconds_to_begin"]) / 3600
        table[f"features.{layer}"] = {key: round(value, 4) for key, value in row.items()}
        print(
            f"{layer:>5} {row['bare']:9.1f} {row['scan']:9.1f} {row['ratio']:9.3f} "
            f"{row['seconds_to_begin']:7.2f}s {row['hours_for_imagenet']:8.1f}h "
            f"{row['bare_peak']:10.0f} {row['scan_peak']:10.0f} {row['peak_ratio']:7.3f}"
        )
    misses = [
        name for name, row in table.items() if row["ratio"] < PACE or row["peak_ratio"] > MEMORY
    ]
    print(f"held to {PACE} of the pace and {MEMORY} of the memory: {misses or 'all hold'}")
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        record = {
            "machine": describe_machine(device),
            "network": "vgg16",
            "batch": options.batch,
            "layers": table,
        }
        path = options.out / f"scan-{device.type}.json"
        path.write_text(json.dumps(record, indent=1) + "\n")
        print(path)


if __name__ == "__main__":
    main()

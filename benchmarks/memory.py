"""What a guided backprop takes beyond the model and the images, and what keeping less costs.

Memory is the peak of a process of its own over what it held before the call, on a GPU what CUDA's
allocator says; the median of three processes. ``"autograd"`` is what autograd keeps, ``"light"``
the default, ``"lean"`` the least; beside them Captum's class, and the forward pass without
gradients. Time is that of calls in turn, in one process, over ``"autograd"``'s.

Then the largest batch of ResNet-50 whose guided backprop a process can do that may hold 4 GiB of
data (``ulimit -d``; on a GPU, of the device's memory), all included.

    python benchmarks/memory.py                     # and results/memory-cpu.json
    python benchmarks/memory.py --quick             # one small network, for a test
"""

import argparse
import bisect
import gc
import json
import resource
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import captum.attr
import torch
import torchvision
from parts.machine import describe_machine, read_kilobytes, reset_peak, synchronize

import captum_deconv

NETWORKS = ("resnet50", "vgg16", "densenet121")
WAYS = ("captum", "autograd", "light", "lean", "forward")
TARGET = 3
LIMIT, MOST = 4 * 2**30, 255
"""Bytes that a process may hold, and a batch that needs more whatever the way."""


def make_call(name: str, way: str, device: torch.device) -> Callable[[torch.Tensor], object]:
    """Return the call to measure, of a network with seeded random weights."""
    torch.manual_seed(0)
    model = torchvision.models.get_model(name, weights=None).eval().to(device)
    if way == "forward":
        return torch.no_grad()(model)
    if way == "captum":
        method = captum.attr.GuidedBackprop(model)
        return lambda images: method.attribute(images.clone().requires_grad_(), TARGET)
    ours = captum_deconv.GuidedBackprop(model, memory=way)
    return lambda images: ours.attribute(images, TARGET)


def measure_peak(name: str, way: str, batch: int, size: int, device: torch.device) -> float:
    """Return the MiB that one call takes at its peak, beyond what the process held before."""
    call = make_call(name, way, device)
    images = torch.randn(batch, 3, size, size, device=device)
    call(images[:1, :, : size // 2, : size // 2])  # the first call of anything loads what it needs
    gc.collect()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        call(images)
        return (torch.cuda.max_memory_allocated(device) - before) / 2**20
    before = read_kilobytes("VmRSS")
    reset_peak()
    call(images)
    return (read_kilobytes("VmHWM") - before) / 2**10


def measure_apart(name: str, way: str, options: argparse.Namespace) -> float:
    """Return the median of the peaks of several processes."""
    command = [sys.executable, __file__, "--one", name, way, "--batch", str(options.batch)]
    command += ["--size", str(options.size), "--device", options.device]
    runs = [
        float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
        for _ in range(options.repeats)
    ]
    return statistics.median(runs)


def try_batch(name: str, way: str, batch: int, size: int, device: torch.device) -> bool:
    """Tell whether a batch can be done within the limit; this process is no good afterwards."""
    if device.type == "cuda":
        whole = torch.cuda.get_device_properties(device).total_memory
        torch.cuda.set_per_process_memory_fraction(LIMIT / whole, device)
    else:
        resource.setrlimit(resource.RLIMIT_DATA, (LIMIT, LIMIT))
    try:
        make_call(name, way, device)(torch.randn(batch, 3, size, size, device=device))
    except (MemoryError, RuntimeError) as error:
        if "memory" not in str(error):
            raise
        return False
    return True


def find_largest_batch(name: str, way: str, options: argparse.Namespace) -> int:
    """Return the largest batch that fits; each is tried in a process of its own."""

    def fails(batch: int) -> bool:
        command = [sys.executable, __file__, "--one", name, way, "--batch", str(batch), "--fits"]
        command += ["--size", str(options.size), "--device", options.device]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode == 0:
            return done.stdout.strip() != "True"
        if "memory" not in done.stderr.lower():
            raise RuntimeError(done.stderr)
        return True

    return bisect.bisect_left(range(1, options.most + 1), True, key=fails)


def measure_time(name: str, options: argparse.Namespace) -> dict[str, float]:
    """Return the time of each way over that of keeping what autograd keeps."""
    device = torch.device(options.device)
    images = torch.randn(max(1, options.batch // 2), 3, options.size, options.size, device=device)
    ways = [way for way in WAYS if way != "forward"]
    calls = {way: make_call(name, way, device) for way in ways}
    rounds = []
    for _ in range(2 * options.repeats + 1):
        seconds = {}
        for way, call in calls.items():
            synchronize(device)
            begun = time.perf_counter()
            call(images)
            synchronize(device)
            seconds[way] = time.perf_counter() - begun
        rounds.append({way: seconds[way] / seconds["autograd"] for way in ways})
    return {way: round(statistics.median(r[way] for r in rounds[1:]), 3) for way in ways}


def main() -> None:
    """Print the table and write it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--networks", nargs="*", default=list(NETWORKS))
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--one", nargs=2, metavar=("NETWORK", "WAY"), help=argparse.SUPPRESS)
    parser.add_argument("--fits", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    warnings.simplefilter("ignore")  # Captum warns of the hooks it sets
    options.most = MOST
    if options.one:
        call = try_batch if options.fits else measure_peak
        print(call(*options.one, options.batch, options.size, torch.device(options.device)))
        return
    if options.quick:
        options.most = 3
        options.networks, options.batch, options.size, options.repeats = ["resnet18"], 2, 64, 1
    result = {"machine": describe_machine(torch.device(options.device)), "batch": options.batch}
    print(f"{'':14}" + "".join(f"{way:>16}" for way in WAYS))
    for name in options.networks:
        peaks = {way: round(measure_apart(name, way, options), 1) for way in WAYS}
        times = measure_time(name, options)
        over = {way: round(peak / peaks["captum"], 2) for way, peak in peaks.items()}
        result[name] = {"MiB": peaks, "over Captum's": over, "time over autograd's": times}
        print(f"{name:14}" + "".join(f"{peaks[w]:>10.0f} ({over[w]:.2f})" for w in WAYS))
        print(f"{'  time':14}" + "".join(f"{times.get(w, float('nan')):>16.2f}" for w in WAYS))
    name = options.networks[0]
    ways = [way for way in WAYS if way != "forward"]
    largest = {way: find_largest_batch(name, way, options) for way in ways}
    result[f"largest batch of {name} in 4 GiB"] = largest
    print(f"largest batch of {name} in 4 GiB: " + ", ".join(f"{w} {n}" for w, n in largest.items()))
    if not options.quick or options.out:
        results = Path(__file__).parent / "results"
        out = options.out or results / f"memory-{torch.device(options.device).type}.json"
        out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        print(f"written to {out}")


if __name__ == "__main__":
    main()

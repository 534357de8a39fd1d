"""What one library takes of time and memory for a question, asked in turn with the others.

Each library has a process of its own, which waits for its turn: a question comes in as a line, the
seconds and the peak of memory go out as one. The question is guided backprop's unless it is for all
three methods; the target is the likeliest class.
"""

import ctypes
import gc
import json
import sys
import time
import warnings
from collections.abc import Iterator
from itertools import islice
from typing import Any, TextIO

import torch
import torchvision
from libraries.peers import GUIDED, CannotError, Peer, strongest
from parts.machine import read_kilobytes, reset_peak, synchronize
from torch import Tensor

NETWORKS = {"resnet50": "layer1", "vgg16": "features.9", "densenet121": "features.denseblock1"}
"""Each with the layer whose neurons are asked for."""
QUICK = {"resnet18": "layer1"}
BATCHES = (1, 8)
ONE, THREE, NEURON, CHANNELS, TARGETS, PROJECTIONS = TASKS = (
    "one attribution",
    "three methods",
    "one hidden neuron",
    "16 channels",
    "1,000 targets",
    "27 projections",
)
COUNTS = {CHANNELS: 16, TARGETS: 1000, PROJECTIONS: 3}
ALONE = (TARGETS, PROJECTIONS)
"""What is asked at batch 1 only: the projections are of nine images by three channels."""
IMAGES = 9
ROUNDS = {CHANNELS: 3, TARGETS: 1, PROJECTIONS: 3}
"""Where a question is many questions, fewer rounds than else, and none to warm up."""
BLOCK = 50
"""Questions that one answers before it is another's turn."""


def build_network(
    name: str, batch: int, size: int, device: str
) -> tuple[torch.nn.Module, Tensor, int]:
    """Return a network with seeded random weights, images and the likeliest class of the first."""
    torch.manual_seed(0)
    model = torchvision.models.get_model(name, weights=None).eval().to(device)
    images = torch.randn(batch, 3, size, size).to(device)
    with torch.no_grad():
        return model, images, int(model(images)[0].argmax())


def ask(library: Peer, question: dict[str, Any], ready: tuple[Any, ...]) -> Iterator[object]:
    """Return the answers to a question, as an iterator."""
    model, images, target = ready
    task, layer, number = question["task"], question["layer"], question["count"]
    if GUIDED not in library.methods or (len(images) > 1 and not library.batches):
        raise CannotError
    inputs = (images.clone(),)
    if task == ONE:
        return (library.attribute(GUIDED, model, inputs, target) for _ in range(1))
    if task == THREE:
        return (library.all_methods(model, inputs, target) for _ in range(1))
    if task == TARGETS:
        return library.targets(model, inputs, range(number))
    if task == PROJECTIONS:
        torch.manual_seed(1)
        several = torch.randn(IMAGES, *images.shape[1:]).to(images.device)
        return library.projections(model, layer, several, range(number))
    return library.neurons(model, layer, inputs, map(strongest, range(number)))


def measure(answers: Iterator[object], device: torch.device) -> dict[str, float]:
    """Return the seconds and the peak of MiB that the next answers take, and how many came."""
    gc.collect()
    before = _begin_peak(device)
    begun = time.perf_counter()
    came = sum(1 for _ in islice(answers, BLOCK))
    synchronize(device)
    seconds = time.perf_counter() - begun
    return {"came": came, "seconds": seconds, "MiB": round(_read_peak(device) - before, 1)}


def _begin_peak(device: torch.device) -> float:
    """Let the peak of memory begin anew, and return the MiB that are held."""
    if device.type == "cuda":
        synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_allocated(device) / 2**20
    ctypes.CDLL(None).malloc_trim(0)  # what earlier calls freed goes back first
    held = read_kilobytes("VmRSS") / 2**10
    reset_peak()
    return held


def _read_peak(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return read_kilobytes("VmHWM") / 2**10


def serve(library: Peer, source: TextIO, sink: TextIO) -> None:
    """Answer questions until there are no more; ``"again"`` goes on with the last one's answers."""
    warnings.simplefilter("ignore")
    ready, made, answers = None, None, iter(())
    for line in source:
        question = json.loads(line)
        place = tuple(question[word] for word in ("network", "batch", "size", "device"))
        if place != made:
            ready, answers = None, iter(())  # gone before the next is built
            ready, made = build_network(*place), place
        try:
            if not question["go on"]:
                answers = ask(library, question, ready)
            reply: dict[str, Any] = measure(answers, torch.device(place[-1]))
        except CannotError:
            reply = {"cannot": True}
        except Exception as error:
            reply = {"raised": f"{type(error).__name__}: {str(error).splitlines()[0][:120]}"}
        print(json.dumps(reply), file=sink, flush=True)


def main(library: Peer) -> None:
    """Serve on the standard streams; what the library prints goes to the standard error."""
    sink, sys.stdout = sys.stdout, sys.stderr
    serve(library, sys.stdin, sink)

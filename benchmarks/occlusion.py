"""How much faster an occlusion is than Captum's, on the same windows, and how far apart they are.

Both slide a square over an image in the same windows and give the class's score in each; Captum's
``Occlusion`` runs the network on the whole image every time, ``captum_deconv.experiments.occlude``
computes anew only what the square changes. The two take turns in one process, so the ratio holds on
a machine that does other things as well:

    python benchmarks/occlusion.py
"""

import argparse
import json
import time
from pathlib import Path

import torch
import torchvision
from captum.attr import Occlusion
from parts import builders
from parts.machine import describe_machine
from parts.timing import ratio
from torch import Tensor, nn

from captum_deconv.experiments import occlude
from captum_deconv.sources.models import load_model

RESULTS = Path(__file__).parent / "results" / "occlusion-cpu.json"
LAYERS = {"vgg16": "features.29", "resnet50": "layer4", "efficientnet-lite0": "_blocks.10"}
SIDE, SIZE = 224, 50


class Probability(nn.Module):
    """A network's probabilities, ``(N, classes)``: what an occlusion is a map of."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        """Classify images ``(N, 3, H, W)``."""
        return self.network(images).softmax(1)


def build(name: str) -> nn.Module:
    """Build a network; those of torchvision with random weights that signals survive."""
    if name == "efficientnet-lite0":
        return load_model(name).model
    if name == "resnet50":
        return builders.build(name).network
    torch.manual_seed(0)
    model = torchvision.models.get_model(name, weights=None).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 4:
                nn.init.kaiming_normal_(parameter, nonlinearity="relu")
    return model


def measure(name: str, stride: int, batch: int, rounds: int, side: int) -> dict[str, object]:
    """Measure one network; `SIDE` and `SIZE` are the paper's."""
    model = build(name)
    image = torch.rand(3, side, side, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        whole = model(image[None]).softmax(1)[0]
    target = int(whole.argmax())
    captums = Occlusion(Probability(model))
    found = {}

    def by_captum(stride: int = stride) -> None:
        with torch.no_grad():
            found["captum"] = captums.attribute(
                image[None],
                sliding_window_shapes=(3, SIZE, SIZE),
                strides=(3, stride, stride),
                target=target,
                perturbations_per_eval=batch,
            )

    def by_ours(stride: int = stride) -> None:
        found["ours"] = occlude(
            model, image, LAYERS[name], target=target, size=SIZE, stride=stride, batch_size=batch
        )

    calls = {"captum": by_captum, "ours": by_ours}
    for call in calls.values():
        call(SIZE)  # few windows, to warm up: all of them take minutes
    wall: dict[str, list[float]] = {"captum": [], "ours": []}
    cpu: dict[str, list[float]] = {"captum": [], "ours": []}
    for _ in range(rounds):
        for who, call in calls.items():
            start, start_cpu = time.perf_counter(), time.process_time()
            call()
            wall[who].append(time.perf_counter() - start)
            cpu[who].append(time.process_time() - start_cpu)
    ours = found["ours"]
    difference = (spread(ours, SIZE) - found["captum"][0, 0]).abs().max()
    falls = (float(whole[target]) - ours.probability).abs().max()
    return {
        "layer": LAYERS[name],
        "image": side,
        "square": SIZE,
        "stride": stride,
        "windows": ours.probability.numel(),
        "batch": batch,
        "rounds": rounds,
        "times as fast as Captum": ratio(*wall.values()) if rounds > 1 else only(wall),
        "of the processor's time": ratio(*cpu.values()) if rounds > 1 else only(cpu),
        "largest difference, of the largest fall": float(difference / falls),
    }


def only(seconds: dict[str, list[float]]) -> dict[str, float]:
    """Return the one ratio there is."""
    return {"median": round(seconds["captum"][0] / seconds["ours"][0], 4)}


def spread(ours: object, size: int) -> Tensor:
    """Lay the falls of the probability over the image as Captum does: the mean over its windows."""
    total = torch.zeros(ours.image.shape[1:])
    count = torch.zeros_like(total)
    for row, top in enumerate(ours.starts[0]):
        for column, left in enumerate(ours.starts[1]):
            place = (slice(top, top + size), slice(left, left + size))
            total[place] += ours.whole[1] - ours.probability[row, column]
            count[place] += 1
    return total / count


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=36)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--stride", type=int, default=5, help="the paper's takes an hour")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--networks", nargs="+", choices=LAYERS, default=list(LAYERS))
    parser.add_argument("--quick", action="store_true", help="small images: seconds, for the tests")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    stride, side = (25, 64) if options.quick else (options.stride, SIDE)
    result: dict[str, object] = {}
    if options.out.exists():
        result = json.loads(options.out.read_text())
    result["machine"] = describe_machine(torch.device("cpu"))
    for name in options.networks:
        found = measure(name, stride, options.batch, options.rounds, side)
        result[f"{name}, stride {stride}"] = found
        print(name, json.dumps(found), flush=True)
        options.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()

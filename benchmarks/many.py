"""Many questions of one image: ``attribute_each`` against Captum, one call for each question.

Ratios of seconds, the two taking turns; equal to what ``difference`` says, of the largest value.

    python benchmarks/many.py                       # and results/many-cpu.json
    python benchmarks/many.py --quick               # a few questions of a small image, for a test
"""

import argparse
import json
import statistics
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import captum.attr
import torch
import torchvision
from parts.machine import describe_machine, synchronize
from torch import Tensor

import captum_deconv
from captum_deconv import strongest

TARGETS, CHANNELS = 100, 16


def build(name: str, device: torch.device) -> torch.nn.Module:
    """Return a network with seeded random weights."""
    torch.manual_seed(0)
    return torchvision.models.get_model(name, weights=None).eval().to(device)


def list_cases(
    images: Tensor, targets: int, channels: int
) -> dict[str, tuple[Callable[[], list[Tensor]], Callable[[], list[Tensor]]]]:
    """Return ours and Captum's for each case."""
    resnet, vgg = (build(name, images.device) for name in ("resnet50", "vgg16"))
    guided, theirs = captum_deconv.GuidedBackprop(resnet), captum.attr.GuidedBackprop(resnet)
    cases = {
        f"{targets} targets of resnet50": (
            lambda: list(guided.attribute_each(images, range(targets))),
            lambda: [theirs.attribute(images.clone(), target) for target in range(targets)],
        )
    }
    for name, model, layer in (("resnet50", resnet, "layer1"), ("vgg16", vgg, "features.9")):
        cases[f"{channels} channels of {name} {layer}"] = (
            lambda m=model, at=layer: list(
                captum_deconv.NeuronGuidedBackprop(m, at).attribute_each(
                    images, map(strongest, range(channels))
                )
            ),
            lambda m=model, at=layer: [
                captum.attr.NeuronGuidedBackprop(m, m.get_submodule(at)).attribute(
                    images.clone(), strongest(channel)
                )
                for channel in range(channels)
            ],
        )
    return cases


def measure(call: Callable[[], list[Tensor]], device: torch.device) -> tuple[float, list[Tensor]]:
    """Return the seconds of a call, and its result."""
    synchronize(device)
    begun = time.perf_counter()
    result = call()
    synchronize(device)
    return time.perf_counter() - begun, result


def main() -> None:
    """Print the table and write it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    warnings.simplefilter("ignore")  # Captum warns of the hooks it sets
    device = torch.device(options.device)
    size, targets, channels = (64, 3, 2) if options.quick else (224, TARGETS, CHANNELS)
    images = torch.randn(1, 3, size, size, device=device)
    result = {"machine": describe_machine(device), "image": [1, 3, size, size]}
    for name, (ours, theirs) in list_cases(images, targets, channels).items():
        ratios = []
        for _ in range(1 if options.quick else options.rounds):
            (mine, found), (other, expected) = measure(ours, device), measure(theirs, device)
            ratios.append(other / mine)
        difference = max(
            float((a - b).abs().max() / b.abs().max().clamp(min=1e-30))
            for a, b in zip(found, expected, strict=True)
        )
        ratio = round(statistics.median(ratios), 2)
        result[name] = {"times as fast as Captum": ratio, "difference": difference}
        print(f"{name:34} {ratio:6.2f} times as fast as Captum, difference {difference:.1e}")
    if not options.quick or options.out:
        results = Path(__file__).parent / "results"
        out = options.out or results / f"many-{device.type}.json"
        out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        print(f"written to {out}")


if __name__ == "__main__":
    main()

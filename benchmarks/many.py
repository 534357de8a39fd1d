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
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import captum.attr
import torch
import torchvision
from parts.machine import describe_machine, synchronize
from torch import Tensor

import captum_deconv
from captum_deconv import strongest

TARGETS, CHANNELS = 1000, 16
BLOCK = 50
"""Questions that one answers before it is the other's turn."""

Answers = Callable[[], Iterator[Tensor]]


def build(name: str, device: torch.device) -> torch.nn.Module:
    """Return a network with seeded random weights."""
    torch.manual_seed(0)
    return torchvision.models.get_model(name, weights=None).eval().to(device)


def list_cases(
    images: Tensor, targets: int, channels: int
) -> dict[str, tuple[Answers, Answers, int]]:
    """Return ours and Captum's for each case, and how many rounds there are of many questions."""
    resnet, vgg = (build(name, images.device) for name in ("resnet50", "vgg16"))
    guided, theirs = captum_deconv.GuidedBackprop(resnet), captum.attr.GuidedBackprop(resnet)
    cases = {
        f"{targets} targets of resnet50": (
            lambda: guided.attribute_each(images, range(targets)),
            lambda: (theirs.attribute(images.clone(), target) for target in range(targets)),
            1,  # of twenty blocks
        )
    }
    for name, model, layer in (("resnet50", resnet, "layer1"), ("vgg16", vgg, "features.9")):
        ours = captum_deconv.NeuronGuidedBackprop(model, layer)
        other = captum.attr.NeuronGuidedBackprop(model, model.get_submodule(layer))
        for how, options in (("", {}), (", uncropped", {"cropped": False})):
            cases[f"{channels} channels of {name} {layer}{how}"] = (
                lambda ours=ours, options=options: ours.attribute_each(
                    images, map(strongest, range(channels)), **options
                ),
                lambda other=other: (
                    other.attribute(images.clone(), strongest(c)) for c in range(channels)
                ),
                5,
            )
    return cases


def take(answers: Iterator[Tensor], device: torch.device) -> tuple[float, list[Tensor]]:
    """Return the seconds that a block of answers takes, and the answers."""
    synchronize(device)
    begun = time.perf_counter()
    block = list(islice(answers, BLOCK))
    synchronize(device)
    return time.perf_counter() - begun, block


def compare_once(ours: Answers, theirs: Answers, device: torch.device) -> tuple[float, float]:
    """Return Captum's seconds over ours, and the largest difference over the largest value."""
    mine, other, spent, difference = ours(), theirs(), [0.0, 0.0], 0.0
    while True:
        (a, found), (b, expected) = take(mine, device), take(other, device)
        if not found:
            return spent[1] / spent[0], difference
        spent = [spent[0] + a, spent[1] + b]
        for one, reference in zip(found, expected, strict=True):
            gap = (one - reference).abs().max() / reference.abs().max().clamp(min=1e-30)
            difference = max(difference, float(gap))


def main() -> None:
    """Print the table and write it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    warnings.simplefilter("ignore")  # Captum warns of the hooks it sets
    device = torch.device(options.device)
    size, targets, channels = (64, 3, 2) if options.quick else (224, TARGETS, CHANNELS)
    images = torch.randn(1, 3, size, size, device=device)
    result = {"machine": describe_machine(device), "image": [1, 3, size, size]}
    for name, (ours, theirs, rounds) in list_cases(images, targets, channels).items():
        turns = range(1 if options.quick else rounds)
        ratios, differences = zip(*(compare_once(ours, theirs, device) for _ in turns), strict=True)
        ratio, difference = round(statistics.median(ratios), 2), max(differences)
        result[name] = {"times as fast as Captum": ratio, "difference": difference}
        print(f"{name:46} {ratio:6.2f} times as fast as Captum, difference {difference:.1e}")
    if not options.quick or options.out:
        results = Path(__file__).parent / "results"
        out = options.out or results / f"many-{device.type}.json"
        out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        print(f"written to {out}")


if __name__ == "__main__":
    main()

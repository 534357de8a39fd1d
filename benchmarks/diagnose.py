"""The diagnosis of networks that nobody thinks ill of, for its false alarms.

Every classifier of torchvision with random weights (batch norms calibrated, `parts/builders.py`) on
a few small tiles of photographs; EfficientNet-Lite0 and the embedded network with trained weights
on many:

    python benchmarks/diagnose.py

writes `results/diagnosis-cpu.json`: of each network the findings, and of how many of its layers
they are. `--weights FILE` diagnoses the embedded network with other weights.
"""

import argparse
import json
import time
import warnings
from collections import Counter
from pathlib import Path

import torch
from parts import builders
from parts.machine import describe_machine
from torch import nn
from torch.utils.data import Subset
from torchvision import transforms

from captum_deconv.experiments import Diagnosis, diagnose
from captum_deconv.experiments.renormalisation import measure_rms
from captum_deconv.sources.datasets import PhotographTiles
from captum_deconv.sources.models import IMAGENET_MEAN, IMAGENET_STD, load_model

RESULTS = Path(__file__).parent / "results" / "diagnosis-cpu.json"
TRAINED = {"efficientnet-lite0": 160, "embedded": 64}
FEW = 16
SAID = 12


def read_tiles(size: int, mean: tuple[float, ...], std: tuple[float, ...], most: int) -> Subset:
    """Return tiles of photographs, spread evenly over all of them."""
    steps = [transforms.ToTensor(), transforms.Normalize(mean, std)]
    tiles = PhotographTiles(size, transforms.Compose(steps))
    step = max(1, len(tiles) // most)
    return Subset(tiles, range(0, len(tiles), step)[:most])


def describe(found: Diagnosis, seconds: float) -> dict[str, object]:
    """Return what is kept of a diagnosis: without the channels' numbers."""
    faults = Counter(finding.fault for finding in found.findings)
    channels = {
        fault: sum(len(layer.faults.get(fault, ())) for layer in (*found.layers, *found.filters))
        for fault in ("dead", "saturated", "border", "uncut", "copies")
    }
    return {
        "images": found.images,
        "layers": len(found.layers),
        "convolutions": len(found.filters),
        "channels": sum(layer.count for layer in found.layers),
        "filters": sum(layer.count for layer in found.filters),
        "channels or filters with": channels,
        "findings": dict(faults),
        "rms of the first layer's filters": {
            "median": round(float(measure_rms(found.weight).median()), 4),
            "largest": round(float(measure_rms(found.weight).max()), 4),
        }
        if found.first
        else None,
        "gap": None if found.spectrum is None else round(found.spectrum.gap, 3),
        "stride": found.stride,
        "unevenness": None if found.unevenness is None else round(found.unevenness, 3),
        "through": found.through,
        "said": [f"{f.fault}, {f.layer}: {f.sentence}" for f in found.findings[:SAID]],
        "notes": list(found.notes),
        "seconds": round(seconds, 1),
    }


def diagnose_random(name: str, count: int = FEW) -> dict[str, object]:
    """Diagnose one of torchvision's networks with random weights."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        specimen = builders.build(name)
    side = specimen.inputs[0].shape[-1]
    tiles = read_tiles(side, IMAGENET_MEAN, IMAGENET_STD, count)
    return run(specimen.network, tiles)


def diagnose_trained(name: str, weights: str = "DEFAULT", most: int = 400) -> dict[str, object]:
    """Diagnose a network with trained weights."""
    loaded = load_model(name, weights)
    return run(loaded.model, read_tiles(TRAINED[name], loaded.mean, loaded.std, most))


def run(model: nn.Module, tiles: Subset) -> dict[str, object]:
    """Diagnose a network on some tiles."""
    begun = time.perf_counter()
    found = diagnose(model, tiles, batch_size=8)
    return describe(found, time.perf_counter() - begun)


def list_networks() -> list[str]:
    """List torchvision's classifiers, the smallest first."""
    names = [name for name, kind in builders.list_builders().items() if kind == "classification"]
    weights = builders.torchvision.models.get_model_weights
    return sorted(names, key=lambda name: weights(name).DEFAULT.meta["num_params"])


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", nargs="+", help="torchvision's; all where left out")
    parser.add_argument("--weights", type=Path, help="of the embedded network, and nothing else")
    parser.add_argument("--trained", action="store_true", help="those alone, anew")
    parser.add_argument("--name", help="what to call that in the results")
    parser.add_argument("--quick", action="store_true", help="three networks, for the tests")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    result: dict[str, dict[str, object]] = {"random weights": {}, "trained weights": {}}
    if options.out.exists():
        result |= json.loads(options.out.read_text())
    result["machine"] = describe_machine(torch.device("cpu"))

    def keep(kind: str, name: str, found: dict[str, object]) -> None:
        result[kind][name] = found
        print(f"{name}: {found['findings'] or 'no finding'}, {found['seconds']} s", flush=True)
        options.out.write_text(json.dumps(result, indent=1) + "\n")

    if options.weights is not None:
        name = options.name or options.weights.stem
        keep("trained weights", name, diagnose_trained("embedded", str(options.weights)))
        return
    trained = ["embedded"] if options.quick else list(TRAINED)
    for name in [] if options.networks else trained:
        if name in result["trained weights"] and not options.trained:
            continue  # as a run that was broken off goes on
        keep("trained weights", name, diagnose_trained(name, most=40 if options.quick else 400))
    if options.trained:
        return
    names = ["resnet18", "alexnet"] if options.quick else options.networks or list_networks()
    for name in names:
        if options.networks or name not in result["random weights"]:
            keep("random weights", name, diagnose_random(name))


if __name__ == "__main__":
    main()

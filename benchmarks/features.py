"""How long the projections of a gallery take, against Captum's neuron by neuron.

Two tables, on VGG-16 at 224 x 224 with random weights (seed 0) and random images:

* 27 projections, of three channels on nine images each, at four depths: one call of
  `gallery.project` against one call of Captum's `NeuronDeconvolution` a channel. The neurons are
  those of the scan: where a channel is strongest on an image. Both give the same pictures, to what
  `difference` says, of the largest value. The call is the default one, so it holds the index
  against the model's weights each time. The two take turns; on a CPU the ratio is of processor
  seconds, which what else runs on the machine changes less than the clock's.
* A whole layer of 512 channels, scanned over a data set and projected, nine images a channel,
  written as a page: seconds by stage.

    python benchmarks/features.py                  # both, and results/features-cpu.json
    python benchmarks/features.py --device cuda
    python benchmarks/features.py --quick          # seconds rather than minutes, for a test
"""

import argparse
import json
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from captum.attr import NeuronDeconvolution
from parts.machine import describe_machine, synchronize
from torch import Tensor, nn
from torchvision import models

from captum_deconv import features, gallery
from captum_deconv.gallery import Gallery

RESULTS = Path(__file__).parent / "results"
LAYERS = {"features.8": 400, "features.15": 55, "features.22": 8, "features.29": 2.5}
"""By layer, how many times faster than Captum the projections are asked to be."""


def build(device: str) -> nn.Module:
    """Build VGG-16 with seeded random weights."""
    torch.manual_seed(0)
    model = models.vgg16(weights=None).eval()
    return model.to(device)


def make_images(count: int, size: int, seed: int = 0) -> list[Tensor]:
    """Make smooth random images: white noise would excite every neuron alike."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(count, 3, size // 8, size // 8, generator=generator)
    fine = torch.randn(count, 3, size, size, generator=generator)
    smooth = nn.functional.interpolate(coarse, (size, size), mode="bilinear", align_corners=False)
    return list(smooth + 0.2 * fine)


def measure(action: Callable[[], Any], device: str) -> tuple[float, float, Any]:
    """Return the seconds of a call by the clock and of the processor, and its result."""
    synchronize(torch.device(device))
    begun, used = time.perf_counter(), time.process_time()
    result = action()
    synchronize(torch.device(device))
    return time.perf_counter() - begun, time.process_time() - used, result


def compare_with_captum(
    model: nn.Module, layer: str, images: list[Tensor], device: str, repeats: int
) -> dict[str, Any]:
    """Time 27 projections both ways, in turn, and compare them."""
    index = features.scan(model, [layer], images, k=len(images), progress=False, device=device)
    alive = (index.values[layer][:, -1] > 0).nonzero().flatten()
    channels = alive[:3].tolist()

    def project() -> Gallery:
        return gallery.project(index, model, images, layer=layer, channels=channels, seed="one")

    def attribute() -> list[Tensor]:
        found = []
        for channel in channels:
            samples = index.samples[layer][channel].tolist()
            places = index.positions[layer][channel].to(device)
            batch = torch.stack([images[sample] for sample in samples]).to(device)

            def select(activations: Tensor, channel: int = channel, places: Tensor = places) -> Any:
                rows = torch.arange(len(activations), device=activations.device)
                return activations[rows, channel, places[:, 0], places[:, 1]]

            method = NeuronDeconvolution(model, model.get_submodule(layer))
            found.append(method.attribute(batch, select).detach().cpu())
        return found

    project()  # the first call of anything pays for what it loads, and hashes the weights
    rounds = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Captum warns of the hooks it sets
        for _ in range(repeats):
            several = [measure(project, device) for _ in range(3)]
            one = measure(attribute, device)
            ours = map(statistics.median, zip(*(each[:2] for each in several), strict=True))
            rounds.append((*ours, *one[:2]))
            found, expected = several[0][2], one[2]
    ours, ours_used, theirs, theirs_used = map(statistics.median, zip(*rounds, strict=True))
    ratios = [row[3] / row[1] if device == "cpu" else row[2] / row[0] for row in rounds]
    difference = max(
        float((found.full(channel) - whole).abs().max() / whole.abs().max())
        for channel, whole in zip(channels, expected, strict=True)
    )
    return {
        "layer": layer,
        "projections": len(channels) * len(images),
        "patch": list(found.patches.shape[3:]),
        "seconds": ours,
        "captum_seconds": theirs,
        "processor_seconds": ours_used,
        "captum_processor_seconds": theirs_used,
        "ratio": statistics.median(ratios),
        "asked": LAYERS[layer],
        "difference": difference,
    }


def time_layer(
    model: nn.Module, layer: str, images: list[Tensor], device: str, channels: int
) -> dict[str, Any]:
    """Time every stage of a gallery of a whole layer."""
    stages: dict[str, float] = {}
    stages["scan"], _, index = measure(
        lambda: features.scan(model, [layer], images, k=9, progress=False, device=device), device
    )
    stages["check"], _, _ = measure(lambda: index.check(model, images), device)
    chosen = range(min(channels, len(index.values[layer])))
    stages["project"], _, found = measure(
        lambda: gallery.project(index, model, images, channels=chosen), device
    )
    with tempfile.TemporaryDirectory() as folder:
        stages["page"], _, page = measure(lambda: found.save_html(folder), device)
        size = sum(file.stat().st_size for file in page.parent.rglob("*") if file.is_file())
    projections = int((found.samples >= 0).sum())
    return {
        "layer": layer,
        "images": len(images),
        "channels": len(chosen),
        "dead": int(found.dead.sum()),
        "projections": projections,
        "seconds": stages,
        "images_per_second": len(images) / stages["scan"],
        "projections_per_second": projections / stages["project"],
        "page_megabytes": size / 1e6,
    }


def print_comparison(rows: Sequence[dict[str, Any]]) -> None:
    """Print the first table."""
    print(f"{'layer':<12} {'patch':>9} {'ours, s':>9} {'Captum, s':>10} {'ratio':>7} {'asked':>6}")
    for row in rows:
        patch = "x".join(map(str, row["patch"]))
        print(
            f"{row['layer']:<12} {patch:>9} {row['seconds']:>9.3f} {row['captum_seconds']:>10.2f} "
            f"{row['ratio']:>7.1f} {row['asked']:>6}   difference {row['difference']:.1e}"
        )


def print_stages(row: dict[str, Any]) -> None:
    """Print the second table."""
    print(
        f"{row['layer']}: {row['channels']} channels ({row['dead']} dead), {row['images']} images, "
        f"{row['projections']} projections, a page of {row['page_megabytes']:.0f} MB"
    )
    for stage, seconds in row["seconds"].items():
        print(f"  {stage:<8} {seconds:>8.1f} s")
    print(f"  {'in all':<8} {sum(row['seconds'].values()):>8.1f} s")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run both; 1 if a ratio falls short or the projections differ."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--layers", nargs="*", default=list(LAYERS), choices=list(LAYERS))
    parser.add_argument("--whole-layer", default="features.18", metavar="LAYER")
    parser.add_argument("--images", type=int, default=64, help="to scan for the whole layer")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--quick", action="store_true", help="64 x 64 pixels and 4 channels")
    parser.add_argument("--out", type=Path, default=None)
    options = parser.parse_args(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    size = 64 if options.quick else 224
    model = build(options.device)
    nine = make_images(9, size)
    rows = []
    for layer in options.layers:
        rows.append(compare_with_captum(model, layer, nine, options.device, options.repeats))
        print_comparison(rows[-1:])
    count, channels = (9, 4) if options.quick else (options.images, 512)
    whole = time_layer(
        model, options.whole_layer, make_images(count, size, 1), options.device, channels
    )
    print_stages(whole)
    same = all(row["difference"] <= 1e-6 for row in rows)
    if options.quick:
        return 0 if same else 1
    out = options.out or RESULTS / f"features-{torch.device(options.device).type}.json"
    result = {
        "machine": describe_machine(torch.device(options.device)),
        "network": "VGG-16, random weights (seed 0), 224 x 224",
        "against_captum": rows,
        "whole_layer": whole,
    }
    out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(f"written to {out}")
    return 0 if same and all(row["ratio"] >= row["asked"] for row in rows) else 1


if __name__ == "__main__":
    raise SystemExit(main())

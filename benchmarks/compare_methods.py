"""The methods side by side on trained networks: what each can and cannot be trusted for.

EfficientNet-Lite0 (ImageNet; ReLU6, no max-pooling) and the embedded network (ReLU, max-pooling) on
the photographs of ``benchmarks/comparison/images.csv``; every method and metric of
``captum_deconv.comparison``. The costly metrics are given fewer images. Then two small networks,
trained here, of which it is known where they look (``benchmarks/comparison/pasted.py``). A run that
was killed goes on where it was, from what is kept in ``--work``.

    python benchmarks/compare_methods.py            # results/comparison-cpu.json, the pages
    python benchmarks/compare_methods.py --smoke    # two images and six metrics, in minutes
    python benchmarks/compare_methods.py --networks embedded resnet50 --out r.json --page r.md
    python benchmarks/compare_methods.py --pages    # the pages anew, from the same numbers
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch
from comparison import truth, which
from comparison.page import write_page
from comparison.photographs import Photographs
from parts.machine import describe_machine
from parts.readme import write_table
from rich.console import Console

import captum_deconv.comparison
from captum_deconv.comparison.report import make_table
from captum_deconv.sources.models import load_model
from captum_deconv.sources.names import ModelError, UnknownNameError, WeightsError, check_model

ROOT = Path(__file__).parents[1]
NETWORKS = ("embedded", "efficientnet-lite0")
COSTLY = dict.fromkeys(
    (
        *("sanity_cascading", "sanity_independent", "convergence", "road", "pixel_flipping"),
        *("faithfulness_correlation", "sensitivity"),
    ),
    12,
)
"""How many images the metrics that take longest are given."""
SMOKE = ["sanity_cascading", "other_class", "convergence", "deletion", "inside", "sparseness"]


def shorten(value: Any) -> Any:
    """Round to what is significant, so that the file stays small."""
    if isinstance(value, float):
        return float(f"{value:.4g}")
    if isinstance(value, dict):
        return {key: shorten(each) for key, each in value.items()}
    return [shorten(each) for each in value] if isinstance(value, list) else value


def spell_tests(pairs: list[dict[str, Any]]) -> dict[str, str]:
    """Spell of each pair of methods the median difference and Holm's p, on one line."""
    return {f"{p['one']} - {p['other']}": f"{p['median']:.3g}, {p['holm']:.2g}" for p in pairs}


def compare(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Compare the methods on one network, print the table, and return the record."""
    loaded = load_model(name, device=options.device)
    data = Photographs(loaded.preprocess)
    # All photographs are the data set: a run of more of them goes on from one of fewer.
    images = options.images or len(data)
    limits = dict.fromkeys(captum_deconv.comparison.METRICS, images)
    limits |= {metric: min(most, images, options.costly) for metric, most in COSTLY.items()}
    begun = time.perf_counter()
    found = captum_deconv.comparison.run(
        loaded.model,
        data,
        metrics=SMOKE if options.smoke else None,
        out=options.work / name.replace("/", "_").replace(":", "_"),
        boxes=data.find_boxes(),
        stages=2 if options.smoke else 5,
        at_most=limits,
        progress=True,
    )
    Console(width=240).print(f"{name}, {time.perf_counter() - begun:.0f} s", make_table(found))
    record = found.as_record()
    categories = loaded.categories
    for image in record["images"]:
        image["class"] = categories[image["target"]] if categories else str(image["target"])
    record["tests"] = {metric: spell_tests(pairs) for metric, pairs in record["tests"].items()}
    return {"weights": loaded.weights, **shorten(record)}


def know_truth(options: argparse.Namespace) -> dict[str, Any]:
    """Compare the methods where the truth is known, print how they did, and return the record."""
    short = {"steps": 40, "drawn": 400, "shown": 4} if options.smoke else {}
    record = truth.measure(options.work / "truth", **short)
    record["tests"] = spell_tests(record["tests"])
    for each in record["methods"].values():
        values = (each[what]["mean"] for what in ("shape", "background", "contrast"))
        print(f"{each['title']:24}", "  ".join(f"{value:6.3f}" for value in values))
    result: dict[str, Any] = shorten(record)
    return result


def read_options() -> argparse.Namespace:
    """Read what was typed, and find out before anything is computed whether it can be meant."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu", type=torch.device)
    parser.add_argument(
        "--networks",
        nargs="*",
        default=NETWORKS,
        help="what captum-deconv takes as --model: torchvision's names, too, whose weights are "
        "downloaded",
    )
    parser.add_argument("--without-truth", action="store_true", help="leave the two trained out")
    parser.add_argument("--images", type=int, help="the first N; all if left out")
    parser.add_argument("--costly", type=int, default=42, help="at most N for a costly metric")
    parser.add_argument("--smoke", action="store_true")
    parser.add_argument("--pages", action="store_true", help="write the pages anew, and no more")
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "comparison")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--page", type=Path, help="instead of the documentation's and README's")
    options = parser.parse_args()
    try:
        for name in options.networks:
            check_model(name)
    except (UnknownNameError, ModelError) as error:
        parser.error(str(error))
    if options.smoke:
        options.images, options.work = options.images or 2, options.work / "smoke"
    if options.out is None:
        results = ROOT / "benchmarks" / "results"
        options.out = results / f"comparison-{options.device.type}.json"
        options.keep = not options.smoke
    else:
        options.keep = True
    return options


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Measure everything that was asked for."""
    record: dict[str, Any] = {"machine": describe_machine(options.device), "results": {}}
    if not options.without_truth:
        record["truth"] = know_truth(options)
    for name in options.networks:
        try:
            record["results"][name] = compare(name, options)
        except (ModelError, WeightsError) as error:
            raise SystemExit(f"{name}: {error}") from None
    return record


def main() -> None:
    """Print the tables, and write them and the pages."""
    options = read_options()
    if options.pages:
        record = json.loads(options.out.read_text(encoding="utf-8"))
    else:
        record = measure(options)
        if options.keep:
            options.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
            print(f"written to {options.out}")
    if options.page:
        write_page(options.page, record)
    elif not options.smoke:
        write_page(ROOT / "docs" / "methods.md", record)
        which.write_which(ROOT / "docs" / "which-method.md", record)
        write_table(which.NAME, which.make_table(record))


if __name__ == "__main__":
    main()

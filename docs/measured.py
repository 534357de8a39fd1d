"""The numbers that pages quote from `benchmarks/results/`, so that none is typed by hand."""

import json
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parents[1] / "benchmarks" / "results"
FAULTS = ("dead", "saturated", "border", "uncut", "copies", "frequencies", "aliasing")


def read() -> dict[str, str]:
    """Return what the text quotes, by name."""
    return read_atlas() | read_occlusion() | read_diagnosis() | read_devices() | read_fuzz()


def read_fuzz() -> dict[str, str]:
    """Return what came of random networks and questions."""
    record = json.loads((RESULTS / "fuzz-cpu.json").read_text(encoding="utf-8"))
    counts, total = record["counts"], record["examples"]
    answers, errors = counts["answers"], record["largest relative error"]
    numbers = {
        "examples": total,
        "equal": answers["equal"],
        "left": answers.get("equal, what is left was told", 0),
        "refused": sum(n for name, n in answers.items() if name.startswith("Rectifier")),
        "shared": answers.get("shared memory", 0),
        "none": answers.get("no gradient", 0),
        "wrong": len(record["failures"]),
        "crops": counts["neurons on crops"]["True"],
        "spellings": len(counts["rectifier"]),
        "least_spelling": min(counts["rectifier"].values()),
        "operations": len(counts["operation"]),
        "least_operation": min(counts["operation"].values()),
    }
    return {
        **{f"fuzz_{name}": f"{number:,}" for name, number in numbers.items()},
        "fuzz_bits": f"{counts['equal bit for bit']['True'] / total:.1%}",
        "fuzz_telling": f"{counts['the rule made a difference']['True'] / total:.0%}",
        "fuzz_float64": f"{errors['float64']:.0e}",
        "fuzz_float32": f"{errors['float32']:.0e}",
    }


def read_atlas() -> dict[str, str]:
    """Return what an atlas takes, and how its pages behave."""
    record = json.loads((RESULTS / "atlas-cpu.json").read_text(encoding="utf-8"))
    rows = [
        f"| {key.partition(',')[0]} ({found['weights'].partition(',')[0]}) "
        f"| {len(found['layers'])} | {found['channels']:,} ({found['channels_a_layer']} a layer) "
        f"| {found['minutes']:.1f} | {found['megabytes']:.0f} | {found['share']:.0%} |"
        for key, found in record["networks"].items()
    ]
    page, kills = record["page"], record["kills"]
    return {
        "atlas_table": "\n".join(
            [
                "| network (weights) | layers | channels | minutes | MB | bare forward |",
                "|---|---|---|---|---|---|",
                *rows,
            ]
        ),
        "atlas_channels": f"{page['channels']:,}",
        "atlas_first": f"{page['layer']['seconds']:.2f}",
        "atlas_heap": f"{page['layer']['heap_megabytes']:.0f}",
        "atlas_kills": str(kills["kills"]),
        "atlas_files": str(kills["files"]),
        "atlas_different": str(len(kills["different"]) or "none"),
    }


def read_devices() -> dict[str, str]:
    """Return what was measured on which device, as a table, and what was on a GPU."""
    files: dict[str, list[str]] = {}
    on_gpu = []
    for path in sorted(RESULTS.glob("*.json")):
        machine = json.loads(path.read_text(encoding="utf-8"))["machine"]
        parts = [machine] if isinstance(machine.get("cpu_count", machine.get("cores")), int) else []
        for part in parts or machine.values():  # of some results each part has a machine
            device = part.get("device") or part["processor"]
            if f"`{path.name}`" not in files.setdefault(device, []):
                files[device].append(f"`{path.name}`")
        on_gpu += [f"`{path.name}`"] * path.stem.endswith("cuda")
    rows = [f"| {device} | {', '.join(names)} |" for device, names in files.items()]
    said = f"On a GPU: {', '.join(on_gpu)}." if on_gpu else "None was measured on a GPU."
    return {
        "measured_on": "\n".join(["| device | results |", "|---|---|", *rows]),
        "measured_on_gpu": said,
    }


def read_occlusion() -> dict[str, str]:
    """Return how many times as fast as Captum's an occlusion is."""
    record = json.loads((RESULTS / "occlusion-cpu.json").read_text(encoding="utf-8"))
    whole = record["vgg16, stride 5"]
    numbers = {
        "occlusion_vgg": f"{whole['times as fast as Captum']['median']:.1f}",
        "occlusion_windows": str(whole["windows"]),
        "occlusion_difference": f"{whole['largest difference, of the largest fall']:.0e}",
    }
    for name in ("vgg16", "resnet50", "efficientnet-lite0"):
        found = record[f"{name}, stride 25"]["of the processor's time"]
        low, high = found["quartiles"]
        key = name.partition("-")[0]
        numbers[f"occlusion_{key}_cpu"] = f"{found['median']:.1f} ({low:.1f} to {high:.1f})"
    return numbers


def read_diagnosis() -> dict[str, str]:
    """Return what was found in networks that nobody thinks ill of."""
    record = json.loads((RESULTS / "diagnosis-cpu.json").read_text(encoding="utf-8"))
    random, trained = record["random weights"], record["trained weights"]
    numbers = {
        "random_networks": str(len(random)),
        "random_healthy": str(sum(not found["findings"] for found in random.values())),
    }
    for fault in FAULTS:
        count = sum(fault in found["findings"] for found in random.values())
        numbers[f"random_{fault}"] = str(count)
    gaps = [found["gap"] for found in random.values() if found["gap"] is not None]
    uneven = [found["unevenness"] for found in random.values() if found["unevenness"] is not None]
    numbers["random_gaps"] = f"{min(gaps):.2f} to {max(gaps):.2f} in {len(gaps)} networks"
    numbers["random_grids"] = f"{min(uneven):.2f} to {max(uneven):.2f} in {len(uneven)} networks"
    names = {
        "efficientnet-lite0": "lite",
        "embedded": "embedded",
        "plain": "plain",
        "renormalised": "renormalised",
    }
    for name, key in names.items():
        said = describe(trained[name])
        numbers |= {f"{key}_{what}": text for what, text in said.items()}
    for name in ("plain", "renormalised"):
        run = json.loads((RESULTS / f"embedded-{name}.json").read_text(encoding="utf-8"))
        numbers[f"{name}_accuracy"] = f"{run['held_out_accuracy']:.1%}"
    return numbers


def describe(found: dict[str, Any]) -> dict[str, str]:
    """Return a diagnosis's numbers as text."""
    counts = found["channels or filters with"]
    rms = found["rms of the first layer's filters"]
    gap = "not measured" if found["gap"] is None else f"{found['gap']:.2g}"
    return {
        **{fault: f"{counts[fault]:,}" for fault in counts},
        "images": str(found["images"]),
        "channels": f"{found['channels']:,}",
        "filters": f"{found['filters']:,}",
        "layers": str(found["layers"]),
        "findings": str(sum(found["findings"].values())),
        "gap": gap,
        "grid": f"{found['unevenness']:.2f}",
        **{key: f"{rms[key]:.3f}" for key in ("median", "largest")},
    }

r"""Is `conv_transpose` the input gradient of every convolution that ships in torchvision?

    ct(g) = d<c(x), g>/dx,    <W x, y> = <x, W^T y>,    ct(c(x)) != x

Harvests every distinct convolution of every model builder of torchvision, at the input size that it
sees there, gives each seeded random weights and runs `captum_deconv.adjoint.check` on it, in each
type, memory format and, on a GPU, with TF32 on and off and cuDNN as it is, deterministic, or trying
its algorithms out:

    python benchmarks/adjoint.py                                  # float64 and float32
    python benchmarks/adjoint.py --dtype float16 bfloat16 --memory-format channels_last
    python benchmarks/adjoint.py --device cuda                    # everything

Prints the worst case of each kind and how many are bitwise; writes a row for each configuration;
exits with 1 if any check fails, or if a control that must fail does not.
"""

import argparse
import contextlib
import copy
import json
import math
import os
import platform
import random
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import torch
import torchvision
from parts.convolutions import Configuration, harvest, list_builders
from torch import nn
from torch.utils import benchmark

from captum_deconv import adjoint

RESULTS = Path(__file__).parent / "results"
DTYPES = {name: getattr(torch, name) for name in ("float64", "float32", "float16", "bfloat16")}
COLUMNS = (
    "passed",
    "relative_error",
    "bitwise",
    "ulps",
    "grad_error",
    "grad_bitwise",
    "dot_gap",
    "residual",
    "scaled_residual",
)


def list_settings(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """List the combinations to run; TF32 and cuDNN's modes are a GPU's business."""
    cuda = torch.device(arguments.device).type == "cuda"
    settings = []
    for dtype, layout in product(arguments.dtype, arguments.memory_format):
        for tf32 in (False, True) if cuda and dtype == "float32" else (False,):
            for mode in ("", "deterministic", "benchmark") if cuda else ("",):
                name = [dtype, layout] + ["tf32"] * tf32 + [mode] * bool(mode)
                settings.append(
                    {
                        "name": " ".join(name),
                        "dtype": DTYPES[dtype],
                        "memory_format": getattr(
                            torch, layout if "last" in layout else "contiguous_format"
                        ),
                        "tf32": tf32,
                        "deterministic": mode == "deterministic",
                        "benchmark": mode == "benchmark",
                    }
                )
    return settings


@contextlib.contextmanager
def switch(settings: dict[str, Any], device: str) -> Iterator[None]:
    """Set cuDNN's switches for a while, where there is one."""
    if torch.device(device).type != "cuda":
        yield
        return
    with torch.backends.cudnn.flags(
        enabled=True,
        benchmark=settings["benchmark"],
        deterministic=settings["deterministic"],
        allow_tf32=settings["tf32"],
    ):
        yield


def examine(
    configuration: Configuration, settings: dict[str, Any], device: str
) -> adjoint.AdjointReport | str:
    """Run checks 1, 2 and 4 on a configuration; a string says why torch cannot."""
    try:
        with switch(settings, device):
            return adjoint.check(
                configuration.build(),
                configuration.input_size,
                dtype=settings["dtype"],
                device=device,
                memory_format=settings["memory_format"],
                # Check 3 convolves the zero-stuffed map: the tests do it, at sizes made for it.
                flipped=False,
                # A random convolution that ct inverts would be as wrong as a failed transpose.
                inverts=False,
            )
    except (NotImplementedError, RuntimeError) as error:
        if "not implemented" not in str(error) and "not supported" not in str(error):
            raise
        return str(error).splitlines()[0]


def run_controls(device: str) -> dict[str, bool]:
    """Run what must fail; True for what was caught."""

    def break_transpose(change: Callable[[Any], None]) -> Callable[..., nn.Module]:
        def build(conv: nn.Module, size: tuple[int, ...]) -> nn.Module:
            layer = copy.deepcopy(adjoint.transpose_of(conv, size))
            change(layer)
            return layer

        return build

    def unflip(layer: Any) -> None:
        layer.weight.data = layer.weight.data.flip(2, 3)

    def leave_out_padding(layer: Any) -> None:
        layer.output_padding = (0, 0)

    def swap_groups(layer: Any) -> None:
        layer.weight.data = layer.weight.data.roll(layer.in_channels // layer.groups, 0)

    conv = Configuration(
        "Conv2d", 4, 6, (3, 3), (2, 2), (1, 1), (1, 1), 2, "zeros", (0, 0), (8, 8)
    ).build()
    rotation = nn.Conv2d(4, 4, 1, bias=False)
    generator = torch.Generator().manual_seed(0)
    square = torch.linalg.qr(torch.randn(4, 4, dtype=torch.float64, generator=generator))[0]
    rotation.weight.data = square[:, :, None, None]
    caught = {
        change.__name__: not adjoint.check(
            conv, (8, 8), device=device, flipped=False, transpose=break_transpose(change)
        ).passed
        for change in (unflip, leave_out_padding, swap_groups)
    }
    caught["orthogonal"] = not adjoint.check(rotation, (8, 8), device=device, inverts=False).passed
    return caught


def time_ways(configuration: Configuration, device: str) -> dict[str, Any]:
    """Time the three ways to the input gradient, as ratios to autograd's backward."""
    layer = configuration.build().to(device).requires_grad_(False)
    transpose = adjoint.transpose_of(layer, configuration.input_size)
    x = torch.randn(1, configuration.in_channels, *configuration.input_size, device=device)
    leaf = x.requires_grad_()
    y = layer(leaf)
    g = torch.randn_like(y)
    names = {
        "layer": transpose,
        "g": g,
        "y": y,
        "x": leaf,
        "grad": torch.autograd.grad,
        "functional": getattr(nn.grad, f"{configuration.layer.lower()}_input", None),
        "weight": layer.weight,
        "settings": {
            name: getattr(layer, name) for name in ("stride", "padding", "dilation", "groups")
        },
    }
    statements = {
        "autograd": "grad(y, x, g, retain_graph=True)",
        "conv_transpose": "layer(g)",
        "nn_grad": "functional(x.shape, weight, g, **settings)",
    }
    if names["functional"] is None:
        del statements["nn_grad"]
    median = {
        way: benchmark.Timer(statement, globals=names).blocked_autorange(min_run_time=0.1).median
        for way, statement in statements.items()
    }
    ratios = {way: _round(taken / median["autograd"]) for way, taken in median.items()}
    return {
        "configuration": str(configuration),
        "autograd_ms": _round(1e3 * median["autograd"]),
        **{f"{way}_ratio": ratio for way, ratio in ratios.items() if way != "autograd"},
    }


def summarise(name: str, found: dict[Configuration, adjoint.AdjointReport | str]) -> dict[str, Any]:
    """Find the worst case of each kind, and count."""
    reports = {key: value for key, value in found.items() if not isinstance(value, str)}
    summary: dict[str, Any] = {
        "settings": name,
        "checked": len(reports),
        "passed": sum(report.passed for report in reports.values()),
        "bitwise": sum(report.bitwise for report in reports.values()),
        # torch.nn.grad knows no transposed convolutions.
        "grad_checked": sum(report.grad_error is not None for report in reports.values()),
        "grad_bitwise": sum(bool(report.grad_bitwise) for report in reports.values()),
        "unsupported": len(found) - len(reports),
    }
    worst = {"relative_error": max, "ulps": max, "grad_error": max, "dot_gap": max}
    for kind, pick in (worst | {"residual": min, "scaled_residual": min}).items():
        values = {key: getattr(report, kind) for key, report in reports.items()}
        values = {key: value for key, value in values.items() if value is not None}
        if values:
            key = pick(values, key=lambda key: values[key])
            # Where nothing differs there is no worst configuration to name.
            where = str(key) if values[key] else None
            summary[kind] = {"value": _round(values[key]), "configuration": where}
    return summary


def _round(value: Any) -> Any:
    """Keep three digits, and what JSON can hold."""
    if isinstance(value, float) and math.isfinite(value):
        return float(f"{value:.3g}")
    return None if isinstance(value, float) else value


def describe_machine(device: str) -> dict[str, Any]:
    """Say what the numbers were measured on."""
    cuda = torch.device(device).type == "cuda"
    processor = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        named = [line.partition(":")[2].strip() for line in lines if "model name" in line]
        processor = named[0] if named else processor
    return {
        "device": torch.cuda.get_device_name(device) if cuda else processor,
        "cpu_count": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "cudnn": torch.backends.cudnn.version() if cuda else None,
        "python": platform.python_version(),
    }


def print_summary(summary: dict[str, Any]) -> None:
    print(
        f"\n{summary['settings']}: {summary['passed']} of {summary['checked']} passed, "
        f"{summary['bitwise']} bitwise equal to autograd, {summary['grad_bitwise']} of "
        f"{summary['grad_checked']} to torch.nn.grad, "
        f"{summary['unsupported']} not supported by torch"
    )
    for kind, found in summary.items():
        if isinstance(found, dict):
            most = "smallest" if "residual" in kind else "largest"
            value = math.inf if found["value"] is None else found["value"]
            print(f"  {most} {kind:<16}{value:>10.3g}  {found['configuration'] or ''}".rstrip())


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", nargs="+", choices=DTYPES, help="all on cuda, else 64 and 32")
    parser.add_argument("--memory-format", nargs="+", choices=("contiguous", "channels_last"))
    parser.add_argument("--models", nargs="+", help="builders to harvest; all by default")
    parser.add_argument("--sample", type=int, help="a seeded sample of so many configurations")
    parser.add_argument("--time", type=int, default=12, help="configurations to time; 0 for none")
    parser.add_argument("--out", type=Path, help="default: benchmarks/results/adjoint-DEVICE.json")
    found = parser.parse_args(arguments)
    cuda = torch.device(found.device).type == "cuda"
    found.dtype = found.dtype or (list(DTYPES) if cuda else ["float64", "float32"])
    layouts = ["contiguous", "channels_last"] if cuda else ["contiguous"]
    found.memory_format = found.memory_format or layouts
    found.out = found.out or RESULTS / f"adjoint-{torch.device(found.device).type}.json"
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    start = time.perf_counter()
    names = options.models or list_builders()
    owners = harvest(names)
    chosen = list(owners)
    print(f"{len(owners)} distinct convolutions in {len(names)} models")
    if options.sample is not None and options.sample < len(chosen):
        chosen = random.Random(0).sample(chosen, options.sample)
        print(f"a sample of {len(chosen)}")
    controls = run_controls(options.device)
    print("controls caught:", ", ".join(name for name, caught in controls.items() if caught))
    everything = {}
    seconds = {}
    for settings in list_settings(options):
        begun = time.perf_counter()
        everything[settings["name"]] = {
            configuration: examine(configuration, settings, options.device)
            for configuration in chosen
        }
        seconds[settings["name"]] = round(time.perf_counter() - begun, 1)
        print_summary(summarise(settings["name"], everything[settings["name"]]))
    timed = random.Random(1).sample(chosen, min(options.time, len(chosen)))
    timings = [time_ways(configuration, options.device) for configuration in timed]
    for row in timings:
        print(json.dumps(row))
    for way in ("conv_transpose_ratio", "nn_grad_ratio"):
        ratios = [row[way] for row in timings if way in row]
        if ratios:
            print(f"median {way} to autograd's backward: {statistics.median(ratios):.2f}")
    rows = [
        {
            "configuration": str(configuration),
            "models": owners[configuration],
            "results": {
                name: found[configuration]
                if isinstance(found[configuration], str)
                else [_round(getattr(found[configuration], column)) for column in COLUMNS]
                for name, found in everything.items()
            },
        }
        for configuration in chosen
    ]
    result = {
        "machine": describe_machine(options.device),
        "models": len(names),
        "configurations": len(owners),
        "checked": len(chosen),
        "controls_caught": controls,
        "seconds": seconds | {"all": round(time.perf_counter() - start, 1)},
        "summary": [summarise(name, found) for name, found in everything.items()],
        "timings": timings,
        "columns": COLUMNS,
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    # One line for each configuration: short, and a change of one is a change of one line.
    head = json.dumps(result, indent=1)[:-2]
    body = ",\n".join(json.dumps(row, separators=(",", ":")) for row in rows)
    options.out.write_text(f'{head},\n "rows": [\n{body}\n ]\n}}\n')
    failed = sum(entry["checked"] - entry["passed"] for entry in result["summary"])
    print(f"\n{failed} failed; {options.out.name} after {result['seconds']['all']:.0f} s")
    return int(failed > 0 or not all(controls.values()))


if __name__ == "__main__":
    sys.exit(main())

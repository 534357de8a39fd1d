"""Are the three methods exact on every network that torchvision lists, and is Captum?

The reference replaces each rectifier call by the papers' equations
(``tests/helpers/oracle.py``). An error
is ``max|a - b| / max|b|``, with ``b`` the reference, over all inputs. Captum's classes run beside.

    python benchmarks/zoo.py                        # all of them; resumes where it stopped
    python benchmarks/zoo.py --only '^vgg|fcos' --again
    python benchmarks/zoo.py --shard 1/2            # one half, beside another process with 2/2

The result goes to ``benchmarks/results/zoo-<device>.json`` and, as a table, to ``docs/zoo.md``.
"""

import argparse
import fcntl
import gc
import json
import os
import re
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from captum import attr
from torch import Tensor, nn

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "tests" / "helpers"))

import oracle  # noqa: E402  # the tests' reference
from parts.builders import Specimen, build, list_builders  # noqa: E402
from parts.machine import describe_machine  # noqa: E402
from parts.zoo_page import as_error, write_page  # noqa: E402

from captum_deconv import compare, coverage  # noqa: E402
from captum_deconv.engine.coverage import Finding  # noqa: E402

CAPTUMS: dict[str, Callable[..., Any]] = {
    "input_gradient": lambda model, *args: attr.Saliency(model).attribute(*args, abs=False),
    "guided_backprop": lambda model, *args: attr.GuidedBackprop(model).attribute(*args),
    "deconvnet": lambda model, *args: attr.Deconvolution(model).attribute(*args),
}


def measure(specimen: Specimen, *, with_captum: bool = True) -> dict[str, Any]:
    """Compare the package, and Captum, with the reference on one network.

    Args:
        specimen: From :func:`parts.builders.build`.
        with_captum: Whether Captum is run, too.

    Returns:
        By method, the package's and Captum's relative errors and the largest value of the
        reference; and what ``coverage`` reports.
    """
    network, inputs, target = specimen
    report = coverage(network, inputs)
    result: dict[str, Any] = {
        "overridden": _counts(report.overridden),
        "left": _counts(report.uncovered),
        "errors": {},
        "captum": {},
        "largest": {},
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what is left is in the report
        ours = compare(network, inputs, target)
    references = {
        method: oracle.input_attribution(network, inputs, target, method) for method in ours
    }
    for method, reference in references.items():
        result["largest"][method] = max(part.abs().max().item() for part in reference)
        result["errors"][method] = relative_error(ours[method], reference)
    if with_captum:
        for method, reference in references.items():
            result["captum"][method] = _captums_error(method, specimen, reference)
    return result


def relative_error(actual: tuple[Tensor, ...], reference: tuple[Tensor, ...]) -> float:
    """Return ``max|a - b| / max|b|`` over several tensors."""
    joined = [torch.cat([part.flatten() for part in parts]) for parts in (actual, reference)]
    return oracle.relative_error(*joined)


def _counts(findings: tuple[Finding, ...]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for finding in findings:
        counts[finding.operation] = counts.get(finding.operation, 0) + finding.count
    return counts


def _captums_error(method: str, specimen: Specimen, reference: tuple[Tensor, ...]) -> float | str:
    """Return Captum's relative error, or the name of the exception that it ends in."""
    inputs = tuple(tensor.clone() for tensor in specimen.inputs)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            actual = CAPTUMS[method](specimen.network, inputs, specimen.target)
        return relative_error(actual, reference)
    except Exception as error:
        return type(error).__name__
    finally:
        _remove_hooks(specimen.network)


def _remove_hooks(network: nn.Module) -> None:
    """Clear what Captum leaves behind when it crashes; a fresh network has no hooks."""
    for module in network.modules():
        module._forward_hooks.clear()
        module._forward_pre_hooks.clear()
        module._backward_hooks.clear()
        module._backward_pre_hooks.clear()
        module._is_full_backward_hook = None


def measure_by_name(name: str, device: torch.device) -> dict[str, Any]:
    """Build a network and measure it; what goes wrong becomes part of the result."""
    start = time.perf_counter()
    try:
        network, inputs, target = build(name)
        inputs = tuple(tensor.to(device) for tensor in inputs)
        result = measure(Specimen(network.to(device), inputs, target))
        result["parameters"] = sum(parameter.numel() for parameter in network.parameters())
        result["shapes"] = [list(tensor.shape) for tensor in inputs]
    except Exception as error:
        traceback.print_exc()
        result = {"failure": f"{type(error).__name__}: {str(error).splitlines()[0][:200]}"}
    result["kind"] = list_builders()[name]
    result["seconds"] = round(time.perf_counter() - start, 1)
    return result


def record(path: Path, name: str, result: dict[str, Any], machine: dict[str, Any]) -> None:
    """Add a result to the file, which several processes may write to in turn."""
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        results = read(path)
        results[name] = result
        partial = path.with_suffix(".partial")
        ordered = {"machine": machine, "results": dict(sorted(results.items()))}
        partial.write_text(json.dumps(ordered, indent=1) + "\n")
        os.replace(partial, path)
    finally:
        os.close(folder)  # and with it the lock


def read(path: Path) -> dict[str, Any]:
    """Return the results recorded so far, by name."""
    return json.loads(path.read_text())["results"] if path.exists() else {}


def print_row(name: str, result: dict[str, Any]) -> None:
    if "failure" in result:
        print(f"{name:<40} {result['failure']}", flush=True)
        return
    cells = [as_error(result[who][m]) for who in ("errors", "captum") for m in CAPTUMS]
    found = sum(result["overridden"].values())
    print(f"{name:<40} {found:>4} " + " ".join(f"{cell:>12}" for cell in cells), flush=True)


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", type=re.compile, default=re.compile(""), metavar="REGEX")
    parser.add_argument("--shard", default="1/1", metavar="I/N", help="every Nth, from the Ith")
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--again", action="store_true", help="measure what is recorded, too")
    parser.add_argument("--out", type=Path, help="the JSON file")
    parser.add_argument("--page", type=Path, default=ROOT / "docs" / "zoo.md")
    found = parser.parse_args(arguments)
    found.out = found.out or ROOT / "benchmarks" / "results" / f"zoo-{found.device.type}.json"
    return found


def main() -> None:
    options = parse()
    torch.set_num_threads(options.threads)
    torch.backends.cudnn.deterministic = True
    part, parts = map(int, options.shard.split("/"))
    chosen = [name for name in list_builders() if options.only.search(name)][part - 1 :: parts]
    options.out.parent.mkdir(parents=True, exist_ok=True)
    machine = describe_machine(options.device)
    print("left out: quantised networks, which compute in integers: no gradient leads through them")
    print(f"{'network':<40} {'ReLU':>4} " + " ".join(f"{m[:12]:>12}" for m in [*CAPTUMS] * 2))
    for name in chosen:
        result = read(options.out).get(name)
        if result is None or options.again or "failure" in result:
            result = measure_by_name(name, options.device)
            record(options.out, name, result, machine)
            gc.collect()
        print_row(name, result)
    write_page(options.page, json.loads(options.out.read_text()))


if __name__ == "__main__":
    main()

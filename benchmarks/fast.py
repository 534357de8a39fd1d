"""How much faster a copy of a network is that computes the same in another order, and how far off.

Time is that of the input gradient of the likeliest class, of four photographs at the network's own
size, over that of the network as it is, in turn in one process. Beside it stands the largest
difference of the gradients over their largest value, and the norm of the difference over the
norm. EfficientNet-Lite0 and the embedded network have trained weights, the others random ones, for
want of a connection; with one, ``--weights DEFAULT`` takes the trained ones.

    python benchmarks/fast.py                       # and results/fast-cpu.json, docs/faster.md
    python benchmarks/fast.py --quick               # one small network, for a test
"""

import argparse
import copy
import json
from pathlib import Path
from typing import Any

import skimage.data
import torch
from parts.fast_page import write_page
from parts.machine import describe_machine
from parts.timing import ratio, time_alternately
from PIL import Image
from torch import Tensor, nn

from captum_deconv.engine.fast import make_fast, measure_difference
from captum_deconv.sources.models import load_model

ROOT = Path(__file__).parents[1]
TRAINED = ("efficientnet-lite0", "embedded")
RANDOM = ("resnet50", "vgg16", "densenet121")
PHOTOGRAPHS = ("cat", "coffee", "rocket", "astronaut")


def read_batch(loaded: Any) -> Tensor:
    """Return four photographs as the network takes them."""
    arrays = (getattr(skimage.data, name)() for name in PHOTOGRAPHS)
    return torch.stack([loaded.preprocess(Image.fromarray(array)) for array in arrays])


def make_ways(model: nn.Module) -> dict[str, nn.Module]:
    """Return the network as it is, and its copies."""
    both = make_fast(model)
    folded = copy.deepcopy(both.model).to(memory_format=torch.contiguous_format)
    return {
        "as it is": model,
        "folded": folded,
        "channels-last": copy.deepcopy(model).to(memory_format=torch.channels_last),
        "both": both.model,
        "both, bfloat16": copy.deepcopy(both.model).to(torch.bfloat16),
    }


def measure(name: str, weights: str, device: torch.device, rounds: int) -> dict[str, Any]:
    """Return what one network's copies take, and how far off they are."""
    loaded = load_model(name, weights, device)
    images = read_batch(loaded).to(device)
    ways = make_ways(loaded.model)
    with torch.no_grad():
        target = loaded.model(images).argmax(1)

    def differentiate(model: nn.Module) -> Tensor:
        dtype = next(model.parameters()).dtype
        leaf = images.to(dtype).requires_grad_()
        scores = model(leaf).gather(1, target[:, None]).sum()
        return torch.autograd.grad(scores, leaf)[0].float()

    seconds = time_alternately(
        {way: lambda model=model: differentiate(model) for way, model in ways.items()},
        device,
        rounds,
    )
    exact = differentiate(loaded.model)
    result: dict[str, Any] = {"weights": loaded.weights, "done": make_fast(loaded.model).describe()}
    for way, model in ways.items():
        found = differentiate(model)
        result[way] = {
            "time": ratio(seconds[way], seconds["as it is"])["median"],
            "largest": measure_difference(found, exact),
            "norm": float((found - exact).norm() / exact.norm()),
        }
    return result


def main() -> None:
    """Print the table, and write it and the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu", type=torch.device)
    parser.add_argument("--weights", default="none", help="of torchvision's: none or DEFAULT")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--page", type=Path, default=ROOT / "docs" / "faster.md")
    options = parser.parse_args()
    names = dict.fromkeys(TRAINED, "DEFAULT") | dict.fromkeys(RANDOM, options.weights)
    if options.quick:
        names, options.rounds = {"embedded": "DEFAULT"}, 2
    record: dict[str, Any] = {"machine": describe_machine(options.device), "results": {}}
    for name, weights in names.items():
        result = measure(name, weights, options.device, options.rounds)
        record["results"][name] = result
        for way, found in result.items():
            if isinstance(found, dict):
                numbers = f"time {found['time']:.2f}, largest {found['largest']:.1e}"
                print(f"{name:20} {way:16} {numbers}, norm {found['norm']:.1e}", flush=True)
    if not options.quick or options.out:
        out = options.out or ROOT / "benchmarks" / "results" / f"fast-{options.device.type}.json"
        out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        write_page(options.page, record)
        print(f"written to {out} and {options.page}")


if __name__ == "__main__":
    main()

"""What a method costs beside what it cannot do without, and beside Captum's.

Every figure is a ratio of times taken in one run, alternately, on real networks: ResNet-50 and
VGG-16, a batch of four at 224x224. A pair of calls is timed many times over; the ratio quoted is
the median of the ratios pair by pair, with its quartiles, since a shared machine's speed drifts.
Beside it stands the bound: what the passes themselves take, with nothing around them.

    python benchmarks/methods.py --device auto --out benchmarks/results
"""

import argparse
import contextlib
import json
import statistics
import time
import warnings
from pathlib import Path

import captum.attr
import torch
import torchvision
from parts.machine import describe_machine
from parts.timing import ratio, time_alternately

import captum_deconv
from captum_deconv.engine import checks, forward, modes, overriding, rectifiers, rules

TARGET = 281
LAYERS = {"resnet50": ("layer1", (7, 20, 20)), "vgg16": ("features.9", (7, 40, 40))}


def bare_gradient(model: torch.nn.Module, images: torch.Tensor) -> torch.Tensor:
    """Return the input gradient with nothing around it: one forward, one input-only backward."""
    leaf = images.detach().clone().requires_grad_()
    return torch.autograd.grad(model(leaf)[:, TARGET].sum(), leaf)[0]


def bare_neuron(
    model: torch.nn.Module,
    layer: torch.nn.Module,
    neuron: tuple[int, ...],
    images: torch.Tensor,
    stop: bool,
) -> torch.Tensor:
    """Return a neuron's input gradient with nothing around it, its forward pass stopped or not."""
    activations: list[torch.Tensor] = []

    def keep(module: torch.nn.Module, args: object, output: torch.Tensor) -> None:
        activations.append(output)
        if stop:
            raise StopIteration

    leaf = images.detach().clone().requires_grad_()
    with layer.register_forward_hook(keep), contextlib.suppress(StopIteration):
        model(leaf)
    return torch.autograd.grad(activations[0][(slice(None), *neuron)].sum(), leaf)[0]


def measure_network(name: str, device: torch.device, batch: int, rounds: int) -> dict[str, object]:
    """Return the ratios of one network."""
    torch.manual_seed(0)
    model = torchvision.models.get_model(name, weights=None).eval().to(device)
    images = torch.randn(batch, 3, 224, 224, device=device)
    layer_name, neuron = LAYERS[name]
    layer = model.get_submodule(layer_name)
    guided = captum_deconv.GuidedBackprop(model)
    captums = {
        "input gradient": captum.attr.Saliency(model),
        "guided backprop": captum.attr.GuidedBackprop(model),
        "deconvnet": captum.attr.Deconvolution(model),
    }
    ours_neuron = captum_deconv.NeuronDeconvnet(model, layer)
    captums_neuron = captum.attr.NeuronDeconvolution(model, layer)

    def forward_only() -> None:
        with torch.enable_grad():
            model(images.detach().clone().requires_grad_())

    seconds = time_alternately(
        {
            "forward": forward_only,
            "bare": lambda: bare_gradient(model, images),
            "guided": lambda: guided.attribute(images, TARGET),
            "captum guided": lambda: captums["guided backprop"].attribute(images, TARGET),
            "compare": lambda: captum_deconv.compare(model, images, TARGET),
            "captum three": lambda: [m.attribute(images, TARGET) for m in captums.values()],
            "bare neuron": lambda: bare_neuron(model, layer, neuron, images, True),
            "bare neuron, run on": lambda: bare_neuron(model, layer, neuron, images, False),
            "neuron": lambda: ours_neuron.attribute(images, neuron),
            "captum neuron": lambda: captums_neuron.attribute(images, neuron),
        },
        device,
        rounds,
    )
    once, both = (statistics.median(seconds[key]) for key in ("forward", "bare"))
    backward = both - once
    return {
        "batch": batch,
        "rounds": rounds,
        "seconds of forward and bare gradient": [round(once, 4), round(both, 4)],
        "guided backprop / bare gradient": ratio(seconds["guided"], seconds["bare"]),
        "Captum's guided backprop / bare gradient": ratio(
            seconds["captum guided"], seconds["bare"]
        ),
        "compare / Captum's three": ratio(seconds["compare"], seconds["captum three"]),
        "bound (F + 3B) / (3F + 3B)": round((once + 3 * backward) / (3 * once + 3 * backward), 4),
        f"neuron of {layer_name} / Captum's": ratio(seconds["neuron"], seconds["captum neuron"]),
        "bound (f + b) / (F + b)": ratio(seconds["bare neuron"], seconds["bare neuron, run on"]),
        "walk and hooks": measure_walk(model, images, rounds),
    }


def measure_walk(model: torch.nn.Module, images: torch.Tensor, rounds: int) -> dict[str, float]:
    """Return what finding the rectifiers and hooking them costs by itself."""
    seconds: list[float] = []

    def work(held: modes.Pass) -> tuple[int, int]:
        leaves = forward.make_leaves((images[:1],), checks.Checks())
        output = forward.run(model, leaves, ())
        nodes = len(rectifiers._between([output], leaves))
        for _ in range(10 * rounds):
            start = time.perf_counter()
            found = rectifiers.survey([output], leaves)
            with overriding.overridden(found.rectifiers, rules.deconvnet):
                pass
            seconds.append(time.perf_counter() - start)
        return nodes, len(found.rectifiers)

    nodes, rectified = modes.differentiably(model, work)
    middle = statistics.median(seconds)
    return {
        "nodes": nodes,
        "rectifiers": rectified,
        "microseconds": round(1e6 * middle, 1),
        "microseconds per node": round(1e6 * middle / nodes, 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:INDEX")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--networks", nargs="+", choices=LAYERS, default=list(LAYERS))
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    options = parser.parse_args()
    warnings.simplefilter("ignore")  # Captum announces its hooks at each call
    available = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(available if options.device == "auto" else options.device)
    result: dict[str, object] = {"machine": describe_machine(device)}
    for name in options.networks:
        result[name] = measured = measure_network(name, device, options.batch, options.rounds)
        print(f"\n{name}, batch {options.batch}, {device}")
        for key, value in measured.items():
            shown = f"{value['median']} {value['quartiles']}" if "median" in str(value) else value
            print(f"  {key:45} {shown}")
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / f"methods-{device.type}.json"
    path.write_text(json.dumps(result, indent=2) + "\n")
    print(f"\nwritten to {path}")


if __name__ == "__main__":
    main()

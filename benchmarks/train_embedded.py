r"""Train the network that ships with the package, `captum_deconv.sources.embedded`, and measure it.

Twenty photographs that scikit-image and scikit-learn ship are the classes. The network sees 64 x 64
crops of the left 70 % of each, turned, mirrored, scaled, and changed in colour and contrast; its
accuracy is that on plain crops of the right 30 %, of which it saw no pixel:

    python benchmarks/train_embedded.py

writes the weights and the checkpoints into the package and a record into `benchmarks/results/`.
With `--plain` or `--radius`, which are other recipes, the weights go below `build/`.

What is learned is seeded, and runs in one thread. The same processor and versions give the same
weights; another processor adds up in another order, and its weights differ, first in their last
bits and in the end visibly, and its accuracy somewhat. The prices below were settled in shorter
runs, by looking at the filters; those runs printed the held-out accuracy as well.

Three things are asked of the first layer besides telling the photographs apart, since twenty of
them alone leave much of it to chance. It starts near zero, so that none of what it shows is noise
left over from its start. It pays for the roughness of its filters, from 4 for noise to 0.3 for the
smoothest bump there is:

    roughness(w) = (|w(x + 1, y) - w(x, y)|^2 + |w(x, y + 1) - w(x, y)|^2) / |w|^2

And it pays for responses that are not sparse, which favours filters for what is rare and strong in
photographs, as edges are (Olshausen & Field 1996). Neither says where an edge lies, which way it
runs or what colours it has. Figures of these filters show what a network learned that was asked for
smooth and sparse ones, and docs that show them should say so.
"""

import argparse
import contextlib
import json
import math
import os
import platform
import time
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import skimage
import sklearn
import torch
import torch.nn.functional as F
from safetensors.torch import save
from skimage import data
from sklearn.datasets import load_sample_image
from torch import Tensor, nn

from captum_deconv.experiments import renormalise
from captum_deconv.experiments.renormalisation import measure_rms
from captum_deconv.sources import embedded

RESULTS = Path(__file__).parent / "results"
BUILD = Path(__file__).parents[1] / "build" / "embedded"
TRAINED_SHARE = 0.7
CROP = 64
CROPS_PER_PHOTOGRAPH = 4
PEAK_RATE = 4e-3
ROUGHNESS_PRICE = 0.004
DENSITY_PRICE = 0.25
KEPT = 6


def read_photographs() -> list[Tensor]:
    """Read the photographs in the order of the classes: `(3, H, W)` in [0, 1]."""
    other = {
        "china": lambda: load_sample_image("china.jpg"),
        "flower": lambda: load_sample_image("flower.jpg"),
        "motorcycle": lambda: data.stereo_motorcycle()[0],
    }
    photographs = []
    for name in embedded.CLASSES:
        pixels = np.asarray((other.get(name) or getattr(data, name))())
        image = torch.tensor(pixels).float() / 255
        photographs.append(image.permute(2, 0, 1) if image.dim() == 3 else image.expand(3, -1, -1))
    return photographs


def split(photograph: Tensor) -> tuple[Tensor, Tensor]:
    """Cut a photograph into what is learned from and what is held out, left and right.

    The largest two are halved, after the cut, so that all show about as much in a crop.
    """
    edge = round(TRAINED_SHARE * photograph.shape[-1])
    parts = photograph[..., :edge], photograph[..., edge:]
    if max(photograph.shape) > 800:
        parts = F.avg_pool2d(parts[0], 2), F.avg_pool2d(parts[1], 2)
    return parts


def cut_held_out(photographs: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Cut 36 plain crops from the right part of each photograph, on an even grid.

    The same number of each, so that chance is one in twenty. Gives normalised crops
    `(720, 3, 64, 64)` and their classes `(720,)`.
    """
    crops = []
    for photograph in photographs:
        held_out = split(photograph)[1]
        tops = torch.linspace(0, held_out.shape[1] - CROP, 12).round().int().tolist()
        lefts = torch.linspace(0, held_out.shape[2] - CROP, 3).round().int().tolist()
        crops += [held_out[:, y : y + CROP, x : x + CROP] for y in tops for x in lefts]
    return normalise(torch.stack(crops)), torch.arange(len(photographs)).repeat_interleave(36)


def measure_accuracy(model: nn.Module, crops: Tensor, classes: Tensor) -> float:
    """Measure the share of the crops whose photograph is told."""
    with torch.no_grad():
        found = torch.cat([model(part).argmax(1) for part in crops.split(120)])
    return (found == classes).float().mean().item()


def normalise(crops: Tensor) -> Tensor:
    """Bring pixels to about zero mean and unit variance, as the network takes them."""
    return (crops - embedded.MEAN[0]) / embedded.STD[0]


class Crops:
    """Endless random crops of the photographs' left parts, as many of each in every batch."""

    def __init__(self, photographs: list[Tensor], seed: int) -> None:
        self.random = torch.Generator().manual_seed(seed)
        self.levels = []
        for photograph in photographs:
            learned = split(photograph)[0][None].contiguous()
            # Crops of a coarser scale come from the halved photograph, or they would alias.
            self.levels.append((learned, F.avg_pool2d(learned, 2)))
        grey = [bool((photograph[0] == photograph[1]).all()) for photograph in photographs]
        self.grey = torch.tensor(grey).repeat_interleave(CROPS_PER_PHOTOGRAPH)
        self.classes = torch.arange(len(photographs)).repeat_interleave(CROPS_PER_PHOTOGRAPH)

    def draw(self) -> tuple[Tensor, Tensor]:
        """Draw a batch: normalised crops `(80, 3, 64, 64)` and their classes `(80,)`."""
        crops = torch.cat([self._cut(levels) for levels in self.levels])
        crops = self._change_light(self._change_colours(crops))
        noise = self._uniform(len(crops), 1, 1, 1, low=0.0, high=0.08)
        crops = crops + noise * torch.randn(crops.shape, generator=self.random)
        return normalise(crops), self.classes

    def _uniform(self, *shape: int, low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(shape, generator=self.random)

    def _cut(self, levels: tuple[Tensor, Tensor]) -> Tensor:
        count = CROPS_PER_PHOTOGRAPH
        half = bool(torch.rand((), generator=self.random) < 0.35)
        image = levels[half]
        height, width = image.shape[2:]
        scale = self._uniform(count, low=0.65, high=1.0 if half else 1.3)
        angle = self._uniform(count, low=-math.pi, high=math.pi)
        mirrored = self._uniform(count, low=-1, high=1).sign()
        steps = torch.arange(CROP) - (CROP - 1) / 2
        y, x = torch.meshgrid(steps, steps, indexing="ij")
        x, y = x * (scale * mirrored).view(-1, 1, 1), y * scale.view(-1, 1, 1)
        cos, sin = angle.cos().view(-1, 1, 1), angle.sin().view(-1, 1, 1)
        # The turned crop lies within the part, where the part is large enough for that.
        reach = CROP / 2 * scale * (angle.cos().abs() + angle.sin().abs())
        grid = []
        for offsets, size in ((cos * x - sin * y, width), (sin * x + cos * y, height)):
            margin = reach.clamp(max=size / 2 - 1)
            centre = margin + (size - 2 * margin) * self._uniform(count, low=0, high=1)
            grid.append((centre.view(-1, 1, 1) + offsets) * 2 / size - 1)
        # All crops of one photograph in one call, below each other, as the photograph is the same.
        places = torch.stack(grid, -1).reshape(1, count * CROP, CROP, 2)
        cut = F.grid_sample(image, places, padding_mode="reflection", align_corners=False)
        return cut.reshape(3, count, CROP, CROP).transpose(0, 1)

    def _change_colours(self, crops: Tensor) -> Tensor:
        """Turn the hues, and give what is grey two colours, so that none is told by being grey."""
        count = len(crops)
        light = crops.mean(1, keepdim=True)
        turn = 0.5 * torch.randn(count, 1, 1, generator=self.random)
        strength = self._uniform(count, 1, 1, low=0.5, high=1.6)
        # A turn about the grey axis (1, 1, 1): Rodrigues' formula, for vectors orthogonal to it.
        axis = torch.tensor([[0.0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / math.sqrt(3)
        cast = torch.randn(count, 3, 1, 1, generator=self.random)
        cast = 0.05 * (cast - cast.mean(1, keepdim=True))
        matrix = strength * (turn.cos() * torch.eye(3) + turn.sin() * axis)
        turned = (matrix @ (crops - light).flatten(2)).view_as(crops) + cast
        # Grey crops run from one colour in the dark to another in the light; some stay grey, and
        # some of the coloured ones are made grey first.
        ends = torch.randn(2, count, 3, 1, 1, generator=self.random)
        ends = 0.12 * (ends - ends.mean(2, keepdim=True))
        tinted = ends[0] * (1 - light) + ends[1] * light
        tinted = tinted * (torch.rand(count, 1, 1, 1, generator=self.random) < 0.7)
        grey = self.grey | (torch.rand(count, generator=self.random) < 0.2)
        return light + torch.where(grey.view(-1, 1, 1, 1), tinted, turned)

    def _change_light(self, crops: Tensor) -> Tensor:
        contrast = self._uniform(len(crops), 1, 1, 1, low=-0.5, high=0.5).exp()
        brightness = self._uniform(len(crops), 1, 1, 1, low=-0.25, high=0.25)
        middle = crops.mean((1, 2, 3), keepdim=True)
        return (middle + contrast * (crops - middle) + brightness).clamp(0, 1)


def build_trainable() -> nn.Sequential:
    """Build the network as it is trained: pooled, then batch-normed, then rectified.

    Max-pooling commutes with the rectifier, and with a norm whose scale is positive, and going
    first leaves both a quarter of the work. So the scales are fixed at one: what they could do, the
    weights of the next layer can.
    """
    plain = dict(embedded.EmbeddedNetwork().named_children())
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for number in (1, 2, 3, 4):
        conv = plain.pop(f"conv{number}")
        conv.bias = None
        # The scale of a filter before a batch norm means nothing; this start is soon outgrown.
        nn.init.normal_(conv.weight, std=3e-3)
        norm = nn.BatchNorm2d(conv.out_channels)
        norm.weight.requires_grad_(False)
        layers[f"conv{number}"] = conv
        if f"pool{number}" in plain:
            layers[f"pool{number}"] = plain.pop(f"pool{number}")
        layers[f"norm{number}"] = norm
        layers[f"relu{number}"] = plain.pop(f"relu{number}")
    return nn.Sequential(layers | plain).to(memory_format=torch.channels_last)


def fold(network: nn.Sequential) -> embedded.EmbeddedNetwork:
    """Fold the batch norms into the convolutions: the network as it is shipped.

    Rounded to half precision and back, so that it is measured as it is shipped.
    """
    state = {}
    for name, layer in network.named_children():
        if isinstance(layer, nn.Conv2d):
            norm = network.get_submodule(name.replace("conv", "norm"))
            scale = norm.weight / (norm.running_var + norm.eps).sqrt()
            state[f"{name}.weight"] = layer.weight * scale.view(-1, 1, 1, 1)
            state[f"{name}.bias"] = norm.bias - norm.running_mean * scale
        elif isinstance(layer, nn.Linear):
            state |= {f"{name}.weight": layer.weight, f"{name}.bias": layer.bias}
    folded = embedded.EmbeddedNetwork()
    folded.load_state_dict({name: value.detach().half() for name, value in state.items()})
    return folded.eval()


def settle_norms(network: nn.Sequential, crops: Crops, batches: int) -> None:
    """Take the batch norms' means and variances afresh, over several batches at these weights."""
    norms = [layer for layer in network if isinstance(layer, nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain average over what follows
    with torch.no_grad():
        for _ in range(batches):
            network(crops.draw()[0])
    for norm in norms:
        norm.momentum = 0.1


def measure_roughness(weight: Tensor) -> Tensor:
    """Measure how much neighbouring weights of each filter differ, the kernel's edges included."""
    padded = F.pad(weight, (1, 1, 1, 1))
    down = (padded[..., 1:, :] - padded[..., :-1, :]).square().sum((1, 2, 3))
    across = (padded[..., 1:] - padded[..., :-1]).square().sum((1, 2, 3))
    return (down + across) / weight.square().sum((1, 2, 3))


def measure_density(normed: Tensor, shift: Tensor) -> Tensor:
    """Measure the mean size of normed responses of variance one: the smaller, the sparser they are.

    It is 0.80 for a normal distribution, 0.71 for Laplace's.
    """
    return (normed - shift.view(-1, 1, 1)).abs().mean()


def train(
    photographs: list[Tensor],
    steps: int,
    seed: int,
    radius: float | None = None,
    plain: bool = False,
) -> dict[int, dict[str, Tensor]]:
    """Train, and give the folded weights at `KEPT` steps, about evenly spaced in their logarithm.

    The last is the end. With a radius, filters are renormalised to it after each step. Plainly is
    as in 2013: neither batch norms nor prices.
    """
    torch.manual_seed(seed)
    if plain:
        return train_plainly(photographs, steps, seed, radius)
    network = build_trainable().train()
    crops = Crops(photographs, seed)
    others = [p for name, p in network.named_parameters() if p.dim() > 1 and name != "conv1.weight"]
    vectors = [p for p in network.parameters() if p.dim() == 1 and p.requires_grad]
    optimizer = torch.optim.AdamW(
        [
            {"params": [network.conv1.weight], "weight_decay": 0.5},
            {"params": others, "weight_decay": 0.1},
            {"params": vectors, "weight_decay": 0.0},
        ],
        lr=PEAK_RATE,
        betas=(0.9, 0.99),
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, PEAK_RATE, total_steps=steps, pct_start=0.1, cycle_momentum=False
    )
    if radius is not None:
        renormalise(network, optimizer, radius)
    first = min(20, steps)
    keep = {round(first * (steps / first) ** (i / (KEPT - 1))) for i in range(KEPT)}
    kept = {}
    begun = time.perf_counter()
    for step in range(1, steps + 1):
        images, classes = crops.draw()
        first_maps = network[:3](images.contiguous(memory_format=torch.channels_last))
        scores = network[3:](first_maps)
        loss = F.cross_entropy(scores, classes, label_smoothing=0.1)
        loss = loss + DENSITY_PRICE * measure_density(first_maps, network.norm1.bias)
        rough = measure_roughness(network.conv1.weight)
        loss = loss + ROUGHNESS_PRICE * rough.square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        more = f"  roughness {rough.mean():.2f}  {time.perf_counter() - begun:.0f} s"
        tell(step, network, loss, scores, classes, more)
        if step in keep:
            settle_norms(network, Crops(photographs, seed + 1), 40 if step == steps else 10)
            kept[step] = fold(network).state_dict()
    return kept


def tell(
    step: int, network: nn.Module, loss: Tensor, scores: Tensor, classes: Tensor, more: str = ""
) -> None:
    """Print now and then how far the training has come."""
    if step % 50 and step != 1:
        return
    right = (scores.argmax(1) == classes).float().mean()
    largest = measure_rms(network.conv1.weight).max()
    print(
        f"step {step:5d}  loss {loss:.3f}  right {right:.2f}  largest filter {largest:.3f}{more}",
        flush=True,
    )


def train_plainly(
    photographs: list[Tensor], steps: int, seed: int, radius: float | None
) -> dict[int, dict[str, Tensor]]:
    """Train the network as it is, by momentum and the rate of Zeiler & Fergus 2013, section 3.1."""
    network = embedded.EmbeddedNetwork().train()
    for layer in network:
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            nn.init.zeros_(layer.bias)
    crops = Crops(photographs, seed)
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-2, momentum=0.9)
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [steps * 6 // 10, steps * 9 // 10])
    if radius is not None:
        renormalise(network, optimizer, radius)
    for step in range(1, steps + 1):
        images, classes = crops.draw()
        scores = network(images)
        loss = F.cross_entropy(scores, classes)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        tell(step, network, loss, scores, classes)
    return {steps: {name: value.detach().half() for name, value in network.state_dict().items()}}


def write_weights(kept: dict[int, dict[str, Tensor]], weights: Path, training: Path) -> None:
    """Write the last weights whole, and the first three convolutions at every kept step."""
    last = {name: value.half() for name, value in kept[max(kept)].items()}
    early = {
        f"{step}.{name}": value.half()
        for step, state in kept.items()
        for name, value in state.items()
        if name.startswith(("conv1", "conv2", "conv3"))
    }
    for content, path in ((last, weights), (early, training)):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(save({name: value.contiguous() for name, value in content.items()}))


def describe_machine() -> dict[str, Any]:
    """Say what the weights were made on."""
    processor = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        processor = next(
            (line.partition(":")[2].strip() for line in lines if "model name" in line), processor
        )
    return {
        "processor": processor,
        "cpu_count": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "scikit-image": skimage.__version__,
        "scikit-learn": sklearn.__version__,
        "safetensors": safetensors.__version__,
    }


def choose_files(options: argparse.Namespace) -> None:
    """Choose what was left out: the package's files for its own recipe, and others for the rest."""
    name, weights, training = "training", embedded.WEIGHTS, embedded.TRAINING
    if options.plain or options.radius is not None:
        name = "plain" if options.radius is None else "renormalised"
        weights, training = (BUILD / f"{name}{end}.safetensors" for end in ("", "-steps"))
    options.weights = options.weights or weights
    options.training = options.training or training
    options.out = options.out or RESULTS / f"embedded-{name}.json"


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=1600)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--radius", type=float, help="renormalise filters above this RMS to it")
    parser.add_argument("--plain", action="store_true", help="without batch norms and prices")
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--training", type=Path)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args(arguments)
    choose_files(options)
    torch.set_num_threads(options.threads)
    photographs = read_photographs()
    begun, begun_cpu = time.perf_counter(), time.process_time()
    kept = train(photographs, options.steps, options.seed, options.radius, options.plain)
    seconds, cpu_seconds = time.perf_counter() - begun, time.process_time() - begun_cpu
    write_weights(kept, options.weights, options.training)

    crops, classes = cut_held_out(photographs)
    accuracies = {}
    for step, state in sorted(kept.items()):
        network = embedded.EmbeddedNetwork().eval()
        network.load_state_dict(state)
        accuracies[step] = round(measure_accuracy(network, crops, classes), 4)
        print(f"held out, after step {step}: {accuracies[step]:.1%}")
    of_each = {
        name: round(measure_accuracy(network, crops[classes == i], classes[classes == i]), 3)
        for i, name in enumerate(embedded.CLASSES)
    }
    print(", ".join(f"{name} {share:.0%}" for name, share in of_each.items()))
    record = {
        "held_out_accuracy": accuracies[options.steps],
        "chance": 1 / len(embedded.CLASSES),
        "held_out_crops": len(crops),
        "of_each_photograph": of_each,
        "accuracy_by_step": accuracies,
        "steps": options.steps,
        "seed": options.seed,
        "radius": options.radius,
        "plain": options.plain,
        "batch": CROPS_PER_PHOTOGRAPH * len(embedded.CLASSES),
        "parameters": sum(value.numel() for value in kept[options.steps].values()),
        "bytes": {path.name: path.stat().st_size for path in (options.weights, options.training)},
        "seconds": round(seconds),
        "cpu_seconds": round(cpu_seconds),
        "machine": describe_machine(),
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(record, indent=1) + "\n")
    print(f"{accuracies[options.steps]:.1%} of {len(crops)} held-out crops; {seconds:.0f} s")


if __name__ == "__main__":
    main()

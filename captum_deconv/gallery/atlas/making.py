"""Make an atlas: one scan, the projections in parts, the pages; from wherever it was cut off."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from captum_deconv import features
from captum_deconv.drawing.files import make_folder, replace_file
from captum_deconv.engine.coverage import Uncovered
from captum_deconv.features import ActivationIndex, distributed
from captum_deconv.features.progress import show_progress
from captum_deconv.features.records import (
    UnreadableSampleError,
    describe_dataset,
    describe_model,
    describe_versions,
    read_sample,
)
from captum_deconv.gallery.atlas import cost
from captum_deconv.gallery.atlas.keeping import finish, take_up
from captum_deconv.gallery.atlas.layers import AUTO, Choice, choose_layers
from captum_deconv.gallery.atlas.network import Network, read_network
from captum_deconv.gallery.atlas.parts import Part, write_part, write_step
from captum_deconv.gallery.atlas.reading import INDEX, KEPT, RECORD, Atlas, Layer
from captum_deconv.gallery.collection import Gallery
from captum_deconv.gallery.projection import project
from captum_deconv.receptive_field.field import ReceptiveField

if TYPE_CHECKING:
    from captum_deconv.gallery.projector import Seed

_MOST_BYTES = 2**29


def atlas(
    model: nn.Module,
    dataset: Any,
    out: str | Path,
    layers: str | Sequence[str] = AUTO,
    *,
    methods: str | Sequence[str] = ("deconvnet", "guided_backprop"),
    channels: int | None = None,
    k: int = 9,
    seed: Seed = "activation",
    batch_size: int = 32,
    num_workers: int = 0,
    by_size: bool | None = None,
    fast: bool = False,
    strict: bool = False,
    restore: Callable[[Tensor], Tensor] | None = None,
    labels: Sequence[str] | None = None,
    checkpoints: Mapping[Any, nn.Module] | None = None,
    title: str | None = None,
    about: str = "",
    checkpoint_seconds: float = 30.0,
    report: cost.Report = cost.say_nothing,
    progress: bool = True,
) -> Atlas:
    """Make an atlas of a network: an offline site of what its layers have learned.

    A run that was killed goes on when it is called again with the same arguments, and the site is
    the same in every byte. Under ``torch.distributed`` each process does its share.

    Args:
        model: In evaluation mode; it is left as it is.
        dataset: As for :func:`captum_deconv.features.scan`; images may differ in size.
        out: The site's folder. It may exist where it is empty or holds the same atlas.
        layers: ``"auto"`` for the rectified outputs of the network's stages, or dotted names and
            patterns such as ``"layer?.*.relu"``; they are shown in forward order.
        methods: As for :func:`captum_deconv.gallery.project`.
        channels: How many of each layer's channels to show, the first ones; all where left out.
        k: How many neurons of each channel.
        seed: As for :func:`captum_deconv.gallery.project`.
        batch_size: Images computed at a time in the scan.
        num_workers: Processes that read images; 0 reads here.
        by_size: As for :func:`captum_deconv.features.scan`.
        fast: Whether to use a faster copy of the model, as there.
        strict: Whether an image that cannot be read ends the run rather than being left out.
        restore: As for :func:`captum_deconv.gallery.project`.
        labels: The names of the data set's labels; ``dataset.classes`` where left out.
        checkpoints: The network at moments of its training, by what to call them, in their order;
            a mapping that loads each when asked keeps one in memory.
        title: The site's heading.
        about: A line on the model and the data.
        checkpoint_seconds: How often the scan keeps what it has found.
        report: Gets lines that say what will be done: the layers and why, about how long and how
            large.
        progress: Whether to show a bar where there is a terminal.

    Returns:
        The atlas; `page` is the file to open.

    Raises:
        AtlasError: If the folder holds something else; it names what differs.
        OutputError: If the folder cannot be written to.
        UnreadableSampleError: If no image can be read.
        ValueError: If a layer is unknown or none is left, and for whatever
            :func:`captum_deconv.features.scan` and :func:`captum_deconv.gallery.project` refuse.
    """
    folder, methods = Path(out), [methods] if isinstance(methods, str) else list(methods)
    if channels is not None and channels < 1:
        raise ValueError(f"channels must be at least 1, not {channels}")
    image = _find_image(dataset)
    network = read_network(model, image)
    chosen = choose_layers(model, network, layers)
    names = [choice.name for choice in chosen]
    labels = getattr(dataset, "classes", None) if labels is None else labels
    steps = [str(label) for label in checkpoints or ()]
    record = {
        "model": describe_model(model),
        "dataset": describe_dataset(dataset),
        "layers": names,
        "methods": methods,
        "channels": channels,
        "k": k,
        "seed": seed,
        "batch_size": batch_size,
        "fast copy": fast,
        "labels": [*map(str, labels or ())],
        "checkpoints": steps,
        "title": title,
        "about": about,
        "versions": describe_versions(),
    }
    number, count = distributed.find_shard()
    if take_up(folder, record):
        return Atlas.open(folder)
    _tell_layers(chosen, layers, report)
    network = read_network(model, image, names)
    shown = {name: _count(network, name, channels) for name in names}
    tasks = {
        name: cost.plan_layer(
            network.fields.get(name), image, shown[name] * min(k, len(dataset)), 1 + len(methods)
        )
        for name in names
    }
    every = sum(network.outputs[name].shape[1] for name in names)
    report(cost.tell(model, image, len(dataset), list(tasks.values()), every))
    if count > 1:
        distributed.gather(number)
    make_folder(folder / KEPT)
    with replace_file(folder / KEPT / RECORD) as temporary:
        temporary.write_text(json.dumps(record), encoding="utf-8")

    how: dict[str, Any] = {
        "batch_size": batch_size,
        "num_workers": num_workers,
        "by_size": by_size,
        "checkpoint_seconds": checkpoint_seconds,
        "progress": progress and number == 0,
    }
    path = folder / KEPT / INDEX
    index = _scan(
        path, model, names, dataset, k=k, fast=fast, strict=strict, keep_maxima=True, **how
    )
    found = [
        _describe(choice, network, index, slug, shown[choice.name])
        for choice, slug in zip(chosen, _make_slugs(names), strict=True)
    ]
    parts = [part for layer in found for part in layer.split(folder)]
    common: dict[str, Any] = {
        "seed": seed,
        "restore": restore,
        "workers": num_workers,
        "check": False,
    }
    mine = [part for part in parts[number::count] if not part.path.exists()]
    pixels = {name: task.pixels // max(1, shown[name]) for name, task in tasks.items()}
    with _show_parts(parts, mine, pixels, count, progress and number == 0) as advance:
        for part in mine:
            size = _count_at_a_time(tasks[part.layer], shown[part.layer])
            given = {**common, "method": methods, "fast": fast}
            write_part(part, _project(index, model, dataset, part, size, given))
            advance(part)
    values = _follow_training(checkpoints or {}, parts, dataset, path, how, common)
    if count > 1:
        distributed.gather(number)
    if number == 0:
        finish(folder, network, found, index, record, values)
    if count > 1:
        distributed.gather(number)
    return Atlas.open(folder)


def _find_image(dataset: Any) -> Tensor:
    """Return the first image that can be read."""
    reason = "the data set is empty"
    for number in range(len(dataset)):
        try:
            return read_sample(dataset, number)
        except UnreadableSampleError as error:
            reason = str(error)
    raise UnreadableSampleError(f"none of the {len(dataset)} samples can be read: {reason}")


def _tell_layers(
    chosen: Sequence[Choice], layers: str | Sequence[str], report: cost.Report
) -> None:
    why = "chosen as the rectified outputs of the stages" if layers == AUTO else "as asked for"
    report(f"{len(chosen)} layers, {why}:")
    for choice in chosen:
        report(f"  {choice.name}: {choice.why}")


def _count(network: Network, name: str, channels: int | None) -> int:
    every = network.outputs[name].shape[1]
    return every if channels is None else min(every, channels)


def _scan(
    path: Path, model: nn.Module, layers: Sequence[str], dataset: Any, **how: Any
) -> ActivationIndex:
    """Scan, or take the index that is there; the first of several processes writes it."""
    number, count = distributed.find_shard()
    if count > 1 and path.exists():
        whole = ActivationIndex.load(path)
        if whole.complete:
            whole.check(model, dataset)
            return whole
    index = features.scan(model, layers, dataset, checkpoint=path, **how)
    if number == 0:
        index.save(path)
    if count > 1:
        distributed.gather(number)
        for part in path.parent.glob(f"{path.name}.*-of-{count}") if number == 0 else ():
            part.unlink(missing_ok=True)
    return index


def _describe(
    choice: Choice, network: Network, index: ActivationIndex, slug: str, shown: int
) -> Layer:
    field: ReceptiveField | None = network.fields.get(choice.name)
    seen = field is not None and not field.whole_image
    alive = (index.values[choice.name][:shown] > 0).any(dim=1)
    return Layer(
        name=choice.name,
        why=choice.why,
        slug=slug,
        shape=network.outputs[choice.name].shape[1:],
        channels=tuple(range(shown)),
        dead=int((~alive).sum()),
        size=field.size if field is not None and seen else None,
        stride=field.stride if field is not None and seen else None,
    )


def _make_slugs(names: Sequence[str]) -> list[str]:
    """Make names of files, different ones whatever the file system makes of capitals."""
    slugs: list[str] = []
    for name in names:
        slug = plain = re.sub(r"[^A-Za-z0-9._-]", "_", name)[:80]
        while slug.lower() in {each.lower() for each in slugs}:
            slug = f"{plain}-{len(slugs)}"
        slugs.append(slug)
    return slugs


def _count_at_a_time(task: cost.Task, channels: int) -> int:
    """Return how many channels may be in memory together."""
    return max(1, _MOST_BYTES // max(1, 12 * task.views * task.pixels // channels))


def _project(
    index: ActivationIndex,
    model: nn.Module,
    dataset: Any,
    part: Part,
    size: int,
    how: Mapping[str, Any],
) -> Iterator[Gallery]:
    for start in range(0, len(part.channels), size):
        some = part.channels[start : start + size]
        # What no rule reaches is the same in all of a layer: it is said once.
        said: Uncovered = "warn" if part.number == start == 0 else "ignore"
        yield project(
            *(index, model, dataset), layer=part.layer, channels=some, uncovered=said, **how
        )


@contextmanager
def _show_parts(
    parts: Sequence[Part], mine: Sequence[Part], pixels: Mapping[str, int], count: int, shown: bool
) -> Iterator[Callable[[Part], None]]:
    """Show a bar in megapixels of crops, as parts take unequally long."""

    def weigh(part: Part) -> float:
        return len(part.channels) * pixels[part.layer] / 1e6

    total, left = sum(map(weigh, parts)) / count, sum(map(weigh, mine))
    with show_progress(
        round(total), round(total - left), shown=shown, what="project", unit="megapixels"
    ) as advance:
        yield lambda part: advance(weigh(part))


def _follow_training(
    checkpoints: Mapping[Any, nn.Module],
    parts: Sequence[Part],
    dataset: Any,
    path: Path,
    how: Mapping[str, Any],
    common: Mapping[str, Any],
) -> list[dict[str, list[float]]]:
    """Draw each channel's strongest neuron at each checkpoint, and return how strong it is."""
    values: list[dict[str, list[float]]] = []
    rank, count = distributed.find_shard()
    for number, label in enumerate(checkpoints):
        model = checkpoints[label]
        known = dict(model.named_modules())
        names = [name for name in dict.fromkeys(part.layer for part in parts) if name in known]
        if not names:
            values.append({})
            continue
        kept = path.with_name(f"step-{number}.safetensors")
        index = _scan(kept, model, names, dataset, k=1, **how)
        for part in parts[rank::count]:
            if part.layer in names and not part.step_path(number).exists():
                asked: dict[str, Any] = {
                    "layer": part.layer,
                    "channels": part.channels,
                    "uncovered": "ignore",
                }
                write_step(part, number, project(index, model, dataset, **asked, **common))
        values.append({name: index.values[name][:, 0].tolist() for name in names})
    return values

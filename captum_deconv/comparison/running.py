"""Every image by every method by every metric."""

from __future__ import annotations

import hashlib
import importlib.util
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from captum_deconv.comparison.cases import Case, Where
from captum_deconv.comparison.cells import Cells, open_cells
from captum_deconv.comparison.methods import METHODS, CannotError, Method, find_last_map
from captum_deconv.comparison.metrics.registry import METRICS, Metric
from captum_deconv.comparison.randomising import Randomised
from captum_deconv.comparison.results import Comparison, Question
from captum_deconv.comparison.samples import name_all, read_first, read_images
from captum_deconv.comparison.seeds import seeded
from captum_deconv.drawing.files import make_folder
from captum_deconv.engine.coverage import RectifierCoverageWarning, coverage
from captum_deconv.features.progress import show_progress
from captum_deconv.features.records import (
    describe_dataset,
    describe_model,
    describe_versions,
)
from captum_deconv.sources.names import UnknownNameError, suggest


def run(
    model: nn.Module,
    data: Any,
    *,
    methods: Sequence[str] | None = None,
    metrics: Sequence[str] | None = None,
    out: str | Path,
    target: str | int = "predicted",
    boxes: Mapping[str, Where] | None = None,
    layer: str | None = None,
    stages: int = 5,
    seed: int = 0,
    at_most: Mapping[str, int] | None = None,
    strict: bool = False,
    progress: bool = False,
) -> Comparison:
    """Compare methods of attribution on a network and images.

    The same call, made again after it was killed, goes on from there; more methods, metrics or
    images of ``at_most`` may be asked for the second time. The model is left as it was.

    Args:
        model: A classifier in evaluation mode, from images ``(N, C, H, W)`` to scores
            ``(N, classes)``.
        data: A map-style data set of images ``(C, H, W)``, prepared as the model takes them, or of
            tuples of one and its class.
        methods: Names of :data:`captum_deconv.comparison.METHODS`; all where left out.
        metrics: Names of :data:`captum_deconv.comparison.METRICS`; all where left out, those of
            localisation only where there are boxes.
        out: A folder, made where it is missing: gets ``cells.jsonl``, where every cell is kept, and
            ``comparison.json``, the summary.
        target: The class to explain: ``"predicted"``, ``"label"`` (that of the data set) or one for
            all images.
        boxes: Of images by their names (their numbers, where the data set knows no files) the box
            of the object: left, top, right, bottom, in pixels of the model's input; or a mask of
            its pixels, ``(H, W)`` as the model's input.
        layer: Grad-CAM's, by its dotted name; the last convolution with a map where left out.
        stages: Into how many stages the sanity metrics divide the network.
        seed: What all randomness is drawn from.
        at_most: For a metric, how many images it is given: the first ones.
        strict: Whether an image that cannot be read ends it; else it is skipped, with a warning.
        progress: Whether to show a bar.

    Returns:
        What was measured, which is in the folder, too.

    Raises:
        ComparisonError: If the folder holds a comparison of something else.
        ImportError: If a metric needs a package that is not installed.
        UnknownNameError: If there is no method, metric, layer or named image like this.
        UnreadableSampleError: If ``strict`` and an image cannot be read, or if none can.
        ValueError: If the model is in training mode, its output is no ``(N, classes)``, there is no
            image, or a mask is not of its size.
    """
    if model.training:
        raise ValueError("the model is in training mode: call model.eval() first")
    if not len(data):
        raise ValueError("the data set is empty")
    chosen, asked = check_names(methods, metrics)
    if metrics is None and not boxes:
        asked = [metric for metric in asked if not metric.boxes]
    _check_packages(asked, chosen)
    _choose(METRICS, list(at_most or ()), "metric")
    names = name_all(data)
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    first = read_first(data).to(device)
    _check_output(model, first)
    _check_boxes(boxes or {}, names, first)
    layer = _find_layer(model, first, layer)
    _report_coverage(model, first, chosen)

    folder = Path(out)
    make_folder(folder)
    about = {
        "model": describe_model(model),
        "dataset": describe_dataset(data),
        "target": str(target),
        "layer": layer,
        "stages": stages,
        "seed": seed,
        "boxes": {name: _describe_box(box) for name, box in (boxes or {}).items()},
        "versions": describe_versions(),
    }
    cells = open_cells(folder, about)
    question = Question(
        methods=tuple(method.name for method in chosen),
        metrics=tuple(metric.name for metric in asked),
        at_most=dict(at_most or {}),
    )
    randomised = Randomised(model, stages, seed)
    furthest = max((question.limit(metric.name) for metric in asked), default=0)
    targets: dict[str, int] = {}
    try:
        with show_progress(
            int(min(furthest, len(names))), 0, shown=progress, what="compare"
        ) as advance:
            for number, name, image, label in read_images(data, names, strict):
                if number >= furthest:
                    break
                batch = image.to(device)[None]
                targets[name] = _find_target(model, batch, target, label, name)
                wanted = [
                    metric
                    for metric in asked
                    if number < question.limit(metric.name)
                    and (not metric.boxes or name in (boxes or {}))
                ]
                for method in chosen:
                    case = Case(
                        model=model,
                        randomised=randomised,
                        method=method,
                        image=batch,
                        target=targets[name],
                        layer=layer,
                        box=(boxes or {}).get(name),
                        key=(seed, name),
                    )
                    _measure(case, name, wanted, cells)
                advance(1)
    finally:
        cells.close()
    comparison = Comparison(question, cells, targets)
    comparison.write_json(folder / "comparison.json")
    return comparison


def _measure(case: Case, name: str, metrics: Sequence[Metric], cells: Cells) -> None:
    for metric in metrics:
        key = (name, case.method.name, metric.name)
        if key in cells:
            continue
        try:
            with seeded(*case.key, metric.name):
                found: dict[str, float] | str = metric.measure(case)
        except CannotError as error:
            found = str(error)
        cells.add(key, found)


def check_names(
    methods: Sequence[str] | None, metrics: Sequence[str] | None
) -> tuple[list[Method], list[Metric]]:
    """Find methods and metrics by their names.

    Args:
        methods: Names; all where left out.
        metrics: Names; all where left out.

    Returns:
        The methods and the metrics, each once.

    Raises:
        UnknownNameError: If there is none of a name; the nearest are offered.
    """
    return _choose(METHODS, methods, "method"), _choose(METRICS, metrics, "metric")


def _check_boxes(boxes: Mapping[str, Where], names: Sequence[str], image: Tensor) -> None:
    for name, box in boxes.items():
        if name not in names:
            raise UnknownNameError(f"a box of no image {name!r}{suggest(name, names)}")
        if isinstance(box, Tensor) and box.shape != image.shape[2:]:
            raise ValueError(
                f"the mask of {name} is {tuple(box.shape)}, and the model's input "
                f"{tuple(image.shape[2:])}"
            )


def _describe_box(box: Where) -> list[int] | str:
    if isinstance(box, Tensor):
        return hashlib.sha256(box.bool().cpu().numpy().tobytes()).hexdigest()
    return list(box)


def _choose(known: Mapping[str, Any], names: Sequence[str] | None, what: str) -> list[Any]:
    if names is None:
        return list(known.values())
    if isinstance(names, str):
        names = [names]
    for name in names:
        if name not in known:
            raise UnknownNameError(f"no {what} {name!r}{suggest(name, list(known))}")
    return [known[name] for name in dict.fromkeys(names)]


def _check_packages(metrics: Sequence[Metric], methods: Sequence[Method]) -> None:
    needs = {package for metric in metrics for package in metric.needs}
    needs |= {"skimage"} if any(method.name == "edges" for method in methods) else set()
    missing = sorted(package for package in needs if importlib.util.find_spec(package) is None)
    if missing:
        raise ImportError(
            f"these methods and metrics need {' and '.join(missing)}: pip install "
            "'captum-deconv[bench]', or ask for others"
        )


def _check_output(model: nn.Module, image: Tensor) -> None:
    if image.dim() != 4:
        raise ValueError(f"an image is (C, H, W), and the first is {tuple(image.shape[1:])}")
    with torch.no_grad():
        output = model(image)
    if not isinstance(output, Tensor) or output.dim() != 2:
        found = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise ValueError(
            f"the model must return scores (N, classes), and returns {found}: wrap it in one that "
            "does"
        )


def _find_layer(model: nn.Module, image: Tensor, layer: str | None) -> str | None:
    if layer is None:
        return find_last_map(model, image)
    known = [name for name, _ in model.named_modules() if name]
    if layer not in known:
        raise UnknownNameError(f"no layer {layer!r}{suggest(layer, known)}")
    return layer


def _report_coverage(model: nn.Module, image: Tensor, methods: Sequence[Method]) -> None:
    """Say once what no rule reaches; the methods themselves are then asked to be silent."""
    if not any(method.name.startswith(("guided", "deconv")) for method in methods):
        return
    report = coverage(model, image)
    if not report.complete:
        text = " ".join(str(report).split())
        warnings.warn(f"not all is covered: {text}", RectifierCoverageWarning, stacklevel=3)


def _find_target(model: nn.Module, image: Tensor, target: str | int, label: Any, name: str) -> int:
    if target == "predicted":
        with torch.no_grad():
            return int(model(image)[0].argmax())
    if target == "label":
        if label is None:
            raise ValueError(f"{name} has no label: give the data set labels, or another target")
        return int(label)
    return int(target)

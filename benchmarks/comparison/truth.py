"""Does a method tell the truth where it is known? Two networks, one set of images."""

from pathlib import Path
from typing import Any

import torch
from comparison.pasted import ASKED, Pasted, draw, learn, name_all

import captum_deconv.comparison
from captum_deconv.comparison import METHODS
from captum_deconv.comparison.statistics import compare_pairs, summarise

METRICS = ["inside", "pointing"]
STEPS, DRAWN, TESTED, SHOWN = 900, 6000, 600, 40
"""Batches to train on, images to train on and to test on, and images that are explained."""
_SEED = 0


def measure(work: Path, *, steps: int = STEPS, drawn: int = DRAWN, shown: int = SHOWN) -> Any:
    """Train both networks, explain the images that both name rightly, and compare the maps.

    Args:
        work: A folder, where everything is kept and resumed from.
        steps: How long each is trained.
        drawn: On how many images.
        shown: How many images are explained.

    Returns:
        The record, as the JSON file has it.
    """
    training = draw(drawn, _SEED, learned=True)
    tested = draw(TESTED, _SEED + 1, learned=False)
    models, about, right = {}, {}, torch.ones(TESTED, dtype=torch.bool)
    for what, kinds in ASKED.items():
        models[what] = learn(what, training, steps, _SEED, work / f"{what}.safetensors")
        named, label = name_all(models[what], tested.images), tested.labels[what]
        right &= named == label
        bare = name_all(models[what], tested.without)
        about[what] = {
            "accuracy": float((named == label).float().mean()),
            # What each goes by: without the shape only one of them can still be right.
            "without the shape": float((bare == label).float().mean()),
            "chance": 1 / kinds,
        }
    chosen = tested.select(right.nonzero()[:shown, 0])
    found = {what: _explain(models[what], chosen, work / what) for what in ASKED}
    return {
        "settings": {"steps": steps, "drawn": drawn, "tested": TESTED, "seed": _SEED},
        "networks": {
            what: about[what] | {"weights": each.cells.about["model"]["weights"]}
            for what, each in found.items()
        },
        "images": len(chosen),
        "area": float(chosen.masks.float().mean()),
        **_contrast(found),
        "cannot": {what: each.cannot for what, each in found.items() if each.cannot},
    }


def _explain(model: Any, data: Pasted, out: Path) -> Any:
    masks = dict(zip(data.samples, data.masks, strict=True))
    return captum_deconv.comparison.run(model, data, metrics=METRICS, out=out, boxes=masks)


def _contrast(found: dict[str, Any]) -> dict[str, Any]:
    """Hold each method's share on the shape for one network against that for the other."""
    shares = {what: each.cells.select("inside", "share") for what, each in found.items()}
    hits = {what: each.cells.select("pointing", "hit") for what, each in found.items()}
    differences = {
        method: {
            image: share - shares["background"][method][image]
            for image, share in shares["shape"][method].items()
            if image in shares["background"].get(method, {})
        }
        for method in METHODS
        if method in shares["shape"]
    }
    methods = {}
    for method, by_image in differences.items():
        values = list(by_image.values())
        methods[method] = {
            "title": METHODS[method].title,
            **{what: summarise(list(shares[what][method].values())) for what in shares},
            **{f"{what} hit": summarise(list(hits[what][method].values())) for what in hits},
            "contrast": summarise(values),
            # Of how many images the map alone says which network it was.
            "told apart": summarise([float(value > 0) + 0.5 * (value == 0) for value in values]),
        }
    return {"methods": methods, "tests": compare_pairs(differences)}

"""``demo``: what there is to see, on networks and photographs that come along."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from captum_deconv.cli.attribute import explain, load, print_results, write
from captum_deconv.cli.options import DeviceName


def demo(
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="FOLDER", help="Made where it is missing.")
    ] = Path("demo"),
    device: DeviceName = "auto",
    only_cat: Annotated[
        bool, typer.Option("--only-cat", help="The photograph alone: seconds, not minutes.")
    ] = False,
) -> None:
    """Show all there is to see: a photograph, feature maps, and how they were learned.

    A photograph of a cat by all methods, with a trained EfficientNet-Lite0; what excites a layer
    of the network that comes along, and a layer of EfficientNet-Lite0; the first of these at six
    moments of its training; an atlas of all its layers; what it makes of a photograph with a part
    covered, of photographs that are moved, and of the parts of faces; and what is wrong with it. It
    takes about a minute.

    Nothing is downloaded: networks and photographs come with this package and with those of the
    extra "demo".

    [bold]Example[/bold]

      captum-deconv demo --out demo
    """
    from captum_deconv.drawing.files import make_folder
    from captum_deconv.sources.models import choose_device

    begun = time.perf_counter()
    chosen = choose_device(device)
    make_folder(out)
    _show_cat(out, device)
    if only_cat:
        return
    from captum_deconv.cli import demo_experiments, demo_galleries

    made = []
    for name, what, show in (
        ("embedded", "the embedded network", demo_galleries.show_embedded),
        ("efficientnet-lite0", "EfficientNet-Lite0, without max-pooling", demo_galleries.show_lite),
    ):
        exhibit = show(out / name, chosen)
        typer.echo(f"{what}: {exhibit.channels} channels")
        made += [(f"{name}: sheet", exhibit.sheets[0]), (f"{name}: page", exhibit.page)]
    made.append(("the training of embedded", demo_galleries.show_evolution(out, chosen)[0]))
    made.append(("all of embedded: atlas", demo_galleries.show_atlas(out / "atlas", chosen).page))
    for what, show_it in (
        ("a photograph, occluded", demo_experiments.show_occlusion),
        ("photographs, moved", demo_experiments.show_invariance),
        ("parts of faces, masked", demo_experiments.show_correspondence),
        ("embedded: diagnosis", demo_experiments.show_diagnosis),
    ):
        made.append((what, show_it(out, chosen)))
    made.insert(0, ("the cat, a class", out / "cat.png"))
    made.insert(1, ("the cat, a neuron", out / "cat_neuron.png"))
    typer.echo(f"\nAll of it, in {time.perf_counter() - begun:.0f} s (sheets also as PDF):")
    for what, path in made:
        typer.echo(f"  {what:26} {path}")


def _show_cat(out: Path, device: str) -> None:
    from captum_deconv.explain.question import Question
    from captum_deconv.sources.images import read_demo_image
    from captum_deconv.sources.names import LITE

    photograph = read_demo_image()
    loaded = load(LITE, "DEFAULT", device)
    for name, question in (
        ("cat", Question()),
        ("cat_neuron", Question(layer="_blocks.10", neuron="strongest")),
    ):
        results = explain(loaded, [photograph], question)
        print_results(results)
        write(loaded, results, question, out / f"{name}.png", out / f"{name}.safetensors")

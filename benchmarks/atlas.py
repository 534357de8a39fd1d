"""What an atlas takes: minutes, megabytes, the share of a bare forward pass; its pages' pace.

* `networks`: EfficientNet-Lite0 (the trained weights of its package) and VGG-16 (random weights,
  seed 0: no trained ones come as a package) over 500 tiles of photographs at 224 x 224, the first
  32 channels of each layer that `auto` chooses (`--channels 0`: all of them, which takes hours), by
  deconvnet and guided backprop. Seconds by the clock and of the processor; `share` is the processor
  seconds of a bare forward pass over the images, of all.
* `page`: a layer of 20,000 channels, whose pictures are all of one kind, in headless Chromium: when
  the first picture is decoded and drawn, two frames later, after navigation began, and the heap of
  its script once the page is complete; so for the front page.
* `kills`: the command line on the embedded network, killed by SIGKILL ten times at random moments,
  against one that nothing disturbed: which files differ.

    python benchmarks/atlas.py                     # all, and results/atlas-cpu.json
    python benchmarks/atlas.py --parts page kills
    python benchmarks/atlas.py --quick             # seconds, for a test
"""

import argparse
import itertools
import json
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from parts.machine import describe_machine
from torch.utils.data import Subset

from captum_deconv import gallery
from captum_deconv.features import ActivationIndex
from captum_deconv.gallery.atlas.network import read_network
from captum_deconv.gallery.atlas.pages import write_pages
from captum_deconv.gallery.atlas.parts import PART
from captum_deconv.gallery.atlas.reading import KEPT, PICTURES, Layer
from captum_deconv.sources import embedded
from captum_deconv.sources.datasets import PhotographTiles
from captum_deconv.sources.models import load_model

RESULTS = Path(__file__).parent / "results"
NETWORKS = {"efficientnet-lite0": "DEFAULT", "vgg16": "none"}
METHODS = ("deconvnet", "guided_backprop")
TILE = 80
CHROMIUM = shutil.which("chromium") or "/usr/bin/chromium"
GOAL_SECONDS, GOAL_MEGABYTES = 1.0, 150


def choose_tiles(transform: Any, count: int) -> Subset[Any]:
    """Choose tiles spread over the photographs."""
    tiles = PhotographTiles(TILE, transform)
    return Subset(tiles, [number * len(tiles) // count for number in range(count)])


def measure_folder(folder: Path) -> float:
    """Return the megabytes of all files."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6


def time_network(name: str, count: int, channels: int | None) -> dict[str, Any]:
    """Make an atlas of a network, and run its bare forward pass over the same images."""
    loaded = load_model(name, NETWORKS.get(name, "DEFAULT"))
    images = choose_tiles(loaded.preprocess, count)
    told: list[str] = []
    with tempfile.TemporaryDirectory() as place:
        clock, processor = time.perf_counter(), time.process_time()
        atlas = gallery.atlas(
            loaded.model,
            images,
            Path(place) / "site",
            methods=METHODS,
            channels=channels,
            restore=loaded.restore,
            report=told.append,
            progress=False,
        )
        clock, processor = time.perf_counter() - clock, time.process_time() - processor
        megabytes = measure_folder(atlas.folder)
        kept = measure_folder(atlas.folder / KEPT)
    bare = time.process_time()
    with torch.no_grad():
        for start in range(0, count, 32):
            stop = min(start + 32, count)
            loaded.model(torch.stack([images[number] for number in range(start, stop)]))
    bare = time.process_time() - bare
    return {
        "weights": loaded.weights,
        "images": count,
        "layers": [layer.name for layer in atlas.layers],
        "channels": sum(len(layer.channels) for layer in atlas.layers),
        "channels_a_layer": channels or "all",
        "minutes": round(clock / 60, 2),
        "processor_minutes": round(processor / 60, 2),
        "megabytes": round(megabytes, 1),
        "megabytes_of_index": round(kept, 1),
        "share": round(bare / processor, 3),
        "told": told[-1],
    }


def build_site(folder: Path, channels: int) -> gallery.Atlas:
    """Build the site of a layer with many channels: the pictures of a real one, again and again."""
    loaded = load_model("embedded")
    tiles = choose_tiles(embedded.EmbeddedNetwork.preprocess, 60)
    real = gallery.atlas(
        *(loaded.model, tiles, folder / "real", ["relu4"]),
        methods=METHODS,
        channels=PART,
        restore=loaded.restore,
        progress=False,
    )
    index, site = real.index, folder / "site"
    times = -(-channels // index.values["relu4"].shape[0])

    def repeat(tensor: torch.Tensor, axis: int) -> torch.Tensor:
        return torch.cat([tensor] * times, axis).narrow(axis, 0, channels).clone()

    generator = torch.Generator().manual_seed(0)
    maxima = repeat(index.maxima["relu4"], 1)
    maxima *= torch.rand(maxima.shape, generator=generator) + 0.5
    large = ActivationIndex(
        values={"relu4": repeat(index.values["relu4"], 0)},
        samples={"relu4": repeat(index.samples["relu4"], 0)},
        positions={"relu4": repeat(index.positions["relu4"], 0)},
        metadata=index.metadata,
        maxima={"relu4": maxima},
    )
    layer = Layer(
        **{**vars(real.layers[0]), "channels": tuple(range(channels)), "shape": (channels, 28, 28)}
    )
    source = real.layers[0].split(real.folder)[0]
    neurons = [source.read()["channels"][str(channel)] for channel in range(PART)]
    for part in layer.split(site):
        part.path.mkdir(parents=True)
        (part.path / "sheet.webp").write_bytes((source.path / "sheet.webp").read_bytes())
        record = source.read()
        record["channels"] = {str(c): neurons[c % PART] for c in part.channels}
        (part.path / "part.json").write_text(json.dumps(record))
        for channel in part.channels[:1]:
            strip = (source.path / "strip-0.webp").read_bytes()
            (part.path / f"strip-{channel}.webp").write_bytes(strip)
    shutil.copytree(real.folder / PICTURES / "images", site / PICTURES / "images")
    atlas = gallery.Atlas(site, "Many", "", (layer,), METHODS, real.record)
    network = read_network(loaded.model, tiles[0], ["relu4"])
    write_pages(atlas, network, large, [])
    return atlas


def time_pages(channels: int, repeats: int) -> dict[str, Any]:
    """Open the pages in Chromium, each several times."""
    from playwright.sync_api import sync_playwright

    watch = (
        "window.first = null; const look = () => {"
        " const shown = document.querySelector('.sheet[style*=url], .film img');"
        " if (!shown) return requestAnimationFrame(look);"
        " const image = shown.src ? shown : Object.assign(new Image(), {"
        " src: shown.style.backgroundImage.slice(5, -2) });"
        " image.decode().then(() => requestAnimationFrame(() => requestAnimationFrame(() => {"
        " window.first = performance.now(); }))); };"
        "requestAnimationFrame(look);"
    )
    found: dict[str, Any] = {"channels": channels}
    arguments = ["--headless", "--no-sandbox", "--disable-gpu", "--enable-precise-memory-info"]
    with tempfile.TemporaryDirectory() as place, sync_playwright() as running:
        atlas = build_site(Path(place), channels)
        browser = running.chromium.launch(executable_path=CHROMIUM, args=arguments)
        for kind, name in (("layer", atlas.layers[0].page), ("front", "index.html")):
            seconds, heaps = [], []
            for _ in range(repeats):
                context = browser.new_context(viewport={"width": 1200, "height": 800})
                page = context.new_page()
                page.add_init_script(watch)
                page.goto((atlas.folder / name).as_uri())
                page.wait_for_function("window.first !== null")
                seconds.append(page.evaluate("window.first") / 1000)
                page.wait_for_load_state("load")
                session = context.new_cdp_session(page)
                heaps.append(session.send("Runtime.getHeapUsage")["usedSize"] / 1e6)
                context.close()
            found[kind] = {
                "seconds": round(statistics.median(seconds), 3),
                "slowest": round(max(seconds), 3),
                "megabytes": round((atlas.folder / name).stat().st_size / 1e6, 1),
                "heap_megabytes": round(max(heaps), 1),
            }
        browser.close()
    return found


def kill(times: int, count: int) -> dict[str, Any]:
    """Make an atlas by the command line, killed at random moments, and one in peace."""
    chance = random.Random(0)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        (folder / "photographs").mkdir()
        tiles = PhotographTiles(TILE)
        for number in range(count):
            tile = tiles[number * len(tiles) // count]
            tile.save(folder / "photographs" / f"{number}.png")

        def start(out: str) -> subprocess.Popen[bytes]:
            command = [sys.executable, "-m", "captum_deconv", "atlas", "--channels", "16"]
            command += ["--data", str(folder / "photographs"), "--out", str(folder / out)]
            return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)

        def read(out: str) -> dict[str, bytes]:
            files = (path for path in (folder / out).rglob("*") if path.is_file())
            return {str(path.relative_to(folder / out)): path.read_bytes() for path in files}

        killed = 0
        while killed < times:
            process = start("killed")
            before = len(read("killed"))
            while process.poll() is None and len(read("killed")) <= before + 1:
                time.sleep(0.01)
            time.sleep(chance.uniform(0, 0.1))
            if process.poll() is not None:
                break
            process.send_signal(signal.SIGKILL)
            process.wait()
            killed += 1
        for out in ("killed", "peaceful"):
            if start(out).wait():
                raise RuntimeError(f"the run in {out} failed")
        one, other = read("killed"), read("peaceful")
    different = sorted(name for name in {*one, *other} if one.get(name) != other.get(name))
    return {"kills": killed, "files": len(other), "different": different}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the parts that were asked for; 1 if a page falls short or a file differs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parts", nargs="*", default=["networks", "page", "kills"])
    parser.add_argument("--networks", nargs="*", default=list(NETWORKS))
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument(
        "--channels", type=int, nargs="*", default=[32], help="of each layer; 0 for all"
    )
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--out", type=Path, default=RESULTS / "atlas-cpu.json")
    options = parser.parse_args(arguments)
    quick = options.quick
    if quick:
        options.networks, options.images, options.channels = ["embedded"], 20, [2]
    record = json.loads(options.out.read_text()) if options.out.exists() else {}
    record["machine"] = describe_machine(torch.device("cpu"))
    rows = itertools.product(options.channels, options.networks)
    for channels, name in rows if "networks" in options.parts else ():
        load = os.getloadavg()[0]
        row = time_network(name, options.images, channels or None)
        key = f"{name}, {row['channels_a_layer']} channels a layer"
        record.setdefault("networks", {})[key] = {**row, "load_before": round(load, 1)}
        print(key, row)
        _write(options.out, record)
    if "page" in options.parts:
        record["page"] = time_pages(300 if quick else 20_000, 1 if quick else 5)
        print(record["page"])
    if "kills" in options.parts:
        record["kills"] = kill(1 if quick else 10, 8 if quick else 60)
        print(record["kills"])
    _write(options.out, record)
    page = record.get("page", {}).get("layer", {"seconds": 0, "heap_megabytes": 0})
    short = page["seconds"] > GOAL_SECONDS or page["heap_megabytes"] > GOAL_MEGABYTES
    return int(short and not quick) or int(bool(record.get("kills", {}).get("different")))


def _write(out: Path, record: dict[str, Any]) -> None:
    out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())

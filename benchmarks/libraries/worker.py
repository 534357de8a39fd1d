"""One library's part of the benchmark, in the library's own process.

    python -m libraries.worker LIBRARY PART RESULTS [--quick] [NAME ...]

Each result is a line of JSON at the end of RESULTS, so that what a process that died had done is
known. Run by ``benchmarks/libraries``, in an environment that has the library.
"""

import argparse
import json
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from libraries import checks, exactness, speed, state, threads
from libraries.peers import LIBRARIES, Bare, Peer

PARTS: dict[str, Callable[..., Iterator[tuple[str, Any]]]] = {
    "exactness": exactness.run,
    "state": state.run,
    "threads": threads.run,
}


def describe(library: Peer, name: str) -> dict[str, Any]:
    """Return a library's version, what it offers, and what explains its numbers."""
    try:
        release = version(name)
    except PackageNotFoundError:
        release = "unknown"
    return {
        "version": release,
        "offers": list(library.methods),
        "note": library.note,
        "checks": checks.check(name),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", choices=[*LIBRARIES, "torch"])
    parser.add_argument("part", choices=[*PARTS, "speed", "describe"])
    parser.add_argument("results", type=Path)
    parser.add_argument("networks", nargs="*", metavar="NAME")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    library = Bare() if options.name == "torch" else LIBRARIES[options.name]()
    if options.part == "speed":
        speed.main(library)
        return
    if options.part == "describe":
        results = iter([("description", describe(library, options.name))])
    elif options.part == "threads":
        results = threads.run(library, [], options.quick)
    else:
        results = PARTS[options.part](library, options.networks)
    with options.results.open("a", encoding="utf-8") as file:
        for name, result in results:
            print(json.dumps([name, result]), file=file, flush=True)


if __name__ == "__main__":
    main()

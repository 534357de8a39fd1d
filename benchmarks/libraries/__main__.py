"""The libraries that offer these methods, side by side: exactness, state, threads, speed.

Each library runs in a process of its own, and where it is not one of this package's dependencies in
an environment of its own; the weights, inputs and targets are the same for all.

    python benchmarks/libraries                     # all of it; resumes where it stopped
    python benchmarks/libraries --only exactness state threads
    python benchmarks/libraries --only speed        # wants a machine with nothing else to do
    python benchmarks/libraries --only              # the page again, of what is recorded
    python benchmarks/libraries --libraries zennit --again
    python benchmarks/libraries --quick --out result.json --page page.md   # small, for a test

The result goes to ``benchmarks/results/libraries-cpu.json`` and, as tables, to
``docs/libraries.md``, with one in the README.
"""

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
PATHS = [str(ROOT / "benchmarks"), str(ROOT / "tests" / "helpers")]
sys.path[:1] = PATHS  # in place of this folder, whose modules are the package `libraries`

import torch  # noqa: E402
from libraries import exactness, speed  # noqa: E402
from libraries.environments import ENVIRONMENTS, find_python  # noqa: E402
from libraries.page import write_page  # noqa: E402
from libraries.peers import LIBRARIES  # noqa: E402
from libraries.summary import summarise  # noqa: E402
from libraries.traps import TRAPS  # noqa: E402
from parts.machine import describe_machine  # noqa: E402
from parts.readme import write_table  # noqa: E402

PARTS = ("exactness", "state", "threads", "speed")
OUT = ROOT / "benchmarks" / "results" / "libraries-cpu.json"
MISSING = "not installed"
SECONDS = 1800
"""A process that says nothing for so long is ended."""


class Record:
    """The JSON file, written after every result.

    Args:
        path: Of the file; what it holds is gone on with.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lock = threading.Lock()
        self.content: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}

    def put(self, value: object, *keys: str) -> None:
        """Put a value at a place, and write the file."""
        with self.lock:
            place = self.content
            for key in keys[:-1]:
                place = place.setdefault(key, {})
            place[keys[-1]] = value
            partial = self.path.with_suffix(".partial")
            partial.write_text(json.dumps(self.content, indent=1) + "\n", encoding="utf-8")
            os.replace(partial, self.path)

    def at(self, *keys: str) -> dict[str, Any]:
        """Return what there is at a place."""
        place = self.content
        for key in keys:
            place = place.get(key, {})
        return place


class Runner:
    """What runs libraries in processes, and records what they say."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.record = Record(options.out)
        self.pythons = {
            name: find_python(name, options.environments, install=not options.quick)
            for name in options.libraries
        }

    def command(self, name: str, part: str, results: str, *more: str) -> list[str]:
        """Return the command of a library's process."""
        python = self.pythons.get(name, sys.executable)
        words = [str(python), "-m", "libraries.worker", name, part, results, *more]
        return [*words, "--threads", str(self.options.threads)]

    def environment(self) -> dict[str, str]:
        """Return what the process finds in its environment."""
        return os.environ | {"PYTHONPATH": os.pathsep.join(PATHS), "MPLBACKEND": "Agg"}

    def describe(self) -> None:
        """Record each library's version and what it offers."""
        for name, python in self.pythons.items():
            found: Any = {"missing": MISSING}
            if python:
                results, said = self.run_once(name, "describe", [])
                found = results.get("description", {"missing": said})
            self.record.put(found, "libraries", name)
            print(f"{name:16} {found.get('version', found.get('missing'))}", flush=True)

    def usable(self) -> list[str]:
        """Return the libraries that are there and offer any of the methods."""
        described = self.record.at("libraries")
        return [name for name in self.pythons if described[name].get("offers")]

    def run_once(self, name: str, part: str, wanted: list[str]) -> tuple[dict[str, Any], str]:
        """Run one process; return its results and, if it failed, how it ended."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "results"
            path.touch()
            quick = ["--quick"] if self.options.quick else []
            command = self.command(name, part, str(path), *wanted, *quick)
            try:
                done = subprocess.run(
                    command,
                    env=self.environment(),
                    capture_output=True,
                    text=True,
                    timeout=SECONDS,
                )
                code, said = done.returncode, (done.stderr.strip().splitlines() or [""])[-1]
            except subprocess.TimeoutExpired:
                code, said = 1, f"still running after {SECONDS} seconds"
            return dict(map(json.loads, path.read_text().splitlines())), tell_end(code, said)

    def run_part(self, part: str, name: str, wanted: list[str]) -> None:
        """Run a part for a library; where the process dies of a network, go on after it."""
        known = {} if self.options.again else self.record.at(part, name)
        waiting = [one for one in wanted if one not in known]
        while waiting:
            block, waiting = waiting[: self.options.block], waiting[self.options.block :]
            results, ended = self.run_once(name, part, block)
            for one, result in results.items():
                self.record.put(result, part, name, one)
            missed = [one for one in block if one not in results]
            if missed and not ended:
                ended = "the process said nothing"
            if missed:
                self.record.put({"died": ended}, part, name, missed[0])
                waiting = missed[1:] + waiting
            print(f"{part:10} {name:16} {len(results):3} done, {len(waiting)} to go", flush=True)


def tell_end(code: int, said: str) -> str:
    """Return how a process ended, nothing where it ended well."""
    if code < 0:
        return f"the process died of {signal.Signals(-code).name}"
    return f"the process failed: {exactness.shorten(said)}" if code else ""


def run_part(runner: Runner, part: str) -> None:
    """Run a part for every library."""
    wanted = {
        "exactness": [n for n in exactness.list_networks() if runner.options.networks(n)],
        "state": ["after a call", "after an exception"],
        "threads": ["calls"],
    }[part]
    with ThreadPoolExecutor(runner.options.jobs) as pool:
        for done in [pool.submit(runner.run_part, part, name, wanted) for name in runner.usable()]:
            done.result()


class Turns:
    """A process for each library, of which one works at a time."""

    def __init__(self, runner: Runner, names: Iterable[str], stack: ExitStack) -> None:
        self.processes = {}
        for name in names:
            command = runner.command(name, "speed", os.devnull)
            process = subprocess.Popen(
                command,
                env=runner.environment(),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            )
            stack.enter_context(process)
            stack.callback(process.kill)
            self.processes[name] = process

    def ask(self, name: str, question: dict[str, Any], go_on: bool = False) -> dict[str, Any]:
        """Return a library's reply."""
        process = self.processes[name]
        if process.poll() is not None:
            return {"raised": f"the process ended with {process.returncode}"}
        assert process.stdin
        assert process.stdout
        process.stdin.write(json.dumps({**question, "go on": go_on}) + "\n")
        process.stdin.flush()
        line = process.stdout.readline()
        return json.loads(line) if line else {"raised": "the process ended"}

    def compare(self, question: dict[str, Any], rounds: int) -> dict[str, Any]:
        """Return each library's time and memory over torch's own gradient, or why there is none."""
        taken: dict[str, list[dict[str, float]]] = {name: [] for name in self.processes}
        refusals: dict[str, dict[str, Any]] = {}
        for _ in range(rounds):
            for name, found in self.take_turns(question, refusals).items():
                taken[name].append(found)
        result: dict[str, Any] = dict(refusals)
        own = taken["torch"]
        result["torch"] = {k: statistics.median(one[k] for one in own) for k in ("seconds", "MiB")}
        for name, rows in taken.items():
            if name == "torch" or name in refusals:
                continue
            pairs = list(zip(rows, own, strict=True))
            result[name] = {
                what: round(statistics.median(a[key] / max(b[key], 1e-3) for a, b in pairs), 3)
                for what, key in (("time", "seconds"), ("memory", "MiB"))
            }
        return result

    def take_turns(
        self, question: dict[str, Any], refusals: dict[str, dict[str, Any]]
    ) -> dict[str, dict[str, float]]:
        """Have every library answer a question, a block of answers at a time."""
        totals: dict[str, dict[str, float]] = {}
        waiting = [name for name in self.processes if name not in refusals]
        first = True
        while waiting:
            for name in list(waiting):
                reply = self.ask(name, question, go_on=not first)
                if "came" not in reply:
                    refusals[name] = reply
                    totals.pop(name, None)
                    waiting.remove(name)
                    continue
                total = totals.setdefault(name, {"seconds": 0.0, "MiB": 0.0})
                total["seconds"] += reply["seconds"]
                total["MiB"] = max(total["MiB"], reply["MiB"])
                if reply["came"] < speed.BLOCK:
                    waiting.remove(name)
            first = False
        return totals


def run_speed(runner: Runner) -> None:
    """Measure time and memory, network by network."""
    options = runner.options
    networks = speed.QUICK if options.quick else speed.NETWORKS
    counts = dict.fromkeys(speed.COUNTS, 2) if options.quick else speed.COUNTS
    counts = counts | ({speed.TARGETS: options.targets} if options.targets else {})
    on = "" if options.device == "cpu" else f", {options.device}"
    for network, layer in networks.items():
        for batch in speed.BATCHES[: 1 if options.quick else None]:
            with ExitStack() as stack:
                turns = Turns(runner, ["torch", *runner.usable()], stack)
                for task in speed.TASKS:
                    case = f"{network}, batch {batch}{on}"
                    if task in speed.ALONE and batch > 1:
                        continue
                    if task in runner.record.at("speed", case) and not options.again:
                        continue
                    question = {
                        "network": network,
                        "layer": layer,
                        "batch": batch,
                        "size": 64 if options.quick else 224,
                        "device": options.device,
                        "task": task,
                        "count": counts.get(task, 1),
                    }
                    rounds = 1 if options.quick else min(options.rounds, speed.ROUNDS.get(task, 99))
                    if task not in speed.ROUNDS:
                        turns.compare(question, 1)  # to warm up
                    found = turns.compare(question, rounds)
                    runner.record.put({"asked": counts.get(task, 1), **found}, "speed", case, task)
                    print(f"speed      {case}, {task}: {found}", flush=True)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="*", choices=PARTS, default=list(PARTS))
    parser.add_argument("--libraries", nargs="*", choices=LIBRARIES, default=list(LIBRARIES))
    parser.add_argument("--again", action="store_true", help="measure what is recorded, too")
    parser.add_argument("--quick", action="store_true", help="nothing installed, few networks")
    parser.add_argument("--device", default="cpu", help="of the speed's part")
    parser.add_argument("--rounds", type=int, default=7, help="of the speed's pairs")
    parser.add_argument("--targets", type=int, help="in place of 1,000, where time is short")
    parser.add_argument("--threads", type=int, default=1, help="of torch, in every process")
    parser.add_argument("--jobs", type=int, default=1, help="libraries at once, except for speed")
    parser.add_argument("--block", type=int, default=20, help="networks that a process does")
    parser.add_argument("--environments", type=Path, default=ENVIRONMENTS)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--page", type=Path)
    options = parser.parse_args()
    if options.quick and not (options.out and options.page):
        parser.error("--quick wants --out and --page, so that no real result is lost")
    options.out = options.out or OUT
    options.page = options.page or ROOT / "docs" / "libraries.md"
    quick = {*TRAPS} - {"compiled"} | {"squeezenet1_1"}
    options.networks = lambda name: name in quick or not options.quick
    return options


def main() -> None:
    options = parse()
    torch.set_num_threads(options.threads)
    runner = Runner(options)
    runner.describe()
    for part in (part for part in PARTS if part in options.only):
        device = torch.device(options.device if part == "speed" else "cpu")
        where = part if device.type == "cpu" else f"{part}, {device}"
        runner.record.put(describe_machine(device), "machine", where)
        if part == "speed":
            run_speed(runner)
        else:
            run_part(runner, part)
    write_page(options.page, runner.record.content)
    whole = {"exactness", "state", "threads"} <= set(runner.record.content)
    if whole and options.out == OUT:
        write_table("libraries", summarise(runner.record.content))
    print(f"written to {options.out} and {options.page}")


if __name__ == "__main__":
    main()

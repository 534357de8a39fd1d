"""Random networks and random questions by the thousand, each answer held against the reference.

What is drawn, and what is held to be right, is the tests' (``tests/helpers/fuzzing``); here it is
only more of it, with new seeds each time. It goes on where it was killed.

    python benchmarks/fuzz.py                       # 50,000 examples, and results/fuzz-cpu.json
    python benchmarks/fuzz.py --examples 500        # fewer
    python benchmarks/fuzz.py --seed 7              # those of another time
"""

import argparse
import json
import multiprocessing
import random
import sys
import time
from pathlib import Path
from typing import Any

import torch
from parts.machine import describe_machine

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "tests" / "helpers"))

from fuzzing.counting import CHUNK, Counts, run_chunk  # noqa: E402  # the tests', found above

Record = dict[str, Any]


def run_lot(number: int) -> Record:
    """Run one lot of examples; one that fails ends it, and is told."""
    counts, failure, start = Counts(), None, time.process_time()
    try:
        run_chunk(number, counts)
    except Exception as error:  # whatever is found, the other lots are run as well
        notes = getattr(error, "__notes__", [])
        failure = "\n".join([f"{type(error).__name__}: {error}", *notes])
    spent = time.process_time() - start
    return {"lot": number, "seconds": spent, "failure": failure, **counts.to_record()}


def _prepare_process() -> None:
    torch.set_num_threads(1)
    torch.backends.mha.set_fastpath_enabled(False)  # whose values differ in the last bit


def read_kept(path: Path, seed: int | None) -> tuple[int, list[Record]]:
    """Return the seed and the lots of a run that was killed, or a new seed and none.

    Those in which something was wrong are run again.
    """
    if path.exists():
        # Not the last line, where the kill came in the middle of it.
        whole = path.read_text(encoding="utf-8").rpartition("\n")[0]
        first, *rest = map(json.loads, whole.splitlines())
        if seed in (None, first["seed"]):
            right = [lot for lot in rest if not lot["failure"]]
            lines = [json.dumps(each) for each in (first, *right)]
            path.write_text("\n".join(lines) + "\n", encoding="utf-8")
            return first["seed"], right
    seed = random.SystemRandom().randrange(2**31) if seed is None else seed
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"seed": seed}) + "\n", encoding="utf-8")
    return seed, []


def summarise(seed: int, lots: list[Record]) -> Record:
    """Return the counts of all lots together."""
    counts = Counts()
    for lot in lots:
        counts.merge(lot)
    return {
        "machine": describe_machine(torch.device("cpu")),
        "seed": seed,
        "lots": len(lots),
        "seconds of the processor": round(sum(lot["seconds"] for lot in lots)),
        "failures": [lot["failure"] for lot in lots if lot["failure"]],
        **counts.to_record(),
    }


def main() -> int:
    """Run what is left, write the counts, and tell whether anything was found."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--examples", type=int, default=50_000)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--seed", type=int, help="of the first lot; at random if left out")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "fuzz-cpu.json")
    options = parser.parse_args()
    path = HERE.parent / "build" / f"{options.out.stem}-lots.jsonl"
    seed, lots = read_kept(path, options.seed)
    done = {lot["lot"] for lot in lots}
    wanted = [seed + index for index in range(-(-options.examples // CHUNK))]
    left = [number for number in wanted if number not in done]
    if done:
        print(f"{len(done)} lots of {CHUNK} examples were run before")
    context = multiprocessing.get_context("spawn")
    with (
        path.open("a", encoding="utf-8") as kept,
        context.Pool(options.processes, _prepare_process) as pool,
    ):
        for lot in pool.imap_unordered(run_lot, left):
            lots.append(lot)
            kept.write(json.dumps(lot) + "\n")
            kept.flush()
            if lot["failure"]:
                print(f"\nlot {lot['lot']}: {lot['failure']}\n")
            if len(lots) % 50 == 0:
                print(f"{sum(each['examples'] for each in lots):,} examples", flush=True)
    record = summarise(seed, lots)
    options.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    if not record["failures"]:
        path.unlink()
    print(f"{record['examples']:,} examples of seed {seed}, {len(record['failures'])} failures")
    for answer, count in record["counts"]["answers"].items():
        print(f"{count:8,}  {answer}")
    for kind, error in record["largest relative error"].items():
        print(f"{error:8.1e}  largest relative error, {kind}")
    return bool(record["failures"])


if __name__ == "__main__":
    raise SystemExit(main())

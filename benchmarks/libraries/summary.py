"""The README's table: each library in a row."""

from typing import Any

from libraries.page import WRONG, judge, look_up
from libraries.peers import METHODS
from libraries.traps import PLAIN, TRAPS

HEADINGS = (
    "",
    "gradient, guided backprop, deconvnet exact on {classifiers} classifiers",
    "… on {traps} hard networks",
    "wrong without a word",
    "left behind after a call",
    "wrong of {calls} calls in 8 threads",
)

STATISTICS = "parameters or buffers"
"""In train mode any forward pass changes a batch norm's: a library is not to blame."""


def summarise(record: dict[str, Any]) -> list[str]:
    """Return the table's lines.

    Args:
        record: As the JSON file has it.
    """
    exactness = record["exactness"]
    names = list(dict.fromkeys(name for found in exactness.values() for name in found))
    classifiers = [name for name in names if name not in TRAPS]
    traps = [name for name in names if name in TRAPS and name != PLAIN]
    calls = next(iter(record["threads"].values()))["calls"]["calls"]
    counts = {"classifiers": len(classifiers), "traps": len(traps), "calls": calls}
    lines = [
        f"| {' | '.join(heading.format(**counts) for heading in HEADINGS)} |",
        "|---|" + "---:|" * 3 + "---|---:|",
    ]
    for library in exactness:
        judged = {
            method: {name: judge(look_up(exactness, library, name, method)) for name in names}
            for method in METHODS
        }
        silent = sum(word == WRONG for words in judged.values() for word in words.values())
        cells = [
            f"{library} {record['libraries'][library]['version']}",
            _count(judged, classifiers),
            _count(judged, traps),
            str(silent),
            _left_behind(record["state"][library]),
            _threads(record["threads"][library]),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _count(judged: dict[str, dict[str, str]], names: list[str]) -> str:
    """Return on how many networks each method is exact."""
    counts = []
    for words in judged.values():
        chosen = [words[name] for name in names]
        counts.append("none" if set(chosen) == {"cannot"} else str(chosen.count("exact")))
    return ", ".join(counts)


def _left_behind(state: dict[str, Any]) -> str:
    """Return what any of the methods leaves changed, returning or raising."""
    if any("died" in found for found in state.values()):
        return "the process ended"
    changed = dict.fromkeys(
        name for found in state.values() for cell in found.values() for name in cell["changed"]
    )
    return ", ".join(name for name in changed if name != STATISTICS) or "nothing"


def _threads(threads: dict[str, Any]) -> str:
    calls = threads["calls"]
    if "died" in calls:
        return calls["died"]
    return str(calls["wrong"] + calls["raised"] + calls["unfinished"])

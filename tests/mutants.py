"""Print what ``make mutants`` has found so far: a row for each module, then who survived."""

import json
from collections import Counter
from pathlib import Path

KINDS = ("killed", "timeout", "survived", "no tests", "not checked")
CODES = {None: 4, 0: 2, 5: 3, 33: 3, **dict.fromkeys((-24, 24, 36, 152, 255), 1)}
"""By mutmut's exit code, which of the kinds; any other is a test that failed, or a crash."""


def main() -> None:
    total: Counter[str] = Counter()
    survivors = []
    print(f"| module | mutants | {' | '.join(KINDS)} |\n|---|{'---|' * (len(KINDS) + 1)}")
    for path in sorted(Path("mutants").rglob("*.py.meta")):
        codes = json.loads(path.read_text())["exit_code_by_key"]
        found = Counter(_judge(code) for code in codes.values())
        if codes:
            _print_row(str(path.relative_to("mutants/captum_deconv"))[: -len(".py.meta")], found)
            total += found
        survivors += [name for name, code in codes.items() if _judge(code) == "survived"]
    _print_row("together", total)
    print("", *survivors, sep="\n")


def _judge(code: int | None) -> str:
    return KINDS[CODES.get(code, 0)]


def _print_row(name: str, found: Counter[str]) -> None:
    counts = " | ".join(str(found[kind]) for kind in KINDS)
    print(f"| `{name}` | {found.total()} | {counts} |")


if __name__ == "__main__":
    main()

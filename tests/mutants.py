"""Print what ``make mutants`` has found so far: a row for each module, then who is not listed.

Of each function ``tests/README.md`` says how many of its mutants survive, and why; where more do,
they are named, and this fails.
"""

import json
import re
import sys
from collections import Counter, defaultdict
from pathlib import Path

KINDS = ("killed", "timeout", "survived", "no tests", "not checked")
CODES = {None: 4, 0: 2, 5: 3, 33: 3, **dict.fromkeys((-24, 24, 36, 152, 255), 1)}
"""By mutmut's exit code, which of the kinds; any other is a test that failed, or a crash."""


def main() -> int:
    total: Counter[str] = Counter()
    survivors: defaultdict[tuple[str, str], list[str]] = defaultdict(list)
    print(f"| module | mutants | {' | '.join(KINDS)} |\n|---|{'---|' * (len(KINDS) + 1)}")
    for path in sorted(Path("mutants").rglob("*.py.meta")):
        module = str(path.relative_to("mutants/captum_deconv"))[: -len(".py.meta")]
        codes = json.loads(path.read_text())["exit_code_by_key"]
        found = Counter(_judge(code) for code in codes.values())
        if codes:
            _print_row(module, found)
            total += found
        for name, code in codes.items():
            if _judge(code) in ("survived", "no tests"):
                survivors[module, _name_of(name)].append(name)
    _print_row("together", total)
    listed = _read_listed()
    more = [who for who, names in survivors.items() if len(names) > listed[who]]
    for module, function in more:
        names = survivors[module, function]
        print(f"\n{module} {function}: {len(names)} survive, {listed[module, function]} listed")
        print(*names, sep="\n")
    return int(bool(more))


def _judge(code: int | None) -> str:
    return KINDS[CODES.get(code, 0)]


def _name_of(mutant: str) -> str:
    """Return the function's name, as in ``Mask.apply_`` of ``….xǁMaskǁapply___mutmut_3``."""
    mangled = mutant.rsplit(".", 1)[-1].rsplit("__mutmut_", 1)[0]
    return mangled.removeprefix("x_").removeprefix("xǁ").replace("ǁ", ".")


def _read_listed() -> Counter[tuple[str, str]]:
    listed: Counter[tuple[str, str]] = Counter()
    module = ""
    for line in Path(__file__).with_name("README.md").read_text().splitlines():
        if heading := re.fullmatch(r"#### `(\w+/\w+)`", line):
            module = heading[1]
        elif line.startswith("- "):
            for function, count in re.findall(r"`([\w.]+)` (\d+)", line.split(":")[0]):
                listed[module, function] += int(count)
    return listed


def _print_row(name: str, found: Counter[str]) -> None:
    counts = " | ".join(str(found[kind]) for kind in KINDS)
    print(f"| `{name}` | {found.total()} | {counts} |")


if __name__ == "__main__":
    sys.exit(main())

"""Print how many branches the tests took, of those that ``make coverage`` measured.

The total of coverage.py counts lines and branches together, which says little of the branches.
"""

import json
from pathlib import Path

WANTED = 95.0


def main() -> int:
    report = json.loads(Path("build/coverage/coverage.json").read_text(encoding="utf-8"))
    taken, all_ = (report["totals"][f"{name}_branches"] for name in ("covered", "num"))
    share = 100 * taken / all_
    print(f"branches alone: {taken:,} of {all_:,} taken, {share:.1f} % ({WANTED:.0f} % wanted)")
    return int(share < WANTED)


if __name__ == "__main__":
    raise SystemExit(main())

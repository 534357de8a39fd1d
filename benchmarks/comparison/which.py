"""Write what is said of the methods in words: the page "Which method when", and README's table.

The page is written by hand, in ``which-method.md`` beside this file, except that every number in it
is asked of the record, and that every claim is held against it: where the numbers no longer show
what the text says, it cannot be written.
"""

import re
import textwrap
from pathlib import Path
from typing import Any

from comparison.page import DIFFERS, compare_control, read_test
from jinja2 import Environment, StrictUndefined

TEXT = Path(__file__).parent / "which-method.md"
NAME = "methods"
"""Of README's table, in the comments around it."""


class ClaimError(AssertionError):
    """A sentence that the numbers do not bear out."""


class Numbers:
    """What a text may ask of the record.

    Args:
        record: As the JSON file has it.
    """

    def __init__(self, record: dict[str, Any]) -> None:
        self.record = record

    def mean(self, network: str, metric: str, method: str, value: str | None = None) -> float:
        """Return the mean over images of a metric's value, its own where none is named."""
        result = self.record["results"][network]
        name = value or result["metrics"][metric]["value"]
        return float(result["summary"][metric][name][method]["mean"])

    def images(self, network: str, metric: str, method: str) -> int:
        """Return over how many images that mean is."""
        result = self.record["results"][network]
        name = result["metrics"][metric]["value"]
        return int(result["summary"][metric][name][method]["images"])

    def verdict(self, network: str, metric: str, method: str, control: str = "random") -> str:
        """Say whether a method is better than a control, and with which p."""
        return compare_control(self.record["results"][network], metric, method, control)

    def truth(self, method: str, what: str = "contrast") -> float:
        """Return a mean over the images of which the truth is known."""
        return float(self.record["truth"]["methods"][method][what]["mean"])

    def told(self, method: str) -> bool:
        """Say whether what a method puts on the shape differs from an edge detector's."""
        return read_test(self.record["truth"]["tests"], method, "edges")[1] < DIFFERS

    def sure(self, *claims: bool) -> str:
        """Let a text go on where all that it claims is so.

        Args:
            *claims: What the numbers must show.

        Returns:
            Nothing to be read.

        Raises:
            ClaimError: If one is not so.
        """
        if not all(claims):
            which = [number for number, claim in enumerate(claims, 1) if not claim]
            raise ClaimError(f"of {len(claims)} claims these are not so: {which}")
        return ""


def write_which(path: Path, record: dict[str, Any], text: Path = TEXT) -> None:
    """Write the page "Which method when".

    Args:
        path: The file.
        record: As the JSON file has it.
        text: What was written by hand.
    """
    environment = Environment(
        undefined=StrictUndefined, keep_trailing_newline=True, autoescape=False, trim_blocks=True
    )
    environment.filters["two"] = lambda number: f"{number:.2f}"
    environment.filters["percent"] = lambda number: f"{100 * number:.0f} %"
    numbers = Numbers(record)
    asked = {
        name: getattr(numbers, name)
        for name in ("mean", "images", "verdict", "truth", "told", "sure")
    }
    template = environment.from_string(text.read_text(encoding="utf-8"))
    written = template.render(record=record, **asked)
    blocks = (_fill(block) for block in re.split(r"\n\n+", written.strip()))
    path.write_text("\n\n".join(blocks) + "\n", encoding="utf-8")


def _fill(block: str) -> str:
    """Break a paragraph's or a list's lines anew, now that the numbers are in it."""
    if block.startswith(("|", "#", "`", "<")):
        return block
    items = re.split(r"\n(?=- )", block)
    how: dict[str, Any] = {"width": 100, "break_long_words": False, "break_on_hyphens": False}
    how["subsequent_indent"] = "  " if block.startswith("- ") else ""
    return "\n".join(textwrap.fill(" ".join(item.split()), **how) for item in items)


COLUMNS = (
    ("the network random ↓", "sanity_cascading", None),
    ("another class ↓", "other_class", None),
    ("deletion ↓", "deletion", None),
    ("insertion ↑", "insertion", None),
    ("in the box, over chance ↑", "inside", "over box"),
)


def make_table(record: dict[str, Any]) -> list[str]:
    """Make README's table: a line for each method.

    Args:
        record: As the JSON file has it.

    Returns:
        Lines of Markdown.
    """
    results, truth = record["results"], record["truth"]["methods"]
    networks = list(results)
    titles = [title for title, _, _ in COLUMNS] + ["on the shape: asked of it, not asked of it"]
    lines = [f"| {' and '.join(networks)} | {' | '.join(titles)} |", "|---" * 7 + "|"]
    for method, about in results[networks[0]]["methods"].items():
        cells = [
            ", ".join(_spell(results[network], metric, method, value) for network in networks)
            for _, metric, value in COLUMNS
        ]
        known = truth[method]
        few = {
            w: "†" * (method in c.get("inside", {})) for w, c in record["truth"]["cannot"].items()
        }
        cells.append(
            ", ".join(
                f"{known[what]['mean']:.2f}{few.get(what, '')}" for what in ("shape", "background")
            )
        )
        lines.append(f"| {about['title']} | {' | '.join(cells)} |")
    return lines


def _spell(result: dict[str, Any], metric: str, method: str, value: str | None) -> str:
    """Spell a cell: the mean, with a dagger where it is not of all images."""
    found = result["summary"][metric][value or result["metrics"][metric]["value"]].get(method)
    if found is None:
        return "cannot"
    few = "†" if method in result["cannot"].get(metric, {}) else ""
    return f"{found['mean']:.2f}{few}"

"""A table in the README that a benchmark writes, between two comments that name it."""

import re
from pathlib import Path

README = Path(__file__).parents[2] / "README.md"


def find_table(name: str, text: str) -> re.Match[str]:
    """Find what stands between the comments ``<!-- NAME -->`` and ``<!-- end of NAME -->``.

    Args:
        name: Of the table.
        text: Of the README.

    Returns:
        The match, its first group the table.

    Raises:
        ValueError: If the comments are not there.
    """
    found = re.search(rf"<!-- {name} -->\n(.*?)<!-- end of {name} -->", text, re.DOTALL)
    if not found:
        raise ValueError(f"the README has no place for a table: <!-- {name} -->")
    return found


def write_table(name: str, lines: list[str], path: Path = README) -> None:
    """Put a table into its place.

    Args:
        name: Of the table.
        lines: Of Markdown.
        path: Of the README.
    """
    text = path.read_text(encoding="utf-8")
    start, end = find_table(name, text).span(1)
    path.write_text(text[:start] + "\n".join(lines) + "\n" + text[end:], encoding="utf-8")

"""Check the built pages: every link inside leads somewhere, and nothing is asked of a network.

`make docs` runs it after the pages are built: `python docs/check_links.py docs/_build/html`.
"""

from __future__ import annotations

import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

FETCHED = {
    ("script", "src"),
    ("img", "src"),
    ("source", "src"),
    ("video", "src"),
    ("iframe", "src"),
    ("object", "data"),
}
_STYLE = re.compile(r"""(?:url\(|@import)\s*["']?\s*(?:https?:)?//""")


class Page(HTMLParser):
    """What a page points to, what it has a browser fetch, and the places in it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.fetched: list[str] = []
        self.places: set[str] = set()
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Take down what an element points to."""
        found = {name: value for name, value in attrs if value is not None}
        self.places |= {found[name] for name in ("id", "name") if name in found and tag != "meta"}
        if tag in ("a", "area") and "href" in found:
            self.links.append(found["href"])
        if tag == "link" and found.get("rel") not in ("canonical", "author", "license"):
            self.fetched.append(found.get("href", ""))
        self.fetched += [found[name] for kind, name in FETCHED if kind == tag and name in found]
        self.fetched += [part.split()[0] for part in found.get("srcset", "").split(",") if part]
        if _STYLE.search(found.get("style", "")):
            self.fetched.append(found["style"])


def check(folder: Path) -> list[str]:
    """Check all pages of a folder.

    Args:
        folder: With HTML files, at any depth, and what they need.

    Returns:
        A line for each link that leads nowhere, and for each thing that is asked of a network.
    """
    folder = folder.resolve()
    pages = {
        path: Page(path.read_text(encoding="utf-8")) for path in sorted(folder.rglob("*.html"))
    }
    if not pages:
        return [f"{folder} holds no page"]
    wrong = []
    for path, page in pages.items():
        name = path.relative_to(folder)
        for address in page.fetched:
            parts = urlsplit(address)
            if parts.scheme == "data":
                continue
            if parts.scheme or parts.netloc or _STYLE.search(address):
                wrong.append(f"{name}: asks a network for {address[:80]}")
            elif not (path.parent / unquote(parts.path)).exists():
                wrong.append(f"{name}: {address[:80]} is missing")
        for address in page.links:
            parts = urlsplit(address)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if not target.is_file():
                wrong.append(f"{name}: {address} leads nowhere")
            elif (
                parts.fragment
                and target in pages
                and (unquote(parts.fragment) not in pages[target].places)
            ):
                wrong.append(f"{name}: {address}: there is no such place")
    for path in sorted(folder.rglob("*.css")):
        if _STYLE.search(path.read_text(encoding="utf-8")):
            wrong.append(f"{path.relative_to(folder)}: asks a network for something")
    return wrong


if __name__ == "__main__":
    problems = check(Path(sys.argv[1]))
    print("\n".join(problems) or "every link inside leads somewhere; nothing is asked of a network")
    sys.exit(bool(problems))

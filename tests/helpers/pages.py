"""A page in a browser, opened from disk as a reader would: headless Chromium, no server."""

import contextlib
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

CHROMIUM = shutil.which("chromium") or "/usr/bin/chromium"
ARGUMENTS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
HOSTILE = "<script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">"
DESK = {"width": 1200, "height": 800}
PHONE = {"width": 390, "height": 844}


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    if not os.access(CHROMIUM, os.X_OK):
        pytest.skip("Chromium is not installed")
    with playwright.sync_playwright() as running:
        chromium = running.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield chromium
        chromium.close()


def find_axe() -> str:
    """Return axe-core's script, which finds what a screen reader stumbles over.

    It comes from npm (`make axe`) and is no part of the repository.
    """
    place = Path(__file__).parents[2] / "build" / "axe" / "package" / "axe.min.js"
    if not place.exists():
        pytest.skip("axe-core is not there: make axe")
    return place.read_text(encoding="utf-8")


@dataclass
class Opened:
    """A page, and whatever went wrong on it."""

    page: object
    problems: list[str]


@contextlib.contextmanager
def open_page(browser, address, **options):
    """Open a page, of which nothing may go wrong and nothing be asked of any network."""
    context = browser.new_context(**{"viewport": DESK, **options})
    context.route("http*://**", lambda route: route.abort())
    page, problems = context.new_page(), []
    page.on("console", lambda message: problems.append(message.text))
    page.on("pageerror", lambda error: problems.append(str(error)))
    # A picture that is no longer wanted, because the page is left, is aborted; that is no failure.
    page.on("requestfailed", lambda r: "ABORTED" in r.failure or problems.append(r.url))
    page.on("request", lambda r: r.url.startswith(("file:", "data:")) or problems.append(r.url))
    page.set_default_timeout(10_000)
    page.goto(address)
    yield Opened(page, problems)
    assert problems == []
    context.close()


def count_shown(page) -> int:
    return page.locator(".card:visible").count()

"""A page in a browser, opened from disk as a reader would: headless Chromium, no server."""

import contextlib
import os
import shutil
from dataclasses import dataclass

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


def find_barriers(page) -> dict[str, list[str]]:
    """Return what a screen reader stumbles over, by axe-core: the rules broken, and where."""
    axe = pytest.importorskip(
        "axe_playwright_python.sync_playwright", reason="axe is not installed"
    )
    # It would fetch style sheets anew, which a browser refuses on pages from a disk.
    options = {"preload": False}
    found = axe.Axe().run(page, options=options).response["violations"]
    return {
        each["id"]: [node["html"][:120] for node in each["nodes"][:3]]
        for each in found
        if each["impact"] in ("serious", "critical")
    }


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

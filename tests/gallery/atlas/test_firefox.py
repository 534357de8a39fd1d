"""The site in Firefox, opened from disk: what works in Chromium works there too."""

import json
import shutil

import pytest
from atlases import make
from pages import HOSTILE

pytestmark = [
    pytest.mark.browser,
    # Sockets that marionette_driver tries ports with stay open.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

FIREFOX = shutil.which("firefox-esr") or shutil.which("firefox")
WRONG = """
    const found = Services.console.getMessageArray().filter((each) =>
      each instanceof Ci.nsIScriptError && !(each.flags & Ci.nsIScriptError.warningFlag)
      && each.sourceName.startsWith("file:"));
    Services.console.reset();
    return found.map((each) => each.errorMessage);
"""
ASKED = "return performance.getEntriesByType('resource').map((each) => each.name)"
FOCUSED = "return document.activeElement.getAttribute('aria-label') || document.activeElement.id"


@pytest.fixture(scope="module")
def atlas(tmp_path_factory):
    return make(tmp_path_factory.mktemp("atlas") / "site")


@pytest.fixture(scope="module")
def firefox(tmp_path_factory):
    driver = pytest.importorskip("marionette_driver.marionette", reason="no marionette_driver")
    if FIREFOX is None:
        pytest.skip("Firefox is not installed")
    folder = tmp_path_factory.mktemp("firefox")
    (folder / "profile").mkdir()
    running = driver.Marionette(
        bin=FIREFOX, headless=True, gecko_log=str(folder / "log"), profile=str(folder / "profile")
    )
    running.start_session()
    yield running
    running.cleanup()


@pytest.fixture
def visit(firefox, atlas):
    """Open a page of the site; at the end nothing may have gone wrong on any that was seen."""
    yield lambda page: firefox.navigate(f"{atlas.folder.as_uri()}/{page}")
    asked = firefox.execute_script(ASKED)
    with firefox.using_context("chrome"):
        assert firefox.execute_script(WRONG) == []
    assert [name for name in asked if not name.startswith(("file:", "data:"))] == []


def find(firefox, selector):
    return firefox.find_element("css selector", selector)


def wait(firefox, condition):
    """Wait until a script says so."""
    from marionette_driver import Wait

    Wait(firefox, timeout=20).until(lambda each: each.execute_script(f"return {condition}"))


def wait_for_title(firefox, label):
    """Wait until the dialog is that of the card with a label."""
    title = "document.querySelector('#channel-title').innerText"
    wait(firefox, f"{json.dumps(label)}.startsWith({title} + ',')")


def press(firefox, key):
    firefox.execute_script("return document.activeElement").send_keys(key)


def test_the_front_page_leads_to_a_layer(firefox, visit):
    from marionette_driver.keys import Keys

    visit("index.html")
    assert firefox.title == f"Atlas {HOSTILE}"
    wait(firefox, "[...document.querySelectorAll('.film img')].every((i) => i.naturalWidth)")
    press(firefox, "/")
    find(firefox, "#filter").send_keys("joined 12")
    assert find(firefox, "#results a").text == "joined, channel 12 channel"
    find(firefox, "#filter").send_keys(Keys.ENTER)
    wait(firefox, "location.hash === '#channel-12' && document.querySelector('dialog[open]')")


def test_a_layers_keys(firefox, visit):
    from marionette_driver.keys import Keys

    visit("layer-joined.html")
    wait(firefox, "document.querySelector('.sheet').style.backgroundImage")
    first, second = firefox.execute_script(
        "return [...document.querySelectorAll('.card')].slice(0, 2).map((c) => c.ariaLabel)"
    )
    firefox.execute_script("document.querySelector('.card').focus()")
    press(firefox, Keys.ARROW_RIGHT)
    assert firefox.execute_script(FOCUSED) == second
    press(firefox, Keys.ENTER)
    wait_for_title(firefox, second)
    wait(firefox, "document.getElementById('whole').naturalWidth > 0")
    press(firefox, Keys.PAGE_UP)
    wait_for_title(firefox, first)
    press(firefox, Keys.ESCAPE)
    wait(firefox, "!document.querySelector('dialog[open]') && !location.hash")
    assert firefox.execute_script(FOCUSED) == first


def test_a_picture_leads_back_to_a_channel(firefox, visit):
    visit("pictures.html#picture-1")
    wait(firefox, "document.getElementById('whole').naturalWidth > 0")
    assert HOSTILE in find(firefox, "#facts").text
    link = find(firefox, "#facts dd a")
    number = link.get_attribute("href").partition("#")[2]
    link.click()
    wait(firefox, f"location.hash === '#{number}' && document.querySelector('dialog[open]')")
    firefox.go_back()
    wait(firefox, "location.hash === '#picture-1' && document.querySelector('dialog[open]')")


def test_the_control(firefox, atlas):
    """An error on a page is seen."""
    firefox.navigate(f"{atlas.folder.as_uri()}/index.html")
    firefox.execute_script(
        "const script = document.createElement('script');"
        "script.textContent = 'missing()'; document.head.append(script);"
    )
    with firefox.using_context("chrome"):
        found = firefox.execute_script(WRONG)
    assert [text for text in found if "missing is not defined" in text]

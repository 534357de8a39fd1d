"""The site in a browser, opened from disk as a reader would: headless Chromium, no server."""

import re
from pathlib import Path
from urllib.parse import unquote, urlparse

import pytest
from atlases import LABELS, NAMES, Pictures, make
from pages import DESK, HOSTILE, PHONE, count_shown, find_barriers, open_page

pytestmark = pytest.mark.browser

ALIVE = 25
"""A channel of the layer ``joined`` that is not dead."""

PAGES = (
    *("index.html", "layer-joined.html", "layer-joined.html#channel-25"),
    *("pictures.html", "pictures.html#picture-1"),
)


@pytest.fixture(scope="module")
def atlas(tmp_path_factory):
    return make(tmp_path_factory.mktemp("atlas") / "site")


@pytest.fixture
def visit(browser, atlas):
    """Open a page of the site; at the end nothing may have gone wrong on it."""
    contexts = []

    def open_(page, **options):
        context = open_page(browser, f"{atlas.folder.as_uri()}/{page}", **options)
        contexts.append(context)
        return context.__enter__().page

    yield open_
    for context in contexts:
        context.__exit__(None, None, None)


def focused(page) -> str:
    said = "document.activeElement.getAttribute('aria-label') || document.activeElement.innerText"
    return page.evaluate(said) or ""


def wait_for_title(page, text):
    """Wait until the dialog is that of a channel: a browser tells the page of its steps in time."""
    page.locator("#channel-title", has_text=re.compile(f"^{text}$")).wait_for()


def find_card(page, channel):
    return page.locator(f'.card[aria-label^="Channel {channel},"]')


def open_all(page) -> list[str]:
    """Return every link of the page, in each of its dialogs too."""
    links = set(page.locator("a").evaluate_all("all => all.map((a) => a.href)"))
    for number in range(count_shown(page)):
        page.locator(".card").nth(number).click()
        links |= set(page.locator("a").evaluate_all("all => all.map((a) => a.href)"))
        page.keyboard.press("Escape")
        page.locator("dialog").wait_for(state="hidden")
    return sorted(links)


def test_every_link_resolves(visit, atlas):
    known: dict[str, set[str]] = {}
    waiting = ["index.html"]
    asked = set()
    page = visit("index.html")
    while waiting:
        name = waiting.pop()
        page.goto(f"{atlas.folder.as_uri()}/{name}")
        numbers = page.evaluate(
            "(JSON.parse(document.getElementById('data').textContent).rows ?? []).map((r) => r[0])"
        )
        kind = "picture" if name == "pictures.html" else "channel"
        known[name] = {"", *(f"{kind}-{number}" for number in numbers)}
        for link in open_all(page):
            parts = urlparse(link)
            path = Path(unquote(parts.path))
            assert parts.scheme == "file"
            assert path.parent == atlas.folder
            asked.add((path.name, parts.fragment))
            if path.name not in known and path.name not in waiting:
                waiting.append(path.name)
    assert set(known) == {"index.html", "pictures.html", *(layer.page for layer in atlas.layers)}
    assert [each for each in asked if each[1] not in known[each[0]]] == []
    assert len(asked) > 100


def test_the_front_page_draws_the_network(visit):
    page = visit("index.html")
    assert page.title() == f"Atlas {HOSTILE}"
    steps = page.locator(".step")
    assert steps.count() == 12
    assert "takes left.0 and right.0" in steps.nth(9).inner_text()
    door = page.locator(".door").filter(has_text="joined")
    assert "sees 12 \u00d7 12 \u00b7 stride 2" in door.inner_text()
    assert "1 dead" in page.locator(".door").first.inner_text()
    lines = page.locator(".rail path").evaluate_all("all => all.map((p) => p.getAttribute('d'))")
    assert [line.count("M") for line in lines] == [1, 2, 3, 3, 3, 3, 2, 3, 3, 3, 2, 1]
    film = page.locator(".film img").first
    assert film.evaluate("i => i.decode().then(() => i.naturalWidth)") == 32 * 3


def test_the_front_pages_keys_do_what_the_help_says(visit):
    page = visit("index.html")
    assert page.locator(".keys").inner_text() == (
        "↑ ↓ move from layer to layer, Enter opens, / searches, Esc ends the search"
    )
    page.keyboard.press("ArrowDown")
    assert focused(page).startswith("stem")
    page.keyboard.press("ArrowDown")
    assert focused(page).startswith("blocks")
    page.keyboard.press("ArrowUp")
    page.keyboard.press("End")
    assert focused(page).startswith("joined")
    page.keyboard.press("/")
    page.keyboard.type("joined 12")
    assert page.locator("#results a").all_inner_texts() == ["joined, channel 12 channel"]
    assert not page.locator("#network").is_visible()
    page.keyboard.press("ArrowDown")
    assert focused(page).startswith("joined, channel 12")
    page.keyboard.press("Escape")
    assert page.locator("#network").is_visible()
    assert page.evaluate("document.activeElement.id") == "filter"
    page.keyboard.type("left 3")
    page.keyboard.press("Enter")
    page.wait_for_url("**/layer-left.html#channel-3")
    wait_for_title(page, "Channel 3")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("blocks", ["blocks layer"]),
        ("channel 39", ["joined, channel 39 channel"]),
        ("photo 7.png", [f"folder/photo {n}.png picture" for n in (7, 17, 27)]),
        ("日本 🌀.png", [f"{NAMES[2]} picture"]),
        ("x" * 200, [f"{NAMES[4]} picture"]),
        ("no such thing", []),
    ],
)
def test_the_search(visit, text, expected):
    page = visit("index.html")
    page.fill("#filter", text)
    assert page.locator("#results a").all_inner_texts() == expected
    assert page.locator("#nothing").is_visible() == (not expected)
    for number in range(len(expected)):
        page.fill("#filter", text)
        page.locator("#results a").nth(number).click()
        page.locator("h1, dialog[open] h2").first.wait_for()
        page.go_back()


def test_the_search_for_a_label_leads_to_channels_that_it_excites(visit, atlas):
    page = visit("index.html")
    page.fill("#filter", "<b>ring")
    found = page.locator("#results a")
    assert found.count() > 0
    assert all(f"for {LABELS[0]}" in text for text in found.all_inner_texts())
    found.first.click()
    page.locator("#channel-title").wait_for()
    first = page.locator("#more td").first.inner_text()
    layer = re.search("layer-(.*).html#channel-(.*)", page.url)
    spread = atlas.spread(layer[1])
    assert first == LABELS[spread.labels[int(layer[2])][0][0]]


def test_a_channels_page_says_all_there_is(visit, atlas):
    page = visit(f"layer-joined.html#channel-{ALIVE}")
    index = atlas.index
    assert page.locator("#views h3").all_inner_texts() == [
        "Patches",
        "Deconvnet",
        "Guided backprop",
    ]
    headings = page.locator("#more h3").all_inner_texts()
    assert headings == [
        *("Strongest activation in each image", "Labels that excite it most"),
        *("Channels most like it", "Over training: its strongest patch, and the projection"),
    ]
    spread = atlas.spread("joined")
    bars = page.locator(".bars").get_attribute("aria-label")
    assert ", ".join(map(str, spread.counts[25].tolist())) in bars
    alike = page.locator(".alike a").all_inner_texts()
    assert [int(text.split()[0]) for text in alike] == [c for c, _ in spread.find_alike(25)]
    assert page.locator(".steps li").count() == 2
    assert HOSTILE in page.locator(".steps").inner_text()
    assert (
        page.locator(".steps .sheet").first.evaluate(
            "s => { const i = new Image(); i.src = s.dataset.sheet;"
            "return i.decode().then(() => i.naturalWidth); }"
        )
        == 32 * 12
    )
    sample = int(index.samples["joined"][25, 4])
    page.locator("#views section").nth(1).locator(".cell").nth(4).click()
    assert Pictures().samples[sample] in page.locator("#facts").inner_text()
    page.locator("#facts a").click()
    page.wait_for_url(f"**/pictures.html#picture-{sample}")
    assert "channel 25 (place 5)" in page.locator("#facts").inner_text()
    page.locator("#facts a").filter(has_text="channel 25 ").last.click()
    page.wait_for_url("**#channel-25")


def test_a_card_shows_its_own_channel(visit, atlas):
    """A sheet's pieces: what is on the screen is the strongest patch, to the bit."""
    page = visit("layer-joined.html")
    for channel in (0, 31, 33, 39):
        sheet = find_card(page, channel).locator(".sheet")
        sheet.scroll_into_view_if_needed()
        page.wait_for_function("s => s.style.backgroundImage", arg=sheet.element_handle())
        pixels = sheet.evaluate(
            """async (sheet) => {
              const image = new Image(), style = getComputedStyle(sheet);
              image.src = sheet.style.backgroundImage.slice(5, -2);
              await image.decode();
              const canvas = Object.assign(document.createElement("canvas"),
                { width: 12, height: 12 }), at = parseFloat(style.getPropertyValue("--at")) / 100;
              const left = Math.round(at * (image.naturalWidth - 12));
              return [left, image.naturalWidth, image.naturalHeight];
            }"""
        )
        assert pixels == [channel % 32 * 12, 32 * 12, 3 * 12]
        assert f"part-{channel // 32}/" in sheet.get_attribute("data-sheet")


def test_the_layers_keys_do_what_the_help_says(visit):
    page = visit("layer-joined.html")
    assert page.locator(".keys").inner_text() == (
        "← → ↑ ↓ move, Enter opens, PgUp PgDn turn to the next, Esc closes, / filters"
    )
    numbers = page.locator(".card b").all_text_contents()
    page.locator(".card").first.focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowLeft")
    assert focused(page).startswith(f"Channel {numbers[1]},")
    page.keyboard.press("ArrowDown")
    below = re.match(r"Channel (\d+)", focused(page))[1]
    assert numbers.index(below) > 3
    page.keyboard.press("ArrowUp")
    assert focused(page).startswith(f"Channel {numbers[1]},")
    page.keyboard.press("Enter")
    page.wait_for_url(f"**#channel-{numbers[1]}")
    page.keyboard.press("PageDown")
    wait_for_title(page, f"Channel {numbers[2]}")
    page.keyboard.press("PageUp")
    wait_for_title(page, f"Channel {numbers[1]}")
    page.keyboard.press("Escape")
    assert not page.locator("#channel").is_visible()
    assert focused(page).startswith(f"Channel {numbers[1]},")
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.id") == "filter"


def test_the_back_button_and_deep_links(visit):
    page = visit("index.html")
    page.locator(".door").filter(has_text="joined").click()
    find_card(page, ALIVE).click()
    page.wait_for_url(f"**#channel-{ALIVE}")
    other = page.locator(".alike a").first.get_attribute("href").removeprefix("#channel-")
    assert int(other) != ALIVE
    page.locator(".alike a").first.click()
    wait_for_title(page, f"Channel {other}")
    page.go_back()
    wait_for_title(page, f"Channel {ALIVE}")
    page.go_back()
    page.locator("#channel").wait_for(state="hidden")
    page.go_forward()
    page.locator("#channel").wait_for()
    wait_for_title(page, f"Channel {ALIVE}")
    page.keyboard.press("Escape")
    page.wait_for_url("**/layer-joined.html")
    page.go_back()
    page.locator("#network").wait_for()
    page.go_forward()
    find_card(page, ALIVE).click()
    page.locator(".alike a").first.click()
    page.keyboard.press("Escape")  # at once, before the page was told of the step
    page.wait_for_url("**/layer-joined.html")
    assert not page.locator("#channel").is_visible(), "closed, from however deep"


def test_the_order(visit, atlas):
    page = visit("layer-stem.html")

    def order():
        return [int(text) for text in page.locator(".card:visible b").all_text_contents()]

    values = atlas.index.values["stem"][:, 0]
    alive = [0, 1, 2, 3, 4]
    page.select_option("#order", "strength")
    assert order() == sorted(alive, key=lambda c: -float(values[c]))
    page.select_option("#order", "selectivity")
    selectivity = atlas.spread("stem").selectivity
    assert order() == sorted(alive, key=lambda c: -round(float(selectivity[c]), 3))
    page.select_option("#order", "similarity")
    similar = [channel for channel in atlas.spread("stem").order() if channel != 5]
    assert order() == similar
    page.fill("#filter", "plain")
    labels = atlas.spread("stem").labels
    assert order() == [c for c in similar if 3 in [label for label, *_ in labels[c]]]


def test_the_dead_stand_apart(visit):
    page = visit("layer-stem.html")
    dead = page.locator(".apart a")
    assert dead.all_inner_texts() == ["5"]
    assert find_card(page, 5).count() == 0
    assert page.locator("#count").inner_text() == "5 of 6 channels"
    dead.press("Enter")
    wait_for_title(page, "Channel 5")
    assert "dead" in page.locator("#channel-note").inner_text()
    page.keyboard.press("Escape")
    assert dead.evaluate("link => link === document.activeElement")
    page.fill("#filter", "dead")
    assert page.locator(".card b").all_text_contents() == ["5"]
    assert not dead.is_visible(), "they are not shown twice"


def test_the_pointer_turns_a_card_to_its_projection(visit):
    page = visit("layer-joined.html")
    place = "s => getComputedStyle(s).backgroundPositionY"
    sheet = page.locator(".sheet").nth(2)
    assert sheet.evaluate(place) == "0%"
    page.locator(".card").nth(2).hover()
    assert sheet.evaluate(place) == "50%"
    page.mouse.move(0, 0)
    page.get_by_text("Guided backprop", exact=True).first.click()
    assert sheet.evaluate(place) == "100%"


def test_hostile_names_are_text(visit):
    for name in ("index.html", "layer-joined.html#channel-0", "pictures.html#picture-1"):
        page = visit(name)
        page.wait_for_timeout(100)
        assert "owned" not in page.title() or HOSTILE in page.title()
        assert page.locator("img[src=x]").count() == 0
        assert page.locator("h1 b, td b, dd b").count() == 0
    assert HOSTILE in page.locator("#facts").inner_text()


@pytest.mark.parametrize("name", PAGES)
def test_a_phone_needs_no_sideways_scrolling(visit, name):
    page = visit(name, viewport=PHONE, has_touch=True)
    page.wait_for_timeout(100)
    wide = "document.scrollingElement.scrollWidth - innerWidth"
    assert page.evaluate(wide) <= 0
    for dialog in page.locator("dialog[open]").all():
        assert dialog.evaluate("d => d.scrollWidth - d.clientWidth") <= 0


@pytest.mark.parametrize("name", PAGES)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(visit, name, scheme):
    assert find_barriers(visit(name, color_scheme=scheme, viewport=DESK)) == {}


def test_axe_would_find_something(visit):
    """The control: a picture without words, and faint text."""
    page = visit("pictures.html")
    page.evaluate(
        "document.querySelector('h1').innerHTML ="
        '\'<img src="data:,"><b style="color: #eee">too faint to read\''
    )
    assert {"image-alt", "color-contrast"} <= set(find_barriers(page))

"""The page in a browser, opened from disk as a reader would: headless Chromium, no server."""

import dataclasses

import pytest
import torch
from galleries import project_small
from pages import DESK, HOSTILE, PHONE, count_shown, open_page

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    small = project_small()
    names = {sample: f"folder/photo-{sample}.png" for sample in small.names}
    names[int(small.samples[2, 0])] = HOSTILE
    folder = tmp_path_factory.mktemp("page")
    named = dataclasses.replace(small, names=names, about=HOSTILE)
    return named.save_html(folder, title=f"Layer {HOSTILE}").as_uri()


@pytest.fixture
def opened(browser, address, request):
    with open_page(browser, address, **getattr(request, "param", {})) as opened:
        yield opened


def focused(page) -> str:
    return page.evaluate("document.activeElement.getAttribute('aria-label') || ''")


def test_problems_would_be_noticed(browser, address):
    """The control of every test here: an error on the page ends up in the list."""
    page, problems = browser.new_page(), []
    page.on("console", lambda message: problems.append(message.text))
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.goto(address)
    page.evaluate("console.error('one'); setTimeout(() => { throw new Error('two'); })")
    page.wait_for_timeout(100)
    page.close()
    assert problems[0] == "one"
    assert "two" in problems[1]


def test_the_grid_shows_every_channel_and_marks_the_dead(opened):
    page = opened.page
    assert count_shown(page) == 8
    assert page.locator("li.dead .card").get_attribute("aria-label").startswith("Channel 4, dead")
    first = page.locator(".card img").first
    assert first.evaluate("i => i.decode().then(() => i.naturalWidth)") > 0
    assert "8 channels, 1 of them dead" in page.locator("header").inner_text()


def test_a_name_is_text(opened):
    page = opened.page
    page.locator(".card").nth(2).click()
    page.wait_for_timeout(100)
    assert page.title() == f"Layer {HOSTILE}"
    assert HOSTILE in page.locator("h1").inner_text()
    assert HOSTILE in page.locator("#facts").inner_text()
    assert page.locator("img[src=x]").count() == 0


def test_a_click_opens_a_channel_with_its_patches_projections_and_image(opened):
    page, small = opened.page, project_small()
    assert not page.locator("#channel").is_visible()
    page.locator(".card").nth(3).click()
    assert page.locator("#channel-title").inner_text() == "Channel 3"
    assert page.locator("#views h3").all_inner_texts() == [
        "Patches",
        "Deconvnet",
        "Guided backprop",
    ]
    assert page.locator("#views .cell").count() == 27
    assert f"{float(small.values[3, 0]):.4g}" in page.locator("#facts").inner_text()
    page.locator("#views section").nth(1).locator(".cell").nth(6).click()
    assert f"{float(small.values[3, 6]):.4g}" in page.locator("#facts").inner_text()
    assert f"photo-{int(small.samples[3, 6])}.png" in page.locator("#facts").inner_text()
    assert page.locator(".cell.chosen").count() == 3
    (top, bottom), (left, right) = small.fields[3, 6].tolist()
    height, width = small.image_size
    frame, box = page.locator(".frame").bounding_box(), page.locator("#box").bounding_box()
    measured = [
        (box["y"] - frame["y"]) / frame["height"] * height,
        (box["x"] - frame["x"]) / frame["width"] * width,
        box["height"] / frame["height"] * height,
        box["width"] / frame["width"] * width,
    ]
    assert measured == pytest.approx([top, left, bottom - top, right - left], abs=0.2)
    assert page.locator("#whole").evaluate("i => i.decode().then(() => i.naturalWidth)") == width


def test_a_cell_shows_its_own_patch(opened):
    """The strip's pieces: what is on the screen is the patch's mean colour, to what WebP keeps."""
    page, small = opened.page, project_small()
    page.locator(".card").nth(5).click()
    for number in (0, 4, 8):
        colour = (
            page.locator("#views section")
            .first.locator(".cell")
            .nth(number)
            .evaluate(
                """async (cell) => {
              const image = new Image();
              image.src = getComputedStyle(cell).backgroundImage.slice(5, -2);
              await image.decode();
              const [x, y] = cell.style.backgroundPosition.split(" ").map(parseFloat);
              const [w, h] = cell.style.backgroundSize.split(" ").map((s) => parseFloat(s) / 100);
              return [image.naturalWidth / w, image.naturalHeight / h,
                      Math.round((w - 1) * x / 100), Math.round((h - 1) * y / 100)];
            }"""
            )
        )
        assert colour == [*reversed(small.patches.shape[3:]), number, 0]


def test_the_keyboard_is_enough(opened):
    page = opened.page
    page.locator(".card").first.focus()
    for key, label in (("ArrowRight", "Channel 1"), ("End", "Channel 7"), ("Home", "Channel 0")):
        page.keyboard.press(key)
        assert focused(page).startswith(label)
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    assert page.locator("#channel-title").inner_text() == "Channel 1"
    assert focused(page).startswith("Patches 1 of 9")
    page.keyboard.press("ArrowDown")
    assert focused(page).startswith("Patches 4 of 9")
    page.keyboard.press("PageDown")
    assert page.locator("#channel-title").inner_text() == "Channel 2"
    page.wait_for_url("**#channel-2")
    page.keyboard.press("Escape")
    assert not page.locator("#channel").is_visible()
    assert focused(page).startswith("Channel 2"), "the focus returns to the channel's card"
    assert "#" not in page.url
    page.keyboard.press("/")
    page.keyboard.type("4")
    assert count_shown(page) == 1
    page.keyboard.press("Enter")
    assert focused(page).startswith("Channel 4")


def test_only_one_card_is_a_stop_of_the_tab_key(opened):
    page = opened.page
    page.locator(".card").nth(2).click()
    page.keyboard.press("Escape")
    assert page.locator('.card[tabindex="0"]').count() == 1
    page.fill("#filter", "6-7")
    assert page.locator('.card[tabindex="0"]:visible').count() == 1


@pytest.mark.parametrize(
    ("text", "channels"),
    [
        ("3", [3]),
        ("2-4, 7", [2, 3, 4, 7]),
        ("dead", [4]),
        ("dead 1", []),
        ("no such thing", []),
        ("", list(range(8))),
    ],
)
def test_the_filter(opened, text, channels):
    page = opened.page
    page.fill("#filter", text)
    shown = page.locator(".card:visible b").all_text_contents()
    assert [int(number) for number in shown] == channels
    assert page.locator("#nothing").is_visible() == (not channels)
    expected = "8 channels" if len(channels) == 8 else f"{len(channels)} of 8 channels"
    assert page.locator("#count").inner_text() == expected


def test_the_filter_knows_samples_and_the_dead_can_be_hidden(opened):
    page, small = opened.page, project_small()
    sample = int(small.samples[6, 3])
    page.fill("#filter", f"photo-{sample}.png")
    having = [row for row in range(8) if sample in small.samples[row].tolist()]
    shown = page.locator(".card:visible b").all_text_contents()
    assert [int(number) for number in shown] == having
    page.fill("#filter", "")
    page.check("#hide-dead")
    assert count_shown(page) == 7
    page.locator(".card").nth(3).click()
    page.locator("#next").click()
    assert page.locator("#channel-title").inner_text() == "Channel 5", "what is hidden is skipped"


def test_the_grid_turns_to_projections(opened):
    page = opened.page
    image = page.locator(".card img").first
    before = image.bounding_box()["y"]
    page.get_by_text("Deconvnet", exact=True).first.click()
    height = page.locator(".thumb").first.bounding_box()["height"]
    assert before - image.bounding_box()["y"] == pytest.approx(height, abs=0.5)


def test_a_link_to_a_channel_opens_it(opened, address):
    page = opened.page
    page.goto("about:blank")
    page.goto(f"{address}#channel-6")
    assert page.locator("#channel-title").inner_text() == "Channel 6"


@pytest.mark.parametrize(
    "opened", [{"viewport": PHONE, "has_touch": True}], indirect=True, ids=["phone"]
)
def test_a_phone_needs_no_sideways_scrolling(opened):
    page = opened.page
    overflow = "document.scrollingElement.scrollWidth - innerWidth"
    assert page.evaluate(overflow) <= 0
    page.locator(".card").nth(1).tap()
    page.locator("#channel-title").wait_for()
    assert page.evaluate("document.getElementById('channel').scrollWidth - innerWidth") <= 0
    assert page.evaluate(overflow) <= 0


@pytest.mark.parametrize(
    "opened",
    [{"color_scheme": scheme, "viewport": DESK} for scheme in ("light", "dark")],
    indirect=True,
    ids=["light", "dark"],
)
def test_text_has_contrast_in_light_and_dark(opened):
    page = opened.page
    luminances = {}
    for selector in ("body", ".caption span", ".dead .caption span"):
        for name in ("color", "backgroundColor"):
            found = page.locator(selector).first.evaluate(f"e => getComputedStyle(e).{name}")
            numbers = [float(n) for n in found[found.index("(") + 1 : -1].split(",")][:3]
            linear = [((n / 255 + 0.055) / 1.055) ** 2.4 for n in numbers]
            luminances[selector, name] = (
                0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
            )
    paper = luminances["body", "backgroundColor"]
    for selector in ("body", ".caption span", ".dead .caption span"):
        dark, light = sorted((paper, luminances[selector, "color"]))
        assert (light + 0.05) / (dark + 0.05) >= 4.5, selector  # WCAG 2, level AA


def test_a_whole_layer_loads_what_is_looked_at(browser, tmp_path):
    """512 channels: the page is ready at once, and the pictures below the fold are not loaded."""
    small = project_small()
    many = dataclasses.replace(
        small,
        channels=tuple(range(512)),
        **{
            name: getattr(small, name).repeat(64, *[1] * (getattr(small, name).dim() - 1))
            for name in ("values", "samples", "positions", "patches", "boxes", "fields")
        },
        by_method={"deconvnet": torch.cat([small.projections] * 64)},
    )
    page_path = many.save_html(tmp_path)
    assert page_path.stat().st_size < 2e6
    context = browser.new_context(viewport=DESK)
    page, requests = context.new_page(), []
    page.on("request", lambda request: requests.append(request.url))
    page.goto(page_path.as_uri())
    milliseconds = page.evaluate(
        "performance.getEntriesByType('navigation')[0].domContentLoadedEventEnd"
    )
    assert count_shown(page) == 512
    # A bound that a busy machine keeps; alone it takes a few hundred.
    assert milliseconds < 8000
    assert 10 < len(requests) < 300
    page.locator(".card").nth(511).scroll_into_view_if_needed()
    page.wait_for_function("document.querySelectorAll('.card img')[511].complete")
    context.close()

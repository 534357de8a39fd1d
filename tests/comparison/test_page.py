"""The page, opened from disk as a reader would: it sorts, and shows names as they are."""

import pytest
import torch
from pages import HOSTILE, PHONE, open_page
from torch import nn

from captum_deconv import comparison
from captum_deconv.comparison.page import write_page


class Named(list):
    """Images with names, one of them hostile."""

    samples = ("one", HOSTILE, "three")


class Headless(nn.Sequential):
    """A network without a convolution: Grad-CAM cannot be had of it."""


@pytest.fixture
def opened(browser, squares, tmp_path):
    torch.manual_seed(0)
    model = Headless(nn.Flatten(), nn.Linear(3 * 24 * 24, 4)).eval()
    data = Named(squares[0][:3])
    methods = ["gradcam", "input_gradient", "random", "occlusion"]
    metrics = ["deletion", "insertion"]
    found = comparison.run(model, data, methods=methods, metrics=metrics, out=tmp_path)
    page = write_page(found, model, data, tmp_path, restore=torch.sigmoid, title=HOSTILE)
    assert page == tmp_path / "index.html"
    with open_page(browser, page.as_uri()) as opened:
        yield opened, found


@pytest.mark.browser
def test_a_phone_scrolls_the_tables_only(opened):
    page = opened[0].page
    page.set_viewport_size(PHONE)
    assert page.evaluate("document.documentElement.scrollWidth") == PHONE["width"]
    boxes = page.locator(".scroll")
    assert any(boxes.nth(n).evaluate("box => box.scrollWidth > box.clientWidth") for n in (0, 1))


@pytest.mark.browser
def test_the_page_sorts(opened):
    opened, found = opened
    page = opened.page
    areas = found.summary["deletion"]["area"]
    titles = {name: comparison.METHODS[name].title for name in found.question.methods}

    def rows():
        return page.locator("#metrics tbody th").all_inner_texts()

    assert rows() == list(titles.values())
    ascending = sorted(areas, key=lambda name: areas[name]["mean"])
    button = page.locator("#metrics thead button").nth(1)
    button.click()
    assert rows() == [titles[name] for name in [*ascending, "gradcam"]]
    button.click()
    assert rows() == [titles[name] for name in [*ascending[::-1], "gradcam"]]
    page.locator("#metrics thead button").first.click()
    assert rows() == list(titles.values())

    values = [found.cells.values[name, "random", "deletion"]["area"] for name in Named.samples]
    order = sorted(range(3), key=lambda number: -values[number])
    page.select_option("#by", label="Deletion")
    page.select_option("#of", label="Control: random")
    pictures = page.locator("#maps tbody tr th img")
    shown = [pictures.nth(n).get_attribute("src")[-6] for n in range(3)]
    assert shown == [str(number) for number in order]
    assert page.title() == HOSTILE
    assert page.locator("#maps td.cannot").count() == 3
    assert "no convolution" in page.locator("#maps td.cannot").first.get_attribute("title")
    assert opened.problems == []

"""The pages: links lead somewhere, formulas need no network; read by ear, and on a phone."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import check_links
import pytest
from pages import PHONE, find_barriers, open_page

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
READ = (
    *("index", "tour", "theory", "what-pictures-tell", "howto", "which-method", "methods", "zoo"),
    *(
        "reference",
        "experiments",
        "search",
        "_examples/index",
        "_examples/attribution/see_coverage",
    ),
)
CONF = """
import sys
sys.path.insert(0, {docs!r})
extensions = ["myst_parser", "mathml"]
myst_enable_extensions = ["dollarmath"]
html_theme = "furo"
"""


def build(source, target):
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "-b", "html", str(source), str(target)]
    where = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": where}
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return target


@pytest.fixture(scope="module")
def formulas(tmp_path_factory):
    """Return a page of the formulas that the documentation has, and of nothing else."""
    pytest.importorskip("furo", reason="the extra docs is not installed")
    source = tmp_path_factory.mktemp("source")
    (source / "conf.py").write_text(CONF.format(docs=str(DOCS)), encoding="utf-8")
    text = "\n".join(path.read_text(encoding="utf-8") for path in sorted(DOCS.glob("*.md")))
    found = re.findall(r"\$\$.+?\$\$|(?<![$`\w])\$[^$\n]+\$", text, re.DOTALL)
    assert len(found) > 40
    (source / "index.md").write_text("# Formulas\n\n" + "\n\n".join(found), encoding="utf-8")
    return build(source, tmp_path_factory.mktemp("target")), len(found)


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """Return all pages, built anew."""
    pytest.importorskip("sphinx_gallery", reason="the extra docs is not installed")
    here = tmp_path_factory.mktemp("repository")
    left = shutil.ignore_patterns("_build", "_examples")
    shutil.copytree(DOCS, here / "docs", ignore=left)
    shutil.copytree(ROOT / "benchmarks/results", here / "benchmarks/results")
    return build(here / "docs", here / "html")


@pytest.mark.browser
def test_formulas_are_drawn_without_a_network(browser, formulas):
    folder, count = formulas
    assert check_links.check(folder) == []
    with open_page(browser, (folder / "index.html").as_uri()) as opened:
        drawn = opened.page.locator("article math")
        assert drawn.count() == count
        boxes = [drawn.nth(place).bounding_box() for place in range(count)]
        assert all(box["width"] > 4 and box["height"] > 4 for box in boxes)
        # A superscript is above the line, and a formula's text is no TeX.
        raised = opened.page.locator("article msup").first
        base, power = (raised.locator("> *").nth(place).bounding_box() for place in (0, 1))
        assert power["y"] < base["y"]
        text = opened.page.locator("article").inner_text()
        assert not re.search(r"\\[a-z]+|\$", text)


def write(folder, **pages):
    for name, text in pages.items():
        (folder / f"{name}.html").write_text(text, encoding="utf-8")
    return check_links.check(folder)


class TestLinks:
    def test_what_leads_somewhere(self, tmp_path):
        other = '<p id="a b">there</p><a name="old"></a>'
        one = (
            '<a href="other.html#a%20b">1</a><a href="other.html#old">2</a><a href="#here">3</a>'
            '<b id="here"></b><a href="https://example.org/">out</a><a href="other.html?q=1">4</a>'
            '<img src="data:image/png;base64,AA"><a href="mailto:a@b.c">5</a>'
            '<link rel="canonical" href="https://example.org/one.html">'
        )
        assert write(tmp_path, one=one, other=other) == []

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ('<a href="gone.html">x</a>', "gone.html leads nowhere"),
            ('<a href="other.html#gone">x</a>', "there is no such place"),
            ('<a href="#gone">x</a>', "there is no such place"),
            ('<img src="gone.png">', "gone.png is missing"),
            ('<img srcset="one.html 1x, gone.png 2x">', "gone.png is missing"),
            ('<script src="https://example.org/a.js"></script>', "asks a network"),
            ('<link rel="stylesheet" href="//example.org/a.css">', "asks a network"),
            ('<p style="background: url(http://example.org/a.png)">x</p>', "asks a network"),
        ],
    )
    def test_what_does_not(self, tmp_path, text, said):
        (found,) = write(tmp_path, one=text, other="<p>there</p>")
        assert said in found

    def test_a_style_sheet_that_fetches(self, tmp_path):
        (tmp_path / "a.css").write_text("@import url('https://example.org/font.css');")
        assert any("a.css" in line for line in write(tmp_path, one="<p>x</p>"))

    def test_no_page_at_all(self, tmp_path):
        assert "holds no page" in check_links.check(tmp_path)[0]


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"])
def test_what_the_repository_links_to_is_there(name):
    text = (ROOT / name).read_text(encoding="utf-8")
    found = re.findall(r"\]\(([^)\s]+)\)", text)
    inside = [link for link in found if not re.match(r"https?:|#", link)]
    assert [link for link in inside if not (ROOT / link.partition("#")[0]).exists()] == []
    assert found or name == "CONTRIBUTING.md"


@pytest.mark.slow
class TestBuilt:
    def test_links(self, pages):
        assert check_links.check(pages) == []

    @pytest.mark.browser
    @pytest.mark.parametrize("scheme", ["light", "dark"])
    @pytest.mark.parametrize("name", READ)
    def test_read_by_ear(self, browser, pages, name, scheme):
        address = (pages / f"{name}.html").as_uri()
        with open_page(browser, address, color_scheme=scheme) as opened:
            assert find_barriers(opened.page) == {}
            assert opened.page.locator("article img:not([alt])").count() == 0

    @pytest.mark.browser
    @pytest.mark.parametrize("name", READ)
    def test_read_on_a_phone(self, browser, pages, name):
        with open_page(browser, (pages / f"{name}.html").as_uri(), viewport=PHONE) as opened:
            width = opened.page.evaluate("document.documentElement.scrollWidth")
            assert width <= PHONE["width"]

    @pytest.mark.browser
    def test_searched(self, browser, pages):
        with open_page(browser, f"{(pages / 'search.html').as_uri()}?q=adjoint") as opened:
            found = opened.page.locator("ul.search li a")
            found.first.wait_for()
            names = " ".join(found.all_inner_texts())
            assert "What a deconvnet inverts" in names
            found.first.click()
            assert opened.page.locator("article").inner_text()

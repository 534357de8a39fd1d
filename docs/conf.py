import sys
import warnings
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

import figures  # noqa: E402  # they stand beside this file
import measured  # noqa: E402
import methods_figure  # noqa: E402
import pictures_tell  # noqa: E402
import scraping  # noqa: E402

project = "captum_deconv"
author = "the captum_deconv authors"
copyright = f"2026, {author}"

extensions = [
    *("myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_gallery.gen_gallery"),
    "mathml",  # it stands beside this file, as does `scraping`
]
# In the docstrings single backticks are code, as in Markdown.
default_role = "code"
autodoc_member_order = "bysource"
napoleon_numpy_docstring = False
myst_enable_extensions = ["amsmath", "attrs_block", "attrs_inline", "dollarmath", "substitution"]
myst_heading_anchors = 3
# Every figure and every number in the text is computed when the pages are built.
FIGURES = HERE / "_build" / "figures"
myst_substitutions = figures.build(FIGURES) | measured.read() | pictures_tell.build(FIGURES)
methods_figure.build(FIGURES)
scraping.draw_printed(FIGURES / "printed.png")

# Captum's own, of its own doings; they name files of this machine.
warnings.filterwarnings("ignore", "Input Tensor 0 did not already require gradients")
warnings.filterwarnings("ignore", "Setting backward hooks on ReLU activations")
# The tour is shown as it was kept; a test runs it. The examples are run here, and must not fail.
nb_execution_mode = "off"
sphinx_gallery_conf = {
    "examples_dirs": "examples",
    "gallery_dirs": "_examples",
    "filename_pattern": r"\.py$",
    "subsection_order": [
        f"examples/{room}"
        for room in ("attribution", "feature_maps", "data_sets", "experiments", "convolutions")
    ],
    "image_scrapers": ("scraping.scrape",),
    "capture_repr": ("_repr_html_",),
    "default_thumb_file": str(FIGURES / "printed.png"),
    "abort_on_example_error": True,
    "only_warn_on_example_error": False,
    "write_computation_times": False,
    "min_reported_time": 3600,  # how long it took is of the machine, and no use to a reader
    "remove_config_comments": True,
    "show_signature": False,
}

exclude_patterns = ["_build", "examples", "_examples/**/*.ipynb", "sg_execution_times.rst"]
html_theme = "furo"
html_title = "captum_deconv"
html_static_path = ["_static"]
html_css_files = ["captum_deconv.css"]
html_js_files = ["reachable.js"]
# Summaries are fetched, which a browser refuses on pages that are opened from a disk.
html_show_search_summary = False

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

import figures  # noqa: E402  # they stand beside this file
import measured  # noqa: E402
import methods_figure  # noqa: E402

project = "captum_deconv"
author = "the captum_deconv authors"
copyright = f"2026, {author}"

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.mathjax", "sphinx.ext.napoleon"]
# In the docstrings single backticks are code, as in Markdown.
default_role = "code"
autodoc_member_order = "bysource"
napoleon_numpy_docstring = False
myst_enable_extensions = ["amsmath", "attrs_block", "attrs_inline", "dollarmath", "substitution"]
myst_heading_anchors = 3
# Every figure and every number in the text is computed when the pages are built.
myst_substitutions = figures.build(HERE / "_build" / "figures") | measured.read()
methods_figure.build(HERE / "_build" / "figures")

exclude_patterns = ["_build"]
html_theme = "furo"
html_title = "captum_deconv"
html_static_path = ["_static"]
html_css_files = ["captum_deconv.css"]

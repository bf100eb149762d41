"""Configure Sphinx: the site builds without a network, and every warning is an error (`scripts/docs.sh`)."""

from __future__ import annotations

import os
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "extensions"))

# Examples and their processes use one thread, as the tests do, so that their times can be compared.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import reference_pages  # noqa: E402  # from docs/extensions

import mrirecon  # noqa: E402

project = "mrirecon"
author = "the authors of mrirecon"
project_copyright = "the authors of mrirecon, MIT licence"
version = release = mrirecon.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_gallery.gen_gallery",
    "docstrings",
    "mathml",
]
exclude_patterns = ["gallery/*", "examples/*.ipynb", "examples/*.zip", "examples/*.py"]
myst_enable_extensions = ["deflist", "dollarmath", "colon_fence"]
myst_heading_anchors = 3
nitpicky = False

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
python_maximum_signature_line_length = 90
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
default_role = "code"
smartquotes = False  # two dashes begin an option

html_theme = "furo"
html_title = f"mrirecon {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sourcelink = False
html_theme_options = {"navigation_with_keys": True}

sphinx_gallery_conf = {
    "examples_dirs": "gallery",
    "gallery_dirs": "examples",
    "filename_pattern": r"\.py$",
    "within_subsection_order": "FileNameSortKey",
    "remove_config_comments": True,
    "download_all_examples": False,
    "show_memory": False,
    "show_signature": False,
    "capture_repr": ("_repr_html_", "__repr__"),
    "write_computation_times": False,
}

reference_pages.write_all(HERE / "reference" / "generated")

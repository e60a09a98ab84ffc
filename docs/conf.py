"""How `make docs` makes the site of these pages: Sphinx, with nothing that is fetched from elsewhere."""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE / "_ext"), str(HERE.parent / "src")]

project = "stage2"
author = "the maintainers of stage2"
copyright = "the maintainers of stage2, Apache-2.0"  # Sphinx's name for it

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "public_names", "command_help"]
exclude_patterns = ["_ext"]

# GitHub's anchors, so that a link is right in either place.
myst_heading_anchors = 3
myst_enable_extensions = ["attrs_inline"]
suppress_warnings = ["myst.strikethrough"]

autodoc_typehints = "signature"
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
# Written out it is a line of numpy's private names.
autodoc_type_aliases = {"npt.ArrayLike": "ArrayLike"}
autodoc_class_signature = "mixed"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
default_role = "code"
add_module_names = False
toc_object_entries_show_parents = "hide"
maximum_signature_line_length = 100

html_theme = "furo"
html_title = "stage2"
html_copy_source = False
html_show_sourcelink = False
html_show_sphinx = False

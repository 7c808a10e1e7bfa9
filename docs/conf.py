"""The documentation site: how Sphinx builds it. `make docs` does so, into docs/site."""

import sys
from pathlib import Path

from ulos_stream import __version__

sys.path.insert(0, str(Path(__file__).parent.parent))

project = "ulos-stream"
author = "the authors of ulos-stream"
version = release = __version__
extensions = ["myst_parser", "docs.generated"]
exclude_patterns = ["site"]

myst_enable_extensions = ["deflist"]
myst_heading_anchors = 3
nitpicky = True

html_theme = "furo"
html_title = f"ulos-stream {version}"
html_use_index = False
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = html_show_sphinx = html_show_copyright = False
html_show_search_summary = False  # it fetches the pages found, which no browser allows a page from file://
pygments_style, pygments_dark_style = "a11y-light", "a11y-dark"

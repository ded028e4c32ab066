"""How Sphinx builds the documentation. It needs no network and no configured Django settings."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from django_db_pooling import __version__  # noqa: E402

project = "django_db_pooling"
author = "django_db_pooling developers"
copyright = f"2026, {author}"
release = version = __version__

extensions = ["sphinx.ext.autodoc", "sphinx.ext.autosectionlabel"]
autosectionlabel_prefix_document = True
# Several tables there have the same title.
suppress_warnings = ["autosectionlabel.benchmarks"]
autodoc_member_order = "bysource"
# It is compiled where it is installed, which not everybody can.
autodoc_mock_imports = [] if importlib.util.find_spec("ldap") else ["ldap"]
autodoc_typehints = "description"
exclude_patterns = ["_build"]
html_theme = "furo" if importlib.util.find_spec("furo") else "alabaster"
html_title = f"django_db_pooling {__version__}"
html_static_path = ["_static"]
html_css_files = ["comparison.css", "pages.css"]

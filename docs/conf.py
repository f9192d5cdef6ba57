"""Sphinx configuration."""

from __future__ import annotations

import sys
from importlib.metadata import version as installed
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from generate import HERE, generate

generate(HERE / "reference" / "generated")

project = "medtl-monai"
author = "The medtl-monai developers"
copyright = "2026, the medtl-monai developers"
release = version = installed("medtl-monai")

extensions = ["myst_parser"]
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3
exclude_patterns = ["_build", "reference/generated"]
nitpicky = True
html_theme = "furo"
html_title = "medtl-monai"
html_copy_source = False

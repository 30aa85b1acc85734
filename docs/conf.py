"""Sphinx configuration: ``sphinx-build -n -W --keep-going -b html docs docs/_build/html``."""

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
# one thread per library: figures and timings then do not depend on the machine's load
os.environ.setdefault("OMP_NUM_THREADS", "1")

import stemkit

project = "stemkit"
author = "The stemkit developers"
copyright = author
version = release = stemkit.__version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.mathjax",
    "sphinx-mathjax-offline",
    "numpydoc",
    "sphinx_gallery.gen_gallery",
    "changelog",
]
templates_path = ["_templates"]
exclude_patterns = ["_build", "gallery/*.ipynb"]
nitpicky = True
# names of other packages: the build has no network to look them up
nitpick_ignore_regex = [(r"py:.*", r"(matplotlib|numpy|pandas|sklearn|skorch|torch|xarray)\..*")]

html_theme = "furo"
html_title = f"stemkit {release}"
html_show_sphinx = False
html_static_path = ["_static"]
html_css_files = ["stemkit.css"]

autosummary_generate = True
autodoc_typehints = "none"  # the docstrings name the types, with shapes and units
autodoc_member_order = "bysource"
numpydoc_show_class_members = False  # the templates list them
numpydoc_xref_param_type = False

sphinx_gallery_conf = {
    "examples_dirs": "../examples",
    "gallery_dirs": "gallery",
    "filename_pattern": r"/plot_",
    "within_subsection_order": "gallery_order.GalleryOrder",
    "doc_module": ("stemkit",),
    "reference_url": {"stemkit": None},
    "backreferences_dir": "api/generated/backreferences",
    "download_all_examples": False,
    "remove_config_comments": True,
    "capture_repr": ("_repr_html_",),  # tables, not the names of matplotlib's objects
    "show_memory": False,
    "min_reported_time": 1,
}

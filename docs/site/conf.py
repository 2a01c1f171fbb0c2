"""Settings of the documentation's site; `python -m docs` builds it. `tree.py` holds the tree of its pages."""

import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT)]

from convolith import __version__  # noqa: E402 - found by the path above
from docs.site import pages  # noqa: E402

project = "Convolith"
author = project_copyright = "The Convolith developers"
version = release = __version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
]
# The sources are the repository itself, so that links between its pages work as they stand, on the site and off it.
include_patterns = ["docs/*.md", "docs/**/*.md", "tutorials/*.md", "tutorials/*.py", "*.md"]
exclude_patterns = [".*", "README.md", "build", "web", "src", "tests", "bench", "dist"]
root_doc = "docs/index"
nitpicky = True
# Types of other packages, types of arguments that users do not make, and names of types that annotations use.
EXTERNAL = r"(collections\.abc|concurrent\.futures|fractions|np|numpy|pathlib|torch)\..*"
INTERNAL = (
    r"convolith\.(report|big\.(stores|blocks|layout)|fitting\.(data|kernel_options|descent|gram)|folding\.report"
    r"|network\.(module|fixed)|correlation\.images|nn\.conversion)\..*"
)
ALIASES = r"Axes|Figure|Padding|Picture|Range"
nitpick_ignore_regex = [("py:(class|obj)", EXTERNAL), ("py:class", INTERNAL), ("py:class", ALIASES)]
suppress_warnings = ["ref.python"]  # attributes of two classes may have one name

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 4
nb_custom_formats = {".py": ["jupytext.reads", {"fmt": "py:percent"}]}
nb_execution_mode = "cache"  # which `execution.py` fills
nb_execution_cache_path = str(ROOT / "build" / "site-blocks")
nb_execution_timeout = 300  # seconds for a page; `execution.py` holds it
nb_merge_streams = True
nb_ipywidgets_js: dict[str, str] = {}  # pages fetch nothing from elsewhere

napoleon_use_ivar = True  # attributes are described once, where the docstring does
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
toc_object_entries_show_parents = "hide"
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 88
default_role = "code"
copybutton_exclude = ".linenos, .gp, .go"
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

html_theme = "pydata_sphinx_theme"
html_title = f"Convolith {release}"
html_context = {"default_mode": "auto"}
html_favicon = "static/icon.svg"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_show_sourcelink = False
html_theme_options = {
    "logo": {"text": "Convolith"},
    "navbar_align": "left",
    "navbar_end": ["theme-switcher"],
    "header_links_before_dropdown": 8,
    "show_toc_level": 2,
    "footer_start": ["copyright"],
    "footer_end": [],
}


def setup(app: "object") -> None:
    """Connect what `pages` does to the build."""
    pages.connect(app)

"""Sphinx configuration: `sphinx-build -W -c docs docs/_build/src docs/_build/html` (see `make docs`)."""
import sys
from configparser import ConfigParser
from pathlib import Path

import sphinxcontrib.katex

here = Path(__file__).parent
sys.path.insert(0, str(here))
ini = ConfigParser(delimiters=["="])
ini.read(here.parent / "settings.ini", encoding="utf-8")
cfg = ini["DEFAULT"]

project, author, release, language = cfg["lib_name"], cfg["author"], cfg["version"], "en"
project_copyright = cfg["copyright"]
extensions = ["sphinx.ext.autodoc", "sphinx.ext.intersphinx", "myst_nb", "sphinxcontrib.katex", "sphinx_copybutton", "vae_site"]

# Notebooks: shown as stored, never run. The extension translates nbdev's directives.
nb_execution_mode = "off"
nb_merge_streams = True
nb_output_stderr = "remove"
nb_code_prompt_show, nb_code_prompt_hide = "Show the code", "Hide the code"
myst_enable_extensions = ["attrs_block", "attrs_inline", "dollarmath", "fieldlist"]
myst_heading_anchors, myst_heading_slug_func = 3, "vae_site.heading_slug"
myst_links_external_new_tab = False

# Equations: KaTeX from npm, rendered at build time; an error in one stops the build.
katex_prerender = True
katex_js_path = str(here / "node_modules/katex/dist/katex.min.js")
katex_css_path = "katex/katex.min.css"
sphinxcontrib.katex.KATEX_DEFAULT_OPTIONS.update(throwOnError=True, strict="error")
sphinxcontrib.katex.STARTUP_TIMEOUT = sphinxcontrib.katex.RENDER_TIMEOUT = 60.0  # seconds; a busy machine needs more than five

html_theme = "furo"
html_title = project
html_baseurl = cfg["doc_host"] + cfg["doc_baseurl"] + "/"
html_static_path = [str(here / "static")]
html_css_files = ["site.css"]
html_js_files = [("site.js", {"defer": "defer"})]
html_favicon = str(here / "static/favicon.svg")
html_use_index = html_domain_indices = False
html_sourcelink_suffix = ""
html_permalinks_icon = "#"
html_show_sphinx = False

# The API reference: autodoc; the extension adds docments.
autodoc_default_options = {"members": True, "undoc-members": True, "member-order": "bysource", "no-value": True}
autodoc_inherit_docstrings, autodoc_preserve_defaults = False, True
add_module_names = False
toc_object_entries_show_parents = "hide"
python_maximum_signature_line_length = 76

# Names of other projects link to their documentation; the inventories are kept here (inventories/make.py), the build asks no network.
intersphinx_mapping = {name: (url, str(here / f"inventories/{name}.inv")) for name, url in {
    "python": "https://docs.python.org/3/", "torch": "https://docs.pytorch.org/docs/stable/", "torchvision": "https://docs.pytorch.org/vision/stable/",
    "numpy": "https://numpy.org/doc/stable/reference/", "matplotlib": "https://matplotlib.org/stable/api/"}.items()}

# Colours that furo asks for; what is only ours is in static/site.css.
LIGHT = {
    "indigo": "#3b5bdb", "orange": "#b84300", "green": "#2b8a3e", "purple": "#862e9c", "tint": "#f3f5fd", "rule": "#e1e5ef",
    "color-brand-primary": "#2f4ac0", "color-brand-content": "#2f4ac0", "color-brand-visited": "#2f4ac0",
    "color-foreground-primary": "#1b1e28", "color-foreground-secondary": "#434960", "color-foreground-muted": "#5a6078",
    "color-background-primary": "#ffffff", "color-background-secondary": "#f8f9fc", "color-background-hover": "#eceffa",
    "color-background-border": "#e1e5ef", "color-code-background": "#f6f7fb", "color-code-foreground": "#1b1e28",
    "color-inline-code-background": "#f1f3f9", "color-highlight-on-target": "#fff4db", "color-link-underline": "#b9c5f5",
}
DARK = {
    "indigo": "#91a7ff", "orange": "#ffa94d", "green": "#8ce99a", "purple": "#e599f7", "tint": "#1a1e2e", "rule": "#2b3044",
    "color-brand-primary": "#a5b8ff", "color-brand-content": "#a5b8ff", "color-brand-visited": "#a5b8ff",
    "color-foreground-primary": "#e4e7f0", "color-foreground-secondary": "#b6bccf", "color-foreground-muted": "#9aa1b8",
    "color-background-primary": "#12141c", "color-background-secondary": "#0d0f16", "color-background-hover": "#1d2233",
    "color-background-border": "#2b3044", "color-code-background": "#191d2a", "color-code-foreground": "#e4e7f0",
    "color-inline-code-background": "#1f2334", "color-highlight-on-target": "#3a3115", "color-link-underline": "#46538c",
}
html_theme_options = {"top_of_page_buttons": [], "navigation_with_keys": True, "light_css_variables": LIGHT, "dark_css_variables": DARK}
pygments_style, pygments_dark_style = "github-light", "github-dark"
copybutton_selector = "div.cell_input pre, section > div.notranslate pre, details > div.notranslate pre"

"""The site's figures that a hand can move; `vae_site` calls this.

A code cell with the directive `#| explorable: NAME key=value ...` shows a picture. On the site a figure is put around it, and
where there is JavaScript, docs/explorables/NAME.js takes its place when it is scrolled to (docs/explorables/explorables.js).
"""
import html
import re
import shutil
from importlib import import_module
from pathlib import Path

from docutils import nodes
from sphinx.util import logging

logger = logging.getLogger(__name__)
TAG = "tag_explorable:"  # MyST-NB makes a class of each tag of a cell


def explorable_tag(words):
    "The tag of a cell whose directive says `NAME key=value ...`; no space may be in a tag."
    return {f"explorable:{'&'.join(words.split())}"} if words else set()


def opening(name, *options):
    "The tags that begin a figure."
    data = "".join(f' data-{key}="{html.escape(value)}"' for key, value in (option.split("=") for option in options))
    return f'<figure class="explorable" data-name="{html.escape(name)}"{data}><div class="explorable-static">'


def mark_explorables(doctree):
    "The figure around the picture of each cell that has the directive."
    for cell in doctree.findall(nodes.container):
        for word in [c.removeprefix(TAG) for c in cell["classes"] if c.startswith(TAG)]:
            cell["classes"].remove(TAG + word)
            outputs = [c for c in cell.children if "cell_output" in c["classes"]]
            if not outputs: logger.warning(f"the cell of the explorable {word.split('&')[0]} has no picture: execute the notebook", location=cell, type="site", subtype="explorable")
            for output in outputs:
                output.insert(0, nodes.raw("", opening(*word.split("&")), format="html"))
                output.append(nodes.raw("", "</div></figure>", format="html"))


def head(body, pathto):
    "Script and stylesheet of a page that has such a figure."
    if 'class="explorable"' not in body: return ""
    at = lambda file: pathto(f"_static/explorables/{file}", 1)
    return f'<link rel="stylesheet" href="{at("explorables.css")}"><script type="module" src="{at("explorables.js")}"></script>'


def copy_explorables(app):
    "Scripts, stylesheet and data, if a notebook of this project has a figure."
    project, scripts = app.vae_project, Path(app.confdir) / "explorables"
    if not any(re.search(r"^#\| explorable:", "".join(c["source"]), re.M) for nb in project.notebooks.values() for c in nb["cells"]): return
    target = Path(app.outdir) / "_static/explorables"
    target.mkdir(parents=True, exist_ok=True)
    for file in scripts.iterdir(): shutil.copyfile(file, target / file.name)
    import_module(f"{project.lib}.explorables").write_explorables(target / "data")

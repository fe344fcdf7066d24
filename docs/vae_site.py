"""The site's one extension: nbdev notebooks in, pages out (docs/README.md tells the story).

Three steps, in the order in which Sphinx takes them:
1. `stage` fills Sphinx's source folder: the notebooks as they are, the pages of docs/pages, and those that are generated,
   the API reference (for autodoc, which asks `describe` for the docments), the list of exercises (`vae_exercises`), the
   bibliography (from references.bib) and the page for what is not there (`vae_chapters`).
2. `translate` turns one notebook into what MyST-NB understands: nbdev's directives become cell tags, the Colab badge
   becomes the chapter's head (`vae_chapters`), cells that are exported or check an equation get a mark. From notebook to
   notebook.
3. `finish` works on the parsed page: notes, equation numbers, references to them and to their checks, links of names in
   backticks, which Sphinx, `public_name` and intersphinx resolve. What then becomes a file passes through `vae_pages`.
"""
import ast
import base64
import inspect
import io
import json
import re
import shutil
import socket
import subprocess
import sys
import textwrap
import time
from configparser import ConfigParser
from dataclasses import dataclass, is_dataclass
from importlib import import_module
from pathlib import Path

import imagesize
from docutils import nodes
from fastcore.docments import docments
from pybtex.database import parse_file
from readme import PARTS
from sphinx import addnodes
from sphinx.util import logging
from sphinx.util.typing import stringify_annotation
from sphinxcontrib.katex import KaTeXError, KaTeXServer
from vae_chapters import at_a_glance, book_map, contents, in_this_chapter, not_found, reading_minutes, source
from vae_exercises import exercises_page, mark_exercises
from vae_explorables import copy_explorables, explorable_tag, mark_explorables
from vae_pages import PRELOADED, note_symbols, page_context, root_links

logger = logging.getLogger(__name__)
BADGE = re.compile(r"\[!\[[^\]]*\]\(https://colab\.research\.google\.com/assets/colab-badge\.svg\)\]\(\S+\)")
CITED_HOSTS = ("https://arxiv.org/", "https://doi.org/")  # a link there is a citation, and must be in the bibliography


def warn(message, location, kind):
    logger.warning(message, location=location, type="site", subtype=kind)


# ---------------------------------------------------------------------------------------------------- the project

@dataclass(frozen=True)
class Chapter:
    "One notebook: its file name without ending, its number and part, its title and the module that it exports to."
    docname: str
    number: int
    part: str
    title: str
    subtitle: str
    module: str


class Project:
    "settings.ini, the chapters, the bibliography and what the package offers, read once per build."

    def __init__(self, root):
        self.root = Path(root)
        ini = ConfigParser(delimiters=["="])
        if not ini.read(self.root / "settings.ini", encoding="utf-8"):
            raise SystemExit(f"no settings.ini in {self.root}")
        self.ini = ini["DEFAULT"]
        self.lib, self.nbs = self.ini["lib_name"], self.root / self.ini["nbs_path"]
        self.blob = f"{self.ini['git_url']}/blob/{self.ini['branch']}"
        self.colab = f"https://colab.research.google.com/github/{self.ini['user']}/{self.ini['repo']}/blob/{self.ini['branch']}"
        self.notebooks = {p.stem: json.loads(p.read_text("utf-8")) for p in sorted(self.nbs.glob("[!._]*.ipynb"))}
        self.chapters = {name: chapter(name, nb) for name, nb in self.notebooks.items() if re.match(r"\d\d_", name)}
        sys.path.insert(0, str(self.root))  # the package of this project, installed or not
        self.modules = {c.module: c for c in self.chapters.values() if (self.root / self.lib / f"{c.module}.py").exists() and c.module != "__init__"}
        self.home = {name: module for module, names in import_module(self.lib).PUBLIC.items() for name in names.split()}
        self.raising = {name for module in self.modules for name, thing in self.offers(module).items() if inspect.isfunction(thing) and raised(thing)}
        self.shown = {name: doc for doc, nb in self.notebooks.items() for cell in nb["cells"] if cell["cell_type"] == "code"
                      for found, code in [split_directives(source(cell))] if "exports" in found for name in defined(code)}
        self.lessons = {name: tagged(self.notebooks[name]) for name in self.chapters}
        self.minutes = {name: reading_minutes(cells) for name, cells in self.lessons.items()}
        bib = self.root / "docs" / "references.bib"
        self.bib = parse_file(str(bib)).entries if bib.exists() else {}
        self.cites = {e.fields["url"]: key for key, e in self.bib.items()}
        self.moved = json.loads((self.root / "docs/moved.json").read_text("utf-8"))  # "page.html#anchor" that was -> the one that is

    def offers(self, module):
        "The public names of a module and what they are, in the order of its source."
        things = vars(import_module(f"{self.lib}.{module}"))
        return {name: thing for name, thing in things.items() if name in things["__all__"]}


def chapter(docname, nb):
    "What the head of a notebook says of it."
    text = next((source(c) for c in nb["cells"] if c["cell_type"] == "markdown"), "")
    title, subtitle = re.search(r"^# (.+)$", text, re.M), re.search(r"^> (.+)$", text, re.M)
    module = next((d["default_exp"] for c in nb["cells"] if c["cell_type"] == "code"
                   for d in [split_directives(source(c))[0]] if "default_exp" in d), "")
    return Chapter(docname, int(docname[:2]), PARTS[docname[0]],
                   title[1] if title else docname, subtitle[1] if subtitle else "", module)


def anchor(name, project):
    "Where the page derives an exported name; for docutils `MUON` and `Muon` are one, so the second gets a number."
    twins = [n for n in project.shown if n.lower() == name.lower()]
    return f"src-{name}" + (f"-{twins.index(name) + 1}" if name in twins[1:] else "")


def defined(code):
    "The names that a cell defines."
    try: tree = ast.parse(code)
    except SyntaxError: return []
    names = [n.name for n in tree.body if isinstance(n, (ast.FunctionDef, ast.ClassDef))]
    return names + [t.id for n in tree.body if isinstance(n, ast.Assign) for t in n.targets if isinstance(t, ast.Name)]


# ------------------------------------------------------------------------------------------------- 2. one notebook

TAGS = {"hide": "remove-cell", "default_exp": "remove-cell", "export": "hide-input", "exporti": "hide-input",
        "hide_input": "remove-input", "hide_output": "remove-output", ("include", "false"): "remove-cell",
        ("echo", "false"): "remove-input", ("output", "false"): "remove-output", ("code-fold", "true"): "hide-input"}
KNOWN = {"explorable", "exports", "checks", "code-fold", "echo", "output", "eval", "include", "fig-alt", "fig-cap", "slow"}
TAG = re.compile(r"\\tag\{([^}]*)\}")


def split_directives(text):
    "A code cell's leading `#|` lines as a dict, and the code below them."
    found, lines = {}, text.split("\n")
    while lines and (not lines[0].strip() or lines[0].lstrip().startswith("#|")):
        if match := re.match(r"\s*#\|\s*([\w-]+):?\s*(.*)", lines.pop(0)): found[match[1]] = match[2].strip().strip("\"'")
    return found, "\n".join(lines)


def tags_of(found):
    "The cell tags that stand for these directives."
    return {TAGS.get(name) or TAGS.get((name, value)) for name, value in found.items()} - {None}


def tagged(nb):
    "The cells of a notebook; those of code without their directives, with the tags that stand for them."
    cells = []
    for cell in nb["cells"]:
        found, text = split_directives(source(cell)) if cell["cell_type"] == "code" else ({}, source(cell))
        cells.append({**cell, "source": text, "metadata": {**cell["metadata"], "tags": sorted(tags_of(found))}})
    return cells


def heading_slug(title):
    "The anchor of a heading as Jupyter, and so a link in a notebook, spells it."
    return title.replace(" ", "-")


def checked(found):
    "The numbers of the equations that a cell checks."
    return re.findall(r"[^\s,]+", found.get("checks", ""))


def unchecked(nb):
    "What is wrong between a chapter's numbered equations and the cells that check them, a sentence each."
    tags = [tag for cell in nb["cells"] if cell["cell_type"] == "markdown" for tag in TAG.findall(source(cell))]
    cells = [split_directives(source(cell)) for cell in nb["cells"] if cell["cell_type"] == "code"]
    named = {number: (found, code) for found, code in cells for number in checked(found)}
    wrong = [f"equation ({tag}) has no cell that checks it, one with a line '#| checks: {tag}'" for tag in tags if tag not in named]
    for number, (found, code) in named.items():
        if number not in tags: wrong.append(f"'#| checks: {number}' names an equation that the chapter does not have")
        elif "exports" in found or tags_of(found) - {"remove-output"}: wrong.append(f"the check of equation ({number}) is hidden or exported: a reader must see it, and a module is no place for it")
        elif not re.search(r"\bassert|\btest_\w+\(", code): wrong.append(f"the check of equation ({number}) asserts nothing")
    return wrong


def fold_title(code):
    "What a fold says of the names that it defines, a line each: the docstring's first line, so that nobody has to open it."
    said = [f"{name}: {words}" if words else name for name in defined(code) for words in [described(name, code)]]
    return "Left out here: " + ("\n".join(["", *said]) if len(said) > 1 and said != defined(code) else ", ".join(said))


def described(name, code):
    "The first line of a name's docstring, or the comment in its line, without backticks."
    things = {n.name: n for n in ast.parse(code).body if isinstance(n, (ast.FunctionDef, ast.ClassDef))}
    words = (ast.get_docstring(things[name]) or "").split("\n")[0] if name in things else comment(name, code)
    return words.replace("`", "")


def code_cell(cell, docname, module, project):
    "One code cell as MyST-NB wants it; before it the mark of an exported one."
    found, code = split_directives(source(cell))
    for name in sorted(set(found) - KNOWN - {t for t in TAGS if isinstance(t, str)} - set(project.ini["tst_flags"].split())):
        warn(f"unknown directive '#| {name}'", docname, "directive")
    tags = tags_of(found) | explorable_tag(found.get("explorable"))
    cell = {**cell, "source": code, "metadata": {**cell["metadata"], "tags": sorted(tags)}}
    pictures = [base64.b64decode("".join(o["data"]["image/png"])) for o in cell["outputs"] if "image/png" in o.get("data", {})]
    if pictures and not tags & {"remove-cell", "remove-output"}:
        if not found.get("fig-alt"): warn(f"a figure without a line '#| fig-alt: what it shows' in: {code[:60]!r}", docname, "alt")
        cell["metadata"]["mystnb"] = {"image": {"alt": found.get("fig-alt", ""), **dict(zip(("width", "height"), map(str, imagesize.get(io.BytesIO(pictures[0])))))}}
        if found.get("fig-cap"): cell["metadata"]["mystnb"]["figure"] = {"caption": found["fig-cap"]}
    if "hide-input" in tags and "code-fold" not in found:  # an exported cell that the page leaves out: a fold, or nothing for imports
        if not defined(code): return []
        cell["metadata"]["mystnb"] = {"code_prompt_show": fold_title(code)}
    if numbers := checked(found):
        return [markdown_cell(f"{{.checks}}\nchecks Eq{'s' * (len(numbers) > 1)}. " + ", ".join(f"({n})" for n in numbers), f"checks-{cell['id']}"), cell]
    if "exports" not in found: return [cell]
    names = [n for n in defined(code) if not n.startswith("_")] if module in project.modules else []
    home = f"{{py:mod}}`{project.lib}.{module}`" if module in project.modules else f"[`{project.lib}`](api/index.md)"
    links = ", ".join(f"{{py:obj}}`{n} <{project.lib}.{module}.{n}>`" for n in names)
    spans = "".join(f"[]{{#{anchor(n, project)}}}" for n in names)
    mark = f"{{.exported}}\n{spans}[exported to]{{.exported-verb}} {home}" + (f" [{links}]{{.exported-names}}" if links else "")
    return [markdown_cell(mark, f"mark-{cell['id']}"), cell]


def markdown_cell(text, cell_id):
    return {"cell_type": "markdown", "id": cell_id, "metadata": {}, "source": text}


def translate(nb, docname, project):
    "A notebook as its author wrote it -> the same for MyST-NB."
    this = project.chapters.get(docname)
    cells = []
    for cell in nb["cells"]:
        if cell["cell_type"] == "code": cells += code_cell(cell, docname, this.module if this else "", project)
        elif cell["cell_type"] == "markdown": cells.append({**cell, "source": source(cell)})
    if this:
        buttons = (f'<nav class="chapter-links" aria-label="This chapter elsewhere">'
                   f'<a class="colab" href="{project.colab}/{project.ini["nbs_path"]}/{docname}.ipynb">Open in Colab</a>'
                   f'<a class="download" href="_sources/{docname}.ipynb" download>Download notebook</a>'
                   f'<a class="source" href="{project.blob}/{project.ini["nbs_path"]}/{docname}.ipynb">View source</a></nav>')
        eyebrow = f'<p class="eyebrow">{this.part}' + ("" if this.number >= 90 else f" · Chapter {this.number}") + "</p>"
        head, glance, below = cells[0]["source"], at_a_glance(nb, this, project), in_this_chapter(this, project)
        if not BADGE.search(head): warn("the first cell has no Colab badge", docname, "badge")
        cells[0] = {**cells[0], "source": f"{eyebrow}\n\n" + BADGE.sub(lambda _: f"{glance}\n\n{buttons}\n\n{below}", head)}
        for words in unchecked(nb): warn(words, docname, "check")
    for cell in cells:
        if cell["cell_type"] == "markdown": cell["source"] = BADGE.sub("", cell["source"])
    if docname == "index": cells = landing_cells(cells, project)
    return {**nb, "cells": cells}


def landing_cells(cells, project):
    "The landing page: docs/landing.md below the subtitle, in place of the notebook's first picture; then the map of chapters, for the notebook's table."
    intro = (project.root / "docs" / "landing.md").read_text("utf-8").replace("COLAB", project.colab).replace("GIT", project.ini["git_url"])
    picture = next((c for c in cells if any("image/png" in o.get("data", {}) for o in c.get("outputs", []))), None)
    head = {**cells[0], "source": BADGE.sub("", cells[0]["source"]) + "\n\n" + intro}
    rest = [{**c, "source": re.sub(r"<!-- chapters -->.*<!-- end -->", lambda _: book_map(project), source(c), flags=re.S)} for c in cells[1:] if c is not picture]
    return [head, *sorted(rest, key=lambda c: "book-map" not in c["source"]), markdown_cell(contents(project), "contents")]


# --------------------------------------------------------------------------------------------- 1. the source folder

def stage(project, into, address):
    "Write the pages that Sphinx reads, touching only what changed, and remove what is no longer a page."
    pages = {f"{name}.ipynb": (project.nbs / f"{name}.ipynb").read_text("utf-8") for name in project.notebooks}
    pages |= {p.name: p.read_text("utf-8") for p in sorted((project.root / "docs" / "pages").glob("*.md"))}
    pages |= {f"api/{module}.md": api_page(project, module) for module in project.modules}
    pages |= {"api/index.md": api_index(project), "exercises.md": exercises_page(project), "references.md": references_page(project), "404.md": not_found(project, address)}
    for name, text in pages.items():
        path = into / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists() or path.read_text("utf-8") != text: path.write_text(text, "utf-8")
    for path in into.rglob("*"):
        if path.is_file() and path.relative_to(into).as_posix() not in pages: path.unlink()


def markdown(text):
    "Plain text, with code in backticks, as Markdown."
    return "".join(part if part.startswith("`") else re.sub(r"([\\*_$\[\]<>{}|])", r"\\\1", part)
                   for part in re.split(r"(`[^`]*`)", text))


def describe(app, what, name, obj, options, lines):
    "What autodoc says of one thing: its docstring, docments as a list of fields, the errors, links to chapter and source."
    project = app.vae_project
    module, *owner, short = name.removeprefix(f"{project.lib}.").split(".")
    if what == "data":
        text = inspect.getsource(import_module(f"{project.lib}.{module}"))
        first = last = text.count("\n", 0, re.search(rf"^(?:\w+, )*{short}\b", text, re.M).start()) + 1
        lines[:] = [plain(comment(short, text))]
    else:
        code, first = inspect.getsourcelines(getattr(obj, "fget", obj))
        last = first + len(code) - 1
        lines[:] = [*map(plain, lines), "", *fields(getattr(obj, "fget", obj), "".join(code), project.raising - {short})]
    links = [f"`source <{project.blob}/{project.lib}/{module}.py#L{first}-L{last}>`__"]
    if short in project.shown and not owner: links.insert(0, f":ref:`derived in {chapter_name(project, project.shown[short])} <{anchor(short, project)}>`")
    lines += ["", ".. container:: api-links", "", *(line for link in links for line in (f"   {link}", ""))]


def left_out(app, what, name, obj, skip, options):
    "Values (a named tuple's or a dataclass's are its parameters), and what another project's base class defines or documents."
    if getattr(obj, "__name__", name) != name: return True  # a function as the value of a field
    ours = (getattr(obj, "__module__", None) or app.vae_project.lib).startswith(app.vae_project.lib)
    return skip or not ours or not (callable(obj) or isinstance(obj, property)) or not obj.__doc__ and bool(inspect.getdoc(obj))


def plain(text):
    "Plain text, with code in backticks, as reStructuredText."
    return "".join(f"``{part[1:-1]}``" if part.startswith("`") else re.sub(r"([\\*_|`])", r"\\\1", part) for part in re.split(r"(`[^`]*`)", text))


def comment(name, code):
    "The comment in the line that assigns or annotates a name."
    return re.search(rf"^\s*(?:\w+, )*{name}\b.*?(?:  # (.*))?$", code, re.M)[1] or ""


def fields(obj, code, raising):
    "Parameters, result and errors of a function, or of what makes an object of a class."
    if hasattr(obj, "_fields") or is_dataclass(obj):
        out = [line for name, kind in obj.__annotations__.items() for line in parameter(name, kind, comment(name, code))]
        return out + errors(obj.__post_init__, raising) if hasattr(obj, "__post_init__") else out
    function = obj.__init__ if inspect.isclass(obj) else obj
    if getattr(function, "__module__", None) != obj.__module__ or function.__name__ == "<lambda>": return []
    notes = docments(function, full=True, args_kwargs=True)
    result = notes.pop("return", None)
    out = [line for name, note in notes.items() if name != "self" for line in parameter(name, note.anno, note.docment)]
    if result and result.docment: out.append(f":returns: {plain(result.docment)}")
    return out + errors(function, raising)


def errors(function, raising):
    "What a function raises itself, and through which functions it raises more."
    out = [f":raises {error}: {plain(words)}" for error, words in dict.fromkeys(raised(function))]
    called = {ast.unparse(node.func).rpartition(".")[2] for node in tree(function) if isinstance(node, ast.Call)}
    if through := sorted(called & raising):
        out.append(":raises ValueError: what " + " and ".join(f"``{name}``" for name in through) + " raises")
    return out


def parameter(name, kind, words):
    kinds = [] if kind is inspect.Parameter.empty else [f":type {name}: {stringify_annotation(kind, 'smart')}"]
    return [f":param {name}: {plain(words or '')}", *kinds]


def tree(function):
    return ast.walk(ast.parse(textwrap.dedent(inspect.getsource(function))))


def raised(function):
    "The errors that a function raises itself: their names and words, with an ellipsis where a value goes."
    calls = [node.exc for node in tree(function) if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call)]
    parts = [getattr(call.args[0], "values", call.args[:1]) if call.args else [] for call in calls]
    return [(ast.unparse(call.func), "".join(str(p.value) if isinstance(p, ast.Constant) else "…" for p in said)) for call, said in zip(calls, parts)]


def chapter_name(project, doc):
    c = project.chapters[doc]
    return markdown(c.title) if c.number >= 90 else f"chapter {c.number}, {markdown(c.title)}"


def api_page(project, module):
    home = project.modules[module]
    kinds = {name: "class" if inspect.isclass(thing) else "function" if callable(thing) else "data" for name, thing in project.offers(module).items()}
    return "\n".join([f"# {project.lib}.{module}", "", f"> {home.subtitle}", "", "{.api-links}",
                      f"[{chapter_name(project, home.docname)}](../{home.docname}.ipynb) [source]({project.blob}/{project.lib}/{module}.py)", "",
                      f"```{{eval-rst}}\n.. py:module:: {project.lib}.{module}\n", *(f".. auto{kind}:: {name}" for name, kind in kinds.items()), "```"])


def api_index(project):
    out = ["# API reference", "> Every public name, by the chapter that derives it", "",
           f"Each is importable from `{project.lib}` itself. The page of a module has its helpers too.", ""]
    for module, home in project.modules.items():
        things, text = project.offers(module), inspect.getsource(import_module(f"{project.lib}.{module}"))
        first = {name: (inspect.getdoc(thing) or "").split("\n")[0] if callable(thing) else comment(name, text) for name, thing in things.items()}
        names = [name for name in things if project.home.get(name) == module] or [*things]
        out += [f"## {project.lib}.{module}", "", f"From [{chapter_name(project, home.docname)}](../{home.docname}.ipynb).", "",
                "| name | what it is |", "|---|---|",
                *(f"| {{py:obj}}`{name} <{project.lib}.{module}.{name}>` | {markdown(first[name])} |" for name in names), ""]
    return "\n".join([*out, "```{toctree}\n:hidden:\n\n", *(f"{m} <{m}>" for m in project.modules), "```"])


def citations(nb):
    "The links of a notebook that cite a source, (text, url): by where they lead or by a year at their end."
    links = [link for cell in nb["cells"] if cell["cell_type"] == "markdown" for link in re.findall(r"(?<!!)\[([^\[\]!]+)\]\((https?://[^)\s]+)\)", source(cell))]
    return [(text, url) for text, url in links if url.startswith(CITED_HOSTS) or re.search(r"\b(?:19|20)\d\d\)?$", text)]


def references_page(project):
    "The bibliography, each entry with the chapters that cite it; says so where chapters and bibliography differ."
    cited = {}
    for doc, nb in project.notebooks.items():
        for text, url in citations(nb):
            entry, year = project.bib[project.cites[url]] if url in project.cites else None, re.search(r"\d{4}(?=\)?$)", text)
            if entry is None: warn(f"[{text}]({url}) is not in docs/references.bib", doc, "cite")
            elif year and (year[0] != entry.fields["year"] or authors(entry).split(",")[0].split(" and ")[0].split(" et ")[0] not in text):
                warn(f"[{text}] does not name the author and year of its entry, {authors(entry)} ({entry.fields['year']})", doc, "cite")
            cited.setdefault(project.cites.get(url), {})[doc] = None
    out = ["# References", "> Every source that a chapter cites, and where", ""]
    for key, e in sorted(project.bib.items(), key=lambda item: (authors(item[1]).lower(), item[1].fields["year"])):
        if key not in cited: warn(f"docs/references.bib: no chapter cites {key} ({e.fields['url']})", "references", "cite")
        where = ", ".join(f"[{chapter_name(project, d)}]({d}.ipynb)" for d in cited.get(key, {}) if d in project.chapters)
        venue = next((e.fields[f] for f in ("journal", "booktitle", "publisher", "howpublished") if f in e.fields), "")
        out += [f"{{.reference #ref-{key}}}", f"**{authors(e)} ({e.fields['year']}).** [{e.fields['title']}]({e.fields['url']}). *{venue}*."
                + (f" [Cited in {where}.]{{.cited-in}}" if where else ""), ""]
    return "\n".join(out + [f"The same as BibTeX: [references.bib]({project.blob}/docs/references.bib)."])


def authors(entry):
    names = [" ".join(p.prelast_names + p.last_names).strip("{}") for p in entry.persons["author"]]
    return names[0] if len(names) == 1 else f"{names[0]} et al." if len(names) > 3 else ", ".join(names[:-1]) + f" and {names[-1]}"


# ---------------------------------------------------------------------------------------------- 3. the parsed page

NOTES = {"Note.": nodes.note, "Warning.": nodes.warning, "Tip.": nodes.tip}
EQUATIONS = re.compile(r"Eqs?\.\s\(\d+\.\d+\)(?:(?:,\s|,?\sand\s|,?\sto\s)\(\d+\.\d+\))*")


def finish(app, doctree):
    "Notes, equation numbers, references to them, links of names, on one parsed page."
    docname, project = app.env.docname, app.vae_project
    for quote in list(doctree.findall(nodes.block_quote)):
        words = inline(quote)
        before = quote.parent[quote.parent.index(quote) - 1] if quote.parent.index(quote) else None
        if words and isinstance(words[0], nodes.strong) and words[0].astext() in NOTES:
            paragraph = nodes.paragraph("", "", *([nodes.Text(words[1].lstrip())] if isinstance(words[1], nodes.Text) else words[1:2]), *words[2:])
            quote.replace_self(NOTES[words[0].astext()]("", paragraph, *quote.children[1:]))
        elif isinstance(before, nodes.title) and isinstance(before.parent.parent, nodes.document):
            quote[0]["classes"].append("subtitle")
            quote.replace_self(quote.children)
    if docname == app.config.root_doc: landing(doctree)
    if docname == "glossary": note_symbols(doctree, project)
    mark_exercises(app, doctree)
    mark_explorables(doctree)
    anchors = name_checks(doctree)
    for block in list(doctree.findall(nodes.math_block)): number_equation(app, block, docname, anchors)
    for text in list(doctree.findall(nodes.Text)):
        if not within(text, nodes.title, nodes.reference, nodes.literal, nodes.literal_block, nodes.math, nodes.math_block, nodes.raw): link_equations(text, docname)
    for literal in list(doctree.findall(nodes.literal)):
        if not within(literal.parent, nodes.title, nodes.reference, addnodes.pending_xref, addnodes.desc_signature): link_name(literal, docname, project)
    for reference in doctree.findall(nodes.reference):
        if key := project.cites.get(reference.get("refuri")): reference["reftitle"] = f"{authors(project.bib[key])}: {project.bib[key].fields['title']}"


def inline(block):
    "What the first paragraph of a block holds; the parser begins it with an empty text."
    return [n for n in block[0].children if n.astext()] if len(block) and isinstance(block[0], nodes.paragraph) else []


def landing(doctree):
    "Classes for the stylesheet: the ways in are a list with bold beginnings."
    next(iter(doctree.findall(nodes.section)))["classes"].append("landing")
    for items in doctree.findall(nodes.bullet_list):
        if all(inline(item) and isinstance(inline(item)[0], nodes.strong) for item in items): items["classes"].append("ways")


def within(node, *kinds):
    while node is not None and not isinstance(node, kinds): node = node.parent
    return node is not None


def name_checks(doctree):
    "Anchors for the captions of checking cells, of several for one equation the first."
    anchors = set()
    for caption in doctree.findall(lambda n: isinstance(n, nodes.paragraph) and "checks" in n["classes"]):
        new = [a for number in re.findall(r"\(([\d.]+)\)", caption.astext()) if (a := "check-" + number.replace(".", "-")) not in anchors]
        caption["ids"] += new
        anchors |= {*new}
    return anchors


def number_equation(app, block, docname, anchors):
    "The number's anchor, and below the equation a mark that leads to its check."
    if not (tag := TAG.search(block.astext())): return
    label, labels = f"eq-{tag[1].replace('.', '-')}", app.env.domains["std"].anonlabels
    if label in labels: warn(f"equation ({tag[1]}) is numbered twice: here and in {labels[label][0]}", docname, "equation")
    block["ids"].append(label)
    labels[label] = docname, label
    if (check := label.replace("eq", "check", 1)) in anchors:
        mark = f'<p class="to-check"><a href="#{check}" aria-label="Eq. ({tag[1]}): go to its check">check</a></p>'
        block.parent.insert(block.parent.index(block) + 1, nodes.raw("", mark, format="html"))


def link_equations(text, docname):
    out, at, string = [], 0, str(text)
    for phrase in EQUATIONS.finditer(string):
        for number in re.finditer(r"(?:Eq\.\s)?\((\d+)\.(\d+)\)", phrase[0]):
            start = phrase.start() + number.start()
            out += [nodes.Text(string[at:start]), xref("std", "ref", f"eq-{number[1]}-{number[2]}", docname, nodes.inline("", number[0].replace(" ", "\xa0")))]
            at = phrase.start() + number.end()
    if out: text.parent.replace(text, [*out, nodes.Text(string[at:])])


def xref(domain, kind, target, docname, content):
    return addnodes.pending_xref("", content, refdomain=domain, reftype=kind, reftarget=target, refexplicit=True, refwarn=True, refdoc=docname)


def link_name(literal, docname, project):
    "A name in backticks: the module's own, the package's, or another project's; what is none of them stays as it is."
    name = re.sub(r"\(.*\)$", "", literal.astext(), flags=re.S)
    if re.fullmatch(r"[A-Za-z_][\w.]*", name):
        own = project.chapters[docname].module if docname in project.chapters else docname.rpartition("/")[2]  # a chapter's own helpers need no prefix
        link = xref("py", "obj", name, docname, literal.deepcopy())
        link["refwarn"], link["py:module"] = False, f"{project.lib}.{own}"
        literal.replace_self(link)


def public_name(app, env, node, contnode):
    "`VAE`, `VAE.encode`, `model.VAE`, `vae_nbdev.VAE`: names of the package as its users write them."
    project, target = app.vae_project, node.get("reftarget", "")
    head, dot, rest = target.removeprefix(f"{project.lib}.").partition(".")
    if node.get("refdomain") == "py" and (dot or head in project.home):
        full = f"{project.lib}.{project.home[head]}.{head}{dot}{rest}" if head in project.home else f"{project.lib}.{target}"
        return env.domains.python_domain.resolve_xref(env, node["refdoc"], app.builder, "obj", full, node, contnode)


# ----------------------------------------------------------------------------------------------------------- Sphinx

ASSETS = {"katex/dist/katex.min.css": "katex/katex.min.css", "katex/LICENSE": "katex/LICENSE",
          **{f"@fontsource-variable/{re.search(r'/(.+)-latin', face)[1]}/files/{Path(face).name}": face for face in PRELOADED}}
INLINE_FACES = r"KaTeX_(?:Main-Regular|Main-Bold|Math-Italic|AMS-Regular|Caligraphic-Regular|Size\d-Regular)"


def prepare(app, config):
    "Before anything is read: the tools are there."
    modules = Path(app.confdir) / "node_modules"
    if shutil.which("node") is None:
        raise SystemExit("The site's equations are rendered with node, which is not installed: install Node.js 18 or newer (on Debian: apt-get install nodejs npm).")
    if not (modules / "katex").exists():
        raise SystemExit("The site's KaTeX and typefaces are not installed: run `npm ci --prefix docs` (`make docs` does).")
    app.vae_project = Project(config.site_root or Path(app.confdir).parent)


def start_katex(rundir, timeout):
    """KaTeX's server and a connection to it, as `KaTeXServer.start_server_process`, which gives up when it comes too early.

    Between bind and listen the socket exists and refuses connections; then the server would outlive the build, too.
    """
    address, deadline = rundir / "katex.sock", time.monotonic() + timeout
    server = subprocess.Popen(KaTeXServer.build_command(socket=address), stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=rundir)
    while True:
        client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            client.connect(str(address))
            return server, client
        except (FileNotFoundError, ConnectionRefusedError):
            client.close()
            if server.poll() is not None: raise KaTeXError(f"KaTeX's server ended with exit status {server.returncode} before it listened")
            if time.monotonic() > deadline:
                server.kill()
                raise KaTeXServer.timeout_error(timeout)
            time.sleep(0.01)


def translate_source(app, docname, content):
    if Path(app.env.doc2path(docname)).suffix == ".ipynb":
        content[0] = json.dumps(translate(json.loads(content[0]), docname, app.vae_project))


def copy_assets(app, exception):
    "KaTeX's stylesheet and the typefaces, from npm into the site; the faces of equations within a line come in the stylesheet, so that no request makes them late."
    if exception: return
    modules, static = Path(app.confdir) / "node_modules", Path(app.outdir) / "_static"
    fonts = {f"katex/dist/fonts/{p.name}": f"katex/fonts/{p.name}" for p in (modules / "katex/dist/fonts").glob("*.woff2")}
    for where, to in {**ASSETS, **fonts}.items():
        (static / to).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(modules / where, static / to)
    copy_explorables(app)
    style = static / "katex/katex.min.css"
    style.write_text(re.sub(rf"url\((fonts/({INLINE_FACES})\.woff2)\)", lambda m: f"url(data:font/woff2;base64,{base64.b64encode((style.parent / m[1]).read_bytes()).decode()})",
                            style.read_text("utf-8")), "utf-8")


def setup(app):
    KaTeXServer.start_server_process = start_katex
    app.add_config_value("site_root", "", "env")
    app.connect("config-inited", prepare)
    app.connect("builder-inited", lambda app: stage(app.vae_project, Path(app.srcdir), app.config.html_baseurl))
    app.connect("env-get-outdated", lambda app, env, *changes: {"glossary"} & env.found_docs)  # Sphinx forgets the search terms of a page that is not written
    app.connect("source-read", translate_source)
    app.connect("doctree-read", finish)
    app.connect("autodoc-process-docstring", describe)
    app.connect("autodoc-skip-member", left_out)
    app.connect("missing-reference", public_name, priority=400)  # before intersphinx
    app.connect("html-page-context", page_context, priority=900)
    app.connect("build-finished", copy_assets)
    app.connect("build-finished", root_links)
    return {"parallel_read_safe": True, "parallel_write_safe": True}

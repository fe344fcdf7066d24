"""What every page of the site needs that is no text of it: valid HTML, roles for screen readers, faces, previews, search terms.

`page_context` works on a page before it is written; `note_symbols` makes the rows of the glossary findable; `root_links`
makes the page for what is not there work at any depth. `vae_site` connects them.
"""
import html
import json
import re
from pathlib import Path
from urllib.parse import urlsplit

from docutils import nodes
from sphinx import addnodes
from vae_explorables import head

CARD = "card.png", 1200, 630  # the picture of a preview, drawn by card.py
PRELOADED = [f"fonts/{file}.woff2" for file in ("inter-latin-wght-normal", "jetbrains-mono-latin-wght-normal",
                                                "source-serif-4-latin-wght-normal", "source-serif-4-latin-wght-italic")]
MENDED = {  # what docutils, Sphinx, furo and MyST-NB write -> what the standard and a screen reader need
    "body": {r"<dl>": r'<dl role="presentation">', r' aria-label="Toggle hidden content"': "",
             r'(<div class="math") id="[^"]*">': r"\1>",  # furo's wrapper has the same id
             r'<p (class="(?:collapsed|expanded) admonition-title">[^<]*)</p>': r"<span \1</span>"},  # no paragraph in a summary
    "furo_navigation_tree": {r'role="heading"': r'role="heading" aria-level="2"'}}


def page_context(app, pagename, templatename, context, doctree):
    "No table of contents on the landing page, the faces of the first screen preloaded, a preview, roles that fit, anchors that moved."
    if pagename == app.config.root_doc: context["furo_hide_toc"] = True
    for name, changes in MENDED.items():
        for old, new in changes.items(): context[name] = re.sub(old, new, context.get(name, ""))
    faces = [f'<link rel="preload" as="font" type="font/woff2" crossorigin href="{context["pathto"](f"_static/{face}", 1)}">' for face in PRELOADED]
    context["metatags"] = "".join([context.get("metatags", ""), *preview(app, pagename, context, doctree), *faces, head(context.get("body", ""), context["pathto"])])
    moved = {}
    for (page, old), (target, new) in ((old.split("#"), new.split("#")) for old, new in app.vae_project.moved.items()):
        if page == f"{pagename}.html": moved[f"#{old}"] = f"{context['pathto'](target, 1).rstrip('#')}#{new}"
    if moved: context["metatags"] += f'<meta name="moved" content="{html.escape(json.dumps(moved))}">'


def preview(app, pagename, context, doctree):
    "What search engines and other people's messages show of a page: its title, its subtitle, and the site's picture."
    project, base = app.vae_project, app.config.html_baseurl
    subtitle = next((node.astext() for node in doctree.findall(nodes.paragraph) if "subtitle" in node["classes"]), "") if doctree else ""
    title = html.unescape(re.sub(r"<[^>]*>", "", context.get("title", "Search")))
    about = subtitle or project.ini["description"]
    name, width, height = CARD
    named = {"description": about, "twitter:card": "summary_large_image"}
    properties = {"og:type": "website" if pagename == app.config.root_doc else "article", "og:site_name": project.lib, "og:title": title, "og:description": about,
                  "og:url": context["pageurl"], "og:image": f"{base}_static/{name}", "og:image:width": width, "og:image:height": height,
                  "og:image:alt": f"{project.lib}: {project.ini['description']}"}
    return [f'<meta {kind}="{key}" content="{html.escape(str(value))}">\n'
            for kind, values in (("name", named), ("property", properties)) for key, value in values.items()]


def note_symbols(doctree, project):
    "Search finds a symbol as it is spelled, `beta` or `q(z|x)`, and by its name in code, in its row of the glossary."
    taken = set()
    for table in doctree.findall(nodes.table):
        head, body = next(iter(table.findall(nodes.thead))), next(iter(table.findall(nodes.tbody)))
        if not head.astext().startswith("symbol"): continue
        for row in body.findall(nodes.row):
            math = next(iter(row[0].findall(nodes.math)), None)
            names = [spelled(math.astext() if math else row[0].astext())]
            names += re.findall(r"\(([A-Z]+)\)", row[1].astext())  # an abbreviation
            names += [code.astext() for code in row[-1].findall(nodes.literal) if code.astext().isidentifier() and code.astext() not in project.home]
            anchor = f"symbol-{nodes.make_id(names[0]) or len(taken)}"
            while anchor in taken: anchor += "-"
            taken.add(anchor)
            row["ids"].append(anchor)
            row[0].insert(0, addnodes.index(entries=[("single", name, anchor, "main", None) for name in dict.fromkeys(names) if ";" not in name]))


def spelled(tex):
    r"TeX as one would type it: `q_\phi(z \mid x)` is q(z|x), `\log \sigma^2` is log sigma^2."
    tex = re.sub(r"_\\(?:theta|phi)\b|\\(?:mathcal|mathrm|tilde|hat)\b|\\[,;!]", "", tex)
    tex = re.sub(r"\s*\\(?:mid)\b\s*", "|", re.sub(r"\s*\\Vert\b\s*", "||", tex))
    return re.sub(r"(?<![a-z]) | (?![a-z])|[{}]", "", re.sub(r"\\([a-zA-Z]+)", r"\1", tex)).strip()


def root_links(app, exception):
    "The links of the page for what is not there begin at the site's root."
    if exception: return
    path, root = Path(app.outdir) / "404.html", urlsplit(app.config.html_baseurl).path
    path.write_text(re.sub(r'\b(href|src|action|data-content_root)="(?!\w+:|/|#)(?:\./)?', rf'\1="{root}', path.read_text("utf-8")), "utf-8")

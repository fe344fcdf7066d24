"""What the site says of a chapter before one reads it: how long it takes, what it needs, what can wait, where it lies.

All of it is made from the notebooks: the line at a chapter's head, the list of its sections, the sidebar, and the map of
the parts on the landing page and on the page that is not there. `vae_site` calls this; a cell is one that it has tagged.
"""
import html
import math
import re
from dataclasses import dataclass
from urllib.parse import urlsplit

ABOUT = {"Foundations": "what every VAE is", "Understanding": "is it any good, and why", "Beyond": "other models, other uses",
         "Engineering": "as fast as the machine allows", "Reference": "to look things up"}
PAGES = {"API reference": "api/index", "Exercises": "exercises", "Symbols": "glossary", "References": "references"}  # of the part Reference, by no notebook
LATER = "At second reading"  # a section can wait whose title, or whose first words in italics, begin so
LONG = 20  # minutes; a longer chapter begins with the list of its sections


@dataclass(frozen=True)
class Section:
    "What stands below one heading of the second level; above the first of them the title is empty."
    title: str
    minutes: float
    later: bool


def source(cell):
    return "".join(cell["source"])


def sections(cells):
    "The sections of a chapter above its exercises, in order."
    found = [("", [])]
    for cell in cells:
        text, *rest = re.split(r"^## (.+)$", source(cell), flags=re.M) if cell["cell_type"] == "markdown" else [source(cell)]
        found[-1][1].append({**cell, "source": text})
        for title, below in zip(rest[::2], rest[1::2]): found.append((title.strip(), [{**cell, "source": below}]))
    titles = [title for title, _ in found]
    read = found[:titles.index("Exercises")] if "Exercises" in titles else found
    return [Section(title, minutes(part), title.startswith(LATER) or source(part[0]).lstrip().startswith(f"*{LATER}")) for title, part in read]


def minutes(cells):
    "220 words of prose a minute, 30 lines of code, six seconds for a displayed equation or a picture; no folds."
    words = code = extras = 0
    for cell in cells:
        text, tags = source(cell), set(cell["metadata"].get("tags", []))
        if cell["cell_type"] == "markdown":
            text = re.sub(r"<details>.*?</details>", "", text, flags=re.S)
            words += len(re.sub(r"\$\$.*?\$\$", "", text, flags=re.S).split())
            extras += text.count("$$") // 2
        elif "remove-cell" not in tags:
            if not tags & {"hide-input", "remove-input"}: code += text.count("\n") + 1
            extras += sum("image/png" in output.get("data", {}) for output in cell["outputs"])
    return words / 220 + code / 30 + extras / 10


def reading_minutes(cells):
    "Of a chapter, without its exercises."
    return max(1, math.ceil(sum(section.minutes for section in sections(cells))))


def needs(nb, this, project):
    "The chapters before this one whose modules, or whose names, it imports."
    code = "\n".join(source(cell) for cell in nb["cells"] if cell["cell_type"] == "code")
    used = set(re.findall(rf"^\s*(?:from|import) {project.lib}\.(\w+)", code, re.M))
    for names in re.findall(rf"^\s*from {project.lib} import (\([^)]*\)|.*)", code, re.M): used |= {project.home.get(name) for name in re.findall(r"\w+", names)}
    return [c for c in project.chapters.values() if c.module in used and c.number < this.number]


def at_a_glance(nb, this, project):
    "The line at a chapter's head: how long it takes, what it needs, what may wait."
    cells = project.lessons[this.docname]
    links = [f"[{c.number}]({c.docname}.ipynb)" for c in needs(nb, this, project)]
    before = "no other chapter" if not links else f"chapter {links[0]}" if len(links) == 1 else f"chapters {', '.join(links[:-1])} and {links[-1]}"
    folds = any("hide-input" in c["metadata"].get("tags", []) or re.search(r"<details>\s*<summary>(?!Hint|Solution)", source(c)) for c in cells)
    total, later = reading_minutes(cells), round(sum(s.minutes for s in sections(cells) if s.later))
    time = f"{total - later} min to read, {later} more at second reading" if later else f"{total} min to read"
    return f"{{.at-a-glance}}\nAbout {time}, without the exercises. Needs {before}." + " What is folded can wait for a second reading." * folds


def in_this_chapter(this, project):
    "The sections of a long chapter, as links with minutes; of a short one nothing."
    found = [section for section in sections(project.lessons[this.docname]) if section.title]
    if reading_minutes(project.lessons[this.docname]) < LONG: return ""
    items = [f"- [{s.title}](<#{re.sub('[`*]', '', s.title).replace(' ', '-')}>) [{max(1, round(s.minutes))} min{', can wait' * s.later}]{{.minutes}}" for s in found]
    return "\n".join(["{.in-this-chapter}", "In this chapter", "", "{.in-this-chapter}", *items])


def contents(project):
    "The site's table of contents, for the sidebar: parts, then reference pages."
    parts = {}
    for c in project.chapters.values():
        parts.setdefault(c.part, []).append(f"{c.title} <{c.docname}>" if c.number >= 90 else f"{c.number} {c.title} <{c.docname}>")
    first, second, *more = (f"{title} <{doc}>" for title, doc in PAGES.items())
    parts["Reference"] = [first, second, *parts.pop("Reference", []), *more]
    return "\n\n".join(f"```{{toctree}}\n:hidden:\n:caption: {part}\n\n" + "\n".join(entries) + "\n```" for part, entries in parts.items())


def book_map(project, root=""):
    "The way through the book, in HTML: its parts and their chapters, what each is for and how long it takes. `root` begins each link."
    parts = {}
    for c in project.chapters.values(): parts.setdefault(c.part, []).append(c)
    out = ['<div class="book-map">', '<div class="parts">']
    for part, chapters in parts.items():
        count = f"{len(chapters)} chapters" if len(chapters) > 1 else "1 chapter"
        hours = max(1, round(sum(project.minutes[c.docname] for c in chapters) / 30)) / 2
        out += [f'<section class="part part-{part.lower()}">',
                f'<div class="head"><h3>{part}</h3><p>{ABOUT[part]}</p><p class="minutes">{count}, about {hours:g} h</p></div>', "<ol>"]
        out += [f'<li><a href="{root}{c.docname}.html"><span class="stop">{c.number if c.number < 90 else ""}</span> <span class="name">{inline_html(c.title)}</span> '
                f'<span class="what">{inline_html(c.subtitle)}</span> <span class="minutes">{project.minutes[c.docname]} min</span></a></li>' for c in chapters]
        out += ["</ol>", "</section>"]
    links = " ".join(f'<a href="{root}{doc}.html">{title}</a>' for title, doc in PAGES.items())
    return "\n".join([*out, "</div>", f'<p class="pages">{links}</p>', "</div>"])


def inline_html(text):
    "Plain text, with code in backticks, as HTML."
    return re.sub(r"`([^`]*)`", r"<code>\1</code>", html.escape(text, quote=False))


def not_found(project, address):
    "The page that GitHub Pages gives for an address where nothing is; at any depth, so all its links begin at the site's root."
    root = urlsplit(address).path
    return "\n".join(["---", "orphan: true", "nosearch: true", "---", "# This page is not here", "> The address has changed, or was never one", "",
                      "Search the book, or find your way on the map.", "",
                      f'<form class="search-here" action="{root}search.html" role="search" aria-label="Search the book"><input name="q" type="search" aria-label="Words or symbols" '
                      'placeholder="kl_divergence, σ, ELBO" required><button>Search</button></form>', "", "## The chapters", "", book_map(project, root)])

"""The site beyond its text: the map, what can be left out at first reading, search, the page for what is not there, previews, audits."""
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from urllib.parse import quote, urlsplit

import pytest

slow = pytest.mark.slow
ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "docs"))
vae_site = pytest.importorskip("vae_site", reason="the site's tools are missing: pip install -e '.[dev]'")
import vae_chapters  # noqa: E402
import vae_pages  # noqa: E402
NOTEBOOKS = {p.stem: json.loads(p.read_text("utf-8")) for p in sorted((ROOT / "nbs").glob("*.ipynb"))}
CHAPTERS = [name for name in NOTEBOOKS if name[:2].isdigit()]
FOUNDATIONS = [name for name in CHAPTERS if int(name[:2]) <= 10]


def read(name):
    "The cells of a chapter above its exercises."
    cells = vae_site.tagged(NOTEBOOKS[name])
    end = [i for i, c in enumerate(cells) if c["cell_type"] == "markdown" and re.search(r"^## Exercises$", c["source"], re.M)]
    return cells[:end[0]] if end else cells


# --------------------------------------------------------------------------------------------- before one reads

@pytest.mark.parametrize("name", FOUNDATIONS)
def test_foundations_are_read_without_opening_a_fold(name):
    """What is folded away, and used by code that is shown, is explained: by the line on its fold, by the text, or by its name, which begins `_check`."""
    cells = read(name)
    text = "\n".join(c["source"] for c in cells if c["cell_type"] == "markdown")
    shown = "\n".join(c["source"] for c in cells if c["cell_type"] == "code" and not c["metadata"]["tags"])
    for cell in cells:
        tags = cell["metadata"]["tags"]
        if cell["cell_type"] == "code" and "hide-input" in tags and not any("image/png" in o.get("data", {}) for o in cell["outputs"]):
            for thing in vae_site.defined(cell["source"]):
                used = re.search(rf"\b{thing}\b", shown)
                assert not used or thing.lstrip("_").startswith("check") or vae_site.described(thing, cell["source"]) or re.search(rf"`[^`\n]*\b{thing}\b", text), \
                    f"{name}, cell {cell['id']}: `{thing}` is folded away, and nothing says what it does: give it a docstring"


@pytest.mark.parametrize("name", FOUNDATIONS)
def test_folded_text_of_foundations_can_wait(name):
    sections, title = {s.title: s for s in vae_chapters.sections(read(name))}, ""
    for cell in read(name):
        for line in cell["source"].splitlines() if cell["cell_type"] == "markdown" else []:
            if line.startswith("## "): title = line[3:].strip()
            assert "<details" not in line or sections[title].later, f"{name}: a fold in {title!r}, which is no section that can wait"


def cell(text, kind="markdown", *tags):
    return {"cell_type": kind, "source": text, "metadata": {"tags": list(tags)}, "outputs": []}


def test_sections_have_minutes_and_can_wait():
    words = " ".join(["word"] * 220)
    cells = [cell(f"# Title\n\n{words}\n\n## One\n\n{words}"), cell("x\n" * 29 + "x", "code"), cell("y\n" * 300, "code", "hide-input"),
             cell(f"## At second reading: more\n\n{words} {words}\n\n<details>{words}</details>"), cell(f"## Two\n\n*At second reading.* {words}"),
             cell(f"## Exercises\n\n{words}"), cell("## After\n\nthem")]
    found = vae_chapters.sections(cells)
    assert [(s.title, round(s.minutes), s.later) for s in found] == [("", 1, False), ("One", 2, False), ("At second reading: more", 2, True), ("Two", 1, True)]
    assert vae_chapters.reading_minutes(cells) == 7


@slow
def test_a_long_chapter_begins_with_its_sections(pages):
    for name in CHAPTERS:
        page, sections = pages[f"{name}.html"], [s for s in vae_chapters.sections(vae_site.tagged(NOTEBOOKS[name])) if s.title]
        total = vae_chapters.reading_minutes(vae_site.tagged(NOTEBOOKS[name]))
        items = page.select("ul.in-this-chapter > li")
        assert len(items) == (len(sections) if total >= vae_chapters.LONG else 0), name
        titles = {h.parent["id"]: h.find_parent("section")["id"] for h in page.select("article h2")}
        for item, section in zip(items, sections):
            anchor = item.a["href"].removeprefix("#")
            assert page.find(id=anchor).find("h2") is not None and ("can wait" in item.get_text()) == section.later, (name, section.title)
        glance = [int(n) for n in re.findall(r"(\d+) (?:min|more)", page.select_one(".at-a-glance").get_text())]
        assert sum(glance) == total and (len(glance) == 2) == any(round(s.minutes) for s in sections if s.later), name


# ----------------------------------------------------------------------------------------------------- the map

@slow
def test_the_map_leads_to_every_chapter_in_order(pages, settings):
    for path, root in (("index.html", ""), ("404.html", settings["doc_baseurl"] + "/")):
        stops = pages[path].select(".book-map li a")
        assert [a["href"] for a in stops] == [f"{root}{name}.html" for name in CHAPTERS]
        for a, name in zip(stops, CHAPTERS):
            title, subtitle = re.match(r"# (.+)\n> (.+)", "".join(NOTEBOOKS[name]["cells"][0]["source"])).groups()
            assert a.select_one(".name").get_text() == title and a.select_one(".what").get_text() == subtitle.replace("`", "")
        assert [h.get_text() for h in pages[path].select(".book-map h3")] == list(dict.fromkeys(vae_site.PARTS[name[0]] for name in CHAPTERS))


@slow
@pytest.mark.parametrize("width", [360, 700, 1280])
def test_the_map_is_a_way_that_nothing_hides(opener, width):
    """No stop lies on another, none leaves the page, a finger can hit each, and the keyboard goes from one to the next."""
    window = opener(width=width)
    window.visit("index.html")
    boxes = window.evaluate("[...document.querySelectorAll('.book-map li a')].map(a => a.getBoundingClientRect()).map(b => [b.left, b.top, b.right, b.bottom])")
    for i, (left, top, right, bottom) in enumerate(boxes):
        assert left >= 0 and right <= width and bottom - top >= 32, CHAPTERS[i]
        for l, t, r, b in boxes[:i]: assert left >= r or l >= right or top >= b or t >= bottom, CHAPTERS[i]
    clipped = "[...document.querySelectorAll('.book-map span')].filter(s => s.scrollWidth > s.clientWidth + 1).map(s => s.textContent)"
    assert window.evaluate(clipped) == []
    window.focus(".book-map li a")
    for name in CHAPTERS[1:]:
        window.keyboard.press("Tab")
        assert window.evaluate("document.activeElement.pathname").endswith(f"/{name}.html")
    assert window.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"


# ---------------------------------------------------------------------------------------------------------- search

@slow
@pytest.mark.parametrize("words, page", [
    ("kl_divergence", "api/loss.html#vae_nbdev.loss.kl_divergence"), ("KL_Divergence", "api/loss.html#vae_nbdev.loss.kl_divergence"),
    ("log_var", "glossary.html#symbol-log-sigma-2"), ("mu", "glossary.html#symbol-mu"),
    ("μ", "glossary.html#symbol-mu"), ("beta", "glossary.html#symbol-beta"), ("β", "glossary.html#symbol-beta"), ("sigma", "glossary.html#symbol-sigma"),
    ("σ", "glossary.html#symbol-sigma"), ("σ²", "glossary.html#symbol-sigma-2"), ("q(z|x)", "glossary.html#symbol-q-z-x"), ("p(x)", "glossary.html#symbol-p-x"),
    ("KL(q||p)", "glossary.html#symbol-kl-q-p"), ("ELBO", "glossary.html#symbol-l-x"), ("reparameterization", "03_reparameterization.html"), ("bits back", "23_compression.html")])
def test_search_finds_names_symbols_and_words(opener, words, page):
    window = opener()
    window.visit(f"search.html?q={quote(words)}")
    window.wait_for_selector("#search-results li a")
    first = window.evaluate("[...document.querySelectorAll('#search-results li a')].slice(0, 3).map(a => a.getAttribute('href'))")
    assert page in first, first


@slow
def test_the_excerpt_of_a_chapter_is_of_its_text(opener):
    window = opener()
    window.visit("search.html?q=beta")
    window.wait_for_function("[...document.querySelectorAll('#search-results li p')].length > 8")
    assert not re.search(r"\d min[A-Z ]|Open in Colab|\\[a-z]{3,}", window.inner_text("#search-results"))


def test_symbols_are_spelled_as_one_types_them():
    for tex, typed in {r"q_\phi(z \mid x)": "q(z|x)", r"\log \sigma^2": "log sigma^2", r"\mathrm{KL}(q \,\Vert\, p)": "KL(q||p)", r"\mathcal{L}_K(x)": "L_K(x)",
                       r"\tilde{x}": "x", r"-\log p_\theta(x \mid z)": "-log p(x|z)", r"\beta": "beta"}.items():
        assert vae_pages.spelled(tex) == typed


# ------------------------------------------------------------------------------------ the page for what is not there

@slow
@pytest.mark.parametrize("theme, width", [("light", 1280), ("dark", 360)])
def test_a_wrong_address_gets_help(browser, base, theme, width):
    context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=theme)
    window, missed, said = context.new_page(), [], []
    window.on("response", lambda r: missed.append(r.url) if r.status >= 400 else None)
    window.on("console", lambda m: said.append(m.text) if m.type in ("error", "warning") else None)
    wrong = f"{base}api/no/such/page.html"
    window.goto(wrong, wait_until="load")
    assert missed == [wrong] and len(said) == 1, (missed, said)  # the page itself, and nothing that it asks for
    assert window.evaluate("getComputedStyle(document.querySelector('article h1')).fontFamily").startswith("Inter")
    assert window.evaluate("document.documentElement.scrollWidth") <= width
    window.fill("form.search-here input", "kl_divergence")
    window.press("form.search-here input", "Enter")
    window.wait_for_selector("#search-results li a[href*='api/loss.html']")
    window.go_back()
    window.click(".book-map li:nth-child(3) a")
    window.wait_for_url(f"{base}02_elbo.html")
    context.close()


@slow
def test_links_of_the_page_for_what_is_not_there(site, pages, settings):
    root = settings["doc_baseurl"] + "/"
    links = [node.get("href") or node.get("src") or node.get("action") for node in pages["404.html"].select("[href], [src], [action]")]
    inside = [link for link in links if not link.startswith(("http", "#"))]
    assert len(inside) > 60
    for link in inside: assert link.startswith(root) and (link == root or (site / urlsplit(link).path.removeprefix(root)).is_file()), link
    index = json.loads((site / "searchindex.js").read_text("utf-8").partition("(")[2].rpartition(")")[0])
    assert not index["titles"][index["docnames"].index("404")]  # search does not find it


# --------------------------------------------------------------------------------------------------------- previews

@slow
def test_every_page_has_a_preview(site, pages, settings):
    from PIL import Image
    address = settings["doc_host"] + settings["doc_baseurl"] + "/"
    picture = Image.open(site / "_static/card.png")
    assert picture.size == (1200, 630) and (site / "_static/card.png").stat().st_size < 300_000
    for path, page in pages.items():
        said = {meta.get("property") or meta["name"]: meta["content"] for meta in page.select("meta[property], meta[name]")}
        subtitle = page.select_one("article p.subtitle")
        assert said["description"] == said["og:description"] == (subtitle.get_text() if subtitle else settings["description"]), path
        assert said["og:title"] == (page.h1.find(string=True) if page.h1 else "Search") and said["og:url"] == address + path, path
        assert said["og:image"] == address + "_static/card.png" and (said["og:image:width"], said["og:image:height"]) == ("1200", "630"), path
        assert said["twitter:card"] == "summary_large_image" and page.title.get_text().strip()
    chapters = [pages[f"{name}.html"].select_one("meta[name=description]")["content"] for name in CHAPTERS]
    assert len(set(chapters)) == len(chapters)


# ---------------------------------------------------------------------------------------------------------- audits

NODE_MODULES = ROOT / "docs/node_modules"
VALIDATE = """
import { HtmlValidate } from "html-validate";
import { readFileSync } from "node:fs";
const validator = new HtmlValidate({ root: true, extends: ["html-validate:standard"] });
for (const file of readFileSync(0, "utf-8").trim().split("\\n"))
  for (const { messages } of (await validator.validateFile(file)).results)
    for (const said of messages) console.log(`${file}:${said.line}:${said.column}: ${said.message} (${said.ruleId})`);
"""


def npm(package):
    if not (NODE_MODULES / package).exists(): pytest.skip(f"{package} is missing: npm ci --prefix docs")


def invalid(files):
    "What html-validate has to say of some pages, a line each; only what the standard demands, not style."
    npm("html-validate")
    done = subprocess.run(["node", "--input-type=module", "-e", VALIDATE], input="\n".join(map(str, files)), cwd=NODE_MODULES, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@slow
def test_pages_are_valid_html(site, pages):
    assert invalid(site / path for path in pages) == []


@slow
def test_invalid_html_is_found(tmp_path):
    (tmp_path / "page.html").write_text("<!DOCTYPE html><html lang='en'><head><title>x</title></head><body><p id='a'>x</p><div id='a'><details><summary><p>y</p></summary></details></div></body></html>")
    assert {re.search(r"\((.*)\)$", line)[1] for line in invalid([tmp_path / "page.html"])} == {"no-dup-id", "element-permitted-content"}


@slow
@pytest.mark.parametrize("path", ["index.html", "04_loss.html"])
def test_lighthouse_gives_95(base, path, tmp_path):
    """Of Chromium's audit, without a network, what does not depend on the machine's speed."""
    npm("lighthouse")
    done = subprocess.run(["node", NODE_MODULES / "lighthouse/cli/index.js", base + path, "--quiet", "--output=json", f"--output-path={tmp_path}/audit.json",
                           "--only-categories=accessibility,best-practices,seo", "--no-enable-error-reporting",
                           "--chrome-flags=--headless=new --no-sandbox --disable-gpu --disable-dev-shm-usage"],
                          env=os.environ | {"CHROME_PATH": shutil.which("chromium")}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    audit = json.loads((tmp_path / "audit.json").read_text("utf-8"))
    low = [f"{a['title']}: {a['displayValue'] if 'displayValue' in a else ''}" for a in audit["audits"].values() if a["score"] is not None and a["score"] < 1]
    scores = {name: category["score"] for name, category in audit["categories"].items()}
    assert len(scores) == 3 and min(scores.values()) >= 0.95, (scores, low)

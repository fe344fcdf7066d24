"""The site in a real browser: built once, served from loopback, every other host cut off."""
import gzip
import html
import json
import re
import sys
from pathlib import Path
from urllib.parse import unquote, urljoin

import pytest

ROOT = Path(__file__).parent.parent
pytestmark = pytest.mark.slow
bs4 = pytest.importorskip("bs4", reason="the site's tools are missing: pip install -e '.[dev]'")
sys.path.insert(0, str(ROOT / "docs"))
NOTEBOOKS = {p.stem: json.loads(p.read_text("utf-8")) for p in sorted((ROOT / "nbs").glob("*.ipynb"))}
CHAPTERS = [name for name in NOTEBOOKS if name[:2].isdigit()]
FIRST_VIEW, PAGE = 1_000_000, 3_000_000  # bytes over the wire


@pytest.fixture(scope="session")
def prose(site):
    "The words of every page, without code, equations, links and headings."
    out = {}
    for path in sorted(site.rglob("*.html")):
        article = bs4.BeautifulSoup(path.read_text("utf-8"), "html.parser", parse_only=bs4.SoupStrainer("article"))
        for node in article.select("pre, code, .katex, script, a, h1, h2, h3, summary"): node.decompose()
        out[path.relative_to(site).as_posix()] = article.get_text(" ")
    return out


# ------------------------------------------------------------------------------------------------ the pages as files

def test_the_build_says_nothing(build):
    assert build[1].strip() == ""


def test_every_notebook_is_a_page(pages):
    assert {f"{name}.html" for name in NOTEBOOKS} | {"search.html", "references.html", "glossary.html", "api/index.html"} <= set(pages)


def test_every_exercise_is_listed(pages):
    heads = {(name, m[1]): m[2] for name, nb in NOTEBOOKS.items() for cell in nb["cells"] if cell["cell_type"] == "markdown"
             for m in [re.match(r"\*\*(\d+)\. (.+?)\.?\*\* [★☆]{3} ", "".join(cell["source"]))] if m}
    links = {a["href"]: a.get_text().replace("’", "'") for a in pages["exercises.html"].select("ul.exercises a")}
    assert links == {f"{name}.html#exercise-{int(name[:2])}-{number}": title for (name, number), title in heads.items()} and len(links) >= 40


def test_internal_links_and_anchors_resolve(site, pages, settings):
    root = settings["doc_baseurl"] + "/"
    ids = {path: {n["id"] for n in soup.select("[id]")} for path, soup in pages.items()}
    broken = []
    for path, soup in pages.items():
        for link in {n.get("href") or n.get("src") for n in soup.select("a[href], img[src], link[href], script[src]")}:
            if link.startswith(("http", "data:", "mailto:")): continue
            target, _, anchor = unquote(urljoin(root + path, link)).removeprefix(root).partition("#")
            target = target.partition("?")[0] or path
            if not (site / target).is_file(): broken.append(f"{path}: {link}")
            elif anchor and anchor not in ids.get(target, {anchor}): broken.append(f"{path}: {link} (no such anchor)")
    assert not broken, "\n".join(broken)


def test_anchors_that_moved_are_where_the_table_says(pages):
    for old, new in json.loads((ROOT / "docs/moved.json").read_text("utf-8")).items():
        (page, gone), (target, anchor) = old.split("#"), new.split("#")
        assert page in pages and not pages[page].find(id=gone), f"docs/moved.json: {old} is not an old anchor of a page"
        assert target in pages and pages[target].find(id=anchor), f"docs/moved.json: {new} is not there"


def test_every_equation_is_rendered(pages, prose):
    for name, notebook in NOTEBOOKS.items():
        text = "\n".join("".join(c["source"]) for c in notebook["cells"] if c["cell_type"] == "markdown")
        assert len(pages[f"{name}.html"].select(".katex-display")) == re.sub(r"```.*?```|`[^`]*`", "", text, flags=re.S).count("$$") // 2, name
    for path, words in prose.items():
        assert not pages[path].select(".katex-error"), path
        raw = re.search(r".{0,30}(\$|\\[a-zA-Z]{2,}|\\[(\[]).{0,30}", words)
        assert not raw, f"{path}: {raw[0]}"


def test_equation_references_are_links(pages, prose):
    assert sum(len(soup.select("a[href*='#eq-']")) for soup in pages.values()) > len(CHAPTERS)
    for path, words in prose.items(): assert not (loose := re.search(r"Eqs?\.\s\(\d+\.\d+\)", words)), f"{path}: {loose[0]}"


def test_every_numbered_equation_leads_to_its_check_and_back(pages):
    for name in CHAPTERS:
        soup = pages[f"{name}.html"]
        numbers = [tag.get_text() for tag in soup.select(".katex-html > .tag")]
        marks = soup.select(".to-check a")
        assert [re.search(r"\(.*\)", a["aria-label"])[0] for a in marks] == [re.search(r"\(.*\)", n)[0] for n in numbers], name
        for a in marks:
            caption = soup.find(id=a["href"][1:]).find_parent(class_="checks") or soup.find(id=a["href"][1:])
            assert caption.select(f"a[href='{a['href'].replace('check', 'eq')}']") and caption.find_next_sibling(class_="cell"), (name, a["href"])


def test_figures_have_a_text_and_a_size(pages):
    for path, soup in pages.items():
        for image in soup.select("article img"):
            assert len(image.get("alt", "").split()) > 3, f"{path}: {image['src']}"
            assert image.get("width") and image.get("height"), f"{path}: {image['src']}"


def test_headings_in_order(pages):
    for path, soup in pages.items():
        levels = [int(h.name[1]) for h in soup.select("article h1, article h2, article h3, article h4")]
        if path != "search.html": assert levels.count(1) == 1 and all(b - a <= 1 for a, b in zip(levels, levels[1:])), (path, levels)


def test_cells_are_shown_folded_or_hidden_as_the_notebook_says(pages):
    from vae_site import split_directives, source
    for name, notebook in NOTEBOOKS.items():
        folds = {fold.select_one("pre").get_text().rstrip("\n") for fold in pages[f"{name}.html"].select("div.cell details")}
        shown = [pre.get_text() for pre in pages[f"{name}.html"].select(".cell_input pre")]
        wanted = []
        for cell in notebook["cells"]:
            if cell["cell_type"] != "code": continue
            found, code = split_directives(source(cell))
            gone = {"hide", "default_exp", "hide_input"} & set(found) or found.get("include") == "false" or found.get("echo") == "false"
            exported = {"export", "exporti"} & set(found)
            if gone or not code.strip() or exported and not re.search(r"^(def|class|\w+ =)", code, re.M): continue  # imports alone are left out
            wanted.append(code.rstrip("\n"))
            if exported: assert wanted[-1] in folds, name
        assert [s.rstrip("\n") for s in shown] == wanted, name


def test_exported_code_is_marked_and_linked_both_ways(pages):
    for name in CHAPTERS:
        for mark in pages[f"{name}.html"].select("p.exported"):
            assert "exported to" in mark.get_text() and mark.select("a[href^='api/']"), f"{name}: {mark.get_text()}"
    for path, soup in pages.items():
        if path.startswith("api/") and path != "api/index.html":
            for entry in soup.select("dl.py.function"): assert entry.select("a[href*='blob/main/']"), f"{path}: {entry.dt.get_text()}"
    assert pages["api/loss.html"].select("a[href*='04_loss.html#src-kl-divergence']")


def test_chapter_buttons(site, pages):
    for name in CHAPTERS:
        soup, badge = pages[f"{name}.html"], re.search(r"\]\((https://colab\.research\.google\.com/github/\S+)\)", "".join(NOTEBOOKS[name]["cells"][0]["source"]))
        assert soup.select_one("a.colab")["href"] == badge[1]
        assert (site / soup.select_one("a.download")["href"]).read_bytes() == (ROOT / f"nbs/{name}.ipynb").read_bytes()
        assert soup.select_one("a.source")["href"].endswith(f"/blob/main/nbs/{name}.ipynb")
        assert re.search(r"About \d+ min to read", soup.select_one(".at-a-glance").get_text())


# ------------------------------------------------------------------------------------------------ the pages in a browser

SHIFT = """new Promise(done => { let sum = 0;
    new PerformanceObserver(list => list.getEntries().forEach(e => sum += e.value)).observe({type: 'layout-shift', buffered: true});
    setTimeout(() => done(sum), 100) })"""


def test_pages_load_light_and_clean(opener, site, base, pages):
    "No console error, no failed or foreign request, no jump, and no more bytes than promised."
    for path in pages:
        window, asked = opener(), set()  # a window of its own: nothing is cached
        window.on("request", lambda r: asked.add(unquote(r.url.removeprefix(base).partition("?")[0])))
        window.visit(path)
        window.wait_for_function("document.fonts.status == 'loaded'")
        total = sum(wire_size(site / name) for name in asked if (site / name).is_file())
        assert total < (FIRST_VIEW if path == "index.html" else PAGE), (path, total)
        shift = window.evaluate(SHIFT)
        assert shift < 0.05, (path, shift)
        window.context.close()


def test_late_typefaces_move_no_line(opener):
    "The faces of the text are left out when they are late, and those of equations are never late."
    window = opener()
    window.route("**/*.woff2", lambda route: (window.wait_for_timeout(300), route.continue_()))
    window.visit("32_muon.html")
    window.wait_for_function("document.fonts.status == 'loaded'")
    assert window.evaluate(SHIFT) < 0.01


def wire_size(file):
    return len(gzip.compress(file.read_bytes())) if file.suffix in (".html", ".css", ".js", ".svg") else file.stat().st_size


def test_nothing_overflows_a_phone(opener, pages):
    window = opener(width=360)
    for path in pages:
        window.visit(path)
        wide = window.evaluate("""[document.documentElement, document.querySelector('.content')].filter(e => e.scrollWidth > e.clientWidth)
            .map(() => [...document.querySelectorAll('article *')].filter(e => e.getBoundingClientRect().right > innerWidth + 1 && !e.closest('pre, .math-wrapper, .table-wrapper, .katex-mathml'))
            .slice(0, 3).map(e => e.outerHTML.slice(0, 160)))""")
        assert not wide, (path, wide)


@pytest.mark.parametrize("width", [360, 1280])
def test_no_equation_runs_into_its_number(opener, pages, width):
    """A wide equation scrolls inside its box, and the number comes after it."""
    window = opener(width=width)
    for path in [path for path, soup in pages.items() if soup.select_one(".katex-display")]:
        window.visit(path)
        gaps = window.evaluate("""[...document.querySelectorAll('.katex-html > .tag')].map(tag => [tag.textContent, tag.lastElementChild.getBoundingClientRect().left
            - Math.max(...[...tag.parentElement.querySelectorAll(':scope > .base')].map(base => base.getBoundingClientRect().right))])""")
        assert [number for number, gap in gaps if gap < 4] == [], path
        if width == 1280:  # and there no equation has to scroll
            wide = "[...document.querySelectorAll('.katex-display')].filter(e => e.scrollWidth > e.clientWidth + 1).map(e => e.textContent.slice(-30))"
            assert window.evaluate(wide) == [], path


ONE_OF_A_COLOUR = """() => { const seen = new Set(); document.querySelectorAll('.highlight span').forEach(token =>
    seen.has(token.className) ? token.replaceWith(...token.childNodes) : seen.add(token.className)) }"""  # of thousands, for speed


KINDS = [f"{name}.html" for name in """index 404 search exercises glossary references 94_questions api/index api/loss 00_first_vae
    02_elbo 03_reparameterization 05_model 07_visualization 12_objectives 23_compression""".split()]  # a page of each kind, and all with a figure that moves


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_no_serious_accessibility_violation(opener, pages, theme):
    window, axe, found = opener(theme=theme), (ROOT / "docs/node_modules/axe-core/axe.min.js").read_text("utf-8"), []
    for path in pages if theme == "light" else KINDS:
        window.visit(path)
        window.evaluate(axe)
        window.evaluate(ONE_OF_A_COLOUR)
        rules = "" if theme == "light" else ", runOnly: ['color-contrast']"  # nothing else changes with the theme
        for violation in window.evaluate(f"axe.run({{exclude: ['.katex']}}, {{resultTypes: ['violations']{rules}}}).then(r => r.violations)"):
            if violation["impact"] in ("serious", "critical"):
                found.append(f"{path}: {violation['id']}: {violation['nodes'][0]['html'][:160]} {violation['nodes'][0].get('failureSummary', '')[:300]}")
    assert not found, "\n".join(found)


def test_search_finds_a_word(opener):
    window = opener()
    window.visit("index.html")
    window.fill("input.sidebar-search", "reparameterization")
    window.press("input.sidebar-search", "Enter")
    window.wait_for_selector("#search-results li a[href*='03_reparameterization.html']")
    window.wait_for_timeout(500)
    assert not re.search(r"\\[a-z]{3,}", window.inner_text("#search-results"))
    window.goto(window.url.replace("reparameterization", "kl_divergence"))
    window.wait_for_selector("#search-results li a[href*='api/loss.html']")


def test_theme_switch(opener):
    window = opener()
    window.visit("04_loss.html")
    background = lambda: window.evaluate("getComputedStyle(document.body).backgroundColor")
    seen = {background()}
    for _ in range(2):
        window.click(".theme-toggle-content .theme-toggle")
        seen.add(background())
    assert len(seen) == 2
    kept = background()
    window.reload()
    assert background() == kept


def test_copy_button_copies_the_code_and_nothing_else(opener):
    from vae_site import split_directives, source
    window = opener(permissions=["clipboard-read", "clipboard-write"])
    window.visit("04_loss.html")
    exported = next(code for c in NOTEBOOKS["04_loss"]["cells"] for found, code in [split_directives(source(c))] if "exports" in found)
    cell = window.locator("p.exported + div.cell").first
    cell.locator(".highlight").hover()
    cell.locator("button.copybtn").click()
    assert window.evaluate("navigator.clipboard.readText()").rstrip("\n") == exported.rstrip("\n")


def test_an_old_link_is_forwarded(opener, base, site):
    window, moved = opener(), html.escape(json.dumps({"#old": "05_model.html#what-to-take-away"}))
    page = (site / "04_loss.html").read_text("utf-8").replace("</head>", f'<meta name="moved" content="{moved}"></head>')
    window.route("**/04_loss.html", lambda route: route.fulfill(body=page, content_type="text/html"))
    for anchor in ("#why-logits", "#old"): window.goto(f"{base}04_loss.html{anchor}", wait_until="commit")
    window.wait_for_url("**/05_model.html#what-to-take-away")


def test_code_shows_88_columns(opener):
    window = opener()
    for name in CHAPTERS:
        window.visit(f"{name}.html")
        columns = window.evaluate("""() => { document.querySelectorAll('details').forEach(fold => fold.open = true)
            const line = Object.assign(document.createElement('span'), {textContent: 'x'.repeat(88)})
            return [...document.querySelectorAll('.highlight pre')].map(box => {
                box.append(line)
                const style = getComputedStyle(box), room = box.clientWidth - parseFloat(style.paddingLeft) - parseFloat(style.paddingRight)
                return 88 * room / line.getBoundingClientRect().width }) }""")
        assert min(columns) >= 88, name


def test_code_in_a_fold_scrolls_by_keyboard(opener):
    phone, found = opener(width=360), 0
    for name in CHAPTERS:
        phone.visit(f"{name}.html")
        for fold in phone.locator("article section > details > summary").all(): fold.click()
        wide = phone.locator("details[open] pre").evaluate_all("boxes => boxes.filter(box => box.scrollWidth > box.clientWidth + 1).map(box => box.tabIndex)")
        assert set(wide) <= {0}, name
        found += len(wide)
    assert found


def test_keyboard(opener):
    window = opener()
    window.visit("04_loss.html")
    window.keyboard.press("Tab")
    assert window.evaluate("document.activeElement.className").startswith("skip-to-content")
    phone = opener(width=360)
    phone.visit("04_loss.html")
    phone.focus(".nav-overlay-icon [role=button]")
    phone.keyboard.press("Enter")
    phone.wait_for_function("document.querySelector('.sidebar-drawer').getBoundingClientRect().left == 0")
    assert phone.locator(".sidebar-tree a").first.is_visible()
    phone.keyboard.press("Escape")
    phone.wait_for_function("document.querySelector('.sidebar-drawer').getBoundingClientRect().right <= 0")

"""The site's extension: what it makes of directives, equations, names and sources, on a book of three small chapters."""
import json
import pydoc
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

slow = pytest.mark.slow
ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "docs"))
vae_site = pytest.importorskip("vae_site", reason="the site's tools are missing: pip install -e '.[dev]'")
bs4 = pytest.importorskip("bs4")
from sphinx.util.inventory import InventoryFile  # comes with the above
NOTEBOOKS = {p.stem: json.loads(p.read_text("utf-8")) for p in sorted((ROOT / "nbs").glob("*.ipynb"))}
CHAPTERS = [name for name in NOTEBOOKS if name[:2].isdigit()]

BADGE = "[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/x)"
PIXEL = ("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==")
MODULE = '''from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple
__all__ = ["SIDES", "scale", "SCALE", "Box", "Warned", "Size", "Frame"]

SIDES = {"a": 1}  # edges of `Box`

def scale(
    x: "Tensor | float",  # pixels, (B, D)
    by: float = 2.0,      # factor, > 0
) -> float:               # x times by
    "A product, Eq. (1.1)."
    if by <= 0: raise ValueError(f"by must be positive, not {by!r}")
    return x * by

class Box:
    "Holds a thing."
    def __init__(self, side: int = 1):  # edge
        self.side = side
    def grow(self, by: int) -> int:  # the new side
        "Scale it."
        return scale(self.side, by)
    @property
    def half(self) -> float:  # of the side
        "Divide it."
        return self.side / 2
    def __len__(self): return self.side
    def plain(self): pass
    def __private(self): pass

class Warned(Warning):
    level = 3
    def with_traceback(self, tb): return self

class Size(NamedTuple):
    "Two lengths."
    width: int       # across
    height: int = 1  # up, *never* negative

@dataclass(frozen=True)
class Frame:
    "A box with an edge."
    edge: float = 0.5        # of the frame, > 0
    by: Callable = scale     # what makes it larger
    def __post_init__(self):
        if self.edge <= 0: raise ValueError("edge must be positive")
    def widen(self): "Make it larger."

SCALE = 2.0  # a factor
'''


def text(source):
    return {"cell_type": "markdown", "id": f"t{abs(hash(source)) % 10**6}", "metadata": {}, "source": source}


def code(source, *outputs):
    return {"cell_type": "code", "id": f"c{abs(hash(source)) % 10**6}", "metadata": {}, "source": source, "execution_count": None, "outputs": list(outputs)}


def printed(words):
    return {"output_type": "stream", "name": "stdout", "text": words}


FIGURE = {"output_type": "display_data", "metadata": {}, "data": {"image/png": PIXEL}}
FIRST = [text(f"# One\n> The first\n\n{BADGE}\n\nSee `scale`, `two`, `pkg.scale()`, Eq. (2.1) and [Author (2001)](https://arxiv.org/abs/0000.00001)."),
         code("#| default_exp one"), code("#| hide\nhidden = 1"), code("#| export\nimport math"),
         text("$$ a = b \\tag{1.1} $$\n\n> **Note.** Beware of `Box.grow`.\n\n$$ e = f \\tag{1.2} $$\n\n$$ unnumbered $$"),
         code("#| checks: 1.1\nassert 1 == 1"), code("#| checks: 1.2, 1.1\nassert 2 == 2"), code("#| export\ndef _refuse(x): pass\nLIMIT = 1"),
         code("#| exports\ndef scale(x, by=2.0):\n    return x * by\n\nSCALE = 2.0"), code("#| fig-alt: A red dot on nothing at all\nplot()", FIGURE),
         code("#| code-fold: true\nfolded = 1"), code("#| echo: false\nsilent = 1", printed("spoken")), code("#| output: false\nmute = 1", printed("unsaid"))]
NAMES = {  # in backticks -> where it leads
    "nn.Linear": "/generated/torch.nn.Linear.html#torch.nn.Linear", "torch.randn(3)": "/generated/torch.randn.html#torch.randn",
    "F.relu": "/generated/torch.nn.functional.relu.html#torch.nn.functional.relu", "Tensor": "/tensors.html#torch.Tensor",
    "torch.float64": "/tensor_attributes.html#torch.dtype", "torch.distributions": "/distributions.html#module-torch.distributions",
    "np.exp": "/generated/numpy.exp.html#numpy.exp", "plt.plot": "/_as_gen/matplotlib.pyplot.plot.html#matplotlib.pyplot.plot",
    "math.log": "/library/math.html#math.log", "ValueError": "/library/exceptions.html#ValueError", "Path": "/library/pathlib.html#pathlib.Path",
    "Box": "api/one.html#pkg.one.Box", "Box.grow": "api/one.html#pkg.one.Box.grow", "one.Size": "api/one.html#pkg.one.Size", "pkg.Box": "api/one.html#pkg.one.Box",
    "x": None, "mu": None, "model.pt": None, "float": None, "a + b": None, "one": None, "time": None, "Size": None, "grow": None}
SECOND = [text(f"# Two\n> The second\n\n{BADGE}\n\n$$ c = d \\tag{{2.1}} $$\n\nFrom Eq. (1.1), see [One](01_one.ipynb#A-heading)."), code("#| default_exp two"),
          code("#| checks: 2.1\nfrom pkg.one import scale\nassert scale"),
          text(" ".join(f"`{name}`" for name in NAMES))]
FIRST.append(text("## A heading\n\nThe end."))
THIRD = [text(f"# Three\n> The third\n\n{BADGE}\n\nWords."), code("from pkg import (scale,\n  Box)"), code("import pkg.two"),
         text("## Exercises\n\nA few."), text("**1. Mend it.** ★☆☆ (warm-up) One line."), text("**2. Why not?** ★★★ (challenge) Many."), text("**3. None.** Of them.")]
MAP = "## The map\n\n<!-- chapters -->\n\nout of date\n\n<!-- end -->"


def write(folder, first, second, bib):
    "A project of three chapters."
    for name in ("nbs", "pkg", "docs/pages", "src"): (folder / name).mkdir(parents=True)
    kernel = {"kernelspec": {"display_name": "python3", "language": "python", "name": "python3"}}
    for name, cells in (("index", [text("# Book\n> A small one\n\n" + BADGE + "\n\nWords."), text(MAP)]), ("01_one", first), ("02_two", second), ("11_three", THIRD)):
        (folder / f"nbs/{name}.ipynb").write_text(json.dumps({"cells": cells, "metadata": kernel, "nbformat": 4, "nbformat_minor": 5}))
    (folder / "pkg/one.py").write_text(MODULE)
    (folder / "pkg/__init__.py").write_text('PUBLIC = {"one": "scale Box"}\n')
    (folder / "docs/references.bib").write_text(bib)
    (folder / "docs/moved.json").write_text('{"01_one.html#old": "02_two.html#eq-2-1", "01_one.html#older": "01_one.html#a-heading", "api/one.html#gone": "01_one.html#eq-1-1"}')
    (folder / "docs/landing.md").write_text("Welcome. [Colab](COLAB/nbs/01_one.ipynb)")
    (folder / "docs/pages/glossary.md").write_text("# Symbols\n\nNone.")
    (folder / "settings.ini").write_text("[DEFAULT]\nlib_name = pkg\nnbs_path = nbs\nuser = me\nrepo = pkg\nbranch = main\n"
                                         "git_url = https://github.com/me/pkg\ntst_flags = slow\ndescription = A small book\n")


def build(folder, *book):
    "Write and build a book; return what Sphinx complained of and the pages."
    if not shutil.which("node") or not (ROOT / "docs/node_modules/katex").exists(): pytest.skip("KaTeX is missing: npm ci --prefix docs")
    write(folder, *book)
    done = subprocess.run([sys.executable, "-m", "sphinx", "-q", "-c", ROOT / "docs", "-D", f"site_root={folder}", folder / "src", folder / "html"],
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stderr, {p.relative_to(folder / "html").with_suffix("").as_posix(): bs4.BeautifulSoup(p.read_text("utf-8"), "html.parser")
                         for p in (folder / "html").rglob("*.html")}


BIB = "@misc{a, author = {Author, Ann}, title = {A Title}, year = {2001}, url = {https://arxiv.org/abs/0000.00001}}"
WRONG = [text("See Eq. (9.9)."), text("$$ e = f \\tag{1.1} $$"), code("plot()", FIGURE), code("#| hidden\nx = 1"), text("[Nobody (1999)](https://example.org/paper)"),
         text("[Author (2002)](https://arxiv.org/abs/0000.00001)"), text("[gone](03_gone.ipynb)"), text("$$ g = h \\tag{2.2} $$\n\n$$ i = j \\tag{2.3} $$\n\n$$ k = l \\tag{2.4} $$"),
         code("#| checks: 2.2\n#| hide\nassert 1"), code("#| checks: 2.3\nprint(2.3)"), code("#| checks: 2.9\nassert 1")]


@pytest.fixture(scope="module")
def complaints(tmp_path_factory):
    return build(tmp_path_factory.mktemp("wrong"), FIRST, SECOND + WRONG, BIB + "@misc{b, author = {B, C}, title = {U}, year = {2002}, url = {https://u}}")[0]


def test_directives_leave_the_code():
    found, rest = vae_site.split_directives("#| exports\n#| fig-alt: two: curves\n\nx = 1  #| not one\n")
    assert found == {"exports": "", "fig-alt": "two: curves"} and rest == "x = 1  #| not one\n"


@pytest.mark.parametrize("docname, part", [("08_runs", "Foundations"), ("11_evaluation", "Understanding"), ("21_convolutional", "Beyond"),
                                           ("30_fast_step", "Engineering"), ("31_speed", "Engineering"), ("90_cli", "Reference")])
def test_tens_of_the_number_are_parts(docname, part):
    assert vae_site.chapter(docname, {"cells": FIRST}).part == part


@pytest.fixture(scope="module")
def book(tmp_path_factory):
    return build(tmp_path_factory.mktemp("book"), FIRST, SECOND, BIB)


@slow
def test_a_clean_book_builds_without_a_word_and_links_everything(book):
    complaints, pages = book
    assert complaints.strip() == ""
    one, two, api = pages["01_one"], pages["02_two"], pages["api/one"]
    assert [p.get_text().rstrip() for p in one.select(".cell_input pre")] == [
        "assert 1 == 1", "assert 2 == 2", "def _refuse(x): pass\nLIMIT = 1", "def scale(x, by=2.0):\n    return x * by\n\nSCALE = 2.0", "plot()", "folded = 1", "mute = 1"]
    assert "spoken" in one.get_text() and "unsaid" not in one.get_text() and "hidden" not in one.article.get_text()
    assert [d.select_one("pre").get_text().rstrip() for d in one.select("details")] == ["def _refuse(x): pass\nLIMIT = 1", "folded = 1"]
    assert "Left out here: _refuse, LIMIT" in one.select_one("details summary").get_text()
    image = one.select_one("article img")
    assert image["alt"] == "A red dot on nothing at all" and (image["width"], image["height"]) == ("1", "1")
    assert one.select_one("a[href='02_two.html#eq-2-1']").get_text() == "Eq.\xa0(2.1)" and two.select_one("a[href='01_one.html#eq-1-1']")
    assert one.select_one("#eq-1-1 .katex-display") and two.select_one("a[href='01_one.html#a-heading']")
    assert one.select_one("div.note a[href='api/one.html#pkg.one.Box.grow'] code")
    assert [a.get_text() for a in one.select("p a[href='api/one.html#pkg.one.scale'] code")] == ["scale", "pkg.scale()", "scale"]
    names = {**NAMES}
    for code in two.select("p > code, p > a > code"):
        end = names.pop(code.get_text())
        assert code.parent.name == "p" if end is None else code.parent["href"].endswith(end), code
    assert not names
    assert one.select_one("p.exported a[href='api/one.html#module-pkg.one']") and one.select_one("#src-scale")
    assert one.select_one("a.download")["href"] == "_sources/01_one.ipynb" and one.select_one("a.colab")["href"].endswith("/me/pkg/blob/main/nbs/01_one.ipynb")
    assert "A Title" in one.select_one("a[href*='0000.00001']")["title"] and "Cited in" in pages["references"].get_text()
    assert [json.loads(page.select_one("meta[name=moved]")["content"]) for page in (one, api)] == [
        {"#old": "02_two.html#eq-2-1", "#older": "#a-heading"}, {"#gone": "../01_one.html#eq-1-1"}]
    assert two.select_one("meta[name=moved]") is None


@slow
def test_equations_and_their_checks_lead_to_each_other(book):
    one = book[1]["01_one"]
    marks = [(a["href"], a["aria-label"]) for a in one.select(".to-check a")]
    assert marks == [("#check-1-1", "Eq. (1.1): go to its check"), ("#check-1-2", "Eq. (1.2): go to its check")]
    assert [a.find_previous(class_="katex-display").find_parent(id=True)["id"] for a in one.select(".to-check a")] == ["eq-1-1", "eq-1-2"]
    captions = one.select("p.checks")
    assert [c.get_text() for c in captions] == ["checks Eq.\xa0(1.1)", "checks Eqs. (1.2), (1.1)"]
    assert [[a["href"] for a in c.select("a")] for c in captions] == [["#eq-1-1"], ["#eq-1-2", "#eq-1-1"]]
    for caption, number, code in zip(captions, ("1-1", "1-2"), ("assert 1 == 1", "assert 2 == 2")):
        assert caption["id"] == f"check-{number}" and caption.find_next("pre").get_text().strip() == code


@slow
def test_the_map_the_sidebar_and_the_heads_know_every_chapter(book):
    index, three = book[1]["index"], book[1]["11_three"]
    stops = [[a["href"], *(a.select_one(f".{part}").get_text() for part in ("stop", "name", "what", "minutes"))] for a in index.select(".book-map li a")]
    assert stops == [["01_one.html", "1", "One", "The first", "1 min"], ["02_two.html", "2", "Two", "The second", "1 min"], ["11_three.html", "11", "Three", "The third", "1 min"]]
    assert [" ".join(head.get_text(" ").split()) for head in index.select(".book-map .head")] == [
        "Foundations what every VAE is 2 chapters, about 0.5 h", "Understanding is it any good, and why 1 chapter, about 0.5 h"]
    assert [c.get_text() for c in index.select(".sidebar-tree .caption")] == ["Foundations", "Understanding", "Reference"]
    assert "11 Three" in index.select_one(".sidebar-tree").get_text() and "out of date" not in index.get_text()
    assert "Understanding · Chapter 11" in three.select_one(".eyebrow").get_text()
    glance = [book[1][name].select_one(".at-a-glance").get_text() for name in ("01_one", "02_two", "11_three")]
    assert glance == ["About 1 min to read, without the exercises. Needs no other chapter. What is folded can wait for a second reading.",
                      "About 1 min to read, without the exercises. Needs chapter 1.", "About 1 min to read, without the exercises. Needs chapters 1 and 2."]
    assert [a["href"] for a in three.select(".at-a-glance a")] == ["01_one.html", "02_two.html"]


@slow
def test_the_page_of_exercises_leads_to_each(book):
    page, three = book[1]["exercises"], book[1]["11_three"]
    listed = [(li.select_one("a")["href"], " ".join(li.get_text(" ").split()), li.find_previous("h3").a.get_text()) for li in page.select("ul.exercises li")]
    assert listed == [("11_three.html#exercise-11-1", "★☆☆ Mend it (warm-up)", "11 Three"), ("11_three.html#exercise-11-2", "★★★ Why not? (challenge)", "11 Three")]
    assert [h2.find(string=True) for h2 in page.select("article h2")] == ["Understanding"] and "2 exercises" in page.get_text()
    starts = [" ".join(three.select_one(f"#exercise-11-{n}").get_text(" ").split()) for n in (1, 2)]
    assert starts == ["1. Mend it. ★☆☆ (warm-up) One line.", "2. Why not? ★★★ (challenge) Many."]
    assert [(s.get_text(), s["aria-hidden"]) for s in three.select(".marks")] == [("★☆☆", "true"), ("★★★", "true")]


@pytest.mark.parametrize("code, title", [
    ("def _a(x): return x\n\nB = 1", "_a, B"), ("def _a(x):\n    'Twice `x`.\\n\\nMore.'\n    return 2 * x", "_a: Twice x."),
    ("def _a(x): pass\n\nB = 1  # an edge", "\n_a\nB: an edge")])
def test_a_fold_says_what_is_in_it(code, title):
    assert vae_site.fold_title(code) == f"Left out here: {title}"


def test_minutes_leave_out_folds_and_exercises():
    words = " ".join(["word"] * 660)
    read, fold = text(words), text(f"<details><summary>Proof</summary>\n\n{words}\n\n</details>")
    assert vae_site.reading_minutes([read, fold, text(f"## Exercises\n\n{words}"), read]) == 3
    assert vae_site.reading_minutes([read, {**code("x\n" * 60), "metadata": {"tags": []}}]) == 6


def test_digits_of_ones_own_are_ten_minutes_away():
    cells = NOTEBOOKS["00_first_vae"]["cells"]
    it_draws = next(i for i, c in enumerate(cells) if vae_site.source(c).startswith("## It draws"))
    drawn = next(i for i, c in enumerate(cells) if i > it_draws and any("image/png" in o.get("data", {}) for o in c.get("outputs", [])))
    assert vae_site.reading_minutes(cells[:drawn + 1]) <= 10 and "about ten minutes" in (ROOT / "docs/landing.md").read_text("utf-8")


@pytest.mark.parametrize("name", CHAPTERS)
def test_every_tagged_equation_has_its_check(name):
    assert vae_site.unchecked(NOTEBOOKS[name]) == []


@pytest.mark.parametrize("cells, wrong", [
    ([text("$$ a \\tag{1.1} $$"), code("#| checks: 1.1\nassert 1")], []),
    ([text("$$ a \\tag{1.1} $$"), code("#| checks: 1.1\ntest_close(1, 1)")], []),
    ([text("$$ a \\tag{1.1} $$"), code("assert 1")], ["equation (1.1) has no cell"]),
    ([text("$$ a \\tag{1.1} $$"), code("#| checks: 1.1, 1.2\nassert 1")], ["'#| checks: 1.2' names an equation"]),
    ([text("$$ a \\tag{1.1} $$"), code("#| echo: false\n#| checks: 1.1\nassert 1")], ["(1.1) is hidden"]),
    ([text("$$ a \\tag{1.1} $$"), code("#| exports\n#| checks: 1.1\nassert 1")], ["(1.1) is hidden"]),
    ([text("$$ a \\tag{1.1} $$"), code("#| checks: 1.1\nprint(1)")], ["(1.1) asserts nothing"])])
def test_what_is_wrong_with_a_check_is_found(cells, wrong):
    found = vae_site.unchecked({"cells": cells})
    assert len(found) == len(wrong) and all(w in f for f, w in zip(found, wrong))


def rows(markdown, header):
    "Symbol and meaning in the tables of this header; the symbol without what does not matter, the meaning up to its first stop."
    for table in re.findall(rf"^{re.escape(header)}\n\|[-|]+\n((?:\|.*\n?)*)", markdown, re.M):
        for row in table.splitlines():
            symbol, meaning = [cell.strip() for cell in row.replace(r"\|", "\0").split("|")[1:3]]
            symbol = re.sub(r"\\(mid|vert|Vert)\b|\0", "|", re.sub(r"_\\(theta|phi)\b|\\[,;! ]", "", symbol))
            yield re.sub(r"[{}$\s]", "", symbol), re.split(r"[,;:(.]", re.sub(r"\[([^]]*)\]\([^)]*\)|[*_`]", r"\1", meaning))[0].strip().lower()


def test_a_symbol_has_one_meaning():
    glossary = [*rows((ROOT / "docs/pages/glossary.md").read_text("utf-8"), "| symbol | is | introduced in | in code |")]
    assert len(dict(glossary)) == len(glossary) > 30
    for name in CHAPTERS:
        for cell in NOTEBOOKS[name]["cells"]:
            for symbol, meaning in rows(vae_site.source(cell), "| symbol | is | in code |"):
                assert dict(glossary).get(symbol) == meaning, f"{name}: {symbol} is {meaning!r}, in docs/pages/glossary.md {dict(glossary).get(symbol)!r}"


def test_symbols_are_compared_as_they_are_meant():
    table = "| symbol | is | in code |\n|---|---|---|\n| $q_\\phi(z \\mid x)$ | the [approximate](a.ipynb) *posterior*, of `q` | `q` |\n| $q(z\\|x)$ | The approximate posterior (one) | |\n"
    assert set(rows(table, "| symbol | is | in code |")) == {("q(z|x)", "the approximate posterior")}


@slow
def test_the_api_reference_says_what_the_source_says(book):
    api = book[1]["api/one"]
    entries = {entry.dt["id"].removeprefix("pkg.one."): " ".join(entry.get_text(" ").split()) for entry in api.select("dl.py")}
    assert list(entries) == ["SIDES", "scale", "Box", "Box.grow", "Box.half", "Box.plain", "Warned", "Size", "Frame", "Frame.widen", "SCALE"]
    assert "edges of Box" in entries["SIDES"] and "'a'" not in entries["SIDES"]
    assert "by : float = 2.0" in entries["scale"] and "x ( Tensor | float ) – pixels, (B, D)" in entries["scale"] and "x times by" in entries["scale"]
    assert "ValueError – by must be positive, not …" in entries["scale"] and api.select_one("dl.py a[href='../01_one.html#eq-1-1']")
    assert "side ( int ) – edge" in entries["Box"] and "what scale raises" in entries["Box.grow"] and "Returns : the new side" in entries["Box.grow"]
    assert "property half : float" in entries["Box.half"] and "of the side" in entries["Box.half"]
    assert "width ( int ) – across height ( int ) – up, *never* negative" in entries["Size"]
    assert "edge ( float ) – of the frame, > 0 by ( Callable ) – what makes it larger" in entries["Frame"] and "ValueError – edge must be positive" in entries["Frame"]
    assert api.select_one("#pkg\\.one\\.SCALE + dd a[href='../01_one.html#src-scale-2']")
    assert api.select_one("a[href='../01_one.html#src-scale']") and api.select_one("a[href='https://github.com/me/pkg/blob/main/pkg/one.py#L8-L14']")
    assert api.select_one("a[href$='#L6-L6']") and api.select_one("dt a[href$='/tensors.html#torch.Tensor']")


@slow
@pytest.mark.parametrize("complaint", ["undefined label: 'eq-9-9'", "equation (1.1) is numbered twice", "'#| fig-alt: what it shows' in: 'plot()'",
    "unknown directive '#| hidden'", "[Nobody (1999)](https://example.org/paper) is not in docs/references.bib",
    "[Author (2002)] does not name the author and year of its entry", "'03_gone.ipynb'", "no chapter cites b (https://u)",
    "equation (2.4) has no cell that checks it", "'#| checks: 2.9' names an equation that the chapter does not have",
    "the check of equation (2.2) is hidden", "the check of equation (2.3) asserts nothing"])
def test_what_is_wrong_is_said(complaints, complaint):
    assert complaint in complaints


@slow
def test_without_node_one_sentence_says_so(tmp_path):
    done = subprocess.run([sys.executable, "-m", "sphinx", "-q", "-c", ROOT / "docs", tmp_path, tmp_path / "out"], env={"PATH": str(tmp_path)}, capture_output=True, text=True)
    assert done.returncode != 0 and "install Node.js" in done.stderr and "Traceback" not in done.stderr


SLOW = """
import socket, sys, time
server = socket.socket(socket.AF_UNIX)
server.bind(sys.argv[sys.argv.index("--socket") + 1])
time.sleep(0.3)
server.listen()
client, _ = server.accept()
client.sendall(client.recv(2))
"""


@pytest.fixture
def katex_server(tmp_path, monkeypatch):
    "Put a Python program in the place of KaTeX's server."
    def put(program):
        (tmp_path / "server.py").write_text(program)
        monkeypatch.setattr("sphinxcontrib.katex.NODEJS_BINARY", sys.executable)
        monkeypatch.setattr("sphinxcontrib.katex.SCRIPT_PATH", str(tmp_path / "server.py"))
        monkeypatch.setattr("subprocess.Popen", lambda *args, start=subprocess.Popen, **options: started.append(start(*args, **options)) or started[-1])
        return tmp_path
    started = put.started = []
    yield put
    for process in started:
        process.kill()
        process.communicate()


@slow
def test_a_socket_that_does_not_listen_yet_is_waited_for(katex_server):
    process, client = vae_site.start_katex(katex_server(SLOW), 60)
    with client:
        client.sendall(b"ab")
        assert client.recv(2) == b"ab"


@slow
def test_a_server_that_ends_is_not_waited_for(katex_server):
    with pytest.raises(vae_site.KaTeXError, match="exit status 7"): vae_site.start_katex(katex_server("raise SystemExit(7)"), 60)


@slow
def test_a_server_that_never_listens_does_not_outlive_the_build(katex_server):
    with pytest.raises(vae_site.KaTeXError, match="after 0.1 seconds"): vae_site.start_katex(katex_server("input()"), 0.1)
    assert katex_server.started[0].wait(60) < 0


def test_names_of_other_projects_are_real():
    "Every name in backticks that a chapter links to another project's documentation exists there."
    inventories = [InventoryFile.loads(path.read_bytes(), uri="").data for path in sorted((ROOT / "docs/inventories").glob("*.inv"))]
    known = {name: item.uri.partition("#")[2].removeprefix("module-") for inventory in inventories for names in inventory.values() for name, item in names.items()}
    used = {name.partition("(")[0] for notebook in NOTEBOOKS.values() for cell in notebook["cells"] if cell["cell_type"] == "markdown"
            for name in re.findall(r"(?<!`)`([^`\n]+)`(?!`)", "".join(cell["source"]))} & set(known)
    assert len(used) > 20 and [name for name in sorted(used) if pydoc.locate(known[name]) is None] == []

"""The rules of the house: what must hold of the repository as a whole."""
import ast
import inspect
import json
import re
import shutil
import statistics
import subprocess
import sys
from dataclasses import is_dataclass
from pathlib import Path

import pytest

import vae_nbdev
from conftest import ROOT

CHAPTERS = sorted(p.stem for p in (ROOT / "nbs").glob("*.ipynb"))
MODULES = sorted(p.stem for p in (ROOT / "vae_nbdev").glob("*.py") if not p.stem.startswith("_"))


def sources(notebook, kind):
    return ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == kind]


def tracked_files():
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode: pytest.skip("not a git checkout, so there is no list of tracked files")
    return [ROOT / line for line in listed.stdout.splitlines()]


def module_of(notebook):
    found = [re.match(r"#\|\s*default_exp\s+(\w+)", s) for s in sources(notebook, "code")]
    return next((m[1] for m in found if m), None)


def test_export_is_in_sync(tmp_path):
    """Delete every generated module, export again: nothing differs, and nothing was written by hand."""
    shutil.copytree(ROOT / "nbs", tmp_path / "nbs", ignore=shutil.ignore_patterns(".*", "runs", "data"))
    shutil.copytree(ROOT / "vae_nbdev", tmp_path / "vae_nbdev", ignore=shutil.ignore_patterns("__pycache__", "*.py", "*.xz"))
    for name in ("settings.ini", "setup.py"): shutil.copy(ROOT / name, tmp_path)
    subprocess.run([Path(sys.executable).with_name("nbdev_export")], cwd=tmp_path, check=True, capture_output=True)
    read = lambda folder: {p.name: p.read_text() for p in (folder / "vae_nbdev").glob("*.py")}
    assert read(tmp_path) == read(ROOT)


def test_notebooks_are_clean(tmp_path):
    """nbdev_clean has nothing to do."""
    shutil.copytree(ROOT / "nbs", tmp_path / "nbs", ignore=shutil.ignore_patterns(".*", "runs", "data"))
    for name in ("settings.ini", "setup.py"): shutil.copy(ROOT / name, tmp_path)
    subprocess.run([Path(sys.executable).with_name("nbdev_clean")], cwd=tmp_path, check=True, capture_output=True)
    dirty = [n for n in CHAPTERS if (tmp_path / f"nbs/{n}.ipynb").read_text() != (ROOT / f"nbs/{n}.ipynb").read_text()]
    assert not dirty


@pytest.mark.parametrize("name", CHAPTERS)
def test_notebook_was_executed_without_error(name, notebooks):
    code = [c for c in notebooks[name]["cells"] if c["cell_type"] == "code"]
    assert any(c["outputs"] for c in code)
    assert not [o for c in code for o in c["outputs"] if o["output_type"] == "error"]
    assert "widgets" not in notebooks[name]["metadata"], "a progress bar left its widget, which pages would load from elsewhere"


@pytest.mark.parametrize("name", CHAPTERS)
def test_notebook_reads_as_a_lesson(name, notebooks):
    """Short cells, the shorter the fewer of them are exported; text between them, one title, headings in order."""
    code, text = sources(notebooks[name], "code"), sources(notebooks[name], "markdown")
    length = lambda cell: sum(bool(line.strip()) for line in cell.splitlines())
    lines = sorted(map(length, code))
    assert statistics.median(length(c) for c in code if not c.startswith("#| export")) <= 5
    assert lines[int(0.9 * (len(lines) - 1))] <= 15 and lines[-1] <= 40
    assert len(text) >= len(code) / 2.5
    assert len(code) <= (130 if name == "30_fast_step" else 90), "a chapter with more cells holds two"
    levels = [len(m[1]) for t in text for m in re.finditer(r"^(#+) ", re.sub(r"```.*?```", "", t, flags=re.S), flags=re.M)]
    assert levels[0] == 1 and levels.count(1) == 1 and all(b <= a + 1 for a, b in zip(levels, levels[1:]))


@pytest.mark.parametrize("name", CHAPTERS)
def test_code_fits_the_column_of_the_site(name, notebooks):
    """88 columns, comments included; what a figure shows is one line, however long."""
    lines = [line for cell in sources(notebooks[name], "code") for line in cell.splitlines()]
    assert not [line for line in lines if len(line) > 88 and not line.startswith(("#| fig-alt", "#| fig-cap"))]


@pytest.mark.parametrize("module", MODULES)
def test_modules_fit_the_column_too(module):
    made = re.compile(r"^(__all__|           '|# %% |\"\"\")")  # lines that nbdev writes
    lines = (ROOT / f"vae_nbdev/{module}.py").read_text(encoding="utf-8").splitlines()
    assert not [line for line in lines if len(line) > 88 and not made.match(line)]


def test_tests_name_no_private_names():
    """Behaviour is tested through public names, so that a room can be moved without breaking a test."""
    private = re.compile(r"\b(?:" + "|".join(MODULES) + r")\._[a-z]\w*|from vae_nbdev\.\w+ import [^\n]*\b_[a-z]")
    found = [(p.name, m) for p in (ROOT / "tests").glob("*.py") for m in private.findall(p.read_text(encoding="utf-8"))]
    assert not found


def test_one_notebook_writes_one_module(notebooks):
    written = [module_of(nb) for nb in notebooks.values() if module_of(nb)]
    assert sorted(written) == sorted([*MODULES, "__init__"])


def test_chapters_import_only_from_earlier_chapters(notebooks):
    order = {module_of(nb): name for name, nb in notebooks.items() if module_of(nb)}
    later = []
    for name, nb in notebooks.items():
        if not name[0].isdigit(): continue  # the index shows the finished package
        for module in re.findall(r"(?:from|import) vae_nbdev\.(\w+)", "\n".join(sources(nb, "code"))):
            if module != module_of(nb) and order[module] > name: later.append((name, module))
    assert not later


def test_numbers_of_equations_are_unique_and_references_resolve(notebooks):
    text = {name: "\n".join(sources(nb, "markdown")) for name, nb in notebooks.items()}
    tags = [tag for t in text.values() for tag in re.findall(r"\\tag\{([\d.]+)\}", t)]
    assert len(tags) == len(set(tags))
    assert not {ref for t in text.values() for ref in re.findall(r"Eqs?\. \((\d+\.\d+)\)", t)} - set(tags)


def test_public_names_are_those_of_the_modules():
    for module, names in vae_nbdev.PUBLIC.items():
        assert set(names.split()) <= set(getattr(vae_nbdev, module).__all__), module
    assert set(vae_nbdev.PUBLIC) == set(MODULES) - {"cli", "commands"}
    assert {name: getattr(vae_nbdev, name) for name in vae_nbdev.__all__}


def test_public_functions_are_documented():
    """A docstring, and a word on every parameter and on what comes back (nbdev's docments)."""
    from fastcore.docments import docments
    missing = []
    for module, names in vae_nbdev.PUBLIC.items():
        for name in names.split():
            value = getattr(vae_nbdev, name)
            if not callable(value): continue
            written = inspect.isclass(value) and not is_dataclass(value)  # of a dataclass the fields are documented
            if written and not getattr(value.__init__, "__module__", "").startswith("vae_nbdev"): continue  # inherited
            docs = docments(value.__init__ if written else value, full=True)
            missing += [f"{module}.{name}"] * (not value.__doc__)
            missing += [f"{module}.{name}({p})" for p, d in docs.items() if p not in ("self", "return") and not d.docment]
    assert not missing


def test_package_imports_only_its_requirements(settings):
    allowed = {re.match(r"[\w-]+", r)[0].replace("-", "_") for r in settings["requirements"].split()}
    allowed = allowed - {"pillow"} | {"PIL"}  # the one that is imported under another name
    found = set()
    for path in (ROOT / "vae_nbdev").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import): found |= {a.name.split(".")[0] for a in node.names}
            if isinstance(node, ast.ImportFrom) and not node.level: found.add(node.module.split(".")[0])
    assert found - set(sys.stdlib_module_names) - {"vae_nbdev"} <= allowed
    assert allowed <= found


def test_import_loads_nothing_heavy():
    code = "import sys, vae_nbdev.training, vae_nbdev.model; print([m for m in ('torchvision', 'matplotlib') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_version_is_that_of_the_settings(settings):
    assert vae_nbdev.__version__ == settings["version"]


def test_constraints_pin_every_requirement(settings):
    pinned = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line)
    names = [re.match(r"[\w.-]+", r)[0] for r in (settings["requirements"] + " " + settings["dev_requirements"]).split()]
    assert not set(names) - set(pinned)


def test_readme_and_colab_links_are_current():
    made = subprocess.run([sys.executable, "docs/readme.py", "--check"], cwd=ROOT, capture_output=True, text=True)
    assert made.returncode == 0, made.stdout + made.stderr


def test_relative_links_resolve(notebooks):
    pages = {p: p.read_text(encoding="utf-8") for p in tracked_files() if p.suffix == ".md"}
    pages.pop(ROOT / "docs/landing.md", None)  # a template: the site's tests follow its links once they are filled in
    pages |= {ROOT / f"nbs/{n}.ipynb": "\n".join(sources(nb, "markdown")) for n, nb in notebooks.items()}
    broken = []
    for page, text in pages.items():
        text = re.sub(r"```.*?```|`[^`\n]*`", "", text, flags=re.S)
        targets = re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r"(?:href|src)=\"([^\"]+)\"", text)
        folder = ROOT / "nbs" if page.parent == ROOT / "docs/pages" else page.parent  # the site puts its pages beside the chapters
        broken += [(page.name, t) for t in targets if not re.match(r"[a-z]+:|#", t) and not (folder / t.split("#")[0]).exists()]
    assert not broken


def test_no_leftovers_are_tracked():
    names = [str(p.relative_to(ROOT)) for p in tracked_files()]
    leftover = re.compile(r"Untitled|\.ipynb_checkpoints|__pycache__|(^|/)runs/|_build/|node_modules|\.egg-info|(^|/)\.venv")
    assert not [n for n in names if leftover.search(n)]


def test_unfinished_work_and_private_paths_are_not_tracked():
    pattern = re.compile("TO" + "DO|FIX" + "ME|/(?:home|root|tmp|work)/[a-z]")
    texts = [p for p in tracked_files() if p.suffix in {".py", ".md", ".ini", ".toml", ".ipynb", ".yml", ".txt", ""} and p.is_file()]
    found = []
    for path in texts:
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".ipynb":
            cells = json.loads(text)["cells"]
            text = "\n".join("".join(c["source"]) + "".join("".join(o.get("text", "")) for o in c.get("outputs", [])) for c in cells)
        found += [(path.name, m) for m in pattern.findall(text)]
    assert not found

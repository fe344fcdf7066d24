"""Fixtures that several test files share."""
import json
import os
import re
import subprocess
import sys
from configparser import ConfigParser
from functools import cache
from pathlib import Path

import pytest
from filelock import FileLock

from website import base, browser, build, opener, page, pages, site  # fixtures

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: other test processes run beside this one, and threads that wait for a core are slow

ROOT = Path(__file__).parents[1]
CLEAN = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")} | {"OMP_NUM_THREADS": "1"}


def run(python, *args, cwd):
    "Run a Python as a user has it, without this environment's settings."
    return subprocess.run([python, *args], cwd=cwd, env=CLEAN, capture_output=True, text=True)


def source(cell):
    return "".join(cell["source"])


def exercises(notebook):
    """Of each exercise: the name of its checker, the name that it checks, the cell, and the two folds below it."""
    cells = notebook["cells"]
    for i, cell in enumerate(cells):
        last = source(cell).strip().splitlines()[-1:] if cell["cell_type"] == "code" else []
        if last and (call := re.match(r"^(check_\w+)\((\w+)\)$", last[0])):
            yield call[1], call[2], cell, [source(c) for c in cells[i + 1:i + 3]]


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups
def pytest_collection_modifyitems(items):
    """What shares a costly fixture stays in one process: the tests of a file, or those of one chapter's execution."""
    for item in items:
        alone = "executed" in getattr(item, "fixturenames", ())
        item.add_marker(pytest.mark.xdist_group(item.callspec.params["chapter"] if alone else item.path.stem))


@pytest.fixture(scope="session")
def root() -> Path:
    return ROOT


@pytest.fixture(scope="session")
def settings() -> dict:
    ini = ConfigParser(delimiters=["="])
    ini.read(ROOT / "settings.ini", encoding="utf-8")
    return dict(ini["DEFAULT"])


@pytest.fixture(scope="session")
def notebooks() -> dict[str, dict]:
    """Every notebook by its stem, in reading order."""
    return {p.stem: json.loads(p.read_text(encoding="utf-8")) for p in sorted((ROOT / "nbs").glob("*.ipynb"))}


@pytest.fixture(scope="session")
def mnist():
    from vae_nbdev import load_mnist
    return {split: load_mnist(split) for split in ("train", "test")}


@pytest.fixture(scope="session")
def linear():
    """A linear-Gaussian model, and 30 images of it. Its q has the right mean, and `scale` times the right standard deviations."""
    import torch
    from torch.distributions import MultivariateNormal
    from vae_nbdev.elbo import PPCA

    class Scaled(PPCA):
        scale = 1.0

        def posterior(self, x):
            q = super().posterior(x)
            return MultivariateNormal(q.mean, self.scale**2 * q.covariance_matrix)

    torch.manual_seed(3)
    model = Scaled(torch.randn(6, 2).double(), torch.randn(6).double(), 0.7).requires_grad_(False)
    return model, model.likelihood(torch.randn(30, 2).double()).sample()


@pytest.fixture
def small():
    """An untrained VAE for rows of 16 pixels, and twelve binary images."""
    import torch
    from vae_nbdev.model import VAE
    torch.manual_seed(0)
    return VAE(16, 8, 3), (torch.rand(12, 16) < 0.4).float()


@pytest.fixture(scope="session")
def wheel_python(tmp_path_factory, worker_id) -> Path:
    """The Python of a fresh environment that has the built wheel, and this environment's other packages.

    The path entry lends torch and the tools without installing gigabytes again; it brings no editable install along,
    because Python reads .pth files only in an environment's own site-packages. Test processes share it.
    """
    base = tmp_path_factory.getbasetemp()
    folder = (base if worker_id == "master" else base.parent) / "wheel"
    python = folder / "venv" / "bin" / "python"
    run = lambda *args, **kw: subprocess.run([str(a) for a in args], check=True, capture_output=True, text=True, **kw)
    with FileLock(f"{folder}.lock"):
        if (folder / "ready").exists(): return python
        run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, ROOT)
        run(sys.executable, "-m", "venv", folder / "venv")
        site = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").stdout.strip())
        lent = run(sys.executable, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").stdout.strip()
        (site / "lent.pth").write_text(lent + "\n")
        run(python, "-m", "pip", "install", "-q", "--no-index", "--force-reinstall", "--no-deps", *folder.glob("*.whl"))
        (folder / "ready").touch()
    return python


ASK = """
import json as _json
def _ask(checker, checked, code):
    space = dict(globals())
    exec(code, space)
    return str(space[checker](space[checked]))
print("ANSWERS" + _json.dumps([_ask(*question) for question in QUESTIONS]))
"""


def questions(chapter: str, notebook: dict) -> list[tuple[str, str, str]]:
    """What to ask of a chapter's checkers: the folded solution of each exercise, then its named wrong answers."""
    path = ROOT / f"tests/exercises/{chapter.removesuffix('.ipynb')}.json"
    wrong = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    asked = []
    for checker, checked, _, folds in exercises(notebook):
        codes = [re.search(r"```python\n(.*?)```", fold, re.S)[1] for fold in folds if "```python" in fold]
        asked += [(checker, checked, code) for code in [*codes, *(case["wrong"] for case in wrong.get(checker, []))]]
    return asked


@pytest.fixture(scope="session")
def executed(wheel_python, tmp_path_factory):
    """Execute a chapter from the wheel in an empty folder, once: the process, and what its exercises answer at the end.

    Cells marked `#| slow` (the flag of nbdev's own test runner) are measurements that take minutes: `make notebooks` runs
    them.
    """
    @cache
    def execute(chapter):
        folder = tmp_path_factory.mktemp("empty")
        notebook = json.loads((ROOT / "nbs" / chapter).read_text(encoding="utf-8"))
        asking = f"QUESTIONS = {questions(chapter, notebook)!r}\n{ASK}"
        notebook["cells"] = [c for c in notebook["cells"] if "#| slow" not in source(c).splitlines()]
        notebook["cells"].append({"cell_type": "code", "id": "asking", "metadata": {}, "source": asking, "outputs": [], "execution_count": None})
        (folder / chapter).write_text(json.dumps(notebook), encoding="utf-8")
        done = run(wheel_python, "-m", "nbconvert", "--to", "notebook", "--execute", "--inplace", chapter, cwd=folder)
        outputs = json.loads((folder / chapter).read_text(encoding="utf-8"))["cells"][-1]["outputs"]
        said = [line for o in outputs for line in "".join(o.get("text", "")).splitlines() if line.startswith("ANSWERS")]
        return done, json.loads(said[0].removeprefix("ANSWERS")) if said else None

    return execute

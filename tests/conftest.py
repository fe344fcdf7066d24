"""Fixtures that several test files share."""
import json
import subprocess
import sys
from configparser import ConfigParser
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


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
def wheel_python(tmp_path_factory) -> Path:
    """The Python of a fresh environment that has the built wheel, and this environment's other packages.

    The path entry lends torch and the tools without installing gigabytes again; it brings no editable install along,
    because Python reads .pth files only in an environment's own site-packages.
    """
    folder = tmp_path_factory.mktemp("wheel")
    run = lambda *args, **kw: subprocess.run([str(a) for a in args], check=True, capture_output=True, text=True, **kw)
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, ROOT)
    run(sys.executable, "-m", "venv", folder / "venv")
    python = folder / "venv" / "bin" / "python"
    site = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").stdout.strip())
    lent = run(sys.executable, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").stdout.strip()
    (site / "lent.pth").write_text(lent + "\n")
    run(python, "-m", "pip", "install", "-q", "--no-index", "--force-reinstall", "--no-deps", *folder.glob("*.whl"))
    return python

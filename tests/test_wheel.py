"""The wheel, installed into a fresh environment and used from an empty folder, as a user has it."""
import subprocess

import pytest

from conftest import CLEAN, ROOT, run

pytestmark = pytest.mark.slow

CHAPTERS = sorted(p.name for p in (ROOT / "nbs").glob("*.ipynb"))


def test_wheel_brings_code_data_and_command(wheel_python, tmp_path):
    code = ("import vae_nbdev as v; x, y = v.load_mnist('test'); print(len(x), len(y)); "
            "print(v.loss_function(*((m := v.VAE())(x[:2])[:1]), x[:2], *m.encode(x[:2])) > 0, v.__file__)")
    done = run(wheel_python, "-c", code, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("10000 10000") and str(ROOT) not in done.stdout
    command = subprocess.run([wheel_python.with_name("vae-nbdev"), "--version"], cwd=tmp_path, env=CLEAN, capture_output=True, text=True)
    assert command.stdout.startswith("vae-nbdev ")
    assert not list(tmp_path.iterdir())


def test_requirements_are_declared(wheel_python, tmp_path, settings):
    code = "from importlib.metadata import requires; print(*sorted(r for r in requires('vae_nbdev') if 'extra' not in r), sep='\\n')"
    done = run(wheel_python, "-c", code, cwd=tmp_path)
    names = sorted(line.split(">")[0].split("=")[0].strip() for line in done.stdout.split())
    assert names == sorted(r.split(">")[0] for r in settings["requirements"].split())


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_notebook_runs_from_the_wheel_in_an_empty_folder(chapter, executed):
    """As Colab has it: the notebook, the installed package and nothing else."""
    done, _ = executed(chapter)
    assert done.returncode == 0, done.stderr[-3000:]

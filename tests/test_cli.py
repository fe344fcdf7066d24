"""The command line as a process, the way a user meets it."""
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from vae_nbdev import cli

COMMAND = Path(sys.executable).with_name("vae-nbdev")
TRAIN = "train --latent-dim 2 --hidden-dim 32 --batch-size 500 --quiet".split()


def vae(*args, cwd):
    return subprocess.run([COMMAND, *map(str, args)], cwd=cwd, capture_output=True, text=True)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A folder in which a run of three epochs has ended, and what it printed."""
    cwd = tmp_path_factory.mktemp("cli")
    done = vae(*TRAIN, "--epochs", 3, "--out", "whole", cwd=cwd)
    assert done.returncode == 0, done.stderr
    return cwd, done.stdout


def test_a_run_leaves_its_files_and_says_so(run):
    cwd, printed = run
    files = {p.name for p in (cwd / "whole").iterdir()}
    assert {"model.safetensors", "config.json", "history.json"} <= files
    pictures = {name for name in files if name.endswith(".png")}
    assert pictures == {f"{n}.png" for n in ("losses", "samples", "reconstructions", "latent", "interpolation", "manifold")}
    assert not [name for name in files if "checkpoint" in name or "part" in name or "tmp" in name]
    assert all((cwd / "whole" / name).read_bytes().startswith(b"\x89PNG") for name in pictures)
    history = json.loads((cwd / "whole/history.json").read_text())
    assert {len(values) for values in history.values()} == {3}
    assert f"test loss {history['test_loss'][-1]:.2f} nats per image" in printed and "s per epoch" in printed
    assert all(name in printed for name in pictures)


def test_a_killed_run_resumes_to_the_same_numbers(run):
    cwd, _ = run
    process = subprocess.Popen([COMMAND, *TRAIN, "--epochs", "3", "--out", "killed"], cwd=cwd, stdout=subprocess.DEVNULL)
    for _ in range(600):
        if list((cwd / "killed").glob("checkpoint*.safetensors")) or process.poll() is not None: break
        time.sleep(0.05)
    assert process.poll() is None, "the run ended before it could be killed"
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (cwd / "killed/model.safetensors").exists()

    resumed = vae("train", "--resume", "--out", "killed", "--quiet", cwd=cwd)
    assert resumed.returncode == 0, resumed.stderr
    read = lambda folder: json.loads((cwd / folder / "history.json").read_text())
    whole, killed = read("whole"), read("killed")
    assert {k: v for k, v in whole.items() if k != "epoch_seconds"} == {k: v for k, v in killed.items() if k != "epoch_seconds"}
    whole, killed = (load_file(cwd / folder / "model.safetensors") for folder in ("whole", "killed"))
    assert all(torch.equal(whole[name], killed[name]) for name in whole | killed)


def test_a_finished_run_is_reported_again(run):
    cwd, printed = run
    before = (cwd / "whole/model.safetensors").read_bytes()
    again = vae("train", "--resume", "--out", "whole", cwd=cwd)
    assert again.returncode == 0 and again.stdout.splitlines()[-3:] == printed.splitlines()[-3:]
    assert (cwd / "whole/model.safetensors").read_bytes() == before


@pytest.mark.parametrize("command, out", [("sample whole --num-samples 7 --seed 3", "samples.png"),
                                          ("reconstruct whole/model.safetensors --num-images 5", "reconstructions.png"),
                                          ("latent whole --out pictures/latent.png", "pictures/latent.png")])
def test_a_picture_is_drawn(run, command, out):
    cwd, _ = run
    done = vae(*command.split(), cwd=cwd)
    assert (done.returncode, done.stdout.strip()) == (0, out), done.stderr
    assert (cwd / out).read_bytes().startswith(b"\x89PNG")


def test_another_seed_draws_other_digits(run):
    cwd, _ = run
    for name, seed in (("a.png", 1), ("b.png", 1), ("c.png", 2)): vae("sample", "whole", "--seed", seed, "--out", name, cwd=cwd)
    a, b, c = ((cwd / name).read_bytes() for name in ("a.png", "b.png", "c.png"))
    assert a == b != c


BAD = {
    "train --epochs 0": "epochs",
    "train --batch-size 0": "batch_size",
    "train --lr nan": "lr",
    "train --lr 1e9 --epochs 1 --hidden-dim 8 --quiet": "loss",
    "train --latent-dim 0": "latent_dim",
    "train --recipe slow": "recipe",
    "train --device gpu": "device",
    "train --dataset cifar": "cifar",
    "train --dataset kmnist --data-root nowhere": "nowhere",
    "train --out whole": "--resume",
    "train --out file/run": "file",
    "train --resume": "--out",
    "train --resume --out nothing": "nothing",
    "train --resume --out whole/model.safetensors": "whole/model.safetensors",
    "sample nothing.safetensors": "nothing.safetensors",
    "sample file": "file",
    "sample whole --num-samples 0": "num_samples",
    "sample whole --out samples": "--out",
    "sample whole --out file/samples.png": "file",
    "sample whole --out samples.xyz": "xyz",
    "reconstruct whole --num-images 0": "0",
    "bench --trials 0": "trials",
}


@pytest.mark.parametrize("command", BAD)
def test_bad_input_costs_one_sentence(command, run, monkeypatch, capsys):
    cwd, _ = run
    (cwd / "file").write_text("not a folder, not a model")
    monkeypatch.chdir(cwd)
    assert cli.main(command.split()) == 2
    (sentence,) = capsys.readouterr().err.splitlines()
    assert sentence.startswith("vae-nbdev: error: ") and BAD[command] in sentence
    assert not list(cwd.glob("runs/*/config.json"))


def test_a_mistake_ends_the_process_with_2_and_without_a_traceback(tmp_path):
    done = vae("train", "--epochs", "0", cwd=tmp_path)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("command", ["", "train", "sample", "reconstruct", "latent"])
def test_help_is_worth_reading(command, tmp_path):
    done = vae(*command.split(), "--help", cwd=tmp_path)
    assert done.returncode == 0 and len(done.stdout.splitlines()) > 5
    options = {line.split()[0] for line in done.stdout.splitlines() if line.startswith("  --")}
    assert command == "" or options


def test_unknown_options_exit_with_2(tmp_path):
    done = vae("train", "--epoch-count", "3", cwd=tmp_path)
    assert done.returncode == 2 and "--epoch-count" in done.stderr and "Traceback" not in done.stderr


def test_an_interrupted_run_says_how_to_go_on(tmp_path):
    process = subprocess.Popen([COMMAND, *TRAIN, "--epochs", "50", "--out", "run"], cwd=tmp_path, stdout=subprocess.DEVNULL,
                               stderr=subprocess.PIPE, text=True, env=os.environ | {"PYTHONUNBUFFERED": "1"},
                               preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))  # a job in the background ignores it
    while not list((tmp_path / "run").glob("checkpoint*.safetensors")) and process.poll() is None: time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate()
    assert process.returncode == 130 and "--resume" in errors and "Traceback" not in errors

"""The command line, the way a user meets it: as a process, or as the function that the process calls."""
import inspect
import json
import shutil
import signal
import subprocess
import sys
import time
from contextlib import chdir as inside
from pathlib import Path

import numpy as np
import pytest
import torch
from fastcore.docments import docments
from PIL import Image
from safetensors.torch import load_file

import vae_nbdev
from vae_nbdev import VAE, cli, fit, load, load_mnist, save, weights

pytestmark = pytest.mark.slow

COMMAND = Path(sys.executable).with_name("vae-nbdev")
TRAIN = "train --latent-dim 2 --hidden-dim 32 --batch-size 500 --quiet"
SMALL = "--latent-dim 3 --hidden-dim 8 --batch-size 8 --epochs 2 --quiet"
FILES = {"config.json", "history.json", "model.safetensors"}
PICTURES = {f"{name}.png" for name in ("losses", "samples", "reconstructions", "latent", "interpolation")}


def process(command, cwd):
    return subprocess.run([COMMAND, *command.split()], cwd=cwd, capture_output=True, text=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with pictures of several kinds, and with what is none."""
    cwd, rng = tmp_path_factory.mktemp("cli"), np.random.default_rng(0)
    def picture(name, *shape):
        (cwd / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, shape, np.uint8)).save(cwd / name)
    for i in range(20):
        picture(f"grey/{i}.png", 9, 9)
        picture(f"classes/{'cat' if i < 12 else 'dog'}/{i}.png", 9, 7, 3)
        picture(f"sizes/{i}.{'png' if i % 2 else 'jpg'}", 12 + i % 3, 14, 3)
    picture("one/0.png", 5, 5)
    picture("two/0.png", 5, 5)
    picture("two/1.png", 5, 5)
    picture("broken/0.png", 5, 5)
    picture("broken/1.png", 5, 5)
    (cwd / "broken/2.png").write_text("not a picture")
    (cwd / "empty").mkdir()
    (cwd / "file").write_text("not a folder, not a model")
    return cwd


@pytest.fixture
def terminal(folder, monkeypatch, capsys):
    """A function that runs a command in the folder: its status, what it printed, and what it complained about."""
    monkeypatch.chdir(folder)
    def run(command):
        capsys.readouterr()
        status = cli.main(command.split())
        return status, *capsys.readouterr()
    return run


@pytest.fixture(scope="module")
def run(folder):
    """The folder, in which a run of three epochs on MNIST has ended, and what it printed."""
    done = process(f"{TRAIN} --epochs 3 --out whole", folder)
    assert (done.returncode, done.stderr) == (0, "")
    return folder, done.stdout


@pytest.fixture(scope="module")
def runs(folder):
    """Runs on pictures: grey ones, coloured ones in two classes, and some of several sizes."""
    for name, more in (("grey", ""), ("classes", ""), ("sizes", "--image-size 10x8")):
        with inside(folder): assert cli.main(f"train --data {name} {more} {SMALL} --out of-{name}".split()) == 0
    return folder


# ---- a run is a folder ----------------------------------------------------------------------------------------------

def test_a_run_leaves_its_files_and_says_so(run):
    cwd, printed = run
    pictures = PICTURES | {"manifold.png"}
    assert {p.name for p in (cwd / "whole").iterdir()} == FILES | pictures
    assert all((cwd / "whole" / name).read_bytes().startswith(b"\x89PNG") for name in pictures)
    history = json.loads((cwd / "whole/history.json").read_text())
    assert {len(values) for name, values in history.items() if name != "step_loss"} == {3}
    assert len(history["step_loss"]) % 3 == 0
    loss, reconstruction, kl = (history[f"test_{term}"][-1] for term in ("loss", "reconstruction", "kl"))
    lines = printed.splitlines()
    assert lines[:4] == [
        "data      mnist: 60,000 images to train on, 10,000 to test on",
        "model     784-32-2-32-784, 51,220 parameters",
        "training  recipe 'plain', seed 42, in the folder whole",
        f"test loss {loss:.2f} nats per image = {reconstruction:.2f} reconstruction + {kl:.2f} KL"]
    assert lines[4].startswith("speed     ") and lines[4].endswith(" s per epoch, 3 epochs")
    assert [line.split()[-1] for line in lines[5:]] == [f"whole/{name}" for name in sorted(pictures)]


def test_a_run_that_has_ended_is_reported_again_and_not_changed(run, terminal):
    cwd, printed = run
    before = (cwd / "whole/model.safetensors").read_bytes()
    assert terminal("train --resume --out whole --latent-dim 2") == (0, "\n".join(printed.splitlines()[3:]) + "\n", "")
    status, _, errors = terminal("train --resume --out whole --epochs 5")
    assert status == 2 and "has ended, and --epochs was 3" in errors
    assert (cwd / "whole/model.safetensors").read_bytes() == before


LONG = f"train --data sizes --image-size 6 --channels 1 {SMALL} --epochs 60 --seed 3"


@pytest.fixture(scope="module")
def long_run(folder):
    """Where a run of 60 epochs on pictures has ended without an interruption."""
    with inside(folder): assert cli.main([*LONG.split(), "--out", "long"]) == 0
    return folder / "long"


@pytest.mark.parametrize("sent, status", [(signal.SIGKILL, -signal.SIGKILL), (signal.SIGINT, 130)])
def test_a_run_that_was_stopped_goes_on_in_any_folder_to_the_same_numbers(sent, status, folder, long_run, tmp_path, monkeypatch, capsys):
    out = folder / sent.name
    begun = subprocess.Popen([COMMAND, *LONG.split(), "--out", out.name], cwd=folder, stdout=subprocess.DEVNULL,
                             stderr=subprocess.PIPE, text=True,
                             preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))  # a job in the background ignores it
    while not list(out.glob("checkpoint*.safetensors")) and begun.poll() is None: time.sleep(0.01)
    begun.send_signal(sent)
    _, errors = begun.communicate()
    assert begun.returncode == status and not (out / "model.safetensors").exists()
    if status == 130: assert errors.startswith("vae-nbdev: ") and len(errors.splitlines()) == 1 and "--resume" in errors

    monkeypatch.chdir(tmp_path)
    assert cli.main(f"train --resume --out {out} --quiet --data {folder}/grey".split()) == 2
    assert "train_data" in capsys.readouterr().err
    assert cli.main(f"train --resume --out {out} --quiet".split()) == 0
    assert "sizes: 18 images to train on, 2 to test on; 6x6, grey" in capsys.readouterr().out
    read = lambda run: {k: v for k, v in json.loads((run / "history.json").read_text()).items() if k != "epoch_seconds"}
    assert read(out) == read(long_run) and len(read(out)["test_loss"]) == 60
    ours, theirs = (load_file(run / "model.safetensors") for run in (out, long_run))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours | theirs)
    assert not list(out.glob("*checkpoint*"))


# ---- options --------------------------------------------------------------------------------------------------------

def help_of(command, capsys):
    """What a command says of itself, without the blanks at which its lines were broken."""
    with pytest.raises(SystemExit) as stop: cli.main([*command.split(), "--help"])
    assert stop.value.code == 0
    return "".join(capsys.readouterr().out.split())


def said_of(function, name):
    """What the help should say of a parameter: its comment and its default, as introspection knows them."""
    comment, default = docments(function, full=True)[name].docment, inspect.signature(function).parameters[name].default
    return "".join(f"{comment.replace('`', '')}{'' if default is None else f'(default: {default})'}".split())


@pytest.mark.parametrize("name", ["recipe", "epochs", "batch_size", "lr", "seed", "device", "objective"])
def test_an_option_of_training_says_what_fit_says(name, capsys):
    assert said_of(fit, name) in help_of("train", capsys)


@pytest.mark.parametrize("name", ["hidden_dim", "latent_dim", "likelihood"])
def test_the_sizes_of_the_model_have_the_defaults_of_the_model(name, capsys):
    default = inspect.signature(VAE).parameters[name].default
    said = help_of("train", capsys).rpartition(f"--{name.replace('_', '-')}{name.upper()}")[2].partition("--")[0]
    assert said.endswith(f"(default:{default})")


def test_another_argument_of_fit_is_an_option_as_soon_as_it_is_named(monkeypatch, capsys):
    monkeypatch.setattr(cli, "FROM_FIT", (*cli.FROM_FIT, "progress"))
    text = help_of("train", capsys)
    assert "--progress" in text and said_of(fit, "progress") in text


def test_options_are_read_from_any_function():
    source = '''
def other(a: int = 9): pass  # not this one

def f(
    x: object,                    # has no default
    n: int | None = None,         # a count, of `things`
    rate: float | None = 0.5,     # a share # in [0, 1]
    name: "str | Path" = "some",  # a name
    call: Callable = other,       # is no literal, and is not asked for
) -> None:                        # nothing
    "One function."
'''
    assert cli.read_options(source, "f", ["rate", "n", "name"]) == {
        "rate": {"type": float, "default": 0.5, "help": "a share # in [0, 1]"},
        "n": {"type": int, "default": None, "help": "a count, of things"},
        "name": {"type": str, "default": "some", "help": "a name"}}


@pytest.fixture
def asked(terminal, monkeypatch):
    """A function that gives what `fit` would have been called with by a command."""
    seen = {}
    def stop(model, train, test, **options):
        seen.update(options, model=model, train=train, test=test)
        raise ValueError("seen")
    monkeypatch.setattr(vae_nbdev, "fit", stop)
    def call(command):
        status, seen["printed"], errors = terminal(command)
        assert (status, errors) == (2, "vae-nbdev: error: seen\n")
        return seen
    return call


def test_options_reach_fit(asked):
    seen = asked("train --data grey --epochs 7 --batch-size 9 --lr 0.25 --seed 11 --device cpu --recipe seed --hidden-dim 6 --latent-dim 5 --out new")
    given = {"epochs": 7, "batch_size": 9, "lr": 0.25, "seed": 11, "device": "cpu", "recipe": "seed", "resume": False, "progress": True}
    assert {name: seen[name] for name in given} == given
    assert seen["model"].config == {"input_dim": 81, "hidden_dim": 6, "latent_dim": 5, "image_shape": (1, 9, 9)}
    seen = asked("train --data grey --quiet")
    assert (seen["recipe"], seen["seed"], seen["device"], seen["progress"]) == ("plain", 42, "auto", False)
    assert (seen["epochs"], seen["batch_size"], seen["lr"]) == (20, 128, 1e-3)


def test_objective_likelihood_and_binarize_reach_fit(asked):
    seen = asked("train --data grey --objective beta-vae:beta=2 --likelihood gaussian:scale=0.2 --binarize --out new")
    assert (seen["objective"], seen["binarize"]) == ("beta-vae:beta=2", True)
    assert seen["model"].config["likelihood"] == "gaussian:scale=0.2"
    assert asked("train --data grey --out new")["binarize"] is False


@pytest.mark.parametrize("option, sentence", [
    ("--objective elba", "objective must be one of 'elbo'"),
    ("--objective beta-vae:beta=-1", "beta must be"),
    ("--likelihood gauss", "likelihood must be one of 'bernoulli'"),
    ("--likelihood gaussian:scale=-1", "scale must be")])
def test_a_wrong_choice_is_refused_before_an_image_is_read(option, sentence, terminal):
    status, printed, errors = terminal(f"train --data missing {option}")
    assert (status, printed) == (2, "") and sentence in errors and len(errors.splitlines()) == 1


def test_a_run_with_an_objective_and_a_likelihood_ends_and_is_evaluated(folder, terminal):
    more = "--objective warm-up:share=0.5 --likelihood gaussian:scale=0.5"
    status, printed, errors = terminal(f"train --data grey {SMALL} {more} --out chosen")
    assert status == 0 and "test loss" in printed
    for line in errors.splitlines(): assert "warning: no " in line and "[0, 1]" in line  # wild means, after two epochs
    assert json.loads((folder / "chosen/config.json").read_text())["objective"] == "warm-up:share=0.5"
    assert load(folder / "chosen/model.safetensors").config["likelihood"] == "gaussian:scale=0.5"
    status, printed, errors = terminal("evaluate chosen --num-samples 20 --quiet --json row.json")
    row = json.loads((folder / "row.json").read_text())
    assert (status, errors) == (0, "") and f"{row['nats']:.2f} nats" in printed
    assert row["model"] == "chosen" and row["protocol"]["images"] == 2 and row["protocol"]["samples"] == 20
    status, table, _ = terminal("evaluate chosen --num-samples 20 --quiet --markdown --name mine")
    assert status == 0 and table.startswith("| model |") and "| mine |" in table
    assert terminal("evaluate chosen --num-samples 0 --quiet")[0] == 2


def test_help_needs_no_torch():
    code = ("import sys\nfrom vae_nbdev.cli import main\n"
            "names = 'train sample reconstruct latent evaluate check compress decompress exercises retrain bench'\n"
            "for command in ([], *map(str.split, names.split())):\n"
            "    try: main([*command, '--help'])\n    except SystemExit as stop: assert stop.code == 0\n"
            "print([m for m in ('torch', 'numpy', 'matplotlib') if m in sys.modules], file=sys.stderr)")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == "[]\n" and done.stdout.count("usage: ") == 12


# ---- pictures of one's own ------------------------------------------------------------------------------------------

def test_a_tenth_is_held_out_by_the_seed(asked, folder):
    rows = lambda x: sorted(map(tuple, (255 * x.flatten(1)).round().long().tolist()))
    splits = {}
    for seed in (1, 2):
        seen = asked(f"train --data classes --seed {seed}")
        (images, labels), (tests, held_out) = seen["train"], seen["test"]
        assert images.shape == (18, 3, 9, 7) and tests.shape == (2, 3, 9, 7) and labels.shape == (18,)
        assert sorted([*labels.tolist(), *held_out.tolist()]) == [0] * 12 + [1] * 8
        files = [np.asarray(Image.open(p)).transpose(2, 0, 1).flatten() for p in (folder / "classes").rglob("*.png")]
        assert rows(torch.cat([images, tests])) == sorted(map(tuple, np.stack(files).tolist()))
        splits[seed] = rows(tests)
        assert rows(asked(f"train --data classes --seed {seed}")["test"][0]) == splits[seed]
    assert splits[1] != splits[2]


@pytest.mark.parametrize("command, shape, line", [
    ("grey", (1, 9, 9), "grey: 18 images to train on, 2 to test on; 9x9, grey"),
    ("classes --channels 1", (1, 9, 7), "classes: 18 images to train on, 2 to test on; 9x7, grey, 2 classes"),
    ("classes", (3, 9, 7), "classes: 18 images to train on, 2 to test on; 9x7, colour, 2 classes"),
    ("sizes --image-size 8", (3, 8, 8), "sizes: 18 images to train on, 2 to test on; 8x8, colour"),
    ("grey --image-size 4x6 --channels 3", (3, 4, 6), "grey: 18 images to train on, 2 to test on; 4x6, colour"),
    ("two", (1, 5, 5), "two: 1 images to train on, 1 to test on; 5x5, grey")])
def test_pictures_become_what_was_asked_for(command, shape, line, asked):
    seen = asked(f"train --data {command}")
    assert seen["model"].image_shape == tuple(seen["train"][0].shape[1:]) == shape
    assert seen["printed"].splitlines()[0] == f"data      {line}"


# ---- other models ---------------------------------------------------------------------------------------------------

def test_the_kind_of_model_reaches_fit(asked):
    model = asked("train --data classes --model conv --latent-dim 3 --image-size 9x8 --out new")["model"]
    assert type(model).__name__ == "ConvVAE" and model.config["image_shape"] == (3, 9, 8) and model.config["latent_dim"] == 3
    model = asked("train --data grey --model burda --out new")["model"]
    assert type(model).__name__ == "BurdaVAE" and model.config["latent_dim"] == 50 and model.config["input_dim"] == 81
    seen = asked("train --data classes --conditional --hidden-dim 5 --out new")
    assert type(seen["model"]).__name__ == "ConditionalVAE" and seen["model"].config["num_classes"] == 2
    assert seen["train"][1] is not None
    seen = asked("train --dataset sprites --model conv --out new")
    assert seen["train"][0].shape == (40_000, 3, 32, 32) and len(seen["test"][0]) == 1000


@pytest.mark.parametrize("option, sentence", [
    ("--data grey --conditional", "--conditional needs labels"),
    ("--data classes --conditional --model conv", "--conditional is for the model 'vae'"),
    ("--data grey --model conv --hidden-dim 5", "--hidden-dim is not for the model 'conv'"),
    ("--data grey --model gan", "--model"),
    ("--dataset sprites --data-root grey", "sprites are drawn")])
def test_what_does_not_go_together_is_said(option, sentence, terminal):
    status, _, errors = terminal(f"train {option} --out none")
    assert status == 2 and sentence in errors and len(errors.splitlines()) == 1


def test_colour_pictures_of_mixed_sizes_go_through_a_convolutional_model(folder, terminal):
    """From 200 pictures to samples, reconstructions, latent map and an evaluation row."""
    rng = np.random.default_rng(1)
    (folder / "photos").mkdir()
    for i in range(200):
        ground, side = rng.integers(0, 256, 3), 24 + i % 9
        picture = np.clip(ground + rng.normal(0, 9, (side, 40 - i % 5, 3)), 0, 255).astype(np.uint8)
        picture[4:4 + i % 12, 6:14] = rng.integers(0, 256, 3)
        Image.fromarray(picture).save(folder / f"photos/{i}.{'png' if i % 2 else 'jpg'}")
    command = "train --data photos --image-size 16 --model conv --latent-dim 4 --epochs 2 --batch-size 20 --quiet --out of-photos"
    status, printed, errors = terminal(command)
    assert (status, errors) == (0, "") and "180 images to train on, 20 to test on; 16x16, colour" in printed
    assert {p.name for p in (folder / "of-photos").iterdir()} == FILES | PICTURES
    assert load(folder / "of-photos/model.safetensors").image_shape == (3, 16, 16)
    status, printed, errors = terminal("evaluate of-photos --num-samples 20 --quiet")
    assert (status, errors) == (0, "") and " nats, standard error" in printed and "20 images" in printed


def test_a_conditional_model_draws_the_class_that_is_asked_for(folder, terminal):
    assert terminal(f"train --data classes --conditional {SMALL} --out of-both")[::2] == (0, "")
    def drawn(more):
        assert terminal(f"sample of-both --num-samples 4 --out one.png {more}")[0] == 0
        return (folder / "one.png").read_bytes()
    assert drawn("--label 0") == drawn("--label 0") != drawn("--label 1")
    for command, sentence in (("sample of-both --label 2", "label"), ("sample mnist-fast --label 2", "must be conditional")):
        status, _, errors = terminal(command)
        assert status == 2 and sentence in errors and len(errors.splitlines()) == 1
    assert terminal("evaluate of-both --num-samples 20 --quiet")[0] == 0


def test_models_of_the_package_are_known_by_their_names(folder, terminal):
    assert terminal("reconstruct mnist-2d --num-images 2 --out named.png") == (0, "named.png\n", "")
    status, printed, _ = terminal("evaluate mnist-fast --num-images 20 --num-samples 20 --quiet")
    assert status == 0 and printed.startswith("mnist-fast: ") and "20 images" in printed
    status, _, errors = terminal("retrain mnist-fastest")
    assert status == 2 and "name must be one of mnist-fast" in errors


def test_a_model_of_the_package_is_made_again(folder, terminal, monkeypatch):
    monkeypatch.setattr(weights, "COMMANDS", {"tiny": f"train --data grey {SMALL.replace('--quiet', '')}"})
    monkeypatch.setattr(weights, "weights_file", lambda name: None)
    status, printed, errors = terminal("retrain tiny --quiet")
    assert (status, errors) == (0, "") and "standard error" in printed
    kept = weights.describe(folder / "runs/tiny/tiny.safetensors")
    assert kept.command == weights.COMMANDS["tiny"] and f"{kept.row['nats']:.2f} nats" in printed
    again = terminal("retrain tiny --quiet --out again.safetensors")  # the run has ended, and is not trained again
    assert again[0] == 0 and weights.describe(folder / "again.safetensors").row == kept.row
    shutil.rmtree(folder / "runs")


# ---- your own code, files, a class ----------------------------------------------------------------------------------

MINE = """
import torch
from torch import nn
import torch.nn.functional as F

class Mine(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder, self.decoder = nn.Linear(784, 8), nn.Linear(4, 784)
    def encode(self, x): return self.encoder(x.flatten(1)).chunk(2, 1)
    def decode(self, z): return self.decoder(z).sigmoid()
    def forward(self, x):
        mu, log_var = self.encode(x)
        z = mu + (log_var / 2).exp() * torch.randn_like(mu)
        return self.decode(z), mu, log_var

def kl(mu, log_var): return -0.5 * (1 + log_var - mu**2 - log_var.exp()).sum()

def right(recon_x, x, mu, log_var):
    return F.binary_cross_entropy(recon_x, x.flatten(1), reduction="sum") + kl(mu, log_var)

def wrong(recon_x, x, mu, log_var):
    return F.binary_cross_entropy(recon_x, x.flatten(1), reduction="sum") - kl(mu, log_var)
"""


def test_a_model_of_ones_own_is_checked(folder, terminal):
    (folder / "mine.py").write_text(MINE)
    status, printed, errors = terminal("check mine:Mine --loss mine:right")
    assert (status, errors) == (0, "") and printed
    status, printed, errors = terminal("check mine:Mine --loss mine:wrong --num-images 64 --json found.json")
    assert (status, errors) == (1, "") and "KL" in printed
    assert json.loads((folder / "found.json").read_text())["findings"]
    for command, said in (("check mine:Missing --loss mine:right", "Missing"), ("check nowhere:Mine --loss mine:right", "nowhere"),
                          ("check mine --loss mine:right", "mine"), ("check mine:Mine", "--loss")):
        status, _, errors = terminal(command)
        assert status == 2 and said in errors and len(errors.splitlines()) == 1, command


def test_images_come_back_from_a_compressed_file(folder, terminal):
    """The whole round trip on real files: a NumPy file, and a folder of pictures."""
    digits = (load_mnist("test")[0][:20, 0] > 0.5).numpy()
    np.save(folder / "digits.npy", digits)
    status, printed, errors = terminal("compress mnist-fast digits.npy digits.vae")
    assert (status, errors) == (0, "") and printed
    assert (folder / "digits.vae").stat().st_size < 20 * 784 / 8
    assert terminal("decompress mnist-fast digits.vae back.npy")[0] == 0
    assert np.array_equal(np.load(folder / "back.npy").reshape(digits.shape), digits)
    for i in range(3):
        (folder / "ink").mkdir(exist_ok=True)
        Image.fromarray(digits[i] * np.uint8(255)).save(folder / f"ink/{i}.png")
    assert terminal("compress mnist-fast ink ink.vae")[0] == 0
    assert terminal("decompress mnist-fast ink.vae ink-back")[0] == 0
    back = [np.asarray(Image.open(p)) for p in sorted((folder / "ink-back").glob("*.png"))]
    assert len(back) == 3 and all(np.array_equal(b, d * 255) for b, d in zip(back, digits))
    (folder / "cut.vae").write_bytes((folder / "digits.vae").read_bytes()[:-5])
    for command in ("decompress mnist-2d digits.vae other.npy", "decompress mnist-fast cut.vae other.npy",
                    "decompress mnist-fast digits.npy other.npy", "compress mnist-fast nothing.npy other.npy"):
        status, _, errors = terminal(command)
        assert status == 2 and len(errors.splitlines()) == 1 and not (folder / "other.npy").exists(), command


def test_notebooks_for_a_class_are_written(folder, terminal):
    status, printed, errors = terminal("exercises --out class")
    assert (status, errors) == (0, "") and printed
    texts = [p.read_text() for p in sorted((folder / "class").glob("*.ipynb"))]
    assert len(texts) > 15 and not any("<summary>Solution" in t or "<summary>Hint" in t for t in texts)
    assert terminal("exercises --out class")[0] == 2
    assert terminal("exercises --out hinted --hints")[0] == 0
    assert any("<summary>Hint" in p.read_text() for p in (folder / "hinted").glob("*.ipynb"))


def test_a_run_on_pictures_leaves_what_every_run_leaves(runs):
    for name, shape in (("grey", (1, 9, 9)), ("classes", (3, 9, 7)), ("sizes", (3, 10, 8))):
        assert {p.name for p in (runs / f"of-{name}").iterdir()} == FILES | PICTURES
        assert load(runs / f"of-{name}/model.safetensors").image_shape == shape
    colours = lambda path: np.ptp(np.asarray(Image.open(path).convert("RGB")).astype(int), axis=2).max()
    for name in ("samples", "reconstructions", "interpolation"):
        assert colours(runs / f"of-classes/{name}.png") > 60 > 20 > colours(runs / f"of-grey/{name}.png")  # letters are bluish


def test_two_pictures_are_enough(terminal):
    status, _, errors = terminal(f"train --data two {SMALL} --out of-two")
    assert (status, errors) == (0, "")


def test_a_warning_is_one_line_and_stops_nothing(terminal):
    status, _, errors = terminal(f"train --data broken {SMALL} --out of-broken")
    assert status == 0
    (line,) = errors.splitlines()
    assert line.startswith("vae-nbdev: warning: 1 of 3 files cannot be read") and "2.png" in line and ".py" not in line


# ---- pictures of a model --------------------------------------------------------------------------------------------

@pytest.mark.parametrize("command, out", [
    ("sample of-classes --num-samples 7 --seed 3", "samples.png"),
    ("sample of-sizes/model.safetensors", "samples.png"),
    ("reconstruct of-grey --num-images 2", "reconstructions.png"),
    ("reconstruct of-sizes --data grey --out pictures/these.png", "pictures/these.png"),
    ("reconstruct of-grey --image sizes/2.jpg", "reconstructions.png"),
    ("reconstruct of-classes --image grey/0.png", "reconstructions.png"),
    ("latent of-classes --data classes", "latent.png"),
    ("latent of-classes --out latent.pdf", "latent.pdf")])
def test_a_picture_is_drawn(command, out, runs, terminal):
    (runs / out).unlink(missing_ok=True)
    assert terminal(command) == (0, f"{out}\n", "")
    assert (runs / out).read_bytes()[:4] in (b"\x89PNG", b"%PDF")


def test_mnist_is_looked_at_where_nothing_else_is_known(run, terminal):
    cwd, _ = run
    (cwd / "alone").mkdir()
    (cwd / "alone/model.safetensors").write_bytes((cwd / "whole/model.safetensors").read_bytes())
    for name in ("alone/model.safetensors", "whole", "whole --dataset mnist"):
        assert terminal(f"reconstruct {name} --out {name.split('/')[0].replace(' ', '')}.png")[0] == 0
    pictures = {(cwd / f"{name}.png").read_bytes() for name in ("alone", "whole", "whole--datasetmnist")}
    assert len(pictures) == 1 and pictures != {(cwd / "whole/samples.png").read_bytes()}


def test_what_is_asked_for_is_what_is_drawn(runs, terminal):
    def drawn(command):
        assert terminal(f"{command} --out drawn.png")[0] == 0
        return (runs / "drawn.png").read_bytes()
    assert drawn("sample of-grey --seed 1") == drawn("sample of-grey --seed 1") != drawn("sample of-grey --seed 2")
    one, other = drawn("reconstruct of-grey --image grey/0.png"), drawn("reconstruct of-grey --image grey/1.png")
    assert one != other == drawn("reconstruct of-grey --image grey/1.png")
    assert drawn("reconstruct of-grey") != drawn("reconstruct of-grey --data grey")


def test_a_model_without_a_shape_is_asked_for_it(folder, terminal):
    save(VAE(10, 4, 2), folder / "rows.safetensors")
    status, _, errors = terminal("reconstruct rows.safetensors --image grey/0.png")
    assert status == 2 and "image_shape" in errors


def test_a_model_of_another_class_is_refused_in_one_sentence(folder, terminal):
    class Other(VAE): pass
    save(Other(9, 4, 2), folder / "other.safetensors")
    for command in ("sample", "reconstruct", "latent"):
        status, _, errors = terminal(f"{command} other.safetensors")
        assert status == 2 and "Other" in errors and len(errors.splitlines()) == 1


# ---- mistakes -------------------------------------------------------------------------------------------------------

BAD = {
    "": "COMMAND",
    "trian": "trian",
    "train --epoch-count 3": "--epoch-count",
    "train --epochs many": "--epochs",
    "train --epochs 0": "epochs",
    "train --batch-size 0": "batch_size",
    "train --lr nan": "lr",
    "train --seed -1": "seed",
    "train --data grey --lr 1e9 --epochs 1 --hidden-dim 8 --quiet --out exploded": "loss",
    "train --data grey --latent-dim 0": "latent_dim",
    "train --recipe slow": "recipe",
    "train --device gpu": "device",
    "train --dataset cifar": "cifar",
    "train --dataset kmnist --data-root nowhere": "nowhere",
    "train --data-root nowhere": "nowhere",
    "train --data-root empty": "MNIST",
    "train --data nowhere": "nowhere",
    "train --data empty": "no picture",
    "train --data file": "file",
    "train --data one": "two pictures",
    "train --data sizes": "give size",
    "train --data grey --image-size 0": "size",
    "train --data grey --image-size 4x": "--image-size",
    "train --data grey --image-size 4x5x6": "--image-size",
    "train --data grey --channels 2": "--channels",
    "train --data grey --dataset mnist": "--data or --dataset",
    "train --data grey --data-root grey": "--data or --data-root",
    "train --image-size 28": "--data",
    "train --dataset mnist --channels 1": "--data",
    "train --out whole": "--resume",
    "train --data grey --quiet --out file/run": "file",
    "train --resume": "--out",
    "train --resume --out nothing": "nothing",
    "train --resume --out whole/model.safetensors": "whole/model.safetensors",
    "train --resume --out whole --data grey": "--data",
    "train --resume --out damaged": "damaged",
    "train --resume --out list": "list",
    "sample nothing.safetensors": "nothing.safetensors",
    "sample file": "file",
    "sample whole --num-samples 0": "num_samples",
    "sample whole --out samples": "--out",
    "sample whole --out file/samples.png": "file",
    "sample whole --out samples.xyz": "xyz",
    "sample whole --image grey/0.png": "--image",
    "reconstruct whole --data grey --num-images 0": "0",
    "reconstruct whole --image nothing.png": "nothing.png",
    "reconstruct whole --image file": "file",
    "reconstruct whole --image grey": "grey",
    "reconstruct whole --image grey/0.png --data grey": "--image or --data",
    "reconstruct whole --image grey/0.png --dataset mnist": "--image",
    "reconstruct whole --data nowhere": "nowhere",
    "reconstruct whole --data-root nowhere": "nowhere",
    "latent whole --data grey --dataset mnist": "--data",
    "bench --trials 0": "trials",
}


@pytest.mark.parametrize("command", BAD)
def test_bad_input_costs_one_sentence(command, run, terminal):
    cwd, _ = run
    for name, text in (("damaged", "{"), ("list", "[1, 2]")):
        (cwd / name).mkdir(exist_ok=True)
        (cwd / name / "config.json").write_text(text)
    status, _, errors = terminal(command)
    assert status == 2 and errors.startswith("vae-nbdev: error: ") and BAD[command] in errors
    assert len(errors.splitlines()) == 1
    assert not (cwd / "runs").exists() and not (cwd / "exploded/config.json").exists()


def test_a_mistake_ends_the_process_with_2_and_without_a_traceback(tmp_path):
    done = process("train --epochs 0", tmp_path)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1 and not done.stdout
    assert not list(tmp_path.iterdir())

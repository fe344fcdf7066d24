"""Files: what save writes load reads, whatever else is refused, and a killed run resumes to the same numbers."""
import json
import math
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch.nn.utils import parameters_to_vector

from vae_nbdev import VAE, fit, load, save, training

CONFIG = {"input_dim": 16, "hidden_dim": 12, "latent_dim": 3}
IMAGES, TEST = (torch.rand(n, 1, 4, 4, generator=torch.Generator().manual_seed(n)) for n in (100, 30))


def small_vae(seed=0):
    torch.manual_seed(seed)
    return VAE(**CONFIG)


def train(model, out=None, **options):
    """Weights and history (without times) of a short run: five epochs of seven steps."""
    defaults = {"epochs": 5, "batch_size": 16, "progress": False, "device": "cpu"}
    history = fit(model, IMAGES, TEST, out=out, **defaults | options)
    return parameters_to_vector(model.parameters()).detach(), {k: v for k, v in history.items() if k != "epoch_seconds"}


def assert_same(run, other):
    assert torch.equal(run[0], other[0]) and run[1] == other[1]


# ---- files --------------------------------------------------------------------------------------------------------

@settings(deadline=None, max_examples=10)
@given(st.integers(1, 30), st.integers(1, 20), st.integers(1, 5))
def test_round_trip(tmp_path_factory, input_dim, hidden_dim, latent_dim):
    model = VAE(input_dim, hidden_dim, latent_dim)
    state = torch.get_rng_state()
    again = load(save(model, tmp_path_factory.mktemp("m") / "new" / "model.safetensors"))
    assert torch.equal(state, torch.get_rng_state())
    assert again.config == model.config and again.training
    for (name, a), (_, b) in zip(model.named_parameters(), again.named_parameters(), strict=True):
        assert torch.equal(a, b) and b.requires_grad and b.device.type == "cpu", name


def write(path, tensors=None, **metadata):
    tensors = small_vae().state_dict() if tensors is None else tensors
    save_file(tensors, path, {"format": training.FORMAT, "class": "VAE", "config": json.dumps(CONFIG)} | metadata)


class Trap:
    def __reduce__(self): return (Path.touch, (Path("sprung"),))


BROKEN = {
    "text": lambda p: p.write_text("not a model"),
    "empty": lambda p: p.write_bytes(b""),
    "pickle": lambda p: torch.save({"state": Trap()}, p),
    "truncated": lambda p: (write(p), p.write_bytes(p.read_bytes()[:-100])),
    "foreign": lambda p: save_file({"w": torch.zeros(2)}, p),
    "other class": lambda p: write(p, **{"class": "GAN"}),
    "newer format": lambda p: write(p, format="vae_nbdev 99"),
    "no json": lambda p: write(p, config="{"),
    "no dictionary": lambda p: write(p, config="[16, 12, 3]"),
    "wrong key": lambda p: write(p, config='{"depth": 3}'),
    "negative": lambda p: write(p, config='{"input_dim": -16}'),
    "other shape": lambda p: write(p, config='{"input_dim": 16, "hidden_dim": 13, "latent_dim": 3}'),
    "petabytes": lambda p: write(p, config='{"input_dim": 100000000, "hidden_dim": 100000000}'),
    "overflow": lambda p: write(p, config='{"input_dim": 10000000000000, "hidden_dim": 10000000000000}'),
    "tensor missing": lambda p: write(p, {k: v for k, v in small_vae().state_dict().items() if k != "fc_mu.bias"}),
    "tensor more": lambda p: write(p, small_vae().state_dict() | {"fc_extra.bias": torch.zeros(1)}),
    "integers": lambda p: write(p, {k: v.long() for k, v in small_vae().state_dict().items()}),
}
SENTENCES = {"foreign": "holds no model of vae_nbdev", "other class": "holds no model", "newer format": "'vae_nbdev 99'; this version reads",
             **dict.fromkeys(["text", "empty", "pickle", "truncated"], "is not a safetensors file, or a damaged one"),
             **dict.fromkeys(["no json", "no dictionary", "wrong key", "negative", "overflow"], "configuration that is none of a VAE"),
             **dict.fromkeys(["other shape", "petabytes"], r"fc_\w+.\w+ should be \("), "integers": "should be .* not torch.int64",
             "tensor missing": "fc_mu.bias should be .3,., not None", "tensor more": "fc_extra.bias should be None"}


@pytest.mark.parametrize("kind", BROKEN)
def test_load_refuses(kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    BROKEN[kind](path := tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=SENTENCES[kind]) as error: load(path)
    assert "\n" not in str(error.value)
    assert not Path("sprung").exists()


@pytest.mark.parametrize("path", ["nowhere.safetensors", "."])
def test_load_misses_a_file(path, tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no file"): load(tmp_path / path)


def test_save_refuses_what_it_could_not_read_back(tmp_path):
    with pytest.raises(ValueError, match="must be a vae_nbdev VAE .* not Linear"): save(torch.nn.Linear(2, 2), tmp_path / "m")
    with pytest.raises(OSError, match="it is a folder"): save(small_vae(), tmp_path)


def test_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = save(small_vae(0), tmp_path / "model.safetensors")
    def full(fd): raise OSError("no space left on device")
    monkeypatch.setattr(training.os, "fsync", full)
    with pytest.raises(OSError, match="no space"): save(small_vae(1), path)
    assert torch.equal(load(path).fc_mu.weight, small_vae(0).fc_mu.weight)
    assert list(tmp_path.iterdir()) == [path]


def test_folder_that_cannot_be_written(tmp_path, monkeypatch):
    monkeypatch.setattr(training, "train_epoch", lambda *_: pytest.fail("trained without a place for the result"))
    (tmp_path / "file").write_text("")
    for call in (lambda out: train(small_vae(), out=out), lambda out: save(small_vae(), out / "model.safetensors")):
        with pytest.raises(OSError, match="cannot write to the folder .*run'"): call(tmp_path / "file" / "run")


# ---- checkpoints --------------------------------------------------------------------------------------------------

PROGRAM = """
import os, signal, sys, torch
from vae_nbdev import VAE, fit, training

out, recipe, moment = sys.argv[1:]
IMAGES, TEST = (torch.rand(n, 1, 4, 4, generator=torch.Generator().manual_seed(n)) for n in (100, 30))
name, call = {"mid-epoch": ("training.elbo_gradient", 24), "mid-write": ("os.fsync", 4)}[moment]  # both in the fourth epoch
owner, attribute = (training if name.startswith("training") else os), name.split(".")[1]
calls, original = 0, getattr(owner, attribute)

def lethal(*args):
    global calls
    calls += 1
    if calls == call: os.kill(os.getpid(), signal.SIGKILL)
    return original(*args)

setattr(owner, attribute, lethal)
torch.manual_seed(0)
fit(VAE(16, 12, 3), IMAGES, TEST, epochs=5, batch_size=16, progress=False, device="cpu", recipe=recipe, out=out)
"""


@pytest.mark.parametrize("recipe, moment", [("fast", "mid-epoch"), ("seed", "mid-write")])
def test_killed_run_resumes_to_the_same_numbers(recipe, moment, tmp_path):
    died = subprocess.run([sys.executable, "-c", PROGRAM, tmp_path, recipe, moment], capture_output=True, text=True)
    assert died.returncode == -signal.SIGKILL, died.stderr
    kept = training._read(tmp_path / training.CHECKPOINT)[1]
    assert len(json.loads(kept["history"])["train_loss"]) == 3
    resumed = train(small_vae(seed=7), out=tmp_path, recipe=recipe, resume=True)
    assert_same(resumed, train(small_vae(), recipe=recipe))


def test_finished_run_resumes_to_its_end(tmp_path):
    finished = train(small_vae(), out=tmp_path)
    assert_same(train(small_vae(seed=7), out=tmp_path, resume=True), finished)


def test_more_epochs_of_a_constant_rate_go_on_exactly(tmp_path):
    train(small_vae(), out=tmp_path, epochs=2)
    assert_same(train(small_vae(seed=7), out=tmp_path, resume=True), train(small_vae()))
    with pytest.raises(ValueError, match="epochs was 5 and is now 4"): train(small_vae(), out=tmp_path, resume=True, epochs=4)


def test_checkpoint_loads_as_a_model(tmp_path):
    weights, _ = train(small_vae(), out=tmp_path)
    assert torch.equal(weights, parameters_to_vector(load(tmp_path / training.CHECKPOINT).parameters()))


def test_without_resume_a_run_starts_over(tmp_path):
    train(small_vae(), out=tmp_path)
    assert_same(train(small_vae(), out=tmp_path), train(small_vae()))


@pytest.mark.parametrize("change, sentence", [
    ({"lr": 2e-3}, "lr was 0.001 and is now 0.002$"),
    ({"batch_size": 8}, "batch_size was 16 and is now 8$"),
    ({"seed": 1}, "seed was 42 and is now 1$"),
    ({"recipe": "fast"}, "recipe was 'seed' and is now 'fast'"),
    ({"model": VAE(16, 13, 3)}, "model was .*12.* and is now .*13"),
    ({"train_data": IMAGES[:50]}, "train_data was .*100.* and is now .*50"),
    ({"train_data": 1 - IMAGES}, "train_data was .* and is now"),
    ({"test_data": None}, "test_data was .* and is now None$"),
])
def test_another_run_is_not_resumed(change, sentence, tmp_path):
    common = {"train_data": IMAGES, "test_data": TEST, "epochs": 2, "batch_size": 16, "progress": False, "device": "cpu", "out": tmp_path}
    fit(small_vae(), **common)
    before = (tmp_path / training.CHECKPOINT).read_bytes()
    with pytest.raises(ValueError, match="cannot resume .* as another run: " + sentence):
        fit(**{"model": small_vae()} | common | change, resume=True)
    assert (tmp_path / training.CHECKPOINT).read_bytes() == before


def test_more_epochs_of_a_schedule_are_another_run(tmp_path):
    train(small_vae(), out=tmp_path, recipe="fast", epochs=2)
    with pytest.raises(ValueError, match="epochs was 2 and is now 5"): train(small_vae(), out=tmp_path, recipe="fast", resume=True)


def test_nothing_to_resume(tmp_path):
    with pytest.raises(FileNotFoundError, match="no checkpoint.safetensors in .* start the run without resume"):
        train(small_vae(), out=tmp_path, resume=True)
    save(small_vae(), tmp_path / training.CHECKPOINT)
    with pytest.raises(ValueError, match="holds a model, but no run to resume"): train(small_vae(), out=tmp_path, resume=True)
    train(small_vae(), out=tmp_path)
    tensors, metadata = training._read(tmp_path / training.CHECKPOINT)
    save_file(tensors | {"fc_mu.bias": torch.zeros(4)}, tmp_path / training.CHECKPOINT, metadata)
    with pytest.raises(ValueError, match="fc_mu.bias should be"): train(small_vae(), out=tmp_path, resume=True)
    (tmp_path / training.CHECKPOINT).write_text("broken")
    with pytest.raises(ValueError, match="not a safetensors file"): train(small_vae(), out=tmp_path, resume=True)


def test_checkpoint_without_its_tensors_is_refused(tmp_path):
    run = lambda resume=False: train(small_vae(), out=tmp_path, recipe="fast", resume=resume)
    run()
    path = tmp_path / training.CHECKPOINT
    tensors, metadata = training._read(path)
    for lost in ("random/state", "optimizer/value/0", "optimizer/step/0", "centre/value"):
        for kept in ({}, {lost: torch.zeros(2)}):
            training._write(path, {k: v for k, v in tensors.items() if k != lost} | kept, metadata)
            with pytest.raises(ValueError, match="is damaged, or of an earlier version: it does not hold all"): run(resume=True)


def test_loss_that_explodes_leaves_the_last_good_checkpoint(tmp_path, monkeypatch):
    after_two, _ = train(small_vae(), epochs=2)
    calls, gradient = [], training.elbo_gradient
    def poisoned(weights, *rest):
        calls.append(1)
        if len(calls) == 17: weights[1][1].fill_(math.inf)  # in the third epoch
        return gradient(weights, *rest)
    monkeypatch.setattr(training, "elbo_gradient", poisoned)
    with pytest.raises(FloatingPointError, match="not finite in epoch 3: try a smaller learning rate than lr=0.001.*after epoch 2 are in '.*checkpoint"):
        train(small_vae(), out=tmp_path)
    assert torch.equal(after_two, parameters_to_vector(load(tmp_path / training.CHECKPOINT).parameters()))


def test_loss_that_explodes_at_once_has_no_checkpoint_to_name(tmp_path):
    with pytest.raises(FloatingPointError, match="epoch 1: try a smaller learning rate than lr=1000, or a larger batch_size than 16$"):
        train(small_vae(), out=tmp_path, lr=1e3)
    assert not list(tmp_path.iterdir())


def test_files_hold_no_pickle(tmp_path):
    """The checkpoint is one safetensors file: every tensor can be read by the format's own reader."""
    train(small_vae(), out=tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == [training.CHECKPOINT]
    names = load_file(tmp_path / training.CHECKPOINT)
    assert {n.split("/")[1] for n in names if n.startswith("optimizer/")} == {"value", "step", "exp_avg", "exp_avg_sq"}

"""A run on disk: what save writes load reads, the rest is refused, a killed run resumes to the same numbers."""
import json
import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn.utils import parameters_to_vector
from torch.utils.data import DataLoader, TensorDataset

from vae_nbdev.fast import FAST, SEED
from vae_nbdev.model import VAE, reconstruct
from vae_nbdev.runs import CHECKPOINT, FORMAT, load, make_folder, save, write_atomically
from vae_nbdev.training import GradientStep, Recipe, evaluate, fit, negative_elbo, one_cycle

CONFIG = {"input_dim": 16, "hidden_dim": 12, "latent_dim": 3}
IMAGES, TEST = (torch.rand(n, 1, 4, 4, generator=torch.Generator().manual_seed(n)).round() for n in (100, 30))


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """As many threads here as in the processes that are killed: another number rounds differently."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def small_vae(seed=0):
    torch.manual_seed(seed)
    return VAE(**CONFIG)


class Norms(nn.Module):
    """A stranger with batch normalization and dropout: a state of more than its weights."""

    def __init__(self, hidden=12):
        super().__init__()
        self.hidden, self.norm, self.drop = nn.Linear(16, hidden), nn.BatchNorm1d(hidden), nn.Dropout(0.2)
        self.code, self.out = nn.Linear(hidden, 2 * 3), nn.Linear(3, 16)

    def encode(self, x): return self.code(self.drop(self.norm(self.hidden(x)).relu())).chunk(2, 1)
    def decode_logits(self, z): return self.out(z)


def norms(seed=0):
    torch.manual_seed(seed)
    return Norms()


def state(model):
    return torch.cat([t.detach().double().flatten() for t in model.state_dict().values()])


def train(model, out=None, train_data=IMAGES, **options):
    """State and history (without times) of a short run: five epochs of seven steps."""
    defaults = {"test_data": TEST, "epochs": 5, "batch_size": 16, "progress": False, "device": "cpu"}
    history = fit(model, train_data, out=out, **defaults | options)
    return state(model), {k: v for k, v in history.items() if k != "epoch_seconds"}


def assert_same(run, other):
    assert torch.equal(run[0], other[0]) and run[1] == other[1]


def content(path):
    """The tensors and the metadata of a safetensors file."""
    with safe_open(path, "pt") as file: return load_file(path), file.metadata()


# ---- files of a model ---------------------------------------------------------------------------

@settings(deadline=None, max_examples=10)
@given(st.integers(1, 30), st.integers(1, 20), st.integers(1, 5))
def test_round_trip(tmp_path_factory, input_dim, hidden_dim, latent_dim):
    model = VAE(input_dim, hidden_dim, latent_dim)
    before = torch.get_rng_state()
    again = load(save(model, tmp_path_factory.mktemp("m") / "new" / "model.safetensors"))
    assert torch.equal(before, torch.get_rng_state())
    assert again.config == model.config and again.training
    for (name, a), (_, b) in zip(model.named_parameters(), again.named_parameters(), strict=True):
        assert torch.equal(a, b) and b.requires_grad and b.device.type == "cpu", name


def test_the_shape_of_an_image_comes_back(tmp_path):
    model = VAE(**CONFIG, image_shape=(4, 2, 2))
    again = load(save(model, tmp_path / "model.safetensors"))
    assert again.image_shape == (4, 2, 2) and again.config == model.config
    stranger = norms()
    train(stranger, epochs=1)
    again = load(save(stranger, tmp_path / "stranger.safetensors"), model=norms(1))
    assert (again.image_shape, again.latent_dim) == ((1, 4, 4), 3)
    assert torch.equal(state(again), state(stranger)) and torch.equal(reconstruct(again, TEST), reconstruct(stranger, TEST))


def test_what_a_model_says_of_itself_wins_over_the_file(tmp_path):
    stranger, other = norms(), norms(1)
    stranger.image_shape, other.image_shape = (1, 4, 4), (4, 4)
    assert load(save(stranger, tmp_path / "m.safetensors"), model=other).image_shape == (4, 4)


def test_weights_that_two_layers_share_are_kept(tmp_path):
    class Tied(Norms):
        def __init__(self):
            super().__init__()
            self.again = self.out
    model, other = Tied(), Tied()
    load(save(model, tmp_path / "tied.safetensors"), model=other)
    assert torch.equal(state(model), state(other)) and other.again is other.out


def test_precision_is_kept(tmp_path):
    model = small_vae().double()
    again = load(save(model, tmp_path / "m.safetensors"))
    assert again.fc_mu.weight.dtype == torch.float64 and torch.equal(state(model), state(again))


def write(path, tensors=None, **metadata):
    """A file as this version writes it, but for what is given."""
    tensors = small_vae().state_dict() if tensors is None else tensors
    save_file(tensors, path, {"format": FORMAT, "class": "VAE", "config": json.dumps(CONFIG)} | metadata)


def test_files_of_the_format_before_are_read(tmp_path):
    """A model of format 1, and a checkpoint of that time, which had its own tensors beside the weights."""
    model, path = small_vae(3), tmp_path / "old.safetensors"
    write(path, model.state_dict(), format="vae_nbdev 1")
    assert torch.equal(state(load(path)), state(model)) and load(path).config == CONFIG
    beside = {"optimizer/value/0": torch.zeros(5), "random/state": torch.zeros(9).byte()}
    write(path, model.state_dict() | beside, format="vae_nbdev 1", history="{}", options="{}")
    assert torch.equal(state(load(path)), state(model))


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
SENTENCES = {"foreign": "holds no model of vae_nbdev", "newer format": "'vae_nbdev 99'; this version reads",
             "other class": r"holds the weights of a GAN.*load\(path, model=GAN\(",
             **dict.fromkeys(["text", "empty", "pickle", "truncated"], "is not a safetensors file, or a damaged one"),
             **dict.fromkeys(["no json", "no dictionary", "wrong key", "negative", "overflow"], "configuration is not a VAE"),
             **dict.fromkeys(["other shape", "petabytes"], r"fc_\w+.\w+ should be \("), "integers": "should be .* not torch.int64",
             "tensor missing": "fc_mu.bias should be .3,., not None", "tensor more": "fc_extra.bias should be None"}


@pytest.mark.parametrize("kind", BROKEN)
def test_load_refuses(kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    BROKEN[kind](path := tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=SENTENCES[kind]) as error: load(path)
    assert "\n" not in str(error.value)
    assert not Path("sprung").exists()


def test_load_refuses_a_model_of_another_shape_and_leaves_it_alone(tmp_path):
    path = save(norms(), tmp_path / "m.safetensors")
    for other in (Norms(13), small_vae(), nn.Linear(2, 2)):
        before = state(other)
        with pytest.raises(ValueError, match=f"does not fit the model {type(other).__name__}: .* should be"): load(path, model=other)
        assert torch.equal(state(other), before)
    with pytest.raises(ValueError, match=r"holds the weights of a Norms.*load\(path, model=Norms\("): load(path)


@pytest.mark.parametrize("path", ["nowhere.safetensors", "."])
def test_load_misses_a_file(path, tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no file"): load(tmp_path / path)


def test_save_refuses_what_it_could_not_read_back(tmp_path):
    class Odd(Norms):
        def get_extra_state(self): return {"step": 3}
        def set_extra_state(self, state): pass
    with pytest.raises(ValueError, match="model must have a state of tensors to be kept, and .*_extra_state"): save(Odd(), tmp_path / "m")
    assert not list(tmp_path.iterdir())
    with pytest.raises(OSError, match="it is a folder"): save(small_vae(), tmp_path)


def test_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = save(small_vae(0), tmp_path / "model.safetensors")
    def full(fd): raise OSError("no space left on device")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="no space"): save(small_vae(1), path)
    assert torch.equal(load(path).fc_mu.weight, small_vae(0).fc_mu.weight)
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_is_whole_or_not_there(tmp_path):
    path = tmp_path / "history.json"
    def half(part):
        part.write_text("{")
        raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt): write_atomically(path, half)
    assert not list(tmp_path.iterdir())
    assert write_atomically(path, lambda part: part.write_text("{}")).read_text() == "{}"
    with pytest.raises(KeyboardInterrupt): write_atomically(path, half)
    assert path.read_text() == "{}" and list(tmp_path.iterdir()) == [path]


def test_folder_that_cannot_be_written(tmp_path):
    trained = lambda *_: pytest.fail("trained without a place for the result")
    (tmp_path / "file").write_text("")
    for call in (lambda out: train(small_vae(), out, on_epoch_end=trained), lambda out: save(small_vae(), out / "m"), make_folder):
        with pytest.raises(OSError, match="cannot write to the folder .*run'"): call(tmp_path / "file" / "run")
    assert make_folder(tmp_path / "a" / "b").is_dir() and not list((tmp_path / "a" / "b").iterdir())


# ---- a run that is killed -----------------------------------------------------------------------

def beta(model, batch, generator=None, weight=1.0):
    terms = negative_elbo(model, batch, generator)
    return terms | {"loss": terms["reconstruction"] + weight * terms["kl"]}


def shuffled():
    """Batches in an order that is drawn anew in each epoch, from the run's own random numbers."""
    return DataLoader(TensorDataset(IMAGES), batch_size=16, shuffle=True)


momentum = partial(torch.optim.SGD, lr=1.0, momentum=0.9)
RUNS = {  # a model by its seed, and what fit is told
    "plain": (small_vae, lambda: {}),
    "seed": (small_vae, lambda: {"recipe": "seed"}),
    "fast": (small_vae, lambda: {"recipe": "fast"}),
    "stranger": (norms, lambda: {}),
    "momentum": (norms, lambda: {"step": partial(GradientStep, optimizer=lambda p: momentum(p)), "lr": 1e-3}),
    "objective": (norms, lambda: {"objective": partial(beta, weight=4.0), "recipe": Recipe(schedule=one_cycle)}),
    "stream": (norms, lambda: {"train_data": shuffled(), "batch_size": None}),
}
KILLS = [("plain", "mid-write"), ("seed", "mid-epoch"), ("fast", "mid-epoch"), ("fast", "mid-write"), ("stranger", "mid-epoch"),
         ("stranger", "mid-write"), ("momentum", "mid-epoch"), ("objective", "mid-epoch"), ("stream", "mid-epoch")]


def die(kind, moment, out):
    """A run that is killed in its fourth epoch, on the way or while the checkpoint is written."""
    make, options = RUNS[kind]
    kill = lambda: os.kill(os.getpid(), signal.SIGKILL)
    over, draws, fsync, normal = [], [], os.fsync, torch.Tensor.normal_

    def draw(*args, **kwargs):  # the noise of each step, by every recipe
        if len(over) == 3: draws.append(1)
        return normal(*args, **kwargs) if len(draws) < 3 else kill()

    if moment == "mid-write": os.fsync = lambda fd: fsync(fd) if len(over) < 4 else kill()
    else: torch.Tensor.normal_ = draw
    train(make(), out, on_epoch_end=lambda *_: over.append(1), **options())


PROGRAM = """
import os, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from test_runs import KILLS, die, small_vae, train

train(small_vae(), epochs=1)  # what is imported at first use is then there for all

for kind, moment in KILLS:
    child = os.fork()
    if child == 0:
        die(kind, moment, Path(sys.argv[2]) / f"{kind} {moment}")
        os._exit(0)
    print(os.WTERMSIG(os.waitpid(child, 0)[1]))
"""


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """The folders of runs that died, each in a process of its own."""
    folder = tmp_path_factory.mktemp("killed")
    done = subprocess.run([sys.executable, "-c", PROGRAM, Path(__file__).parent, folder], capture_output=True, text=True,
                          env=os.environ | {"OMP_NUM_THREADS": "1"})  # a process with threads must not fork
    assert done.stdout.split() == [str(int(signal.SIGKILL))] * len(KILLS), done.stderr
    return folder


@pytest.mark.filterwarnings("ignore:.*Gaussian likelihood would suit:UserWarning")
@pytest.mark.parametrize("kind, moment", KILLS)
def test_killed_run_resumes_to_the_same_numbers(kind, moment, killed):
    (make, options), out, seen = RUNS[kind], killed / f"{kind} {moment}", []
    resumed = train(make(seed=7), out, resume=True, on_epoch_end=lambda done, *_: seen.append(done), **options())
    assert seen == [4, 5]
    assert_same(resumed, train(make(), **options()))
    assert [p.name for p in out.iterdir()] == [CHECKPOINT]


@pytest.mark.parametrize("kind", RUNS)
def test_finished_run_resumes_to_its_end(kind, tmp_path):
    make, options = RUNS[kind]
    finished = train(make(), tmp_path, **options())
    before = (tmp_path / CHECKPOINT).read_bytes()
    assert_same(train(make(seed=7), tmp_path, resume=True, **options()), finished)
    assert (tmp_path / CHECKPOINT).read_bytes() == before


@pytest.mark.parametrize("kind", ["plain", "seed", "stranger", "momentum"])
def test_more_epochs_of_a_constant_rate_go_on_exactly(kind, tmp_path):
    make, options = RUNS[kind]
    train(make(), tmp_path, epochs=2, **options())
    assert_same(train(make(seed=7), tmp_path, resume=True, **options()), train(make(), **options()))
    with pytest.raises(ValueError, match="epochs was 5 and is now 4"): train(make(), tmp_path, resume=True, epochs=4, **options())


@pytest.mark.parametrize("kind", ["plain", "seed", "fast"])
def test_a_callback_that_changes_the_weights_is_part_of_the_run(kind, tmp_path):
    """What it has done is in the checkpoint, and a resumed run starts from there."""
    def halve(done, model, history):
        if done == stop: raise KeyboardInterrupt
        with torch.no_grad(): model.fc_mu.weight.mul_(0.5)

    (make, options), stop = RUNS[kind], None
    through = train(make(), on_epoch_end=halve, **options())
    stop = 3
    with pytest.raises(KeyboardInterrupt): train(make(), tmp_path, on_epoch_end=halve, **options())
    stop = None
    assert_same(train(make(seed=7), tmp_path, resume=True, on_epoch_end=halve, **options()), through)


def test_keeping_a_run_changes_no_number(tmp_path):
    for kind, (make, options) in RUNS.items(): assert_same(train(make(), tmp_path / kind, **options()), train(make(), **options()))


# ---- what is in a checkpoint, and what is refused -----------------------------------------------

def test_checkpoint_loads_as_a_model(tmp_path):
    for make, arguments in ((small_vae, {}), (norms, {"model": norms(1)})):
        out = tmp_path / make.__name__
        result, _ = train(make(), out)
        assert torch.equal(result, state(load(out / CHECKPOINT, **arguments)))


def test_files_hold_no_pickle(tmp_path):
    """The checkpoint is one safetensors file: every tensor can be read by the format's own reader."""
    train(small_vae(), tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == [CHECKPOINT]
    names = load_file(tmp_path / CHECKPOINT)
    assert set(small_vae().state_dict()) < set(names) and len(names) > 20
    assert sum(name.endswith("/exp_avg_sq") for name in names) == 10


@pytest.mark.parametrize("kind", ["plain", "fast"])
def test_a_run_is_not_overwritten(kind, tmp_path):
    make, options = RUNS[kind]
    train(make(), tmp_path, epochs=2, **options())
    before, model = (tmp_path / CHECKPOINT).read_bytes(), make(seed=5)
    with pytest.raises(FileExistsError, match="already holds a run; go on with it by resume=True, or name another folder"):
        train(model, tmp_path, on_epoch_end=lambda *_: pytest.fail("trained"), **options())
    assert (tmp_path / CHECKPOINT).read_bytes() == before and [p.name for p in tmp_path.iterdir()] == [CHECKPOINT]
    assert torch.equal(state(model), state(make(seed=5)))


def test_a_folder_with_other_files_is_no_run(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    train(small_vae(), tmp_path, epochs=1)
    assert (tmp_path / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("change, sentence", [
    ({"lr": 2e-3}, "lr was 0.001 and is now 0.002$"),
    ({"batch_size": 8}, "batch_size was 16 and is now 8$"),
    ({"seed": 1}, "seed was 42 and is now 1$"),
    ({"recipe": "fast"}, "recipe was 'plain' and is now 'fast'"),
    ({"model": VAE(16, 13, 3)}, "model was .*12.* and is now .*13"),
    ({"model": norms()}, "model was .*12.* and is now 'Norms'$"),
    ({"train_data": IMAGES[:50]}, "train_data was .*100.* and is now .*50"),
    ({"train_data": 1 - IMAGES}, "train_data was .* and is now"),
    ({"test_data": None}, "test_data was .* and is now None$"),
    ({"objective": beta}, "objective was 'negative_elbo' and is now 'beta'$"),
    ({"step": partial(GradientStep, optimizer=momentum)}, "step was 'GradientStep' and is now .*SGD"),
])
def test_another_run_is_not_resumed(change, sentence, tmp_path):
    common = {"train_data": IMAGES, "test_data": TEST, "epochs": 2, "batch_size": 16, "progress": False, "device": "cpu", "out": tmp_path}
    fit(small_vae(), **common)
    before, model = (tmp_path / CHECKPOINT).read_bytes(), change.get("model", small_vae(5))
    weights = state(model)
    with pytest.raises(ValueError, match="cannot resume .* as another run: .*" + sentence):
        fit(**common | change | {"model": model}, resume=True)
    assert (tmp_path / CHECKPOINT).read_bytes() == before and torch.equal(state(model), weights)


def test_another_constant_of_an_objective_or_optimizer_is_another_run(tmp_path):
    train(norms(), tmp_path / "objective", epochs=1, objective=partial(beta, weight=4.0))
    with pytest.raises(ValueError, match="objective was .*4.0.* and is now .*2.0"):
        train(norms(), tmp_path / "objective", epochs=1, objective=partial(beta, weight=2.0), resume=True)
    step = lambda m: partial(GradientStep, optimizer=partial(torch.optim.SGD, lr=1.0, momentum=m))
    train(norms(), tmp_path / "step", epochs=1, step=step(0.9))
    with pytest.raises(ValueError, match="step was .*0.9.* and is now .*0.5"):
        train(norms(), tmp_path / "step", epochs=1, step=step(0.5), resume=True)


def test_more_epochs_of_a_schedule_are_another_run(tmp_path):
    train(small_vae(), tmp_path, recipe="fast", epochs=2)
    with pytest.raises(ValueError, match="epochs was 2 and is now 5"): train(small_vae(), tmp_path, recipe="fast", resume=True)


def test_nothing_to_resume(tmp_path):
    resume = partial(train, small_vae(), tmp_path, resume=True)
    with pytest.raises(ValueError, match="resume needs out"): train(small_vae(), resume=True)
    with pytest.raises(FileNotFoundError, match="no checkpoint.safetensors in .* start the run without resume"): resume()
    save(small_vae(), tmp_path / CHECKPOINT)
    with pytest.raises(ValueError, match="holds a model, but no run to resume"): resume()
    (tmp_path / CHECKPOINT).write_text("broken")
    with pytest.raises(ValueError, match="not a safetensors file"): resume()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A checkpoint of each recipe, as bytes, of a run that has two of five epochs."""
    files = {}
    for kind in ("plain", "seed", "fast"):
        (make, options), out = RUNS[kind], tmp_path_factory.mktemp(kind)
        def stop(done, *_):
            if done == 3: raise KeyboardInterrupt
        with pytest.raises(KeyboardInterrupt): train(make(), out, on_epoch_end=stop, **options())
        files[kind] = (out / CHECKPOINT).read_bytes()
    return files


def refused(kind, out):
    """The sentence of a refusal, before which nothing was changed."""
    (make, options), trained = RUNS[kind], lambda *_: pytest.fail("went on from a damaged checkpoint")
    model, before = make(seed=7), (out / CHECKPOINT).read_bytes()
    with pytest.raises(ValueError) as error: train(model, out, resume=True, on_epoch_end=trained, **options())
    assert torch.equal(state(model), state(make(seed=7))) and (out / CHECKPOINT).read_bytes() == before
    assert "\n" not in str(error.value) and str(out / CHECKPOINT) in str(error.value)
    return str(error.value)


@settings(deadline=None, max_examples=60)
@given(place=st.floats(0, 1, exclude_max=True), flip=st.integers(1, 255), kind=st.sampled_from(["plain", "seed", "fast"]))
def test_a_byte_that_has_changed_is_noticed(place, flip, kind, whole, tmp_path_factory):
    out, damaged = tmp_path_factory.mktemp("damaged"), bytearray(whole[kind])
    damaged[int(place * len(damaged))] ^= flip
    (out / CHECKPOINT).write_bytes(damaged)
    refused(kind, out)


@pytest.mark.parametrize("kind", ["plain", "seed", "fast"])
def test_a_checkpoint_without_one_of_its_parts_is_refused(kind, whole, tmp_path):
    (path := tmp_path / CHECKPOINT).write_bytes(whole[kind])
    tensors, metadata = content(path)
    beside = [name for name in tensors if "/" in name]
    assert any("noise" in n for n in beside) and any("step" in n for n in beside) and any("loader" in n for n in beside)
    for lost in beside:
        for kept in ({}, {lost: torch.zeros(2)}, {lost: tensors[lost][None]}, {lost: tensors[lost] * 0 + 1}):
            if lost in kept and torch.equal(kept[lost], tensors[lost]): continue
            save_file({k: v for k, v in tensors.items() if k != lost} | kept, path, metadata)
            assert "is damaged, or of an earlier version" in refused(kind, tmp_path)
    for key in ("run", "choices"):
        for value in ("", "{", "null", "[]", "{}", '{"dict": []}'):
            save_file(tensors, path, metadata | {key: value})
            refused(kind, tmp_path)


def test_a_checkpoint_of_another_shape_is_refused(whole, tmp_path):
    (path := tmp_path / CHECKPOINT).write_bytes(whole["plain"])
    for cut in (0, 1, 7, 100, len(whole["plain"]) // 2, len(whole["plain"]) - 1):
        path.write_bytes(whole["plain"][:cut])
        assert "is not a safetensors file, or a damaged one" in refused("plain", tmp_path)
    path.write_bytes(whole["plain"] + b"\0")
    refused("plain", tmp_path)


# ---- a loss that explodes -----------------------------------------------------------------------

@pytest.mark.parametrize("recipe", [Recipe(), SEED, FAST])
def test_loss_that_explodes_leaves_the_last_good_checkpoint(recipe, tmp_path):
    kept, late = [], lambda share: 1e-3 if share < 2 / 5 else 1e30
    recipe = recipe._replace(lr=1.0, schedule=late)
    with pytest.raises(FloatingPointError, match="not finite in epoch 3: try a smaller learning rate"):
        train(model := small_vae(), tmp_path, recipe=recipe, on_epoch_end=lambda *_: kept.append(state(model)))
    assert len(kept) == 2 and torch.equal(kept[1], state(load(tmp_path / CHECKPOINT)))


def test_loss_that_explodes_at_once_leaves_no_checkpoint(tmp_path):
    with pytest.raises(FloatingPointError, match="epoch 1: try a smaller learning rate than lr=1e.30, or a larger batch_size than 16"):
        train(small_vae(), tmp_path, lr=1e30)
    assert not list(tmp_path.iterdir())

"""Chapter 31: counts against torch's counter, the baseline against the seed's contract, a bench by a stand-in clock."""
import json
import subprocess
import sys
from itertools import count, islice
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from vae_nbdev import VAE, evaluate, fit, loss_function, speed
from vae_nbdev.data import BatchLoader
from vae_nbdev.fast import SEED, HandStep
from vae_nbdev.training import RECIPES, GradientStep, Recipe

sizes = st.tuples(*[st.integers(2, 9) for _ in range(4)])

pytestmark = pytest.mark.slow


def grey(*shape):
    return torch.randint(256, shape) / 255


@given(sizes)
@settings(deadline=None, max_examples=20)
def test_operations_are_those_that_torch_counts(sizes):
    B, D, H, Z = sizes
    model, loader = VAE(D, H, Z), BatchLoader(torch.rand(B, D), B)
    biases = 4 * B * (H + 2 * Z + H + D)  # as columns of the matrices
    for step, extra in [(GradientStep(model, loader), 0), (HandStep(model, loader), biases)]:
        with FlopCounterMode(display=False) as counter:
            for batch in step.batches(): step(batch, 1e-3)
        assert counter.get_total_flops() == speed.step_flops((B, D, H, Z, D)) + extra


def test_bytes_hold_every_parameter_and_pixel():
    model = VAE(30, 12, 4)
    parameters = sum(p.numel() for p in model.parameters())
    assert speed.step_bytes((7, 30, 12, 4, 30)) == 4 * (10 * parameters + 2 * 7 * 30)
    first, last = 30 * 12 + 12, 12 * 30 + 30
    fewer = parameters - first - last + (5 * 12 + 12) + (12 * 20 + 20)
    assert speed.step_bytes((7, 5, 12, 4, 20)) == 4 * (10 * fewer + 2 * 7 * (5 + 20))


def test_baseline_has_the_loss_of_the_contract():
    torch.manual_seed(0)
    model, x = VAE(30, 12, 4), torch.rand(6, 1, 5, 6)
    torch.manual_seed(1)
    loss = speed.seed_loss(model, x)
    torch.manual_seed(1)
    torch.testing.assert_close(loss, loss_function(model(x)[0], x, *model.encode(x)))


def test_baseline_is_adam_on_that_loss():
    batches = [(x, None) for x in torch.rand(3, 6, 1, 5, 6)]
    torch.manual_seed(0)
    model, twin = VAE(30, 12, 4), VAE(30, 12, 4)
    twin.load_state_dict(model.state_dict())
    optimizer, expected = torch.optim.Adam(twin.parameters(), lr=1e-3), []
    torch.manual_seed(1)
    for x, _ in batches + batches:
        optimizer.zero_grad()
        recon_x, mu, log_var = twin(x)
        loss = loss_function(recon_x, x, mu, log_var)
        loss.backward()
        optimizer.step()
        expected.append(loss.item())
    torch.manual_seed(1)
    assert list(islice(speed.seed_training(model, batches), 6)) == pytest.approx(expected, rel=1e-5)
    before = [p.clone() for p in model.parameters()]
    list(islice(speed.seed_testing(model, batches), 4))
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters()))


def test_baseline_reads_the_images_of_the_package(tmp_path, mnist):
    speed.unpack_mnist(tmp_path)
    train, test = speed.seed_loaders(tmp_path)
    assert (len(train.dataset), len(train), len(test)) == (60_000, 469, 79)
    x, labels = next(iter(test))
    assert torch.equal(x, mnist["test"][0][:128]) and torch.equal(labels, mnist["test"][1][:128])
    drawn = next(iter(train))[0]
    assert not torch.equal(drawn, mnist["train"][0][:128])


def test_interleave_takes_turns():
    calls = []
    times = speed.interleave({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, steps=2, turns=3)
    assert "".join(calls) == "ab" + 3 * "aabb"
    assert {name: len(values) for name, values in times.items()} == {"a": 3, "b": 3}


def test_spread_and_ratios_turn_by_turn():
    assert speed.spread([3.0, 1.0, 8.0]) == {"median": 3.0, "min": 1.0, "max": 8.0}
    times = {"slow": [4.0, 30.0, 6.0], "quick": [2.0, 10.0, 6.0]}
    assert speed.in_turns(times, "slow", by="quick") == {"median": 2.0, "min": 1.0, "max": 3.0}


def test_floor_is_counts_over_rates(monkeypatch):
    monkeypatch.setattr(speed, "matmul_rate", lambda *shape: 2e9)
    monkeypatch.setattr(speed, "copy_rate", lambda words: 1e9)
    sizes = (7, 30, 12, 4, 30)
    floor = speed.floors(sizes)
    assert floor["arithmetic_ms"] == pytest.approx(speed.step_flops(sizes) / 2e6)
    assert floor["memory_ms"] == pytest.approx(speed.step_bytes(sizes) / 1e6)
    assert floor["floor_ms"] == floor["arithmetic_ms"] + floor["memory_ms"]


# ---- steps of recipes, and what the trainer costs

@pytest.mark.parametrize("recipe", RECIPES)
def test_steps_of_a_recipe_train_a_model_epoch_after_epoch(recipe):
    torch.manual_seed(0)
    model, x = VAE(16, 8, 2), grey(50, 16)
    steps = speed.recipe_steps(model, x, speed.find_recipe(recipe)._replace(batch_size=20, lr=3e-3))
    losses = [next(steps)["loss"].item() / size for size in 40 * [20, 20, 10]]
    assert sum(losses[-15:]) < sum(losses[:15])


def test_steps_of_a_recipe_are_those_of_fit():
    """The first epoch of `fit` at a constant rate, on the same order of images and the same noise."""
    x, models = grey(40, 16), []
    for train in ("fit", "steps"):
        torch.manual_seed(3)
        models.append(VAE(16, 8, 2))
        if train == "fit": fit(models[-1], x, recipe="plain", epochs=1, batch_size=10, seed=42, progress=False)
        else:
            torch.manual_seed(42)
            steps = speed.recipe_steps(models[-1], x, Recipe(batch_size=10))
            for _ in range(4): next(steps)
    for a, b in zip(*(m.parameters() for m in models)): torch.testing.assert_close(a, b)


@pytest.mark.parametrize("make, shape", [(lambda: speed.Stranger(784, 12, 3), (784,)), (lambda: VAE(784, 12, 3), (1, 28, 28)),
                                         (lambda: speed.Convolutional(2, 3), (1, 28, 28))])
def test_the_loop_by_hand_has_the_loss_of_the_trainer(make, shape):
    """Else the two would do different work, and their times could not be compared."""
    torch.manual_seed(0)
    model, x = make(), grey(5, *shape)
    torch.manual_seed(1)
    by_hand = speed.bare_loss(model, x)
    torch.manual_seed(1)
    by_fit = GradientStep(model, BatchLoader(x))((x, None), 0.0)["loss"]
    torch.testing.assert_close(by_hand, by_fit)


@pytest.mark.parametrize("make", [lambda: speed.Stranger(784, 12, 3), lambda: speed.Convolutional(2, 3), lambda: VAE(784, 12, 3)])
def test_trainer_cost_counts_steps_and_leaves_the_model_alone(make, monkeypatch):
    """With a clock that ticks once a reading, each turn of two steps takes one tick: 500 ms a step, ratio one."""
    monkeypatch.setattr(speed, "time", SimpleNamespace(perf_counter=count().__next__))
    model, x = make(), grey(16, 1, 28, 28)
    before = {name: p.clone() for name, p in model.state_dict().items()}
    cost = speed.trainer_cost(model, x, batch_size=8, turns=3)
    assert (cost["hand_ms"], cost["fit_ms"], cost["ratio"]["median"], cost["profile"]) == (500, 500, 1, [])
    assert all(torch.equal(p, before[name]) for name, p in model.state_dict().items())
    assert getattr(model, "image_shape", None) is None


def test_trainer_cost_explains_itself_where_fit_is_slow(monkeypatch):
    monkeypatch.setattr(speed, "in_turns", lambda times, name, by: {"median": 1.2, "min": 1.2, "max": 1.2})
    cost = speed.trainer_cost(VAE(16, 8, 2), grey(16, 16), batch_size=8, turns=1)
    assert len(cost["profile"]) == 6 and all("%" in line for line in cost["profile"])


def test_profile_names_the_function_that_takes_longer():
    def spin(): return sum(range(300_000))
    assert "sum" in speed.profile_lines(lambda: [spin() for _ in range(5)], spin, rows=1)[0]


# ---- the bench, by a clock that stands still unless a loop moves it

class World:
    """Loops, trainings and processes that take a known time: `pace` is how slow the machine is, in each trial."""
    cost = {"seed_training": 0.03, "seed_testing": 0.02, "plain": 0.01, "seed": 0.006, "fast": 4.0, "process": 8.0}

    def __init__(self, monkeypatch, mnist, paces, costs={}):
        self.now, self.paces, self.cost, self.done, self.trained = 0.0, list(paces), {**self.cost, **costs}, [], []
        few = {split: (images[:256], labels[:256]) for split, (images, labels) in mnist.items()}
        floor = lambda sizes: {"floor_ms": 1.5 * self.paces[0], "gflops_per_s": 100.0, "gbytes_per_s": 50.0}
        stand_ins = {
            "time": SimpleNamespace(perf_counter=lambda: self.now), "load_mnist": few.__getitem__, "floors": floor,
            "seed_training": lambda model, loader: self.loop("seed_training"), "seed_testing": lambda model, loader: self.loop("seed_testing"),
            "recipe_steps": lambda model, images, recipe: self.loop(recipe), "fit": self.fit, "evaluate": self.evaluate,
            "process_seconds": lambda code: (self.cost["process"] * self.paces[0], "0.25\n" if "print" in code else "900.0\n"),
            "trainer_cost": lambda model, images: {"hand_ms": 5.0, "fit_ms": 6.0, "ratio": speed.spread([1.2]), "profile": ["+20.0% thinking"]}}
        for name, value in stand_ins.items(): monkeypatch.setattr(speed, name, value)

    def wait(self, name):
        self.now += self.cost[name] * self.paces[0]
        self.done.append(name)

    def loop(self, name):
        while True:
            self.wait(name)
            yield {}

    def fit(self, model, images, recipe, seed, progress):
        self.wait(recipe)
        self.trained.append(seed)

    def evaluate(self, model, images, passes):
        """Comes last in a trial; the next has another pace."""
        if len(self.paces) > 1: self.paces.pop(0)
        return {"loss": 103.5}


@pytest.mark.parametrize("full", [False, True])
def test_bench_compares_with_twenty_epochs_of_469_steps(monkeypatch, mnist, full):
    world = World(monkeypatch, mnist, [1.0])
    result = speed.bench(trials=1, steps=6, full=full)
    train, tests = 20 * 469 * 0.03, 20 * 79 * 0.02
    seconds = {name: s["median"] for name, s in result["seconds"].items()}
    assert seconds == pytest.approx({
        "baseline": train + tests, "baseline, training passes alone": train, "baseline, test passes alone": tests,
        "recipe plain": 20 * 469 * 0.01, "recipe seed": 20 * 469 * 0.006, "recipe fast": 4.0, "recipe fast, whole process": 8.0})
    assert result["ratios"]["recipe fast"]["median"] == pytest.approx((train + tests) / 4)
    assert result["ratios"]["recipe seed"]["median"] == pytest.approx((train + tests) / (20 * 469 * 0.006))
    assert result["ratio_training_alone"]["median"] == pytest.approx(train / 4)
    assert result["ms_per_step"] == pytest.approx({
        "baseline, training passes alone": 30, "baseline, test passes alone": 20, "recipe plain": 10, "recipe seed": 6,
        "recipe fast": 4000 / (2 * 469)})
    assert result["share_of_floor"]["recipe seed"] == pytest.approx(1.5 / 6)
    assert result["share_of_floor"]["recipe fast"] == pytest.approx(1.5 * 2 * 469 / 4000)
    timed = {name: world.done.count(name) - (name != "fast") for name in world.cost if name != "process"}
    assert timed == ({"seed_training": 9380, "seed_testing": 1580, "plain": 9380, "seed": 9380, "fast": 1} if full else
                     {"seed_training": 12, "seed_testing": 2, "plain": 12, "seed": 12, "fast": 1})


def test_bench_times_parts_before_and_after_the_fast_recipe(monkeypatch, mnist):
    world = World(monkeypatch, mnist, [1.0])
    speed.bench(trials=1, steps=6)
    at = world.done.index("fast")
    for name in ("seed_training", "plain", "seed"): assert world.done[4:at].count(name) == world.done[at:].count(name) == 6


def test_ratios_are_formed_within_trials(monkeypatch, mnist):
    """A machine that is ten times slower in one trial, and the baseline with it, changes no ratio."""
    World(monkeypatch, mnist, [5.0, 50.0, 5.0])
    result = speed.bench(trials=3, steps=6)
    assert result["seconds"]["recipe fast"] == pytest.approx({"median": 20, "min": 20, "max": 200})
    for name, one in result["ratios"].items(): assert one["min"] == pytest.approx(one["max"]), name
    assert result["ratios"]["recipe fast"]["median"] == pytest.approx((9380 * 0.03 + 1580 * 0.02) / 4)
    assert result["floors"]["fast"]["floor_ms"] == result["floors"]["seed"]["floor_ms"] == 7.5  # the lowest that was seen


def test_ratios_have_a_range(monkeypatch, mnist):
    world = World(monkeypatch, mnist, [1.0])
    trained = iter([4.0, 8.0, 2.0])
    monkeypatch.setattr(speed, "fit", lambda *a, **k: setattr(world, "now", world.now + next(trained)))
    ratio, whole = speed.bench(trials=3, steps=6)["ratios"]["recipe fast"], 9380 * 0.03 + 1580 * 0.02
    assert ratio == pytest.approx({"median": whole / 4, "min": whole / 8, "max": whole / 2})


def test_trials_have_seeds_of_their_own(monkeypatch, mnist):
    world = World(monkeypatch, mnist, [1.0])
    assert speed.bench(trials=3, steps=6)["losses"] == [103.5] * 3
    assert world.trained == [0, 1, 2]


def test_bench_is_plain_and_its_table_is_made_from_json(monkeypatch, mnist, capsys, tmp_path):
    World(monkeypatch, mnist, [1.0, 2.0])
    (tmp_path / "bench.json").write_text(json.dumps(result := speed.bench(trials=2, steps=6)))
    assert (again := json.loads((tmp_path / "bench.json").read_text())) == result
    speed.print_bench(again)
    printed = capsys.readouterr().out
    for text in ("recipe fast", "recipe plain", "torch " + torch.__version__, "2 interleaved trials", "from 2 x 6 training steps and 2 x 1 test",
                 "scaled to 20 epochs", "Stranger: 1.20", "+20.0% thinking", "target 103.85", "0.25 s; peak memory 900 MB"):
        assert text in printed
    assert max(map(len, printed.splitlines())) <= 88


def test_bench_runs_what_it_times(monkeypatch, mnist):
    """The real loops, trainings and floors, on few images; only the processes are stand-ins."""
    few = {split: (images[:256], labels[:256]) for split, (images, labels) in mnist.items()}
    monkeypatch.setattr(speed, "load_mnist", few.__getitem__)
    monkeypatch.setattr(speed, "process_seconds", lambda code: (1.5, "0.25\n" if "print" in code else "900.0\n"))
    monkeypatch.setattr(speed, "best_seconds", lambda work: work() is not None and 1e-3)
    monkeypatch.setattr(speed, "trainer_cost", lambda model, images: {"ratio": speed.spread([1.0]), "profile": []})
    result = speed.bench(trials=1, steps=2)
    assert all(s["min"] > 0 for s in result["seconds"].values()) and set(result["share_of_floor"]) < set(result["ms_per_step"])
    assert 100 < result["losses"][0] < 800 and result["steps"]["recipe fast"] == 2 * 469


@pytest.mark.parametrize("trials", [0, -1, 1.5, True, "5"])
def test_bench_refuses_other_numbers_of_trials(trials):
    with pytest.raises(ValueError, match="trials must be a whole number of at least 1"):
        speed.bench(trials=trials)


# ---- processes and quality

def test_training_needs_no_slow_imports():
    code = "import sys, vae_nbdev.training, vae_nbdev.fast; print(*{m.split('.')[0] for m in sys.modules})"
    loaded = set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split())
    plain = set(subprocess.run([sys.executable, "-c", "import sys, torch; print(*{m.split('.')[0] for m in sys.modules})"],
                               capture_output=True, text=True, check=True).stdout.split())
    heavy = {"torchvision", "matplotlib", "PIL", "tqdm", "safetensors", "pandas", "scipy", "sklearn", "nbdev", "fastcore", "IPython"}
    assert not (loaded - plain) & heavy


def test_fast_recipe_needs_no_compiler():
    """torch.optim.Adam imports torch._dynamo when it is made, which takes longer than the first hundred steps."""
    code = """import sys, torch
from vae_nbdev import VAE, fit
fit(VAE(16, 8, 2), torch.randint(256, (20, 16)) / 255, recipe="fast", progress=False)
print([name for name in sys.modules if name.startswith("torch._dynamo")])"""
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_process_seconds_runs_a_fresh_interpreter():
    seconds, printed = speed.process_seconds("import os; print(os.getpid())")
    assert seconds > 0 and int(printed) != speed.os.getpid()
    with pytest.raises(subprocess.CalledProcessError):
        speed.process_seconds("raise SystemExit(3)")


def test_programs_of_the_bench_are_programs():
    for code in speed.PROGRAMS.values(): compile(code, "program", "exec")
    seconds, printed = speed.process_seconds(speed.PROGRAMS["import vae_nbdev.training"])
    assert 0 < float(printed) < seconds


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_peak_memory_is_that_of_the_process_and_not_of_its_parent():
    ballast = torch.ones(200 * 2**18)  # 200 MB, held here
    _, printed = speed.process_seconds(f"import {speed.__name__} as s; print(s.peak_memory_mb())")
    _, more = speed.process_seconds("import torch, vae_nbdev.speed as s; x = torch.ones(300 * 2**18); print(s.peak_memory_mb())")
    assert ballast.sum() > 0 and 250 < float(more) - float(printed) < 400


def test_fast_recipe_reaches_the_target(mnist):
    model = VAE()
    fit(model, mnist["train"], recipe="fast", seed=7, progress=False)
    assert evaluate(model, mnist["test"], passes=3)["loss"] <= speed.TARGET == 103.85


def test_seeds_of_trains_one_model_per_seed(mnist):
    train, test = mnist["train"][0][:512], mnist["test"][0][:200]
    first, second = speed.seeds_of("fast", [3, 4], train, test)
    assert first != second and speed.seeds_of("fast", [4], train, test) == [second]
    assert speed.seeds_of(SEED, [4], train, test, epochs=1, step=GradientStep) != [second]

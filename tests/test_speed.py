"""Chapter 31: counts against torch's counter, the baseline against the seed's contract, the structure of a bench."""
import json
import subprocess
import sys
from itertools import islice

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings, strategies as st
from torch.utils.flop_counter import FlopCounterMode

from vae_nbdev import VAE, evaluate, fit, loss_function
from vae_nbdev import speed
from vae_nbdev.training import AutogradStep, HandStep

sizes = st.tuples(*[st.integers(2, 9) for _ in range(4)])


@given(sizes)
@settings(deadline=None, max_examples=20)
def test_operations_are_those_that_torch_counts(sizes):
    B, D, H, Z = sizes
    model, x, noise = VAE(D, H, Z), torch.rand(B, D), torch.Generator().manual_seed(0)
    biases = 4 * B * (H + 2 * Z + H + D)  # as columns of the matrices
    for step, extra in [(AutogradStep(model, x), 0), (HandStep(model, x), biases)]:
        with FlopCounterMode(display=False) as counter:
            step(torch.arange(B), 1e-3, noise)
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


def test_spread():
    assert speed.spread([3.0, 1.0, 8.0]) == {"median": 3.0, "min": 1.0, "max": 8.0}


def test_floor_is_counts_over_rates(monkeypatch):
    monkeypatch.setattr(speed, "matmul_rate", lambda *shape: 2e9)
    monkeypatch.setattr(speed, "copy_rate", lambda words: 1e9)
    sizes = (7, 30, 12, 4, 30)
    floor = speed.floors(sizes)
    assert floor["arithmetic_ms"] == pytest.approx(speed.step_flops(sizes) / 2e6)
    assert floor["memory_ms"] == pytest.approx(speed.step_bytes(sizes) / 1e6)
    assert floor["floor_ms"] == floor["arithmetic_ms"] + floor["memory_ms"]


def _tiny_bench(monkeypatch, mnist, **options):
    few = {split: (images[:256], labels[:256]) for split, (images, labels) in mnist.items()}
    monkeypatch.setattr(speed, "load_mnist", lambda split: few[split])
    monkeypatch.setattr(speed, "process_seconds", lambda code: (1.5, "0.25\n" if "print" in code else "900.0\n"))
    return speed.bench(**options)


def test_bench_is_plain_and_complete(monkeypatch, mnist, capsys, tmp_path):
    result = _tiny_bench(monkeypatch, mnist, trials=2, steps=6)
    (tmp_path / "bench.json").write_text(json.dumps(result))
    assert json.loads((tmp_path / "bench.json").read_text()) == result
    assert result["trials"] == len(result["losses"]) == 2
    assert result["ratios"]["baseline"]["median"] == 1
    assert result["import_on_top_of_torch"]["median"] == 0.25 and result["peak_memory_mb"] == 900
    for name, seconds in result["seconds"].items():
        assert 0 < seconds["min"] <= seconds["median"] <= seconds["max"] and result["ratios"][name]["min"] > 0
    assert set(result["ms_per_step"]) == set(result["share_of_floor"]) < set(result["seconds"])
    assert "from 2 x 6 training steps" in result["baseline"]

    speed.print_bench(json.loads((tmp_path / "bench.json").read_text()))
    printed = capsys.readouterr().out
    for text in ("recipe fast", "torch " + torch.__version__, "from 2 x 6 training steps", "peak memory 900 MB"):
        assert text in printed


def test_bench_compares_with_all_twenty_epochs(monkeypatch):
    """A part of n steps is scaled to 20 x 469 training steps and 20 x 79 test batches."""
    clock = iter(range(100))
    monkeypatch.setattr(speed.time, "perf_counter", lambda: next(clock))
    assert speed._scaled(iter(range(1000)), 60, 9380) == pytest.approx(9380 / 60)


def test_summary_divides_the_baseline_by_each_contestant_trial_by_trial(monkeypatch):
    monkeypatch.setattr(speed, "best_seconds", lambda work: 1e-3)
    processes = {name: (8.0, "500\n") for name in speed.PROGRAMS}
    trial = lambda train, seed, fast: {"baseline_train": train, "baseline_test": 10.0, "seed": seed, "fast": fast, "fast_loss": 100.0,
                                       "processes": processes, "floors": speed._floors_of((100, 400, 20, 599))}
    result = speed._summary([trial(90.0, 50.0, 4.0), trial(190.0, 50.0, 4.0), trial(30.0, 40.0, 4.0)], 20 * 469)
    assert result["ratios"]["recipe fast"] == {"median": 25.0, "min": 10.0, "max": 50.0}
    assert result["ratios"]["recipe seed"] == {"median": 2.0, "min": 1.0, "max": 4.0}
    assert result["ratios"]["recipe fast, whole process"]["median"] == 12.5
    assert result["ratio_training_alone"]["median"] == 22.5
    assert result["ms_per_step"]["recipe fast"] == pytest.approx(4000 / (2 * 469))
    floor = result["floors"]["fast"]["floor_ms"]
    assert result["share_of_floor"]["recipe fast"] == pytest.approx(floor * 2 * 469 / 4000)


@pytest.mark.parametrize("trials", [0, -1, 1.5, True, "5"])
def test_bench_refuses_other_numbers_of_trials(trials):
    with pytest.raises(ValueError, match="trials must be a whole number of at least 1"):
        speed.bench(trials=trials)


def test_training_needs_no_slow_imports():
    code = "import sys, vae_nbdev.training; print(*{m.split('.')[0] for m in sys.modules})"
    loaded = set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split())
    plain = set(subprocess.run([sys.executable, "-c", code.replace("vae_nbdev.training", "torch")],
                               capture_output=True, text=True, check=True).stdout.split())
    heavy = {"torchvision", "matplotlib", "PIL", "tqdm", "safetensors", "pandas", "scipy", "sklearn", "nbdev", "fastcore", "IPython"}
    assert not (loaded - plain) & heavy


def test_fast_recipe_needs_no_compiler():
    """torch.optim.Adam imports torch._dynamo when it is made, which takes longer than the first hundred steps."""
    code = """import sys, torch
from vae_nbdev import VAE, fit
fit(VAE(16, 8, 2), torch.rand(20, 16), recipe="fast", progress=False)
print([name for name in sys.modules if name.startswith("torch._dynamo")])"""
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_process_seconds_runs_a_fresh_interpreter():
    seconds, printed = speed.process_seconds("import os; print(os.getpid())")
    assert seconds > 0 and int(printed) != speed.os.getpid()
    with pytest.raises(subprocess.CalledProcessError):
        speed.process_seconds("raise SystemExit(3)")


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_peak_memory_is_that_of_the_process_and_not_of_its_parent():
    ballast = torch.ones(200 * 2**18)  # 200 MB, held here
    _, printed = speed.process_seconds(f"import {speed.__name__} as s; print(s.peak_memory_mb())")
    _, more = speed.process_seconds("import torch, vae_nbdev.speed as s; x = torch.ones(300 * 2**18); print(s.peak_memory_mb())")
    assert ballast.sum() > 0 and 250 < float(more) - float(printed) < 400


def test_fast_recipe_reaches_the_target(mnist):
    model = VAE()
    fit(model, mnist["train"], recipe="fast", seed=7, progress=False)
    assert evaluate(model, mnist["test"], passes=3)["loss"] <= speed.TARGET


def test_seeds_of_trains_one_model_per_seed(mnist):
    train, test = mnist["train"][0][:512], mnist["test"][0][:200]
    first, second = speed.seeds_of("fast", [3, 4], train, test)
    assert first != second and speed.seeds_of("fast", [4], train, test) == [second]

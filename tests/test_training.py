"""fit and evaluate: the right averages, the right gradient, the same numbers each time, and clear refusals."""
import json
import math
import time
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.utils import parameters_to_vector
from torch.utils.data import DataLoader, IterableDataset

from vae_nbdev.data import BatchLoader
from vae_nbdev.elbo import elbo_terms
from vae_nbdev.loss import kl_divergence
from vae_nbdev.model import VAE
from vae_nbdev.training import (RECIPES, GradientStep, History, Noise, Recipe, adam, choose_device,
                                constant, evaluate, find_recipe, fit, learning_rates, negative_elbo,
                                one_cycle, train_epoch)

pytestmark = pytest.mark.filterwarnings("ignore:.*Gaussian likelihood would suit:UserWarning")


def some_images(count=100, seed=0):
    return torch.rand(count, 1, 4, 4, generator=torch.Generator().manual_seed(seed))


def small_vae(seed=0):
    torch.manual_seed(seed)
    return VAE(16, 12, 3)


def weights(model):
    return parameters_to_vector(model.parameters()).detach().clone()


def run(model=None, data=None, test=None, **options):
    """Weights and history of a short run."""
    model, data = model or small_vae(), some_images() if data is None else data
    history = fit(model, data, test, **{"epochs": 3, "batch_size": 16, "progress": False, "device": "cpu"} | options)
    return weights(model), history


# ---- the gradient and the averages --------------------------------------------------------------

def test_step_descends_the_loss_as_the_seed_notebook_writes_it():
    """Gradient of a step = gradient of BCE(sigmoid) + KLD as plain sums, in float64, under the same noise."""
    model, x = small_vae().double(), some_images(10).double()
    step = GradientStep(model, None, optimizer=partial(torch.optim.SGD, lr=1.0))
    torch.manual_seed(3)
    before = weights(model)
    terms = step((x, None), rate=0.5)
    taken = (before - weights(model)) / 0.5

    with torch.no_grad(): torch.nn.utils.vector_to_parameters(before.clone(), model.parameters())
    torch.manual_seed(3)
    mu, log_var = model.encode(x)
    eps = torch.randn(mu.shape, dtype=torch.float64)
    recon = torch.sigmoid(model.fc_output(F.relu(model.fc_decoder_hidden(mu + (0.5 * log_var).exp() * eps))))
    bce = -(x.flatten(1) * recon.log() + (1 - x.flatten(1)) * (1 - recon).log()).sum()
    kld = -0.5 * (1 + log_var - mu**2 - log_var.exp()).sum()
    expected = {"loss": bce + kld, "reconstruction": bce, "kl": kld}
    assert list(terms) == list(expected)
    for name in terms: torch.testing.assert_close(terms[name], expected[name].detach(), rtol=1e-12, atol=0)
    gradient = parameters_to_vector(torch.autograd.grad(bce + kld, list(model.parameters())))
    torch.testing.assert_close(taken, gradient, rtol=1e-9, atol=1e-12)


@settings(deadline=None, max_examples=25)
@given(count=st.integers(1, 40), batch_size=st.integers(1, 50), recipe=st.sampled_from(["plain", "seed"]))
def test_averages_are_right_for_any_batch_size(count, batch_size, recipe):
    """The KL term has no noise, so its average over images is known; the weights do not move at this rate."""
    model, images = small_vae().double(), some_images(count).double()
    with torch.no_grad(): expected = kl_divergence(*model.encode(images)).mean().item()
    scores = evaluate(model, images, batch_size=batch_size)
    _, history = run(model, images, images, epochs=1, batch_size=batch_size, lr=1e-30, recipe=recipe)
    assert scores["kl"] == pytest.approx(expected, rel=1e-6)
    assert history["train_kl"] == pytest.approx([expected], rel=1e-5)
    assert history["test_kl"] == pytest.approx([expected], rel=1e-6)
    assert scores["loss"] == pytest.approx(scores["reconstruction"] + scores["kl"], rel=1e-12)


def test_evaluate_averages_its_passes():
    model, images, noise = small_vae(), some_images(7), torch.Generator().manual_seed(5)
    with torch.no_grad(): each = [sum(elbo_terms(model, images, noise)).mean().item() for _ in range(4)]
    assert evaluate(model, images, seed=5, passes=4)["loss"] == pytest.approx(sum(each) / 4, rel=1e-6)
    assert evaluate(model, images, seed=5)["loss"] == pytest.approx(each[0], rel=1e-6)


def test_evaluate_takes_a_loader_and_labels_too():
    model, images = small_vae(), some_images()
    expected = evaluate(model, images, batch_size=10)
    for data in (BatchLoader(images, 10), BatchLoader((images, torch.arange(100)), 10), BatchLoader(images.double(), 10)):
        assert evaluate(model, data) == pytest.approx(expected, rel=1e-6)
    assert evaluate(model, (images, torch.arange(100)), batch_size=10) == expected
    with pytest.raises(ValueError, match="must hold finite values in"): evaluate(model, BatchLoader(255 * images))


def test_adam_is_torchs():
    fused, plain = (run(step=partial(GradientStep, optimizer=make)) for make in (adam, partial(torch.optim.Adam, fused=False)))
    torch.testing.assert_close(fused[0], plain[0], rtol=1e-5, atol=1e-6)
    assert (fused[0] - weights(small_vae())).abs().max() > 1e-3


def test_recipes_plain_and_seed_are_one_method():
    """The gradient by autograd, and the same written out: equal numbers to rounding."""
    (a, one), (b, two) = (run(recipe=recipe, test=some_images(20), epochs=5) for recipe in ("plain", "seed"))
    torch.testing.assert_close(a, b, rtol=0, atol=1e-4)
    for name in ("train_loss", "train_kl", "test_loss"): assert one[name] == pytest.approx(two[name], rel=1e-4)


# ---- the same numbers each time -----------------------------------------------------------------

@pytest.mark.parametrize("recipe", RECIPES)
def test_numbers_depend_on_the_seed_and_on_nothing_else(recipe, tmp_path):
    """Not on the global generator, the progress bar, the folder, labels, or looking at test images."""
    images, go = some_images(), partial(run, recipe=recipe)
    expected, history = go(test=some_images(30, seed=1))
    torch.manual_seed(99)
    state, fresh = torch.get_rng_state(), [small_vae() for _ in range(3)]
    torch.manual_seed(99)
    variants = [go(fresh[0], (images, torch.zeros(100)), out=tmp_path, progress=True, on_epoch_end=lambda *_: None)]
    variants += [go(fresh[1], test=images), go(fresh[2])]
    assert torch.equal(state, torch.get_rng_state())
    for other, other_history in variants:
        assert torch.equal(expected, other)
        assert history["train_loss"] == other_history["train_loss"]
    assert not torch.equal(expected, go(seed=43)[0])
    alike = some_images(1).expand(100, 1, 4, 4)  # with these the order is no matter: what is left is the noise
    if recipe != "fast": assert not torch.equal(go(data=alike)[0], go(data=alike, seed=43)[0])


@pytest.mark.parametrize("recipe", RECIPES)
def test_images_are_not_changed(recipe):
    images, before = some_images(), some_images()
    run(data=images, test=images, recipe=recipe)
    assert torch.equal(images, before)


def test_each_epoch_has_an_order_of_its_own():
    seen = []
    def objective(model, batch, generator=None):
        seen.append(batch[1])
        return negative_elbo(model, batch, generator)
    run(data=(some_images(), torch.arange(100)), objective=objective)
    epochs = torch.cat(seen).view(3, 100)
    assert (epochs.sort().values == torch.arange(100)).all()
    assert not torch.equal(epochs[0], epochs[1]) and not torch.equal(epochs[1], epochs[2])
    assert [len(y) for y in seen[:7]] == [16] * 6 + [4]


def test_noise_is_a_stream_of_its_own():
    noise, again = Noise("cpu", 3), Noise("cpu", 3)
    torch.manual_seed(0)
    before = torch.get_rng_state()
    with noise.own(): first = torch.randn(4)
    with noise.own(): second = torch.randn(4)
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(torch.cat([first, second]), torch.cat([torch.randn(4, generator=g) for g in 2 * [torch.Generator().manual_seed(3)]]))
    with again.own(): torch.randn(4)
    third = Noise("cpu", 9)
    third.load_state_dict(again.state_dict())
    with third.own(): assert torch.equal(torch.randn(4), second)
    with pytest.raises(ZeroDivisionError):
        with noise.own(): 1 / 0
    assert torch.equal(before, torch.get_rng_state())


# ---- learning -----------------------------------------------------------------------------------

@pytest.mark.parametrize("recipe, epochs, bound", [("plain", 4, 190), ("seed", 4, 190), ("fast", 4, 150)])
def test_training_learns_mnist(recipe, epochs, bound, mnist):
    torch.manual_seed(0)
    history = fit(VAE(), mnist["train"][0][:3000], mnist["test"][0][:500], epochs=epochs, recipe=recipe, progress=False)
    assert history["test_loss"] == sorted(history["test_loss"], reverse=True)
    assert history["test_loss"][-1] < bound < history["train_loss"][0] < 784 * math.log(2)


@pytest.mark.parametrize("recipe", RECIPES)
def test_recipe_lowers_the_loss(recipe):
    _, history = run(recipe=recipe, epochs=None, batch_size=None)
    assert len(history["train_loss"]) == find_recipe(recipe).epochs
    assert history["train_loss"][-1] < history["train_loss"][0]


def test_choices_of_the_caller_win_over_those_of_the_recipe():
    class Counting(GradientStep):
        def __call__(self, batch, rate):
            seen.append((len(batch[0]), rate))
            return super().__call__(batch, rate)

    recipe = Recipe(epochs=2, batch_size=50, lr=0.1, schedule=lambda share: share, step=Counting)
    for options, expected in (({}, [(50, 0.1 * s) for s in (0.125, 0.375, 0.625, 0.875)]),
                              ({"epochs": 1, "lr": 1.0}, [(50, 0.25), (50, 0.75)]),
                              ({"epochs": 1, "batch_size": 100}, [(100, 0.05)])):
        seen = []
        fit(small_vae(), some_images(), recipe=recipe, progress=False, **options)
        assert [n for n, _ in seen] == [n for n, _ in expected]
        assert [rate for _, rate in seen] == pytest.approx([rate for _, rate in expected])
    seen = []
    run(step=Counting, epochs=1)
    assert len(seen) == 7 and {rate for _, rate in seen} == {1e-3}


def test_rates_reach_the_optimizer():
    used = []
    class Recording(torch.optim.SGD):
        def step(self, closure=None):
            used.append(self.param_groups[0]["lr"])
            return super().step(closure)
    recipe = Recipe(schedule=one_cycle, step=partial(GradientStep, optimizer=partial(Recording, lr=1.0)))
    run(recipe=recipe, lr=0.01)
    assert used == pytest.approx(learning_rates(one_cycle, 0.01, 3 * 7)) and len(set(used)) > 15


@settings(deadline=None, max_examples=50)
@given(lr=st.floats(1e-6, 1.0), steps=st.integers(1, 300), warmup=st.floats(0.05, 0.9))
def test_one_cycle_climbs_once_and_falls_once(lr, steps, warmup):
    rates = learning_rates(lambda share: one_cycle(share, warmup), lr, steps)
    top = rates.index(max(rates))
    assert len(rates) == steps and all(0 < r <= lr for r in rates)
    assert rates == sorted(rates[:top]) + sorted(rates[top:], reverse=True)
    assert learning_rates(constant, lr, steps) == [lr] * steps
    assert (one_cycle(0.0, warmup), one_cycle(1.0, warmup)) == (0, 0) and one_cycle(warmup, warmup) == 1


class Endless(IterableDataset):
    """Items that nobody has counted."""
    def __iter__(self): return iter(some_images(40))


def test_a_stream_of_unknown_length_takes_a_constant_rate():
    stream = DataLoader(Endless(), batch_size=16)
    _, history = run(data=stream, batch_size=None, epochs=4, progress=True)
    assert len(history["train_loss"]) == 4
    with pytest.raises(ValueError, match="the schedule one_cycle must know how many batches an epoch has"):
        run(data=stream, batch_size=None, recipe=Recipe(schedule=one_cycle))


# ---- what comes back ----------------------------------------------------------------------------

@pytest.mark.parametrize("recipe", RECIPES)
def test_history(recipe):
    _, history = run(test=some_images(20), recipe=recipe)
    assert set(history) == {f"{s}_{k}" for s in ("train", "test") for k in ("loss", "reconstruction", "kl")} | {"epoch_seconds", "step_loss"}
    assert all(len(values) == 3 for name, values in history.items() if name != "step_loss") and all(s > 0 for s in history["epoch_seconds"])
    assert json.loads(json.dumps(history)) == history
    for split in ("train", "test"):
        parts = zip(history[f"{split}_reconstruction"], history[f"{split}_kl"])
        assert history[f"{split}_loss"] == pytest.approx([r + k for r, k in parts], rel=1e-6)
    assert run(recipe=recipe)[1]["test_loss"] == []


@pytest.mark.parametrize("recipe", RECIPES)
def test_history_has_the_loss_of_each_step(recipe):
    """Weighted by the images of each batch, the last one smaller, they are the loss of the epoch."""
    _, history = run(data=some_images(40), recipe=recipe, epochs=2)
    sizes = [16, 16, 8] * 2
    summed = [loss * size for loss, size in zip(history["step_loss"], sizes, strict=True)]
    assert [sum(summed[:3]) / 40, sum(summed[3:]) / 40] == pytest.approx(history["train_loss"], rel=1e-6)


def test_history_grows_by_an_epoch():
    history, again = History(), History()
    assert history.epochs == 0
    history.record({"loss": 2.0, "kl": 1.0}, {"loss": 3.0, "kl": 1.5}, 0.1, [2.5, 1.5])
    history.record({"loss": 1.0, "kl": 0.5}, {"loss": 2.0, "kl": 1.0}, 0.2, [1.0])
    assert history == {"train_loss": [2.0, 1.0], "train_kl": [1.0, 0.5], "test_loss": [3.0, 2.0], "test_kl": [1.5, 1.0],
                       "epoch_seconds": [0.1, 0.2], "step_loss": [2.5, 1.5, 1.0]} and history.epochs == 2
    again.load_state_dict(json.loads(json.dumps(history.state_dict())))
    assert again == history and again.epochs == 2


@pytest.mark.parametrize("recipe", RECIPES)
def test_callback_sees_each_epoch_as_it_ends(recipe):
    seen = []
    def look(epoch, model, history):
        seen.append((epoch, len(history["train_loss"]), len(history["test_loss"])))
        scores.append(evaluate(model, some_images(20))["loss"])
    scores = []
    _, history = run(test=some_images(20), recipe=recipe, on_epoch_end=look)
    assert seen == [(1, 1, 1), (2, 2, 2), (3, 3, 3)]
    assert history["test_loss"] == scores  # the model that is handed over is the one that was tested


@pytest.mark.parametrize("recipe", RECIPES)
def test_model_comes_back_as_it_was(recipe):
    model = small_vae().eval()
    run(model, recipe=recipe)
    evaluate(model, some_images())
    assert not model.training and model.fc_mu.weight.device.type == "cpu"
    evaluate(model.train(), some_images())
    assert model.training
    model = small_vae().eval()
    with pytest.raises(ZeroDivisionError): run(model, recipe=recipe, on_epoch_end=lambda *_: 1 / 0)
    assert not model.training and all(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize("recipe", RECIPES)
def test_loop_reads_no_loss_from_the_device(recipe, monkeypatch):
    """Each .item() makes the processor wait for a GPU; an epoch may ask once, at its end."""
    asked, loader = [], BatchLoader(some_images(), 10)
    step = find_recipe(recipe).step(small_vae(), loader, negative_elbo, 42)
    step.start(), step.read()
    for name in ("item", "tolist", "cpu", "__float__", "__bool__"):
        method = getattr(torch.Tensor, name)
        monkeypatch.setattr(torch.Tensor, name, lambda self, *args, name=name, method=method: asked.append(name) or method(self, *args))
    terms, losses = train_epoch(step, [1e-3] * 10, Noise("cpu", 0))
    assert asked == ["cpu", "tolist", "tolist"] and len(losses) == 10 and set(terms) == {"loss", "reconstruction", "kl"}


@pytest.mark.parametrize("recipe", RECIPES)
def test_progress_bar_shows_epoch_and_loss(recipe, capsys, monkeypatch):
    normal = torch.Tensor.normal_
    monkeypatch.setattr(torch.Tensor, "normal_", lambda *args, **kw: time.sleep(0.15) or normal(*args, **kw))  # longer than redraws
    run(progress=True, data=some_images(4), batch_size=1, epochs=2, recipe=recipe)
    shown = capsys.readouterr().err
    assert all(part in shown for part in ("epoch 1/2", "epoch 2/2", "8/8", " nats"))
    monkeypatch.undo()
    run(recipe=recipe)
    assert capsys.readouterr() == ("", "")


# ---- devices ------------------------------------------------------------------------------------

@pytest.mark.parametrize("cuda, mps, best", [(True, True, "cuda"), (False, True, "mps"), (False, False, "cpu")])
def test_device_is_the_best_there_is(monkeypatch, cuda, mps, best):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: int(cuda))
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    assert choose_device() == torch.device(best)
    assert choose_device(torch.device("cpu")) == choose_device("cpu") == torch.device("cpu")
    missing = {"cuda": "cuda:3", "mps": "cuda", "cpu": "mps"}[best]
    with pytest.raises(ValueError, match=f"device '{missing}' is not on this machine"): choose_device(missing)


@pytest.mark.parametrize("name", ["gpu", "", "xla", "cuda:x", None, 3.5])
def test_unknown_device(name):
    with pytest.raises(ValueError, match="device must be 'auto', 'cuda', 'mps' or 'cpu'"): choose_device(name)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("recipe", RECIPES)
def test_a_model_is_trained_on_the_gpu_and_comes_home(recipe, tmp_path):
    model, test = small_vae(), some_images(20)
    _, history = run(model, test=test, recipe=recipe, device="cuda", out=tmp_path)
    assert model.fc_mu.weight.device.type == "cpu" and history["train_loss"][-1] < 12
    assert evaluate(model.cuda(), test)["kl"] == pytest.approx(history["test_kl"][-1], rel=1e-3)
    again = run(small_vae(5), test=test, recipe=recipe, device="cuda", out=tmp_path, resume=True)
    assert again[1]["train_loss"] == history["train_loss"]


# ---- refusals -----------------------------------------------------------------------------------

IMAGES = some_images(20)
@pytest.mark.parametrize("options, sentence", [
    ({"epochs": 0}, "epochs must be a whole number of at least 1, not 0"),
    ({"epochs": 2.0}, "epochs must be a whole number"),
    ({"epochs": True}, "epochs must be a whole number"),
    ({"batch_size": 0}, "batch_size must be a whole number of at least 1, not 0"),
    ({"lr": 0}, "lr must be a finite number above 0, not 0"),
    ({"lr": math.nan}, "lr must be a finite number"),
    ({"lr": math.inf}, "lr must be a finite number"),
    ({"lr": "1e-3"}, "lr must be a finite number"),
    ({"lr": True}, "lr must be a finite number"),
    ({"seed": -1}, "seed must be a whole number"),
    ({"seed": 2**63}, "seed must be below"),
    ({"recipe": "slow"}, "recipe must be one of 'plain', 'seed', 'fast', 'muon', not 'slow'"),
    ({"objective": "elba"}, "objective must be one of 'elbo', .*, not 'elba'"),
    ({"objective": "elbo:beta=2"}, "objective 'elbo' has no parameters"),
    ({"device": "abacus"}, "device must be"),
    ({"resume": True}, "resume needs out"),
    ({"data": IMAGES[:, :, 1:]}, "train_data must have input_dim = 16 pixels per image, as the model has, not 12"),
    ({"data": IMAGES * 255}, "train_data must hold finite values in"),
    ({"data": IMAGES * math.nan}, "train_data must hold finite values"),
    ({"data": IMAGES[:0]}, "train_data must have shape"),
    ({"data": (IMAGES, torch.zeros(3))}, "train_data must pair"),
    ({"data": "digits"}, "train_data must be a tensor or array of images"),
    ({"test": IMAGES - 1}, "test_data must hold finite values in"),
    ({"test": IMAGES[:, :, 1:]}, "test_data must have input_dim = 16"),
])
@pytest.mark.parametrize("recipe", RECIPES)
def test_bad_input_gets_a_sentence_before_any_work(options, sentence, recipe):
    model = small_vae()
    with pytest.raises(ValueError, match=sentence) as error:
        run(model, **{"recipe": recipe, "on_epoch_end": lambda *_: pytest.fail("trained in spite of bad input")} | options)
    assert "\n" not in str(error.value) and torch.equal(weights(model), weights(small_vae()))
    assert model.config == small_vae().config


@pytest.mark.parametrize("options, sentence", [
    ({"passes": 0}, "passes must be a whole number"), ({"batch_size": -1}, "batch_size must be a whole number"),
    ({"data": IMAGES[:, :, 1:]}, "data must have input_dim = 16"), ({"data": IMAGES + 1}, "data must hold finite values in")])
def test_evaluate_refuses(options, sentence):
    with pytest.raises(ValueError, match=sentence): evaluate(**{"model": small_vae(), "data": IMAGES} | options)

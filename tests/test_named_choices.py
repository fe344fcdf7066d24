"""Objectives and likelihoods by name, schedules, and binary images drawn anew: in fit, in a run on disk, in a file."""
import math
from dataclasses import dataclass

import pytest
import torch

from vae_nbdev.data import binarize
from vae_nbdev.model import LIKELIHOODS, VAE, Distributions, check_values, from_name
from vae_nbdev.runs import load, save
from vae_nbdev.training import OBJECTIVES, Recipe, evaluate, find_objective, fit, negative_elbo

NEEDED = {"beta-tc": "beta-tc:data_size=40"}  # parameters without a default


def some_images(count=40, seed=0):
    return (255 * torch.rand(count, 1, 4, 4, generator=torch.Generator().manual_seed(seed))).round() / 255


def small_vae(**options):
    torch.manual_seed(0)
    return VAE(16, 12, 3, **options)


def train(model, data=None, test=None, **options):
    data = some_images() if data is None else data
    return fit(model, data, test, **{"epochs": 2, "batch_size": 16, "progress": False, "device": "cpu"} | options)


def weights(model):
    return torch.nn.utils.parameters_to_vector(model.parameters()).detach().clone()


# ---- names --------------------------------------------------------------------------------------

@pytest.mark.parametrize("name", OBJECTIVES)
def test_each_objective_trains_by_its_name(name):
    model = small_vae()
    history = train(model, test=some_images(20), objective=NEEDED.get(name, name))
    assert not torch.equal(weights(model), weights(small_vae()))
    assert all(map(math.isfinite, history["train_loss"] + history["test_loss"]))
    scores = evaluate(model, some_images(20), objective=NEEDED.get(name, name))
    assert scores["loss"] == history["test_loss"][-1]


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_each_likelihood_trains_and_comes_back_from_a_file(name, tmp_path):
    model = small_vae(likelihood=name, image_shape=(1, 4, 4))
    history = train(model, test=some_images(20), epochs=10, lr=1e-2)
    assert history["train_loss"][-1] < history["train_loss"][0]
    p = model.likelihood(model.prior.sample((5,)))
    assert p.batch_shape == (5,) and p.event_shape == (1, 4, 4) and p.mean.shape == (5, 1, 4, 4)
    again = load(save(model, tmp_path / "model.safetensors"))
    assert again.config == model.config and torch.equal(weights(again), weights(model))
    assert evaluate(again, some_images(20)) == evaluate(model, some_images(20))


@pytest.mark.parametrize("name", [name for name in LIKELIHOODS if name != "bernoulli"])
def test_the_written_out_gradient_is_for_coins_alone(name):
    """The recipe seed takes autograd's for all others, and fast says that it cannot."""
    plain, seed = small_vae(likelihood=name), small_vae(likelihood=name)
    train(plain, recipe="plain"), train(seed, recipe="seed")
    assert torch.equal(weights(plain), weights(seed))
    with pytest.raises(ValueError, match="model has other parts"): train(small_vae(likelihood=name), recipe="fast")


class Maps(torch.nn.Module, Distributions):
    """Gives two maps for each picture: the means first, then the log scales."""
    latent_dim, image_shape = 3, (1, 4, 4)

    def __init__(self):
        super().__init__()
        self.observation = from_name("gaussian:scale=pixel", LIKELIHOODS, "likelihood")
        self.encoder, self.decoder = torch.nn.Linear(16, 6), torch.nn.Linear(3, 32)

    def encode(self, x): return self.encoder(x.flatten(1)).chunk(2, dim=1)
    def decode_logits(self, z): return self.decoder(z).view(-1, 2, 4, 4)


def test_maps_are_parted_along_their_channels():
    torch.manual_seed(0)
    model, z = Maps(), torch.randn(5, 3)
    p = model.likelihood(z)
    assert p.batch_shape == (5,) and p.event_shape == (1, 4, 4)
    assert torch.equal(p.mean, model.decode_logits(z)[:, :1])


def test_parameters_follow_a_name():
    assert find_objective("beta-vae:beta=3").beta == 3
    assert find_objective(negative_elbo) is negative_elbo is find_objective("elbo")
    assert small_vae(likelihood="gaussian:scale=0.5").likelihood(torch.zeros(1, 3)).variance.unique().item() == 0.25


@pytest.mark.parametrize("spec, sentence", [
    ("beta-vae:bta=3", "objective 'beta-vae' has no parameter 'bta'; it has beta"),
    ("beta-vae:beta=-1", "beta must be"),
    ("elbo:beta=3", "objective 'elbo' has no parameters"),
    ("elba", "objective must be one of 'elbo'"),
    ("", "objective must be one of 'elbo'"),
    (3, "objective must be one of 'elbo'"),
])
def test_wrong_names_get_one_sentence(spec, sentence):
    with pytest.raises(ValueError, match=sentence) as error: find_objective(spec)
    assert "\n" not in str(error.value)


def test_a_table_is_read_and_nothing_else():
    """A name cannot reach beyond its table, whatever stands behind the colon."""
    with pytest.raises(ValueError, match="thing must be one of 'a'"): from_name("os:system", {"a": 1}, "thing")
    assert from_name("a", {"a": 1}, "thing") == 1


# ---- schedules ----------------------------------------------------------------------------------

@dataclass(frozen=True)
class Rising:
    """The KL term with a weight that rises with the share of the run."""
    weight: float = 1.0
    told = []

    def __call__(self, model, batch, generator=None):
        terms = negative_elbo(model, batch, generator)
        return terms | {"loss": terms["reconstruction"] + self.weight * terms["kl"]}

    def at(self, share):
        self.told.append(share)
        return Rising(share)


def test_a_schedule_is_told_the_share_of_the_run():
    Rising.told.clear()
    train(small_vae(), objective=Rising())
    assert Rising.told == pytest.approx([(i + 0.5) / 6 for i in range(6)])  # 2 epochs of 3 batches


def test_a_schedule_is_followed_and_evaluation_has_the_full_weight():
    model = small_vae()
    history = train(model, test=some_images(20), objective=Rising())
    below = [r + k - loss for loss, r, k in zip(*(history[f"train_{t}"] for t in ("loss", "reconstruction", "kl")))]
    assert below[0] > 0 and below[1] > 0
    full = [r + k for r, k in zip(history["test_reconstruction"], history["test_kl"])]
    assert history["test_loss"] == pytest.approx(full)


def test_a_resumed_run_follows_the_same_schedule(tmp_path):
    whole, parted = small_vae(), small_vae()
    train(whole, objective=Rising(), recipe=Recipe())

    def stop(epoch, model, history):
        if epoch == 2: raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt): train(parted, objective=Rising(), out=tmp_path, epochs=2, on_epoch_end=stop)
    train(parted, objective=Rising(), out=tmp_path, resume=True)
    assert torch.equal(weights(whole), weights(parted))


def test_a_schedule_needs_the_length_of_a_run():
    class Stream:
        def __iter__(self): return iter([some_images(8)])
    with pytest.raises(ValueError, match="objective must know how many batches"): train(small_vae(), Stream(), objective=Rising(), batch_size=None)


def test_another_objective_is_another_run(tmp_path):
    train(small_vae(), objective="beta-vae:beta=2", out=tmp_path)
    for other in ("beta-vae:beta=3", "elbo"):
        with pytest.raises(ValueError, match="as another run: objective was"):
            train(small_vae(), objective=other, out=tmp_path, resume=True, epochs=3)
    with pytest.raises(ValueError, match="as another run: objective was"):
        train(small_vae(), objective="beta-vae:beta=2", binarize=True, out=tmp_path, resume=True, epochs=3)
    train(small_vae(), objective="beta-vae:beta=2", out=tmp_path, resume=True, epochs=3)


def test_other_images_are_another_run(tmp_path):
    """Also those of the same shape that begin with the same image."""
    images = some_images(200)
    train(small_vae(), images, out=tmp_path)
    images[100:] = 1 - images[100:]
    with pytest.raises(ValueError, match="as another run: train_data was"):
        train(small_vae(), images, out=tmp_path, resume=True, epochs=3)


# ---- binary images drawn anew -------------------------------------------------------------------

def test_images_are_drawn_anew_for_each_epoch():
    seen = []
    def watching(model, batch, generator=None):
        if torch.is_grad_enabled(): seen.append(batch[0])
        return negative_elbo(model, batch, generator)
    train(small_vae(), objective=watching, binarize=True, batch_size=40)
    first, second = (x.sort(0).values for x in seen)
    assert ((first == 0) | (first == 1)).all() and not torch.equal(first, second)
    assert abs(torch.stack(seen).mean() - some_images().mean()) < 0.05


def test_binary_test_images_are_drawn_once():
    """Those of `binarize` with seed 0: the loss is that of a model tested on them."""
    model, x = small_vae(), some_images(30, seed=1)
    history = train(model, test=x, binarize=True)
    drawn = binarize(x, generator=torch.Generator().manual_seed(0))
    seen = evaluate(model, drawn, objective=find_objective("elbo", binarize=True))
    assert history["test_loss"][-1] == seen["loss"] and drawn.unique().tolist() == [0, 1]


def test_draws_come_from_the_generator_that_is_given():
    model, objective = small_vae(), find_objective("elbo", binarize=True)
    state = torch.get_rng_state()
    first, again, other = (objective(model, (some_images(), None), torch.Generator().manual_seed(s))["loss"] for s in (0, 0, 1))
    assert torch.equal(state, torch.get_rng_state()) and torch.equal(first, again) and not torch.equal(first, other)


def test_redrawn_runs_resume_exactly_and_follow_schedules(tmp_path):
    options = {"binarize": True, "objective": "warm-up:share=0.9"}
    whole, parted = small_vae(), small_vae()
    history = train(whole, epochs=3, **options)

    def stop(epoch, model, history):
        if epoch == 2: raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt): train(parted, epochs=3, out=tmp_path, on_epoch_end=stop, **options)
    resumed = train(parted, epochs=3, out=tmp_path, resume=True, **options)
    assert torch.equal(weights(whole), weights(parted)) and resumed["step_loss"] == history["step_loss"]
    assert len(history["step_loss"]) == 9


def test_only_grey_pixels_can_be_drawn():
    with pytest.raises(ValueError, match="train_data must hold finite values in"):
        train(small_vae(likelihood="gaussian"), some_images() - 0.5, binarize=True)
    with pytest.raises(ValueError, match="objective is"): train(small_vae(), binarize=True, recipe="fast")


# ---- values that a likelihood cannot have made ---------------------------------------------------

@pytest.mark.parametrize("name", ["discretized-logistic", "beta-binomial", "categorical"])
def test_a_discrete_likelihood_refuses_other_values(name):
    model = small_vae(likelihood=name)
    with pytest.raises(ValueError, match="train_data .*255"): train(model, some_images() * 0.999)
    with pytest.raises(ValueError, match="data .*255"): evaluate(model, some_images() * 0.999)
    check_values(model.likelihood(torch.zeros(1, 3)), some_images(2))


def test_a_stream_is_looked_at_batch_by_batch():
    stream = lambda *batches: [(x, torch.zeros(len(x))) for x in batches] * 2
    good, bad = some_images(8), some_images(8) * 0.999
    with pytest.raises(ValueError, match="train_data .*255"):
        train(small_vae(likelihood="beta-binomial"), stream(good, bad), batch_size=None)
    with pytest.raises(ValueError, match="train_data must hold finite values in"):
        train(small_vae(), stream(good, good + 1), batch_size=None)
    train(small_vae(likelihood="gaussian"), stream(good, good + 1), batch_size=None)

"""Conditional models: labels reach them through every function, each image gets its own, and what is no label is told so."""
import math

import pytest
import torch
from torch import nn
from torch.testing import assert_close
from torch.utils.data import DataLoader, TensorDataset

from vae_nbdev import runs
from vae_nbdev.annealing import annealed_log_likelihood
from vae_nbdev.conditional import ConditionalVAE, class_evidence, sample
from vae_nbdev.evaluation import inference_gaps, log_likelihood, report
from vae_nbdev.latents import active_units, information, latent_report
from vae_nbdev.model import (VAE, as_vae, bernoulli, conditioned, decode, diagonal_gaussian, is_conditional, posterior_mean,
                             reconstruct)
from vae_nbdev.objectives import BetaTC, BetaVAE, FreeBits, ImportanceWeighted, MoreSamples, WarmUp
from vae_nbdev.runs import load, save
from vae_nbdev.training import Redrawn, evaluate, fit, negative_elbo
from vae_nbdev.visualization import generate_samples, interpolate

OBJECTIVES = [negative_elbo, BetaVAE(2.0), WarmUp(), FreeBits(0.3), BetaTC(12), ImportanceWeighted(3), ImportanceWeighted(3, "dreg"),
              MoreSamples(2), Redrawn(negative_elbo)]
QUIET = {"progress": False, "device": "cpu", "epochs": 1}


def seeded(seed=0): return torch.Generator().manual_seed(seed)


def make(**more):
    torch.manual_seed(0)
    return ConditionalVAE(16, 8, 3, **({"num_classes": 4} | more))


@pytest.fixture
def model(): return make()


@pytest.fixture
def data():
    x = torch.rand(12, 1, 4, 4, generator=seeded(1)).round()
    return x, torch.arange(12) % 4


class OnlyLabel(nn.Module):
    "An image is its label alone: log p(x|z, y) is known for each image whatever z is."
    latent_dim, image_shape = 3, (1, 4, 4)

    def __init__(self):
        super().__init__()
        self.logits = nn.Parameter(torch.randn(4, 1, 4, 4, generator=seeded(5)))

    def given(self, y):
        outer = self

        class Told:
            prior = diagonal_gaussian(torch.zeros(3), torch.zeros(3))
            def posterior(self, x): return diagonal_gaussian(torch.zeros(len(x), 3), torch.zeros(len(x), 3))
            def likelihood(self, z): return bernoulli(outer.logits[y].expand(*z.shape[:-1], 1, 4, 4), z.ndim - 1)
        return Told()


# Each image gets its own label

@pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda o: getattr(o, "__name__", type(o).__name__))
def test_objectives_ask_the_distributions_of_the_batch(objective, model, data):
    """As of a model that has been told the label before."""
    (x, y), twos = data, torch.full((12,), 2)
    found, told = objective(model, (x, twos), seeded()), objective(model.given(2), (x, None), seeded())
    for name, value in told.items(): assert_close(found[name], value)
    assert not torch.allclose(found["loss"], objective(model, data, seeded())["loss"])


@pytest.mark.parametrize("objective", [o for o in OBJECTIVES if not isinstance(o, Redrawn)], ids=lambda o: getattr(o, "__name__", type(o).__name__))
def test_labels_stay_with_their_images_for_many_codes(objective, data):
    model, (x, y) = OnlyLabel(), data
    expected = -bernoulli(model.logits[y]).log_prob(x)
    assert_close(objective(model, data)["reconstruction"], expected)


def test_images_in_parts_keep_their_labels(model, data):
    x, y = (t.repeat(200, *[1] * (t.ndim - 1))[:2345] for t in data)
    shuffled = torch.randperm(2345, generator=seeded(2))
    x, y = x[shuffled], y[shuffled]
    mu = posterior_mean(model, x, y)
    assert_close(mu[1990:2010], posterior_mean(model, x[1990:2010], y[1990:2010]))
    assert_close(decode(model, mu, y)[1990:2010], decode(model, mu[1990:2010], y[1990:2010]))
    assert_close(reconstruct(model, x, y), decode(model, mu, y).view(x.shape))


@pytest.mark.parametrize("labels", [[0, 1, 2, 3], torch.tensor([0, 1, 2, 3], dtype=torch.uint8), torch.arange(4).numpy()])
def test_labels_come_in_many_forms(labels, model, data):
    assert_close(posterior_mean(model, data[0][:4], labels), posterior_mean(model, data[0][:4], torch.arange(4)))


def test_one_label_for_all(model, data):
    vae, z = model.given(2), torch.randn(12, 3, generator=seeded(3))
    assert_close(vae.likelihood(z).mean, model.given([2] * 12).likelihood(z).mean)
    assert_close(vae.posterior(data[0]).mean, model.given(torch.full((12,), 2)).posterior(data[0]).mean)


def test_what_has_been_told_is_an_ordinary_model(model, data):
    vae = model.given(1)
    assert as_vae(vae) is vae and not is_conditional(vae)
    assert generate_samples(vae, 5).shape == (5, 16)
    assert interpolate(vae, data[0][0], data[0][1], 4).shape == (4, 16)
    assert evaluate(vae, data[0])["loss"] > 0


# Training and evaluation

@pytest.mark.parametrize("form", ["memory", "stream"])
def test_it_learns_what_the_label_says(form):
    """Images that are their label: what is told costs no code."""
    y = torch.arange(400) % 4
    x = torch.eye(4).repeat_interleave(4, 1)[y]
    data = (x, y) if form == "memory" else DataLoader(TensorDataset(x, y), batch_size=20, shuffle=True)
    model = make(image_shape=(1, 4, 4))
    before = evaluate(model, (x, y))["loss"]
    size = 20 if form == "memory" else None
    history = fit(model, data, (x, y), **(QUIET | {"epochs": 10}), lr=0.02, batch_size=size)
    assert history["test_loss"][-1] < 0.1 * before and history["test_kl"][-1] < 0.5
    assert_close(sample(model, range(4), 2).flatten(1), x[[0, 0, 1, 1, 2, 2, 3, 3]], atol=0.2, rtol=0)


def test_an_ordinary_model_sees_no_labels(data):
    models = []
    for given in (data, data[0]):
        torch.manual_seed(0)
        models.append(VAE(16, 8, 3))
        fit(models[-1], given, given, **QUIET)
    for a, b in zip(*(m.state_dict().values() for m in models)): assert torch.equal(a, b)
    assert conditioned(models[0], data[1]) is models[0]
    assert torch.equal(reconstruct(models[0], *data), reconstruct(models[0], data[0]))


@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian:scale=learned", "discretized-logistic"])
def test_likelihoods_and_configuration(likelihood, data, tmp_path, monkeypatch):
    monkeypatch.setitem(runs.MODELS, "ConditionalVAE", "vae_nbdev.conditional:ConditionalVAE")
    model = make(likelihood=likelihood)
    fit(model, data, **QUIET)
    again = load(save(model, tmp_path / "m.safetensors"))
    assert again.config == model.config and model.image_shape == again.image_shape == (1, 4, 4)
    assert torch.equal(sample(model, [0, 3], 2, seeded()), sample(again, [0, 3], 2, seeded()))


def test_forward_has_the_form_of_the_seed(model, data):
    recon_x, mu, log_var = model(*data)
    assert recon_x.shape == (12, 16) and mu.shape == log_var.shape == (12, 3)
    assert 0 <= recon_x.min() and recon_x.max() <= 1
    assert_close(mu, posterior_mean(model, *data))


def test_a_class_is_a_bias_of_its_own(model):
    """The first layers on rows with zeros and a one beside them."""
    x, z, y = torch.rand(5, 16), torch.randn(5, 3), torch.tensor([3, 0, 1, 1, 2])
    c = nn.functional.one_hot(y, 4).float()
    h = model.fc_encoder_hidden(torch.cat([x, c], 1)).relu()
    assert_close(model.given(y).posterior(x).mean, model.fc_mu(h))
    h = model.fc_decoder_hidden(torch.cat([z, c], 1)).relu()
    assert_close(model.given(y).decode_logits(z), model.fc_output(h))


@pytest.mark.parametrize("labels", [torch.rand(12, 5, generator=seeded(4)), torch.rand(12, 5, generator=seeded(4)).double()])
def test_a_condition_may_be_a_vector(labels, data):
    model = make(num_classes=None, cond_dim=5)
    fit(model, (data[0], labels), **QUIET)
    assert sample(model, labels[:3], 2).shape == (6, 1, 4, 4)
    assert make(num_classes=None, cond_dim=1).given(torch.rand(7)).condition.shape == (7, 1)


# Samples

def test_samples_come_label_by_label(model):
    images = sample(model, [2, 0], 700, seeded(1))
    z = torch.randn(700, 2, 3, generator=seeded(1)).transpose(0, 1).flatten(0, 1)
    assert_close(images, decode(model, z, [2] * 700 + [0] * 700))
    assert torch.equal(sample(model, 2, 3, seeded(1)), sample(model, [2], 3, seeded(1)))
    state = torch.get_rng_state()
    sample(model, 1, 2, seeded())
    assert torch.equal(state, torch.get_rng_state())


def test_the_prior_may_depend_on_the_label():
    class Model(OnlyLabel):
        def given(self, y):
            told = super().given(y)
            told.prior = diagonal_gaussian(y[:, None].float().expand(-1, 3), torch.full((len(y), 3), -20.0))
            told.likelihood = lambda z: bernoulli((20 * (z - 1.5)).repeat_interleave(2, -1), z.ndim - 1)
            return told
    images = sample(Model(), torch.tensor([1, 2]), 3)
    assert_close(images, torch.tensor([[0.0] * 6] * 3 + [[1.0] * 6] * 3), atol=1e-3, rtol=0)


# log p(x|y) of each class

def test_evidence_of_each_class_is_that_of_a_grid():
    torch.manual_seed(1)
    model = ConditionalVAE(6, 8, 1, num_classes=3)
    nn.init.normal_(model.fc_output.weight, std=0.5)
    x = torch.rand(5, 6, generator=seeded(2)).round()
    z = torch.linspace(-8, 8, 4001)[:, None]
    prior = torch.distributions.Normal(0, 1).log_prob(z)
    exact = []
    for k in range(3):
        logits = model.given(k).decode_logits(z).detach()
        joint = prior + torch.stack([bernoulli(logits).log_prob(row) for row in x], 1)
        exact.append((joint.logsumexp(0) + math.log(16 / 4000)))
    found = class_evidence(model, x, 20_000)
    assert_close(found, torch.stack(exact, 1), atol=0.02, rtol=0)
    assert torch.equal(found, class_evidence(model, (x, torch.tensor([9] * 5)), 20_000))


# One sentence

@pytest.mark.parametrize("labels, says", [
    (4, "labels must be from 0 to 3, as the model has num_classes = 4, not 4"), (-1, "from 0 to 3.* not -1"),
    ([0.5], "labels must be whole numbers.*float32"), (torch.eye(4).long(), "whole numbers.*argmax"), ([], "labels must"),
    (None, "labels must be given"), ("seven", "labels must be numbers, not 'seven'")])
def test_labels_that_are_none(labels, says, model):
    with pytest.raises(ValueError, match=says): model.given(labels)


@pytest.mark.parametrize("labels, says", [(torch.rand(3, 4), "labels must have cond_dim = 5"), (torch.rand(5), "cond_dim = 5"),
                                          (torch.full((2, 5), math.nan), "labels must hold finite numbers")])
def test_vectors_that_are_none(labels, says):
    with pytest.raises(ValueError, match=says): make(num_classes=None, cond_dim=5).given(labels)


@pytest.mark.parametrize("sizes", [{"num_classes": None}, {"cond_dim": 3}])
def test_one_kind_of_condition(sizes):
    with pytest.raises(ValueError, match="num_classes.*or cond_dim"): make(**sizes)


LABELLESS = {"fit": lambda m, x: fit(m, x, **QUIET), "evaluate": evaluate, "posterior_mean": posterior_mean, "reconstruct": reconstruct,
             "stream": lambda m, x: fit(m, DataLoader(TensorDataset(x), batch_size=4), **QUIET),
             "decode": lambda m, x: decode(m, torch.zeros(2, 3)), "samples": lambda m, x: generate_samples(m, 2),
             "negative_elbo": lambda m, x: negative_elbo(m, (x, None)), "as_vae": lambda m, x: as_vae(m)}


@pytest.mark.parametrize("name", LABELLESS)
def test_images_alone_are_not_enough(name, model, data):
    with pytest.raises(ValueError, match="labels must be given, one for each image, as ConditionalVAE is a conditional model"):
        LABELLESS[name](model, data[0])


@pytest.mark.parametrize("function", [posterior_mean, reconstruct])
def test_labels_are_as_many_as_images(function, model, data):
    with pytest.raises(ValueError, match="labels must have a row for each of 12 images"): function(model, data[0], data[1][:11])
    with pytest.raises(ValueError, match="labels must"): decode(model, torch.zeros(3, 3), [1, 2])
    with pytest.raises(ValueError, match="labels must be one for all, or one for each of 12"): model.given([1, 2]).posterior(data[0])


def test_a_bad_label_is_found_before_training(model, data):
    labels = data[1].clone()
    labels[-1] = 7
    before = [p.clone() for p in model.parameters()]
    with pytest.raises(ValueError, match="labels must be from 0 to 3.* not 7"): fit(model, (data[0], labels), **QUIET)
    assert all(map(torch.equal, before, model.parameters()))


def test_an_ordinary_model_cannot_be_asked_for_a_class():
    vae = VAE(16, 8, 3)
    with pytest.raises(ValueError, match="model must be conditional to be asked for a label, and VAE is not"): sample(vae, 7)
    with pytest.raises(ValueError, match="labels must be None, as VAE is no conditional model"): decode(vae, torch.zeros(1, 3), [7])
    with pytest.raises(ValueError, match="model must have num_classes to sum over, and VAE has none"):
        class_evidence(vae, torch.rand(2, 16))


def test_images_of_another_size(model):
    with pytest.raises(ValueError, match="16 numbers each, as in the model, not 25"): evaluate(model, (torch.rand(2, 25), [0, 1]))


def test_pictures_get_the_labels(model, data):
    from vae_nbdev.visualization import plot_latent_space, plot_reconstructions
    model.image_shape = (1, 4, 4)
    (dots,) = plot_latent_space(model, data).axes[0].collections[:1]
    assert len(dots.get_offsets()) == 12
    assert plot_reconstructions(model, data, 5).axes and plot_reconstructions(model.given(1), data[0], 5).axes
    with pytest.raises(ValueError, match="labels must be given"): plot_reconstructions(model, data[0])


# Estimators

def test_estimators_give_each_image_its_label(model, data):
    """As of the model that has been told the one label, image by image."""
    x, y = data[0][:3], data[1][:3]
    many = log_likelihood(model, (x, y), 3000, seed=1).log_px
    alone = torch.cat([log_likelihood(model.given(k), x[k:k + 1], 3000, seed=2).log_px for k in range(3)])
    assert_close(many, alone, atol=0.05, rtol=0)
    annealed = annealed_log_likelihood(model, (x, y), 64, 60, 3).log_px
    assert_close(annealed, alone, atol=0.1, rtol=0)
    gaps = inference_gaps(model, (x, y), 3000, 30)
    assert_close(gaps.log_px, alone, atol=0.05, rtol=0)


def test_the_row_says_what_was_given(model, data):
    row, plain = report(model, data, 20), report(model.given(1), data[0], 20)
    assert "of log p(x|y), the label given" in str(row) and "log p(x|y)" not in str(plain)
    assert row.protocol != plain.protocol


def test_what_latents_hold_is_asked_with_labels(model, data):
    x, y = data[0][:5], data[1][:5]
    found = latent_report(model, data, num_images=5)
    active, variance = active_units(model, x, labels=y)
    assert_close(found.variance, variance)
    assert_close(found.kl.sum().item(), negative_elbo(model, (x, y))["kl"].mean().item())
    assert found.information == information(model, (x, y))


@pytest.mark.parametrize("function", [log_likelihood, report, latent_report, information, inference_gaps, annealed_log_likelihood])
def test_estimators_ask_for_labels(function, model, data):
    with pytest.raises(ValueError, match="labels must be given"): function(model, data[0])

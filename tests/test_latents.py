"""Information, units, and precision and recall against closed forms and by hand."""
import math

import pytest
import torch
from torch import nn
from torch.distributions import Independent, MultivariateNormal, Normal, kl_divergence

from vae_nbdev.latents import active_units, information, latent_report, precision_recall
from vae_nbdev.model import diagonal_gaussian


# Information

def gaussian_information(model, scale):
    """Exact information and marginal KL of `Scaled` on data of the model."""
    identity, zero = torch.eye(2).double(), torch.zeros(2).double()
    posterior = torch.linalg.inv(identity + model.W.mT @ model.W / 0.7**2)
    aggregate = identity - posterior + scale**2 * posterior
    known = 0.5 * (torch.logdet(aggregate) - torch.logdet(scale**2 * posterior))
    return known, kl_divergence(MultivariateNormal(zero, aggregate), MultivariateNormal(zero, identity))


@pytest.mark.parametrize("scale", [1.0, 2.0])
def test_information_of_a_linear_model(linear, monkeypatch, scale):
    model, _ = linear
    known, waste = gaussian_information(model, scale)
    monkeypatch.setattr(model, "scale", scale)
    torch.manual_seed(5)
    x = model.likelihood(torch.randn(1500, 2).double()).sample()
    i = information(model, x)
    assert i.included < i.left_out and abs(i.included - known) < 0.2 and abs(i.left_out - known) < 0.2
    assert abs(i.rate - known - waste) < 0.2 and i.limit == pytest.approx(math.log(1500))
    low, high = i.marginal_kl
    assert low < high and abs(low - waste) < 0.25


def test_information_by_hand():
    """Three images whose codes are far apart: included gives log N, the other side is out of all bounds."""
    class Far(nn.Module):
        prior = diagonal_gaussian(torch.zeros(1), torch.zeros(1))
        def posterior(self, x): return diagonal_gaussian(10 * x, torch.zeros(len(x), 1) - 2)
        def likelihood(self, z): return Independent(Normal(z, 1.0), 1)
    i = information(Far(), torch.tensor([[0.0], [1.0], [2.0]]))
    assert i.included == pytest.approx(math.log(3)) and i.left_out > 100 and i.marginal_kl[0] < 0


def test_codes_that_ignore_the_image_carry_nothing():
    class Deaf(nn.Module):
        prior = diagonal_gaussian(torch.zeros(2), torch.zeros(2))
        def posterior(self, x): return diagonal_gaussian(torch.zeros(len(x), 2), torch.zeros(len(x), 2))
        def likelihood(self, z): return Independent(Normal(z, 1.0), 1)
    x = torch.randn(230, 2)  # more than one block, and not a whole number of them
    assert information(Deaf(), x)[:3] == pytest.approx((0, 0, 0), abs=1e-5)
    assert not active_units(Deaf(), x, 0)[0].any(), "above the threshold, not at it"
    r = latent_report(Deaf(), x)
    assert not r.active.any() and r.kl.sum() == 0 and str(r).startswith("0 of 2 units active; KL 0.00 nats")


def test_a_stranger_need_not_say_its_latent_dim(small):
    class Stranger(nn.Module):
        def __init__(self):
            super().__init__()
            self.vae = small[0]
        def encode(self, x): return self.vae.encode(x)
        def decode(self, z): return self.vae.decode(z)
    assert information(Stranger(), small[1]) == pytest.approx(information(*small), abs=1e-5)


class Encoder(nn.Module):
    """z is x, noisily, its second dimension a tenth of it and its third nothing."""
    prior = diagonal_gaussian(torch.zeros(3), torch.zeros(3))
    def posterior(self, x): return diagonal_gaussian(x * torch.tensor([1.0, 0.12, 0.08]), torch.tensor([-1.0, 0.0, 0.0]).expand(len(x), 3))
    def likelihood(self, z): return Independent(Normal(z, 1.0), 1)


def test_latent_report():
    x = torch.randn(3000, 3, generator=torch.Generator().manual_seed(0))
    r = latent_report(Encoder(), (x, None), num_images=1000)
    x = x[:1000]
    torch.testing.assert_close(r.variance, (x * torch.tensor([1.0, 0.12, 0.08])).var(0, correction=0))
    assert r.active.tolist() == [True, True, False]
    mean, log_var = Encoder().posterior(x).mean, torch.tensor([-1.0, 0, 0])
    torch.testing.assert_close(r.kl, 0.5 * (mean**2 + log_var.exp() - 1 - log_var).mean(0))
    assert r.information.limit == pytest.approx(math.log(1000)) and "2 of 3 units active" in str(r)
    assert latent_report(Encoder(), x, threshold=0.5).active.tolist() == [True, False, False]
    assert active_units(Encoder(), x, 0)[0].all()


# Samples

def test_precision_and_recall():
    torch.manual_seed(0)
    real = torch.randn(200, 3)
    assert precision_recall(real, real) == (1, 1)
    assert precision_recall(real, real + 100) == (0, 0)
    precision, recall = precision_recall(real, 0.05 * torch.randn(200, 3))
    assert precision > 0.95 and recall < 0.1
    assert precision_recall(0.05 * torch.randn(200, 3), real)[1] > 0.95
    line = torch.arange(5.0)[:, None]  # by hand, k = 1: all of these have radius 1, of the samples 1, 1, 0.5 and 0.5
    samples = torch.tensor([[4.5], [5.5], [-1.0], [-1.5]])
    assert precision_recall(line, samples, k=1) == (2 / 4, 1 / 5)


def test_evaluation_leaves_the_model_and_the_noise_alone(small):
    model, x = small
    model.train()
    before = torch.get_rng_state()
    information(model, x)
    latent_report(model, x)
    assert model.training and (torch.get_rng_state() == before).all() and all(p.grad is None for p in model.parameters())


# Bad input

@pytest.mark.parametrize("call, message", [
    (lambda m, x: information(m, x[:1]), "data must hold two images or more"),
    (lambda m, x: latent_report(m, x, num_images=0), "num_images must be"),
    (lambda m, x: active_units(m, x, threshold=-1), "threshold must be a variance, 0 or more, not -1"),
    (lambda m, x: active_units(m, x, threshold=math.nan), "threshold must be a variance"),
    (lambda m, x: precision_recall(x, x, k=0), "k must be"),
    (lambda m, x: precision_recall(x, x[:3]), "real and fake must hold more than k = 3 rows, not 12, 3"),
])
def test_bad_input_gets_a_sentence(small, call, message):
    with pytest.raises(ValueError, match=message) as caught: call(*small)
    assert "\n" not in str(caught.value)


def test_a_posterior_that_has_no_units(linear):
    with pytest.raises(ValueError, match="independent Gaussians for a KL of each unit, not MultivariateNormal"):
        latent_report(*linear)

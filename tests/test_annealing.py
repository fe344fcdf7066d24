"""Transitions, weights and brackets of annealed importance sampling against a model that knows log p(x)."""
import math

import pytest
import torch
from torch import nn
from torch.distributions import MultivariateNormal

from vae_nbdev.annealing import anneal, annealed_log_likelihood, bidirectional, hamiltonian, temperatures, tempered
from vae_nbdev.data import StreamLoader
from vae_nbdev.model import VAE


def test_path_of_temperatures():
    path = temperatures(50)
    assert len(path) == 51 and path[0] == 0 and path[-1] == 1
    steps = torch.tensor(path).diff()
    assert (steps > 0).all() and steps[0] < steps[25] / 5 and abs(steps[0] - steps[-1]) < 1e-6
    assert temperatures(1) == [0, 1]


def test_tempered_density_and_gradient(linear):
    model, x = linear
    z = torch.randn(30, 2).double()
    density, slope, likelihood = tempered(model, x, z, 0.3)
    torch.testing.assert_close(likelihood, model.likelihood(z).log_prob(x))
    torch.testing.assert_close(density, model.prior.log_prob(z) + 0.3 * likelihood)
    residual = x - z @ model.W.mT - model.b
    torch.testing.assert_close(slope, -z + 0.3 * residual @ model.W / 0.7**2)


def test_transition_leaves_its_distribution_as_it_is():
    """From a standard normal, with a step that is refused now and then; with all moves taken, the variance would grow."""
    z = torch.randn(20_000, 2, generator=torch.Generator().manual_seed(0)).double()
    target = lambda z, beta: (-0.5 * z.square().sum(1), -z, z[:, 0])
    torch.manual_seed(0)
    for step in (0.3, 1.6):
        moved, value, accept = hamiltonian(target, z, 1.0, torch.full((20_000, 1), step).double(), 3)
        assert abs(moved.square().mean() - 1) < 0.03 and (value == moved[:, 0]).all() and (moved != z).any(1).double().mean() > 0.5
        assert accept.min() >= 0 and accept.max() <= 1
        assert abs(((moved != z).any(1).double() - accept).mean()) < 0.02
    assert accept.mean() < 0.95


def test_energy_is_kept_to_second_order():
    z = torch.randn(2000, 2, generator=torch.Generator().manual_seed(0)).double()
    target = lambda z, beta: (-0.5 * z.square().sum(1), -z, z[:, 0])
    refused = []
    for step in (0.4, 0.2):
        torch.manual_seed(0)
        refused.append(1 - hamiltonian(target, z, 1.0, torch.full((2000, 1), step).double(), 5)[2].mean())
    assert refused[1] < refused[0] / 2.5


def test_a_flight_to_infinity_is_refused():
    target = lambda z, beta: (torch.full_like(z[:, 0], math.nan), z * math.inf, z[:, 0])
    z = torch.ones(5, 2)
    moved, _, accept = hamiltonian(target, z, 1.0, torch.ones(5, 1), 2)
    assert (moved == z).all() and (accept == 0).all()


def test_annealing_is_unbiased(linear, monkeypatch):
    model, x = linear
    monkeypatch.setattr(model, "scale", 0.01)  # a q that is of no use
    e = annealed_log_likelihood(model, x, num_chains=8, num_steps=40, leapfrog=4)
    ratio = (e.log_px - model.log_prob(x)).exp()
    assert abs(ratio.mean() - 1) < 4 * ratio.std() / math.sqrt(30) < 0.5
    assert ((e.log_px - model.log_prob(x)) / e.standard_error).abs().median() < 1.5
    assert (e.bound <= e.log_px).all() and e.effective.max() <= 8


def test_more_temperatures_are_better(linear):
    model, x = linear
    off = [(annealed_log_likelihood(model, x, 4, T, 4).bound - model.log_prob(x)).mean() for T in (1, 10, 60)]
    assert off[0] < off[1] < off[2] < 0.1


def test_one_step_is_sampling_from_the_prior(linear):
    model, x = linear
    e = annealed_log_likelihood(model, x, num_chains=3000, num_steps=1, leapfrog=1)
    deviation = (e.log_px - model.log_prob(x)) / e.standard_error
    assert deviation.abs().median() < 1.5


def test_step_sizes_adapt_and_are_then_fixed(linear):
    model, x = linear
    target, path = lambda z, beta: tempered(model, x.repeat_interleave(4, 0), z, beta), temperatures(60)
    z = torch.randn(120, 2).double()
    _, sizes = anneal(target, z, path, 4, 4)
    assert len(sizes) == 59 and sizes[0].shape == (30, 1) and sizes[-1].mean() < sizes[10].mean()
    _, used = anneal(target, z, path, 4, 4, sizes)
    assert all((a == b).all() for a, b in zip(sizes, used))
    rate = hamiltonian(target, MultivariateNormal(model.posterior(x).mean, model.posterior(x).covariance_matrix).sample().repeat_interleave(4, 0),
                       1.0, sizes[-1].repeat_interleave(4, 0), 4)[2].mean()
    assert 0.4 < rate < 0.95


def test_bracket_holds_the_truth(linear):
    model, _ = linear
    wide, narrow = (bidirectional(model, 60, 4, T, 4) for T in (5, 60))
    for b in (wide, narrow):
        truth = model.log_prob(b.images)
        assert (b.lower - truth).mean() < 0.1 and (b.upper - truth).mean() > -0.1
    assert (narrow.upper - narrow.lower).mean() < 0.6 < (wide.upper - wide.lower).mean()
    assert b.images.shape == (60, 6)
    spread = torch.cov(bidirectional(model, 3000, 1, 1, 1).images.mT)
    torch.testing.assert_close(spread, model.W @ model.W.mT + 0.49 * torch.eye(6).double(), atol=0.5, rtol=0.15)


@pytest.mark.parametrize("call", [annealed_log_likelihood, lambda model, x, **kw: bidirectional(model, 2, **kw)])
def test_likelihood_without_a_gradient(small, call):
    class Detached(VAE):
        def decode_logits(self, z): return super().decode_logits(z.detach())
    with pytest.raises(ValueError, match="model must have a likelihood with a gradient in z"):
        call(Detached(16, 8, 3), small[1], num_steps=3)


def test_a_constant_likelihood_is_smooth(small):
    model, x = small
    for p in model.fc_decoder_hidden.parameters(): nn.init.zeros_(p)
    e = annealed_log_likelihood(model, x, 2, 5, 2)
    torch.testing.assert_close(e.log_px, model.likelihood(torch.zeros(12, 3)).log_prob(x).double().detach(), atol=1e-3, rtol=0)


def test_evaluation_leaves_the_model_and_the_noise_alone(small):
    model, x = small
    model.train()
    before = torch.get_rng_state()
    annealed_log_likelihood(model, x, 2, 3, 2)
    bidirectional(model, 2, 2, 3, 2)
    assert model.training and (torch.get_rng_state() == before).all() and all(p.grad is None for p in model.parameters())


def test_batches_of_any_kind(small):
    model, x = small
    e = annealed_log_likelihood(model, StreamLoader([(x[:5], None), (x[5:], None)]), 3, 4, 2)
    assert all(part.shape == (12,) for part in e) and e.log_px.dtype == torch.float64
    first = annealed_log_likelihood(model, x[:5], 3, 4, 2)
    torch.testing.assert_close(first.log_px, e.log_px[:5])
    in_parts = annealed_log_likelihood(model, x, 3, 4, 2, batch_size=5)
    torch.testing.assert_close(in_parts.log_px[:5], e.log_px[:5])


# Bad input

@pytest.mark.parametrize("call, message", [
    (lambda m, x: annealed_log_likelihood(m, x, num_chains=0), "num_chains must be"),
    (lambda m, x: annealed_log_likelihood(m, x, num_steps=0), "num_steps must be"),
    (lambda m, x: annealed_log_likelihood(m, x, leapfrog=1.5), "leapfrog must be"),
    (lambda m, x: bidirectional(m, 0), "num_images must be"),
    (lambda m, x: bidirectional(m, num_steps=-1), "num_steps must be"),
])
def test_bad_input_gets_a_sentence(small, call, message):
    with pytest.raises(ValueError, match=message) as caught: call(*small)
    assert "\n" not in str(caught.value)

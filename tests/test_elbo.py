"The linear-Gaussian oracle against torch.distributions, and the ELBO against the identity it must obey."
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributions import MultivariateNormal, kl_divergence

from vae_nbdev.elbo import (
    expected_log_likelihood,
    gaussian_elbo,
    gaussian_kl,
    ppca_log_evidence,
    ppca_maximum_likelihood,
    ppca_posterior,
)

F64 = torch.float64


def covariances(rng, *batch, dim, diagonal=False):
    A = torch.randn(*batch, dim, dim, generator=rng, dtype=F64)
    cov = A @ A.mT + 0.1 * torch.eye(dim, dtype=F64)
    return cov * torch.eye(dim, dtype=F64) if diagonal else cov


def problem(seed, data_dim=6, latent_dim=3, num=7):
    "A random model, observations that it could have made, and a random q for each."
    rng = torch.Generator().manual_seed(seed)
    randn = lambda *shape: torch.randn(*shape, generator=rng, dtype=F64)
    W, b, sigma = randn(data_dim, latent_dim), randn(data_dim), 0.2 + randn(()).abs().item()
    x = randn(num, latent_dim) @ W.mT + b + sigma * randn(num, data_dim)
    return rng, (x, W, b, sigma), randn(num, latent_dim)


seeds = st.integers(0, 2**31)
dims = st.integers(1, 6)
properties = settings(max_examples=25, deadline=None)


@properties
@given(seeds, dims, dims)
def test_log_evidence_is_that_of_the_marginal_gaussian(seed, data_dim, latent_dim):
    _, (x, W, b, sigma), _ = problem(seed, data_dim, latent_dim)
    marginal = MultivariateNormal(b, W @ W.mT + sigma**2 * torch.eye(data_dim, dtype=F64))
    torch.testing.assert_close(ppca_log_evidence(x, W, b, sigma), marginal.log_prob(x), rtol=1e-9, atol=1e-9)


def test_posterior_is_the_conditional_of_the_joint_gaussian():
    _, (x, W, b, sigma), _ = problem(0)
    C = W @ W.mT + sigma**2 * torch.eye(len(b), dtype=F64)  # the joint's blocks: I, W.T and C
    gain = W.mT @ torch.linalg.inv(C)
    mean, cov = ppca_posterior(x, W, b, sigma)
    torch.testing.assert_close(mean, (x - b) @ gain.mT)
    torch.testing.assert_close(cov, torch.eye(3, dtype=F64) - gain @ W)


@properties
@given(seeds, dims)
def test_gaussian_kl_agrees_with_torch(seed, dim):
    rng = torch.Generator().manual_seed(seed)
    mu = torch.randn(2, 5, dim, generator=rng, dtype=F64)
    cov0, cov1 = covariances(rng, 5, dim=dim), covariances(rng, dim=dim)  # a batch against one
    kl = gaussian_kl(mu[0], cov0, mu[1], cov1)
    expected = kl_divergence(MultivariateNormal(mu[0], cov0), MultivariateNormal(mu[1], cov1))
    torch.testing.assert_close(kl, expected, rtol=1e-8, atol=1e-8)
    assert kl.shape == (5,) and (kl > 0).all()
    assert gaussian_kl(mu[0], cov0, mu[0], cov0).abs().max() < 1e-10


@properties
@given(seeds, dims, dims, st.booleans(), st.booleans())
def test_evidence_is_elbo_plus_kl_to_the_posterior(seed, data_dim, latent_dim, diagonal, shared):
    rng, model, mu = problem(seed, data_dim, latent_dim)
    cov = covariances(rng, *([] if shared else [len(mu)]), dim=latent_dim, diagonal=diagonal)
    elbo, gap = gaussian_elbo(*model, mu, cov), gaussian_kl(mu, cov, *ppca_posterior(*model))
    evidence = ppca_log_evidence(*model)
    assert elbo.shape == gap.shape == evidence.shape == (len(mu),)
    assert (gap > 0).all() and (elbo < evidence).all()
    assert ((elbo + gap - evidence).abs() <= 1e-11 * (1 + elbo.abs())).all()


@properties
@given(seeds, dims, dims)
def test_bound_is_tight_at_the_posterior_and_stationary(seed, data_dim, latent_dim):
    _, model, _ = problem(seed, data_dim, latent_dim)
    mean, cov = (t.requires_grad_() for t in ppca_posterior(*model))
    elbo = gaussian_elbo(*model, mean, cov)
    torch.testing.assert_close(elbo.detach(), ppca_log_evidence(*model), rtol=1e-9, atol=1e-9)
    grads = torch.autograd.grad(elbo.sum(), (mean, cov))
    assert max(g.abs().max() for g in grads) < 1e-6


def test_elbo_and_its_reconstruction_term_agree_with_monte_carlo():
    rng, (x, W, b, sigma), mu = problem(3)
    cov, num = covariances(rng, len(mu), dim=3), 30_000
    eps = torch.randn(num, *mu.shape, generator=rng, dtype=F64)
    z = mu + (torch.linalg.cholesky(cov) @ eps[..., None])[..., 0]  # (K, B, Z)
    log_likelihood = torch.distributions.Normal(z @ W.mT + b, sigma).log_prob(x).sum(-1)
    log_prior = torch.distributions.Normal(0.0, 1.0).log_prob(z).sum(-1)
    log_w = log_likelihood + log_prior - MultivariateNormal(mu, cov).log_prob(z)
    for draws, exact in ((log_likelihood, expected_log_likelihood), (log_w, gaussian_elbo)):
        error = draws.mean(0) - exact(x, W, b, sigma, mu, cov)
        assert (error.abs() < 4.5 * draws.std(0) / math.sqrt(num)).all()


def test_evidence_survives_float32_where_the_full_covariance_does_not():
    rng, (x, W, b, _), _ = problem(5, data_dim=200, latent_dim=10)
    x = x[:, :10] @ W.mT + b  # on the decoder's plane: residuals of rounding size, as after a good fit
    x = x + 1e-3 * torch.randn(x.shape, generator=rng, dtype=F64)
    C = (W @ W.mT + 1e-6 * torch.eye(200, dtype=F64)).float()
    assert torch.linalg.cholesky_ex(C)[1] > 0
    single = ppca_log_evidence(x.float(), W.float(), b.float(), 1e-3)
    torch.testing.assert_close(single.double(), ppca_log_evidence(x, W, b, 1e-3), rtol=1e-2, atol=0)


@properties
@given(seeds)
def test_maximum_likelihood_is_a_maximum(seed):
    rng, (x, *_), _ = problem(seed, num=40)
    params = [p.requires_grad_() for p in ppca_maximum_likelihood(x, latent_dim=2)]
    best = ppca_log_evidence(x, *params).mean()
    assert max(g.abs().max() for g in torch.autograd.grad(best, params)) < 1e-6
    W, b, sigma = (p.detach() for p in params)
    off_diagonal = (W.mT @ W)[0, 1].abs()
    assert off_diagonal < 1e-9 and W[:, 0].norm() >= W[:, 1].norm()
    for _ in range(5):
        step = [0.05 * torch.randn(p.shape, generator=rng, dtype=F64) for p in (W, b)]
        assert ppca_log_evidence(x, W + step[0], b + step[1], sigma).mean() < best


_, (X, W, B, SIGMA), MU = problem(1)
EYE = torch.eye(3, dtype=F64)
NOT_POSITIVE = torch.tensor([[1, 2, 0], [2, 1, 0], [0, 0, 1]], dtype=F64)


@pytest.mark.parametrize("call, sentence", [
    (lambda: ppca_log_evidence(X[0], W, B, SIGMA), r"x must be \(B, D\)"),
    (lambda: ppca_posterior(X[:, :5], W, B, SIGMA), r"not \(7, 5\), \(6, 3\) and \(6,\)"),
    (lambda: ppca_log_evidence(X, W, B[:1], SIGMA), r"b \(D,\), not"),
    (lambda: ppca_log_evidence(X.float(), W, B, SIGMA), "must have one dtype, not torch.float32"),
    (lambda: ppca_log_evidence(X, W, B, 0.0), r"sigma must be one positive number, not 0\.0"),
    (lambda: ppca_log_evidence(X, W, B, -1.0), r"sigma must be one positive number, not -1\.0"),
    (lambda: ppca_posterior(X, W, B, float("nan")), "sigma must be one positive number, not nan"),
    (lambda: gaussian_elbo(X, W, B, torch.ones(6), MU, EYE), "sigma must be one positive number"),
    (lambda: gaussian_elbo(X, W, B, SIGMA, MU[:2], EYE), r"mu must be \(7, 3\).* not \(2, 3\)"),
    (lambda: gaussian_elbo(X, W, B, SIGMA, MU, torch.ones(7, 3, dtype=F64)), r"cov \(3, 3\) or \(7, 3, 3\), not"),
    (lambda: gaussian_elbo(X, W, B, SIGMA, MU, NOT_POSITIVE), "^cov must be positive definite; .* eigenvalue is -1"),
    (lambda: gaussian_kl(MU, EYE, MU, NOT_POSITIVE), "cov1 must be positive definite"),
    (lambda: gaussian_kl(MU, EYE.triu() + EYE.roll(1, 0).triu(), MU, EYE), "cov0 must be a finite, symmetric matrix"),
    (lambda: gaussian_kl(MU, EYE * float("nan"), MU, EYE), "cov0 must be a finite, symmetric matrix"),
    (lambda: gaussian_kl(MU, EYE, MU[:, :2], EYE), r"must be \(\.\.\., Z\).*\(7, 2\)"),
    (lambda: ppca_maximum_likelihood(X, 6), "latent_dim from 1 to D - 1, not .* and 6"),
    (lambda: ppca_maximum_likelihood(X, 0), "latent_dim from 1 to D - 1, not .* and 0"),
    (lambda: ppca_maximum_likelihood(X[:3], 2), "no variance left outside 2 dimensions"),
])
def test_bad_input_gets_one_sentence(call, sentence):
    with pytest.raises(ValueError, match=sentence) as caught:
        call()
    assert "\n" not in str(caught.value)

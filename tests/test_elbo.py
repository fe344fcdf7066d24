"The linear-Gaussian oracle against torch.distributions, and the ELBO against the identity it must obey."
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributions import Bernoulli, Independent, MultivariateNormal, Normal, kl_divergence

from vae_nbdev.elbo import (
    PPCA,
    elbo_terms,
    expected_log_likelihood,
    gaussian_elbo,
    gaussian_kl,
    noise_from,
    ppca_log_evidence,
    ppca_maximum_likelihood,
    ppca_posterior,
    principal_components,
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



def test_maximum_likelihood_of_equal_variances_has_no_directions():
    "Their mean may exceed them by a rounding error, and a square root must not see the difference."
    axes = torch.cat([torch.eye(7, dtype=F64), -torch.eye(7, dtype=F64)])
    for scale in torch.linspace(0.5, 2, 50).tolist():
        for latent_dim in (2, 4):
            W, b, sigma = ppca_maximum_likelihood(scale * axes, latent_dim)
            assert W.abs().max() < 1e-7 and b.abs().max() == 0
            assert math.isclose(sigma, scale / math.sqrt(7))


def test_maximum_likelihood_of_small_numbers_is_that_of_large_ones():
    _, (x, *_), _ = problem(2, num=40)
    for small, large in zip(ppca_maximum_likelihood(1e-12 * x, 2), ppca_maximum_likelihood(x, 2)):
        torch.testing.assert_close(1e12 * small, large)


# principal components

@properties
@given(st.integers(1, 12), dims, seeds)
def test_principal_components_are_those_of_a_singular_value_decomposition(n, dim, seed):
    rng = torch.Generator().manual_seed(seed)
    x = 3 + torch.randn(n, dim, generator=rng, dtype=F64) * torch.arange(1, dim + 1)
    axes, variance = principal_components(x)
    centred = x - x.mean(0)
    expected = torch.zeros(dim, dtype=F64)
    singular = torch.linalg.svdvals(centred)
    expected[:len(singular)] = singular.square() / n
    assert axes.shape == (dim, dim) and variance.shape == (dim,) and (variance >= 0).all()
    torch.testing.assert_close(axes.mT @ axes, torch.eye(dim, dtype=F64))
    torch.testing.assert_close(variance, expected, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close((centred @ axes).square().mean(0), variance, rtol=1e-9, atol=1e-12)
    assert (axes.gather(0, axes.abs().argmax(0, keepdim=True)) > 0).all()  # the sign
    for k in range(1, dim + 1):
        first, all_of_them = principal_components(x, k)
        assert torch.equal(first, axes[:, :k]) and torch.equal(all_of_them, variance)


def test_principal_components_keep_the_dtype_and_span_the_plane_of_the_data():
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(50, 2, generator=rng) @ torch.randn(2, 7, generator=rng) + 10
    axes, variance = principal_components(x, 2)
    assert axes.dtype == variance.dtype == torch.float32
    torch.testing.assert_close((x - x.mean(0)) @ axes @ axes.mT, x - x.mean(0), rtol=0, atol=1e-4)


# noise from a generator

def draws(num=5):
    return Normal(0.0, 1.0).rsample((num,))


def test_noise_from_leaves_the_global_state_and_repeats_the_generator():
    torch.manual_seed(7)
    expected = draws(), draws()
    torch.manual_seed(8)
    before, generator = torch.get_rng_state(), torch.Generator().manual_seed(7)
    with noise_from(generator): first = draws()
    assert torch.equal(torch.get_rng_state(), before)
    with noise_from(generator): second = draws()  # the state has moved on
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first, expected[0]) and torch.equal(second, expected[1])
    with noise_from(torch.Generator().manual_seed(7)): assert torch.equal(draws(), first)


def test_noise_from_none_is_the_global_generator():
    torch.manual_seed(7)
    expected = draws(), draws()
    for generator in (None, torch.default_generator):
        torch.manual_seed(7)
        with noise_from(generator): first = draws()
        assert torch.equal(first, expected[0]) and torch.equal(draws(), expected[1])


def test_noise_from_gives_the_global_state_back_after_an_error():
    before, generator = torch.get_rng_state(), torch.Generator().manual_seed(7)
    with pytest.raises(ZeroDivisionError), noise_from(generator):
        first = draws()
        1 / 0
    assert torch.equal(torch.get_rng_state(), before)
    with noise_from(generator): assert not torch.equal(draws(), first)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_noise_from_a_generator_of_a_gpu():
    before, generator = torch.cuda.get_rng_state(), torch.Generator("cuda").manual_seed(7)
    with noise_from(generator): first = torch.randn(5, device="cuda")
    assert torch.equal(torch.cuda.get_rng_state(), before)
    with noise_from(generator.manual_seed(7)): assert torch.equal(torch.randn(5, device="cuda"), first)


# the bound of any model

class Shifted(PPCA):
    "A posterior that is not the exact one."
    def posterior(self, x):
        q = super().posterior(x)
        return MultivariateNormal(q.mean + 0.3, 2 * q.covariance_matrix)


class SampledKL(PPCA):
    "The same prior as a class for which torch knows no divergence from a full Gaussian."
    prior = Independent(Normal(torch.zeros(3, dtype=F64), 1.0), 1)


class Coins(torch.nn.Module):
    "Four pixels in a square; one latent dimension decides how white they are."
    prior = Independent(Normal(torch.zeros(1, dtype=F64), 1.0), 1)

    def posterior(self, x):
        return Independent(Normal(x.flatten(1).mean(1, keepdim=True) - 0.3, 0.6), 1)

    def likelihood(self, z):
        return Independent(Bernoulli(logits=(1.5 * z)[..., None, None].expand(-1, 1, 2, 2)), 3)


def averaged(model, x, num=20_000, seed=0):
    "Mean of both terms over draws, and their standard errors, (2, B) each."
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad(): terms = elbo_terms(model, x.repeat(num, *[1] * (x.ndim - 1)), generator)
    terms = torch.stack(terms).view(2, num, len(x))
    return terms.mean(1), terms.std(1) / math.sqrt(num)


@pytest.mark.parametrize("kind", [PPCA, Shifted, SampledKL])
def test_terms_of_the_linear_model_average_to_the_exact_ones(kind):
    _, (x, W, b, sigma), _ = problem(11)
    model = kind(W, b, sigma)
    with torch.no_grad(): q = model.posterior(x)
    mu, cov = q.mean, q.covariance_matrix
    exact = torch.stack([-expected_log_likelihood(x, W, b, sigma, mu, cov),
                         gaussian_kl(mu, cov, torch.zeros_like(mu), torch.eye(3, dtype=F64))])
    mean, error = averaged(model, x)
    assert mean.shape == (2, len(x))
    assert ((mean - exact).abs() < 4.5 * error + 1e-10).all()
    total = -exact.sum(0)
    torch.testing.assert_close(total, gaussian_elbo(x, W, b, sigma, mu, cov))
    gap = gaussian_kl(mu, cov, *ppca_posterior(x, W, b, sigma))
    torch.testing.assert_close(total + gap, model.log_prob(x).detach())


def test_sampled_terms_at_the_posterior_are_the_evidence_in_every_draw():
    _, (x, *model), _ = problem(12)
    model = SampledKL(*model)
    for seed in range(3):
        with torch.no_grad(): terms = elbo_terms(model, x, torch.Generator().manual_seed(seed))
        torch.testing.assert_close(-sum(terms), model.log_prob(x).detach(), rtol=1e-10, atol=1e-10)


def test_gradients_of_the_terms_pass_through_the_draw():
    _, (x, *parameters), _ = problem(15)
    model = Shifted(*parameters)
    loss = lambda: sum(elbo_terms(model, x, torch.Generator().manual_seed(3))).mean()
    gradients, h = torch.autograd.grad(loss(), list(model.parameters())), 1e-6
    for p, gradient in zip(model.parameters(), gradients):
        start, values = p.detach().clone(), []
        direction = torch.randn(p.shape, generator=torch.Generator().manual_seed(4), dtype=F64)
        for step in (h, -h, 0):
            p.data.copy_(start + step * direction)
            values.append(loss().item())
        slope = torch.tensor((values[0] - values[1]) / (2 * h), dtype=F64)
        torch.testing.assert_close((gradient * direction).sum(), slope, rtol=1e-5, atol=1e-6)


def test_terms_of_a_bernoulli_model_average_to_integrals_on_a_grid():
    x = torch.tensor([[1.0, 1, 0, 1], [0, 0, 0, 1]], dtype=F64).view(2, 1, 2, 2)
    model, grid = Coins(), torch.linspace(-12, 12, 4001, dtype=F64)[:, None]
    q = model.posterior(x)
    log_q = Normal(q.mean, q.stddev).log_prob(grid[:, None])[..., 0]                   # (T, B)
    integral = lambda f: torch.trapezoid(log_q.exp() * f, grid, dim=0)                  # (T, B) -> (B,)
    log_likelihood = model.likelihood(grid).log_prob(x[:, None]).mT                     # (T, B)
    exact = torch.stack([-integral(log_likelihood), integral(log_q - model.prior.log_prob(grid)[:, None])])
    for observations in (x, x.flatten(1)):  # in the likelihood's shape, and in rows
        mean, error = averaged(model, observations)
        assert ((mean - exact).abs() < 4.5 * error + 1e-8).all()
    assert error[0].min() > 1e-4 and error[1].max() < 1e-12  # one term sampled, one in closed form


def test_terms_use_the_generator_alone():
    _, (x, *parameters), _ = problem(13)
    model = PPCA(*parameters)
    before = torch.get_rng_state()
    first, again, other = (elbo_terms(model, x, torch.Generator().manual_seed(s)) for s in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first[0], again[0]) and not torch.equal(first[0], other[0])
    elbo_terms(model, x)
    assert not torch.equal(torch.get_rng_state(), before)


def test_ppca_is_a_module_that_holds_its_own_parameters():
    _, (x, W, b, sigma), _ = problem(14)
    model = PPCA(W, b, sigma)
    assert {name: tuple(p.shape) for name, p in model.named_parameters()} == {"W": (6, 3), "b": (6,), "log_sigma": ()}
    kept = W.clone()
    with torch.no_grad(): model.W.zero_()
    assert torch.equal(W, kept)
    images = x.view(7, 1, 2, 3)
    single = PPCA(kept, b, sigma).float()
    torch.testing.assert_close(single.log_prob(images.float()).double(), ppca_log_evidence(x, kept, b, sigma), rtol=1e-3, atol=1e-3)
    assert single.prior.mean.dtype == single.posterior(images.float()).mean.dtype == torch.float32
    assert single.likelihood(torch.zeros(7, 3)).event_shape == (6,)


_, (X, W, B, SIGMA), MU = problem(1)
EYE = torch.eye(3, dtype=F64)
NOT_POSITIVE = torch.tensor([[1, 2, 0], [2, 1, 0], [0, 0, 1]], dtype=F64)


@pytest.mark.parametrize("call, sentence", [
    (lambda: ppca_log_evidence(X[0], W, B, SIGMA), r"x must be \(B, D\)"),
    (lambda: ppca_posterior(X[:, :5], W, B, SIGMA), r"not \(7, 5\), \(6, 3\) and \(6,\)"),
    (lambda: ppca_log_evidence(X, W, B[:1], SIGMA), r"b \(D,\), not"),
    (lambda: ppca_log_evidence(X, W[:, 0], B, SIGMA), r"W \(D, Z\) and b \(D,\), not \(7, 6\), \(6,\) and \(6,\)"),
    (lambda: ppca_log_evidence(X.float(), W, B, SIGMA), "must have one dtype, not torch.float32"),
    (lambda: ppca_log_evidence(X, W, B.float(), SIGMA), "must have one dtype, not .* and torch.float32"),
    (lambda: ppca_log_evidence(X, W, B, 0.0), r"sigma must be one positive number, not 0\.0"),
    (lambda: ppca_log_evidence(X, W, B, -1.0), r"sigma must be one positive number, not -1\.0"),
    (lambda: ppca_posterior(X, W, B, float("nan")), "sigma must be one positive number, not nan"),
    (lambda: ppca_posterior(X, W, B, math.inf), "sigma must be one positive number, not inf"),
    (lambda: gaussian_elbo(X, W, B, torch.ones(6), MU, EYE), "sigma must be one positive number"),
    (lambda: gaussian_elbo(X, W, B, SIGMA, MU[:2], EYE), r"mu must be \(7, 3\).* not \(2, 3\)"),
    (lambda: gaussian_elbo(X, W, B, SIGMA, MU, torch.ones(7, 3, dtype=F64)), r"cov \(3, 3\) or \(7, 3, 3\), not"),
    (lambda: gaussian_elbo(X, W, B, SIGMA, MU, EYE[None]), r"cov \(3, 3\) or \(7, 3, 3\), not .* and \(1, 3, 3\)"),
    (lambda: gaussian_elbo(X, W, B, SIGMA, MU, NOT_POSITIVE), "^cov must be positive definite; .* eigenvalue is -1"),
    (lambda: gaussian_kl(MU, EYE, MU, NOT_POSITIVE), "cov1 must be positive definite"),
    (lambda: gaussian_kl(MU, EYE.triu() + EYE.roll(1, 0).triu(), MU, EYE), "cov0 must be a finite, symmetric matrix"),
    (lambda: gaussian_kl(MU, 1e-9 * (EYE + EYE.roll(1, 0)), MU, EYE), "cov0 must be a finite, symmetric matrix"),
    (lambda: gaussian_kl(MU[:2], torch.stack([EYE, NOT_POSITIVE]), MU[:2], EYE), "cov0 must be positive definite; .* eigenvalue is -1"),
    (lambda: gaussian_kl(MU, EYE * float("nan"), MU, EYE), "cov0 must be a finite, symmetric matrix"),
    (lambda: gaussian_kl(MU, EYE, MU[:, :2], EYE), r"must be \(\.\.\., Z\).*\(7, 2\)"),
    (lambda: gaussian_kl(MU, EYE[:2, :2], MU, EYE), r"must be \(\.\.\., Z\).*not \(7, 3\), \(2, 2\)"),
    (lambda: gaussian_kl(MU, EYE, MU, EYE[:2, :2]), r"must be \(\.\.\., Z\).*\(7, 3\), \(2, 2\)$"),
    (lambda: ppca_maximum_likelihood(X, 6), "latent_dim from 1 to D - 1, not .* and 6"),
    (lambda: ppca_maximum_likelihood(X, 0), "latent_dim from 1 to D - 1, not .* and 0"),
    (lambda: ppca_maximum_likelihood(X[:3], 2), "no variance left outside 2 dimensions"),
    (lambda: principal_components(X[0]), r"x must be \(N, D\), .* not \(6,\)"),
    (lambda: principal_components(X[:0]), r"with no dimension 0, not \(0, 6\)"),
    (lambda: principal_components(X.log()), "x must hold finite numbers alone"),
    (lambda: ppca_maximum_likelihood(X / 0, 2), "x must hold finite numbers alone"),
    (lambda: principal_components(X, 0), "k must be from 1 to D = 6, not 0"),
    (lambda: principal_components(X, 7), "k must be from 1 to D = 6, not 7"),
    (lambda: PPCA(W, B, 0.0), "sigma must be one positive number, not 0"),
    (lambda: PPCA(W, B[:2], 1.0), r"b \(D,\), not"),
])
def test_bad_input_gets_one_sentence(call, sentence):
    with pytest.raises(ValueError, match=sentence) as caught:
        call()
    assert "\n" not in str(caught.value)

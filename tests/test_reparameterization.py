"Sampling with gradients: the seed's bits, torch.distributions, closed-form gradients and variances as oracles."
import re

import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch.distributions import Normal
from torch.testing import assert_close

from vae_nbdev.elbo import noise_from
from vae_nbdev.reparameterization import pathwise_gradient, reparameterize, score_function_gradient

ESTIMATORS = [pathwise_gradient, score_function_gradient]
F64 = torch.float64
MU = torch.tensor([0.3, -1.2, 2.0, 0.0], dtype=F64)
LOG_VAR = torch.tensor([-1.5, 0.0, 0.4, -0.3], dtype=F64)
C = torch.tensor([1.0, -1.0, 0.5, 0.0], dtype=F64)
W = torch.tensor([0.5, -0.3, 0.2, 0.4], dtype=F64)


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def square(z):
    return (z - C).square().sum(-1)


def exponential(z):
    return (z @ W).exp()


def exact(f):
    "Closed-form gradients (mu, log_var), stacked: E ||z - c||^2 and E exp(w z) are known for a Gaussian."
    sigma2 = LOG_VAR.exp()
    if f is square:
        return torch.stack([2 * (MU - C), sigma2])
    mean = (W @ MU + 0.5 * (W.square() * sigma2).sum()).exp()
    return mean * torch.stack([W, 0.5 * W.square() * sigma2])


def standard_errors(samples, truth):
    "How many standard errors the mean over samples (the last dimension but one) is from the truth."
    return ((samples.mean(-2) - truth) / (samples.std(-2) / samples.shape[-2] ** 0.5)).abs().max()


shapes = st.lists(st.integers(0, 7), min_size=0, max_size=4).map(tuple)
dtypes = st.sampled_from([torch.float16, torch.bfloat16, torch.float32, torch.float64])


@settings(deadline=None, max_examples=60)
@given(shape=shapes, dtype=dtypes, transposed=st.booleans(), seed=st.integers(0, 2**31))
def test_same_bits_as_randn_like(shape, dtype, transposed, seed):
    mu = torch.randn(shape, generator=seeded(seed), dtype=dtype)
    log_var = torch.randn(shape, generator=seeded(seed + 1), dtype=dtype)
    if transposed:
        mu, log_var = mu.movedim(0, -1) if shape else mu, log_var.movedim(0, -1) if shape else log_var
    torch.manual_seed(seed)
    std = torch.exp(0.5 * log_var)
    expected = mu + torch.randn_like(std) * std  # the line of the seed notebook
    after = torch.get_rng_state()
    torch.manual_seed(seed)
    z = reparameterize(mu, log_var)
    assert torch.equal(z, expected) and z.dtype == dtype and z.shape == mu.shape
    assert torch.equal(torch.get_rng_state(), after)


@settings(deadline=None, max_examples=30)
@given(shape=shapes, dtype=dtypes, seed=st.integers(0, 2**31))
def test_generator_decides_alone(shape, dtype, seed):
    mu, log_var = torch.zeros(shape, dtype=dtype), torch.full(shape, 0.5, dtype=dtype)
    before = torch.get_rng_state()
    generator = seeded(seed)
    first, following = reparameterize(mu, log_var, generator), reparameterize(mu, log_var, generator)
    assert torch.equal(first, reparameterize(mu, log_var, generator=seeded(seed)))
    assert torch.equal(torch.get_rng_state(), before)
    if mu.numel() > 8:
        assert not torch.equal(first, following)


def test_value_and_gradients_agree_with_rsample():
    inputs = [torch.randn(6, 4, generator=seeded(s), dtype=F64).requires_grad_() for s in (0, 1)]
    results = []
    for draw in (reparameterize, lambda mu, log_var: Normal(mu, log_var.mul(0.5).exp()).rsample()):
        torch.manual_seed(5)
        z = draw(*inputs)
        results.append((z, *torch.autograd.grad((z.sin() * z.square()).sum(), inputs)))
    assert_close(*results)


def test_one_generator_serves_reparameterize_and_rsample():
    mu, log_var = (torch.randn(6, 4, generator=seeded(s)) for s in (0, 1))
    ours, theirs = seeded(5), seeded(5)
    for _ in range(2):
        with noise_from(theirs): z = Normal(mu, log_var.mul(0.5).exp()).rsample()
        assert_close(reparameterize(mu, log_var, ours), z)
    assert torch.equal(ours.get_state(), theirs.get_state())


def test_gradients_agree_with_finite_differences():
    inputs = [torch.randn(3, 2, generator=seeded(s), dtype=F64).requires_grad_() for s in (2, 3)]
    assert torch.autograd.gradcheck(lambda mu, log_var: reparameterize(mu, log_var, seeded(4)), inputs)


@pytest.mark.parametrize("mu, log_var", [(0.0, 0.0), (3.0, -8.0), (-2.0, 4.0)])
def test_law(mu, log_var):
    N = 50_000
    z = reparameterize(torch.full((N,), mu, dtype=F64), torch.full((N,), log_var, dtype=F64), seeded(1))
    u = Normal(mu, torch.tensor(0.5 * log_var, dtype=F64).exp()).cdf(z.sort().values)
    steps = torch.arange(N + 1, dtype=F64) / N
    assert torch.maximum(steps[1:] - u, u - steps[:-1]).max() < 1.95 / N**0.5  # one in a thousand


def test_extreme_log_var_stays_finite():
    log_var = torch.tensor([-160.0, -110.0, 100.0, 170.0], requires_grad=True)
    z = reparameterize(torch.zeros(4), log_var, seeded(0))
    gradient, = torch.autograd.grad(z.sum(), log_var)
    assert z.isfinite().all() and gradient.isfinite().all() and (gradient != 0).all()


@pytest.mark.parametrize("f", [square, exponential])
@pytest.mark.parametrize("estimator, options", [
    (pathwise_gradient, {}),
    (score_function_gradient, {}),
    (score_function_gradient, {"baseline": 2.5}),
    (score_function_gradient, {"baseline": torch.tensor([1.0, 5.0, -3.0, 8.0], dtype=F64)}),
])
def test_unbiased(estimator, options, f):
    samples = torch.stack(estimator(f, MU, LOG_VAR, 200_000, generator=seeded(11), **options))
    assert samples.shape == (2, 200_000, 4) and samples.dtype == F64
    assert standard_errors(samples, exact(f)) < 5


def test_pathwise_is_backward_through_reparameterize():
    leaves = [p.clone().requires_grad_() for p in (MU, LOG_VAR)]
    rows = [p.expand(7, -1) for p in leaves]
    expected = torch.autograd.grad(square(reparameterize(*rows, seeded(3))).sum(), leaves)
    assert_close([g.sum(0) for g in pathwise_gradient(square, MU, LOG_VAR, 7, seeded(3))], list(expected))


def test_score_function_is_value_times_gradient_of_log_prob():
    z = reparameterize(MU.expand(5, -1), LOG_VAR.expand(5, -1), seeded(3))
    leaves = [p.expand(5, -1).clone().requires_grad_() for p in (MU, LOG_VAR)]
    log_q = Normal(leaves[0], leaves[1].mul(0.5).exp()).log_prob(z).sum()
    expected = [(exponential(z) - 0.7)[:, None] * s for s in torch.autograd.grad(log_q, leaves)]
    assert_close(list(score_function_gradient(exponential, MU, LOG_VAR, 5, 0.7, seeded(3))), expected)
    plain = score_function_gradient(exponential, MU, LOG_VAR, 5, 0.0, seeded(3))
    assert_close(score_function_gradient(exponential, MU, LOG_VAR, 5, generator=seeded(3)), plain)  # by default there is no baseline


def test_variances_and_their_order():
    "Closed forms for f = ||z||^2 with mu = sigma = 1: 4 pathwise; 4Z^2 + 14Z + 12 plain; 6Z + 12 at b = E f; 6Z + 8 at best."
    for Z in (1, 16):
        mu = torch.ones(Z, dtype=F64)
        formulas = {None: 4, 0.0: 4 * Z**2 + 14 * Z + 12, 2.0 * Z: 6 * Z + 12, 2.0 * Z + 2: 6 * Z + 8}
        for b, formula in formulas.items():
            estimator, options = (pathwise_gradient, {}) if b is None else (score_function_gradient, {"baseline": b})
            g, _ = estimator(lambda z: z.square().sum(-1), mu, 0 * mu, 40_000, generator=seeded(21), **options)
            squares = (g - 2).square().mean(1, keepdim=True)
            assert standard_errors(squares, formula) < 5, (Z, b)


def test_score_function_sees_steps_that_pathwise_cannot():
    mu, log_var = torch.tensor([0.4], dtype=F64), torch.zeros(1, dtype=F64)
    step = lambda z: (z[:, 0] > 0).double()
    samples, _ = score_function_gradient(step, mu, log_var, 100_000, generator=seeded(2))
    assert standard_errors(samples, Normal(mu, 1.0).log_prob(torch.zeros(1)).exp()) < 5
    with pytest.raises(ValueError, match="f must be differentiable in z; .* score_function_gradient"):
        pathwise_gradient(step, mu, log_var, 10)


@settings(deadline=None, max_examples=30)
@given(S=st.integers(1, 6), Z=st.integers(1, 6), dtype=st.sampled_from([torch.float32, F64]),
       estimator=st.sampled_from(ESTIMATORS), grad=st.booleans(), enabled=st.booleans())
def test_estimator_shapes_and_no_side_effects(S, Z, dtype, estimator, grad, enabled):
    mu, log_var = (torch.zeros(Z, dtype=dtype, requires_grad=grad) for _ in range(2))
    before = torch.get_rng_state()
    with torch.set_grad_enabled(enabled):
        first, second = (estimator(lambda z: z.square().sum(-1), mu, log_var, S, generator=seeded(0)) for _ in range(2))
    for a, b in zip(first, second, strict=True):
        assert a.shape == (S, Z) and a.dtype == dtype and not a.requires_grad and torch.equal(a, b)
    assert torch.equal(torch.get_rng_state(), before)
    assert mu.grad is None and log_var.grad is None and mu.requires_grad == grad


@pytest.mark.parametrize("log_var", [torch.zeros(1, 3), torch.zeros(3), torch.zeros(2, 1), torch.tensor(0.0)])
def test_reparameterize_refuses_to_broadcast(log_var):
    shape = re.escape(str(tuple(log_var.shape)))
    with pytest.raises(ValueError, match=rf"^mu and log_var must have one shape, not \(2, 3\) and {shape}$"):
        reparameterize(torch.zeros(2, 3), log_var)


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("change, sentence", [
    ({"mu": torch.zeros(2, 3)}, r"mu and log_var must both have shape \(Z,\), not \(2, 3\) and \(3,\)"),
    ({"mu": torch.zeros(2, 3), "log_var": torch.zeros(2, 3)}, r"mu and log_var must both have shape \(Z,\), not \(2, 3\) and \(2, 3\)"),
    ({"log_var": torch.zeros(1)}, r"mu and log_var must both have shape \(Z,\), not \(3,\) and \(1,\)"),
    ({"num_samples": 0}, "num_samples must be at least 1, not 0"),
    ({"f": lambda z: z}, r"f must map samples \(5, 3\) to one value each, \(5,\), not \(5, 3\)"),
    ({"f": lambda z: z.sum()}, r"f must map samples \(5, 3\) to one value each, \(5,\), not \(\)"),
])
def test_estimators_say_what_is_wrong(estimator, change, sentence):
    arguments = {"f": lambda z: z.sum(-1), "mu": torch.zeros(3), "log_var": torch.zeros(3), "num_samples": 5} | change
    with pytest.raises(ValueError, match=f"^{sentence}$"):
        estimator(**arguments)


@pytest.mark.parametrize("size", [1, 5])
def test_baseline_of_a_wrong_shape_is_refused(size):
    with pytest.raises(ValueError, match=rf"^baseline must be a number or have shape \(3,\), not \({size},\)$"):
        score_function_gradient(lambda z: z.sum(-1), torch.zeros(3), torch.zeros(3), 5, baseline=torch.zeros(size))

"""Likelihoods of pixels: each sums or integrates to one, and each log-probability has an oracle of its own."""
import math
from fractions import Fraction

import pytest
import torch
from torch.distributions import Bernoulli, Categorical, Independent, Normal

from vae_nbdev.likelihoods import (BetaBinomial, BetaBinomialPixels, CategoricalPixels, ContinuousBernoulliPixels,
                                   Dequantized, DiscretizedLogistic, DiscretizedLogisticPixels, GaussianPixels,
                                   GreyCategorical, LogitContinuousBernoulli, cb_mean, cb_normalizer, cb_variance,
                                   dequantize, scale_above)
from vae_nbdev.model import VAE, decode, reconstruct
from vae_nbdev.runs import load, save
from vae_nbdev.training import evaluate, fit, negative_elbo
from vae_nbdev.visualization import generate_samples

SPECS = ["continuous-bernoulli", "gaussian:scale=0.1", "gaussian:scale=learned", "gaussian:scale=pixel",
         "discretized-logistic", "beta-binomial", "categorical:features=3", "categorical:levels=4"]
LOGITS = torch.tensor([-200.0, -40, -16, -3, -0.7, -0.51, -0.49, -0.01, -1e-4, 0, 1e-6, 0.02, 0.49, 0.51, 1, 17, 200])
close = torch.testing.assert_close


@pytest.fixture
def noise():
    return torch.Generator().manual_seed(0)


def levels_of(p):
    return torch.linspace(0, 1, p.levels, dtype=torch.float64).to(torch.float32)


def discrete(levels, noise):
    """Each distribution over levels, with five random pixels, narrow and wide."""
    a, b = torch.randn(2, 5, generator=noise)
    return [DiscretizedLogistic(a, (3 * b - 2).exp(), levels), BetaBinomial((2 * a).exp(), (2 * b).exp(), levels),
            GreyCategorical(torch.randn(5, levels, generator=noise))]


# every one is a distribution

@pytest.mark.parametrize("levels", [2, 3, 16, 256])
def test_probabilities_of_levels_sum_to_one(levels, noise):
    for p in discrete(levels, noise):
        total = p.log_prob(levels_of(p)[:, None]).double().exp().sum(0)
        close(total, torch.ones(5, dtype=torch.float64), rtol=0, atol=2e-5)


def test_densities_integrate_to_one():
    x = torch.linspace(0, 1, 400_001, dtype=torch.float64)[:, None]
    p = LogitContinuousBernoulli(logits=LOGITS.double(), validate_args=False)
    close(torch.trapezoid(p.log_prob(x).exp(), x, dim=0), torch.ones(len(LOGITS)).double(), rtol=1e-5, atol=0)
    line = torch.linspace(-9, 9, 100_001)
    for likelihood, extra in ((GaussianPixels(0.3), ()), (GaussianPixels(), ()), (GaussianPixels("pixel"), (-1.0,))):
        p = likelihood(torch.tensor(0.5), *map(torch.tensor, extra), batch_dims=0).base_dist
        close(torch.trapezoid(p.log_prob(line).exp(), line), torch.tensor(1.0), rtol=1e-4, atol=0)


# the continuous Bernoulli

def test_continuous_bernoulli_moments_are_integrals():
    x = torch.linspace(0, 1, 400_001, dtype=torch.float64)[:, None]
    weight = (LOGITS.double() * (x - (LOGITS.double() > 0).double())).exp()
    mean = torch.trapezoid(weight * x, x, dim=0) / torch.trapezoid(weight, x, dim=0)
    variance = torch.trapezoid(weight * (x - mean) ** 2, x, dim=0) / torch.trapezoid(weight, x, dim=0)
    for dtype, rtol in ((torch.float32, 1e-4), (torch.float64, 1e-5)):
        close(cb_mean(LOGITS.to(dtype)).double(), mean, rtol=rtol, atol=0)
        close(cb_variance(LOGITS.to(dtype)).double(), variance, rtol=10 * rtol, atol=0)


def test_continuous_bernoulli_normalizer_in_both_precisions_and_its_slope():
    wide = LOGITS.double().requires_grad_()
    exact = torch.where(wide == 0, 0.0, torch.log(torch.expm1(wide) / wide))
    exact = torch.where(LOGITS > 100, wide - wide.log(), exact.nan_to_num(0.0))
    close(cb_normalizer(wide), exact, rtol=1e-9, atol=1e-9)
    narrow = LOGITS.clone().requires_grad_()
    value = cb_normalizer(narrow)
    close(value.double(), exact, rtol=3e-7, atol=1e-7)
    slope, = torch.autograd.grad(value.sum(), narrow)
    close(slope, cb_mean(LOGITS), rtol=1e-5, atol=1e-6)


def test_continuous_bernoulli_has_no_ceiling():
    p = LogitContinuousBernoulli(logits=torch.tensor([-50.0, 50.0, 1e4]))
    close(p.log_prob(torch.tensor([0.0, 1.0, 1.0])), torch.tensor([50.0, 50.0, 1e4]).log(), rtol=0, atol=1e-3)


def test_continuous_bernoulli_samples(noise):
    torch.manual_seed(0)
    p = LogitContinuousBernoulli(logits=LOGITS, validate_args=False)
    x = p.sample((100_000,))
    assert ((x >= 0) & (x <= 1)).all() and not x.requires_grad
    assert ((x.mean(0) - p.mean) / (x.std(0) / len(x) ** 0.5)).abs().max() < 4.5
    close(x.var(0), p.variance, rtol=0.05, atol=0)
    share = torch.tensor([0.0, 1e-6, 0.3, 0.999, 1.0])[:, None].double()
    below = p.icdf(share.float()).double()
    ell = torch.where(LOGITS == 0, 1e-6, LOGITS).double()
    mass = torch.where(ell > 0, ((ell * (below - 1)).exp() - (-ell).exp()) / -torch.expm1(-ell),
                       torch.expm1(ell * below) / torch.expm1(ell))
    close(mass, share.expand_as(mass), rtol=1e-3, atol=2e-5)


# Gaussian

def test_gaussian_is_the_normal_of_its_scale():
    mean, log_sigma, x = torch.randn(3, 4, 6, generator=torch.Generator().manual_seed(1))
    fixed, learned, pixel = GaussianPixels(0.25), GaussianPixels("learned"), GaussianPixels("pixel", least=0.5)
    assert (fixed.outputs, learned.outputs, pixel.outputs) == (1, 1, 2)
    close(fixed(mean).log_prob(x), Normal(mean, 0.25).log_prob(x).sum(1))
    with torch.no_grad(): learned.tenth.fill_(math.log(0.7) / 10)
    sigma = (0.49 + (1 / 255) ** 2) ** 0.5
    close(learned(mean).log_prob(x), Normal(mean, sigma).log_prob(x).sum(1))
    sigma = (0.25 + (2 * log_sigma).exp()).sqrt()
    close(pixel(mean, log_sigma).log_prob(x), Normal(mean, sigma).log_prob(x).sum(1))
    assert len(list(learned.parameters())) == 1 and not list(pixel.parameters()) and not list(fixed.parameters())
    assert GaussianPixels().scale == "learned" and GaussianPixels().least == 1 / 255


def test_scale_has_a_least_value_and_a_gradient_there():
    log_scale = torch.tensor([-60.0, -3.0, 0.0, 5.0], requires_grad=True)
    scale = scale_above(log_scale, 0.1)
    close(scale, torch.tensor([0.1, math.hypot(0.1, math.exp(-3)), math.hypot(0.1, 1), math.hypot(0.1, math.exp(5))]))
    slope, = torch.autograd.grad(scale.sum(), log_scale)
    assert slope.isfinite().all() and (slope[1:] > 0).all()


def test_a_learned_scale_becomes_the_root_mean_squared_error(noise):
    """Pixels of pure noise: nothing to encode, and sigma is the noise's."""
    x = 0.5 + 0.1 * torch.randn(512, 12, generator=noise)
    torch.manual_seed(0)
    model = VAE(12, 8, 2, likelihood="gaussian:scale=learned")
    fit(model, x, epochs=40, batch_size=64, lr=1e-2, progress=False)
    assert abs(model.observation.log_sigma.exp().item() - 0.1) < 0.015


# grey levels

def test_logistic_levels_are_differences_of_sigmoids(noise):
    loc, scale = torch.rand(50, generator=noise).double(), torch.rand(50, generator=noise).double() * 0.3 + 0.02
    edges = ((torch.arange(257)[:, None].double() - 0.5) / 255 - loc) / scale
    edges[0], edges[-1] = -math.inf, math.inf
    exact = torch.where(edges[:-1] > 0, (-torch.sigmoid(-edges)).diff(dim=0), torch.sigmoid(edges).diff(dim=0))
    log_p = DiscretizedLogistic(loc, scale).log_prob(torch.linspace(0, 1, 256)[:, None].double())
    close(log_p, exact.log(), rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("loc, log_scale", [(0.0, -7.0), (0.5, -7.0), (1.0, -7.0), (-30.0, -1.0), (30.0, -6.0), (0.5, 8.0)])
def test_logistic_is_finite_in_float32_wherever_a_network_goes(loc, log_scale):
    raw = torch.tensor([[loc], [log_scale]], requires_grad=True)
    log_p = DiscretizedLogisticPixels()(*raw, batch_dims=0).base_dist.log_prob(torch.linspace(0, 1, 256))
    slope, = torch.autograd.grad(log_p.sum(), raw)
    assert log_p.isfinite().all() and slope.isfinite().all() and (log_p <= 0).all()
    wide = DiscretizedLogisticPixels()(*raw.double(), batch_dims=0).base_dist.log_prob(torch.linspace(0, 1, 256).double())
    close(log_p.double(), wide, rtol=1e-4, atol=1e-4)


def test_logistic_scale_has_a_least_value():
    log_p = DiscretizedLogisticPixels(least=0.01)(torch.tensor([0.5]), torch.tensor([-30.0]), batch_dims=0).base_dist
    close(log_p.scale, torch.tensor([0.01]))
    assert DiscretizedLogisticPixels().least == 1e-3


@pytest.mark.parametrize("a1, a0", [("1/3", "2"), ("1/1000000", "5"), ("700", "300"), ("1", "1")])
def test_beta_binomial_is_an_urn(a1, a0):
    a1, a0, n = Fraction(a1), Fraction(a0), 255
    rising = lambda a, times: math.prod(a + i for i in range(times))
    exact = [float(math.comb(n, k) * Fraction(rising(a1, k) * rising(a0, n - k), rising(a1 + a0, n))) for k in range(256)]
    log_p = BetaBinomial(torch.tensor(float(a1)), torch.tensor(float(a0))).log_prob(torch.linspace(0, 1, 256))
    assert log_p.dtype == torch.float32
    close(log_p, torch.tensor(exact, dtype=torch.float64).log().float(), rtol=1e-5, atol=2e-6)


def test_beta_binomial_of_raw_numbers(noise):
    raw = torch.randn(2, 7, generator=noise)
    p = BetaBinomialPixels(16)(*raw, batch_dims=1).base_dist
    white, black = torch.log1p(raw.exp())
    close(p.mean, white / (white + black))
    far = BetaBinomialPixels()(torch.tensor([-200.0, 200.0]), torch.tensor([200.0, -200.0]), batch_dims=0)
    assert far.log_prob(torch.tensor([0.0, 1.0])).isfinite() and far.log_prob(torch.tensor([1.0, 0.0])).isfinite()


def test_categorical_is_torchs(noise):
    logits = torch.randn(3, 4, 256, generator=noise)
    k = torch.randint(256, (3, 4), generator=noise)
    p = GreyCategorical(logits)
    close(p.log_prob(k / 255), Categorical(logits=logits).log_prob(k))
    close(p.mean, logits.softmax(-1) @ torch.linspace(0, 1, 256))


def test_categorical_features_become_logits_by_one_map_for_all_pixels(noise):
    likelihood, features = CategoricalPixels(16, features=3), torch.randn(3, 2, 5, generator=noise)
    assert likelihood.outputs == 3 and CategoricalPixels(16).outputs == 16 and CategoricalPixels().outputs == 256
    k = torch.randint(16, (2, 5), generator=noise)
    logits = features.movedim(0, -1) @ likelihood.to_logits.weight.T + likelihood.to_logits.bias
    close(likelihood(*features).log_prob(k / 15), Categorical(logits=logits).log_prob(k).sum(1))
    direct = torch.randn(16, 2, 5, generator=noise)
    close(CategoricalPixels(16)(*direct).log_prob(k / 15), Categorical(logits=direct.movedim(0, -1)).log_prob(k).sum(1))


def test_two_levels_are_a_coin(noise):
    logits, x = torch.randn(6, generator=noise), torch.tensor([0.0, 1, 1, 0, 1, 0])
    coin = Bernoulli(logits=logits).log_prob(x)
    close(GreyCategorical(torch.stack([torch.zeros(6), logits], 1)).log_prob(x), coin)
    close(BetaBinomial(3 * torch.sigmoid(logits), 3 * torch.sigmoid(-logits), 2).log_prob(x), coin)
    close(DiscretizedLogistic(0.5 + logits, torch.ones(6), 2).log_prob(x), coin)


@pytest.mark.parametrize("levels", [3, 256])
def test_moments_are_those_of_the_table_and_of_samples(levels, noise):
    torch.manual_seed(0)
    for p in discrete(levels, noise):
        x = levels_of(p)[:, None]
        P = p.log_prob(x).exp()
        mean = (P * x).sum(0)
        close(p.mean, mean, rtol=1e-4, atol=1e-5)
        close(p.variance, (P * (x - mean) ** 2).sum(0), rtol=1e-3, atol=1e-6)
        draws = p.sample((40_000,))
        assert draws.shape == (40_000, 5) and not draws.requires_grad
        p.check_values(draws)
        assert ((draws.mean(0) - mean) / (draws.std(0) / 200).clamp(min=1e-4)).abs().max() < 4.5
        close(draws.var(0), p.variance, rtol=0.1, atol=1e-4)


def test_each_level_is_drawn_as_often_as_it_is_probable(noise):
    torch.manual_seed(0)
    for p in discrete(4, noise):
        draws = p.sample((40_000,))
        seen = torch.stack([(draws == x).float().mean(0) for x in levels_of(p)])
        P = p.log_prob(levels_of(p)[:, None]).exp()
        assert ((seen - P) / (P * (1 - P) / 40_000).sqrt().clamp(min=1e-4)).abs().max() < 4.5


def test_log_prob_takes_the_nearest_level(noise):
    for p in discrete(256, noise):
        close(p.log_prob(torch.tensor(0.1 + 1e-4)), p.log_prob(torch.tensor(26 / 255)))


# values that a likelihood cannot have

def test_values_that_are_no_levels_are_named():
    p = BetaBinomial(torch.ones(1), torch.ones(1))
    p.check_values(torch.arange(256)[None] / 255, "images")
    with pytest.raises(ValueError, match=r"^images must hold multiples of 1/255, the 256 grey levels, not 0.3: were they "
                                         "averaged, resized or dequantized"):
        p.check_values(torch.tensor([[0.2, 0.3]]), "images")
    with pytest.raises(ValueError, match="finite values in .0, 1.*standardized"):
        p.check_values(torch.tensor([[-0.4, 1.0]]))
    with pytest.raises(ValueError, match="not 0.00392157: they are multiples of 1/255: say levels=256"):
        BetaBinomial(torch.ones(1), torch.ones(1), 16).check_values(torch.tensor([[0.0, 1 / 255]]))


@pytest.mark.parametrize("make, says", [
    (lambda: GaussianPixels("wide"), "scale must be a number above 0, 'learned' or 'pixel', not 'wide'"),
    (lambda: GaussianPixels(0), "scale must be a finite number above 0, not 0"),
    (lambda: GaussianPixels(True), "scale must be a finite number above 0, not True"),
    (lambda: GaussianPixels(math.inf), "scale must be a finite number above 0, not inf"),
    (lambda: GaussianPixels(None), "scale must be a finite number above 0, not None"),
    (lambda: GaussianPixels("pixel", least=-1), "least must be a finite number above 0, not -1"),
    (lambda: DiscretizedLogisticPixels(least=0), "least must be a finite number above 0, not 0"),
    (lambda: DiscretizedLogisticPixels(levels=1), "levels must be a whole number of at least 2, not 1"),
    (lambda: BetaBinomialPixels(2.5), "levels must be a whole number of at least 2, not 2.5"),
    (lambda: CategoricalPixels(1), "levels must be a whole number of at least 2, not 1"),
    (lambda: CategoricalPixels(features=0), "features must be a whole number of at least 1, not 0"),
    (lambda: Dequantized(1), "levels must be a whole number of at least 2, not 1")])
def test_parameters_that_make_no_sense(make, says):
    with pytest.raises(ValueError) as caught: make()
    assert str(caught.value) == says


def test_data_are_checked_before_training():
    with pytest.raises(ValueError, match="^train_data must hold multiples of 1/255"):
        fit(VAE(4, 4, 2, likelihood="beta-binomial"), torch.rand(8, 4), epochs=1, progress=False)
    with pytest.raises(ValueError, match="^data must hold finite values in"):
        evaluate(VAE(4, 4, 2, likelihood="continuous-bernoulli"), torch.randn(8, 4))
    evaluate(VAE(4, 4, 2, likelihood="gaussian:scale=learned"), torch.randn(8, 4))


# dequantization

@pytest.mark.parametrize("levels", [2, 256])
def test_dequantized_levels_fill_their_intervals(levels, noise):
    k = torch.randint(levels, (400, 50), generator=noise)
    torch.manual_seed(5)
    y, state = dequantize(k / (levels - 1), levels, noise), torch.get_rng_state()
    assert torch.equal((levels * y).floor().long(), k) and y.max() < 1
    u = levels * y.double() - k
    assert abs(u.mean() - 0.5) < 0.01 and abs(u.var() - 1 / 12) < 0.002
    torch.manual_seed(5)
    assert torch.equal(state, torch.get_rng_state())  # the global noise was not touched
    again = [dequantize(k / (levels - 1), levels, torch.Generator().manual_seed(3)) for _ in range(2)]
    assert torch.equal(*again) and not torch.equal(again[0], y)


def test_dequantize_refuses_what_has_been_dequantized():
    with pytest.raises(ValueError, match="^images must hold multiples of 1/255"): dequantize(dequantize(torch.ones(3, 4)))


def test_dequantized_objective_is_the_other_on_noisy_images_plus_a_constant():
    model, x = VAE(6, 5, 2, likelihood="gaussian:scale=0.2"), torch.randint(16, (9, 6)) / 15
    g = torch.Generator().manual_seed(1)
    noisy = dequantize(x, 16, g)
    plain = negative_elbo(model, (noisy, None), g)
    terms = Dequantized(16)(model, (x, None), torch.Generator().manual_seed(1))
    assert terms.keys() == plain.keys()
    for name, constant in (("loss", 6 * math.log(16)), ("reconstruction", 6 * math.log(16)), ("kl", 0)):
        close(terms[name], plain[name] + constant)
    other = Dequantized(16, objective=lambda model, batch, generator: {"loss": batch[0].sum(1), "labels": batch[1]})
    y = torch.arange(9.0)
    terms = other(model, (x, y), torch.Generator().manual_seed(1))
    close(terms["loss"], noisy.sum(1) + 6 * math.log(16))
    assert torch.equal(terms["labels"], y) and Dequantized().levels == 256


@pytest.mark.parametrize("spec", ["continuous-bernoulli", "gaussian:scale=0.3"])
def test_dequantized_loss_bounds_the_probability_of_the_level(spec):
    """One pixel, four levels, a model that ignores z: the probability is an integral over the level's interval."""
    torch.manual_seed(2)
    model = VAE(1, 3, 1, likelihood=spec)
    with torch.no_grad():
        model.fc_output.weight.zero_()
        for layer in (model.fc_mu, model.fc_log_var): layer.weight.zero_(), layer.bias.zero_()
    y = torch.linspace(0, 1, 4001).reshape(-1, 1)
    density = model.likelihood(torch.zeros(4001, 1)).log_prob(y).exp()
    for k in range(4):
        part = slice(1000 * k, 1000 * k + 1001)
        exact = -torch.trapezoid(density[part], y[part, 0]).log().item()
        loss = Dequantized(4)(model, (torch.full((20_000, 1), k / 3), None))["loss"]
        slack, error = loss.mean().item() - exact, loss.std().item() / 20_000 ** 0.5
        assert -4 * error - 1e-5 < slack < 0.3


# in the house

@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("batch", [(), (3,), (2, 3)])
def test_likelihoods_have_batch_and_event(spec, batch):
    model = VAE(12, 5, 2, (3, 2, 2), likelihood=spec)
    p = model.likelihood(torch.randn(*batch, 2))
    assert isinstance(p, Independent) and p.batch_shape == batch and p.event_shape == (3, 2, 2)
    x = p.sample()
    assert x.shape == p.mean.shape == (*batch, 3, 2, 2) and p.log_prob(x).shape == batch
    assert p.sample((4,)).shape == (4, *batch, 3, 2, 2)


@pytest.mark.parametrize("spec", SPECS)
def test_models_train_save_and_draw(spec, tmp_path, noise):
    steps = 3 if "levels=4" in spec else 255
    x = torch.randint(steps + 1, (64, 1), generator=noise).expand(64, 9).reshape(64, 1, 3, 3) / steps  # flat pictures
    torch.manual_seed(0)
    model = VAE(9, 16, 2, likelihood=spec)
    before = evaluate(model, x)["loss"]
    history = fit(model, x, epochs=15, batch_size=16, lr=1e-2, progress=False)
    assert history["train_loss"][-1] < before - 1
    assert all(torch.isfinite(p).all() for p in model.parameters())
    terms = evaluate(model, x, passes=2)
    assert math.isclose(terms["loss"], terms["reconstruction"] + terms["kl"], rel_tol=1e-4, abs_tol=1e-3)
    save(model, tmp_path / "model.pt")
    again = load(tmp_path / "model.pt")
    assert again.likelihood_name == spec and evaluate(again, x) == evaluate(model, x)
    assert reconstruct(model, x).shape == x.shape
    z = torch.randn(5, 2)
    with torch.no_grad(): mean = model.likelihood(z).mean
    close(decode(model, z), mean)
    assert generate_samples(model, 4).shape == (4, 1, 3, 3)

"""Objectives: exact where the truth is known, unbiased where they say so, and one sentence for what they cannot do."""
import math
import pickle
from itertools import combinations

import numpy as np
import pytest
import torch
from torch import nn
from torch.distributions import (AffineTransform, Categorical, Independent, Laplace, MixtureSameFamily, MultivariateNormal, Normal,
                                 StudentT, TanhTransform, TransformedDistribution, kl_divergence)
from torch.testing import assert_close

from vae_nbdev.elbo import PPCA, noise_from
from vae_nbdev.fast import path_gradient
from vae_nbdev.model import VAE, bernoulli, diagonal_gaussian
from vae_nbdev.objectives import BetaTC, BetaVAE, Cyclic, FreeBits, ImportanceWeighted, Schedule, WarmUp, draw, path_log_prob
from vae_nbdev.training import evaluate, find_objective, fit, negative_elbo

ALL = [BetaVAE(2.0), WarmUp(0.5, beta=2.0), Cyclic(beta=2.0), FreeBits(0.3), FreeBits(1.0, groups=2, over="image"), BetaTC(40, 3.0),
       ImportanceWeighted(3), ImportanceWeighted(3, "stl"), ImportanceWeighted(3, "dreg")]
OWN = {FreeBits: {"floored_kl"}, BetaTC: {"mutual_information", "total_correlation", "dimension_kl"}, ImportanceWeighted: {"gain"}}
name_of = lambda objective: repr(objective)


def seeded(seed=0): return torch.Generator().manual_seed(seed)


@pytest.fixture
def model():
    torch.manual_seed(0)
    return VAE(input_dim=16, hidden_dim=8, latent_dim=3).double()


@pytest.fixture
def batch():
    return torch.rand(6, 1, 4, 4, generator=seeded(1)).double().round(), None


@pytest.fixture
def linear():
    W = torch.randn(5, 2, generator=seeded(2)).double()
    return PPCA(W, torch.zeros(5).double(), 0.8), torch.randn(7, 5, generator=seeded(3)).double()


class Given(nn.Module):
    "Posteriors that are given, one row for each image or chosen by its first pixel; a decoder that any z suits alike."
    def __init__(self, mu, log_var, q=None, by_number=False):
        super().__init__()
        self.mu, self.log_var = nn.Parameter(mu), nn.Parameter(log_var)
        self.prior = diagonal_gaussian(torch.zeros_like(mu[0]), torch.zeros_like(mu[0]))
        self.q, self.by_number = q, by_number

    def posterior(self, x):
        if self.q: return self.q(self)
        rows = x[:, 0].long() if self.by_number else torch.arange(len(x))
        return diagonal_gaussian(self.mu[rows], self.log_var[rows])

    def likelihood(self, z): return bernoulli(z.new_zeros(len(z), 4))


@pytest.fixture
def given():
    mu = torch.tensor([[0.1, 2.0, 0.0, 0.5], [-0.2, 0.5, 1.0, 0.0], [0.1, -1.0, 0.2, 0.4]]).double()
    return Given(mu, 0.3 * torch.randn(3, 4, generator=seeded(4)).double()), (torch.ones(3, 4).double(), None)


# What all have in common

@pytest.mark.parametrize("objective", ALL, ids=name_of)
def test_terms_are_named_and_of_each_image(objective, model, batch):
    terms = objective(model, batch, seeded())
    assert set(terms) == {"loss", "reconstruction", "kl"} | OWN.get(type(objective), set())
    assert {tuple(t.shape) for t in terms.values()} == {(6,)}
    assert all(t.isfinite().all() for t in terms.values())


@pytest.mark.parametrize("objective", ALL, ids=name_of)
def test_the_generator_is_the_only_source_of_noise(objective, model, batch):
    before = torch.get_rng_state()
    first, second = (objective(model, batch, seeded(5)) for _ in range(2))
    assert torch.equal(before, torch.get_rng_state())
    for name in first: assert torch.equal(first[name], second[name])
    torch.manual_seed(5)
    for name, value in objective(model, batch).items(): assert_close(value, first[name])
    assert not torch.equal(objective(model, batch, seeded(6))["loss"], first["loss"])


@pytest.mark.parametrize("objective", ALL, ids=name_of)
def test_every_parameter_of_the_model_gets_a_gradient(objective, model, batch):
    objective(model, batch, seeded())["loss"].sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() and p.grad.any() for p in model.parameters())


@pytest.mark.parametrize("objective", ALL, ids=name_of)
def test_fit_and_evaluate_take_it(objective):
    torch.manual_seed(0)
    model, images = VAE(16, 8, 3), torch.rand(40, 1, 4, 4, generator=seeded(1)).round()
    history = fit(model, images, images, epochs=8, batch_size=8, lr=0.01, objective=objective, progress=False, device="cpu")
    assert history["train_reconstruction"][-1] + history["train_kl"][-1] < history["train_reconstruction"][0] + history["train_kl"][0]
    told = evaluate(model, images, objective=objective)
    assert_close(told["loss"], history["test_loss"][-1])


@pytest.mark.parametrize("objective", ALL, ids=name_of)
def test_a_stranger_with_encoder_and_decoder_will_do(objective, model, batch):
    class Stranger(nn.Module):
        def __init__(self, vae):
            super().__init__()
            self.encode, self.decode, self.vae, self.latent_dim = vae.encode, vae.decode, vae, 3
    for name, value in objective(Stranger(model), batch, seeded()).items():
        assert_close(value, objective(model, batch, seeded())[name])


@pytest.mark.parametrize("objective", ALL, ids=name_of)
def test_objectives_are_values(objective):
    assert pickle.loads(pickle.dumps(objective)) == objective == eval(repr(objective)) and hash(objective) == hash(eval(repr(objective)))
    with pytest.raises(AttributeError): objective.beta = 1.0


@pytest.mark.parametrize("text, wanted", [("beta-vae:beta=2", BetaVAE(2)), ("warm-up:share=0.5", WarmUp(0.5)), ("cyclic:cycles=2", Cyclic(2)),
    ("free-bits:nats=1,groups=1,over=image", FreeBits(1, 1, "image")), ("beta-tc:data_size=9", BetaTC(9)), ("iwae", ImportanceWeighted()),
    ("iwae:num_samples=3,gradient=dreg", ImportanceWeighted(3, "dreg"))])
def test_each_has_a_name(text, wanted):
    assert find_objective(text) == wanted


@pytest.mark.parametrize("make, message", [
    (lambda: BetaVAE(-0.1), "beta must be a finite number, 0 or more, not -0.1"),
    (lambda: BetaVAE(math.inf), "beta must be a finite number, 0 or more, not inf"),
    (lambda: BetaVAE(math.nan), "beta must be a finite number, 0 or more, not nan"),
    (lambda: BetaVAE("4"), "beta must be a finite number, 0 or more, not '4'"),
    (lambda: BetaVAE(True), "beta must be a finite number, 0 or more, not True"),
    (lambda: WarmUp(0), "share must be above 0 and at most 1, not 0"),
    (lambda: WarmUp(1.01), "share must be above 0 and at most 1, not 1.01"),
    (lambda: WarmUp(0.5, beta=-1), "beta must be a finite number, 0 or more, not -1"),
    (lambda: Cyclic(0), "cycles must be a whole number"),
    (lambda: Cyclic(2, share=2), "share must be above 0 and at most 1, not 2"),
    (lambda: Cyclic(beta=None), "beta must be a finite number, 0 or more, not None"),
    (lambda: FreeBits(-1), "nats must be a finite number, 0 or more, not -1"),
    (lambda: FreeBits(groups=0), "groups must be a whole number"),
    (lambda: FreeBits(over="batches"), "over must be 'batch' or 'image', not 'batches'"),
    (lambda: BetaTC(0), "data_size must be a whole number"),
    (lambda: BetaTC(10, -2), "beta must be a finite number, 0 or more, not -2"),
    (lambda: ImportanceWeighted(0), "num_samples must be a whole number"),
    (lambda: ImportanceWeighted(2.5), "num_samples must be a whole number"),
    (lambda: ImportanceWeighted(2, "iwae"), "gradient must be 'plain', 'stl' or 'dreg', not 'iwae'"),
])
def test_parameters_out_of_range(make, message):
    with pytest.raises(ValueError) as error: make()
    assert message in str(error.value) and "\n" not in str(error.value)


def test_the_ends_of_the_ranges_are_allowed():
    assert BetaVAE(0).beta == 0 and WarmUp(1).share == 1 and FreeBits(0).nats == 0 and ImportanceWeighted(1).num_samples == 1
    assert BetaVAE(np.float32(2)) == BetaVAE(2.0)


# The weight of the KL, and its schedules

def test_beta_weighs_the_kl_alone(model, batch):
    elbo = negative_elbo(model, batch, seeded())
    for beta in (0, 1, 2.5):
        terms = BetaVAE(beta)(model, batch, seeded())
        assert_close(terms["loss"], elbo["reconstruction"] + beta * elbo["kl"])
        assert torch.equal(terms["reconstruction"], elbo["reconstruction"]) and torch.equal(terms["kl"], elbo["kl"])


def test_warm_up_is_a_straight_line_and_then_flat():
    schedule = WarmUp(0.4, beta=3.0)
    assert [schedule.at(s) for s in (0.1, 0.2, 0.4, 0.7, 0.999)] == [BetaVAE(b) for b in (0.75, 1.5, 3.0, 3.0, 3.0)]
    assert schedule.at(1e-9).beta < 1e-6


def test_cycles_repeat_the_warm_up():
    schedule, one = Cyclic(4, 0.5, beta=2.0), WarmUp(0.5, beta=2.0)
    for s in np.linspace(0.001, 0.249, 50):
        for cycle in range(4): assert_close(schedule.at(s + cycle / 4).beta, one.at(4 * s).beta, rtol=0, atol=1e-9)
    assert Cyclic(1, 0.3).at(0.12) == WarmUp(0.3).at(0.12)


@pytest.mark.parametrize("schedule", [WarmUp(0.5, beta=2.0), Cyclic(2, 0.5, beta=2.0)], ids=name_of)
def test_a_schedule_itself_has_the_full_weight(schedule, model, batch):
    for name, value in BetaVAE(2.0)(model, batch, seeded()).items(): assert torch.equal(value, schedule(model, batch, seeded())[name])


def test_fit_follows_a_schedule_of_the_readers_own(model):
    asked = []
    class Mine(Schedule):
        beta = 2.0
        def fraction(self, share): return asked.append(share) or share
    history = fit(model, torch.rand(8, 16).round(), epochs=2, batch_size=4, objective=Mine(), progress=False, device="cpu")
    assert asked == [0.125, 0.375, 0.625, 0.875]
    weight = (history["train_loss"][0] - history["train_reconstruction"][0]) / history["train_kl"][0]
    assert 2 * 0.125 < weight < 2 * 0.375


# Free bits

@pytest.mark.parametrize("nats", [0.0, 0.1, 0.5, 5.0])
def test_the_floor_is_under_the_mean_of_the_batch(given, nats):
    model, batch = given
    q = model.posterior(batch[0])
    kl = kl_divergence(q.base_dist, model.prior.base_dist)  # (3, 4)
    terms = FreeBits(nats)(model, batch, seeded())
    assert_close(terms["floored_kl"].mean(), kl.mean(0).clamp_min(nats).sum())
    assert_close(terms["kl"], kl.sum(1))
    assert_close(terms["loss"], terms["reconstruction"] + terms["floored_kl"])
    single = FreeBits(nats, over="image")(model, batch, seeded())
    assert_close(single["floored_kl"], kl.clamp_min(nats).sum(1))


def test_without_free_nats_it_is_the_elbo(model, batch):
    for objective in (FreeBits(0), FreeBits(0, 1), FreeBits(0, 2), FreeBits(0, over="image")):
        assert_close(objective(model, batch, seeded())["loss"], negative_elbo(model, batch, seeded())["loss"])


def test_a_dimension_below_the_floor_gets_no_gradient_and_the_others_their_own(given):
    model, batch = given
    means = kl_divergence(model.posterior(batch[0]).base_dist, model.prior.base_dist).mean(0)
    floor = means.sort().values[1:3].mean().item()  # two below, two above
    FreeBits(floor)(model, batch, seeded())["loss"].sum().backward()
    above = means > floor
    assert above.sum() == 2 and not model.mu.grad[:, ~above].any() and not model.log_var.grad[:, ~above].any()
    assert_close(model.mu.grad[:, above], model.mu[:, above].detach())


def test_groups_share_their_nats(given):
    model, batch = given
    kl = kl_divergence(model.posterior(batch[0]).base_dist, model.prior.base_dist)
    for groups, parts in ((1, [kl]), (2, [kl[:, :2], kl[:, 2:]]), (3, [kl[:, :2], kl[:, 2:3], kl[:, 3:]]), (4, kl.split(1, 1))):
        wanted = sum(part.sum(1).mean().clamp_min(0.7) for part in parts)
        terms = FreeBits(0.7, groups)(model, batch)
        assert_close(terms["floored_kl"].mean(), wanted)
        assert_close(terms["kl"], kl.sum(1))
    with pytest.raises(ValueError, match="groups must be at most latent_dim = 4, not 5"): FreeBits(0.7, 5)(model, batch)


def test_one_floor_under_a_kl_that_does_not_come_apart(linear):
    model, x = linear
    kl = kl_divergence(model.posterior(x), model.prior)
    for nats in (kl.mean().item() - 0.1, kl.mean().item() + 0.1):
        assert_close(FreeBits(nats, groups=1)(model, (x, None))["floored_kl"].mean(), kl.mean().clamp_min(nats))


def test_a_kl_that_torch_does_not_know_is_sampled():
    mu, log_scale = torch.tensor([[0.5, -1.0]]).double().expand(20_000, 2).clone(), torch.zeros(20_000, 2).double()
    model = Given(mu, log_scale, q=lambda m: Independent(StudentT(8.0, m.mu, m.log_var.exp()), 1))
    z = torch.linspace(-200, 200, 400_001).double()[:, None]
    q, p = StudentT(8.0, mu[0], 1.0), Normal(torch.zeros(2).double(), 1.0)
    exact = (q.log_prob(z).exp() * (q.log_prob(z) - p.log_prob(z))).sum() * 1e-3
    for objective in (FreeBits(0.0), FreeBits(0.0, groups=1)):
        kl = objective(model, (torch.ones(20_000, 4).double(), None), seeded(1))["kl"]
        assert kl.std() > 0.1 and abs(kl.mean() - exact) < 4 * kl.std() / 20_000**0.5


@pytest.mark.parametrize("objective, name", [(FreeBits(), "FreeBits"), (FreeBits(groups=2), "FreeBits"), (BetaTC(7), "BetaTC")])
def test_who_needs_independent_coordinates_says_so(objective, name, linear):
    model, x = linear
    with pytest.raises(ValueError) as error: objective(model, (x, None))
    assert str(error.value) == (f"{name} needs a prior and a posterior whose coordinates are independent (torch's Independent around, "
                                "say, a Normal), not MultivariateNormal")


@pytest.mark.parametrize("objective", [FreeBits(), BetaTC(3)])
def test_a_prior_with_dependent_coordinates_is_refused(objective, given):
    model, batch = given
    model.prior = MultivariateNormal(torch.zeros(4).double(), torch.eye(4).double())
    with pytest.raises(ValueError, match="independent"): objective(model, batch)


# Total correlation

def test_the_parts_of_the_kl_sum_to_the_sampled_kl(given):
    model, batch = given
    terms = BetaTC(50, 4.0)(model, batch, seeded(7))
    sampled = ImportanceWeighted(1)(model, batch, seeded(7))["kl"]
    assert_close(terms["mutual_information"] + terms["total_correlation"] + terms["dimension_kl"], sampled)
    assert_close(terms["kl"], kl_divergence(model.posterior(batch[0]), model.prior))
    for beta in (0, 1, 6):
        told = BetaTC(50, beta)(model, batch, seeded(7))
        assert_close(told["loss"], terms["reconstruction"] + terms["kl"] + (beta - 1) * terms["total_correlation"])


def test_a_batch_of_all_data_gives_the_aggregate_posterior(given):
    model, batch = given
    q, z, *_ = draw(model, batch[0], 1, seeded(8))
    mixture = MixtureSameFamily(Categorical(torch.ones(3).double()), model.posterior(batch[0]))
    marginals = [MixtureSameFamily(Categorical(torch.ones(3).double()), Normal(q.mean[:, j], q.stddev[:, j])) for j in range(4)]
    terms = BetaTC(3)(model, batch, seeded(8))
    joint, product = mixture.log_prob(z[0]), sum(m.log_prob(z[0, :, j]) for j, m in enumerate(marginals))
    assert_close(terms["mutual_information"], q.log_prob(z[0]) - joint)
    assert_close(terms["total_correlation"], joint - product)
    assert_close(terms["dimension_kl"], product - model.prior.log_prob(z[0]))


def test_the_density_from_a_part_of_the_data_is_right_on_average():
    mu = torch.randn(5, 2, generator=seeded(9)).double()
    model = Given(mu, torch.full((5, 2), -0.5).double(), by_number=True)
    def density(rows):
        x = torch.tensor(rows).double()[:, None].expand(-1, 4)
        q, z, *_ = draw(model, x, 1, seeded(10))
        return (q.log_prob(z[0])[0] - BetaTC(5)(model, (x, None), seeded(10))["mutual_information"][0]).exp(), z[0, 0]
    found = [density((0, *others)) for others in combinations(range(1, 5), 2)]
    z = found[0][1]
    exact = diagonal_gaussian(model.mu, model.log_var).log_prob(z).exp().mean()
    assert_close(torch.stack([value for value, _ in found]).mean(), exact)


def test_one_latent_dimension_and_one_image_have_no_total_correlation(given):
    model, batch = given
    alone = BetaTC(100)(model, (batch[0][:1], None))
    for name in ("total_correlation", "mutual_information"): assert_close(alone[name], torch.zeros(1).double())
    single = Given(model.mu[:, :1].detach(), model.log_var[:, :1].detach())
    assert_close(BetaTC(100)(single, batch)["total_correlation"], torch.zeros(3).double())


# Several samples

def test_the_bound_from_its_definition(model, batch):
    x, k = batch[0], 4
    with noise_from(seeded(11)): eps = torch.empty(k, 6, 3).double().normal_()
    mu, log_var = model.encode(x)
    z = mu + torch.exp(0.5 * log_var) * eps  # (k, B, Z)
    log_p = -nn.functional.binary_cross_entropy(model.decode(z), x.flatten(1).expand(k, 6, 16), reduction="none").sum(-1)
    standard = lambda e: -0.5 * (e**2).sum(-1) - 1.5 * math.log(2 * math.pi)
    log_w = log_p + standard(z) - (standard(eps) - 0.5 * log_var.sum(-1))
    for gradient in ("plain", "stl", "dreg"):
        terms = ImportanceWeighted(k, gradient)(model, batch, seeded(11))
        assert_close(terms["loss"], -log_w.exp().mean(0).log())
        assert_close(terms["reconstruction"], -log_p.mean(0))
        assert_close(terms["reconstruction"] + terms["kl"], -log_w.mean(0))
        assert_close(terms["gain"], log_w.exp().mean(0).log() - log_w.mean(0))
        assert (terms["gain"] >= 0).all()


def test_with_the_exact_posterior_the_bound_is_log_p(linear):
    model, x = linear
    for k in (1, 2, 50): assert_close(ImportanceWeighted(k)(model, (x, None))["loss"], -model.log_prob(x))


def test_one_sample_is_the_elbo_in_expectation(given):
    model, _ = given
    mu, log_var = (t.detach()[:1].repeat(50_000, 1) for t in (model.mu, model.log_var))
    many, batch = Given(mu, log_var), (torch.ones(50_000, 4).double(), None)
    sampled, exact = (o(many, batch, seeded(12))["loss"] for o in (ImportanceWeighted(1), negative_elbo))
    assert abs((sampled - exact).mean()) < 4 * (sampled - exact).std() / 50_000**0.5


def test_weights_too_small_for_a_float(model, batch):
    with torch.no_grad(): model.fc_output.bias.fill_(3000.0)
    x = torch.zeros_like(batch[0])
    terms = ImportanceWeighted(5, "dreg")(model, (x, None))
    assert (terms["loss"] > 16 * 2000).all() and terms["loss"].isfinite().all()
    terms["loss"].sum().backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())


def test_a_decoder_that_takes_only_rows_of_codes(batch):
    class Rows(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.code = nn.Linear(2, 16).double(), nn.Linear(16, 4).double()
            self.prior = diagonal_gaussian(torch.zeros(2).double(), torch.zeros(2).double())
        def posterior(self, x): return diagonal_gaussian(*self.code(x.flatten(1)).chunk(2, 1))
        def likelihood(self, z):
            assert z.ndim == 2
            return bernoulli(self.layer(z).view(-1, 1, 4, 4))
    assert ImportanceWeighted(3)(Rows(), batch)["loss"].shape == (6,)


# Its gradients

X, POINT = 1.5, {"mu": 0.5, "log_var": -0.4, "w": 0.8}


class Copies(nn.Module):
    "z ~ N(0, 1), x ~ N(wz, 1), q(z|x) = N(mu, exp(log_var)): a thousand times, each copy with parameters of its own."
    def __init__(self, N, **point):
        super().__init__()
        for name, value in point.items(): setattr(self, name, nn.Parameter(torch.full((N, 1), value, dtype=torch.float64)))
        self.prior = diagonal_gaussian(*torch.zeros(2, 1).double())
    def posterior(self, x): return diagonal_gaussian(self.mu, self.log_var)
    def likelihood(self, z): return Independent(Normal((z.view(-1, *self.w.shape) * self.w).flatten(0, 1), 1.0), 1)


def estimates(objective, N, seed, **point):
    copies = Copies(N, **point)
    objective(copies, (torch.full((N, 1), X, dtype=torch.float64), None), seeded(seed))["loss"].sum().backward()
    return {name: -p.grad[:, 0] for name, p in copies.named_parameters()}


def exact_gradient(k):
    nodes, masses = map(torch.tensor, np.polynomial.hermite_e.hermegauss(40))
    masses, p = masses / masses.sum(), {n: torch.tensor(v).double().requires_grad_() for n, v in POINT.items()}
    std = torch.exp(0.5 * p["log_var"])
    z = p["mu"] + std * nodes
    log_w = Normal(p["w"] * z, 1.0).log_prob(torch.tensor(X)) + Normal(0.0, 1.0).log_prob(z) - Normal(p["mu"], std).log_prob(z)
    grid = torch.stack(torch.meshgrid(*[log_w] * k, indexing="ij"))
    mass = torch.stack(torch.meshgrid(*[masses] * k, indexing="ij")).prod(0)
    (mass * (grid.logsumexp(0) - math.log(k))).sum().backward()
    return {name: t.grad for name, t in p.items()}


@pytest.mark.parametrize("gradient, k", [("plain", 1), ("plain", 3), ("stl", 1), ("dreg", 1), ("dreg", 3)])
def test_gradients_are_unbiased(gradient, k):
    found, exact = estimates(ImportanceWeighted(k, gradient), 100_000, k, **POINT), exact_gradient(k)
    for name, g in found.items(): assert abs(g.mean() - exact[name]) < 4.5 * g.std() / len(g)**0.5, name


def test_sticking_the_landing_is_biased_for_several_samples():
    found, exact = estimates(ImportanceWeighted(3, "stl"), 50_000, 0, **POINT), exact_gradient(3)
    far = {name: abs(g.mean() - exact[name]) / (g.std() / len(g)**0.5) for name, g in found.items()}
    assert far["mu"] > 20 and far["log_var"] > 20 and far["w"] < 4.5


@pytest.mark.parametrize("k", [1, 3])
def test_at_a_perfect_posterior_the_encoders_gradient_is_still(k):
    w = POINT["w"]
    perfect = {"mu": X * w / (1 + w**2), "log_var": -math.log(1 + w**2), "w": w}
    for gradient, still in (("plain", False), ("stl", True), ("dreg", True)):
        found = estimates(ImportanceWeighted(k, gradient), 100, 0, **perfect)
        for name in ("mu", "log_var"): assert (found[name].abs().max() < 1e-12) == still, (gradient, name)
        assert found["w"].std() > 0.01


def test_the_decoders_gradient_is_the_same_for_all(model, batch):
    found = []
    for gradient in ("plain", "stl", "dreg"):
        model.zero_grad()
        ImportanceWeighted(4, gradient)(model, batch, seeded())["loss"].sum().backward()
        found.append({name: p.grad.clone() for name, p in model.named_parameters()})
    for name in found[0]:
        same = [torch.allclose(found[0][name], other[name]) for other in found[1:]]
        assert same == [name.startswith(("fc_decoder", "fc_output"))] * 2, name
    assert not torch.allclose(found[1]["fc_mu.weight"], found[2]["fc_mu.weight"])


def test_for_one_sample_both_are_the_path_gradient(model, batch):
    def gradients(objective):
        model.zero_grad()
        objective(model, batch, seeded(3))["loss"].sum().backward()
        return [p.grad.clone() for p in model.parameters()]
    wanted = gradients(path_gradient)
    for gradient in ("stl", "dreg"): assert_close(gradients(ImportanceWeighted(1, gradient)), wanted)


POSTERIORS = {
    "normal": lambda a, b: Independent(Normal(a, b.exp()), 1),
    "laplace": lambda a, b: Independent(Laplace(a, b.exp()), 1),
    "full": lambda a, b: MultivariateNormal(a, scale_tril=torch.diag_embed(b.exp()) + 0.3 * torch.ones(2, 2).double().tril(-1)),
    "flow": lambda a, b: TransformedDistribution(Independent(Normal(a, b.exp()), 1), [TanhTransform(), AffineTransform(a, b.exp(), event_dim=1)]),
}


@pytest.mark.parametrize("name", POSTERIORS)
def test_the_density_along_the_path_of_any_posterior(name):
    a = torch.tensor([[0.3, -0.2], [0.1, 0.6]]).double().requires_grad_()
    b = torch.tensor([[-0.3, 0.1], [0.2, -0.4]]).double().requires_grad_()
    q, fixed = POSTERIORS[name](a, b), POSTERIORS[name](a.detach(), b.detach())
    with noise_from(seeded(2)): z = q.rsample((5,))
    value = path_log_prob(q, z)
    assert_close(value, q.log_prob(z))
    weights = torch.randn(5, 2, generator=seeded(3)).double()
    found = torch.autograd.grad((weights * value).sum(), (a, b), retain_graph=True)
    assert_close(found, torch.autograd.grad((weights * fixed.log_prob(z)).sum(), (a, b)))


@pytest.mark.parametrize("gradient", ["plain", "stl", "dreg"])
def test_without_gradients_the_value_is_the_same(gradient, model, batch):
    objective = ImportanceWeighted(3, gradient)
    with torch.no_grad(): terms = objective(model, batch, seeded())
    assert not terms["loss"].requires_grad
    assert_close(terms["loss"], objective(model, batch, seeded())["loss"].detach())


@pytest.mark.parametrize("name", ["elbo", "beta-vae:beta=2", "free-bits:nats=0.1", "beta-tc:data_size=100", "iwae:num_samples=3", "more-samples"])
def test_a_stranger_that_has_seen_no_image_can_be_asked(name):
    """Its latent dimension is known once it has encoded; the prior is asked for after that."""
    class Stranger(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder, self.decoder = torch.nn.Linear(16, 6), torch.nn.Linear(3, 16)
        def encode(self, x): return self.encoder(x.flatten(1)).chunk(2, 1)
        def decode(self, z): return self.decoder(z).sigmoid()
    terms = find_objective(name, False)(Stranger(), (torch.rand(8, 1, 4, 4).round(), None))
    assert terms["loss"].shape == (8,) and terms["loss"].isfinite().all()

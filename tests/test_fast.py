"""The written-out step against autograd and decompositions; its parts alone; what it refuses; what it promises to fit."""
from contextlib import contextmanager
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.distributions import Independent, Laplace, MixtureSameFamily, Categorical, Normal, kl_divergence
from torch.nn.utils import parameters_to_vector
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from vae_nbdev import fast
from vae_nbdev.data import BatchLoader
from vae_nbdev.elbo import PPCA, gaussian_elbo, ppca_posterior
from vae_nbdev.fast import (Buffers, DataStep, HandStep, change_coordinates, elbo_gradient, flat_layers, fold, muon_adam,
                            orthogonalize, path_gradient, principal_coordinates, read_layers, start_from_data, unfold,
                            write_layers, written_out)
from vae_nbdev.model import VAE
from vae_nbdev.training import GradientStep, Noise, Recipe, evaluate, fit, negative_elbo, train_epoch

SEED_AND_FAST = pytest.mark.parametrize("recipe", ["seed", "fast"])


def some_images(count=100, seed=0):
    return torch.randint(256, (count, 1, 4, 4), generator=torch.Generator().manual_seed(seed)) / 255


def small_vae(seed=0):
    torch.manual_seed(seed)
    return VAE(16, 12, 3)


def weights_of(model): return parameters_to_vector(model.parameters()).detach().clone()


def run(model=None, data=None, **options):
    """Weights and history of a short run."""
    model, data = model or small_vae(), some_images() if data is None else data
    history = fit(model, data, **{"epochs": 3, "batch_size": 16, "progress": False, "device": "cpu"} | options)
    return weights_of(model), history


def one_pass(step, rate=1e-3, seed=0):
    """The terms of each batch of one epoch; the noise follows from the seed."""
    terms = []
    torch.manual_seed(seed)
    step.read()
    for batch in step.batches(): terms.append(torch.stack(list(step(batch, rate).values())).detach())
    step.write()
    return torch.stack(terms)


class Uncentred(DataStep):
    def recentre(self, k): pass


# ---- the gradient written out -----------------------------------------------------------------------------------------

sizes = st.tuples(*[st.integers(1, 9)] * 4)


@settings(deadline=None, max_examples=40)
@given(sizes=sizes, seed=st.integers(0, 999))
def test_written_out_step_is_the_step_of_autograd(sizes, seed):
    """Losses and weights after three steps against torch's unfused Adam, in float64, any sizes, a smaller last batch."""
    D, H, Z, B = sizes
    torch.manual_seed(seed)
    models, images = [VAE(D, H, Z).double() for _ in range(2)], torch.rand(2 * B + 1, D).double()
    models[1].load_state_dict(models[0].state_dict())
    loader = partial(BatchLoader, images, B, shuffle=True)
    by_autograd = GradientStep(models[0], loader(), optimizer=partial(torch.optim.Adam, fused=False))
    terms = [one_pass(step, seed=seed) for step in (by_autograd, HandStep(models[1], loader()))]
    torch.testing.assert_close(*terms, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(*map(weights_of, models), rtol=1e-6, atol=1e-8)


@settings(deadline=None, max_examples=40)
@given(sizes=sizes, seed=st.integers(0, 999), path=st.booleans())
def test_written_out_gradient_is_that_of_the_objective(sizes, seed, path):
    """Against the same loss built from torch.distributions, its density held fixed where the path is asked for."""
    D, H, Z, B = sizes
    torch.manual_seed(seed)
    model, x = VAE(D, H, Z).double(), torch.rand(B, D).double()
    gradients, buf = flat_layers(x, (D, H, Z, D))[1], Buffers(x, (B, D, H, Z, D))
    with torch.no_grad():
        buf.c1[:-1], buf.x[:] = x.T, x.T
        buf.rows_eps.normal_()
        terms = elbo_gradient(read_layers(model), gradients, buf, path=path)
    mu, log_var = model.encode(x)
    q, prior = Normal(mu, (0.5 * log_var).exp()), Normal(0.0, 1.0)
    z = mu + q.scale * buf.rows_eps
    reconstruction = F.binary_cross_entropy_with_logits(model.decode_logits(z), x, reduction="sum")
    kl = kl_divergence(q, prior).sum()
    expected = torch.stack([reconstruction + kl, reconstruction, kl]).detach()
    torch.testing.assert_close(terms, expected, rtol=1e-9, atol=1e-9)
    fixed = Normal(mu.detach(), q.scale.detach())
    (reconstruction + ((fixed.log_prob(z) - prior.log_prob(z)).sum() if path else kl)).backward()
    with torch.no_grad():
        for p in model.parameters(): p.copy_(p.grad)
    torch.testing.assert_close(gradients, [W.detach() for W in read_layers(model)], rtol=1e-9, atol=1e-11)


def polar(M):
    """U p(p(S)) V^T for M = U S V^T scaled to norm one, with the polynomial p of Muon."""
    U, S, Vh = torch.linalg.svd(M, full_matrices=False)
    S = S / M.norm()
    for _ in range(2): S = 3.4445 * S - 4.7750 * S**3 + 2.0315 * S**5
    return U @ S.diag() @ Vh


def test_step_from_the_data_is_that_of_autograd_with_adam_and_muon():
    """Losses and weights after five steps, against torch's Adam, Muon by decompositions, and torch.distributions."""
    images, model = torch.rand(60, 16).double(), VAE(16, 12, 3).double()
    step = Uncentred(model, BatchLoader(images, 12))
    step.start()
    maps = [W.clone().requires_grad_() for W in step.layers]
    means = [torch.zeros_like(W) for W in maps]
    adam = torch.optim.Adam([maps[0], maps[3]], lr=1e-3, betas=(0.5, 0.99))
    affine = lambda h, W: h @ W[:, :-1].T + W[:, -1]
    for index in torch.arange(60).split(12):
        torch.manual_seed(index[0].item())
        terms = step((index, None), 1e-3)
        torch.manual_seed(index[0].item())
        eps = torch.randn(12, 3, dtype=torch.float64)
        mu, log_var = affine(affine(step.codes[index], maps[0]).relu(), maps[1]).chunk(2, 1)
        q, prior = Normal(mu, (0.5 * log_var).exp()), Normal(0.0, 1.0)
        z = mu + q.scale * eps
        logits = affine(affine(z, maps[2]).relu(), maps[3])
        reconstruction = F.binary_cross_entropy_with_logits(logits, step.pixels[index], reduction="sum")
        expected = {"reconstruction": reconstruction + step.dead_loss * 12, "kl": kl_divergence(q, prior).sum()}
        for name, value in expected.items(): torch.testing.assert_close(terms[name], value.detach())
        torch.testing.assert_close(terms["loss"], terms["reconstruction"] + terms["kl"])
        for W in maps: W.grad = None
        fixed = Normal(mu.detach(), q.scale.detach())
        (reconstruction + (fixed.log_prob(z) - prior.log_prob(z)).sum()).backward()
        adam.step()
        with torch.no_grad():
            for W, M, factor in [(maps[1], means[1], 0.5), (maps[2], means[2], 17.5)]:
                M.mul_(0.95).add_(0.05 * W.grad)
                W -= 1e-3 * factor * polar(0.95 * M + 0.05 * W.grad)
    torch.testing.assert_close(step.layers, [W.detach() for W in maps], rtol=1e-5, atol=1e-7)


# ---- the path gradient as an objective ---------------------------------------------------------------------------------

class Convolutional(nn.Module):
    """Somebody's model: images in, probabilities out, and neither a prior nor a likelihood."""
    def __init__(self):
        super().__init__()
        self.net, self.heads, self.back = nn.Conv2d(1, 3, 3), nn.Linear(12, 4), nn.Linear(2, 16)

    def encode(self, x): return self.heads(self.net(x).relu().flatten(1)).chunk(2, 1)
    def decode(self, z): return self.back(z).sigmoid().view(-1, 1, 4, 4)


def test_path_gradient_trains_a_convolutional_stranger():
    torch.manual_seed(0)
    model = Convolutional()
    before = evaluate(model, some_images())["loss"]
    _, history = run(model, objective=path_gradient, lr=1e-2, epochs=5)
    assert history["train_loss"] == sorted(history["train_loss"], reverse=True)
    assert evaluate(model, some_images())["loss"] < before - 0.3


def test_path_gradient_reports_the_loss_of_the_elbo():
    model, batch = small_vae().double(), (some_images().double(), None)
    ours, theirs = (objective(model, batch, torch.Generator().manual_seed(0))
                    for objective in (path_gradient, negative_elbo))
    assert set(ours) == set(theirs)
    for name in ours: torch.testing.assert_close(ours[name], theirs[name])


def test_path_gradient_of_the_exact_posterior_is_zero():
    """q of a PPCA with other parameters than p, equal in value: nothing to learn for q, whatever the noise."""
    torch.manual_seed(0)
    W, b, x = torch.randn(5, 2).double(), torch.randn(5).double(), torch.randn(7, 5).double()
    own, other = PPCA(W, b, 0.5), PPCA(W, b, 0.5)

    class Pair(nn.Module):
        def __init__(self):
            super().__init__()
            self.q, self.p = own, other
        prior = property(lambda self: self.p.prior)
        def posterior(self, x): return self.q.posterior(x)
        def likelihood(self, z): return self.p.likelihood(z)

    for objective, zero in [(path_gradient, True), (negative_elbo, False)]:
        terms = objective(Pair(), (x, None))
        found = torch.autograd.grad(terms["loss"].sum(), [own.W, own.b])
        assert all((g.abs().max() < 1e-9) == zero for g in found)
    mean, cov = ppca_posterior(x, W, b, 0.5)
    exact = gaussian_elbo(x, W, b, 0.5, mean, cov)
    draws = path_gradient(Pair(), (x.repeat(4000, 1), None))["loss"].detach().view(4000, 7)
    assert ((-draws.mean(0) - exact).abs() < 5 * draws.std(0) / 4000**0.5).all()


def test_path_gradient_with_a_prior_that_has_no_closed_form():
    class Mixture(VAE):
        @property
        def prior(self):
            places = Independent(Normal(torch.tensor([[-1.0] * 3, [1.0] * 3]), 1.0), 1)
            return MixtureSameFamily(Categorical(torch.ones(2)), places)
    terms = path_gradient(Mixture(16, 12, 3), (some_images(), None))
    torch.testing.assert_close(terms["loss"], terms["reconstruction"] + terms["kl"])
    assert terms["loss"].requires_grad and terms["kl"].shape == (100,)


def test_path_gradient_refuses_a_posterior_that_is_no_gaussian():
    class Pointed(VAE):
        def posterior(self, x):
            mu, log_var = self.encode(x)
            return Independent(Laplace(mu, log_var.exp()), 1)
    with pytest.raises(ValueError, match="posterior is Gaussian, to hold its density fixed, not Laplace"):
        run(Pointed(16, 12, 3), objective=path_gradient)


# ---- Muon --------------------------------------------------------------------------------------------------------------

@settings(deadline=None, max_examples=40)
@given(shape=st.tuples(st.integers(1, 12), st.integers(1, 12)), seed=st.integers(0, 999),
       scale=st.sampled_from([1e-3, 1.0, 1e4]))
def test_orthogonalize_changes_the_singular_values_alone(shape, seed, scale):
    torch.manual_seed(seed)
    M = scale * torch.randn(shape, dtype=torch.float64)
    torch.testing.assert_close(orthogonalize(M), polar(M), rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(orthogonalize(M.T), orthogonalize(M).T, rtol=1e-8, atol=1e-10)
    assert orthogonalize(0 * M).abs().max() == 0


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="this torch has no Muon")
@pytest.mark.parametrize("shape", [(6, 40), (6, 6)])
def test_muon_is_that_of_torch(shape):
    """Three steps; torch's own works in bfloat16, and on a tall matrix with a factor that is left out here."""
    torch.manual_seed(0)
    W = nn.Parameter(torch.randn(shape))
    oracle, before = nn.Parameter(W.detach().clone()), W.detach().clone()
    ours = muon_adam({W: 0.5}, [])
    theirs = torch.optim.Muon([oracle], lr=0.1, weight_decay=0.0, ns_steps=2)
    for _ in range(3):
        ours.param_groups[0]["lr"] = 0.2
        W.grad = oracle.grad = torch.randn(shape)
        ours.step(), theirs.step()
    assert (W - oracle).norm() < 0.02 * (W - before).norm()


def test_rest_of_muon_adam_is_adam():
    torch.manual_seed(0)
    p, q, W = torch.randn(4, 3), torch.randn(5), torch.randn(2, 2)
    mine, theirs = ([t.clone().double().requires_grad_() for t in (p, q)] for _ in range(2))
    ours, adam = muon_adam({W: 1.0}, mine), torch.optim.Adam(theirs, betas=(0.5, 0.99))
    for _ in range(4):
        for a, b in zip(mine, theirs): a.grad = b.grad = torch.randn(a.shape).double()
        ours.step(), adam.step()
    torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=0)
    assert torch.equal(W, W.clone()) and W not in ours.state  # no gradient, no step


def test_muon_adam_trains_another_model_and_keeps_the_contract_of_an_optimizer():
    """fit takes it for a stranger; a state that is saved and loaded goes on with the same numbers; closures are called."""
    def optimizer(parameters):
        matrices = {p: 5.0 for p in parameters if p.ndim == 2}
        return muon_adam(matrices, [p for p in parameters if p.ndim != 2])
    torch.manual_seed(0)
    _, history = run(Convolutional(), step=partial(GradientStep, optimizer=optimizer), lr=3e-3, epochs=5)
    assert history["train_loss"][-1] < history["train_loss"][0] - 0.3

    def steps(count, model, opt):
        for _ in range(count):
            def closure():
                opt.zero_grad()
                loss = model(torch.ones(1, 3)).square().sum()
                loss.backward()
                return loss
            last = opt.step(closure)
        return last
    model, twin = nn.Linear(3, 2), nn.Linear(3, 2)
    twin.load_state_dict(model.state_dict())
    opt, straight = (optimizer(list(m.parameters())) for m in (model, twin))
    steps(2, model, opt)
    other = optimizer(list(model.parameters()))
    other.load_state_dict(opt.state_dict())
    last = steps(2, model, other)
    assert last == steps(4, twin, straight) and last.item() > 0
    torch.testing.assert_close(weights_of(model), weights_of(twin), rtol=0, atol=0)


def test_muon_adam_refuses_what_is_no_matrix():
    with pytest.raises(ValueError, match=r"two-dimensional, and one has the shape \(3, 1, 3, 3\): give it in rest"):
        muon_adam({torch.zeros(3, 1, 3, 3): 1.0}, [])


# ---- coordinates and the start -----------------------------------------------------------------------------------------

def test_coordinates_are_those_of_a_principal_component_analysis():
    x = torch.rand(200, 9).double() @ torch.rand(9, 16).double() / 9
    mean, live, axes = principal_coordinates(x, components=5)
    codes, pixels = change_coordinates(x, fast.Coordinates(mean, live, axes))
    _, singular, axes_of_svd = torch.linalg.svd(x - x.mean(0), full_matrices=False)
    assert live.tolist() == list(range(16)) and torch.equal(pixels, x)
    cosines = (axes / axes.norm(dim=0)).T @ axes_of_svd[:5].T
    torch.testing.assert_close(cosines.abs(), torch.eye(5).double(), atol=1e-8, rtol=0)
    variance = codes.var(0, correction=0)
    torch.testing.assert_close(codes.mean(0), torch.zeros(5).double())
    torch.testing.assert_close(variance.mean(), torch.tensor(9.0).double())
    torch.testing.assert_close(variance / variance[0], (singular[:5] / singular[0]) ** 2)


def test_coordinates_of_many_images_look_at_both_of_two_sources_that_alternate():
    torch.manual_seed(0)
    x = torch.zeros(60_000, 16).double()
    x[::2, 0], x[1::2, 1] = torch.rand(2, 30_000).double()
    axes = principal_coordinates(x, components=2).axes
    torch.testing.assert_close((axes / axes.norm(dim=0))[:2].norm(dim=1), torch.ones(2).double())


@settings(deadline=None, max_examples=40)
@given(H=st.integers(1, 6), Z=st.integers(1, 4), dark=st.integers(0, 8), seed=st.integers(0, 999), centred=st.booleans())
def test_fold_and_unfold_are_inverse_and_change_no_function(H, Z, dark, seed, centred):
    torch.manual_seed(seed)
    x = torch.rand(50, 16).double()
    x[:, :dark] = 0
    where = principal_coordinates(x, components=7)
    codes, pixels = change_coordinates(x, where)
    shapes = [(H, codes.shape[1] + 1), (2 * Z, H + 1), (H, Z + 1), (pixels.shape[1], H + 1)]
    V = [torch.randn(shape).double() for shape in shapes]
    centre = torch.cat([torch.randn(H, 1), torch.zeros(1, 1)]).double() if centred else None
    W = fold(V, where, centre)
    for again, first in zip(unfold(W, where, centre), V): torch.testing.assert_close(again, first)
    affine = lambda h, M: h @ M[:, :-1].T + M[:, -1]
    torch.testing.assert_close(affine(x, W[0]), affine(codes, V[0]))
    k = torch.rand(9, H).double()
    logits = affine(k if centre is None else k - centre[:-1, 0], V[3])
    torch.testing.assert_close(affine(k, W[3])[:, where.live], logits)
    dead = torch.ones(16, dtype=torch.bool).index_fill(0, where.live, False)
    torch.testing.assert_close(affine(k, W[3])[:, dead].sigmoid(), x.mean(0)[dead].expand(9, -1), atol=2e-6, rtol=0)


def test_weights_that_the_coordinates_cannot_hold_are_refused():
    where = principal_coordinates(some_images(), components=4)
    with pytest.raises(ValueError, match="the coordinates of the recipe 'fast' cannot hold.*recipe='seed'"):
        unfold(read_layers(small_vae()), where)


def test_layers_are_read_as_they_were_written():
    model, other = small_vae(0), small_vae(1)
    with torch.no_grad(): write_layers(read_layers(model), other)
    assert torch.equal(weights_of(model), weights_of(other))


def test_start_from_the_data_has_principal_components_as_posterior_means(mnist):
    images = mnist["train"][0][:4000]
    model = start_from_data(VAE(latent_dim=5), images)
    with torch.no_grad(): mu, log_var = model.encode(images)
    codes, _ = change_coordinates(images.flatten(1), principal_coordinates(images))
    assert (mu - codes[:, :5] / codes[:, :5].std(0)).square().mean() < 0.1
    assert -2.5 < log_var.mean() < -1.5
    assert evaluate(model, images)["loss"] < evaluate(VAE(latent_dim=5), images)["loss"] / 2


def test_start_from_the_data_is_the_start_of_the_recipe():
    one, two = start_from_data(small_vae(0), some_images(), seed=7), small_vae(1)
    DataStep(two, BatchLoader(some_images()), seed=7).start()
    torch.testing.assert_close(weights_of(one), weights_of(two), rtol=1e-5, atol=1e-6)
    assert not torch.allclose(weights_of(one), weights_of(start_from_data(small_vae(0), some_images(), seed=8)))


def trained_vae():
    model = small_vae()
    run(model, epochs=20, lr=1e-2)
    return model


@pytest.mark.parametrize("begin", [start_from_data, partial(fit, recipe="fast", progress=False)])
def test_trained_model_is_refused_with_both_ways_on(begin):
    model = trained_vae()
    before = weights_of(model)
    with pytest.raises(ValueError, match=r"has been trained.*recipe='seed', or train a new model, VAE\(\*\*model.config\)"):
        begin(model, some_images())
    assert torch.equal(before, weights_of(model))
    run(model, recipe="seed", epochs=1)
    run(VAE(**model.config), recipe="fast", epochs=1)


def test_start_from_the_data_refuses():
    with pytest.raises(ValueError, match="model must be a VAE made of its five linear layers, not a Convolutional"):
        start_from_data(Convolutional(), some_images())
    with pytest.raises(ValueError, match="images must be in memory"):
        start_from_data(small_vae(), [(some_images(), None)])
    with pytest.raises(ValueError, match="images must hold finite values"): start_from_data(small_vae(), 9 * some_images())
    with pytest.raises(ValueError, match="images must have input_dim = 16"):
        start_from_data(small_vae(), some_images()[..., 1:])


ODD_IMAGES = {
    "black": torch.zeros(20, 16), "white": torch.ones(20, 16), "grey": torch.full((20, 16), 0.3),
    "one": torch.rand(1, 16), "binary": torch.rand(50, 16).round(),
    "half black": torch.cat([torch.zeros(30, 8), torch.rand(30, 8)], 1),
    "half dim": torch.cat([torch.full((30, 8), 3e-4), torch.rand(30, 8)], 1),  # not live, and they cost something
}


@pytest.mark.parametrize("name", ODD_IMAGES)
@pytest.mark.parametrize("latent_dim", [1, 30])
def test_start_from_the_data_copes_with_odd_images(name, latent_dim):
    """And the folded model is the function that was trained."""
    images, model = ODD_IMAGES[name].double(), VAE(16, 12, latent_dim).double()
    step = DataStep(model, BatchLoader(images, 7))
    step.start()
    one_pass(step)
    torch.manual_seed(0)
    inside = step((torch.arange(len(images)), None), 0.0)
    torch.manual_seed(0)
    with torch.no_grad(): outside = negative_elbo(model, (images, None))
    for name, value in inside.items(): torch.testing.assert_close(value, outside[name].sum(), rtol=1e-6, atol=1e-3)


def test_centre_follows_the_features_and_changes_no_function():
    step = DataStep(small_vae().double(), BatchLoader(some_images(64).double(), 64))
    step.start()
    batch, still = (torch.arange(64), None), 0.0
    def loss():
        torch.manual_seed(0)
        return step(batch, still)["loss"]
    first = loss()
    for _ in range(39): last = loss()  # nothing moves but the centre: twice in 40 steps
    torch.testing.assert_close(first, last, rtol=1e-12, atol=0)
    z = negative_elbo_sample(step.model, some_images(64).double())
    features = step.model.fc_decoder_hidden(z).relu().mean(0)
    torch.testing.assert_close(step.centre[:-1, 0], 0.75 * features.detach())
    assert step.centre[-1] == 0


def negative_elbo_sample(model, x):
    torch.manual_seed(0)
    return model.posterior(x).rsample()


@pytest.mark.parametrize("units, dtype, expected", [
    ({"amx_bf16": True}, torch.float32, "bfloat16_product"), ({"avx512_bf16": True}, torch.float32, "bfloat16_product"),
    ({"avx512_bf16": True}, torch.float64, "mm"), ({"avx2": True, "amx_bf16": False}, torch.float32, "mm"),
    (None, torch.float32, "mm")])
def test_processor_chooses_the_precision_of_the_fast_recipe(units, dtype, expected, monkeypatch):
    if units is None: monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    else: monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: units, raising=False)
    loader, model = BatchLoader(some_images().to(dtype)), small_vae().to(dtype)
    assert DataStep(model, loader).product.__name__ == expected
    assert HandStep(model, loader).product is torch.mm
    assert fast.last_layer_product(loader.images.to("meta")) is torch.mm
    _, history = run(recipe="fast")
    assert history["train_loss"] == sorted(history["train_loss"], reverse=True)


# ---- what a step promises to fit ---------------------------------------------------------------------------------------

@SEED_AND_FAST
def test_recipe_lowers_the_loss_and_depends_on_the_seed_alone(recipe, tmp_path):
    weights, history = run(recipe=recipe, test_data=some_images(30, seed=1))
    model = small_vae()
    torch.manual_seed(99)
    state = torch.get_rng_state()
    again, other = run(model, recipe=recipe, progress=True, out=tmp_path)
    assert torch.equal(state, torch.get_rng_state()) and torch.equal(weights, again)
    assert history["train_loss"] == other["train_loss"] == sorted(history["train_loss"], reverse=True)
    assert not torch.equal(weights, run(recipe=recipe, seed=43)[0])


def test_seed_is_plain_with_another_gradient():
    (one, first), (two, second) = (run(recipe=name) for name in ("plain", "seed"))
    torch.testing.assert_close(one, two, rtol=1e-3, atol=1e-5)
    assert first["train_loss"] == pytest.approx(second["train_loss"], rel=1e-5)


def test_fast_forgets_the_weights_of_a_new_model():
    assert torch.equal(run(small_vae(0), recipe="fast")[0], run(small_vae(1), recipe="fast")[0])


@pytest.mark.parametrize("kind", [GradientStep, HandStep, DataStep])
def test_loop_reads_no_loss_from_the_device(kind, monkeypatch):
    """Each .item() makes the processor wait for a GPU; an epoch may ask once, at its end."""
    asked, step = [], kind(small_vae(), BatchLoader(some_images(), 10))
    noise = Noise("cpu", 0)
    for name in ("item", "tolist", "cpu", "__float__", "__bool__"):
        method = getattr(torch.Tensor, name)
        monkeypatch.setattr(torch.Tensor, name, lambda self, *args, name=name, method=method:
                            asked.append(name) or method(self, *args))
    train_epoch(step, [1e-3] * 10, noise)
    assert asked in (["cpu", "tolist", "tolist"], ["cpu"])


@SEED_AND_FAST
def test_change_by_a_callback_is_where_the_next_epoch_begins(recipe):
    """At a rate of nearly nothing, the weights after the run are those that the callback has left."""
    def change(epoch, model, history):
        if epoch == 1:
            with torch.no_grad():
                for p in model.fc_mu.parameters(): p.mul_(2)
                model.fc_decoder_hidden.weight.zero_()
                model.fc_output.weight[3] += 0.1
        seen.append({name: p.clone() for name, p in model.state_dict().items()})
    seen, model = [], small_vae()
    run(model, recipe=recipe, epochs=2, lr=1e-12, on_epoch_end=change)
    assert seen[0]["fc_decoder_hidden.weight"].abs().max() == 0 < seen[0]["fc_mu.weight"].abs().max()
    for name, p in model.state_dict().items(): torch.testing.assert_close(p, seen[0][name], rtol=1e-4, atol=1e-6)


@SEED_AND_FAST
def test_resumed_run_has_the_numbers_of_an_unbroken_one(recipe, tmp_path):
    def stop(epoch, model, history):
        if epoch == 2: raise KeyboardInterrupt
    weights, history = run(recipe=recipe)
    with pytest.raises(KeyboardInterrupt): run(recipe=recipe, out=tmp_path, on_epoch_end=stop)
    again, resumed = run(small_vae(5), recipe=recipe, out=tmp_path, resume=True)
    assert torch.equal(weights, again) and history["train_loss"] == resumed["train_loss"]


@pytest.mark.parametrize("kind", [HandStep, DataStep])
def test_interrupt_in_the_first_epoch_leaves_the_weights_that_were_reached(kind):
    """They are those that a step which is driven by hand has after as many steps."""
    class Interrupted(kind):
        def __call__(self, batch, rate):
            if self.calls == 4: raise KeyboardInterrupt
            return super().__call__(batch, rate)
    model, twin = small_vae(), small_vae()
    with pytest.raises(KeyboardInterrupt): run(model, step=Interrupted)
    step, noise = kind(twin, BatchLoader(some_images(), 16, shuffle=True, seed=42)), Noise("cpu", 42)
    step.start(), step.read()
    started = [W.clone() for W in step.layers]
    with noise.own():
        for _, batch in zip(range(4), step.batches()): step(batch, 1e-3)
    step.write()
    assert torch.equal(weights_of(model), weights_of(twin))
    assert not any(torch.equal(a, b) for a, b in zip(started, step.layers))


# ---- whom it does not serve --------------------------------------------------------------------------------------------

class Other(VAE): pass


def frozen(model): model.fc_mu.weight.requires_grad_(False)
def hooked(model): model.fc_output.register_forward_hook(lambda *_: None)
def hooked_itself(model): model.register_full_backward_hook(lambda *_: None)
def hooked_parameter(model): model.fc_mu.bias.register_hook(lambda g: g)
def replaced(model): model.reparameterize = lambda mu, log_var: mu
def rebuilt(model): model.fc_mu = nn.Sequential(nn.Linear(12, 3))
def tied(model): model.fc_mu.weight = model.fc_log_var.weight
def unbiased(model): model.fc_output = nn.Linear(12, 16, bias=False)


STRANGE = {frozen: "the parameter fc_mu.weight of model is frozen,", hooked: "the module fc_output of model has a hook",
           hooked_itself: "the module VAE of model has a hook", hooked_parameter: "the parameter fc_mu.bias of model has a hook",
           replaced: "model has a reparameterize of its own", rebuilt: "other parts than those of a VAE",
           tied: "other parts than those of a VAE", unbiased: "other parts than those of a VAE"}


@pytest.mark.parametrize("change", [None, *STRANGE])
def test_model_that_is_no_plain_vae_is_refused_by_fast_and_trained_by_autograd_in_seed(change):
    model = small_vae() if change else Other(16, 12, 3)
    if change: change(model)
    sentence = STRANGE.get(change, "model is a Other and no plain VAE")
    before = weights_of(model)
    with pytest.raises(ValueError, match=f"{sentence}.*recipe='plain'"): run(model, recipe="fast")
    assert torch.equal(before, weights_of(model))
    assert type(written_out(model, BatchLoader(some_images()))) is GradientStep
    torch.manual_seed(0)
    run(model, recipe="seed", epochs=1)
    assert not torch.equal(before, weights_of(model))


def test_other_objective_and_streams_are_refused_by_fast_and_trained_by_autograd_in_seed():
    stream = [(some_images(), None)] * 3
    for options, sentence in [({"objective": path_gradient}, "objective is path_gradient, not negative_elbo"),
                              ({"data": stream, "batch_size": None}, "train_data is not in memory")]:
        with pytest.raises(ValueError, match=f"{sentence}.*recipe='plain'"): run(recipe="fast", **options)
        model = small_vae()
        assert torch.equal(run(recipe="seed", **options)[0], run(model, recipe="plain", **options)[0])
    assert type(written_out(small_vae(), BatchLoader(some_images()))) is HandStep


# ---- a graph of CUDA, without CUDA -------------------------------------------------------------------------------------

class StandIn:
    """A CUDA graph on a CPU: recording computes nothing, a replay repeats the recorded operations on the recorded memory."""
    waiting = {torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default, torch.ops.aten.equal.default}
    replays = 0

    def __init__(self): self.operations = []

    def replay(self):
        StandIn.replays += 1
        for function, args, kwargs, result in self.operations:
            for old, new in zip(tree_leaves(result), tree_leaves(function(*args, **kwargs))):
                if isinstance(old, torch.Tensor) and old.data_ptr() != new.data_ptr(): old.copy_(new)

    @staticmethod
    @contextmanager
    def record(graph):
        seen = []  # tensors before their first use, to put back what recording has changed

        class Recorder(TorchDispatchMode):
            def __torch_dispatch__(self, function, types, args=(), kwargs=None):
                assert function not in StandIn.waiting, f"{function} makes the processor wait for the device"
                seen.extend((t, t.clone()) for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor))
                result = function(*args, **(kwargs or {}))
                graph.operations.append((function, args, kwargs or {}, result))
                return result

        with Recorder(): yield
        for t, before in reversed(seen): t.copy_(before)


@SEED_AND_FAST
def test_step_can_be_recorded_and_replayed(recipe, monkeypatch):
    """The same digits as without a graph, under a rate that changes and a last batch that is smaller."""
    options = {"recipe": recipe, "batch_size": 11, "epochs": 3}
    weights, history = run(**options)
    as_graph = fast.as_graph
    monkeypatch.setattr(fast, "as_graph", lambda work, device: as_graph(work, torch.device("cuda")))
    monkeypatch.setattr(torch.cuda, "CUDAGraph", StandIn)
    monkeypatch.setattr(torch.cuda, "graph", StandIn.record)
    StandIn.replays = 0
    replayed_weights, replayed_history = run(**options)
    assert StandIn.replays == (3 * 9 - 1) + (3 - 1)  # nine full batches and a small one; the first of each runs as it is
    assert torch.equal(weights, replayed_weights) and history["train_loss"] == replayed_history["train_loss"]
    counter = torch.zeros(1)
    call = fast.as_graph(lambda: counter.add_(1) * 1, "cpu")
    assert [t.item() for t in [call(), call(), call()]] == [1, 2, 3]  # each result has memory of its own

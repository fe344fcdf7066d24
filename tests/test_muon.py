"""Muon against decompositions and torch's Adam; any model; a resumed run; what it refuses."""
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.distributions import Independent, Laplace
from torch.nn.utils import parameters_to_vector

from vae_nbdev.evaluation import BurdaVAE
from vae_nbdev.fast import path_gradient
from vae_nbdev.model import VAE, Distributions
from vae_nbdev.muon import MUON, Muon, MuonStep, along_the_path, polar_factor
from vae_nbdev.objectives import ImportanceWeighted, MoreSamples
from vae_nbdev.training import Redrawn, fit, negative_elbo


def some_images(count=60, seed=0):
    """Each row of an image is white or black."""
    return torch.rand(count, 1, 8, 1, generator=torch.Generator().manual_seed(seed)).round().expand(-1, -1, -1, 8)


def tanh_vae(seed=0):
    torch.manual_seed(seed)
    return BurdaVAE(64, (12, 8), 3)


class ConvVAE(nn.Module, Distributions):
    latent_dim, image_shape = 3, (1, 8, 8)

    def __init__(self):
        super().__init__()
        self.conv, self.head = nn.Conv2d(1, 6, 3, stride=2, padding=1), nn.Linear(96, 6)
        self.back, self.transposed = nn.Linear(3, 96), nn.ConvTranspose2d(6, 1, 4, stride=2, padding=1)

    def encode(self, x): return self.head(F.relu(self.conv(x)).flatten(1)).chunk(2, 1)
    def decode_logits(self, z): return self.transposed(F.relu(self.back(z)).view(-1, 6, 4, 4))


def weights_of(model): return parameters_to_vector(model.parameters()).detach().clone()


def run(model, data=None, **options):
    common = {"recipe": "muon", "epochs": 4, "batch_size": 16, "progress": False, "device": "cpu"}
    return fit(model, some_images() if data is None else data, **common | options)


def polar(M, steps):
    """The polynomial, applied to the singular values of a decomposition."""
    U, s, Vh = torch.linalg.svd(M, full_matrices=False)
    s = s / s.norm()
    for _ in range(steps): s = 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5
    return U @ s.diag() @ Vh


# ---- The rule ----------------------------------------------------------------------------------------------------------

@settings(deadline=None, max_examples=40)
@given(shape=st.tuples(st.integers(1, 12), st.integers(1, 12)), seed=st.integers(0, 999),
       scale=st.sampled_from([1e-3, 1.0, 1e4]), steps=st.integers(1, 6))
def test_polar_factor_changes_the_singular_values_alone(shape, seed, scale, steps):
    torch.manual_seed(seed)
    M = scale * torch.randn(shape, dtype=torch.float64)
    torch.testing.assert_close(polar_factor(M, steps), polar(M, steps), rtol=1e-7, atol=1e-9)


def test_the_polar_factor_of_nothing_is_nothing():
    assert torch.equal(polar_factor(torch.zeros(3, 5)), torch.zeros(3, 5))


@pytest.mark.parametrize("shape", [(5, 7), (9, 4), (6, 2, 3, 3), (4, 5, 2)])
def test_a_matrix_or_a_kernel_takes_the_step_of_its_decomposition(shape):
    torch.manual_seed(1)
    W = torch.randn(shape, dtype=torch.float64)
    optimizer, expected, M = Muon([W], lr=0.02, momentum=0.8, steps=4), W.flatten(1).clone(), 0
    rate = 0.02 * 4 * (len(expected) / expected.shape[1])**0.5
    for _ in range(4):
        W.grad = torch.randn_like(W)
        G = W.grad.flatten(1)
        M = 0.8 * M + 0.2 * G
        expected -= rate * polar(0.8 * M + 0.2 * G, 4)
        optimizer.step()
    torch.testing.assert_close(W.flatten(1), expected, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("shape", [(), (5,)])
def test_all_else_takes_the_step_of_torchs_adam(shape):
    torch.manual_seed(2)
    b = torch.randn(shape, dtype=torch.float64)
    expected = b.clone()
    pair = Muon([b], lr=0.02, betas=(0.7, 0.95)), torch.optim.Adam([expected], lr=0.02, betas=(0.7, 0.95))
    for _ in range(5):
        b.grad = torch.randn_like(b)
        expected.grad = b.grad.clone()
        for optimizer in pair: optimizer.step()
    torch.testing.assert_close(b, expected)


def test_parameters_without_a_gradient_stay():
    used, idle = torch.ones(3, 3), torch.ones(3, 3)
    used.grad = torch.eye(3)
    Muon([used, idle]).step()
    assert torch.equal(idle, torch.ones(3, 3)) and not torch.equal(used, idle)


@pytest.mark.parametrize("options, sentence", [
    ({"lr": 0.0}, "lr must be a finite number above 0, not 0.0"),
    ({"momentum": 1.0}, "momentum must be at least 0 and below 1, not 1.0"),
    ({"betas": (0.9, 1.2)}, "betas must be at least 0 and below 1, not 1.2"),
    ({"steps": 0}, "steps must be"),
])
def test_constants_out_of_range_are_refused(options, sentence):
    with pytest.raises(ValueError, match=sentence): Muon([torch.ones(2, 2)], **options)


# ---- The step ----------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("make", [tanh_vae, ConvVAE, lambda: VAE(64, 10, 3)])
def test_any_model_of_the_house_is_trained(make):
    torch.manual_seed(0)
    history = run(make(), epochs=12)
    assert history["train_loss"][-1] < history["train_loss"][0] - 1


@pytest.mark.parametrize("objective", ["elbo", "iwae:num_samples=3,gradient=dreg", "warm-up:share=0.5", MoreSamples(3, 0.6)])
@pytest.mark.parametrize("binarize", [False, True])
def test_an_interrupted_run_goes_on_to_the_same_numbers(objective, binarize, tmp_path):
    def stop(done, model, history):
        if done == 2: raise KeyboardInterrupt

    options = {"objective": objective, "binarize": binarize}
    through, resumed = tanh_vae(), tanh_vae(seed=5)
    whole = run(through, **options)
    with pytest.raises(KeyboardInterrupt): run(tanh_vae(), out=tmp_path, on_epoch_end=stop, **options)
    parts = run(resumed, out=tmp_path, resume=True, **options)
    assert torch.equal(weights_of(resumed), weights_of(through))
    assert parts["train_loss"] == whole["train_loss"]


def test_the_objective_that_is_given_is_minimized():
    """Another objective, other weights; and the ELBO by its name is the path gradient's."""
    models = [tanh_vae() for _ in range(3)]
    for model, objective in zip(models, ["elbo", path_gradient, ImportanceWeighted(3)]): run(model, objective=objective)
    assert torch.equal(weights_of(models[0]), weights_of(models[1]))
    assert not torch.equal(weights_of(models[0]), weights_of(models[2]))


def test_the_path_gradient_replaces_the_elbo_and_nothing_else():
    other = ImportanceWeighted(2)
    assert along_the_path(negative_elbo) is path_gradient and along_the_path(other) is other
    assert along_the_path(Redrawn(negative_elbo)) == Redrawn(path_gradient)
    assert along_the_path(Redrawn(other)) == Redrawn(other)


def test_a_posterior_that_is_no_gaussian_keeps_the_closed_form():
    class Pointed(VAE):
        def posterior(self, x):
            mu, log_var = self.encode(x)
            return Independent(Laplace(mu, log_var.exp()), 1)

    torch.manual_seed(0)
    history = run(Pointed(64, 10, 3), epochs=8)
    assert history["train_loss"][-1] < history["train_loss"][0]


def test_making_a_step_draws_nothing_and_changes_no_weight():
    from vae_nbdev.data import BatchLoader
    model, before = tanh_vae(), weights_of(tanh_vae())
    state = torch.get_rng_state()
    MuonStep(model, BatchLoader(some_images()))
    assert torch.equal(torch.get_rng_state(), state) and torch.equal(weights_of(model), before)


def test_the_recipe_is_known_by_its_name():
    model, named = tanh_vae(), tanh_vae()
    run(model, recipe=MUON)
    run(named)
    assert torch.equal(weights_of(model), weights_of(named))

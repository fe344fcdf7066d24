"""The model: every equation by hand, its three distributions, and what is refused."""
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.distributions import kl_divergence as divergence

from vae_nbdev.elbo import elbo_terms
from vae_nbdev.loss import kl_divergence, loss_function, reconstruction_loss
from vae_nbdev.model import (VAE, as_vae, bernoulli, decode, diagonal_gaussian, has_coins, inference,
                             posterior_mean, reconstruct)

NAMES = ["fc_encoder_hidden", "fc_mu", "fc_log_var", "fc_decoder_hidden", "fc_output"]
SIZES = st.tuples(*[st.integers(1, 9)] * 4)


@pytest.fixture
def model():
    torch.manual_seed(0)
    return VAE(input_dim=12, hidden_dim=7, latent_dim=3).double()


@pytest.fixture
def x():
    return torch.rand(5, 12, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


# ---- the networks -------------------------------------------------------------------------------

def test_equations_by_hand(model, x):
    w = {name: p.detach() for name, p in model.named_parameters()}
    affine = lambda name, v: torch.einsum("oi,bi->bo", w[f"{name}.weight"], v) + w[f"{name}.bias"]
    h = torch.maximum(affine("fc_encoder_hidden", x), torch.zeros(()).double())
    mu, log_var = affine("fc_mu", h), affine("fc_log_var", h)
    torch.manual_seed(0)
    z = mu + log_var.exp().sqrt() * torch.randn(5, 3, dtype=torch.float64)
    g = torch.maximum(affine("fc_decoder_hidden", z), torch.zeros(()).double())
    logits = affine("fc_output", g)
    torch.testing.assert_close(model.decode_logits(z), logits)
    torch.testing.assert_close(model.decode(z), 1 / (1 + torch.exp(-logits)))
    torch.manual_seed(0)
    for ours, exact in zip(model(x), (1 / (1 + torch.exp(-logits)), mu, log_var), strict=True):
        torch.testing.assert_close(ours, exact)


@settings(deadline=None, max_examples=20)
@given(D=st.integers(1, 30), H=st.integers(1, 20), Z=st.integers(1, 10))
def test_sizes(D, H, Z):
    model = VAE(D, H, Z)
    assert model.config == {"input_dim": D, "hidden_dim": H, "latent_dim": Z} == VAE(**model.config).config
    assert [name for name, _ in model.named_children()] == NAMES
    assert sum(p.numel() for p in model.parameters()) == 2 * D * H + 3 * H * Z + 2 * H + 2 * Z + D
    assert [t.shape for t in model(torch.rand(4, D))] == [(4, D), (4, Z), (4, Z)]


def test_default_sizes_are_those_of_the_seed():
    model = VAE()
    assert model.config == {"input_dim": 784, "hidden_dim": 400, "latent_dim": 20}
    assert (model.input_dim, model.hidden_dim, model.latent_dim) == (784, 400, 20)
    assert sum(p.numel() for p in model.parameters()) == 652_824


def test_flat_images_and_pictures_are_the_same(model, x):
    for shape in ((5, 1, 4, 3), (5, 3, 2, 2), (5, 4, 3)):
        for flat, picture in zip(model.encode(x), model.encode(x.view(shape)), strict=True): assert torch.equal(flat, picture)
    assert [t.shape for t in model(x.view(5, 3, 2, 2)[:1])] == [(1, 12), (1, 3), (1, 3)]
    transposed = x.view(5, 4, 3).mT.contiguous().mT  # the same numbers, not contiguous
    assert torch.equal(model.encode(transposed)[0], model.encode(x)[0])


def test_decode_takes_any_number_of_leading_dimensions(model):
    z = torch.randn(6, 5, 3, dtype=torch.float64)
    torch.testing.assert_close(model.decode(z)[2], model.decode(z[2]))
    torch.testing.assert_close(model.decode(z)[2, 4], model.decode(z[2, 4]))


def test_sampling_does_not_depend_on_the_mode(model, x):
    outputs = []
    for mode in (True, False):
        torch.manual_seed(3)
        outputs.append(model.train(mode)(x)[0])
    assert torch.equal(*outputs)


def test_gradients_of_every_parameter(model, x):
    def loss(*parameters):
        torch.manual_seed(1)
        recon_x, mu, log_var = torch.func.functional_call(model, dict(zip(names, parameters)), x)
        return loss_function(recon_x, x, mu, log_var)

    names, parameters = zip(*model.named_parameters())
    parameters = [p.detach().clone().requires_grad_() for p in parameters]
    assert all(g.abs().max() > 0 for g in torch.autograd.grad(loss(*parameters), parameters))
    assert torch.autograd.gradcheck(loss, parameters)


def test_loss_of_an_untrained_model_is_known(mnist):
    torch.manual_seed(0)
    images = mnist["test"][0][:500]
    reconstruction, kl = elbo_terms(VAE(), images)
    assert math.isclose(reconstruction.mean().item(), 784 * math.log(2), rel_tol=0.02)
    assert kl.mean() < 1


def test_training_path_reads_no_value():
    with torch.device("meta"): model, images = VAE(), torch.rand(8, 1, 28, 28)
    assert model(images)[0].shape == (8, 784)
    assert [t.shape for t in elbo_terms(model, images)] == [(8,), (8,)]


# ---- the three distributions --------------------------------------------------------------------

@settings(deadline=None, max_examples=40)
@given(sizes=SIZES, seed=st.integers(0, 999), scale=st.floats(0.1, 1.5))
def test_distributions_give_the_two_terms_of_the_loss(sizes, seed, scale):
    torch.manual_seed(seed)
    D, H, Z, B = sizes
    model, x = VAE(D, H, Z).double(), torch.rand(B, D).double()
    with torch.no_grad():
        for p in model.parameters(): p.mul_(scale)
    mu, log_var = model.encode(x)
    q, prior = model.posterior(x), model.prior
    assert (q.batch_shape, q.event_shape, prior.batch_shape, prior.event_shape) == ((B,), (Z,), (), (Z,))
    torch.testing.assert_close(divergence(q, prior), kl_divergence(mu, log_var))
    z = torch.randn(B, Z).double()
    p = model.likelihood(z)
    assert (p.batch_shape, p.event_shape) == ((B,), (D,)) and has_coins(p)
    torch.testing.assert_close(-p.log_prob(x), reconstruction_loss(model.decode_logits(z), x, from_logits=True))
    torch.testing.assert_close(p.mean, model.decode(z))
    torch.manual_seed(seed)
    reconstruction, kl = elbo_terms(model, x)
    torch.manual_seed(seed)
    torch.testing.assert_close((reconstruction + kl).sum(), loss_function(model(x)[0], x, mu, log_var), rtol=1e-6, atol=1e-6)


@settings(deadline=None, max_examples=40)
@given(Z=st.integers(1, 6), seed=st.integers(0, 999))
def test_densities_are_those_of_gaussians_written_out(Z, seed):
    torch.manual_seed(seed)
    mu, log_var, z = torch.randn(3, 4, Z).double().unbind()
    log_normal = -0.5 * (math.log(2 * math.pi) + log_var + (z - mu)**2 / log_var.exp()).sum(1)
    torch.testing.assert_close(diagonal_gaussian(mu, log_var).log_prob(z), log_normal)
    standard = VAE(3, 2, Z).double().prior
    torch.testing.assert_close(standard.log_prob(z), -0.5 * (math.log(2 * math.pi) + z**2).sum(1))
    torch.testing.assert_close(divergence(diagonal_gaussian(mu, log_var), standard), kl_divergence(mu, log_var))


def test_samples_carry_gradients_to_both_parameters():
    """z = mu + sigma eps: dz/dmu = 1, dz/dlog_var = (z - mu) / 2, for any number of samples."""
    mu, log_var = torch.randn(2, 5, 3, dtype=torch.float64).unbind()
    mu.requires_grad_(), log_var.requires_grad_()
    q = diagonal_gaussian(mu, log_var)
    for shape in ((), (7,), (2, 3)):
        z = q.rsample(shape)
        assert z.shape == (*shape, 5, 3)
        d_mu, d_log_var = torch.autograd.grad(z.sum(), [mu, log_var])
        many = z.reshape(-1, 5, 3)
        torch.testing.assert_close(d_mu, torch.full_like(mu, len(many)))
        torch.testing.assert_close(d_log_var, 0.5 * (many - mu).sum(0).detach())
    assert not q.sample().requires_grad


def test_samples_have_the_moments_of_the_distribution():
    mu, log_var = torch.tensor([[1.0, -2.0]]), torch.tensor([[0.0, 2.0]])
    torch.manual_seed(0)
    z = diagonal_gaussian(mu, log_var).rsample((20_000,))[:, 0]
    torch.testing.assert_close(z.mean(0), mu[0], atol=0.1, rtol=0)
    torch.testing.assert_close(z.var(0), log_var[0].exp(), atol=0, rtol=0.05)
    torch.manual_seed(1)
    z = VAE(3, 2, 2).prior.sample((20_000,))
    torch.testing.assert_close(z.T.cov(), torch.eye(2), atol=0.05, rtol=0)


def test_gradients_of_the_distributions_are_those_of_the_formulas(model, x):
    torch.manual_seed(4)
    reconstruction, kl = elbo_terms(model, x)
    ours = torch.autograd.grad((reconstruction + kl).sum(), list(model.parameters()))
    torch.manual_seed(4)
    recon_x, mu, log_var = model(x)
    theirs = torch.autograd.grad(loss_function(recon_x, x, mu, log_var), list(model.parameters()))
    torch.testing.assert_close(ours, theirs)


def test_likelihood_of_many_samples_at_once(model, x):
    """z (K, B, Z): batch (K, B), and in the shape of an image where it is known."""
    z = torch.randn(6, 5, 3, dtype=torch.float64)
    p = model.likelihood(z)
    assert (p.batch_shape, p.event_shape) == ((6, 5), (12,))
    model.image_shape = (3, 2, 2)
    shaped = model.likelihood(z)
    assert (shaped.batch_shape, shaped.event_shape) == ((6, 5), (3, 2, 2))
    torch.testing.assert_close(shaped.log_prob(x.view(5, 3, 2, 2)), p.log_prob(x))
    torch.testing.assert_close(shaped.mean.flatten(2), p.mean)


def test_logits_beyond_any_probability_keep_their_loss():
    """Where the sigmoid is 0 or 1 in floats, the logits still say by how much."""
    logits, x = torch.tensor([[500.0, -500.0, 0.0]]), torch.tensor([[0.0, 1.0, 1.0]])
    torch.testing.assert_close(-bernoulli(logits).log_prob(x), torch.tensor([1000 + math.log(2)]))


# ---- the shape of an image ----------------------------------------------------------------------

def test_shape_of_an_image_is_part_of_the_configuration():
    model = VAE(12, 7, 3, image_shape=(3, 2, 2))
    assert model.config == {"input_dim": 12, "hidden_dim": 7, "latent_dim": 3, "image_shape": (3, 2, 2)}
    assert VAE(**model.config).image_shape == (3, 2, 2) and VAE(12, 7, 3).image_shape is None
    model.image_shape = [1, 4, 3]
    assert model.image_shape == (1, 4, 3) and model.config["image_shape"] == (1, 4, 3)
    assert decode(model, torch.zeros(2, 3)).shape == (2, 1, 4, 3)
    model.image_shape = None
    assert "image_shape" not in model.config and decode(model, torch.zeros(2, 3)).shape == (2, 12)


@pytest.mark.parametrize("shape, pixels", [((1, 4, 4), 16), ((13,), 13), ((2, 2), 4)])
def test_shape_that_does_not_fit_is_refused(shape, pixels):
    with pytest.raises(ValueError, match=f"image_shape must have input_dim = 12 pixels,.* {pixels}$"): VAE(12, 7, 3, shape)
    model = VAE(12, 7, 3)
    with pytest.raises(ValueError, match="image_shape must have input_dim = 12"): model.image_shape = shape
    assert model.image_shape is None


# ---- use of a model -----------------------------------------------------------------------------

def test_inference_puts_each_module_back_and_takes_no_gradients():
    model = nn.Sequential(nn.BatchNorm1d(4), nn.Sequential(nn.Dropout(), nn.Linear(4, 4)))
    model[1][0].eval()
    modes = [m.training for m in model.modules()]
    assert True in modes and False in modes
    with inference(model):
        assert not any(m.training for m in model.modules())
        assert not model(torch.rand(3, 4)).requires_grad
    assert [m.training for m in model.modules()] == modes
    with pytest.raises(ZeroDivisionError):
        with inference(model): raise ZeroDivisionError
    assert [m.training for m in model.modules()] == modes
    assert torch.is_grad_enabled()


def test_means_by_hand(model, x):
    model.image_shape = (1, 4, 3)
    images = x.view(5, 1, 4, 3)
    with torch.no_grad(): mu = model.encode(x)[0]
    mean = torch.sigmoid(model.decode_logits(mu)).detach()
    torch.testing.assert_close(posterior_mean(model, images), mu.float())
    torch.testing.assert_close(decode(model, mu), mean.view(5, 1, 4, 3).float())
    torch.testing.assert_close(reconstruct(model, images), mean.view(5, 1, 4, 3).float())
    torch.testing.assert_close(reconstruct(model, images[2]), mean.view(5, 1, 4, 3)[2].float())
    for result in (posterior_mean(model, images), decode(model, mu), reconstruct(model, images)):
        assert result.dtype == torch.float32 and not result.requires_grad


def test_many_images_are_worked_on_in_parts():
    """2,500 at once are those of three parts, in their order; so are their codes."""
    torch.manual_seed(0)
    model, images = VAE(12, 7, 3, (1, 4, 3)), torch.rand(2500, 1, 4, 3)
    z, seen = torch.randn(2500, 3), []
    model.fc_mu.register_forward_hook(lambda module, args, out: seen.append(len(out)))
    parts = [images[i:i + 10] for i in range(0, 2500, 10)]
    torch.testing.assert_close(posterior_mean(model, images), torch.cat([posterior_mean(model, x) for x in parts]))
    assert max(seen) <= 1000
    torch.testing.assert_close(reconstruct(model, images), torch.cat([reconstruct(model, x) for x in parts]))
    torch.testing.assert_close(decode(model, z), torch.cat([decode(model, part) for part in z.split(10)]))
    assert decode(model, z.view(5, 500, 3)).shape == (5, 500, 1, 4, 3)


def test_bytes_are_pixels_to_a_model():
    torch.manual_seed(0)
    model, images = VAE(12, 7, 3), torch.randint(0, 256, (5, 12)).byte()
    assert torch.equal(reconstruct(model, images), reconstruct(model, images.float() / 255))
    assert torch.equal(posterior_mean(model, images.numpy()), posterior_mean(model, images))


def test_a_model_with_distributions_is_its_own():
    model = VAE(12, 7, 3)
    assert as_vae(model) is model

    class Nothing: pass
    for other in (Nothing(), nn.Linear(2, 2), None):
        with pytest.raises(ValueError, match="model must have prior, posterior and likelihood, or encode and decode"):
            as_vae(other)


# ---- what is refused ----------------------------------------------------------------------------

@pytest.mark.parametrize("name", ["input_dim", "hidden_dim", "latent_dim"])
@pytest.mark.parametrize("size", [0, -3, 2.5, "20", True, None])
def test_sizes_that_make_no_sense(name, size):
    with pytest.raises(ValueError, match=f"^{name} must be a whole number of at least 1, not {size!r}$"): VAE(**{name: size})


@pytest.mark.parametrize("images, sentence", [
    (torch.rand(5, 13), "x must have input_dim = 12 pixels per image, not 13"),
    (torch.rand(5, 3, 4, 4), "x must have input_dim = 12 pixels per image, not 48"),
    (torch.rand(24).view(2, 12).T, "x must have input_dim = 12 pixels per image, not 2"),  # never 2 images out of 12 halves
    (torch.rand(12), r"x must be a float tensor of shape \(B, D\) or .* not torch.float32 of shape \(12,\)"),
    (torch.zeros(5, 12, dtype=torch.uint8), "x must be a float tensor .* not torch.uint8"),
    ([[0.0] * 12], "x must be a float tensor .* not list"),
])
@pytest.mark.parametrize("method", ["forward", "encode", "posterior"])
def test_images_of_another_kind(method, images, sentence, model):
    with pytest.raises(ValueError, match=f"^{sentence}"): getattr(model.float(), method)(images)


@pytest.mark.parametrize("z, given", [(torch.zeros(5, 2), "2"), (torch.zeros(4), "4"), (torch.tensor(0.0), "a single number")])
@pytest.mark.parametrize("method", ["decode", "decode_logits"])
def test_latent_vectors_of_another_model(method, z, given, model):
    with pytest.raises(ValueError, match=f"^z must have latent_dim = 3 numbers per vector, not {given}$"): getattr(model, method)(z)


@pytest.mark.parametrize("images, sentence", [
    (torch.rand(5, 13), "images must have input_dim = 12 pixels per image, as the model has, not 13"),
    (torch.rand(5, 1, 4, 4), "images must have input_dim = 12 pixels per image, as the model has, not 16"),
    (torch.rand(5, 12) * 2 + 1, r"images must hold finite values in \[0, 1\]"),
    (torch.full((5, 12), math.nan), "images must hold finite values, not NaN among them"),
    (torch.zeros(0, 12), r"images must hold at least one image, not \(0, 12\)"),
    (torch.zeros(5, 12).long(), "images: give uint8 .* or floats in .* not torch.int64"),
    ("digits", "images must be a tensor or a NumPy array of numbers, not str"),
])
@pytest.mark.parametrize("use", [posterior_mean, reconstruct])
def test_images_that_are_not_the_models(use, images, sentence):
    with pytest.raises(ValueError, match=f"^{sentence}") as error: use(VAE(12, 7, 3), images)
    assert "\n" not in str(error.value)


def test_channels_come_first():
    """The same number of pixels in another order is another picture."""
    model = VAE(60, 8, 2, image_shape=(3, 4, 5))
    x = torch.rand(2, 3, 4, 5)
    torch.testing.assert_close(posterior_mean(model, x.flatten(1)), posterior_mean(model, x))
    with pytest.raises(ValueError, match=r"images must have the shape \(3, 4, 5\) each, as the model's, not \(4, 5, 3\); channels come first"):
        posterior_mean(model, x.permute(0, 2, 3, 1))

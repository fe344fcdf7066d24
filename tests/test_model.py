"""The model: every equation by hand, and what is refused."""
import math

import pytest
import torch
from hypothesis import given, settings, strategies as st

from vae_nbdev.loss import kl_divergence, loss_function, reconstruction_loss
from vae_nbdev.model import VAE

NAMES = ["fc_encoder_hidden", "fc_mu", "fc_log_var", "fc_decoder_hidden", "fc_output"]


@pytest.fixture
def model():
    torch.manual_seed(0)
    return VAE(input_dim=12, hidden_dim=7, latent_dim=3).double()


@pytest.fixture
def x():
    return torch.rand(5, 12, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def test_equations_by_hand(model, x):
    w = {name: p.detach() for name, p in model.named_parameters()}
    affine = lambda name, v: torch.einsum("oi,bi->bo", w[f"{name}.weight"], v) + w[f"{name}.bias"]
    h = torch.maximum(affine("fc_encoder_hidden", x), torch.zeros(()).double())
    mu, log_var = affine("fc_mu", h), affine("fc_log_var", h)
    z = mu + log_var.exp().sqrt() * torch.randn(5, 3, generator=seeded(), dtype=torch.float64)
    g = torch.maximum(affine("fc_decoder_hidden", z), torch.zeros(()).double())
    logits = affine("fc_output", g)
    for ours, exact in zip(model.forward_logits(x, seeded()), (logits, mu, log_var)): torch.testing.assert_close(ours, exact)
    torch.testing.assert_close(model.decode(z), 1 / (1 + torch.exp(-logits)))


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
    for flat, picture in zip(model.forward_logits(x, seeded()), model.forward_logits(x.view(5, 1, 4, 3), seeded())):
        assert torch.equal(flat, picture)
    assert [t.shape for t in model(x.view(5, 3, 2, 2)[:1])] == [(1, 12), (1, 3), (1, 3)]
    assert torch.equal(model.encode(x.view(5, 4, 3).mT.contiguous().mT)[0], model.encode(x)[0])  # not contiguous


def test_decode_takes_any_number_of_leading_dimensions(model):
    z = torch.randn(6, 5, 3, dtype=torch.float64)
    torch.testing.assert_close(model.decode(z)[2], model.decode(z[2]))
    torch.testing.assert_close(model.decode(z)[2, 4], model.decode(z[2, 4]))


def test_probabilities_are_the_sigmoid_of_the_logits(model, x):
    z = torch.randn(5, 3, dtype=torch.float64)
    assert torch.equal(model.decode(z), torch.sigmoid(model.decode_logits(z)))
    torch.manual_seed(3)
    logits, mu, log_var = model.forward_logits(x)
    torch.manual_seed(3)
    for ours, expected in zip(model(x), (torch.sigmoid(logits), mu, log_var)): assert torch.equal(ours, expected)


def test_noise_comes_from_the_generator_alone(model, x):
    before = torch.get_rng_state()
    first, again, other = (model.forward_logits(x, seeded(seed))[0] for seed in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), before)


def test_sampling_does_not_depend_on_the_mode(model, x):
    assert torch.equal(model.train().forward_logits(x, seeded())[0], model.eval().forward_logits(x, seeded())[0])


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
    logits, mu, log_var = VAE().forward_logits(images)
    assert math.isclose(reconstruction_loss(logits, images, from_logits=True).mean().item(), 784 * math.log(2), rel_tol=0.02)
    assert kl_divergence(mu, log_var).mean() < 1


def test_training_path_reads_no_value():
    with torch.device("meta"): model, images = VAE(), torch.rand(8, 1, 28, 28)
    assert model.forward_logits(images)[0].shape == (8, 784)


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
@pytest.mark.parametrize("method", ["forward", "forward_logits", "encode"])
def test_images_of_another_kind(method, images, sentence, model):
    with pytest.raises(ValueError, match=f"^{sentence}"): getattr(model.float(), method)(images)


@pytest.mark.parametrize("z, given", [(torch.zeros(5, 2), "2"), (torch.zeros(4), "4"), (torch.tensor(0.0), "a single number")])
@pytest.mark.parametrize("method", ["decode", "decode_logits"])
def test_latent_vectors_of_another_model(method, z, given, model):
    with pytest.raises(ValueError, match=f"^z must have latent_dim = 3 numbers per vector, not {given}$"): getattr(model, method)(z)

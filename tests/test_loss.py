"""The two terms of the loss, against oracles that do not share a line with them."""
import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings, strategies as st
from hypothesis.extra.numpy import arrays
from torch.distributions import Bernoulli, Independent, Normal
from torch.utils._python_dispatch import TorchDispatchMode

from vae_nbdev.data import bernoulli_entropy
from vae_nbdev.elbo import elbo_terms
from vae_nbdev.loss import bits_per_dim, kl_divergence, loss_function, nats_to_bits, reconstruction_loss
from vae_nbdev.reparameterization import reparameterize

B, D, Z = 5, 12, 3
few = settings(deadline=None, max_examples=50)


def float32(low, high):
    return st.floats(low, high, width=32, allow_nan=False, allow_subnormal=False)


def tensors(low, high, shape=(B, D)):
    return arrays("float32", shape, elements=float32(low, high)).map(lambda a: torch.from_numpy(a.copy()))


@pytest.fixture
def noise():
    return torch.Generator().manual_seed(0)


def gaussians(noise, dtype=torch.float64):
    return torch.randn(2, B, Z, generator=noise, dtype=dtype)


# the KL divergence

@few
@given(tensors(-1e3, 1e3, (B, Z)), tensors(-60, 60, (B, Z)))
def test_kl_is_that_of_torch_distributions(mu, log_var):
    exact = torch.distributions.kl_divergence(Normal(mu.double(), (log_var.double() / 2).exp()), Normal(0, 1)).sum(1)
    torch.testing.assert_close(kl_divergence(mu.double(), log_var.double()), exact, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(kl_divergence(mu, log_var).double(), exact, rtol=1e-5, atol=1e-6)


def test_kl_is_the_average_of_a_log_ratio(noise):
    mu, log_var = gaussians(noise)
    z = reparameterize(mu.expand(50_000, B, Z), log_var.expand(50_000, B, Z), noise)
    ratio = (Normal(mu, (log_var / 2).exp()).log_prob(z) - Normal(0, 1).log_prob(z)).sum(2)
    errors = (ratio.mean(0) - kl_divergence(mu, log_var)) / (ratio.std(0) / len(z) ** 0.5)
    assert errors.abs().max() < 4.5


def test_kl_gradients(noise):
    mu, log_var = (t.requires_grad_() for t in gaussians(noise))
    at_mu, at_log_var = torch.autograd.grad(kl_divergence(mu, log_var).sum(), (mu, log_var))
    torch.testing.assert_close(at_mu, mu)
    torch.testing.assert_close(at_log_var, (log_var.exp() - 1) / 2)
    assert torch.autograd.gradcheck(kl_divergence, (mu, log_var))


@few
@given(tensors(-1e4, 1e4, (B, Z)), tensors(-80, 80, (B, Z)))
def test_kl_is_never_negative(mu, log_var):
    assert (kl_divergence(mu, log_var) >= 0).all()


@few
@given(st.sampled_from([1, -1]), st.floats(1e-6, 10), st.integers(0, Z - 1), st.booleans())
def test_kl_is_zero_only_at_the_prior(sign, size, dimension, at_mu):
    mu, log_var = torch.zeros(2, 1, Z, dtype=torch.float64)
    assert kl_divergence(mu, log_var).item() == 0
    (mu if at_mu else log_var)[0, dimension] = sign * size
    assert kl_divergence(mu, log_var).item() > 0


def test_kl_keeps_its_digits_near_the_prior():
    v = torch.logspace(-4, 0, 200)[:, None]
    for log_var in (v, -v):
        assert (kl_divergence(torch.zeros_like(v), log_var * 1e-5) >= 0).all()
        exact = 0.5 * (torch.expm1(log_var.double()) - log_var.double()).sum(1)
        torch.testing.assert_close(kl_divergence(torch.zeros_like(v), log_var).double(), exact, rtol=2e-3, atol=0)


# the reconstruction loss

@few
@given(tensors(0, 1), tensors(-30, 30))
def test_reconstruction_is_a_bernoulli_likelihood(x, logits):
    exact = -Bernoulli(logits=logits.double(), validate_args=False).log_prob(x.double()).sum(1)
    torch.testing.assert_close(reconstruction_loss(logits, x, from_logits=True).double(), exact, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(reconstruction_loss(logits.double(), x.double(), from_logits=True), exact, rtol=1e-12, atol=1e-12)


@few
@given(tensors(0, 1), tensors(-30, 30), tensors(-5, 5, (B, Z)), tensors(-10, 5, (B, Z)))
def test_both_terms_are_those_of_three_distributions(x, logits, mu, log_var):
    class Answered:
        prior = Independent(Normal(torch.zeros(Z), 1.0), 1)
        def posterior(self, x): return Independent(Normal(mu, (log_var / 2).exp()), 1)
        def likelihood(self, z): return Independent(Bernoulli(logits=logits, validate_args=False), 1)

    ours = reconstruction_loss(logits, x, from_logits=True), kl_divergence(mu, log_var)
    torch.testing.assert_close(ours, elbo_terms(Answered(), x), rtol=1e-5, atol=1e-5)


@few
@given(tensors(0, 1), tensors(-10, 10))
def test_both_paths_agree(x, logits):
    stable = reconstruction_loss(logits, x, from_logits=True)
    torch.testing.assert_close(reconstruction_loss(torch.sigmoid(logits), x), stable, rtol=1e-3, atol=1e-4)
    exact = reconstruction_loss(torch.sigmoid(logits.double()), x.double())
    torch.testing.assert_close(reconstruction_loss(logits.double(), x.double(), from_logits=True), exact)


@few
@given(tensors(0, 1), tensors(0, 1), st.booleans())
def test_reconstruction_never_beats_the_entropy(x, guess, from_logits):
    x, guess = x.double(), guess.double()
    loss = reconstruction_loss(torch.logit(guess, eps=1e-9) if from_logits else guess, x, from_logits)
    assert (loss >= 0).all() and (loss >= bernoulli_entropy(x) - 1e-9).all()
    torch.testing.assert_close(reconstruction_loss(x, x), bernoulli_entropy(x))


@few
@given(tensors(0, 1), tensors(-1e6, 1e6))
def test_extreme_logits_stay_finite(x, logits):
    logits.requires_grad_()
    loss = reconstruction_loss(logits, x, from_logits=True)
    gradient, = torch.autograd.grad(loss.sum(), logits)
    assert loss.isfinite().all()
    torch.testing.assert_close(gradient, torch.sigmoid(logits) - x)


def test_confident_mistakes_keep_their_gradient():
    logits = torch.tensor([[20.0, 50.0, 100.0]], requires_grad=True)
    loss = reconstruction_loss(logits, torch.zeros(1, 3), from_logits=True)
    torch.testing.assert_close(loss, torch.tensor([170.0]))
    torch.testing.assert_close(torch.autograd.grad(loss.sum(), logits)[0], torch.ones(1, 3))


def test_pixels_are_summed_and_images_are_not(noise):
    x, recon_x = torch.rand(2, B, 1, 4, 3, generator=noise, dtype=torch.float64)
    by_hand = [-sum(math.log(p if white else 1 - p) for p, white in zip(r, w)) for r, w in
               zip(recon_x.flatten(1).tolist(), (x > 0.5).flatten(1).tolist())]
    loss = reconstruction_loss(recon_x.flatten(1), (x > 0.5).double())  # rows against pictures
    torch.testing.assert_close(loss, torch.tensor(by_hand, dtype=torch.float64))


@pytest.mark.parametrize("shape", [(B, 1, 4, 3), (B, 3, 2, 2), (B, 4, 3), (B, 1, D), (B, D, 1)])
@pytest.mark.parametrize("from_logits", [False, True])
def test_any_shape_after_the_first_dimension(shape, from_logits, noise):
    recon_x, x = torch.rand(2, B, D, generator=noise)
    expected = reconstruction_loss(recon_x, x, from_logits)
    assert torch.equal(reconstruction_loss(recon_x.view(shape), x.view(shape), from_logits), expected)
    assert torch.equal(reconstruction_loss(recon_x, x.view(shape), from_logits), expected)
    assert torch.equal(loss_function(recon_x.view(shape), x.view(shape), zeros, zeros), loss_function(recon_x, x, zeros, zeros))


def test_untrained_predictions_cost_784_ln_2(mnist):
    images = mnist["test"][0][:100]
    expected = torch.full((100,), 784 * math.log(2))
    torch.testing.assert_close(reconstruction_loss(torch.zeros(100, 784), images, from_logits=True), expected)


# the negative ELBO

def test_loss_function_is_the_sum_of_its_terms(noise):
    x, recon_x = torch.rand(2, B, D, generator=noise, dtype=torch.float64)
    mu, log_var = gaussians(noise)
    expected = F.binary_cross_entropy(recon_x, x, reduction="sum") - 0.5 * (1 + log_var - mu**2 - log_var.exp()).sum()
    assert loss_function(recon_x, x, mu, log_var).shape == ()
    torch.testing.assert_close(loss_function(recon_x, x, mu, log_var), expected)
    arguments = [t.requires_grad_() for t in (recon_x, mu, log_var)]
    assert torch.autograd.gradcheck(lambda r, m, v: loss_function(r, x, m, v), arguments)


@few
@given(float32(-2, 2), float32(-4, 1))
def test_loss_is_the_negative_evidence_plus_the_gap(mu, log_var):
    """A decoder of one latent dimension, where the evidence is an integral over a line."""
    g = torch.Generator().manual_seed(1)
    w, b = torch.randn(2, D, generator=g, dtype=torch.float64)
    x = torch.bernoulli(torch.full((1, D), 0.5, dtype=torch.float64), generator=g)
    z = torch.linspace(-25, 25, 10_001, dtype=torch.float64)
    logits = z[:, None] * w + b
    log_joint = Normal(0, 1).log_prob(z) + Bernoulli(logits=logits).log_prob(x).sum(1)
    log_evidence = torch.trapezoid(log_joint.exp(), z).log()
    log_q = Normal(torch.tensor(mu).double(), math.exp(log_var / 2)).log_prob(z)
    gap = torch.trapezoid(log_q.exp() * (log_q - log_joint + log_evidence), z)
    reconstruction = torch.trapezoid(log_q.exp() * reconstruction_loss(logits, x.expand(len(z), D), from_logits=True), z)
    loss = reconstruction + kl_divergence(*torch.tensor([[[mu]], [[log_var]]]).double()).squeeze()
    torch.testing.assert_close(loss, gap - log_evidence, rtol=1e-6, atol=1e-6)
    assert gap > 0 and loss > -log_evidence


@settings(few, max_examples=10)
@given(tensors(0, 1, (1, 6)), float32(-2, 2), float32(-4, 1))
def test_loss_of_a_grey_image_bounds_its_binary_images(grey, mu, log_var):
    """The mean over all 64 binary images of evidence and gap; the gap stays above zero, as one q answers for all of them."""
    g = torch.Generator().manual_seed(1)
    w, b = torch.randn(2, 6, generator=g, dtype=torch.float64)
    binary = torch.tensor([*itertools.product([0.0, 1.0], repeat=6)], dtype=torch.float64)
    chance = torch.where(binary == 1, grey.double(), 1 - grey.double()).prod(1)
    z = torch.linspace(-25, 25, 5_001, dtype=torch.float64)
    logits = z[:, None] * w + b
    log_joints = Normal(0, 1).log_prob(z)[:, None] + Bernoulli(logits=logits[:, None]).log_prob(binary).sum(2)
    log_evidences = torch.trapezoid(log_joints.exp(), z, dim=0).log()
    log_q = Normal(torch.tensor(mu).double(), math.exp(log_var / 2)).log_prob(z)
    gaps = torch.trapezoid(log_q.exp()[:, None] * (log_q[:, None] - log_joints + log_evidences), z, dim=0)
    costs = reconstruction_loss(logits, grey.double().expand(len(z), 6), from_logits=True)
    loss = torch.trapezoid(log_q.exp() * costs, z) + kl_divergence(*torch.tensor([[[mu]], [[log_var]]]).double()).squeeze()
    torch.testing.assert_close(loss, (chance * (gaps - log_evidences)).sum(), rtol=1e-6, atol=1e-6)
    assert (gaps > 0).all() and loss > -(chance * log_evidences).sum()


def test_mean_reductions_choose_a_beta(noise):
    """Averaging both terms over their elements weighs the KL by D / Z."""
    logits, x = torch.randn(B, D, generator=noise).requires_grad_(), torch.rand(B, D, generator=noise)
    mu, log_var = (t.requires_grad_() for t in gaussians(noise, torch.float32))
    kl = lambda: 0.5 * (mu**2 + log_var.exp() - 1 - log_var)
    averaged = F.binary_cross_entropy_with_logits(logits, x) + kl().mean()
    ours = (reconstruction_loss(logits, x, from_logits=True) + kl_divergence(mu, log_var)).sum()
    pull = [at_mu.norm() / at_logits.norm() for at_logits, at_mu in (torch.autograd.grad(f, (logits, mu)) for f in (averaged, ours))]
    assert math.isclose(pull[0] / pull[1], D / Z, rel_tol=1e-5)


# what training relies on

def test_on_a_device_no_value_is_read():
    """On a GPU, reading a value waits for all work so far; the meta device has no values to read."""
    meta = lambda *shape: torch.empty(*shape, device="meta")
    assert reconstruction_loss(meta(B, D), meta(B, 1, 4, 3), from_logits=True).shape == (B,)
    assert reconstruction_loss(meta(B, D), meta(B, 1, 4, 3)).shape == (B,)
    assert kl_divergence(meta(B, Z), meta(B, Z)).shape == (B,)
    assert loss_function(meta(B, D), meta(B, D), meta(B, Z), meta(B, Z)).shape == ()


def test_good_values_cost_the_formula_alone(noise):
    """No pass over the pixels for their range: torch's cross-entropy has one of its own."""
    class Operations(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            names.append(function.overloadpacket.__name__)
            return function(*args, **(kwargs or {}))

    names, (mu, log_var) = [], gaussians(noise, torch.float32)
    with Operations(): loss_function(half, half, mu, log_var)
    assert "binary_cross_entropy" in names
    assert not {"aminmax", "min", "max", "isfinite", "any", "all", "_local_scalar_dense", "item"} & set(names)


# errors

half, zeros = torch.full((B, D), 0.5), torch.zeros(B, Z)


@pytest.mark.parametrize("recon_x, x, sentence", [
    (half, torch.rand(B, D + 1), r"recon_x and x must .* not \(5, 12\) and \(5, 13\)"),
    (half[:1], half, r"recon_x and x must .* not \(1, 12\) and \(5, 12\)"),
    (half, half.to(torch.uint8), r"x must be a float tensor .* not torch.uint8"),
    (half.to(torch.uint8), half, r"recon_x must be a float tensor .* not torch.uint8"),
    (half[0], half[0], r"recon_x must be a float tensor of shape .* not torch.float32 of shape \(12,\)"),
    (half, half.numpy(), "x must be a float tensor .* not ndarray"),
])
@pytest.mark.parametrize("from_logits", [False, True])
def test_shapes_that_do_not_fit(recon_x, x, sentence, from_logits):
    with pytest.raises(ValueError, match=sentence): reconstruction_loss(recon_x, x, from_logits)
    with pytest.raises(ValueError, match=sentence): loss_function(recon_x, x, zeros, zeros)


BAD = [-0.42, 1.01, 2.0, math.nan, math.inf, -math.inf]


def spoiled(value, dtype=torch.float32):
    values = half.to(dtype).clone()
    values[2, 3] = value
    return values


@pytest.mark.parametrize("value", BAD)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", ["recon_x", "x"])
def test_values_that_are_no_pixels(name, value, dtype):
    values = {"recon_x": half.to(dtype), "x": half.to(dtype)} | {name: spoiled(value, dtype)}
    for call in (reconstruction_loss, lambda **values: loss_function(**values, mu=zeros, log_var=zeros)):
        with pytest.raises(ValueError, match=rf"^{name} must .*\[0, 1\]") as caught: call(**values)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", BAD)
def test_targets_that_are_no_pixels_are_refused_with_logits_too(value):
    with pytest.raises(ValueError, match=r"^x must .*\[0, 1\]"):
        reconstruction_loss(half, spoiled(value), from_logits=True)


def test_logits_may_have_any_value():
    loss = reconstruction_loss(spoiled(1e30), half, from_logits=True)
    assert loss.isfinite().all() and loss[2] > 1e29
    loss = reconstruction_loss(spoiled(math.nan), half, from_logits=True)
    assert loss.isnan().tolist() == [row == 2 for row in range(B)]  # a run that diverges is not stopped here


def test_logits_in_the_place_of_probabilities_are_named():
    with pytest.raises(ValueError, match=r"not values from -3 to 0.5: are they logits\? .* from_logits=True"):
        reconstruction_loss(spoiled(-3.0), half)
    with pytest.raises(ValueError, match=r"not values from 0.5 to 3: are they logits\?"): reconstruction_loss(spoiled(3.0), half)
    for others in (0.5, torch.arange(D) % 2.0):  # certain probabilities beside the NaN are no logits
        recon_x = torch.where(spoiled(math.nan).isnan(), math.nan, others)
        with pytest.raises(ValueError, match="^recon_x must .* NaN among them"): reconstruction_loss(recon_x, half)


def test_other_errors_of_torch_stay_what_they_are():
    with pytest.raises(RuntimeError, match="dtype"): reconstruction_loss(half, half.double())


@pytest.mark.parametrize("from_logits", [False, True])
def test_no_image_is_no_batch(from_logits):
    with pytest.raises(ValueError, match=r"^recon_x must be .* not torch.float32 of shape \(0, 12\)"):
        reconstruction_loss(half[:0], half[:0], from_logits)


@pytest.mark.parametrize("mu, log_var, sentence", [
    (zeros, zeros[0], r"one shape \(B, Z\), not \(5, 3\) and \(3,\)"),
    (zeros[0], zeros[0], r"one shape \(B, Z\), not \(3,\) and \(3,\)"),
    (zeros, torch.zeros(B, 1), r"one shape \(B, Z\), not \(5, 3\) and \(5, 1\)"),
    (torch.zeros(B, Z, 1), torch.zeros(B, Z, 1), r"one shape \(B, Z\)"),
    (zeros[:1], zeros[:1], "one row per image, not 1 rows for 5 images"),
    (torch.zeros(B + 1, Z), torch.zeros(B + 1, Z), "one row per image, not 6 rows for 5 images"),
])
def test_gaussians_that_do_not_fit(mu, log_var, sentence):
    with pytest.raises(ValueError, match=f"^mu and log_var must have .*{sentence}"): loss_function(half, half, mu, log_var)


# units

def test_nats_and_bits():
    assert nats_to_bits(math.log(2)) == 1 and bits_per_dim(784 * math.log(2)) == 1
    assert math.isclose(bits_per_dim(3072 * math.log(256), 3072), 8) and bits_per_dim(math.log(2), 1) == 1
    torch.testing.assert_close(nats_to_bits(torch.tensor([0.0, math.log(8)])), torch.tensor([0.0, 3.0]))
    with pytest.raises(ValueError, match="num_dims must be .* at least 1, not 0"): bits_per_dim(1.0, 0)

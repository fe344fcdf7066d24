"""log p(x) by importance sampling against models that know it; gaps and protocols against closed forms."""
import json
import math

import pytest
import torch
from torch import nn
from torch.distributions import Bernoulli, Independent, MultivariateNormal, Normal, kl_divergence

from vae_nbdev.data import StreamLoader, binarize
from vae_nbdev.evaluation import BurdaVAE, Protocol, Row, inference_gaps, log_likelihood, log_weights, refine_posterior, report, summarize, table
from vae_nbdev.model import VAE, inference
from vae_nbdev.training import fit


# Importance sampling

def test_summary_of_known_weights():
    w = torch.tensor([[1.0, 2.0, 3.0, 2.0], [5.0, 5.0, 5.0, 5.0]]).double()
    e = summarize(w.log() - 1000)  # exp(-1000) is zero: all is in logarithms
    torch.testing.assert_close(e.log_px, w.mean(1).log() - 1000)
    torch.testing.assert_close(e.effective, w.sum(1)**2 / w.square().sum(1))
    torch.testing.assert_close(e.largest, torch.tensor([3 / 8, 1 / 4]).double())
    torch.testing.assert_close(e.bound, w.log().mean(1) - 1000)
    torch.testing.assert_close(e.standard_error, w.std(1) / w.mean(1) / 2)
    assert summarize(w.float().log()).log_px.dtype == torch.float64


def test_one_weight_has_no_standard_error():
    e = summarize(torch.tensor([[-3.0]]))
    assert e.standard_error.isnan().all() and e.log_px == -3 and e.effective == 1


def test_exact_posterior_gives_the_evidence_from_one_sample(linear):
    model, x = linear
    torch.testing.assert_close(log_likelihood(model, x, num_samples=1).log_px, model.log_prob(x))


def test_importance_sampling_agrees_with_the_truth(linear, monkeypatch):
    model, x = linear
    monkeypatch.setattr(model, "scale", 1.5)
    e = log_likelihood(model, x, num_samples=2000)
    deviation = (e.log_px - model.log_prob(x)) / e.standard_error
    assert deviation.abs().max() < 4.5 and 0.5 < deviation.std() < 1.6
    assert (e.bound < e.log_px).all()
    gap = kl_divergence(model.posterior(x), MultivariateNormal(model.posterior(x).mean, model.posterior(x).covariance_matrix / 2.25))
    torch.testing.assert_close((model.log_prob(x) - e.bound).mean(), gap.mean(), atol=0.05, rtol=0)


def test_expectation_rises_to_the_truth(linear, monkeypatch):
    model, x = linear
    monkeypatch.setattr(model, "scale", 2.0)
    log_w = torch.stack([log_weights(model, row, model.posterior(row), 4096) for row in x.split(1)])
    off = [(summarize(log_w.unflatten(1, (-1, K))).log_px.mean(1) - model.log_prob(x)).mean() for K in (1, 4, 32)]
    assert off[0] < off[1] < off[2] < 0.05


def test_seed_and_memory(small, linear):
    model, x = small[0], small[1][:3]
    once = log_likelihood(model, x, num_samples=1100)
    for batch_size in (1, 7, 5000):
        for a, b in zip(once, log_likelihood(model, x, num_samples=1100, batch_size=batch_size)):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-4)
    again, other = log_likelihood(model, x, num_samples=1100), log_likelihood(model, x, num_samples=1100, seed=1)
    assert (again.log_px == once.log_px).all() and (other.log_px != once.log_px).any()
    batches = log_likelihood(model, StreamLoader([(x[:1], None), (x[1:], None)]), num_samples=1100)
    torch.testing.assert_close(batches.log_px, once.log_px)


def test_memory_is_bounded(small):
    model, x = small
    seen = []
    model.fc_output.register_forward_hook(lambda module, given, out: seen.append(len(out)))
    log_likelihood(model, x[:2], num_samples=2500, batch_size=300)
    assert max(seen) <= 300 and sum(seen) - 2 == 2 * 2500  # two more: the trial of the model


def test_evaluation_leaves_the_model_and_the_noise_alone(small):
    model, x = small
    model.train()
    before = torch.get_rng_state()
    log_likelihood(model, x, num_samples=3)
    inference_gaps(model, x, 3, 2)
    assert model.training and (torch.get_rng_state() == before).all() and all(p.grad is None for p in model.parameters())


def test_any_model_of_the_house(small):
    """Rows or images; a stranger with encode and decode only."""
    class Stranger(nn.Module):
        def __init__(self):
            super().__init__()
            self.vae, self.latent_dim = small[0], 3
        def encode(self, x): return self.vae.encode(x)
        def decode(self, z): return self.vae.decode(z)
    known = log_likelihood(small[0], small[1], num_samples=50).log_px
    torch.testing.assert_close(log_likelihood(Stranger(), small[1], num_samples=50).log_px, known, atol=1e-4, rtol=0)
    images = log_likelihood(small[0], small[1].view(-1, 1, 4, 4), num_samples=50).log_px
    torch.testing.assert_close(images, known)


def test_sums_over_all_codes_that_there_are():
    """A latent with two values: the estimate is the sum over both."""
    class Coin(nn.Module):
        prior = Independent(Bernoulli(torch.tensor([0.3])), 1)
        def posterior(self, x): return Independent(Bernoulli(torch.full((len(x), 1), 0.5)), 1)
        def likelihood(self, z): return Independent(Normal(3 * z.expand(*z.shape[:-1], 4), 1.0), 1)
    x = torch.zeros(1, 4)
    exact = torch.logaddexp(math.log(0.7) + Normal(0, 1).log_prob(x).sum(), math.log(0.3) + Normal(3, 1).log_prob(x).sum())
    e = log_likelihood(Coin(), x, num_samples=4000)
    assert abs(e.log_px - exact) < 4 * e.standard_error


# Gaps

def test_gaps_of_a_gaussian_posterior(linear, monkeypatch):
    model, x = linear
    exact = model.posterior(x)
    monkeypatch.setattr(model, "scale", 1.6)
    variance = 1 / exact.precision_matrix.diagonal(0, 1, 2)
    with inference(model): best = refine_posterior(model, x)
    torch.testing.assert_close(best.mean, exact.mean, atol=0.1, rtol=0)
    torch.testing.assert_close(best.variance, variance, rtol=0.25, atol=0)
    gaps = inference_gaps(model, x, num_samples=2000)
    approximation = kl_divergence(MultivariateNormal(exact.mean, variance.diag_embed()), exact)
    amortization = kl_divergence(model.posterior(x), exact) - approximation
    torch.testing.assert_close(gaps.log_px, model.log_prob(x), atol=0.25, rtol=0)
    torch.testing.assert_close(gaps.approximation, approximation, atol=0.25, rtol=0)
    torch.testing.assert_close(gaps.amortization, amortization, atol=0.3, rtol=0)
    torch.testing.assert_close(gaps.approximation + gaps.amortization, gaps.log_px - gaps.elbo)


# Rows and tables

def test_report_measures_what_it_says(small):
    model, _ = small
    grey = (torch.rand(20, 16, generator=torch.Generator().manual_seed(1)) * 255).round() / 255
    row = report(model, (grey, torch.zeros(20)), num_samples=30, name="mine", data_name="noise", split="all", seed=4)
    e = log_likelihood(model, binarize(grey, generator=torch.Generator().manual_seed(4)), num_samples=30, seed=4)
    assert row.nats == pytest.approx(-e.log_px.mean().item()) and row.bound == pytest.approx(-e.bound.mean().item())
    assert row.standard_error == pytest.approx(e.log_px.std().item() / math.sqrt(20))
    assert row.protocol.values == "drawn binary, seed 4" and row.protocol.samples == 30 and row.protocol.images == 20
    assert (row.model, row.protocol.split, row.source) == ("mine", "all", "measured") and row.seconds > 0
    other = report(model, grey, num_samples=30, data_name="noise", split="all", seed=5).protocol
    assert other.data != row.protocol.data, "another draw has another hash"
    assert report(model, grey, 30, data_name="noise", split="all", seed=4).protocol == row.protocol
    binary = report(model, binarize(grey), num_samples=2)
    assert binary.protocol.values == "as given" and binary.model == "VAE"


def test_report_takes_other_likelihoods_as_given(linear):
    model, x = linear
    row = report(model, x, num_samples=5)
    assert row.nats == pytest.approx(-model.log_prob(x).mean().item()) and row.protocol.values == "as given"
    assert report(model, x[:1], num_samples=5).standard_error is None


def rows():
    a = Protocol("MNIST", "test", 10_000, "drawn", "importance sampling", 5000)
    b = Protocol("MNIST", "test", None, "fixed", "importance sampling", None)
    return Row("one", 90.0, a, 0.5, 95.0, 12.0), Row("two", 80.0, b, source="published"), Row("three", 85.0, a)


def test_unlike_protocols_never_share_a_column():
    lines = table(rows()).splitlines()
    cells = [[c.strip() for c in line.strip("|").split("|")] for line in lines[:5]]
    assert cells[0] == ["model", "(1)", "(2)", "source"]
    assert cells[2] == ["one", "90.00 ± 0.50", "", "measured"]
    assert cells[3] == ["two", "", "80.00", "published"]
    assert cells[4] == ["three", "85.00", "", "measured"]
    assert lines[-2:] == ["- (1) MNIST, test, 10,000 images; drawn; importance sampling, 5,000 samples",
                          "- (2) MNIST, test, unknown number of images; fixed; importance sampling, unknown number of samples"]


def test_a_row_as_text_json_and_markdown():
    one, two, _ = rows()
    assert str(one).startswith("one: 90.00 nats, standard error 0.50, negative ELBO 95.00, in 12.0 s; MNIST, test, 10,000 images")
    assert str(two).startswith("two: 80.00 nats; MNIST") and str(two).endswith("; published")
    known = json.loads(one.to_json())
    assert Row(**known | {"protocol": Protocol(**known["protocol"])}) == one
    assert one.to_markdown() == table([one])


# The network of Burda et al.

def test_burda_network():
    torch.manual_seed(0)
    model = BurdaVAE()
    assert sum(p.numel() for p in model.parameters()) == 425_284
    x = torch.rand(3, 1, 28, 28)
    mu, log_var = model.encode(x)
    assert mu.shape == log_var.shape == (3, 50) and model.decode_logits(torch.zeros(2, 4, 50)).shape == (2, 4, 784)
    recon_x, mu, _ = model(x)
    assert recon_x.shape == (3, 784) and recon_x.min() > 0 and recon_x.max() < 1
    h = torch.tanh(model.encoder[2](torch.tanh(model.encoder[0](x.flatten(1)))))
    torch.testing.assert_close(model.fc_mu(h), mu)
    limit = math.sqrt(6 / (784 + 200))
    assert limit * 0.99 < model.encoder[0].weight.abs().max() <= limit and not model.fc_output.bias.any()
    assert [p.shape[0] for p in model.decoder.parameters()][::2] == [200, 200] and model.prior.event_shape == (50,)


def test_burda_network_of_other_sizes():
    model = BurdaVAE(16, [8, 5], 3)
    again = BurdaVAE(**json.loads(json.dumps(model.config)))
    assert again.config == model.config == {"input_dim": 16, "hidden_dims": (8, 5), "latent_dim": 3}
    again.load_state_dict(model.state_dict())
    x = (torch.rand(40, 1, 4, 4) < 0.5).float()
    history = fit(model, x, epochs=2, progress=False)
    assert history["train_loss"][1] < history["train_loss"][0] and model.config["image_shape"] == (1, 4, 4)
    assert model.likelihood(torch.zeros(2, 3)).event_shape == (1, 4, 4)
    assert log_likelihood(model, x[:3], 4).log_px.shape == (3,)


@pytest.mark.parametrize("make, message", [
    (lambda: BurdaVAE(hidden_dims=()), "hidden_dims must hold at least one width"),
    (lambda: BurdaVAE(hidden_dims=(200, 0)), "hidden_dims must be a whole number of at least 1, not 0"),
    (lambda: BurdaVAE(latent_dim=0), "latent_dim must be a whole number"),
    (lambda: BurdaVAE(input_dim=2.5), "input_dim must be a whole number"),
    (lambda: BurdaVAE(16, image_shape=(3, 3)), "image_shape must have input_dim = 16"),
    (lambda: BurdaVAE().encode(torch.rand(3, 5)), "rows must have input_dim = 784 numbers, not"),
    (lambda: BurdaVAE().decode_logits(torch.rand(3, 5)), "rows must have latent_dim = 50 numbers, not"),
])
def test_burda_network_refuses(make, message):
    with pytest.raises(ValueError, match=message): make()


# Bad input

@pytest.mark.parametrize("call, message", [
    (lambda m, x: log_likelihood(m, x, num_samples=0), "num_samples must be a whole number of at least 1, not 0"),
    (lambda m, x: log_likelihood(m, x, batch_size=0), "batch_size must be"),
    (lambda m, x: log_likelihood(m, 2 * x), "data"),
    (lambda m, x: log_likelihood(nn.Linear(2, 2), x), "model must have"),
    (lambda m, x: inference_gaps(m, x, num_samples=0), "num_samples must be"),
    (lambda m, x: inference_gaps(m, x, num_steps=0), "num_steps must be"),
    (lambda m, x: report(m, x, num_samples=0), "num_samples must be"),
])
def test_bad_input_gets_a_sentence(small, call, message):
    with pytest.raises(ValueError, match=message) as caught: call(*small)
    assert "\n" not in str(caught.value)

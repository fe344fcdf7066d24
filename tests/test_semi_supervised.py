"""M2: bounds that are sums over all classes, labels that reach the classifier, and a latent (y, z) that the house can evaluate."""
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.testing import assert_close

from vae_nbdev.conditional import class_evidence, sample
from vae_nbdev.evaluation import log_likelihood
from vae_nbdev.model import decode, posterior_mean
from vae_nbdev.runs import load, save
from vae_nbdev.semi_supervised import MixedBatches, SemiSupervised, SemiSupervisedVAE, error_rate, hide_labels
from vae_nbdev.training import evaluate, fit, negative_elbo
from vae_nbdev.visualization import generate_samples

QUIET = {"progress": False, "device": "cpu"}


def seeded(seed=0): return torch.Generator().manual_seed(seed)


@pytest.fixture
def model():
    torch.manual_seed(0)
    return SemiSupervisedVAE(16, 8, 2, 3)


@pytest.fixture
def data():
    return torch.rand(9, 1, 4, 4, generator=seeded(1)).round(), torch.arange(9) % 3


def without_code(model):
    "A decoder that does not look at z: no noise is left in the bounds."
    with torch.no_grad(): model.vae.fc_decoder_hidden.weight[:, :model.style_dim] = 0
    return model


# The bounds

def test_a_labelled_bound_is_that_of_the_conditional_model(model, data):
    terms = SemiSupervised(7.0)(model, data, seeded())
    assert_close(terms["bound"], negative_elbo(model.vae, data, seeded())["loss"] + math.log(3))
    assert_close(terms["surprise"], F.cross_entropy(model.classifier(data[0].flatten(1)), data[1], reduction="none"))
    assert_close(terms["loss"], terms["bound"] + 7 * terms["surprise"])


def test_an_unlabelled_bound_is_the_sum_over_classes(model, data):
    """Eq. (25.2), term by term, where nothing is drawn."""
    x, model = data[0], without_code(model)
    bound = lambda y: SemiSupervised()(model, (x, torch.full((9,), y)))["bound"]
    q = model.log_class(x)
    expected = sum(q[:, k].exp() * (bound(k) + q[:, k]) for k in range(3))
    terms = SemiSupervised()(model, (x, torch.full((9,), -1)))
    assert_close(terms["bound"], expected)
    assert_close(terms["loss"], terms["bound"])
    assert not terms["surprise"].any()


def test_a_batch_may_hold_both_kinds(model, data):
    x, y = data[0], torch.where(torch.arange(9) % 2 == 0, data[1], -1)
    model = without_code(model)
    mixed, labelled, none = (SemiSupervised()(model, (x, t)) for t in (y, data[1], torch.full((9,), -1)))
    for name in mixed: assert_close(mixed[name], torch.where(y >= 0, labelled[name], none[name]))


@pytest.mark.parametrize("label, weight, reached", [(0, 0.0, False), (0, 1.0, True), (-1, 0.0, True)])
def test_what_teaches_the_classifier(label, weight, reached, model, data):
    """The labelled bound does not; its own term does, and so does the unlabelled bound."""
    SemiSupervised(weight)(model, (data[0], torch.full((9,), label)))["loss"].sum().backward()
    assert bool(model.classifier[0].weight.grad.abs().sum() > 0) == reached
    assert model.vae.fc_output.weight.grad.abs().sum() > 0


# Three distributions

def test_evidence_is_the_sum_over_classes(model, data):
    found = log_likelihood(model, data[0], 4000).log_px
    expected = class_evidence(model.vae, data[0], 4000).logsumexp(1) - math.log(3)
    assert_close(found.float(), expected, atol=0.05, rtol=0)


def test_class_and_code_side_by_side(model, data):
    q = model.posterior(data[0])
    u = q.sample((4000,))
    assert u.shape == (4000, 9, 5) and q.event_shape == (5,) and model.prior.event_shape == (5,)
    assert (u[..., :3].sum(-1) == 1).all()
    assert_close(u.mean(0), q.mean, atol=0.1, rtol=0)
    assert_close(u.mean(0)[:, :3], model.log_class(data[0]).exp(), atol=0.05, rtol=0)
    y, z = u[0].split([3, 2], 1)
    inner = model.vae.given(y.argmax(1)).posterior(data[0])
    assert_close(q.log_prob(u[0]), (model.log_class(data[0]) * y).sum(1) + inner.log_prob(z))
    assert_close(model.prior.log_prob(u[0]), torch.distributions.Normal(0, 1).log_prob(z).sum(1) - math.log(3))


def test_the_house_can_use_it(model, data, tmp_path):
    fit(model, data, data, objective=SemiSupervised(), epochs=1, **QUIET)
    assert model.image_shape == (1, 4, 4) and model.latent_dim == 5
    assert generate_samples(model, 3).shape == (3, 1, 4, 4)
    mu = posterior_mean(model, data[0])
    assert mu.shape == (9, 5) and decode(model, mu).shape == (9, 1, 4, 4)
    assert sample(model.vae, range(3), 2).shape == (6, 1, 4, 4)
    assert math.isfinite(evaluate(model, data[0])["loss"])
    again = load(save(model, tmp_path / "m.safetensors"))
    assert again.config == model.config and torch.equal(again.log_class(data[0]), model.log_class(data[0]))


# Training

def test_images_without_labels_help():
    """Two kinds of stripes, noise, and pixels that say nothing: a classifier cannot know from four images what matters."""
    y = torch.arange(600) % 2
    stripes = torch.tensor([[1.0, 0.0] * 8, [0.0, 1.0] * 8])[y]
    x = torch.cat([stripes * 0.6 + 0.2, torch.full((600, 16), 0.5)], 1).bernoulli(generator=seeded(2))
    hidden = torch.where(torch.arange(600) < 4, y, -1)
    torch.manual_seed(0)
    model = SemiSupervisedVAE(32, 16, 2, 2)
    batches = MixedBatches((x, hidden), labelled=4, others=50)
    fit(model, batches, objective=SemiSupervised(20.0), epochs=10, lr=0.01, **QUIET)
    alone = nn.Sequential(nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, 2))
    adam = torch.optim.Adam(alone.parameters(), 0.01)
    for _ in range(120):
        adam.zero_grad()
        F.cross_entropy(alone(x[:4]), y[:4]).backward()
        adam.step()
    wrong = (alone(x).argmax(1) != y).float().mean()
    assert error_rate(model, x, y) < 0.015 and wrong > 0.02


def test_the_same_seed_gives_the_same_run(data):
    states = []
    for _ in range(2):
        torch.manual_seed(0)
        model = SemiSupervisedVAE(16, 8, 2, 3)
        fit(model, MixedBatches(data, 2, 4), objective=SemiSupervised(), epochs=2, **QUIET)
        states.append(model.state_dict())
        torch.rand(3)
    for a, b in zip(*(s.values() for s in states)): assert torch.equal(a, b)


def test_batches_of_two_kinds():
    x, y = torch.arange(20.0)[:, None].expand(20, 4).contiguous() / 20, torch.arange(20) % 5
    hidden = hide_labels(y, 10, seeded(3))
    assert (hidden >= 0).sum() == 10 and hidden[hidden >= 0].bincount().tolist() == [2] * 5
    assert torch.equal(hidden[hidden >= 0], y[hidden >= 0])
    batches = MixedBatches((x, hidden), labelled=3, others=8)
    seen = [*batches]
    assert len(seen) == len(batches) == 3
    first = torch.cat([images[:3] for images, _ in seen])[:, 0].mul(20).round().long()
    assert torch.equal(torch.cat([labels[:3] for _, labels in seen]), hidden[first]) and (hidden[first] >= 0).all()
    others = torch.cat([images[3:] for images, _ in seen])[:, 0].mul(20).round().long()
    assert others.sort().values.tolist() == list(range(20))
    assert (torch.cat([labels[3:] for _, labels in seen]) == -1).all()
    assert not torch.equal(next(iter(batches))[0], seen[0][0])


# One sentence

@pytest.mark.parametrize("labels, says", [(None, "not None"), (torch.tensor([0, 1, 3]), "not 0 to 3"), (torch.tensor([0, -2, 1]), "not -2 to 1"),
                                          (torch.rand(3), "float32"), (torch.eye(3).long(), r"shape \(3, 3\)")])
def test_labels_that_are_none(labels, says, model, data):
    with pytest.raises(ValueError, match=f"labels must be whole numbers from 0 to 2, or -1 .*{says}"):
        SemiSupervised()(model, (data[0][:3], labels))


def test_no_gradient_through_a_class(model, data):
    with pytest.raises(ValueError, match="objective must sum over the classes, as SemiSupervised does"):
        fit(model, data[0], epochs=1, **QUIET)


@pytest.mark.parametrize("call, says", [
    (lambda: SemiSupervised(-1.0), "weight must be a number, 0 or more, not -1.0"),
    (lambda: hide_labels(torch.arange(10) % 5, 7), "keep must be a multiple of 5 classes.* not 7"),
    (lambda: hide_labels(torch.tensor([0, 0, 0, 1]), 4), "leave none short, not 4"),
    (lambda: MixedBatches(torch.rand(4, 4)), "data must hold a label that is known"),
    (lambda: MixedBatches((torch.rand(4, 4), torch.full((4,), -1))), "data must hold a label that is known"),
    (lambda: MixedBatches((torch.rand(4, 4), torch.arange(4)), labelled=0), "labelled must be a whole number"),
    (lambda: SemiSupervisedVAE(num_classes=1), "num_classes must be a whole number of at least 2"),
    (lambda: error_rate(SemiSupervisedVAE(16, 8, 2, 3), torch.rand(3, 16), torch.zeros(2)), "labels must be as many as images, 3, not 2")])
def test_one_sentence(call, says):
    with pytest.raises(ValueError, match=says): call()


def test_only_the_objective_of_the_model(data):
    from vae_nbdev.model import VAE
    with pytest.raises(ValueError, match="model must be a SemiSupervisedVAE"): SemiSupervised()(VAE(16, 8, 2), data)

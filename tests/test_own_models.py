"""A stranger's model and data in any form: trained, evaluated, drawn, saved; else one sentence."""
import math
import warnings
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.distributions import Independent, Normal, kl_divergence
from torch.nn.utils import parameters_to_vector
from torch.utils.data import DataLoader, Dataset, TensorDataset

from vae_nbdev.data import BatchLoader
from vae_nbdev.elbo import PPCA, noise_from, ppca_maximum_likelihood
from vae_nbdev.fast import FAST, SEED
from vae_nbdev.model import (VAE, Distributions, as_vae, bernoulli, decode, inference, posterior_mean,
                             reconstruct)
from vae_nbdev.runs import load, save
from vae_nbdev.training import (RECIPES, GradientStep, Recipe, evaluate, find_recipe, fit,
                                negative_elbo)
from vae_nbdev.visualization import (generate_samples, plot_latent_space, plot_losses,
                                     plot_reconstructions, plot_samples)


def pictures(count=64, shape=(1, 4, 4), seed=0):
    """Binary images and labels: one of four patterns each, a tenth of its pixels flipped."""
    fixed, g = torch.Generator().manual_seed(9), torch.Generator().manual_seed(seed)
    patterns = torch.randint(2, (4, *shape), generator=fixed).bool()
    labels = torch.randint(4, (count,), generator=g)
    return (patterns[labels] ^ (torch.rand(count, *shape, generator=g) < 0.1)).float(), labels


IMAGES, LABELS = pictures()
SHORT = {"epochs": 3, "batch_size": 16, "progress": False, "device": "cpu"}


def train(model, data=IMAGES, **options):
    return fit(model, data, **SHORT | options)


def weights(model):
    return parameters_to_vector(model.parameters()).detach().clone()


def seeded(make, *args, seed=0):
    torch.manual_seed(seed)
    return make(*args)


def small_vae():
    return seeded(VAE, 16, 12, 3)


# ---- models of strangers ------------------------------------------------------------------------

class Stranger(nn.Module):
    """The seed's contract and nothing else: rows of pixels in, probabilities out."""

    def __init__(self, D=16, H=12, Z=3):
        super().__init__()
        self.D, self.hidden = D, nn.Linear(D, H)
        self.mean, self.log_variance = nn.Linear(H, Z), nn.Linear(H, Z)
        self.up, self.out = nn.Linear(Z, H), nn.Linear(H, D)

    def encode(self, x):
        h = F.relu(self.hidden(x))
        return self.mean(h), self.log_variance(h)

    def decode(self, z):
        return torch.sigmoid(self.out(F.relu(self.up(z))))

    def forward(self, x):
        mu, log_var = self.encode(x.view(-1, self.D))
        return self.decode(mu + torch.randn_like(mu) * torch.exp(0.5 * log_var)), mu, log_var


class ConvLogits(nn.Module):
    """Takes and makes images, and has the logits."""

    def __init__(self, channels=1):
        super().__init__()
        self.down, self.code = nn.Conv2d(channels, 4, 3, padding=1), nn.Linear(64, 2 * 3)
        self.up, self.out = nn.Linear(3, 64), nn.Conv2d(4, channels, 3, padding=1)

    def encode(self, x):
        return self.code(F.relu(self.down(x)).flatten(1)).chunk(2, 1)

    def decode_logits(self, z):
        return self.out(F.relu(self.up(z)).view(-1, 4, 4, 4))


class Conv(ConvLogits):
    """The same with probabilities alone."""

    def decode(self, z):
        return torch.sigmoid(super().decode_logits(z))

    decode_logits = property()  # hidden: hasattr says no


class Heir(ConvLogits, Distributions):
    """Has encode and decode_logits, and inherits the three distributions."""
    latent_dim = 3


class Gaussian(nn.Module):
    """Three distributions of its own: a Gaussian likelihood whose scale is learned."""

    def __init__(self, D=16, Z=3):
        super().__init__()
        self.code, self.out = nn.Linear(D, 2 * Z), nn.Linear(Z, D)
        self.log_scale = nn.Parameter(torch.zeros(()))

    @property
    def prior(self):
        return Independent(Normal(torch.zeros(3), torch.ones(3)), 1)

    def posterior(self, x):
        mu, log_var = self.code(x.flatten(1)).chunk(2, 1)
        return Independent(Normal(mu, torch.exp(0.5 * log_var)), 1)

    def likelihood(self, z):
        return Independent(Normal(self.out(z), self.log_scale.exp()), 1)


STANDARDIZED = (IMAGES - IMAGES.mean()) / IMAGES.std()
MODELS = {"rows": (Stranger, IMAGES), "images": (Conv, IMAGES), "logits": (ConvLogits, IMAGES),
          "inherits": (Heir, IMAGES), "own distributions": (Gaussian, STANDARDIZED),
          "a class of ours": (small_vae, IMAGES)}


@pytest.mark.parametrize("kind, recipe", [(kind, "plain") for kind in MODELS] + [("a class of ours", "seed"), ("rows", "seed")])
def test_any_model_is_trained_evaluated_drawn_and_saved(kind, recipe, tmp_path):
    make, images = MODELS[kind]
    model = seeded(make)
    history = train(model, images, test_data=images, epochs=12, lr=0.03, recipe=recipe)
    assert history["train_loss"][-1] < 0.9 * history["train_loss"][0]
    scores = evaluate(model, images)
    assert history["test_loss"][-1] == scores["loss"]
    error = (reconstruct(model, images) - images).square().mean()
    assert error < 0.8 * images.var(0).mean()  # better than the mean image
    again = load(save(model, tmp_path / "mine.safetensors"), model=seeded(make, seed=1))
    assert evaluate(again, images) == scores
    for m in (model, again):
        samples = generate_samples(m, 5, generator=torch.Generator().manual_seed(0))
        assert samples.shape == (5, 1, 4, 4)
    assert torch.equal(reconstruct(model, images), reconstruct(again, images))


@pytest.mark.parametrize("kind", ["rows", "images", "logits", "inherits"])
def test_pictures_of_any_model(kind):
    model = seeded(MODELS[kind][0])
    history = train(model)
    figures = [plot_losses(history), plot_samples(model, 7), plot_reconstructions(model, IMAGES, 5),
               plot_latent_space(model, (IMAGES, LABELS))]
    for figure in figures:
        figure.canvas.draw()
        assert figure.axes


@pytest.mark.parametrize("optimizer, lr", [
    (torch.optim.Adam, 1e-2), (partial(torch.optim.SGD, lr=1.0, momentum=0.9), 1e-3)])
def test_training_is_the_loop_that_its_author_would_write(optimizer, lr):
    """Forward, sum of two terms, backward, step: with the same noise, weights to 1e-5."""
    ours, theirs = seeded(Stranger), seeded(Stranger)
    history = train(ours, lr=lr, step=partial(GradientStep, optimizer=optimizer))
    by_hand, losses, loader = optimizer(theirs.parameters()), [], BatchLoader(IMAGES, 16, True, 42)
    torch.manual_seed(42)
    for epoch in range(3):
        losses.append(0.0)
        for data, _ in loader:
            for group in by_hand.param_groups: group["lr"] = lr
            by_hand.zero_grad()
            recon_x, mu, log_var = theirs(data)
            bce = F.binary_cross_entropy(recon_x, data.view(-1, 16), reduction="sum")
            loss = bce - 0.5 * torch.sum(1 + log_var - mu.pow(2) - log_var.exp())
            loss.backward()
            losses[-1] += loss.item() / len(IMAGES)
            by_hand.step()
    torch.testing.assert_close(weights(ours), weights(theirs), rtol=0, atol=1e-5)
    assert history["train_loss"] == pytest.approx(losses, rel=1e-5)
    assert (weights(ours) - weights(seeded(Stranger))).abs().max() > 1e-2  # there was something to do


class Wrapper(nn.Module):
    """Has nothing of its own, and asks the module inside for everything."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def __getattr__(self, name):
        try: return super().__getattr__(name)
        except AttributeError: return getattr(super().__getattr__("inner"), name)


@pytest.mark.parametrize("make", [small_vae, lambda: seeded(Stranger)])
def test_a_model_in_a_wrapper_is_the_model(make):
    inner, wrapped = make(), Wrapper(make())
    assert train(inner)["train_loss"] == train(wrapped)["train_loss"]
    assert torch.equal(reconstruct(inner, IMAGES), reconstruct(wrapped, IMAGES))


def test_probabilities_and_logits_are_one_model():
    models = seeded(Conv), seeded(ConvLogits)
    a, b = (evaluate(model, IMAGES) for model in models)
    assert a == pytest.approx(b, rel=1e-6)
    histories = [train(model, lr=0.01)["train_loss"] for model in models]
    assert histories[0] == pytest.approx(histories[1], rel=1e-4)


@settings(deadline=None, max_examples=40)
@given(sizes=st.tuples(*[st.integers(1, 9)] * 4), seed=st.integers(0, 999), scale=st.floats(0.1, 3))
def test_a_stranger_has_the_distributions_of_a_vae_of_the_same_weights(sizes, seed, scale):
    D, H, Z, B = sizes
    ours, theirs = seeded(VAE, D, H, Z, seed=seed).double(), Stranger(D, H, Z).double()
    with torch.no_grad():
        for a, b in zip(ours.parameters(), theirs.parameters(), strict=True): b.copy_(a.mul_(scale))
    x, vae = torch.rand(B, D).double(), as_vae(theirs)
    q, p = ours.posterior(x), vae.posterior(x)
    torch.testing.assert_close(kl_divergence(p, vae.prior), kl_divergence(q, ours.prior))
    z = torch.randn(3, B, Z).double()
    for a, b in ((ours.prior, vae.prior), (q, p)): torch.testing.assert_close(b.log_prob(z), a.log_prob(z))
    torch.testing.assert_close(vae.likelihood(z).log_prob(x), ours.likelihood(z).log_prob(x))
    torch.testing.assert_close(vae.likelihood(z).mean, ours.likelihood(z).mean)
    torch.manual_seed(seed)
    drawn = q.rsample((2,))
    torch.manual_seed(seed)
    assert torch.equal(drawn, p.rsample((2,)))


class Ppca(nn.Module):
    """A linear-Gaussian model of fixed weights: nothing to train, all to evaluate."""

    def __init__(self):
        super().__init__()
        self.register_buffer("W", torch.eye(16)[:, :3])

    @property
    def prior(self): return Independent(Normal(torch.zeros(3), torch.ones(3)), 1)
    def posterior(self, x): return Independent(Normal(x.flatten(1) @ self.W / 2, torch.full((3,), 0.5**0.5)), 1)
    def likelihood(self, z): return Independent(Normal(z @ self.W.T, torch.ones(16)), 1)


def test_a_model_without_parameters_is_evaluated_and_not_trained():
    """Its posterior is exact, so the negative ELBO is -log p(x) with no noise: x ~ N(0, W W^T + 1)."""
    x = 3 * torch.randn(50, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    variance = 1 + torch.eye(16)[:, :3].sum(1)
    exact = -Normal(torch.zeros(16), variance.sqrt()).log_prob(x.flatten(1)).sum(1).mean().item()
    elbo = evaluate(Ppca(), x, passes=100)["loss"]
    assert elbo == pytest.approx(exact, rel=5e-3)
    assert reconstruct(Ppca(), x).shape == x.shape
    with pytest.raises(ValueError, match="must have a parameter to train"): train(Ppca(), x)


def test_a_model_with_an_exact_posterior_is_trained_by_the_same_loop():
    """Probabilistic PCA: its bound is the evidence, and gradient descent approaches the solution in closed form."""
    x = torch.randn(200, 6, generator=torch.Generator().manual_seed(0)) @ torch.randn(6, 6, generator=torch.Generator().manual_seed(1))
    best = PPCA(*ppca_maximum_likelihood(x, 2))
    exact = -best.log_prob(x).mean().item()
    assert evaluate(best, x, passes=40)["loss"] == pytest.approx(exact, rel=0.02)
    model = PPCA(torch.eye(6)[:, :2], torch.zeros(6), 1.0)
    history = train(model, x, epochs=100, batch_size=200, lr=0.05)
    assert -model.log_prob(x).mean().item() == pytest.approx(exact, rel=0.02) and history["train_loss"][0] > 1.1 * exact


# ---- data in any form ---------------------------------------------------------------------------

BYTES = torch.randint(0, 256, (50, 1, 4, 4), generator=torch.Generator().manual_seed(1)).byte()
FLOATS, KINDS = BYTES.float() / 255, torch.arange(50) % 4


class Items(Dataset):
    """What a program's own data set gives, made of an image and a label by `form`."""

    def __init__(self, form): self.form = form
    def __len__(self): return len(BYTES)
    def __getitem__(self, i):
        if i >= len(self): raise IndexError(i)
        return self.form(BYTES[i], int(KINDS[i]))


def picture(x):
    from PIL import Image
    return Image.fromarray(x[0].numpy())


IN_MEMORY = {
    "array": FLOATS.numpy(), "double array": FLOATS.numpy().astype("float64"), "uint8": BYTES,
    "uint8 array": BYTES.numpy(), "pair": (FLOATS, KINDS), "list of two": [FLOATS, KINDS],
    "pair of arrays": (BYTES.numpy(), KINDS.numpy()), "dictionary": {"image": FLOATS, "label": KINDS},
    "tensor data set": TensorDataset(FLOATS, KINDS), "images alone": Items(lambda x, y: x),
    "images and labels": Items(lambda x, y: (x, y)), "floats and labels": Items(lambda x, y: (x / 255, y)),
    "pictures": Items(lambda x, y: (picture(x), y)), "dictionaries": Items(lambda x, y: {"image": x, "label": y}),
}
QUIET = pytest.mark.filterwarnings("ignore:.*Gaussian likelihood would suit:UserWarning")


@QUIET
@pytest.mark.parametrize("form", IN_MEMORY)
def test_every_form_of_the_same_images_gives_the_same_numbers(form):
    data = IN_MEMORY[form]
    expected, model = small_vae(), small_vae()
    losses = train(expected, FLOATS, test_data=FLOATS)
    history = train(model, data, test_data=data)
    close = dict(rel=1e-6) if form == "double array" else dict(rel=0, abs=0)
    assert history["train_loss"] == pytest.approx(losses["train_loss"], **close)
    assert history["test_loss"] == pytest.approx(losses["test_loss"], **close)
    torch.testing.assert_close(weights(model), weights(expected), rtol=0, atol=1e-6 if "rel" in close else 0)
    assert evaluate(model, data) == pytest.approx(evaluate(model, FLOATS), rel=1e-6)


def batches(data):
    """A loader with a generator of its own: others draw a number for their workers from the run's noise."""
    return DataLoader(data, batch_size=16, generator=torch.Generator())


STREAMS = {
    "loader": batches(TensorDataset(FLOATS, KINDS)), "loader of bytes": batches(Items(lambda x, y: (x, y))),
    "loader of dictionaries": batches(Items(lambda x, y: {"image": x, "label": y})),
    "list of batches": list(FLOATS.split(16)), "list of pairs": list(zip(FLOATS.split(16), KINDS.split(16))),
}


@QUIET
@pytest.mark.parametrize("form", STREAMS)
def test_a_stream_is_the_same_images_in_its_own_order(form):
    model, expected, data, same = small_vae(), small_vae(), STREAMS[form], BatchLoader(FLOATS, 16)
    history, wanted = (train(m, x, test_data=x, batch_size=None) for m, x in ((model, data), (expected, same)))
    assert torch.equal(weights(model), weights(expected))
    for name in ("train_loss", "test_loss"): assert history[name] == wanted[name]
    assert evaluate(model, data) == evaluate(model, FLOATS, batch_size=16)


@QUIET
def test_a_loader_of_the_callers_is_left_as_it_is():
    """A model of another precision that knows another shape: the loader keeps its own."""
    loader, model = BatchLoader(BYTES[:, 0], 7), small_vae().double()
    model.image_shape = (1, 4, 4)
    kept = loader.images
    train(model, loader, test_data=loader, batch_size=None)
    evaluate(model, loader)
    assert loader.images is kept and kept.dtype == torch.float32 and kept.shape == (50, 4, 4) and loader.batch_size == 7
    loader.to("cpu")
    assert len(next(iter(loader))[0]) == 7


@QUIET
def test_a_stream_that_shuffles_follows_the_seed():
    loader = DataLoader(TensorDataset(FLOATS), batch_size=16, shuffle=True)
    options, runs = {**SHORT, "batch_size": None}, []
    for seed in (42, 42, 43):
        torch.manual_seed(len(runs))  # of no matter
        before, model = torch.get_rng_state(), seeded(VAE, 16, 12, 3)
        torch.set_rng_state(before)
        runs.append((fit(model, loader, seed=seed, **options)["train_loss"], weights(model)))
        assert torch.equal(torch.get_rng_state(), before)
    assert runs[0][0] == runs[1][0] != runs[2][0] and torch.equal(runs[0][1], runs[1][1])


def test_an_iterator_is_refused_before_any_work():
    with pytest.raises(ValueError, match="train_data must give its batches anew in each epoch"):
        fit(small_vae(), iter(IMAGES.split(8)), progress=False)


# ---- shapes -------------------------------------------------------------------------------------

@pytest.mark.parametrize("shape", [(3, 8, 8), (1, 4, 16), (1, 24), (5, 3)])
@pytest.mark.parametrize("make", [VAE, Stranger])
def test_flat_models_give_images_back_in_their_shape(shape, make, tmp_path):
    """Colour, not square, a signal, a grey image without channels; the file remembers the shape."""
    D, x = math.prod(shape), pictures(40, shape)[0]
    model = seeded(make, D, 16, 4)
    train(model, x)
    path = save(model, tmp_path / "model.safetensors")
    again = load(path) if make is VAE else load(path, model=make(D, 16, 4))
    with torch.no_grad(): expected = model.decode(model.encode(x.flatten(1))[0]).view(x.shape)
    for m in (model, again):
        torch.testing.assert_close(reconstruct(m, x), expected)
        assert generate_samples(m, 6).shape == decode(m, torch.zeros(6, 4)).shape == (6, *shape)
        torch.testing.assert_close(reconstruct(m, x[3]), expected[3])  # one picture
        torch.testing.assert_close(reconstruct(m, x.flatten(1)), expected.flatten(1))
        assert posterior_mean(m, x[3]).shape == (1, 4)
    assert (posterior_mean(model, x[:5]) - posterior_mean(model, x.flatten(1)[:5])).abs().max() < 1e-6


@pytest.mark.parametrize("make", [Conv, small_vae])
def test_images_without_their_channel_are_taken_by_a_model_that_knows_the_shape(make):
    """(N, H, W) or rows for (N, 1, H, W), also through convolutions, in training and after it."""
    model, other = seeded(make), seeded(make)
    other.image_shape = (1, 4, 4)
    assert train(model)["train_loss"] == train(other, IMAGES[:, 0])["train_loss"]
    for m in (model, other):
        torch.testing.assert_close(reconstruct(m, IMAGES[:, 0]), reconstruct(m, IMAGES)[:, 0])
        torch.testing.assert_close(posterior_mean(m, IMAGES[:, 0]), posterior_mean(m, IMAGES.flatten(1)))
        assert evaluate(m, IMAGES[:, 0]) == evaluate(m, IMAGES) == evaluate(m, IMAGES.flatten(1))
        assert plot_latent_space(m, (IMAGES[:, 0], LABELS)).axes


def test_one_picture_can_be_learned():
    model = small_vae()
    model.image_shape = (1, 4, 4)
    history = train(model, IMAGES[0], epochs=60, lr=0.03)
    assert history["train_loss"][-1] < 0.3 * history["train_loss"][0]
    assert (reconstruct(model, IMAGES[0]).round() == IMAGES[0]).all()


def test_latent_space_is_drawn_without_labels():
    model = seeded(Stranger)
    train(model)
    assert plot_latent_space(model, IMAGES).axes


# ---- tables -------------------------------------------------------------------------------------

def table(kind):
    g = torch.Generator().manual_seed(2)
    x = torch.rand(60, 8, generator=g)
    return {"continuous": x, "binary": x.round(), "grey": (255 * x).round() / 255}[kind]


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("kind", ["continuous", "binary", "grey"])
def test_a_table_is_trained_and_continuous_columns_are_warned_of(kind, recipe):
    model = seeded(VAE, 8, 6, 2)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        history = train(model, table(kind), recipe=recipe)
    assert ["Gaussian" in str(w.message) for w in seen] == [True] * (kind == "continuous")
    assert all(w.filename == __file__ for w in seen)  # it points at the caller of fit
    assert math.isfinite(history["train_loss"][-1])


@QUIET
def test_pictures_of_a_table():
    model, rows = seeded(VAE, 8, 6, 2), table("continuous")
    history = train(model, rows)
    assert plot_losses(history).axes and plot_latent_space(model, (rows, torch.arange(60) % 3)).axes
    assert reconstruct(model, rows).shape == generate_samples(model, 60).shape == (60, 8)
    for plot in (plot_samples, lambda m: plot_reconstructions(m, rows)):
        with pytest.raises(ValueError, match="^model makes rows of 8 numbers, not images"): plot(model)


def test_a_gaussian_likelihood_is_not_warned_of():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train(seeded(Gaussian), torch.randn(40, 16))


# ---- models that are none -----------------------------------------------------------------------

class Broken(Stranger):
    """Something is done to what its encoder or decoder returns."""

    def __init__(self, encoded=lambda *pair: pair, decoded=lambda p: p):
        super().__init__()
        self.encoded, self.decoded = encoded, decoded

    def encode(self, x): return self.encoded(*super().encode(x))
    def decode(self, z): return self.decoded(super().decode(z))


PAIR = "model.encode must return mu and log_var, two tensors of shape .B, Z., and of 2 images it returns "
IMAGE = "model.decode must return a tensor.* for each z, and of 2 it returns "
BROKEN = {
    "three values": (dict(encoded=lambda mu, v: (mu, v, mu)), PAIR + r"\[\(2, 3\), \(2, 3\), \(2, 3\)\]"),
    "one tensor": (dict(encoded=lambda mu, v: mu), PAIR + "Tensor"),
    "nothing": (dict(encoded=lambda mu, v: None), PAIR + "NoneType"),
    "a distribution": (dict(encoded=lambda mu, v: Normal(mu, v.exp())), PAIR + "Normal"),
    "one row": (dict(encoded=lambda mu, v: (mu[:1], v[:1])), PAIR + r"\[\(1, 3\), \(1, 3\)\]"),
    "maps": (dict(encoded=lambda mu, v: (mu[..., None, None], v[..., None, None])), PAIR + r"\[\(2, 3, 1, 1\)"),
    "other variances": (dict(encoded=lambda mu, v: (mu, v[:, :2])), "size of tensor a .3. must match .* b .2.|two tensors"),
    "logits": (dict(decoded=torch.logit), r"must return probabilities in \[0, 1\], not values from -.* is called decode_logits"),
    "bytes": (dict(decoded=lambda p: 255 * p), r"model.decode must return probabilities in \[0, 1\], not values from"),
    "a tuple": (dict(decoded=lambda p: (p, p)), IMAGE + "tuple"),
    "one image": (dict(decoded=lambda p: p[:1]), IMAGE + r"torch.Size\(\[1, 16\]\)"),
    "a number": (dict(decoded=lambda p: p.sum()), IMAGE + r"torch.Size\(\[\]\)"),
    "seven pixels": (dict(decoded=lambda p: p[:, :7]), r"model makes images of shape \(7,\), and \w+ has images of shape"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_model_is_told_in_one_sentence_what_is_wrong(kind):
    options, sentence = BROKEN[kind]
    for use in (train, lambda *args: train(*args, recipe="seed"), evaluate, reconstruct):
        with pytest.raises(ValueError, match=sentence) as error: use(Broken(**options), IMAGES.flatten(1))
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("model, images, sentence", [
    (Conv(), IMAGES.flatten(1), r"model must take train_data of shape \(16,\) each, and fails"),
    (Conv(), IMAGES.expand(-1, 3, -1, -1), r"model must take train_data of shape \(3, 4, 4\) each, and fails"),
    (Stranger(), IMAGES[..., :3], r"model must take train_data of shape \(1, 4, 3\) each, and fails"),
    (nn.Linear(16, 2), IMAGES, "model must have prior, posterior and likelihood, or encode and decode .*and Linear has not"),
    (3, IMAGES, "model must be a torch.nn.Module, not int"),
])
def test_a_model_and_images_that_do_not_fit(model, images, sentence):
    with pytest.raises(ValueError, match=sentence) as error: train(model, images)
    assert "\n" not in str(error.value)


def test_no_broken_model_is_changed():
    """Neither its weights nor its modes, nor is it told a shape."""
    for options, _ in BROKEN.values():
        model = Broken(**options)
        before = weights(model)
        with pytest.raises(ValueError): train(model)
        assert torch.equal(weights(model), before) and model.training
        assert not hasattr(model, "image_shape") and not hasattr(model, "latent_dim")


# ---- every recipe leaves a model its own --------------------------------------------------------

KINDS_OF_RUN = {**{name: (small_vae, name) for name in RECIPES}, "stranger": (lambda: seeded(Stranger), "plain"),
                "stranger, seed": (lambda: seeded(Stranger), "seed")}
each_run = pytest.mark.parametrize("make, recipe", KINDS_OF_RUN.values(), ids=KINDS_OF_RUN)
each_free_run = pytest.mark.parametrize("make, recipe", [v for v in KINDS_OF_RUN.values() if v[1] != "fast"],
                                        ids=[k for k in KINDS_OF_RUN if k != "fast"])


@each_free_run
def test_hooks_of_layers_are_called(make, recipe):
    model, calls = make(), []
    first, *_, last = [m for m in model.modules() if isinstance(m, nn.Linear)]
    first.register_forward_hook(lambda module, args, out: calls.append("forward"))
    last.register_full_backward_hook(lambda module, *_: calls.append("backward"))
    train(model, recipe=recipe, epochs=2)
    assert calls.count("backward") == 2 * 4 and calls.count("forward") >= 2 * 4


@each_free_run
def test_a_hook_that_changes_the_output_changes_the_training(make, recipe):
    plain, hooked = make(), make()
    list(hooked.children())[1].register_forward_hook(lambda module, args, out: 0 * out)
    train(plain, recipe=recipe), train(hooked, recipe=recipe)
    assert not torch.equal(weights(plain), weights(hooked))


@pytest.mark.parametrize("recipe", ["plain", "seed"])
def test_a_replaced_reparameterize_is_used(recipe):
    model, calls = small_vae(), []
    model.reparameterize = lambda mu, log_var: calls.append(mu.shape) or mu  # no noise: an autoencoder
    losses = train(model, recipe=recipe)["train_loss"]
    assert len(calls) == 3 * 4
    assert losses != train(small_vae(), recipe=recipe)["train_loss"]


@pytest.mark.parametrize("change, cause", [
    (lambda m: m.fc_mu.register_forward_hook(lambda *_: None), "has a hook"),
    (lambda m: setattr(m, "reparameterize", lambda mu, log_var: mu), "a reparameterize of its own"),
    (lambda m: m.fc_mu.weight.requires_grad_(False), "fc_mu.weight")])
def test_what_the_recipe_fast_cannot_do_it_says(change, cause):
    model = small_vae()
    change(model)
    before = weights(model)
    with pytest.raises(ValueError, match=cause + ".*'plain'"): train(model, recipe="fast")
    assert torch.equal(weights(model), before)


def test_the_recipe_fast_is_for_a_vae():
    for make in (Stranger, type("Mine", (VAE,), {})):
        with pytest.raises(ValueError, match="no plain VAE.*'plain'"):
            train(make(16, 12, 3), recipe="fast")
    with pytest.raises(ValueError, match="objective.*'plain'"):
        train(small_vae(), recipe="fast", objective=lambda *args: negative_elbo(*args))
    with pytest.raises(ValueError, match="memory.*'plain'"):
        train(small_vae(), list(IMAGES.split(16)), batch_size=None, recipe="fast")


class Doubled(nn.Linear):
    def forward(self, x): return 2 * super().forward(x)


def changed(name):
    """A VAE with a part that is not as its class made it."""
    model = seeded(VAE, 16, 12, 12)
    if name == "weight norm": nn.utils.parametrizations.weight_norm(model.fc_mu)
    if name == "another layer": model.fc_mu = seeded(Doubled, 12, 12)
    if name == "one more parameter": model.extra = nn.Parameter(torch.zeros(2))
    if name == "a shared weight": model.fc_log_var.weight = model.fc_mu.weight
    if name == "no bias": model.fc_mu.bias = None
    if name == "another method": model.decode_logits = lambda z: 2 * VAE.decode_logits(model, z)
    return model


@pytest.mark.parametrize("name", ["weight norm", "another layer", "one more parameter", "a shared weight", "no bias", "another method"])
def test_a_vae_that_was_changed_is_trained_as_it_is(name):
    """The recipe seed gives what autograd gives; the recipe fast says that it cannot."""
    (a, one), (b, two) = [(m := changed(name), train(m, recipe=recipe, lr=0.01)) for recipe in ("plain", "seed")]
    assert one["train_loss"] == two["train_loss"] and torch.equal(weights(a), weights(b))
    with pytest.raises(ValueError, match="model has .*recipe='plain'"): train(changed(name), recipe="fast")


def test_a_trained_model_is_not_thrown_away_by_the_recipe_fast():
    model = small_vae()
    train(model, epochs=10, lr=0.01)
    trained, loss = weights(model), evaluate(model, IMAGES)["loss"]
    with pytest.raises(ValueError, match=r"recipe='seed'.*VAE\(\*\*model.config\)") as error: train(model, recipe="fast")
    assert torch.equal(weights(model), trained) and "\n" not in str(error.value)
    for recipe in ("seed", "plain"):  # both ways on start from the weights
        with torch.no_grad(): nn.utils.vector_to_parameters(trained.clone(), model.parameters())
        assert train(model, recipe=recipe, epochs=1)["train_loss"][0] == pytest.approx(loss, rel=0.1)
        assert 0 < (weights(model) - trained).abs().max() < 0.05
    train(VAE(**model.config), recipe="fast")


@each_run
def test_a_callback_that_changes_the_weights_changes_what_follows(make, recipe):
    """At a rate of almost nothing; with both heads at zero the KL divergence is zero."""
    def forget(epoch, model, history):
        heads = [m for m in model.modules() if isinstance(m, nn.Linear)][1:3]
        for p in (p for head in heads for p in head.parameters()): nn.init.zeros_(p)

    history = train(make(), recipe=recipe, lr=1e-30, on_epoch_end=forget)
    assert history["train_kl"][0] > 1e-3
    assert history["train_kl"][1:] == pytest.approx([0, 0], abs=1e-6)


@each_run
def test_an_interrupt_between_epochs_keeps_what_was_learned(make, recipe):
    def stop(epoch, model, history):
        kept.append(weights(model))
        if epoch == 2: raise KeyboardInterrupt

    model, kept, state = make(), [weights(make())], torch.get_rng_state()
    with pytest.raises(KeyboardInterrupt): train(model, recipe=recipe, on_epoch_end=stop)
    assert len(kept) == 3 and torch.equal(weights(model), kept[2]) and model.training
    assert not torch.equal(kept[1], kept[0]) and not torch.equal(kept[2], kept[1])
    assert torch.equal(torch.get_rng_state(), state)


@each_run
def test_an_interrupt_inside_an_epoch_keeps_what_was_learned(make, recipe, monkeypatch):
    """After five steps, of four an epoch: the weights are neither those of the first epoch nor of the second."""
    normal, kept, draws, model = torch.Tensor.normal_, [], [], make()

    def draw(*args, **kwargs):  # the noise of each step, by every recipe
        if kept: draws.append(1)
        if len(draws) == 2: raise KeyboardInterrupt
        return normal(*args, **kwargs)

    keep = lambda epoch, model, history: kept.append(weights(model))
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(torch.Tensor, "normal_", draw)
        train(model, recipe=recipe, on_epoch_end=keep)
    train(make(), recipe=recipe, on_epoch_end=keep)
    assert torch.equal(kept[0], kept[1]) and model.training
    assert weights(model).isfinite().all() and not any(torch.equal(weights(model), other) for other in kept)


@pytest.mark.parametrize("make", [small_vae, partial(seeded, Stranger)])
def test_an_interrupt_from_the_data_keeps_what_was_learned(make):
    class Fragile(list):
        def __iter__(self):
            yield from self[:2]
            if passes: raise KeyboardInterrupt
            yield from self[2:]
    passes, model, by_hand = [], make(), make()
    with pytest.raises(KeyboardInterrupt):
        fit(model, Fragile(IMAGES.split(16)), epochs=2, progress=False, device="cpu",
            on_epoch_end=lambda *_: passes.append(1))
    fit(by_hand, BatchLoader(IMAGES, 16), epochs=1, progress=False, device="cpu")
    assert (weights(model) - weights(by_hand)).abs().max() > 1e-5  # two steps of the second epoch count


# ---- a rate at which the loss explodes ----------------------------------------------------------

EXPLODING = {"plain": (small_vae, Recipe()), "seed": (small_vae, SEED), "fast": (small_vae, FAST),
             "stranger": (lambda: seeded(Stranger), Recipe())}


@pytest.mark.parametrize("kind", EXPLODING)
def test_a_loss_that_explodes_in_a_later_epoch_leaves_the_weights_of_the_epoch_before(kind):
    make, recipe = EXPLODING[kind]
    model, kept = make(), []
    recipe = recipe._replace(schedule=lambda share: 1e-3 if share < 2 / 3 else 1e30, lr=1.0)
    with pytest.raises(FloatingPointError, match="not finite in epoch 3: .*smaller learning rate than lr=1.*weights of epoch 2"):
        train(model, recipe=recipe, on_epoch_end=lambda epoch, m, history: kept.append(weights(m)))
    assert len(kept) == 2 and torch.equal(weights(model), kept[1])


@pytest.mark.parametrize("kind", EXPLODING)
def test_a_loss_that_explodes_at_once_leaves_the_model_as_it_was(kind):
    make, recipe = EXPLODING[kind]
    model = make()
    before = weights(model)
    with pytest.raises(FloatingPointError, match="not finite in epoch 1: .*larger batch_size than 8; the model is as it was"):
        train(model, recipe=recipe, lr=1e30, batch_size=8)
    assert torch.equal(weights(model), before) and model.training


def test_standardized_pixels_are_named():
    with pytest.raises(ValueError, match="standardized, by torchvision's Normalize") as error:
        train(small_vae(), (IMAGES - 0.1307) / 0.3081)
    assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="Normalize"): evaluate(seeded(Stranger), (IMAGES - 0.1307) / 0.3081)


# ---- modes, frozen parts, dropout ---------------------------------------------------------------

class Norms(Stranger):
    """With batch normalization and dropout in the encoder."""

    def __init__(self):
        super().__init__()
        self.norm, self.drop = nn.BatchNorm1d(12), nn.Dropout(0.3)

    def encode(self, x):
        h = self.drop(F.relu(self.norm(self.hidden(x))))
        return self.mean(h), self.log_variance(h)


def modes(model):
    return {name: module.training for name, module in model.named_modules()}


def statistics(model):
    return torch.cat([b.float().flatten() for b in model.buffers()])


def test_statistics_go_back_where_the_loss_explodes():
    model = seeded(Norms)
    before = statistics(model)
    with pytest.raises(FloatingPointError): train(model, lr=1e30)
    assert torch.equal(statistics(model), before)


def frozen():
    model = seeded(Norms).train()
    model.norm.eval().requires_grad_(False)
    return model


def test_frozen_batch_normalization_stays_frozen():
    model = frozen()
    before, norm = statistics(model), weights(model.norm)
    train(model, test_data=IMAGES)
    evaluate(model, IMAGES)
    reconstruct(model, IMAGES)
    assert torch.equal(statistics(model), before) and torch.equal(weights(model.norm), norm)
    assert modes(model) == modes(frozen())
    assert not torch.equal(weights(model.hidden), weights(seeded(Norms).hidden))


def test_batch_normalization_that_is_not_frozen_follows_the_training_images_alone():
    model, other = seeded(Norms), seeded(Norms)
    train(model, test_data=1 - IMAGES), train(other)
    assert torch.equal(statistics(model), statistics(other))
    assert not torch.equal(statistics(model), statistics(seeded(Norms)))
    after = statistics(model)
    evaluate(model, IMAGES), reconstruct(model, IMAGES), posterior_mean(model, IMAGES), decode(model, torch.zeros(2, 3))
    assert torch.equal(statistics(model), after)


@pytest.mark.parametrize("prepare", [lambda m: m, lambda m: m.eval(), lambda m: m.drop.eval(), lambda m: m.norm.eval()])
@pytest.mark.parametrize("fails", [False, True])
def test_the_mode_of_every_module_is_restored(prepare, fails):
    model = seeded(Norms)
    prepare(model)
    before = modes(model)
    def objective(model, batch, generator=None):
        if fails and len(seen) == 2: raise ZeroDivisionError
        seen.append(modes(model))
        return negative_elbo(model, batch, generator)

    for use in (lambda: train(model, objective=objective, test_data=IMAGES),
                lambda: evaluate(model, IMAGES, batch_size=8, objective=objective)):
        seen = []
        if fails:
            with pytest.raises(ZeroDivisionError): use()
        else: use()
        assert modes(model) == before
    assert not any(any(mode.values()) for mode in seen)  # evaluation is in evaluation mode throughout


def test_a_model_in_evaluation_mode_is_trained_in_training_mode():
    model, other = seeded(Norms).eval(), seeded(Norms)
    assert train(model)["train_loss"] == train(other)["train_loss"]
    assert not any(modes(model).values()) and all(modes(other).values())


@each_run
def test_same_seed_same_numbers_and_the_global_generators_are_untouched(make, recipe):
    runs = []
    for start, seed in ((1, 42), (2, 42), (1, 7)):
        model = make()
        torch.manual_seed(start), np.random.seed(start)
        before = torch.get_rng_state(), np.random.get_state()[1].copy()
        losses = train(model, test_data=IMAGES[:20], recipe=recipe, seed=seed)
        scores = evaluate(model, IMAGES, passes=2)
        assert torch.equal(torch.get_rng_state(), before[0]) and (np.random.get_state()[1] == before[1]).all()
        runs.append((losses["train_loss"], losses["test_loss"], scores, weights(model).tolist()))
    assert runs[0] == runs[1] and runs[0][0] != runs[2][0]


@each_run
def test_a_callback_that_draws_random_numbers_changes_none(make, recipe):
    losses = [train(make(), recipe=recipe, on_epoch_end=look)["train_loss"] for look in (None, lambda *_: torch.rand(5))]
    assert losses[0] == losses[1]


def test_a_callback_that_leaves_the_model_in_evaluation_mode_changes_nothing():
    models = frozen(), frozen(), seeded(Norms), seeded(Norms)
    looks = None, lambda epoch, model, history: model.eval()
    losses = [train(model, on_epoch_end=look)["train_loss"] for model, look in zip(models, 2 * looks)]
    assert losses[0] == losses[1] != losses[2] == losses[3]
    assert all(modes(model) == modes(make()) for model, make in zip(models, [frozen] * 2 + [lambda: seeded(Norms)] * 2))


def test_dropout_follows_the_seed():
    losses = []
    for start, seed in ((1, 42), (2, 42), (1, 7)):
        model = seeded(Norms)
        torch.manual_seed(start)
        before = torch.get_rng_state()
        losses.append(train(model, IMAGES[:16].expand(16, 1, 4, 4), seed=seed)["train_loss"])
        assert torch.equal(torch.get_rng_state(), before)
        assert evaluate(model, IMAGES) == evaluate(model.eval(), IMAGES)
    assert losses[0] == losses[1] != losses[2]


@pytest.mark.parametrize("make, recipe", [(small_vae, "plain"), (small_vae, "seed"), (partial(seeded, Stranger), "plain")])
def test_frozen_parameters_stay_and_the_others_learn(make, recipe):
    model = make()
    layers = [m for m in model.modules() if isinstance(m, nn.Linear)]
    layers[0].requires_grad_(False)
    before = [weights(layer) for layer in layers]
    history = train(model, recipe=recipe)
    moved = [not torch.equal(weights(layer), old) for layer, old in zip(layers, before)]
    assert moved == [False, True, True, True, True]
    assert [p.requires_grad for p in layers[0].parameters()] == [False, False]


@each_run
def test_a_model_with_nothing_to_train_is_refused(make, recipe):
    model = make().requires_grad_(False)
    with pytest.raises(ValueError, match="must have a parameter to train.*requires_grad is False"):
        train(model, recipe=recipe)
    evaluate(model, IMAGES)


# ---- objectives ---------------------------------------------------------------------------------

def beta_4(model, batch, generator=None):
    terms = negative_elbo(model, batch, generator)
    return terms | {"loss": terms["reconstruction"] + 4 * terms["kl"]}


def only_loss(model, batch, generator=None):
    return {"loss": negative_elbo(model, batch, generator)["loss"]}


def iwae(model, batch, generator=None, samples=5):
    vae, x = as_vae(model), batch[0]
    q = vae.posterior(x)
    with noise_from(generator): z = q.rsample((samples,))
    p = vae.likelihood(z)
    log_w = p.log_prob(x.reshape(len(x), *p.event_shape)) + vae.prior.log_prob(z) - q.log_prob(z)  # (K, B)
    return {"loss": math.log(samples) - log_w.logsumexp(0), "spread": log_w.std(0)}


@pytest.mark.parametrize("make, recipe", [(small_vae, "seed"), (partial(seeded, Stranger), "plain"), (partial(seeded, ConvLogits), "plain")])
@pytest.mark.parametrize("objective, names", [
    (beta_4, {"loss", "reconstruction", "kl"}), (only_loss, {"loss"}), (iwae, {"loss", "spread"})])
def test_any_objective_is_minimized_and_its_terms_are_named(objective, names, recipe, make):
    model = make()
    history = train(model, test_data=IMAGES, objective=objective, recipe=recipe, epochs=10, lr=0.03)
    assert set(history) == {f"{split}_{name}" for split in ("train", "test") for name in names} | {"epoch_seconds", "step_loss"}
    assert all(len(values) == 10 for name, values in history.items() if name != "step_loss")
    assert history["train_loss"][-1] < 0.95 * history["train_loss"][0]
    assert set(evaluate(model, IMAGES, objective=objective)) == names


@pytest.mark.parametrize("objective, given", [
    (lambda m, batch, generator=None: {"elbo": negative_elbo(m, batch)["loss"]}, "elbo"),
    (lambda m, batch, generator=None: negative_elbo(m, batch)["loss"], ""),
    (lambda m, batch, generator=None: None, "None"),
    (lambda m, batch, generator=None: {"loss": negative_elbo(m, batch)["loss"].mean()}, r"\{'loss': \(\)\}"),
    (lambda m, batch, generator=None: {"loss": negative_elbo(m, batch)["loss"][:, None]}, r"\{'loss': \(16, 1\)\}"),
])
def test_an_objective_of_another_form_is_refused(objective, given):
    """A mean over the batch, as many a tutorial writes it, would make steps of another size."""
    sentence = "objective must return a dictionary of terms, one of them 'loss', with a value for each of 16 images, not .*"
    for use in (train, lambda *args, **options: evaluate(*args, batch_size=16, **options)):
        model = small_vae()
        with pytest.raises(ValueError, match=sentence + given): use(model, IMAGES, objective=objective)
        assert torch.equal(weights(model), weights(small_vae()))


def test_beta_weighs_the_divergence():
    runs = {objective: train(small_vae(), epochs=20, lr=0.03, objective=objective) for objective in (beta_4, negative_elbo)}
    for i in range(20):
        loss, reconstruction, kl = (runs[beta_4][f"train_{name}"][i] for name in ("loss", "reconstruction", "kl"))
        assert loss == pytest.approx(reconstruction + 4 * kl, rel=1e-6)
    assert runs[beta_4]["train_kl"][-1] < 0.5 * runs[negative_elbo]["train_kl"][-1]


def test_loss_alone_trains_as_all_terms_do():
    a, b = small_vae(), small_vae()
    assert train(a, objective=only_loss)["train_loss"] == train(b)["train_loss"]
    assert torch.equal(weights(a), weights(b))


def test_more_samples_tighten_the_bound():
    model = small_vae()
    train(model, epochs=15, lr=0.03)
    scores = [evaluate(model, IMAGES, passes=20, objective=partial(iwae, samples=k))["loss"] for k in (2, 20)]
    assert evaluate(model, IMAGES, passes=20)["loss"] > scores[0] > scores[1]


class Conditional(nn.Module):
    """Knows a label, if it is told one."""

    def __init__(self):
        super().__init__()
        self.code, self.out = nn.Linear(16 + 4, 2 * 3), nn.Linear(3 + 4, 16)

    def tell(self, v, y):
        y = v.new_zeros(len(v), 4) if y is None else F.one_hot(y, 4).to(v)
        return torch.cat([v, y], 1)

    def encode(self, x, y=None): return self.code(self.tell(x.flatten(1), y)).chunk(2, 1)
    def decode_logits(self, z, y=None): return self.out(self.tell(z, y))


def conditional(model, batch, generator=None):
    x, y = batch
    mu, log_var = model.encode(x, y)
    q = Normal(mu, torch.exp(0.5 * log_var))
    with noise_from(generator): z = q.rsample()
    p = bernoulli(model.decode_logits(z, y))
    return {"loss": kl_divergence(q, Normal(0.0, 1.0)).sum(1) - p.log_prob(x.flatten(1))}


def test_a_conditional_model_gets_the_labels_of_each_batch():
    model = seeded(Conditional)
    train(model, (IMAGES, LABELS), test_data=(IMAGES, LABELS), objective=conditional, epochs=30, lr=0.05)
    with inference(model): made = torch.sigmoid(model.decode_logits(torch.zeros(4, 3), torch.arange(4)))
    means = torch.stack([IMAGES[LABELS == k].mean(0).flatten() for k in range(4)])
    assert torch.cdist(made, means).argmin(1).tolist() == [0, 1, 2, 3]


def test_a_step_of_ones_own():
    """What fit asks of a step: a call that gives sums, and five methods that may do nothing."""
    class Sign(GradientStep):
        def __call__(self, batch, rate):
            terms = self.objective(self.model, batch)
            for p, g in zip(ps := list(self.model.parameters()), torch.autograd.grad(terms["loss"].sum(), ps)):
                p.data -= rate * g.sign()
            return {name: t.detach().sum() for name, t in terms.items()}

    history = train(seeded(Stranger), step=Sign, epochs=20, lr=0.01)
    assert history["train_loss"][-1] < 0.9 * history["train_loss"][0]
    assert find_recipe("plain").step is GradientStep

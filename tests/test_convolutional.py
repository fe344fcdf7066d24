"""Chapter 21: a convolutional VAE for pictures of any size, and a folder that goes all the way through it."""
import json
import math
import re
from itertools import product

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode

from vae_nbdev.convolutional import ConvVAE, ResidualBlock, halved, layer_costs
from vae_nbdev.evaluation import inference_gaps, log_likelihood, report
from vae_nbdev.model import VAE, LIKELIHOODS, decode, inference, posterior_mean, reconstruct
from vae_nbdev.pictures import load_images
from vae_nbdev.runs import load, save
from vae_nbdev.training import evaluate, fit
from vae_nbdev.visualization import (generate_samples, interpolate, plot_grid, plot_interpolation, plot_latent_space,
                                     plot_losses, plot_manifold, plot_reconstruction_history, plot_reconstructions,
                                     plot_samples)

NAMES = [name if name != "categorical" else "categorical:levels=4" for name in LIKELIHOODS] + ["gaussian:scale=pixel"]
SHAPES = [(1, 8, 8), (1, 28, 28), (3, 9, 14), (3, 33, 8), (2, 15, 64)]
generator = lambda seed=0: torch.Generator().manual_seed(seed)


def small(shape=(3, 16, 16), latent_dim=4, channels=(8, 16), **given):
    torch.manual_seed(0)
    return ConvVAE(shape, latent_dim, channels, **given)


def blobs(n, side=16, seed=0):
    "Coloured discs on dark ground, (n, 3, side, side)."
    g, at = generator(seed), torch.arange(side) / side
    x, y, r = (low + (high - low) * torch.rand(n, 1, 1, 1, generator=g) for low, high in [(0.3, 0.7), (0.3, 0.7), (0.15, 0.3)])
    inside = ((at - x)**2 + (at[:, None] - y)**2 < r**2).float()
    return (inside * torch.rand(n, 3, 1, 1, generator=g)).clamp(0, 1)


@pytest.mark.parametrize("shape,name", [*product(SHAPES, NAMES)])
def test_any_shape_under_any_likelihood(shape, name):
    model, D = small(shape, likelihood=name), math.prod(shape)
    x = torch.randint(2, (3, *shape), generator=generator()).float()
    q = model.posterior(x)
    p = model.likelihood(q.rsample((2,)))
    assert (q.batch_shape, q.event_shape) == ((3,), (4,)) and (p.batch_shape, p.event_shape) == ((2, 3), shape)
    assert p.log_prob(x).isfinite().all()
    recon_x, mu, log_var = model(x)
    assert recon_x.shape == (3, D) and mu.shape == log_var.shape == (3, 4)
    recon_x.sum().backward()
    assert all(w.grad is not None for part, w in model.named_parameters() if "decoder" in part)


def test_rows_are_images():
    model, x = small(), torch.rand(2, 3, 16, 16)
    assert all(map(torch.equal, model.encode(x), model.encode(x.flatten(1))))
    grey = small((1, 12, 10))
    x = torch.rand(2, 1, 12, 10)
    assert all(map(torch.equal, grey.encode(x), grey.encode(x[:, 0])))


def test_codes_of_any_batch_are_decoded_alike():
    model, z = small(), torch.randn(2, 5, 4, generator=generator())
    torch.testing.assert_close(model.decode_logits(z), model.decode_logits(z.view(10, 4)).view(2, 5, -1))
    assert model.decode_logits(z[0, 0]).shape == (3 * 16 * 16,)


def test_the_first_numbers_of_a_pixel_are_its_mean():
    model, z = small(likelihood="gaussian:scale=pixel"), torch.randn(5, 4, generator=generator())
    means = model.decode_logits(z)[:, :3 * 16 * 16].view(5, 3, 16, 16)
    assert torch.equal(model.likelihood(z).mean, means)


def test_an_image_does_not_depend_on_its_neighbours_or_on_the_mode():
    model, x = small(), blobs(6)
    mu = model.encode(x)[0]
    torch.testing.assert_close(mu[:1], model.encode(x[:1])[0], rtol=1e-4, atol=1e-5)
    with inference(model): assert torch.equal(model.encode(x)[0], mu)
    assert not list(model.buffers())


@pytest.mark.parametrize("side", [16, 17])
def test_a_new_model_makes_no_checkerboard(side):
    x = decode(small((3, side, side)), torch.randn(4, 4, generator=generator()))
    squares = x[..., :16, :16].unfold(2, 2, 2).unfold(3, 2, 2)
    assert (squares == squares[..., :1, :1]).all() and x.std() > 1e-3


def test_a_block_is_a_correction():
    block, x = ResidualBlock(8), torch.rand(2, 8, 5, 7)
    for w in block.filter.parameters(): torch.nn.init.zeros_(w)
    assert torch.equal(block(x), x)


def test_sides_are_halved_and_rounded_up():
    assert halved((28, 9), 4) == [(28, 9), (14, 5), (7, 3), (4, 2), (2, 1)]


@pytest.mark.parametrize("model", [small((3, 19, 12)), small((1, 28, 28), channels=(4, 6, 5)), VAE(784, 30, 3)])
def test_costs_are_those_that_torch_counts(model):
    x = torch.rand(2, model.input_dim)
    costs, hooks = layer_costs(model, x), lambda: sum(len(m._forward_hooks) for m in model.modules())
    with FlopCounterMode(display=False) as counter, torch.no_grad(): model(x[:1])
    assert 2 * sum(c.multiplications for c in costs) == counter.get_total_flops() and not hooks()
    norms = sum(w.numel() for m in model.modules() if isinstance(m, torch.nn.GroupNorm) for w in m.parameters())
    assert sum(c.parameters for c in costs) == sum(w.numel() for w in model.parameters()) - norms
    assert [c.shape for c in costs if c.name == "fc_mu"] == [(model.latent_dim,)]


@pytest.mark.parametrize("wrong,said", [
    (((16, 16, 3),), "the channels come first"), (((16, 16),), r"must be \(channels, height, width\), not \(16, 16\)"),
    ((784,), "must be"), (((1, 7, 20),), "height in image_shape must be a whole number of at least 8, not 7"),
    (((1, 8, 8), 0), "latent_dim"), (((1, 8, 8), 2, ()), "channels must"), (((1, 8, 8), 2, (4, 0)), "channels must"),
    (((1, 8, 8), 2, 16), "channels must"), (((1, 8, 8), 2, (4,), "bernouli"), "likelihood must be one of")])
def test_what_cannot_be_built(wrong, said):
    with pytest.raises(ValueError, match=said) as caught: ConvVAE(*wrong)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("x", [torch.rand(2, 1, 16, 16), torch.rand(2, 16, 16, 3), torch.rand(3, 16, 16), torch.rand(2, 100),
                               torch.zeros(2, 3, 16, 16, dtype=torch.uint8), "images"])
def test_what_cannot_be_encoded(x):
    with pytest.raises(ValueError, match="x must be a float tensor of shape") as caught: small().encode(x)
    assert "\n" not in str(caught.value)


def test_codes_of_another_length_are_refused():
    with pytest.raises(ValueError, match=r"z must have latent_dim = 4 numbers per vector, not \(2, 5\)"): small().decode(torch.rand(2, 5))


def test_config_builds_the_same_model(tmp_path):
    model = small((3, 17, 12), likelihood="discretized-logistic")
    assert ConvVAE(**json.loads(json.dumps(model.config))).config == model.config
    again = load(save(model, tmp_path / "m.safetensors"))
    x = torch.randint(256, (2, 3, 17, 12), generator=generator()) / 255
    assert again.config == model.config and torch.equal(reconstruct(again, x), reconstruct(model, x))


@pytest.mark.parametrize("recipe", ["plain", "muon", "seed"])
def test_recipes_train_it(recipe):
    model, x = small(), blobs(256)
    before = evaluate(model, x)["loss"]
    history = fit(model, x, epochs=4, batch_size=32, lr=5e-3, recipe=recipe, progress=False)
    assert evaluate(model, x)["loss"] < 0.85 * before and history.epochs == 4


def test_the_recipe_that_cannot_train_it_says_so():
    model = small()
    before = {name: w.clone() for name, w in model.state_dict().items()}
    with pytest.raises(ValueError) as caught: fit(model, blobs(20), recipe="fast", progress=False)
    assert "ConvVAE" in str(caught.value) or "VAE" in str(caught.value)
    assert all(torch.equal(w, before[name]) for name, w in model.state_dict().items())


def landscape(rng):
    "A colour picture of any size, like a photograph: a sky, a sun, ground, grain."
    h, w = rng.integers(20, 60, 2)
    y, x = np.mgrid[:h, :w] / np.array([h, w])[:, None, None]
    sky, ground = rng.uniform(0.3, 1, 3), rng.uniform(0, 0.5, 3)
    picture = sky * (0.6 + 0.4 * y[..., None]) + 0.4 * np.exp(-((x - rng.uniform())**2 + (y - 0.2)**2) / 0.01)[..., None]
    picture = np.where((y > rng.uniform(0.4, 0.8))[..., None], ground, picture) + rng.normal(0, 0.01, (h, w, 1))
    return Image.fromarray((255 * picture.clip(0, 1)).astype(np.uint8))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    "200 colour pictures of mixed sizes, of four kinds of file."
    place, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for i in range(200): landscape(rng).save(place / f"{i:03}.{['jpg', 'png', 'bmp', 'webp'][i % 4]}")
    return place


@pytest.fixture(scope="module")
def trained(folder):
    images, labels = load_images(folder, size=(20, 24))
    assert images.shape == (200, 3, 20, 24) and labels is None
    model = small(tuple(images.shape[1:]), likelihood="discretized-logistic")
    history = fit(model, images[40:], images[:40], epochs=10, batch_size=10, lr=0.01, recipe="muon", progress=False)
    return model, images, history


def test_a_folder_of_200_pictures_goes_the_whole_way(trained, tmp_path):
    model, images, history = trained
    test = images[:40]
    assert history["test_loss"][-1] < 0.9 * history["test_loss"][0]
    samples = generate_samples(model, 9, generator())
    assert samples.shape == (9, 3, 20, 24) and samples.min() >= 0 and samples.max() <= 1 and samples.std(0).mean() > 0.01
    error, spread = (reconstruct(model, test) - test).square().mean(), (test - images[40:].mean(0)).square().mean()
    assert error < 0.7 * spread
    row = report(model, test[:20], 20, data_name="folder", split="held out")
    assert 0 < row.nats < math.log(256) * test[0].numel() and row.nats <= row.bound
    assert "folder" in str(row.protocol) and row.protocol.values == "as given"
    again = load(save(model, tmp_path / "folder.safetensors"))
    assert torch.equal(posterior_mean(again, test), posterior_mean(model, test))


def test_all_pictures_of_a_model_are_there_in_colour(trained, tmp_path):
    model, images, history = trained
    few = images[:6]
    recon = reconstruct(model, few)
    figures = {"losses": plot_losses(history), "grid": plot_grid(few), "reconstructions": plot_reconstructions(model, few),
               "samples": plot_samples(model, 6), "map": plot_latent_space(model, images[:40]),
               "walk": plot_interpolation(model, few[0], few[1], 4), "history": plot_reconstruction_history(few, {1: recon})}
    for name, figure in figures.items(): figure.savefig(tmp_path / f"{name}.png")
    for name in ("grid", "reconstructions", "samples", "walk", "history"):
        pixels = torch.from_numpy(np.array(Image.open(tmp_path / f"{name}.png").convert("RGB"))).int()
        assert (pixels[..., 0] - pixels[..., 2]).abs().max() > 30, f"{name} has no colour"
    assert interpolate(model, few[0], few[1], 4).shape == (4, 3, 20, 24)


def test_the_plane_of_a_model_of_two_dimensions_in_colour():
    figure = plot_manifold(small(latent_dim=2), 3)
    (ax,) = figure.axes
    assert ax.images[0].get_size() == (48, 48)


@pytest.mark.parametrize("name", ["bernoulli", "gaussian:scale=0.1"])
def test_estimators_take_colour(name):
    model, x = small(likelihood=name), blobs(6).round()
    found = log_likelihood(model, x, 20)
    gaps = inference_gaps(model, x[:2], num_samples=10, num_steps=3)
    assert found.log_px.shape == (6,) and found.log_px.isfinite().all() and (found.log_px >= found.bound - 1e-6).all()
    assert gaps.log_px.shape == (2,) and gaps.log_px.isfinite().all()
    assert math.isclose(evaluate(model, x, passes=50)["loss"], -found.bound.mean().item(), rel_tol=0.02)

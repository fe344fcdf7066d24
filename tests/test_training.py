"""fit and evaluate: the right averages, the right gradient, the same numbers each time, and clear refusals."""
import json
import math
import time
from contextlib import contextmanager

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.utils import parameters_to_vector
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from vae_nbdev import VAE, RECIPES, BatchLoader, choose_device, evaluate, fit, kl_divergence, training


def some_images(count=100, seed=0):
    return torch.rand(count, 1, 4, 4, generator=torch.Generator().manual_seed(seed))


def small_vae(seed=0):
    torch.manual_seed(seed)
    return VAE(16, 12, 3)


def run(model=None, data=None, test=None, **options):
    """Weights and history of a short run."""
    model, data = model or small_vae(), some_images() if data is None else data
    history = fit(model, data, test, **{"epochs": 3, "batch_size": 16, "progress": False, "device": "cpu"} | options)
    return parameters_to_vector(model.parameters()).detach(), history


def test_step_descends_the_loss_as_the_seed_notebook_writes_it():
    """Gradient of a step = gradient of BCE(sigmoid) + KLD as plain sums, in float64, under the same noise."""
    model, x = small_vae().double(), some_images(10).double()
    noise = torch.Generator().manual_seed(3)
    terms = training.train_step(model, torch.optim.SGD(model.parameters(), lr=0.0), x, noise)
    ours = [p.grad.clone() for p in model.parameters()]

    mu, log_var = model.encode(x)
    eps = torch.randn(mu.shape, generator=noise.manual_seed(3), dtype=torch.float64)
    recon = torch.sigmoid(model.fc_output(F.relu(model.fc_decoder_hidden(mu + (0.5 * log_var).exp() * eps))))
    bce = -(x.flatten(1) * recon.log() + (1 - x.flatten(1)) * (1 - recon).log()).sum()
    kld = -0.5 * (1 + log_var - mu**2 - log_var.exp()).sum()
    torch.testing.assert_close(terms, torch.stack([bce, kld]).detach(), rtol=1e-12, atol=0)
    torch.testing.assert_close(ours, list(torch.autograd.grad(bce + kld, list(model.parameters()))), rtol=1e-9, atol=1e-12)


@settings(deadline=None, max_examples=25)
@given(count=st.integers(1, 40), batch_size=st.integers(1, 50))
def test_averages_are_right_for_any_batch_size(count, batch_size):
    """The KL term has no noise, so its average over images is known; the weights do not move at this rate."""
    model, images = small_vae().double(), some_images(count).double()
    with torch.no_grad(): expected = kl_divergence(*model.encode(images)).mean().item()
    scores = evaluate(model, images, batch_size=batch_size)
    _, history = run(model, images, images, epochs=1, batch_size=batch_size, lr=1e-30)
    assert scores["kl"] == pytest.approx(expected, rel=1e-9)
    assert history["train_kl"] == pytest.approx([expected], rel=1e-5)
    assert history["test_kl"] == pytest.approx([expected], rel=1e-9)
    assert scores["loss"] == scores["reconstruction"] + scores["kl"]


def test_evaluate_averages_its_passes():
    model, images, noise = small_vae(), some_images(7), torch.Generator().manual_seed(5)
    with torch.no_grad(): each = [sum(training.elbo_terms(model, images, noise)).mean().item() for _ in range(4)]
    assert evaluate(model, images, seed=5, passes=4)["loss"] == pytest.approx(sum(each) / 4, rel=1e-6)
    assert evaluate(model, images, seed=5)["loss"] == pytest.approx(each[0], rel=1e-6)


def test_numbers_depend_on_the_seed_and_on_nothing_else(tmp_path):
    """Not on the global generator, the progress bar, the folder, labels, or looking at test images."""
    images, model = some_images(), small_vae()
    weights, history = run(test=some_images(30, seed=1))
    torch.manual_seed(99)
    state = torch.get_rng_state()
    variants = [run(model, (images, torch.zeros(100)), out=tmp_path, progress=True, on_epoch_end=lambda *_: None)]
    assert torch.equal(state, torch.get_rng_state())
    variants += [run(test=images), run()]
    for other_weights, other_history in variants:
        assert torch.equal(weights, other_weights)
        assert history["train_loss"] == other_history["train_loss"]
    assert not torch.equal(weights, run(seed=43)[0])
    alike = some_images(1).expand(100, 1, 4, 4)  # with these the order is no matter: what is left is the noise
    assert not torch.equal(run(data=alike)[0], run(data=alike, seed=43)[0])


def test_training_learns_mnist(mnist):
    torch.manual_seed(0)
    history = fit(VAE(), mnist["train"][0][:3000], mnist["test"][0][:500], epochs=4, progress=False)
    assert history["test_loss"] == sorted(history["test_loss"], reverse=True)
    assert history["test_loss"][-1] < 190 < history["train_loss"][0] < 784 * math.log(2)


@pytest.mark.parametrize("recipe", RECIPES)
def test_recipe_lowers_the_loss(recipe):
    _, history = run(recipe=recipe, epochs=None, batch_size=None)
    assert len(history["train_loss"]) == RECIPES[recipe]["epochs"]
    assert history["train_loss"][-1] < history["train_loss"][0]


def test_history():
    _, history = run(test=some_images(20))
    assert set(history) == {f"{s}_{k}" for s in ("train", "test") for k in ("loss", "reconstruction", "kl")} | {"epoch_seconds"}
    assert all(len(values) == 3 for values in history.values()) and all(s > 0 for s in history["epoch_seconds"])
    assert json.loads(json.dumps(history)) == history
    for split in ("train", "test"):
        parts = zip(history[f"{split}_reconstruction"], history[f"{split}_kl"])
        assert history[f"{split}_loss"] == [r + k for r, k in parts]
    assert run()[1]["test_loss"] == []


def test_callback_sees_each_epoch_as_it_ends():
    seen = []
    weights, history = run(on_epoch_end=lambda epoch, model, history: seen.append((epoch, len(history["train_loss"]))))
    assert seen == [(1, 1), (2, 2), (3, 3)]


def test_model_comes_back_as_it_was(monkeypatch):
    model = small_vae().eval()
    run(model)
    evaluate(model, some_images())
    assert not model.training and model.fc_mu.weight.device.type == "cpu"
    evaluate(model.train(), some_images())
    assert model.training
    model.eval()
    monkeypatch.setattr(training, "elbo_gradient", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError): run(model)
    assert not model.training


STEPS = {
    "autograd": lambda model, images: training.AutogradStep(model, images),
    "by hand": lambda model, images: training.HandStep(model, images),
    "by hand, from the data": lambda model, images: training.HandStep(model, images, start="data"),
}


@pytest.mark.parametrize("kind", STEPS)
def test_loop_reads_no_loss_from_the_device(kind, monkeypatch):
    """Each .item() makes the processor wait for a GPU; an epoch may ask once, at its end."""
    asked = []
    step, loader = STEPS[kind](small_vae(), some_images()), BatchLoader(some_images(), 10)
    for name in ("item", "tolist", "cpu", "__float__", "__bool__"):
        method = getattr(torch.Tensor, name)
        monkeypatch.setattr(torch.Tensor, name, lambda self, *args, name=name, method=method: asked.append(name) or method(self, *args))
    training.train_epoch(step, loader, [1e-3] * 10, torch.Generator())
    assert asked == ["cpu"]


def test_progress_bar_shows_epoch_and_loss(capsys, monkeypatch):
    gradient = training.elbo_gradient
    monkeypatch.setattr(training, "elbo_gradient", lambda *args: time.sleep(0.3) or gradient(*args))  # longer than between redraws
    run(progress=True, data=some_images(4), batch_size=2, epochs=2)
    shown = capsys.readouterr().err
    assert all(part in shown for part in ("epoch 1/2", "epoch 2/2", "4/4", " nats"))
    monkeypatch.undo()
    run()
    assert capsys.readouterr() == ("", "")


@settings(deadline=None, max_examples=50)
@given(lr=st.floats(1e-6, 1.0), steps=st.integers(1, 300), warmup=st.floats(0.05, 0.9))
def test_one_cycle_climbs_once_and_falls_once(lr, steps, warmup):
    rates = training.learning_rates("one-cycle", lr, steps, warmup)
    top = rates.index(max(rates))
    assert len(rates) == steps and all(0 < r <= lr for r in rates)
    assert rates == sorted(rates[:top]) + sorted(rates[top:], reverse=True)
    assert training.learning_rates("constant", lr, steps) == [lr] * steps


def test_rates_reach_the_optimizer(monkeypatch):
    used, update = [], training._adam_update
    monkeypatch.setattr(training, "_adam_update", lambda p, g, memory, rate, betas: used.append(rate.item()) or update(p, g, memory, rate, betas))
    run(recipe="fast", lr=0.01)
    assert used == pytest.approx(training.learning_rates("one-cycle", 0.01, 3 * 7))


# ---- the gradient written out, and the data's coordinates -------------------------------------------------------------

sizes = st.tuples(*[st.integers(1, 9)] * 4)


@settings(deadline=None, max_examples=40)
@given(sizes=sizes, seed=st.integers(0, 999))
def test_written_out_step_is_the_step_of_autograd(sizes, seed):
    """The same losses and weights after three steps, in float64, for any sizes and a smaller last batch."""
    torch.manual_seed(seed)
    D, H, Z, B = sizes
    models = [VAE(D, H, Z).double()]
    models.append(VAE(D, H, Z).double())
    models[1].load_state_dict(models[0].state_dict())
    images = torch.rand(2 * B + 1, D).double()
    results = []
    for kind, model in zip(("autograd", "by hand"), models):
        step, noise = STEPS[kind](model, images), torch.Generator().manual_seed(seed)
        results.append(torch.stack([step(index, 1e-3, noise) for index in torch.arange(len(images)).split(B)]))
        step.write_back()
    torch.testing.assert_close(*results, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(*[parameters_to_vector(m.parameters()).detach() for m in models], rtol=1e-6, atol=1e-8)


def test_adam_of_the_flat_vectors_is_plain_adam():
    """Against torch's unfused Adam on the model's own parameters."""
    model, oracle, images = small_vae().double(), small_vae().double(), some_images(40).double()
    step, noise = training.HandStep(model, images), torch.Generator()
    adam = torch.optim.Adam(oracle.parameters(), lr=1e-3, fused=False)
    for index in torch.arange(40).split(10):
        state = noise.get_state()
        step(index, 1e-3, noise)
        noise.set_state(state)
        training.train_step(oracle, adam, images[index], noise)
    step.write_back()
    torch.testing.assert_close(parameters_to_vector(model.parameters()), parameters_to_vector(oracle.parameters()), rtol=1e-9, atol=1e-12)


def polar(M):
    """U p(p(S)) V^T for M = U S V^T scaled to norm one, with the polynomial p of Muon."""
    U, S, Vh = torch.linalg.svd(M, full_matrices=False)
    S = S / M.norm()
    for _ in range(2): S = 3.4445 * S - 4.7750 * S**3 + 2.0315 * S**5
    return U @ S.diag() @ Vh


def test_step_from_the_data_is_that_of_autograd_with_adam_and_muon(monkeypatch):
    """Losses and weights after five steps, against torch's Adam, Muon by decompositions, and a loss built from torch.distributions."""
    monkeypatch.setattr(training, "_recentre", lambda step, k: None)
    monkeypatch.setattr(training, "last_layer_product", lambda like: torch.mm)
    images, model = torch.rand(60, 16).double(), VAE(16, 12, 3).double()
    step, noise = training.HandStep(model, images, start="data"), torch.Generator()
    maps = [W.clone().requires_grad_() for W in step.layers]
    means = [torch.zeros_like(W) for W in maps]
    adam = torch.optim.Adam([maps[0], maps[3]], lr=1e-3, betas=(0.5, 0.99))
    apply = lambda h, W: h @ W[:, :-1].T + W[:, -1]
    for index in torch.arange(60).split(12):
        eps = torch.randn(12, 3, generator=noise.manual_seed(index[0].item()), dtype=torch.float64)
        mu, log_var = apply(apply(step.codes[index], maps[0]).relu(), maps[1]).chunk(2, 1)
        q, prior = torch.distributions.Normal(mu, (0.5 * log_var).exp()), torch.distributions.Normal(0.0, 1.0)
        z = mu + q.scale * eps
        logits = apply(apply(z, maps[2]).relu(), maps[3])
        reconstruction = F.binary_cross_entropy_with_logits(logits, step.pixels[index], reduction="sum")
        kl = torch.distributions.kl_divergence(q, prior).sum()
        terms = step(index, 1e-3, noise.manual_seed(index[0].item()))
        torch.testing.assert_close(terms, torch.stack([reconstruction + step.dead_loss * 12, kl]).detach(), rtol=1e-6, atol=1e-6)
        fixed = torch.distributions.Normal(mu.detach(), q.scale.detach())
        for W in maps: W.grad = None
        (reconstruction + (fixed.log_prob(z) - prior.log_prob(z)).sum()).backward()
        adam.step()
        with torch.no_grad():
            for W, M, factor in [(maps[1], means[1], 0.5), (maps[2], means[2], 17.5)]:
                M.mul_(0.95).add_(0.05 * W.grad)
                W -= 1e-3 * factor * polar(0.95 * M + 0.05 * W.grad)
    torch.testing.assert_close(step.layers, [W.detach() for W in maps], rtol=1e-5, atol=1e-7)


@settings(deadline=None, max_examples=40)
@given(sizes=sizes, seed=st.integers(0, 999))
def test_path_gradient_is_that_of_autograd_with_the_density_held_fixed(sizes, seed):
    torch.manual_seed(seed)
    D, H, Z, B = sizes
    model, x = VAE(D, H, Z).double(), torch.rand(B, D).double()
    (_, layers), (_, gradients), (_, expected) = (training._flat_layers(x, (D, H, Z, D)) for _ in range(3))
    buf = training.Buffers(x, (B, D, H, Z, D))
    with torch.no_grad():
        training._read_layers(layers, model)
        buf.c1[:-1], buf.x[:] = x.T, x.T
        buf.rows_eps.normal_()
        training.elbo_gradient(layers, gradients, buf, path=True)
    mu, log_var = model.encode(x)
    z = mu + (0.5 * log_var).exp() * buf.rows_eps
    log_q = torch.distributions.Normal(mu.detach(), (0.5 * log_var.detach()).exp()).log_prob(z).sum()
    reconstruction = F.binary_cross_entropy_with_logits(model.decode_logits(z), x, reduction="sum")
    (reconstruction + log_q + 0.5 * z.square().sum()).backward()
    with torch.no_grad():
        for p in model.parameters(): p.copy_(p.grad)
        training._read_layers(expected, model)
    torch.testing.assert_close(gradients, expected, rtol=1e-9, atol=1e-11)


@settings(deadline=None, max_examples=40)
@given(shape=st.tuples(st.integers(1, 12), st.integers(1, 12)), seed=st.integers(0, 999), scale=st.sampled_from([1e-3, 1.0, 1e4]))
def test_orthogonalize_changes_the_singular_values_alone(shape, seed, scale):
    torch.manual_seed(seed)
    M = scale * torch.randn(shape, dtype=torch.float64)
    torch.testing.assert_close(training.orthogonalize(M), polar(M), rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(training.orthogonalize(M.T), training.orthogonalize(M).T, rtol=1e-8, atol=1e-10)
    assert training.orthogonalize(0 * M).abs().max() == 0


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="this torch has no Muon")
@pytest.mark.parametrize("shape", [(6, 40), (6, 6)])
def test_muon_is_that_of_torch(shape):
    """Three steps; torch's own works in bfloat16, and on a tall matrix with a factor that is left out here."""
    torch.manual_seed(0)
    W, M, rate = torch.randn(shape), torch.zeros(shape), torch.tensor(0.1)
    oracle = torch.nn.Parameter(W.clone())
    muon = torch.optim.Muon([oracle], lr=0.1, weight_decay=0.0, ns_steps=2)
    before = W.clone()
    for _ in range(3):
        oracle.grad = torch.randn(shape)
        training._muon_update(W, oracle.grad, M, 1.0, rate)
        muon.step()
    assert (W - oracle).norm() < 0.02 * (W - before).norm()


def test_start_from_the_data_has_principal_components_as_posterior_means(mnist):
    model = VAE(latent_dim=5)
    step = training.HandStep(model, mnist["train"][0][:4000], start="data")
    step.write_back()
    with torch.no_grad(): mu, log_var = model.encode(mnist["train"][0][:4000])
    components = step.codes[:, :5] / step.codes[:, :5].std(0)
    assert (mu - components).square().mean() < 0.1
    assert -2.5 < log_var.mean() < -1.5


def test_centre_follows_the_features_and_changes_no_function():
    model, images, noise = small_vae().double(), some_images(64).double(), torch.Generator()
    step = training.HandStep(model, images, start="data")
    for _ in range(40): step(torch.arange(64), 0.0, noise.manual_seed(0))  # nothing moves but the centre: twice in 40 steps
    features = training._batch(step, 64)[0].k.mean(1, keepdim=True)
    torch.testing.assert_close(step.centre[:-1], 0.75 * features)
    assert step.centre[-1] == 0
    before = step(torch.arange(64), 0.0, noise.manual_seed(1))
    training._recentre(step, training._batch(step, 64)[0].k)
    torch.testing.assert_close(step(torch.arange(64), 0.0, noise.manual_seed(1)), before, rtol=1e-12, atol=0)


@pytest.mark.parametrize("units, dtype, expected", [
    ({"amx_bf16": True}, torch.float32, "bfloat16_product"), ({"avx512_bf16": True}, torch.float32, "bfloat16_product"),
    ({"avx512_bf16": True}, torch.float64, "mm"), ({"avx2": True, "amx_bf16": False}, torch.float32, "mm"), (None, torch.float32, "mm")])
def test_processor_chooses_the_precision_of_the_fast_recipe(units, dtype, expected, monkeypatch):
    if units is None: monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    else: monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: units, raising=False)
    images, model = some_images().to(dtype), small_vae().to(dtype)
    assert training.HandStep(model, images, start="data").product.__name__ == expected
    assert training.HandStep(model, images).product is torch.mm
    assert training.last_layer_product(images.to("meta")) is torch.mm
    _, history = run(recipe="fast", data=images.float())
    assert history["train_loss"] == sorted(history["train_loss"], reverse=True)


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


@pytest.mark.parametrize("recipe", RECIPES)
def test_step_can_be_recorded_and_replayed(recipe, monkeypatch):
    """The same digits as without a graph, under a rate that changes and a last batch that is smaller."""
    options = {"recipe": recipe, "batch_size": 11, "epochs": 3}
    weights, history = run(**options)
    as_graph = training.as_graph
    monkeypatch.setattr(training, "as_graph", lambda work, device: as_graph(work, torch.device("cuda")))
    monkeypatch.setattr(torch.cuda, "CUDAGraph", StandIn)
    monkeypatch.setattr(torch.cuda, "graph", StandIn.record)
    StandIn.replays = 0
    replayed_weights, replayed_history = run(**options)
    assert StandIn.replays == (3 * 9 - 1) + (3 - 1)  # nine full batches and one small one an epoch; the first of each kind runs as it is
    assert torch.equal(weights, replayed_weights)
    counter = torch.zeros(1)
    call = training.as_graph(lambda: counter.add_(1) * 1, "cpu")
    assert [t.item() for t in [call(), call(), call()]] == [1, 2, 3]  # each result has memory of its own
    assert history["train_loss"] == replayed_history["train_loss"]


ODD_IMAGES = {
    "black": torch.zeros(20, 16), "white": torch.ones(20, 16), "grey": torch.full((20, 16), 0.3), "one": torch.rand(1, 16),
    "binary": torch.rand(50, 16).round(), "half black": torch.cat([torch.zeros(30, 8), torch.rand(30, 8)], 1),
    "half dim": torch.cat([torch.full((30, 8), 3e-4), torch.rand(30, 8)], 1),  # eight pixels are not live, and cost something
}


@pytest.mark.parametrize("name", ODD_IMAGES)
@pytest.mark.parametrize("latent_dim", [1, 30])
def test_start_from_the_data_copes_with_odd_images(name, latent_dim):
    images, model = ODD_IMAGES[name].double(), VAE(16, 12, latent_dim).double()
    step, noise = training.HandStep(model, images, start="data"), torch.Generator()
    for index in torch.arange(len(images)).split(7): step(index, 1e-3, noise)
    step.write_back()
    noise.manual_seed(0)
    inside = step(torch.arange(len(images)), 0.0, noise)
    with torch.no_grad(): outside = torch.stack([t.sum() for t in training.elbo_terms(model, images, noise.manual_seed(0))])
    assert inside.isfinite().all()
    torch.testing.assert_close(inside, outside, rtol=1e-6, atol=1e-3)  # the folded model is the function that was trained


def test_coordinates_are_those_of_a_principal_component_analysis():
    x = torch.rand(200, 9).double() @ torch.rand(9, 16).double() / 9
    mean, live, axes = training.principal_coordinates(x, components=5)
    codes = (x - mean) @ axes
    _, singular, axes_of_svd = torch.linalg.svd(x - mean, full_matrices=False)
    assert live.tolist() == list(range(16))
    cosines = (axes / axes.norm(dim=0)).T @ axes_of_svd[:5].T
    torch.testing.assert_close(cosines.abs(), torch.eye(5).double(), atol=1e-8, rtol=0)
    torch.testing.assert_close(codes.var(0, correction=0).mean(), torch.tensor(9.0).double())
    torch.testing.assert_close(codes.var(0, correction=0) / codes.var(0, correction=0)[0], (singular[:5] / singular[0]) ** 2)


def test_start_from_the_data_needs_a_vae():
    class Other(VAE): pass
    with pytest.raises(ValueError, match="starts from the data needs a VAE to train, not Other"): run(Other(16, 12, 3), recipe="fast")
    assert isinstance(training.make_step(Other(16, 12, 3), some_images()), training.AutogradStep)


def test_start_from_the_data_forgets_the_weights_of_the_model():
    (first, one), (second, two) = (run(small_vae(seed), recipe="fast") for seed in (0, 1))
    assert torch.equal(first, second) and one["train_loss"] == two["train_loss"]
    assert not torch.equal(first, run(small_vae(), recipe="fast", seed=7)[0])


@pytest.mark.parametrize("cuda, mps, best", [(True, True, "cuda"), (False, True, "mps"), (False, False, "cpu")])
def test_device_is_the_best_there_is(monkeypatch, cuda, mps, best):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: int(cuda))
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    assert choose_device() == torch.device(best)
    assert choose_device(torch.device("cpu")) == choose_device("cpu") == torch.device("cpu")
    missing = {"cuda": "cuda:3", "mps": "cuda", "cpu": "mps"}[best]
    with pytest.raises(ValueError, match=f"device '{missing}' is not on this machine"): choose_device(missing)


@pytest.mark.parametrize("name", ["gpu", "", "xla", "cuda:x", None, 3.5])
def test_unknown_device(name):
    with pytest.raises(ValueError, match="device must be 'auto', 'cuda', 'mps' or 'cpu'"): choose_device(name)


IMAGES = some_images(20)
@pytest.mark.parametrize("options, sentence", [
    ({"epochs": 0}, "epochs must be a whole number of at least 1, not 0"),
    ({"epochs": 2.0}, "epochs must be a whole number"),
    ({"epochs": True}, "epochs must be a whole number"),
    ({"batch_size": 0}, "batch_size must be a whole number of at least 1, not 0"),
    ({"lr": 0}, "lr must be a finite number above 0, not 0"),
    ({"lr": math.nan}, "lr must be a finite number"),
    ({"lr": math.inf}, "lr must be a finite number"),
    ({"lr": "1e-3"}, "lr must be a finite number"),
    ({"seed": -1}, "seed must be a whole number"),
    ({"recipe": "slow"}, "recipe must be one of 'seed', 'fast'"),
    ({"device": "abacus"}, "device must be"),
    ({"resume": True}, "resume needs out"),
    ({"data": IMAGES[:, :, 1:]}, "train_data must have input_dim = 16 pixels per image, as the model has, not 12"),
    ({"data": IMAGES * 255}, "train_data must hold finite values in"),
    ({"data": IMAGES * math.nan}, "train_data must hold finite values in"),
    ({"data": IMAGES[:0]}, "train_data must have shape"),
    ({"data": (IMAGES, torch.zeros(3))}, "train_data must pair"),
    ({"test": IMAGES - 1}, "test_data must hold finite values in"),
    ({"test": IMAGES[:, :, 1:]}, "test_data must have input_dim = 16"),
])
def test_bad_input_gets_a_sentence_before_any_work(options, sentence, monkeypatch):
    monkeypatch.setattr(training, "train_epoch", lambda *_: pytest.fail("trained in spite of bad input"))
    with pytest.raises(ValueError, match=sentence): run(**options)


@pytest.mark.parametrize("options, sentence", [({"passes": 0}, "passes"), ({"batch_size": -1}, "batch_size"), ({"data": IMAGES[:, :, 1:]}, "data must")])
def test_evaluate_refuses(options, sentence):
    with pytest.raises(ValueError, match=sentence): evaluate(**{"model": small_vae(), "data": IMAGES} | options)

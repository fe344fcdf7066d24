"""The catalogue of mistakes: the correct VAE is correct, and each planted one is wrong in its one way."""
import ast
import math
import re

import pytest
import torch
import torch.nn.functional as F
from torch.distributions import Independent, Normal, kl_divergence

from conftest import source
from vae_nbdev.loss import loss_function
from vae_nbdev.pitfalls import PITFALLS, Pitfall, build, closed_form, correct, draw_code, small_loss, unchanged

B, D, Z = 8, 784, 20
LN2 = math.log(2)


def digits(count=B):
    return torch.rand(count, 1, 28, 28, generator=torch.Generator().manual_seed(0)).square()


def asked(loss, recon=0.5, mu=0.0, log_var=0.0):
    full = lambda value, size: torch.full((B, size), value)
    return loss(full(recon, D), digits(), full(mu, Z), full(log_var, Z)).item()


def test_the_correct_pair_is_the_negative_elbo_per_image():
    torch.manual_seed(0)
    model, loss = correct()
    recon_x, mu, log_var = model(digits())
    assert recon_x.shape == (B, D) and mu.shape == log_var.shape == (B, Z)
    torch.testing.assert_close(loss(recon_x, digits(), mu, log_var), loss_function(recon_x, digits(), mu, log_var) / B)
    q = Independent(Normal(mu, (0.5 * log_var).exp()), 1)
    p = Independent(Normal(torch.zeros(Z), torch.ones(Z)), 1)
    torch.testing.assert_close(closed_form(mu, log_var), kl_divergence(q, p))


def test_the_correct_draw_has_the_moments_and_the_gradients_of_q():
    torch.manual_seed(0)
    mu, log_var = torch.full((40_000, 2), 3.0, requires_grad=True), torch.full((40_000, 2), -2.0, requires_grad=True)
    z = draw_code(mu, log_var)
    assert abs(z.mean().item() - 3) < 0.01 and abs(z.std().item() - math.exp(-1)) < 0.01
    assert abs(torch.corrcoef(z.detach().T)[0, 1].item()) < 0.02
    slopes = torch.autograd.grad(z.square().sum(), (mu, log_var))  # of mu^2 + sigma^2: 2 mu and sigma^2, on average
    assert abs(slopes[0].mean().item() - 6) < 0.02 and abs(slopes[1].mean().item() - math.exp(-2)) < 0.02


def test_a_planted_model_is_the_correct_one_but_for_one_line():
    for name, pitfall in PITFALLS.items():
        assert name == pitfall.name
        spoiled = pitfall.pixels is not unchanged
        assert len(pitfall.lines) + spoiled == bool(pitfall.finding), name
        torch.manual_seed(0)
        planted = pitfall.plant()[0].state_dict()
        torch.manual_seed(0)
        torch.testing.assert_close(planted, correct()[0].state_dict(), rtol=0, atol=0)
        model, loss = pitfall.plant((784, 5, 3))
        recon_x, mu, log_var = model(pitfall.pixels(digits()))
        assert recon_x.shape == (B, D) and mu.shape == (B, 3)
        assert loss(recon_x, pitfall.pixels(digits()), mu, log_var).shape == ()


# what the loss says of one half for every pixel, and how much more of a mean of one, where both have closed forms
VALUES = {
    "averaged-pixels": (LN2, Z / 2), "averaged-latents": (D * LN2, 1 / 2), "kl-sign": (D * LN2, -Z / 2),
    "kl-missing": (D * LN2, 0), "kl-half": (D * LN2, Z), "kl-batch-sum": (D * LN2, B * Z / 2), "bits": (D, Z / 2 / LN2),
}


@pytest.mark.parametrize("name", VALUES)
def test_losses_are_wrong_by_their_factor(name):
    loss = PITFALLS[name].plant()[1]
    half, price = VALUES[name]
    assert asked(loss) == pytest.approx(half, rel=1e-4)
    assert asked(loss, mu=1.0) - asked(loss) == pytest.approx(price, rel=1e-3, abs=1e-3)
    assert asked(correct()[1]) == pytest.approx(D * LN2, rel=1e-5)
    assert asked(correct()[1], mu=1.0) - asked(correct()[1]) == pytest.approx(Z / 2, rel=1e-3)


def test_other_losses_are_wrong_in_their_way():
    weight, mixed, inside = (PITFALLS[n].plant()[1] for n in ("unchosen-weight", "kl-log-sigma", "sigmoid-in-loss"))
    assert asked(weight, mu=1.0) - asked(weight) == pytest.approx(0.00025 * Z / 2, rel=1e-3)
    assert asked(weight) == pytest.approx((digits() - 0.5).square().mean().item(), rel=1e-5)
    assert asked(mixed, log_var=LN2) < asked(mixed)  # its best log variance is ln 2
    assert asked(mixed, mu=1.0) - asked(mixed) == pytest.approx(Z / 2, rel=1e-3)  # at log_var = 0 it is right
    p = torch.full((B, D), 0.5)
    again = F.binary_cross_entropy(p.sigmoid(), digits().flatten(1), reduction="sum") / B
    assert asked(inside) == pytest.approx(again.item(), rel=1e-5)


def test_draws_are_wrong_in_their_way():
    torch.manual_seed(0)
    mu, log_var = torch.zeros(5000, 4, requires_grad=True), torch.full((5000, 4), -2.0)
    draw = {name: PITFALLS[name].lines["draw"] for name in PITFALLS if "draw" in PITFALLS[name].lines}
    spread = {name: f(mu, log_var).std().item() for name, f in draw.items()}
    sigma = math.exp(-1)
    assert spread["variance-as-sigma"] == pytest.approx(sigma**2, rel=0.05)
    assert spread["small-noise"] == pytest.approx(0.01 * sigma, rel=0.05)
    assert spread["no-noise"] == 0
    assert spread["noise-without-gradient"] == pytest.approx(sigma, rel=0.05)
    assert not torch.autograd.grad(draw["noise-without-gradient"](mu, log_var).sum(), mu)[0].any()
    one, *others = draw["shared-noise"](mu, log_var)
    assert all(torch.equal(one, other) for other in others) and len(set(one.tolist())) == 4


def test_outputs_are_wrong_in_their_way():
    torch.manual_seed(0)
    recon_x = {name: PITFALLS[name].plant()[0](digits())[0] for name in PITFALLS if "output" in PITFALLS[name].lines}
    assert recon_x["sigmoid-in-decoder"].min() >= 0.5 and recon_x["sigmoid-in-decoder"].max() < 0.7311
    assert recon_x["sigmoid-missing"].min() < 0
    assert recon_x["relu-output"].min() == 0 and (recon_x["relu-output"] == 0).float().mean() > 0.2


def test_encoders_are_wrong_in_their_way():
    torch.manual_seed(0)
    models = {name: PITFALLS[name].plant()[0].eval() for name in
              ("sigma-sign", "relu-log-var", "dropout-left-on", "batch-norm-left-on")}
    x = digits()
    assert 0.2 < models["sigma-sign"].encode(x)[1].isnan().float().mean() < 0.8
    assert models["relu-log-var"].encode(x)[1].min() == 0
    codes = lambda name, x: models[name].encode(x)[0]
    assert not torch.equal(codes("dropout-left-on", x), codes("dropout-left-on", x))
    assert torch.equal(codes("batch-norm-left-on", x), codes("batch-norm-left-on", x))
    assert (codes("batch-norm-left-on", x)[:2] - codes("batch-norm-left-on", x[:2])).abs().max() > 0.01


def test_a_detached_reconstruction_leaves_the_decoder_alone():
    torch.manual_seed(0)
    model, loss = PITFALLS["detached-reconstruction"].plant()
    recon_x, mu, log_var = model(digits())
    loss(recon_x, digits(), mu, log_var).backward()
    assert model.to_logits.weight.grad is None and model.to_mu.weight.grad.any()


def test_spoiled_pixels():
    x = digits()
    assert PITFALLS["byte-pixels"].pixels(x).max() > 100
    assert PITFALLS["standardized-pixels"].pixels(x).min() < -0.4
    assert all(p.pixels(x) is x for p in PITFALLS.values() if p.finding != "data-range")


def test_build_replaces_what_it_is_told():
    model, loss = build((6, 4, 2), output=unchanged, loss=lambda recon_x, x, mu, log_var: mu.sum())
    x = torch.rand(3, 6)
    recon_x, mu, log_var = model(x)
    assert recon_x.shape == (3, 6) and loss(recon_x, x, mu, log_var) == mu.sum()
    with pytest.raises(TypeError): build(likelihood=unchanged)


# ------------------------------------------------------------------------------------------ the chapter and the catalogue

@pytest.fixture(scope="module")
def chapter(notebooks):
    return notebooks["14_pitfalls"]["cells"]


def test_every_mistake_has_its_section_and_its_source_there(chapter):
    text = "\n".join(source(c) for c in chapter if c["cell_type"] == "markdown")
    titles = re.findall(r"^### (.+)$", text, flags=re.M)
    assert sorted(titles) == sorted(p.title for p in PITFALLS.values())
    assert not [p.name for p in PITFALLS.values() if f"]({p.source})" not in text]
    headings = re.findall(r"^#+ (.+)$", text, flags=re.M)
    linked = re.findall(r"\]\(#([^)\s]+)\)", text)
    assert set(linked) <= {h.replace(" ", "-") for h in headings}
    assert {t.replace(" ", "-") for t in titles} <= set(linked), "the map leads to every section"


def test_findings_are_those_of_model_and_loss():
    assert sum(p.finding is None for p in PITFALLS.values()) == 6
    assert all(isinstance(p, Pitfall) and p.source.startswith("https://") and p.symptom for p in PITFALLS.values())


def test_the_one_line_tests_catch_their_mistake_and_pass_the_correct_vae(chapter):
    """Each `caught(name, test)` of the chapter, on other images and weights, several times over."""
    cells = [source(c) for c in chapter if c["cell_type"] == "code"]
    names = {"asked", "near", "spread", "slope", "kl_of_one", "twice", "codes", "whole", "in_range", "none"}
    space = {"math": math, "torch": torch, "D": D, "Z": Z, "small_loss": small_loss}
    tests = {}
    for cell in cells:
        for node in ast.parse(re.sub(r"^%.*$", "", cell, flags=re.M)).body if "%pip" not in cell else []:
            defined = {node.name} if isinstance(node, ast.FunctionDef) else \
                {t.id for t in getattr(node, "targets", []) if isinstance(t, ast.Name)}
            if defined & names: exec(ast.unparse(node), space)
            for call in ast.walk(node):
                if isinstance(call, ast.Call) and getattr(call.func, "id", "") == "caught" and len(call.args) == 2 \
                        and isinstance(call.args[0], ast.Constant):
                    tests[call.args[0].value] = (ast.unparse(call.args[1]), dict(space))
    assert set(tests) == {p.name for p in PITFALLS.values() if p.finding}
    for name, (line, then) in tests.items():
        test = eval(line, then)
        for seed in range(3):
            torch.manual_seed(seed)
            x = (torch.rand(64, D) < 0.2).float() * torch.rand(64, D).sqrt()
            assert test(*correct(), x), name
            assert not test(*PITFALLS[name].plant(), PITFALLS[name].pixels(x)), name

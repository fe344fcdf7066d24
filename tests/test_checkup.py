"""The check-up: names what is wrong and nothing else, leaves everything as it was, answers bad input in one sentence."""
import json
import math
import random
import re
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.distributions import Normal

from test_seed_contract import Reference, reference_loss
from vae_nbdev.checkup import FINDINGS, check_vae, load_model, load_object, patterns
from vae_nbdev.loss import loss_function
from vae_nbdev.model import VAE
from vae_nbdev.pitfalls import PITFALLS, SmallVAE, build, closed_form, cross_entropy, small_loss

IMAGES, SIZES = patterns(), (64, 16, 3)


def seeded(make, *args, **options):
    torch.manual_seed(0)
    return make(*args, **options)


def ids(model, loss, data=IMAGES, **options):
    return [finding.id for finding in check_vae(model, loss, data, **options).findings]


def small(**lines):
    return seeded(build, SIZES, **lines)


# ---- the confusion table ------------------------------------------------------------------------

@pytest.fixture(scope="module")
def examine(notebooks):
    """The patients of chapter 18: its own cells, up to where they are examined."""
    space = {}
    for cell in notebooks["18_probes"]["cells"]:
        code = "".join(cell["source"])
        if cell["cell_type"] != "code" or "default_exp" in code or "%pip" in code: continue
        if code.startswith("few ="): return space["examine"]
        if re.match(r"#\| export", code) and "import math" not in code: continue
        if re.search(r"^(?:class|def|from|import|[A-Z]+ =) ?", code, re.M) and not re.search(r"(?<!def )small_case\(", code): exec(code, space)


def wrong_answers(rows):
    return {name: others for name, (_, _, others) in rows.items() if others}


def test_mistakes_are_named_and_nothing_else(examine):
    rows = examine(right=6, wrong=1)
    assert len(rows) == 1 + sum(p.finding is not None for p in PITFALLS.values())
    assert wrong_answers(rows) == {}


@pytest.mark.slow
def test_more_than_two_hundred_patients(examine):
    rows = examine(right=104, wrong=4)
    assert sum(n for n, _, _ in rows.values()) >= 200
    assert wrong_answers(rows) == {}


def test_the_seed_as_it_stands(mnist):
    """Its class and its loss, word for word: no fault; what it does on purpose is a remark."""
    begin = time.perf_counter()
    report = check_vae(seeded(Reference, 784, 400, 20), reference_loss, mnist["test"])
    assert report.findings == [] and time.perf_counter() - begin < 20
    assert any("sum over the batch" in r for r in report.remarks) and any("Grey pixels" in r for r in report.remarks)


@pytest.mark.parametrize("name", [name for name, p in PITFALLS.items() if p.finding])
def test_a_finding_says_where_to_read(name, notebooks):
    pitfall = PITFALLS[name]
    [finding] = check_vae(*seeded(pitfall.plant, SIZES), pitfall.pixels(IMAGES)).findings
    assert f"### {pitfall.title}\n" in "\n".join("".join(c["source"]) for c in notebooks["14_pitfalls"]["cells"])
    slug = re.sub(r"[^a-z0-9]+", "-", pitfall.title.lower()).strip("-")
    assert finding.id == pitfall.finding and finding.link.partition("#")[2] == slug and repr(pitfall.title) in finding.read
    assert finding.look_at and finding.because and finding.measured != finding.expected


def test_every_id_of_the_catalogue_is_known():
    assert {p.finding for p in PITFALLS.values()} - {None} <= set(FINDINGS)


# ---- faults beyond the catalogue ------------------------------------------------------------------

class Dead(SmallVAE):
    def decode(self, z): return super().decode(1e-9 * z)


class DecoderCut(SmallVAE):
    def decode(self, z):
        with torch.no_grad(): return super().decode(z)


class EncoderCut(SmallVAE):
    def encode(self, x): return [t.detach() for t in super().encode(x)]


class ImageNoise(SmallVAE):
    def decode(self, z): return (super().decode(z) + 0.01 * torch.rand(len(z), 1)).clamp(1e-3, 1 - 1e-3)


class Clamped(SmallVAE):
    def encode(self, x): return super().encode(x)[0], super().encode(x)[1].clamp(min=0.05)


class Sigma(SmallVAE):
    """The third output is a standard deviation, made positive or not."""
    make = staticmethod(F.softplus)

    def forward(self, x):
        mu, out = self.encode(x)
        sigma = self.make(out)
        return self.decode(mu + sigma * torch.randn_like(mu)), mu, sigma


class AnySigma(Sigma):
    make = staticmethod(lambda out: out)


def sigma_kl(mu, sigma): return 0.5 * (mu**2 + sigma**2 - 1 - torch.log(sigma**2)).sum(1)
def without_one(mu, log_var): return 0.5 * (mu**2 + log_var.exp() - log_var).sum(1)


FAULTS = {
    "dead-latents": (Dead, small_loss()), "random-at-evaluation": (ImageNoise, small_loss()),
    "saturation": (Clamped, small_loss()), "sigma-sign": (AnySigma, small_loss(kl=sigma_kl)),
    "kl-form": (SmallVAE, small_loss(kl=without_one)),
    "loss-sign": (SmallVAE, small_loss(total=lambda r, k: -(r + k).mean())),
    "loss-sign of one term": (SmallVAE, small_loss(lambda p, x: -cross_entropy(p, x))),
    "recon-weight": (SmallVAE, small_loss(lambda p, x: 3.3 * cross_entropy(p, x))),
    "nan": (SmallVAE, small_loss(lambda p, x: cross_entropy(p, x) + 0 * torch.log((x * (1 - x)).sum()))),
}


@pytest.mark.parametrize("id", FAULTS)
def test_other_faults(id):
    make, loss = FAULTS[id]
    assert ids(seeded(make, SIZES), loss) == [id.split()[0]]


@pytest.mark.parametrize("make, half", [(DecoderCut, "decoder"), (EncoderCut, "encoder")])
def test_a_half_without_gradient(make, half):
    findings = check_vae(seeded(make, SIZES), small_loss(), IMAGES).findings
    assert findings[0].id == "decoder-without-gradient" and half in findings[0].because


def test_sigma_as_third_output_is_a_habit():
    report = check_vae(seeded(Sigma, SIZES), small_loss(kl=sigma_kl), IMAGES)
    assert report.findings == [] and any("sigma" in r for r in report.remarks)
    assert ids(seeded(Sigma, SIZES), small_loss()) == ["log-sigma"]  # but the loss must know of it


def test_what_is_stated_is_no_fault():
    weighted = small_loss(kl=lambda mu, v: 4 * closed_form(mu, v))
    assert ids(*small(), beta=1) == [] and ids(small()[0], weighted) == ["kl-factor"]
    assert ids(small()[0], weighted, beta=4) == [] and ids(*small(), beta=4) == ["kl-factor"]
    scaled = small_loss(lambda p, x: ((p - x) ** 2).sum(1) / (2 * 0.123**2))
    assert ids(small()[0], scaled) == ["recon-weight"] and ids(small()[0], scaled, sigma=0.123) == []
    assert ids(small()[0], scaled, sigma=0.2) == ["recon-weight"]
    density = small_loss(lambda p, x: -Normal(p, 0.123).log_prob(x).sum(1))
    assert ids(small()[0], density) == []  # the constant states it


def test_two_faults_are_two_findings():
    lines = dict(kl=lambda mu, v: closed_form(mu, v) / mu.shape[1], draw=lambda mu, v: mu)
    assert ids(*small(**lines)) == ["averaged-latents", "no-noise"]


def test_layers_that_begin_at_zero_are_no_fault():
    model, loss = small()
    for layer in (model.to_mu, model.to_log_var): nn.init.zeros_(layer.weight)
    assert ids(model, loss) == []


def test_idle_and_fixed_parameters_are_a_remark():
    model, loss = small()
    model.spare = nn.Linear(2, 2)
    model.to_mu.bias.requires_grad_(False)
    report = check_vae(model, loss, IMAGES)
    assert report.findings == []
    assert any(all(n in r for n in ("spare.weight", "spare.bias", "to_mu.bias")) for r in report.remarks)


# ---- other habits ----------------------------------------------------------------------------------

class Other(SmallVAE):
    """Returns the same in another way."""
    def __init__(self, way):
        super().__init__(SIZES)
        self.way = way

    def forward(self, x): return self.way(x, *super().forward(x))

    def loss(self, recon_x, x, mu, log_var): return small_loss()(recon_x, x, mu, log_var)


WAYS = {
    "with x": (lambda x, r, m, v: [r, x, m, v], ("recon_x", "x", "mu", "log_var")),
    "codes first": (lambda x, r, m, v: (m, v, r), ("mu", "log_var", "recon_x")),
    "nested": (lambda x, r, m, v: (r, (m, v)), ("recon_x", "mu", "log_var")),
    "a dictionary": (lambda x, r, m, v: {"recon": r, "mu": m, "logvar": v}, ("recon_x", "mu", "log_var")),
    "images": (lambda x, r, m, v: (r.view(x.shape), m, v), ("recon_x", "mu", "log_var")),
}


@pytest.mark.parametrize("way", WAYS)
def test_outputs_in_any_order(way):
    returned, outputs = WAYS[way]
    loss = small_loss(lambda p, x: cross_entropy(p.flatten(1), x))
    assert ids(seeded(Other, returned), loss, outputs=outputs) == []


RESULTS = {"a tuple": lambda r, k: ((r + k).mean(), r, k), "a dictionary": lambda r, k: {"kl": k, "loss": (r + k).sum()},
           "one for each image": lambda r, k: r + k, "shape (1,)": lambda r, k: (r + k).mean()[None]}


@pytest.mark.parametrize("result", RESULTS)
def test_losses_that_return_other_things(result):
    assert ids(*small(total=RESULTS[result])) == []


def test_losses_of_every_kind():
    model = seeded(Other, lambda x, *three: three)
    swapped = lambda x, recon_x, log_var, mu: loss_function(recon_x, x, mu, log_var)
    assert ids(model, swapped, arguments=("x", "recon_x", "log_var", "mu")) == []
    assert ids(model, model.loss) == [] and ids(model, partial(model.loss)) == []

    class Loss(nn.Module):
        def forward(self, recon_x, x, mu, log_var): return loss_function(recon_x, x, mu, log_var)

    assert ids(model, Loss()) == []
    single = lambda recon_x, x, mu, log_var: loss_function(*(t.float() for t in (recon_x, x, mu, log_var)))
    assert ids(model, single) == []


def test_a_kl_that_is_an_estimate_is_left_alone():
    def estimate(mu, log_var):
        q = Normal(mu, torch.exp(0.5 * log_var))
        z = q.rsample()
        return (q.log_prob(z) - Normal(0, 1).log_prob(z)).sum(1)

    report = check_vae(small()[0], small_loss(kl=estimate), IMAGES)
    assert report.findings == [] and any("noise of its own" in r for r in report.remarks)


def test_free_bits_are_a_remark():
    def free(mu, log_var): return (0.5 * (mu**2 + log_var.exp() - 1 - log_var)).clamp(min=0.3).sum(1)

    report = check_vae(small()[0], small_loss(kl=free), IMAGES)
    assert report.findings == [] and any("free bits" in r for r in report.remarks)


def test_a_loss_that_takes_no_grey():
    coins = small_loss(lambda p, x: -torch.distributions.Bernoulli(p, validate_args=True).log_prob(x).sum(1))
    assert ids(small()[0], coins) == []


@pytest.mark.parametrize("name", ["decoder", "decode_logits"])
def test_decoders_of_other_names(name):
    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, layers = nn.Linear(64, 6), nn.Sequential(nn.Linear(3, 64), nn.Sigmoid())
            if name == "decoder": self.decoder = layers
            else: self.layers = layers

        if name != "decoder":
            def decode_logits(self, z): return self.layers(z)

        def forward(self, x):
            mu, log_var = self.body(x.flatten(1)).chunk(2, 1)
            z = mu + torch.exp(0.5 * log_var) * torch.randn_like(mu)
            return getattr(self, name)(z), mu, log_var

    assert ids(seeded(Named), loss_function) == []


def test_data_of_every_kind():
    model, loss = small()
    for data in (IMAGES.numpy(), IMAGES.bool(), (IMAGES, torch.zeros(64)), IMAGES.flatten(1)): assert ids(model, loss, data) == []
    assert ids(model.double(), loss) == []


# ---- nothing is changed -----------------------------------------------------------------------------

class Keeps(SmallVAE):
    """Has buffers, modes, hidden layers in eval mode, frozen weights, and keeps results on itself."""
    def __init__(self):
        super().__init__(SIZES, hidden=None)
        self.hidden = nn.BatchNorm1d(16)
        self.to_mu.weight.requires_grad_(False)
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        np.random.rand(), random.random()
        self.last = super().forward(x)[1]
        return super().forward(x)


def everything(model):
    return ({n: t.clone() for n, t in model.state_dict().items()}, [m.training for m in model.modules()],
            [p.requires_grad for p in model.parameters()], [p.grad is None for p in model.parameters()], sorted(vars(model)),
            model.calls, torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist())


def fails(recon_x, x, mu, log_var): raise RuntimeError("of its own")
def fails_late(recon_x, x, mu, log_var):
    if len(x) == 64: raise RuntimeError("on real batches")
    return loss_function(recon_x, x, mu, log_var)


@pytest.mark.parametrize("loss", [loss_function, fails, fails_late])
def test_nothing_is_changed(loss):
    model = seeded(Keeps)
    model(IMAGES)
    model.hidden.eval()
    kept, before = model.last, everything(model)
    try: check_vae(model, loss, IMAGES)
    except ValueError: assert loss is not loss_function
    after = everything(model)
    assert all(torch.equal(before[0][n], after[0][n]) for n in before[0]) and before[1:] == after[1:]
    assert model.last is kept and torch.equal(IMAGES, patterns())


def test_it_works_where_gradients_are_off():
    model, loss = small()
    with torch.no_grad(): assert ids(model, loss) == [] and not torch.is_grad_enabled()
    with torch.inference_mode(): assert ids(model, loss) == []


def test_the_same_answer_twice():
    model, loss = small()
    assert str(check_vae(model, loss, IMAGES)) == str(check_vae(model, loss, IMAGES))


# ---- the report ---------------------------------------------------------------------------------------

def test_a_report_reads_like_a_colleague():
    def my_loss(recon_x, x, mu, log_var):
        bce = F.binary_cross_entropy(recon_x, x.flatten(1))  # here
        return bce + closed_form(mu, log_var).mean()

    report = check_vae(small()[0], my_loss, IMAGES)
    text, [finding] = str(report), report.findings
    assert "SmallVAE with my_loss: one thing looks wrong." in text and "averaged-pixels" in text
    assert "0.01562" in text and "64 times" in text and finding.measured == pytest.approx(1 / 64) and finding.expected == pytest.approx(1)
    assert re.search(r"test_checkup.py:\d+: bce = F.binary_cross_entropy", finding.look_at)
    assert "chapter 14" in finding.read and finding.link in text
    assert json.loads(report.to_json())["findings"][0]["id"] == "averaged-pixels"
    page = report._repr_html_()
    assert finding.link in page and "<code>averaged-pixels</code>" in page
    assert "nothing looks wrong" in str(check_vae(*small(), IMAGES))


def test_json_holds_what_json_can_hold():
    """An expected number that has no limit, that of logits, is null and not the word Infinity."""
    report = check_vae(*small(**PITFALLS["sigmoid-in-loss"].lines), IMAGES)
    [found] = json.loads(report.to_json(), parse_constant=pytest.fail)["findings"]
    assert found["id"] == "sigmoid-twice" and found["expected"] is None and 0 <= found["measured"] < 1


def test_html_is_escaped():
    def my_loss(recon_x, x, mu, log_var):
        kl = closed_form(mu, log_var) if 1 < 2 else None
        return (cross_entropy(recon_x, x.flatten(1)) - kl).mean()

    report = check_vae(small()[0], my_loss, IMAGES)
    assert "1 < 2" in report.findings[0].look_at and "1 &lt; 2" in report._repr_html_() and "1 < 2" not in report._repr_html_()


# ---- bad input ------------------------------------------------------------------------------------------

class Elsewhere(SmallVAE):
    def forward(self, x):
        mu, log_var = self.encode(x)
        return torch.sigmoid(mu @ torch.zeros(3, 64)), mu, log_var


class NoCopy(SmallVAE):
    def __deepcopy__(self, memo): raise RuntimeError("no")


MODEL, LOSS = seeded(build, SIZES)
BAD = {
    "must be an instance of nn.Module, not SmallVAE: call it": ((SmallVAE, LOSS, IMAGES), {}),
    "model must be an instance of nn.Module, not int": ((3, LOSS, IMAGES), {}),
    "model must have a parameter that can be trained": ((seeded(SmallVAE, SIZES).requires_grad_(False), LOSS, IMAGES), {}),
    "loss must be a function of": ((MODEL, 3, IMAGES), {}),
    "at least 16 images": ((MODEL, LOSS, IMAGES[:8]), {}),
    "data must hold finite values": ((MODEL, LOSS, IMAGES / 0), {}),
    "data must be": ((MODEL, LOSS, "digits"), {}),
    "model must take data of shape": ((MODEL, LOSS, IMAGES[..., 1:]), {}),
    "beta must be a number above zero, not 0": ((MODEL, LOSS, IMAGES), {"beta": 0}),
    "sigma must be a number above zero, not 'a'": ((MODEL, LOSS, IMAGES), {"sigma": "a"}),
    "outputs must be names in an order": ((MODEL, LOSS, IMAGES), {"outputs": ("recon_x", "mu")}),
    "arguments must be names in an order": ((MODEL, LOSS, IMAGES), {"arguments": "recon_x"}),
    "loss must take recon_x, x, mu, log_var, and fails: TypeError": ((MODEL, lambda recon_x, x: 0, IMAGES), {}),
    "loss must return a number": ((MODEL, lambda *a: {"total": 1}, IMAGES), {}),
    "not (64, 64)": ((MODEL, lambda r, x, m, v: r, IMAGES), {}),
    "returns 4 values: name them": ((Other(lambda x, r, m, v: (r, x, m, v)), LOSS, IMAGES), {}),
    "say outputs=(...) in the order of yours": ((Other(lambda x, r, m, v: (m, v, r)), LOSS, IMAGES), {}),
    "its dictionary has a, b": ((Other(lambda x, r, m, v: {"a": r, "b": m}), LOSS, IMAGES), {}),
    "must return mu as a tensor with a row for each": ((Other(lambda x, r, m, v: (r, None, v)), LOSS, IMAGES), {}),
    "rename your decoder": ((Elsewhere(SIZES), LOSS, IMAGES), {}),
    "copy.deepcopy can copy": ((NoCopy(SIZES), LOSS, IMAGES), {}),
}


@pytest.mark.parametrize("said", BAD)
def test_bad_input_is_answered_in_one_sentence(said):
    args, options = BAD[said]
    with pytest.raises(ValueError, match=re.escape(said) if said != "not (64, 64)" else "not ") as error: check_vae(*args, **options)
    assert "\n" not in str(error.value)


# ---- by name -----------------------------------------------------------------------------------------------

OWN = """
from vae_nbdev.model import VAE
from vae_nbdev.loss import loss_function as my_loss
class Mine(VAE):
    def __init__(self): super().__init__(64, 16, 3)
def make(): return Mine()
model = make()
class Sized(VAE):
    def __init__(self, size): super().__init__(size)
class losses: mine = staticmethod(my_loss)
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "my_own_vae.py").write_text(OWN)
    (tmp_path / "broken_vae.py").write_text("1 / 0")
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    for name in ("my_own_vae", "broken_vae"): sys.modules.pop(name, None)


@pytest.mark.parametrize("place", ["my_own_vae", "my_own_vae.py", "./my_own_vae.py"])
def test_objects_by_name(place, folder):
    path = list(sys.path)
    loss = load_object(f"{place}:losses.mine")
    for name in ("Mine", "make", "model"): assert ids(load_model(f"{place}:{name}"), loss) == []
    assert sys.path == path and load_object("vae_nbdev.model:VAE") is VAE


@pytest.mark.parametrize("spec, said", [
    ("my_own_vae", "must be module:name"), (":Mine", "must be module:name"), ("my_own_vae:", "must be module:name"),
    ("no_such_vae:Mine", "no_such_vae must be a module that can be imported"), ("no.py:Mine", "no.py must be a module"),
    ("broken_vae:Mine", "ZeroDivisionError"), ("my_own_vae:Yours", "must have Yours, and has VAE, my_loss, Mine"),
    ("my_own_vae:Sized", "must be made without arguments"),
])
def test_names_that_lead_nowhere(spec, said, folder):
    with pytest.raises(ValueError, match=re.escape(said)) as error: load_model(spec)
    assert "\n" not in str(error.value)

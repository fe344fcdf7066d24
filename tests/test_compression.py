"""Files that give back every pixel, on every machine, and say in one sentence where they cannot."""
import hashlib
import math
import os
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings as examples, strategies as st
from torch import nn
from torch.testing import assert_close

from vae_nbdev.compression import (ONE, Coder, Exactly, ExactModel, Stack, Table, code_tables, compress, compress_file, cumulative, decompress,
                                   decompress_file, exact_exp, exact_log, exact_mm, fingerprint, get, get_all, put, put_all)
from vae_nbdev.conditional import ConditionalVAE
from vae_nbdev.convolutional import ConvVAE
from vae_nbdev.data import binarize
from vae_nbdev.evaluation import BurdaVAE
from vae_nbdev.model import VAE, inference
from vae_nbdev.training import evaluate, fit

GREY = ["discretized-logistic", "beta-binomial", "categorical:features=3", "categorical"]


def seeded(make, *args, seed=0, **options):
    torch.manual_seed(seed)
    return make(*args, **options)


def same(a, b):
    return a.dtype == b.dtype and torch.equal(a, b)


@pytest.fixture(scope="module")
def trained(mnist):
    model = seeded(VAE, 784, 100, 10)
    fit(model, mnist["train"][0][:10_000], recipe="fast", epochs=2, progress=False)
    return model


@pytest.fixture(scope="module")
def digits(mnist):
    return binarize(mnist["test"][0], generator=torch.Generator().manual_seed(0))


def test_functions_agree_with_torch():
    x = torch.linspace(-200, 200, 4001).double()
    assert_close(exact_exp(x), x.exp(), rtol=1e-14, atol=0)
    assert_close(exact_log(x.exp()), x, rtol=1e-13, atol=1e-13)
    assert exact_exp(torch.tensor([-math.inf, math.inf]).double()).isfinite().all()


def test_product_is_exact():
    """Any order of the terms gives the same bits, and the rounded factors are near to the given ones."""
    g = torch.Generator().manual_seed(0)
    x, W, order = torch.randn(7, 800, generator=g).double(), torch.randn(800, 9, generator=g).double(), torch.randperm(800, generator=g)
    product = exact_mm(x, W)
    assert torch.equal(exact_mm(x[:, order], W[order]), product)
    assert torch.equal(torch.cat([exact_mm(row[None], W) for row in x]), product)
    assert_close(product, x @ W, atol=0.02, rtol=0)


class Everything(nn.Module):
    "One of each layer that has an exact form."
    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(1, 4, 3, 2, 1), nn.ELU(), nn.GroupNorm(2, 4), nn.Conv2d(4, 4, 3, padding=1, groups=2), nn.SiLU(), nn.Flatten(),
            nn.Linear(64, 30), nn.BatchNorm1d(30), nn.Softplus(), nn.Linear(30, 30, bias=False), nn.Sigmoid(), nn.Linear(30, 6))
        self.decoder = nn.Sequential(
            nn.Linear(3, 64), nn.LeakyReLU(), nn.Unflatten(1, (4, 4, 4)), nn.ConvTranspose2d(4, 2, 4, 2, 1), nn.Tanh(), nn.BatchNorm2d(2),
            nn.ReLU(), nn.ConvTranspose2d(2, 1, 3, 1, 1), nn.LogSoftmax(3))

    def encode(self, x): return self.encoder(x).chunk(2, 1)
    def decode_logits(self, z): return self.decoder(z)


@pytest.mark.parametrize("make", [lambda: VAE(64, 30, 3), lambda: BurdaVAE(64, (30, 20), 3), lambda: ConvVAE((1, 8, 8), 3, (4, 8)), Everything])
def test_distributions_do_not_depend_on_the_batch(make):
    """To the last bit; and they are the model's own."""
    model, x = seeded(make).eval(), torch.rand(9, 1, 8, 8).round()
    exact = ExactModel(model, (1, 8, 8))
    together, alone = (exact.posterior(x.double()) if n is None else [exact.posterior(row[None].double()) for row in x] for n in (None, 1))
    for name in ("loc", "scale"):
        assert torch.equal(getattr(together, name), torch.cat([getattr(q, name) for q in alone]))
    with torch.no_grad():
        mu, log_var = model.encode(x.flatten(1) if isinstance(model, VAE | BurdaVAE) else x)
        logits = model.decode_logits(mu)
    assert_close(together.loc.float(), mu, atol=2e-3, rtol=0)
    assert_close(together.scale.float(), (0.5 * log_var).exp(), atol=2e-3, rtol=0)
    assert_close(exact.likelihood(mu.double()).logits.flatten(1).float(), logits.flatten(1), atol=5e-3, rtol=0)
    found = [exact.likelihood(part.double()).logits for part in (mu, mu[4:5])]
    assert torch.equal(found[0][4:5], found[1])


def test_stack_agrees_with_constriction():
    constriction = pytest.importorskip("constriction")
    p, rng = np.array([0.6, 0.3, 0.1]), np.random.default_rng(0)
    numbers = rng.choice(3, (20, 300), p=p)
    below = cumulative(torch.tensor(p))
    model, lengths = constriction.stream.model.Categorical(np.diff(below.astype(float)) / ONE, perfect=True), []
    for row in numbers:
        stack = Stack()
        stack.open(1)
        put(stack, Table(below, np.zeros((1, 300), int), 3, 0), row[None])
        coder = constriction.stream.stack.AnsCoder()
        coder.encode_reverse(row.astype(np.int32), model)
        lengths.append([32 * len(stack.words.kept) + math.log2(int(stack.states[0])) - 32, coder.num_valid_bits()])
        assert (constriction.stream.stack.AnsCoder(stack.all()).decode(model, 300) == row).all()
    ours, theirs = np.array(lengths).T
    assert abs(theirs - ours).max() < 32  # it begins with a part of a word
    assert (theirs - ours).std() < 3 and abs(ours.mean() + np.log2(p[numbers]).sum() / 20) < 1


def test_stack_gives_back_in_many_lanes():
    """Rare symbols, many lanes, and at the end what was there at first."""
    rng = np.random.default_rng(0)
    below = cumulative(torch.from_numpy(rng.random((5, 300)) ** 20))
    table = Table(below.reshape(-1), rng.integers(0, 5, (40, 200)) * 301, 300, -7)
    numbers = rng.integers(-7, 293, (40, 200))
    stack = Stack()
    stack.open(40)
    put(stack, table, numbers)
    again = Stack(stack.all(), 40)
    assert np.array_equal(get(again, table), numbers)
    again.close(0)
    assert again.words.are_seeds() and len(again.words.kept) == 40


@pytest.mark.parametrize("likelihood", ["bernoulli", *GREY])
def test_frequencies_are_those_of_the_likelihood(likelihood):
    """The tables' code lengths, against log_prob; for each pixel all frequencies add up, and none is zero."""
    model = seeded(VAE, 20, 30, 3, likelihood=likelihood)
    coder, z = Coder(model, (20,)), np.random.default_rng(0).integers(-500, 500, (30, 3))
    table = coder.likelihood(z)
    rows = table.below[table.row[..., None] + np.arange(table.size + 1)].astype(float)  # (B, D, L + 1)
    assert (rows[..., 0] == 0).all() and (rows[..., -1] == ONE).all() and (np.diff(rows) > 0).all()
    with inference(model): p = model.likelihood(torch.from_numpy(z).float() / 2**8)
    x = p.sample()
    k = ((table.size - 1) * x).round().long().numpy()
    bits = -np.log2(np.take_along_axis(np.diff(rows), k[..., None], 2) / ONE).sum((1, 2))
    assert abs(bits.mean() / (-p.log_prob(x).mean().item() / math.log(2)) - 1) < 0.01


def test_codes_have_the_models_own_distributions():
    mu, sigma = torch.tensor([[0.3, -2.0, 20.0]]).double(), torch.tensor([[0.1, 1.0, 1e-9]]).double()
    tables = code_tables(8)
    q = tables.posterior(mu, sigma)
    for i, expected in ((0, (0.3, 0.1)), (1, (-2.0, 1.0)), (2, (16.0, 0.002))):
        below = q.below[q.row[0, i]:q.row[0, i] + q.size[0, i] + 1].astype(float)
        mass, points = np.diff(below) / ONE, (q.first[0, i] + np.arange(q.size[0, i])) / 2**8
        mean = (mass * points).sum()
        assert_close((mean, math.sqrt((mass * (points - mean) ** 2).sum())), expected, atol=0.02, rtol=0.03)


# ------------------------------------------------------------------------------------------------ lossless

MODELS = {"bernoulli": (2, VAE), "beta-binomial": (256, VAE), "discretized-logistic:levels=16": (16, VAE), "categorical:levels=5": (5, VAE)}
SMALL = {name: seeded(make, 12, 8, 2, likelihood=name) for name, (_, make) in MODELS.items()}


@pytest.mark.slow
@examples(max_examples=300, deadline=None)
@given(st.sampled_from([*MODELS]), st.integers(0, 6), st.sampled_from(["noise", "one level", "black and white"]), st.integers(0, 2**20))
def test_every_image_comes_back(name, N, kind, seed):
    levels, rng = MODELS[name][0], np.random.default_rng(seed)
    k = rng.integers(0, levels, (N, 3, 4)) if kind == "noise" else np.full((N, 3, 4), rng.integers(0, levels))
    if kind == "black and white": k = (levels - 1) * rng.integers(0, 2, (N, 3, 4))
    x = torch.from_numpy(k).float() / (levels - 1)
    assert same(decompress(SMALL[name], compress(SMALL[name], x)), x)


@pytest.mark.slow
def test_a_thousand_random_images():
    model, x = seeded(VAE, 784, 32, 4), torch.rand(1000, 784, generator=torch.Generator().manual_seed(0)).round()
    assert same(decompress(model, compress(model, x)), x)


@pytest.mark.parametrize("likelihood", GREY)
def test_grey_digits(likelihood, mnist):
    model = seeded(VAE, 784, 32, 4, (1, 28, 28), likelihood=likelihood)
    x = mnist["test"][0][:1 if likelihood == "categorical" else 3]
    assert same(decompress(model, compress(model, x)), x)


@pytest.mark.parametrize("kind", [torch.bool, torch.uint8, torch.float32, torch.float64])
def test_the_type_of_pixels_comes_back(kind):
    x = torch.tensor([[0, 1, 1, 0] * 3]).to(kind)
    if kind == torch.uint8: x = 255 * x
    model = SMALL["bernoulli"]
    assert same(decompress(model, compress(model, x)), x)
    assert same(decompress(model, compress(model, x.numpy())), x)


def test_colour_and_convolutions():
    model = seeded(ConvVAE, (3, 8, 9), 4, (4, 8), likelihood="discretized-logistic")
    x = torch.randint(256, (5, 3, 8, 9), generator=torch.Generator().manual_seed(0)).byte()
    assert same(decompress(model, compress(model, x)), x)


@pytest.mark.parametrize("lanes", [1, 3, 50])
def test_any_number_of_lanes(lanes, trained, digits):
    k = digits[:60].flatten(1).long().numpy()
    coder = Coder(trained, (1, 28, 28))
    assert np.array_equal(get_all(coder, put_all(coder, k, lanes).all(), 60, lanes), k)


def test_rate_is_the_negative_elbo(trained, digits):
    x = digits[::4]
    rate = 8 * len(compress(trained, x)) / len(x)
    bound = evaluate(trained, x, passes=5)["loss"] / math.log(2)
    assert 0.995 < rate / bound < 1.01


def test_a_finer_grid_costs_nothing(trained, digits):
    rates = [len(compress(trained, digits[:400], width)) for width in (6, 8, 10)]
    assert max(rates) / min(rates) < 1.03


# ------------------------------------------------------------------------------------------------ the file

def test_format_is_as_documented(digits, trained):
    x = digits[:100]
    data = compress(trained, x)
    assert data[:9] == b"\x89VAEBIT\n\x01"
    kind, levels, width, ndim, lanes, N = struct.unpack_from("<BHBBHI", data, 9)
    assert (kind, levels, width, ndim, lanes, N) == (2, 2, 8, 3, 3, 100)
    assert data[20:36] == fingerprint(trained)
    assert data[36:44] == hashlib.sha256(x.flatten(1).numpy().astype("<u2").tobytes()).digest()[:8]
    assert struct.unpack_from("<3I", data, 44) == (1, 28, 28)
    assert struct.unpack("<I", data[-4:])[0] == zlib.crc32(data[:-4])
    assert (len(data) - 44 - 12 - 4) % 4 == 0


def test_damage_is_noticed():
    """Each byte flipped, each length but the right one."""
    model, x = SMALL["bernoulli"], torch.ones(3, 12)
    data = compress(model, x)
    for i in range(len(data)):
        with pytest.raises(ValueError, match="data (is|has|was)"): decompress(model, data[:i])
        with pytest.raises(ValueError, match="data (is|has|was)"): decompress(model, data[:i] + bytes([data[i] ^ 16]) + data[i + 1:])
    with pytest.raises(ValueError, match="damaged"): decompress(model, data + b"\0")


def test_damage_behind_a_checksum_is_noticed():
    """A word of the stack is another, and CRC-32 agrees with it: the end, or the images' own checksum, does not."""
    model, x = SMALL["bernoulli"], torch.ones(20, 12)
    data = bytearray(compress(model, x)[:-4])
    data[-10] ^= 1
    with pytest.raises(ValueError, match="data"): decompress(model, bytes(data) + zlib.crc32(data).to_bytes(4, "little"))


def test_another_model_is_refused():
    data, other = compress(SMALL["bernoulli"], torch.ones(1, 12)), seeded(VAE, 12, 8, 2, seed=1)
    with pytest.raises(ValueError, match="another model"): decompress(other, data)
    with pytest.raises(ValueError, match="version 2"): decompress(other, data[:8] + b"\x02" + data[9:])


class Odd(VAE):
    def decode_logits(self, z): return super().decode_logits(z.sin())


class Wide(VAE):
    @property
    def prior(self): return torch.distributions.Independent(torch.distributions.Normal(torch.zeros(2), 2.0), 1)


@pytest.mark.parametrize("model, says", [
    (VAE(12, 8, 2, likelihood="gaussian"), "discrete"), (VAE(12, 8, 2, likelihood="continuous-bernoulli"), "discrete"),
    (Odd(12, 8, 2), "exact form.*sin"), (Wide(12, 8, 2), "prior"), ("a model", "torch.nn.Module"), (VAE(13, 8, 2), "13")])
def test_models_that_are_no_code(model, says):
    with pytest.raises(ValueError, match=says): compress(model, torch.ones(2, 12))


def test_more_models_that_are_no_code():
    broken = seeded(VAE, 12, 8, 2)
    broken.fc_mu.weight.data[0, 0] = math.nan
    with pytest.raises(ValueError, match="finite"): compress(broken, torch.ones(2, 12))
    with pytest.raises(ValueError, match="labels"): compress(ConditionalVAE(), torch.ones(2, 1, 28, 28))


@pytest.mark.parametrize("name, x, says", [
    ("bernoulli", torch.full((2, 12), 0.5), "zeros and ones"), ("beta-binomial", torch.full((2, 12), 0.501), "256 grey levels"),
    ("beta-binomial", torch.full((2, 12), 1.5), "grey levels"), ("bernoulli", torch.full((2, 12), math.nan), "nan"),
    ("bernoulli", torch.ones(2, 12).half(), "float16"), ("bernoulli", torch.ones(2, 12).long(), "int64"), ("bernoulli", torch.ones(12), "shape"),
    ("bernoulli", torch.ones(3, 0), "shape"), ("categorical:levels=5", torch.tensor([[63] * 12]).byte(), "5 grey levels")])
def test_images_that_have_no_code(name, x, says):
    with pytest.raises(ValueError, match=says): compress(SMALL[name], x)


@pytest.mark.parametrize("width", [0, 13, 2.5, True])
def test_widths_that_are_refused(width):
    with pytest.raises(ValueError, match="width"): compress(SMALL["bernoulli"], torch.ones(2, 12), width)


# ------------------------------------------------------------------------------------------------ files

def test_numpy_file_and_back(tmp_path, digits, trained):
    array = digits[:50].bool().numpy()
    np.save(tmp_path / "in.npy", array)
    pixels, size = compress_file(trained, tmp_path / "in.npy", tmp_path / "new" / "out.vae")
    assert pixels == 50 * 784 and size == (tmp_path / "new" / "out.vae").stat().st_size
    assert decompress_file(trained, tmp_path / "new" / "out.vae", tmp_path / "back.npy") == 50
    back = np.load(tmp_path / "back.npy")
    assert back.dtype == array.dtype and np.array_equal(back, array)


@pytest.mark.parametrize("channels", [1, 3])
def test_folder_of_pictures_and_back(channels, tmp_path):
    from PIL import Image
    rng, folder = np.random.default_rng(0), tmp_path / "in"
    folder.mkdir()
    images = rng.integers(0, 256, (4, 8, 8, channels), dtype=np.uint8)
    for i, image in enumerate(images): Image.fromarray(image[..., 0] if channels == 1 else image).save(folder / f"{i}.png")
    model = seeded(ConvVAE, (channels, 8, 8), 3, (4,), likelihood="beta-binomial")
    compress_file(model, folder, tmp_path / "out.vae")
    decompress_file(model, tmp_path / "out.vae", tmp_path / "back")
    back = [np.asarray(Image.open(p)).reshape(8, 8, channels) for p in sorted((tmp_path / "back").iterdir())]
    assert np.array_equal(back, images)


def test_nothing_is_written_where_it_fails(tmp_path):
    model = SMALL["bernoulli"]
    np.save(tmp_path / "grey.npy", np.full((2, 12), 0.5, np.float32))
    np.save(tmp_path / "rows.npy", np.ones((2, 12), np.float32))
    (tmp_path / "text.npy").write_text("hello")
    compress_file(model, tmp_path / "rows.npy", tmp_path / "good.vae")
    (tmp_path / "cut.vae").write_bytes((tmp_path / "good.vae").read_bytes()[:-3])
    before = sorted(tmp_path.rglob("*"))
    for source, error in (("grey.npy", ValueError), ("text.npy", ValueError), ("none.npy", FileNotFoundError)):
        with pytest.raises(error): compress_file(model, tmp_path / source, tmp_path / "new" / "out.vae")
    for source, target, error in (("cut.vae", "out.npy", ValueError), ("none.vae", "out.npy", FileNotFoundError), ("good.vae", "folder", ValueError)):
        with pytest.raises(error): decompress_file(model, tmp_path / source, tmp_path / target)
    assert sorted(tmp_path.rglob("*")) == before


# ------------------------------------------------------------------------------------------------ other machines

ELSEWHERE = """
import hashlib, sys, torch
from pathlib import Path
from vae_nbdev.compression import compress, decompress
from vae_nbdev.runs import load
torch.set_num_threads(int(sys.argv[2]))
folder = Path(sys.argv[1])
for name in ("coins", "levels"):
    model = load(folder / f"{name}.safetensors")
    images = decompress(model, (folder / f"{name}.vae").read_bytes())
    print(hashlib.sha256(images.numpy().tobytes() + compress(model, images)).hexdigest())
"""


@pytest.mark.slow
def test_files_decode_with_other_threads_and_instructions(tmp_path, mnist, digits, trained):
    """Two thread counts, two levels of vector instructions: the same images, and files of the same bytes."""
    from vae_nbdev.runs import save
    levels = seeded(VAE, 784, 100, 5, (1, 28, 28), likelihood="beta-binomial")
    fit(levels, mnist["train"][0][:2000], recipe="muon", epochs=1, progress=False)
    expected = []
    for name, model, x in (("coins", trained, digits[:70]), ("levels", levels, mnist["test"][0][:12])):
        save(model, tmp_path / f"{name}.safetensors")
        data = compress(model, x)
        (tmp_path / f"{name}.vae").write_bytes(data)
        expected.append(hashlib.sha256(x.numpy().tobytes() + data).hexdigest())
    for level, threads in (("default", "2"), ("avx2", "1")):
        env = os.environ | {"ATEN_CPU_CAPABILITY": level, "OMP_NUM_THREADS": threads}
        done = subprocess.run([sys.executable, "-c", ELSEWHERE, str(tmp_path), threads], env=env, capture_output=True, text=True)
        assert done.stdout.split() == expected, done.stderr[-2000:]


@pytest.mark.slow
def test_package_needs_no_constriction():
    code = "import sys; sys.modules['constriction'] = None\nimport torch\nfrom vae_nbdev import VAE\nfrom vae_nbdev.compression import *\n" \
           "m, x = VAE(4, 3, 2), torch.ones(2, 4)\nassert torch.equal(decompress(m, compress(m, x)), x)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0

"""Chapter 1: the packaged files, the loaders, binarization and the entropy floor."""
import gzip
import hashlib
import http.server
import math
import re
import shutil
import socket
import struct
import threading
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch.distributions import Bernoulli
from torchvision import datasets, transforms

from vae_nbdev import data
from vae_nbdev.data import (BatchLoader, bernoulli_entropy, binarize, check_images, load_dataset, load_mnist, split_data,
                            unpack_mnist)

SPLITS = {"train": 60_000, "test": 10_000}
quick = settings(deadline=None, max_examples=25, derandomize=True)


@pytest.fixture(scope="module")
def mnist():
    return {split: load_mnist(split) for split in SPLITS}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("torchvision")
    unpack_mnist(root)
    return root


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*args, **kwargs): raise OSError("the network is off")
    for name in "socket", "create_connection", "getaddrinfo": monkeypatch.setattr(socket, name, refuse)


def idx(array):
    "The bytes of an IDX file, written independently of the reader."
    return struct.pack(f">{1 + array.ndim}i", 0x800 + array.ndim, *array.shape) + bytes(array.flatten().tolist())


def write_family(folder, n=5, pack=lambda raw: raw, ending=""):
    "A tiny data set in torchvision's layout; gives back its pixels and labels for each split."
    folder.mkdir(parents=True)
    made = {}
    for seed, (split, stem) in enumerate({"train": "train", "test": "t10k"}.items()):
        g = torch.Generator().manual_seed(seed)
        made[split] = torch.randint(256, (n, 28, 28), generator=g), torch.randint(10, (n,), generator=g)
        for kind, array in zip(("images-idx3", "labels-idx1"), made[split]):
            (folder / f"{stem}-{kind}-ubyte{ending}").write_bytes(pack(idx(array)))
    return made


# ---- the packaged files

@pytest.mark.parametrize("split", SPLITS)
def test_load_mnist_has_the_promised_form(mnist, split):
    images, labels = mnist[split]
    assert images.shape == (SPLITS[split], 1, 28, 28) and images.dtype == torch.float32
    assert labels.shape == (SPLITS[split],) and labels.dtype == torch.int64 and labels.unique().tolist() == list(range(10))
    assert check_images(images) is images and images.min() == 0 and images.max() == 1


@pytest.mark.parametrize("split", SPLITS)
def test_load_mnist_equals_torchvision(mnist, root, split):
    theirs = datasets.MNIST(root, train=split == "train", download=False, transform=transforms.ToTensor())
    images, labels = mnist[split]
    assert torch.equal(theirs.targets, labels) and torch.equal(theirs.data[:, None].float() / 255, images)
    for i in range(0, len(theirs), 50): assert torch.equal(theirs[i][0], images[i])
    levels = torch.arange(256, dtype=torch.uint8).view(1, 16, 16)  # ToTensor divides all 256 of them as we do, so all pixels agree
    assert torch.equal(transforms.ToTensor()(transforms.functional.to_pil_image(levels)), levels.float() / 255)


def test_checksums_are_those_of_the_notice_and_of_the_unpacked_files(root):
    notice = (data.MNIST_FOLDER / "NOTICE.md").read_text()
    assert "CC BY-SA 3.0" in notice and "Yann LeCun, Corinna Cortes and Christopher J. C. Burges" in notice
    for name, sha in data.CHECKSUMS.items():
        raw = (root / "MNIST" / "raw" / name).read_bytes()
        assert hashlib.sha256(raw).hexdigest() == sha and sha in notice and f"{len(raw):,}" in notice


def test_load_mnist_needs_no_network_and_writes_nothing(no_network, monkeypatch):
    opened = []
    real = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda self: opened.append(self.name) or real(self))
    monkeypatch.setattr("builtins.open", lambda *a, **k: pytest.fail(f"opened {a}"))
    load_mnist("test")
    assert opened == ["t10k-images-idx3-ubyte.xz", "t10k-labels-idx1-ubyte.xz"]


def damage_truncate(raw): return raw[:-100]
def damage_empty(raw): return b""
def damage_flip(raw): return raw[:len(raw) // 2] + bytes([raw[len(raw) // 2] ^ 1]) + raw[len(raw) // 2 + 1:]
def damage_swap(raw): return data.lzma.compress(b"another content")  # a sound xz file of something else


@pytest.mark.parametrize("damage", [damage_truncate, damage_empty, damage_flip, damage_swap])
@pytest.mark.parametrize("name", ["t10k-images-idx3-ubyte.xz", "t10k-labels-idx1-ubyte.xz"])
def test_a_damaged_package_file_is_named(tmp_path, monkeypatch, damage, name):
    for file in data.MNIST_FOLDER.iterdir():
        if file.name.startswith("t10k"): shutil.copy(file, tmp_path)
    (tmp_path / name).write_bytes(damage((tmp_path / name).read_bytes()))
    monkeypatch.setattr(data, "MNIST_FOLDER", tmp_path)
    with pytest.raises(ValueError, match=rf"{name} is .*altered.*reinstall vae_nbdev$") as caught: load_mnist("test")
    assert "\n" not in str(caught.value)


def test_unpack_mnist_makes_its_folder(tmp_path):
    assert unpack_mnist(tmp_path / "new") == tmp_path / "new" / "MNIST" / "raw"


@pytest.mark.parametrize("writes", [0, 1])
def test_unpack_mnist_is_atomic(tmp_path, monkeypatch, writes):
    write, left = Path.write_bytes, [writes]
    def broken(self, raw):  # the disk is full after so many files
        write(self, raw if left[0] else raw[:10])
        if not left[0]: raise OSError("disk full")
        left[0] -= 1
    monkeypatch.setattr(Path, "write_bytes", broken)
    with pytest.raises(OSError, match="disk full"): unpack_mnist(tmp_path)
    files = list((tmp_path / "MNIST" / "raw").iterdir())  # no half file under its name, no part left behind
    assert len(files) == writes and all(hashlib.sha256(f.read_bytes()).hexdigest() == data.CHECKSUMS[f.name] for f in files)


# ---- other data

FAMILIES = [("mnist", "MNIST"), ("fashion-mnist", "FashionMNIST"), ("kmnist", "KMNIST")]


@pytest.mark.parametrize("name,family", FAMILIES)
def test_load_dataset_reads_torchvisions_layout(tmp_path, no_network, name, family):
    made = write_family(tmp_path / family / "raw")
    for split, (pixels, labels) in made.items():
        images, found = load_dataset(name, split, root=str(tmp_path))
        assert torch.equal(images, pixels[:, None].float() / 255) and torch.equal(found, labels)
        theirs = getattr(datasets, family)(tmp_path, train=split == "train", transform=transforms.ToTensor())
        assert torch.equal(torch.stack([x for x, y in theirs]), images) and found.dtype == torch.int64


def test_load_dataset_takes_mnist_from_the_package(tmp_path, mnist, no_network, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for ours, theirs in zip(load_dataset("mnist", "test"), mnist["test"]): assert torch.equal(ours, theirs)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name,family", FAMILIES[1:])
def test_without_a_network_load_dataset_says_what_to_put_where(tmp_path, no_network, name, family):
    with pytest.raises(FileNotFoundError) as caught: load_dataset(name, "train", tmp_path)
    said = str(caught.value)
    assert "\n" not in said and str(tmp_path / family / "raw") in said and "the network is off" in said
    assert all(f"{file}.gz" in said for file in data.CHECKSUMS)


def test_a_failed_download_leaves_the_sockets_alone(tmp_path, no_network):
    before = socket.getdefaulttimeout()
    with pytest.raises(FileNotFoundError): load_dataset("kmnist", root=tmp_path)
    assert socket.getdefaulttimeout() == before


def serve(folder):
    "An HTTP server of a folder on this machine's loopback."
    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args): super().__init__(*args, directory=folder)
        def log_message(self, *args): pass
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


def test_load_dataset_downloads_with_a_progress_bar(tmp_path, monkeypatch, capfd):
    made = write_family(tmp_path / "site", pack=gzip.compress, ending=".gz")
    sums = [(f"{name}.gz", hashlib.md5((tmp_path / "site" / f"{name}.gz").read_bytes()).hexdigest()) for name in data.CHECKSUMS]
    server = serve(tmp_path / "site")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(datasets.KMNIST, "mirrors", [f"http://127.0.0.1:{server.server_port}/"])
    monkeypatch.setattr(datasets.KMNIST, "resources", sums)
    try: images, labels = load_dataset("kmnist", "test", tmp_path / "root")
    finally: server.shutdown(); server.server_close()
    assert torch.equal(images, made["test"][0][:, None].float() / 255) and torch.equal(labels, made["test"][1])
    assert "100%" in capfd.readouterr().err


def test_packed_files_put_there_by_hand_are_found(tmp_path, no_network, monkeypatch):
    raw = tmp_path / "FashionMNIST" / "raw"
    made = write_family(raw, pack=gzip.compress, ending=".gz")
    sums = [(f"{name}.gz", hashlib.md5((raw / f"{name}.gz").read_bytes()).hexdigest()) for name in data.CHECKSUMS]
    monkeypatch.setattr(datasets.FashionMNIST, "resources", sums)
    assert torch.equal(load_dataset("fashion-mnist", "train", tmp_path)[1], made["train"][1])


@pytest.mark.parametrize("damage", [lambda raw: raw[:-1], lambda raw: raw + b"0", lambda raw: b"", lambda raw: raw[:6],
                                    lambda raw: b"\x1f\x8b" + raw[2:], lambda raw: raw[:4] + bytes(4) + raw[8:]])
@pytest.mark.parametrize("file", ["train-images-idx3-ubyte", "train-labels-idx1-ubyte"])
def test_a_damaged_file_in_root_is_named(tmp_path, damage, file):
    write_family(tmp_path / "KMNIST" / "raw")
    path = tmp_path / "KMNIST" / "raw" / file
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match=re.escape(f"{path} is truncated or altered: ")): load_dataset("kmnist", root=tmp_path)


def test_images_and_labels_must_belong_together(tmp_path):
    raw = tmp_path / "KMNIST" / "raw"
    write_family(raw)
    (raw / "train-labels-idx1-ubyte").write_bytes(idx(torch.zeros(4, dtype=int)))
    with pytest.raises(ValueError, match=r"must hold 4 images of 28x28 pixels.*\(5, 28, 28\)"): load_dataset("kmnist", root=tmp_path)


def test_wrong_names_get_a_sentence(tmp_path):
    with pytest.raises(ValueError, match="name must be one of mnist, fashion-mnist, kmnist, not 'cifar'"): load_dataset("cifar")
    for load in load_mnist, lambda split: load_dataset("mnist", split, tmp_path), lambda split: load_dataset("kmnist", split, tmp_path):
        with pytest.raises(ValueError, match="split must be 'train' or 'test', not 'valid'"): load("valid")
    (tmp_path / "file").touch()
    for use in unpack_mnist, lambda root: load_dataset("kmnist", root=root):
        with pytest.raises(ValueError, match="root must be a folder, and .*file is a file"): use(tmp_path / "file")


# ---- checks

@pytest.mark.parametrize("wrong,said", [
    (torch.zeros(2, 784, dtype=torch.uint8), "images must be a float tensor with values in [0, 1], not torch.uint8"),
    ([[0.0]], "images must be a float tensor with values in [0, 1], not list"),
    (torch.zeros(28), "images must have shape (N, D) or (N, C, H, W) with N >= 1, not (28,)"),
    (torch.zeros(0, 784), "images must have shape (N, D) or (N, C, H, W) with N >= 1, not (0, 784)"),
    (torch.tensor([[0.0, 1.5]]), "images must hold finite values in [0, 1], not values from 0.0 to 1.5"),
    (torch.tensor([[-0.5, 1.0]]), "images must hold finite values in [0, 1], not values from -0.5 to 1.0"),
    (torch.tensor([[0.0, math.inf]]), "images must hold finite values in [0, 1], not values from 0.0 to inf"),
    (torch.tensor([[0.5, math.nan]]), "images must hold finite values in [0, 1], not NaN among them"),
])
def test_check_images_says_what_is_wrong(wrong, said):
    with pytest.raises(ValueError) as caught: check_images(wrong)
    assert str(caught.value) == said


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_all_float_types_are_images(dtype):
    x = torch.rand(6, 1, 3, 3, generator=torch.Generator().manual_seed(0)).to(dtype)
    assert check_images(x).dtype == binarize(x).dtype == binarize(x, "threshold").dtype == bernoulli_entropy(x).dtype == dtype
    assert next(iter(BatchLoader(x, 4)))[0].dtype == dtype


def test_split_data():
    x, y = torch.rand(4, 9), torch.arange(4)
    assert split_data(x) == (x, None) and split_data((x, None)) == (x, None)
    assert all(a is b for a, b in zip(split_data((x, y)), (x, y)))
    for labels in y[:3], [0, 1, 2, 3], torch.tensor(1):
        with pytest.raises(ValueError, match="train_data must pair its 4 images with a tensor of as many labels"):
            split_data((x, labels), "train_data")
    with pytest.raises(ValueError, match="^test_data must be a float tensor .*, not dict"): split_data({}, "test_data")


# ---- mini-batches

@quick
@given(n=st.integers(1, 60), batch_size=st.integers(1, 80), shuffle=st.booleans(), seed=st.integers(0, 2**63), epoch=st.integers(0, 1000))
def test_an_epoch_is_a_permutation_cut_into_batches(n, batch_size, shuffle, seed, epoch):
    x = torch.linspace(0, 1, n)[:, None]  # (n, 1)
    loader = BatchLoader((x, torch.arange(n)), batch_size, shuffle, seed)
    loader.epoch = epoch
    order = loader.order()
    batches = list(loader)
    sizes = [len(labels) for images, labels in batches]
    assert len(batches) == len(loader) and sum(sizes) == n and set(sizes[:-1]) <= {batch_size} and sizes[-1] <= batch_size
    labels = torch.cat([labels for images, labels in batches])
    assert torch.equal(labels, order) and torch.equal(labels.sort().values, torch.arange(n)) and loader.epoch == epoch + 1
    assert torch.equal(torch.cat([images for images, labels in batches]), x[labels])
    assert shuffle or torch.equal(labels, torch.arange(n))


@quick
@given(seed=st.integers(0, 2**40), epoch=st.integers(0, 50))
def test_the_order_is_a_function_of_seed_and_epoch_alone(seed, epoch):
    def order(seed, epoch):
        loader = BatchLoader(torch.rand(100, 1), shuffle=True, seed=seed)
        loader.epoch = epoch
        return loader.order().tolist()
    state = torch.get_rng_state()
    here = order(seed, epoch)
    torch.manual_seed(epoch)
    assert order(seed, epoch) == here
    assert here not in (order(seed + 1, epoch), order(seed, epoch + 1), order(seed + 1, epoch - 1 if epoch else 1), order(seed + 2**32, epoch))
    torch.set_rng_state(state)


def test_loading_leaves_torchs_global_generator_alone():
    state = torch.get_rng_state()
    list(BatchLoader(torch.rand(9, 1, generator=torch.Generator()), 2, shuffle=True))
    assert torch.equal(torch.get_rng_state(), state)


def test_two_loaders_of_one_seed_go_together():
    x = torch.rand(50, 4)
    a, b = BatchLoader(x, 8, shuffle=True, seed=7), BatchLoader(x, 8, shuffle=True, seed=7)
    for _ in range(3):
        for (p, none), (q, _) in zip(a, b, strict=True): assert torch.equal(p, q) and none is None


def test_a_batch_is_a_copy():
    x = torch.rand(8, 4)
    before = x.clone()
    for images, _ in BatchLoader(x, 3): images.zero_()
    assert torch.equal(x, before)


def test_an_epoch_that_was_left_early_counts():
    loader = BatchLoader(torch.rand(8, 4), 2, shuffle=True)
    next(iter(loader))
    assert loader.epoch == 1


@pytest.mark.parametrize("options,said", [
    (dict(batch_size=0), "batch_size must be a whole number of at least 1, not 0"),
    (dict(batch_size=2.0), "batch_size must be a whole number of at least 1, not 2.0"),
    (dict(seed=-1), "seed must be a whole number of at least 0, not -1"),
    (dict(seed=None), "seed must be a whole number of at least 0, not None"),
])
def test_batch_loader_rejects(options, said):
    with pytest.raises(ValueError) as caught: BatchLoader(torch.rand(4, 2), **options)
    assert str(caught.value) == said


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_sees_the_same_batches():
    x, y = torch.rand(50, 4), torch.arange(50)
    for (a, b), (c, d) in zip(BatchLoader((x, y), 8, True), BatchLoader((x.cuda(), y), 8, True), strict=True):
        assert c.is_cuda and d.is_cuda and torch.equal(a, c.cpu()) and torch.equal(b, d.cpu())


# ---- binarization and the floor

@quick
@given(p=st.floats(0, 1), seed=st.integers(0, 2**32))
def test_a_draw_has_its_mean(p, seed):
    n = 20_000
    x = torch.full((n,), p, dtype=torch.float64)
    b = binarize(x, generator=torch.Generator().manual_seed(seed))
    assert torch.isin(b, torch.tensor([0.0, 1.0], dtype=torch.float64)).all()
    assert abs(b.mean().item() - p) <= 5.5 * math.sqrt(p * (1 - p) / n) + 2 / n


def test_binarize(mnist):
    x = mnist["test"][0][:100]
    kept = x.clone()
    a, b, c = (binarize(x, generator=torch.Generator().manual_seed(s)) for s in (1, 1, 2))
    assert torch.equal(a, b) and not torch.equal(a, c) and a.shape == x.shape and torch.equal(x, kept)
    sure = (x == 0) | (x == 1)
    assert torch.equal(a[sure], x[sure])
    assert torch.equal(binarize(x, "threshold"), (x * 255).round().ge(128).float())
    with pytest.raises(ValueError, match="method must be 'stochastic' or 'threshold', not 'round'"): binarize(x, "round")
    with pytest.raises(ValueError, match="images must hold finite values in"): binarize(2 * x)


@quick
@given(st.lists(st.floats(0, 1), min_size=1, max_size=30))
def test_bernoulli_entropy_is_torchs_and_lies_within_its_bounds(pixels):
    x = torch.tensor([pixels], dtype=torch.float64)
    entropy = bernoulli_entropy(x)
    torch.testing.assert_close(entropy, Bernoulli(x).entropy().sum(1), rtol=1e-9, atol=1e-12)
    assert entropy.shape == (1,) and -1e-15 <= entropy.item() <= len(pixels) * math.log(2) + 1e-12
    torch.testing.assert_close(bernoulli_entropy(1 - x), entropy)


def test_the_floor_of_mnist(mnist):
    x = mnist["test"][0]
    assert round(bernoulli_entropy(x.double()).mean().item(), 2) == round(bernoulli_entropy(x).mean().item(), 2) == 45.53
    assert bernoulli_entropy(binarize(x, "threshold")).eq(0).all()


def test_no_decoder_gets_below_the_floor(mnist):
    x = mnist["test"][0][:200].double().flatten(1)
    def cross_entropy(p): return torch.nn.functional.binary_cross_entropy(p, x, reduction="none").sum(1)
    floor = bernoulli_entropy(x)
    torch.testing.assert_close(cross_entropy(x), floor)
    for decoder in 0.99 * x + 0.005, x.mean(0).expand_as(x), torch.full_like(x, 0.5): assert (cross_entropy(decoder) > floor).all()

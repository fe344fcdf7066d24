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
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch.distributions import Bernoulli
from torchvision import datasets, transforms

from vae_nbdev import data
from vae_nbdev.data import (
    BatchLoader, bernoulli_entropy, binarize, check_finite, check_images, check_whole,
    kind_of_values, load_dataset, load_mnist, split_data, to_float, unpack_mnist)

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


@pytest.mark.parametrize("name", ["mnist", "kmnist"])
def test_a_root_that_does_not_exist_is_an_error(tmp_path, no_network, name):
    said = f"root must be a folder, and {tmp_path / 'none'} does not exist"
    with pytest.raises(FileNotFoundError, match=f"^{re.escape(said)}$"):
        load_dataset(name, root=tmp_path / "none")
    assert list(tmp_path.iterdir()) == []  # nothing was made or downloaded


def test_a_root_without_mnist_is_an_error(tmp_path, no_network):
    write_family(tmp_path / "KMNIST" / "raw")  # other data is not MNIST
    said = r"root must hold train-images.* and train-labels.* in MNIST/raw, and .* not"
    with pytest.raises(FileNotFoundError, match=said): load_dataset("mnist", root=tmp_path)
    write_family(tmp_path / "MNIST" / "raw")
    (tmp_path / "MNIST" / "raw" / "train-labels-idx1-ubyte").unlink()
    with pytest.raises(FileNotFoundError, match=said): load_dataset("mnist", root=tmp_path)


@pytest.mark.parametrize("name,family", FAMILIES)
def test_without_a_root_the_folder_data_is_read(
        tmp_path, no_network, monkeypatch, name, family):
    made = write_family(tmp_path / "data" / family / "raw")
    monkeypatch.chdir(tmp_path)
    assert torch.equal(load_dataset(name, "test")[1], made["test"][1])


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


def test_a_silent_server_is_given_up_and_the_sockets_are_left_alone(tmp_path, monkeypatch):
    before, during = socket.getdefaulttimeout(), []

    def download(root, download):
        during.append(socket.getdefaulttimeout())
        raise OSError

    monkeypatch.setattr(datasets, "KMNIST", download)
    with pytest.raises(FileNotFoundError, match="the reason was: OSError"): load_dataset("kmnist", root=tmp_path)
    assert 10 <= during[0] <= 60 and socket.getdefaulttimeout() == before


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
    (tmp_path / "root").mkdir()
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
                                    lambda raw: b"\x1f\x8b" + raw[2:], lambda raw: raw[:4] + bytes(4) + raw[8:],
                                    lambda raw: raw[:4] + bytes(4) + raw[8:4 + 4 * raw[3]]])  # the header of no images, and none
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
    with pytest.raises(ValueError, match="name must be one of mnist, fashion-mnist, kmnist, cifar10, svhn, celeba, not 'cifar'"): load_dataset("cifar")
    for load in load_mnist, lambda split: load_dataset("mnist", split, tmp_path), lambda split: load_dataset("kmnist", split, tmp_path):
        with pytest.raises(ValueError, match="split must be 'train' or 'test', not 'valid'"): load("valid")
    (tmp_path / "file").touch()
    for use in unpack_mnist, lambda root: load_dataset("kmnist", root=root):
        with pytest.raises(ValueError, match="root must be a folder, and .*file is a file"): use(tmp_path / "file")


# ---- checks

RANGE = "images must hold finite values in [0, 1], not "
SHAPE = ("images must have shape (N, D), (N, C, H, W) or another (N, ...) with N >= 1, "
         "not ")
STANDARDIZED = (": were they standardized, by torchvision's Normalize? Leave it out: a "
                "pixel is a probability")
BYTES = ": divide by 255, or give uint8"


@pytest.mark.parametrize("wrong,said", [
    (torch.zeros(2, 9, dtype=torch.uint8), "images must be a float tensor with values in "
     "[0, 1], not torch.uint8 of shape (2, 9)"),
    ([[0.0]], "images must be a float tensor with values in [0, 1], not list"),
    (torch.zeros(28), SHAPE + "(28,)"),
    (torch.zeros(0, 784), SHAPE + "(0, 784)"),
    (torch.tensor([[0.0, 1.5]]), RANGE + "values from 0.0 to 1.5"),
    (torch.tensor([[0.0, 255.0]]), RANGE + "values from 0.0 to 255.0" + BYTES),
    (torch.tensor([[0.0, 300.0]]), RANGE + "values from 0.0 to 300.0"),
    (torch.tensor([[-0.5, 1.0]]), RANGE + "values from -0.5 to 1.0" + STANDARDIZED),
    (torch.tensor([[-0.5, 2.5]]), RANGE + "values from -0.5 to 2.5" + STANDARDIZED),
    (torch.tensor([[0.0, math.inf]]), RANGE + "values from 0.0 to inf"),
    (torch.tensor([[-math.inf, 0.0]]), RANGE + "values from -inf to 0.0"),
    (torch.tensor([[0.5, math.nan]]), RANGE + "NaN among them"),
])
def test_check_images_says_what_is_wrong(wrong, said):
    with pytest.raises(ValueError) as caught: check_images(wrong)
    assert str(caught.value) == said


@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (2, 4, 4), (2, 1, 50), (2, 1, 4, 4, 4)])
def test_images_have_any_shape_after_the_first_axis(shape):
    x = torch.linspace(0, 1, math.prod(shape)).view(shape)
    assert check_images(x) is x and bernoulli_entropy(x).shape == shape[:1]


def test_check_finite():
    x = torch.tensor([-1e30, 1e38])
    assert check_finite(x) is x and check_finite(x.double() * 1e270).isfinite().all()
    for bad, found in (math.nan, "NaN among them"), (math.inf, "values from 0.0 to inf"), \
            (-math.inf, "values from -inf to 0.0"):
        said = f"^x must hold finite values, not {found}$"
        with pytest.raises(ValueError, match=said): check_finite(torch.tensor([0, bad]), "x")


@pytest.mark.parametrize("value", [1, 7, 2**70])
def test_check_whole_takes_whole_numbers(value):
    for kind in (int, np.int64, np.uint8) if value < 2**8 else (int,):
        assert type(check_whole("n", kind(value))) is int
        assert check_whole("n", kind(value)) == value
    assert check_whole("n", 0, 0) == 0 and check_whole("n", np.int32(-3), -3) == -3


@pytest.mark.parametrize("value", [
    0, -1, 1.0, True, np.True_, "1", None, math.nan, np.float64(2), torch.tensor(2), [1]])
def test_check_whole_refuses_the_rest(value):
    with pytest.raises(ValueError) as caught: check_whole("epochs", value)
    assert str(caught.value) == (
        f"epochs must be a whole number of at least 1, not {value!r}")


@pytest.mark.parametrize(
    "dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_all_float_types_are_images(dtype):
    x = torch.rand(6, 1, 3, 3, generator=torch.Generator().manual_seed(0)).to(dtype)
    for made in check_images(x), binarize(x), binarize(x, "threshold"), \
            bernoulli_entropy(x): assert made.dtype == dtype
    served = torch.float64 if dtype == torch.float64 else torch.float32
    assert next(iter(BatchLoader(x, 4)))[0].dtype == served


def test_split_data():
    x, y = torch.rand(4, 9), torch.arange(4)
    assert split_data(x) == split_data((x,)) == split_data((x, None)) == (x, None)
    assert all(a is b for a, b in zip(split_data((x, y)), (x, y)))
    assert split_data({"image": x, "label": y}) == split_data({"images": x, "labels": y})
    assert split_data({"images": x, "index": y}) == (x, None)
    for labels in y[:3], "abcd", ["a", "b", "c", "d"], [[1], [1, 2], 3, 4], torch.tensor(1):
        said = "train_data must pair its 4 images with a tensor of as many labels, not "
        with pytest.raises(ValueError, match=said): split_data((x, labels), "train_data")
    for wrong, said in ({}, "must have the key 'image', and has only none"), \
            ({"pixels": x}, "must have the key 'image', and has only 'pixels'"), \
            ((x, y, y), "must be images, or a pair .images, labels., not a tuple of 3"):
        with pytest.raises(ValueError, match=f"^data {said}$"): split_data(wrong)


@pytest.mark.parametrize("labels", [
    [3, 1, 2, 0], (3, 1, 2, 0), np.array([3, 1, 2, 0], np.uint8), torch.tensor([3, 1, 2, 0]),
    np.array([3, 1, 2, 0], ">i2")[::-1][::-1], [torch.tensor(i) for i in (3, 1, 2, 0)]])
def test_whole_labels_become_int64(labels):
    found = split_data((torch.rand(4, 9), labels))[1]
    assert found.dtype == torch.int64 and found.tolist() == [3, 1, 2, 0]


def test_labels_may_be_conditions():
    x = torch.rand(4, 1, 3, 3)
    for condition in torch.rand(4, 2), torch.rand(4, 3, dtype=torch.float64):
        assert split_data((x, condition))[1] is condition
    one_hot = split_data((x, np.eye(4, dtype=bool)))[1]
    assert torch.equal(one_hot, torch.eye(4, dtype=torch.int64))


@pytest.mark.parametrize("first,second", [
    (torch.rand(4, 9), torch.rand(4, 9)), (torch.rand(6, 1, 3, 3), torch.rand(4, 1, 3, 3)),
    (np.zeros((6, 1, 3, 3), np.uint8), np.zeros((6, 3, 3), np.uint8)),
    (torch.rand(1, 3, 3), torch.rand(1, 3, 3)), (torch.rand(4, 9), torch.rand(4, 3, 3))])
@pytest.mark.parametrize("kind", [list, tuple])
def test_two_tensors_of_images_are_no_pair(first, second, kind):
    said = (r"^x holds two tensors of images; a pair is \(images, labels\); to train on "
            "both join them with torch.cat$")
    with pytest.raises(ValueError, match=said): split_data(kind((first, second)), "x")


@pytest.mark.parametrize("shape", [(2, 32, 32, 3), (2, 5, 6, 4)])
def test_channels_that_come_last_are_told(shape):
    with pytest.warns(UserWarning, match=r"images.permute\(0, 3, 1, 2\) puts them first"):
        split_data(torch.rand(shape))


def test_what_fits_into_memory_to_the_byte(monkeypatch):
    image = torch.zeros(3, 5, 7, dtype=torch.uint8)  # float32 takes 420 bytes
    monkeypatch.setattr(data, "available_memory", lambda: 4200)
    data.check_memory(10, image, "x")
    with pytest.raises(ValueError, match="^x would take .* GB as float32"): data.check_memory(11, image, "x")
    monkeypatch.setattr(data, "available_memory", lambda: None)
    data.check_memory(10**9, image, "x")  # nobody knows


# ---- which kind of numbers

def test_kind_of_values(mnist):
    x, g = mnist["test"][0], torch.Generator().manual_seed(0)
    resized = torch.nn.functional.interpolate(x[:500], 20, mode="bilinear")
    table = torch.rand(1000, 30, generator=g)
    kinds = {"binary": [binarize(x), binarize(x).double(), torch.zeros(3), x > 0.5],
             "grey": [x, x.double(), 1 - x, x.half(), (x * 255).byte(), resized, 1 - resized,
                      resized.mT],
             "continuous": [table, table.mT, x * 255, 20 * table, x - 0.5, (x - 0.13) / 0.31,
                            table * math.nan, torch.arange(100.0), table.clamp(0.2, 1)]}
    for kind, examples in kinds.items():
        assert [kind_of_values(v) for v in examples] == [kind] * len(examples)


def test_kind_of_values_looks_everywhere():
    g = torch.Generator().manual_seed(0)
    levels = torch.randint(5, 250, (2000, 784), generator=g) / 255  # far from 0 and 1
    assert kind_of_values(levels) == "grey"
    for part in (slice(1950, None), slice(None)), (slice(None), 403), (slice(50), 7):
        odd = levels.clone()
        odd[part] += 0.1 / 255  # the last rows, a column, a few pixels
        assert kind_of_values(odd) == "continuous"


@pytest.mark.parametrize("share,kind", [(0.2, "continuous"), (0.3, "grey"), (0.4, "grey")])
def test_pictures_off_the_grid_are_known_by_their_black_and_white(share, kind):
    g = torch.Generator().manual_seed(0)
    x = 0.05 + 0.9 * torch.rand(200, 400, generator=g)
    x[:, :int(400 * share)] = torch.tensor([0.004, 0.996]).repeat(200, int(200 * share))
    assert kind_of_values(x[:, torch.randperm(400, generator=g)]) == kind


def test_bytes_that_may_be_zeros_and_ones_are_asked_about():
    with pytest.warns(UserWarning, match="^x holds no uint8 above 1, .* give them as bool$"):
        assert to_float(torch.tensor([0, 1], dtype=torch.uint8), "x")[1] == 1 / 255
    with warnings.catch_warnings(action="error"):  # 0 is 0, whatever was meant
        for x in [0, 0], [0, 2], []: assert len(to_float(torch.tensor(x, dtype=torch.uint8))) == len(x)


def test_kind_of_values_draws_nothing_from_the_global_generator():
    x = torch.rand(500, 500, generator=torch.Generator())
    state = torch.get_rng_state()
    assert kind_of_values(x) == kind_of_values(x) == "continuous"
    assert torch.equal(torch.get_rng_state(), state)


# ---- mini-batches

ORDERS = [  # of seed 7, epochs 0 and 1: runs of earlier versions had them
    [4, 1, 6, 10, 7, 11, 5, 0, 9, 8, 2, 3],
    [5, 2, 10, 0, 7, 8, 1, 9, 6, 4, 11, 3]]

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


def test_the_order_of_a_seed_is_for_good():
    loader = BatchLoader(torch.rand(12, 1), 4, shuffle=True, seed=7)
    first = [loader.order().tolist(), list(loader) and loader.order().tolist()]
    assert first == ORDERS


def test_a_loader_goes_on_where_another_was():
    x = torch.rand(12, 1)
    a, b = (BatchLoader(x, 4, shuffle=True) for _ in range(2))
    for _ in range(3): list(a)
    b.load_state_dict(a.state_dict())
    assert b.epoch == a.epoch == 3 and a.state_dict()["epoch"].dtype == torch.int64
    for (p, _), (q, _) in zip(a, b, strict=True): assert torch.equal(p, q)


def test_a_loader_moves_its_data():
    x, y = torch.rand(6, 3), torch.arange(6)
    loader = BatchLoader((x, y), 4)
    assert loader.to("cpu", torch.float64) is loader and loader.example.shape == (2, 3)
    for images, labels in loader:
        assert images.dtype == torch.float64 and labels.dtype == torch.int64
    assert loader.to("cpu").images.dtype == torch.float64
    assert torch.equal(BatchLoader(x[:1]).example, x[:1])
    loader = BatchLoader((x, y)).to("meta")
    assert loader.images.is_meta and loader.labels.is_meta


def test_the_range_is_checked_where_it_is_asked_for():
    loader = BatchLoader(2 * torch.ones(3, 2))
    with pytest.raises(ValueError, match="^test_data must hold finite values in .0, 1."):
        loader.check_pixels("test_data")
    BatchLoader(torch.ones(3, 2)).check_pixels()
    with pytest.raises(ValueError, match="^x must hold finite values, not NaN"):
        BatchLoader(math.nan * torch.ones(3, 2), name="x")


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
    (dict(batch_size=True), "batch_size must be a whole number of at least 1, not True"),
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
    assert binarize(torch.tensor([0.5, 0.5000001]), "threshold").tolist() == [0, 1]
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

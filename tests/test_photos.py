"""Chapter 9: colour data sets through torchvision, without a download."""
import hashlib
import pickle
import socket

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import datasets, transforms

from vae_nbdev.data import load_dataset
from vae_nbdev.pictures import load_photos


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*args, **kwargs): raise OSError("the network is off")
    for name in "socket", "create_connection", "getaddrinfo": monkeypatch.setattr(socket, name, refuse)


class Fake:
    "What torchvision's data sets have in common: a root, a split, a transform, pictures in PIL's form."
    def __init__(self, root, download=False, transform=None, **split):
        type(self).asked = {"root": root, "download": download, **split}
        self.transform, self.pixels = transform, torch.randint(256, (5, *self.shape), dtype=torch.uint8,
                                                               generator=torch.Generator().manual_seed(0))
    def __len__(self): return 5
    def __getitem__(self, i): return self.transform(Image.fromarray(self.pixels[i].numpy())), torch.tensor(3 * i)


@pytest.mark.parametrize("name,family,shape,split", [
    ("cifar10", "CIFAR10", (32, 32, 3), {"train": False}), ("svhn", "SVHN", (32, 32, 3), {"split": "test"}),
    ("celeba", "CelebA", (218, 178, 3), {"split": "test", "target_type": "identity"})])
def test_photos_are_read_as_torchvision_has_them(tmp_path, monkeypatch, name, family, shape, split):
    fake = type(family, (Fake,), {"shape": shape})
    monkeypatch.setattr(datasets, family, fake)
    images, labels = load_dataset(name, "test", tmp_path)
    side = 64 if name == "celeba" else 32
    usual = transforms.Compose([transforms.Resize(side), transforms.CenterCrop(side)])
    pixels = fake(tmp_path, transform=lambda x: x).pixels.permute(0, 3, 1, 2)
    assert torch.equal(images, torch.stack([usual(x) for x in pixels]) / 255)
    assert images.dtype == torch.float32 and labels.tolist() == [0, 3, 6, 9, 12] and labels.dtype == torch.int64
    load_dataset(name, "test", tmp_path)
    assert fake.asked == {"root": tmp_path, "download": True, **split}
    assert load_photos(name, "test", tmp_path, size=(16, 24))[0].shape == (5, 3, 16, 24)


def test_cifar10_in_torchvisions_own_layout(tmp_path, monkeypatch, no_network):
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(256, size=(4, 3, 32, 32), dtype=np.uint8)
    content = {"test_batch": {"data": pixels.reshape(4, -1), "labels": [3, 1, 2, 0]}, "batches.meta": {"label_names": list("abcd")}}
    sums = {}
    for name, values in content.items():
        (folder / name).write_bytes(raw := pickle.dumps(values))
        sums[name] = hashlib.md5(raw).hexdigest()
    monkeypatch.setattr(datasets.CIFAR10, "train_list", [])
    monkeypatch.setattr(datasets.CIFAR10, "test_list", [["test_batch", sums["test_batch"]]])
    monkeypatch.setattr(datasets.CIFAR10, "meta", datasets.CIFAR10.meta | {"md5": sums["batches.meta"]})
    images, labels = load_dataset("cifar10", "test", tmp_path)
    assert torch.equal(images, torch.from_numpy(pixels) / 255) and labels.tolist() == [3, 1, 2, 0]


@pytest.mark.parametrize("name", ["cifar10", "svhn", "celeba"])
def test_without_a_network_there_is_one_sentence(tmp_path, no_network, name):
    with pytest.raises(FileNotFoundError) as caught: load_dataset(name, root=tmp_path)
    said = str(caught.value)
    assert said.startswith(f"{name} is not in {tmp_path}, as torchvision keeps it, and torchvision could not download it (the reason was: ")
    assert "\n" not in said


def test_what_cannot_be_asked_for(tmp_path):
    with pytest.raises(ValueError, match="name must be one of cifar10, svhn, celeba, not 'imagenet'"): load_photos("imagenet")
    with pytest.raises(ValueError, match="split must be 'train' or 'test', not 'valid'"): load_dataset("svhn", "valid", tmp_path)
    with pytest.raises(ValueError, match="size must be a whole number"): load_photos("svhn", "test", tmp_path, size=0)
    with pytest.raises(FileNotFoundError, match=f"root must be a folder, and {tmp_path}/none does not exist"):
        load_dataset("celeba", root=tmp_path / "none")
    assert list(tmp_path.iterdir()) == []

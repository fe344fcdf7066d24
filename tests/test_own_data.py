"""Chapter 1: whatever a user brings, from arrays to streams of batches."""
import math
import random
import re
import time
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image
from torch.utils.data import (BatchSampler, DataLoader, Dataset, IterableDataset,
                              RandomSampler, Subset, TensorDataset)
from torchvision import datasets

from vae_nbdev import data
from vae_nbdev.data import BatchLoader, StreamLoader, make_loader, to_float

quick = settings(deadline=None, max_examples=40, derandomize=True)
generator = lambda seed=0: torch.Generator().manual_seed(seed)
BYTES = torch.randint(256, (10, 1, 6, 5), generator=generator(), dtype=torch.uint8)
X, Y = BYTES / 255, torch.randint(10, (10,), generator=generator(1))


def all_of(loader):
    "The images and the labels of one epoch."
    images, labels = zip(*loader)
    return torch.cat(images), None if labels[0] is None else torch.cat(labels)


class Items(Dataset):
    "A map-style data set of whatever a function makes of an index."
    def __init__(self, item, n=10): self.item, self.n = item, n
    def __len__(self): return self.n
    def __getitem__(self, i): return self.item(i)


class Anew:
    "Begins anew each time, without a length."
    def __init__(self, *batches): self.batches = batches
    def __iter__(self): return iter(self.batches)


# ---- numbers of any type

@quick
@given(hnp.arrays(np.uint8, hnp.array_shapes(max_dims=4, max_side=6)))
def test_bytes_are_grey_levels(levels):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # arrays of zeros and ones get a warning
        x = to_float(levels)
        assert torch.equal(x, to_float(torch.from_numpy(levels)))
    assert x.dtype == torch.float32 and x.shape == levels.shape
    assert np.array_equal(x.numpy(), levels.astype(np.float32) / np.float32(255))


@quick
@given(hnp.arrays(st.sampled_from(["f2", "<f4", ">f4", "f8", ">f8", "?"]),
                  hnp.array_shapes(max_dims=3, max_side=5),
                  elements=st.just(0) | st.just(1)), st.booleans(), st.booleans())
def test_arrays_of_any_layout_are_read(array, backwards, locked):
    if backwards: array = array[::-1]
    array.flags.writeable, kept = not locked, array.copy()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        x = to_float(array)
    assert np.array_equal(x.numpy(), kept)
    assert x.dtype == (torch.float64 if array.dtype.itemsize == 8 else torch.float32)
    x += 1  # and what must not be written to is left alone
    assert not locked or np.array_equal(array, kept)


def test_floats_are_taken_as_they_are():
    for x in torch.rand(3, 4), torch.rand(3, 4).double(): assert to_float(x) is x
    for dtype in torch.float16, torch.bfloat16:
        assert to_float(X.to(dtype)).dtype == torch.float32
    assert torch.equal(to_float(X > 0.5), (X > 0.5).float())
    x = torch.rand(3, 4, requires_grad=True)
    assert not to_float(x).requires_grad and not to_float(x.half()).requires_grad


@pytest.mark.parametrize("wrong,said", [
    (BYTES.long(), r"give uint8 \(0 to 255\) or floats in \[0, 1\], not torch.int64"),
    (BYTES.numpy().astype(np.uint16), r"give uint8 .* not torch.uint16"),
    (X + 0j, "give uint8 .* not torch.complex64"),
    (np.array([None, 1]), "must be a tensor or a NumPy array of numbers, not object"),
    (np.array(["a"]), "must be a tensor or a NumPy array of numbers, not <U1 of shape"),
    (np.zeros(2, np.longdouble), "must be a tensor .* not float128 of shape"),
    ([[0.0, 1.0]], "must be a tensor or a NumPy array of numbers, not list"),
    (0.5, "must be a tensor .* not float"), (None, "must be a tensor .* not NoneType"),
])
def test_other_types_are_refused(wrong, said):
    with pytest.raises(ValueError, match=f"^my x:? {said}"): to_float(wrong, "my x")


def test_bytes_that_are_zeros_and_ones_get_a_warning():
    with pytest.warns(UserWarning, match="x holds no uint8 above 1, and 1 becomes"):
        to_float((X > 0.5).byte(), "x")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for fine in BYTES, 0 * BYTES, BYTES[:0], X > 0.5: to_float(fine)


# ---- data in memory

def in_many_forms():
    pil = [Image.fromarray(x[0].numpy()) for x in BYTES]
    return {
        "bytes": (BYTES, Y), "NumPy": (BYTES.numpy(), Y.numpy()),
        "list": [X, Y.tolist()],
        "dictionary": {"image": X, "label": Y},
        "TensorDataset": TensorDataset(X, Y), "of bytes": TensorDataset(BYTES, Y),
        "Subset": Subset(
            TensorDataset(torch.cat([0 * X, X]), Y.repeat(2)), range(10, 20)),
        "PIL": Items(lambda i: (pil[i], Y[i].item())),
        "arrays": Items(lambda i: (BYTES[i].numpy(), np.int64(Y[i]))),
        "dictionaries": Items(lambda i: {"image": X[i], "label": Y[i], "index": i}),
        "plural": Items(lambda i: {"images": X[i], "labels": Y[i]}),
        "list of pairs": [*zip(pil, Y.tolist())], "tuple of pairs": (*zip(X, Y),),
        "lists": [[x, y] for x, y in zip(X, Y)],
        "DataLoader": DataLoader(TensorDataset(X, Y), 4),
        "DataLoader of dictionaries": DataLoader(Items(
            lambda i: {"image": X[i], "label": Y[i]}), 4),
        "DataLoader of bytes": DataLoader(TensorDataset(BYTES, Y), 4),
        "list of batches": [*zip(X.split(4), Y.split(4))],
        "iterable": Anew(*zip(BYTES.numpy()[None], Y.numpy()[None])),
        "iterable of dictionaries": Anew({"images": X, "labels": Y})}


STREAMED = {"DataLoader", "DataLoader of dictionaries", "DataLoader of bytes",
            "list of batches", "iterable", "iterable of dictionaries"}


@pytest.mark.parametrize("form", in_many_forms())
def test_all_forms_give_the_same_data(form):
    loader = make_loader(in_many_forms()[form])
    assert isinstance(loader, StreamLoader if form in STREAMED else BatchLoader)
    for epoch in range(2):
        assert loader.epoch == epoch
        images, labels = all_of(loader)
        assert torch.equal(images, X) and torch.equal(labels, Y)
        assert images.dtype == torch.float32 and labels.dtype == torch.int64
    assert torch.equal(loader.example, X[:2]) and loader.epoch == 2
    loader.check_pixels()


@pytest.mark.parametrize("bare", [
    X, X.numpy(), {"image": X}, TensorDataset(X), [*X],
    Items(lambda i: {"image": X[i]}), Items(lambda i: (X[i], None)),
    DataLoader(TensorDataset(X), 4), [*X.split(4)],
    [Image.fromarray(x[0].numpy()) for x in BYTES], Anew(*X.split(4)), [X.numpy()]])
def test_labels_may_be_missing(bare):
    images, labels = all_of(make_loader(bare))
    assert torch.equal(images, X) and labels is None


@quick
@given(n=st.integers(1, 40), batch_size=st.integers(1, 50), shuffle=st.booleans(),
       shape=st.sampled_from([(3,), (4, 2), (1, 3, 2), (1, 5), (2, 1, 2, 2)]),
       form=st.sampled_from(["tensor", "array", "items", "dictionaries", "DataLoader"]))
def test_an_epoch_is_a_partition_of_the_data(n, batch_size, shuffle, shape, form):
    x = torch.rand(n, *shape, generator=generator())
    rows = torch.arange(n)
    made = {"tensor": (x, rows), "array": (x.numpy(), rows.numpy()),
            "items": TensorDataset(x, rows),
            "dictionaries": [{"image": a, "label": b} for a, b in zip(x, rows)],
            "DataLoader": DataLoader(TensorDataset(x, rows), batch_size, shuffle)}[form]
    loader = make_loader(made, *(() if form == "DataLoader" else (batch_size, shuffle)))
    sizes = [len(y) for _, y in loader]
    assert len(sizes) == len(loader) == math.ceil(n / batch_size)
    assert set(sizes[:-1]) <= {batch_size} and sum(sizes) == n
    images, labels = all_of(loader)
    assert torch.equal(labels.sort().values, rows) and torch.equal(images, x[labels])


def test_make_loader_has_the_defaults_of_batch_loader():
    ours, plain = make_loader((X, Y)), BatchLoader((X, Y))
    for name in "batch_size", "shuffle", "seed", "epoch":
        assert getattr(ours, name) == getattr(plain, name)
    loader = make_loader(TensorDataset(X, Y), 3, shuffle=True, seed=7)
    plain = BatchLoader((X, Y), 3, shuffle=True, seed=7)
    for (a, b), (c, d) in zip(loader, plain, strict=True):
        assert torch.equal(a, c) and torch.equal(b, d)


def test_a_tensor_is_not_copied():
    assert make_loader(X).images is X
    array = X.numpy()
    assert np.shares_memory(make_loader(array).images.numpy(), array)


def test_a_table_with_to_numpy_is_an_array():
    class Frame:  # as pandas has it: a column for each name, which no data[0] finds
        def to_numpy(self): return X.flatten(1).numpy()
        def __len__(self): return 10
        def __getitem__(self, name): raise KeyError(name)
    assert torch.equal(make_loader(Frame()).images, X.flatten(1))


def test_a_data_set_is_read_once():
    asked = []
    loader = make_loader(Items(lambda i: asked.append(i) or X[i]), 3, shuffle=True)
    for _ in range(3): list(loader)
    assert asked == [*range(10)]


def test_a_torchvision_data_set_as_it_is(tmp_path):
    data.unpack_mnist(tmp_path)
    some = Subset(datasets.MNIST(tmp_path, train=False), range(50))
    images, labels = data.load_mnist("test")
    loader = make_loader(some)
    assert torch.equal(loader.images, images[:50])
    assert torch.equal(loader.labels, labels[:50])


@pytest.mark.parametrize("mode,channels", [
    ("1", 1), ("L", 1), ("LA", 1), ("I", 1), ("I;16", 1), ("F", 1), ("P", 3),
    ("RGB", 3), ("RGBA", 3), ("CMYK", 3), ("YCbCr", 3), ("HSV", 3), ("PA", 3)])
def test_pil_images_of_any_mode(mode, channels):
    shape = make_loader([Image.new(mode, (5, 4))] * 3).images.shape
    assert shape == (3, channels, 4, 5)


def test_items_stay_bytes_while_they_are_read(monkeypatch):
    """A byte a pixel is kept of each item: float32 would be four times that."""
    made, real = [], torch.Tensor.new_empty
    monkeypatch.setattr(torch.Tensor, "new_empty",
                        lambda self, *size: made.append(real(self, *size)) or made[-1])
    make_loader(TensorDataset(BYTES))
    assert [(x.dtype, x.shape) for x in made] == [(torch.uint8, BYTES.shape)]


def test_a_progress_bar_is_shown_where_reading_takes_a_while(capfd, monkeypatch):
    slow = Items(lambda i: time.sleep(0.15) or X[i])
    make_loader(slow, name="train_data")
    make_loader([*X], progress=True)
    assert capfd.readouterr().err == ""
    make_loader(slow, name="train_data", progress=True)
    assert "reading train_data" in capfd.readouterr().err


class Once(IterableDataset):
    def __iter__(self): yield from X


REFUSED = {
    "a string": ("pictures", "must be a tensor or array of images, a pair .*, a "
                 "Dataset, or a DataLoader .* not str; a folder of pictures is"),
    "bytes": (b"abc", "must be a tensor .*, not bytes; a folder"),
    "a number": (3, "must be a tensor .*, not int; a folder"),
    "nothing": (None, "must be a tensor .*, not NoneType; a folder"),
    "without a length": (type("Endless", (Dataset,), {})(), "must be .*, not Endless;"),
    "a generator": ((x for x in X), "must give its batches anew in each epoch, and a "
                    "generator can be read only once, if at all: give a list"),
    "an iterator": (iter([X]), "must give its batches anew .* list_iterator"),
    "an iterator of a DataLoader": (iter(DataLoader(TensorDataset(X))), "must give"),
    "an IterableDataset": (Once(), "is an IterableDataset, which has no batches: wrap "
                           "it in a DataLoader$"),
    "an empty list": ([], "is empty: it must hold an image"),
    "an empty data set": (Items(None, 0), "is empty: it must hold an image"),
    "no images": (X[:0], r"must have shape .* not \(0, 1, 6, 5\)"),
    "one image": (X[0, 0, 0], r"must have shape .* not \(5,\)"),
    "whole numbers": (BYTES.long(), "give uint8 .* not torch.int64"),
    "NaN": (X * math.nan, "must hold finite values, not NaN among them"),
    "other keys": ([{"img": x} for x in X], "must have the key .*, and has only 'img'"),
    "a dictionary of other keys": ({"a": X, "b": Y}, "must have .* only 'a', 'b'"),
    "three entries": ([(x, y, y) for x, y in zip(X, Y)], "must be images, or a pair"),
    "two images": ([X[0], X[1]], "holds two tensors of images; a pair is"),
    "train and test": ((X, X[:4]), "holds two tensors of images; a pair is"),
    "shapes": ([X[0], X[1], X[2, :, 1:]], r"has shape \(1, 5, 5\) \(torch.float32\) "
               r"and item 0 has \(1, 6, 5\) \(torch.float32\): all must be alike"),
    "types": ([X[0], X[1], BYTES[2]], r"has shape \(1, 6, 5\) \(torch.uint8\) and"),
    "paths": (["a.png", "b.png"], "must be a tensor .* not str"),
    "some labels": ([(X[0], 1), (X[1], None)], "must pair its 2 images with a tensor"),
    "words": ([(x, "seven") for x in X], "must pair its 10 images .* not <U5 of shape"),
    "uneven labels": ([(X[0], [1]), (X[1], [1, 2])], "must pair its 2 .* not list"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused_gets_one_sentence(case):
    wrong, said = REFUSED[case]
    said = rf"^((item|batch) \d of )?my data:? {said}"
    with pytest.raises(ValueError, match=said) as caught:
        make_loader(wrong, name="my data")
    assert "\n" not in str(caught.value)


def test_a_data_set_that_does_not_fit_is_refused(monkeypatch):
    needed = 4 * BYTES.numel()
    monkeypatch.setattr(data, "available_memory", lambda: needed)
    make_loader(TensorDataset(BYTES))
    monkeypatch.setattr(data, "available_memory", lambda: needed - 1)
    said = "^x would take .* GB as float32 and .* GB of memory are available: give a"
    asked = []
    with pytest.raises(ValueError, match=said):
        make_loader(Items(lambda i: asked.append(i) or BYTES[i]), name="x")
    assert asked == [0]  # before the rest is read
    make_loader(DataLoader(TensorDataset(BYTES)))
    monkeypatch.setattr(data, "available_memory", lambda: None)
    make_loader(TensorDataset(BYTES))


def test_available_memory():
    total = 1024 * int(re.search(r"MemTotal: +(\d+)", open("/proc/meminfo").read())[1])
    assert 0 < data.available_memory() < total


def test_available_memory_that_cannot_be_known(monkeypatch):
    def refuse(*args, **kwargs): raise FileNotFoundError
    monkeypatch.setattr(data.Path, "read_text", refuse)
    assert data.available_memory() is None
    monkeypatch.setattr(data.Path, "read_text", lambda self: "MemTotal: 3 kB")
    assert data.available_memory() is None


# ---- streams

def test_a_batch_size_given_with_batches_is_refused():
    for stream in DataLoader(TensorDataset(X)), [*X.split(4)], BatchLoader(X):
        with pytest.raises(ValueError, match="^batch_size must be None, not 128"):
            make_loader(stream, 128, name="x")
    with pytest.raises(ValueError, match="^batch_size must be a whole .* not 0$"):
        make_loader(X, 0)


def test_a_loader_is_taken_as_it_is():
    for loader in BatchLoader(X), StreamLoader([X]):
        assert make_loader(loader) is loader


def test_the_length_is_that_of_the_source():
    assert len(make_loader(DataLoader(TensorDataset(X), 3))) == 4
    for endless in Anew(X), DataLoader(Once(), 4):
        with pytest.raises(TypeError, match="has no len"): len(make_loader(endless))
    assert [len(x) for x, _ in make_loader(DataLoader(Once(), 4))] == [4, 4, 2]


def sources():
    "Loaders that shuffle, by each generator that can be asked to."
    some = TensorDataset(X, Y)
    sampler = lambda: RandomSampler(some, generator=generator(5))
    random_crop = Items(lambda i: X[i] * random.random() * np.random.rand())
    return {"global": lambda: DataLoader(some, 3, shuffle=True),
            "own": lambda: DataLoader(some, 3, shuffle=True, generator=generator(5)),
            "sampler": lambda: DataLoader(some, 3, sampler=sampler()),
            "batches": lambda: DataLoader(
                some, batch_sampler=BatchSampler(sampler(), 3, True)),
            "chunks": lambda: DataLoader([*zip(X.split(3), Y.split(3))], None, sampler=(
                RandomSampler(range(4), generator=generator(5)))),
            "augmented": lambda: DataLoader(random_crop, 3)}


@pytest.mark.parametrize("source", sources())
def test_looking_at_an_example_changes_nothing(source):
    def epochs(look):
        torch.manual_seed(0), np.random.seed(0), random.seed(0)
        stream = StreamLoader(sources()[source]())
        seen = [stream.example] if look else []
        if look: assert stream.epoch == 0
        return [x for _ in range(2) for x, _ in stream] + [torch.rand(3)], seen
    plain, _ = epochs(False)
    looked_at, (example,) = epochs(True)
    assert all(map(torch.equal, plain, looked_at)) and len(plain) == len(looked_at)
    assert torch.equal(example, plain[0][:2])


def test_the_example_is_read_once():
    passes = []
    class Counted(Anew):
        def __iter__(self): return passes.append(1) or super().__iter__()
    stream = StreamLoader(Counted(X))
    assert torch.equal(stream.example, stream.example) and len(passes) == 1
    assert stream.to("cpu", torch.float64).example.dtype == torch.float64
    assert len(passes) == 1
    kept = X.clone()
    StreamLoader([X]).example.zero_()
    assert torch.equal(X, kept)


def test_a_stream_moves_its_batches():
    stream = StreamLoader([(BYTES, Y.int())])
    assert stream.to("cpu", torch.float64) is stream
    (images, labels), = stream
    assert images.dtype == torch.float64 and labels.dtype == torch.int64
    (images, labels), = stream.to("meta")
    assert images.is_meta and labels.is_meta and stream.example.is_meta


def test_a_stream_counts_its_epochs():
    stream, other = StreamLoader([X]), StreamLoader([X])
    for _ in range(3): list(stream)
    assert stream.state_dict() == {"epoch": torch.tensor(3)}
    other.load_state_dict(stream.state_dict())
    assert other.epoch == 3 and list(other) and other.epoch == 4


def test_pixels_are_checked_as_they_arrive():
    stream = make_loader([X, X, X - 0.5])
    assert len(list(stream)) == 3  # nobody asked
    stream.check_pixels("train_data")
    got = []
    said = r"^batch 2 of train_data must hold finite values in \[0, 1\].*standardized"
    with pytest.raises(ValueError, match=said):
        for x, _ in stream: got.append(x)
    assert len(got) == 2
    stream = make_loader([X - 0.5])
    stream.check_pixels()
    with pytest.raises(ValueError, match="^batch 0 of data must"): stream.example


def test_pixels_are_checked_before_they_are_moved():
    stream = make_loader([2 * X]).to("meta")  # where nothing has a value
    stream.check_pixels("x")
    with pytest.raises(ValueError, match="^batch 0 of x must hold"): list(stream)


@pytest.mark.parametrize("batches,said", [
    (Anew(), "^x gave no batch: it must give all its batches anew in each epoch$"),
    (Anew(X, X * math.nan), "^batch 1 of x must hold finite values, not NaN"),
    (Anew(X[0, 0, 0]), "^batch 0 of x must have shape"),
    (Anew((X, Y[:3])), "^batch 0 of x must pair its 10 images"),
    (Anew((X, Y, Y)), "^batch 0 of x must be images, or a pair .* not a tuple of 3"),
    (Anew({"pixels": X}), "^batch 0 of x must have the key 'image', and has only 'pix"),
    (Anew([X, X]), "^batch 0 of x holds two tensors of images"),
    (DataLoader(TensorDataset(X, Y, Y)), "^batch 0 of x must be images"),
])
def test_a_bad_batch_is_named(batches, said):
    with pytest.raises(ValueError, match=said): list(make_loader(batches, name="x"))
    if "batch 1" not in said:  # an example is in the first batch
        with pytest.raises(ValueError, match=said):
            make_loader(batches, name="x").example


def test_an_exhausted_source_is_noticed():
    class Tired:
        left = iter([X])
        def __iter__(self): return self.left
    stream = make_loader(Tired())
    assert len(list(stream)) == 1
    with pytest.raises(ValueError, match="gave no batch: it must give all .* anew"):
        list(stream)


def test_a_warning_about_batches_is_given_once():
    last = torch.rand(4, 8, 8, 3)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("default")  # Python's own: once for each text and place
        assert len(list(make_loader([last] * 3))) == 3
    assert [str(w.message) for w in told] == [
        "data has shape (4, 8, 8, 3): if its channels come last, "
        "images.permute(0, 3, 1, 2) puts them first"]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_stream_from_worker_processes(workers):
    source = DataLoader(TensorDataset(X, Y), 4, num_workers=workers)
    images, labels = all_of(make_loader(source))
    assert torch.equal(images, X) and torch.equal(labels, Y)

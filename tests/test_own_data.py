"""Chapter 1: whatever a user brings, from arrays to folders of pictures."""
import math
import random
import re
import struct
import time
import warnings
import zlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image
from torch.utils.data import (BatchSampler, DataLoader, Dataset, IterableDataset,
                              RandomSampler, Subset, TensorDataset)
from torchvision import datasets, transforms

from vae_nbdev import data
from vae_nbdev.data import (BatchLoader, StreamLoader, load_image, load_images,
                            make_loader, to_float)

quick = settings(deadline=None, max_examples=40, derandomize=True)
generator = lambda seed=0: torch.Generator().manual_seed(seed)
BYTES = torch.randint(256, (10, 1, 6, 5), generator=generator(), dtype=torch.uint8)
X, Y = BYTES / 255, torch.randint(10, (10,), generator=generator(1))
COLOUR = torch.randint(256, (3, 24, 24), generator=generator(2), dtype=torch.uint8)


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


# ---- pictures on disk

def pixels(picture): return torch.from_numpy(np.array(picture)) / 255


GREY = Image.fromarray(COLOUR[0].numpy())
RGB = Image.fromarray(COLOUR.permute(1, 2, 0).numpy())


def smooth(h=48, w=36):
    "A picture without sharp edges, for codecs that lose some of it."
    y, x = np.mgrid[:h, :w] / 48
    return Image.fromarray((255 * np.stack([y, x, 1 - y], 2)).astype(np.uint8))


def write(folder, **pictures):
    "Save pictures under their names; _ stands for the dot."
    folder.mkdir(parents=True, exist_ok=True)
    for name, picture in pictures.items(): picture.save(folder / name.replace("_", "."))
    return folder


@pytest.mark.parametrize("ending", ["png", "bmp", "tif", "tiff", "PNG"])
def test_a_picture_without_loss(tmp_path, ending):
    GREY.save(tmp_path / f"grey.{ending}")
    RGB.save(tmp_path / f"colour.{ending}")
    grey = load_image(tmp_path / f"grey.{ending}")
    colour = load_image(tmp_path / f"colour.{ending}")
    assert torch.equal(grey, COLOUR[:1] / 255) and torch.equal(colour, COLOUR / 255)
    assert grey.dtype == torch.float32


@pytest.mark.parametrize("ending", ["jpg", "jpeg", "webp"])
def test_a_picture_with_loss(tmp_path, ending):
    smooth().save(tmp_path / f"x.{ending}", quality=95)
    found = load_image(str(tmp_path / f"x.{ending}"))
    assert (found - pixels(smooth()).permute(2, 0, 1)).abs().max() < 0.06


def test_sixteen_bits_are_kept(tmp_path):
    levels = np.arange(0, 65536, 113, dtype=np.uint16)[:576].reshape(24, 24)
    for name in "x.png", "x.tif":
        Image.fromarray(levels).save(tmp_path / name)
        x = load_image(tmp_path / name)
        torch.testing.assert_close(x[0].double(), torch.from_numpy(levels / 65535),
                                   rtol=1e-6, atol=0)
        assert len(x.unique()) == 576
    assert load_image(tmp_path / "x.png", channels=3).shape == (3, 24, 24)


def test_one_bit_is_black_or_white(tmp_path):
    GREY.convert("1").save(tmp_path / "x.png")
    assert load_image(tmp_path / "x.png").unique().tolist() == [0, 1]


def test_transparency_is_laid_over_white(tmp_path):
    alpha = Image.fromarray(COLOUR[1].numpy())
    a = COLOUR[1] / 255
    for picture, below in (RGB, COLOUR), (GREY, COLOUR[:1]):
        picture = picture.copy()
        picture.putalpha(alpha)
        picture.save(tmp_path / "x.png")
        expected = a * (below / 255) + (1 - a)
        assert (load_image(tmp_path / "x.png") - expected).abs().max() < 1.01 / 255
    palette = RGB.quantize(16)
    palette.save(tmp_path / "p.png", transparency=palette.getpixel((0, 0)))
    assert (load_image(tmp_path / "p.png")[:, 0, 0] == 1).all()


def test_palettes_and_inks_become_colours(tmp_path):
    smooth().quantize(256).save(tmp_path / "x.gif")
    smooth().convert("CMYK").save(tmp_path / "x.jpg", quality=95)
    smooth().convert("CMYK").save(tmp_path / "x.tif")
    for name in "x.gif", "x.jpg", "x.tif":
        off = load_image(tmp_path / name) - pixels(smooth()).permute(2, 0, 1)
        assert off.abs().mean() < 0.02 and off.shape == (3, 48, 36)


@pytest.mark.parametrize("orientation,turn", [
    (1, lambda x: x), (2, lambda x: x.flip(2)), (3, lambda x: x.rot90(2, (1, 2))),
    (4, lambda x: x.flip(1)), (5, lambda x: x.mT), (6, lambda x: x.rot90(-1, (1, 2))),
    (7, lambda x: x.rot90(2, (1, 2)).mT), (8, lambda x: x.rot90(1, (1, 2)))])
def test_the_orientation_in_exif_is_respected(tmp_path, orientation, turn):
    exif = Image.Exif()
    exif[0x0112] = orientation
    RGB.crop((0, 0, 24, 16)).save(tmp_path / "x.png", exif=exif)
    assert torch.equal(load_image(tmp_path / "x.png"), turn(COLOUR[:, :16] / 255))


def test_an_animation_is_its_first_frame(tmp_path):
    later = [Image.new("L", (24, 24))]
    GREY.save(tmp_path / "x.gif", save_all=True, append_images=later)
    assert torch.equal(load_image(tmp_path / "x.gif"), COLOUR[:1] / 255)


def test_channels(tmp_path):
    write(tmp_path, grey_png=GREY, rgb_png=RGB, same_png=GREY.convert("RGB"))
    for name, channels, n in (("grey", None, 1), ("rgb", None, 3), ("same", None, 1),
                              ("grey", 3, 3), ("rgb", 1, 1), ("same", 3, 3)):
        x = load_image(tmp_path / f"{name}.png", channels=channels)
        assert x.shape == (n, 24, 24)
        if name != "rgb": assert torch.equal(x, COLOUR[:1].expand(n, -1, -1) / 255)
    luma = torch.tensor([0.299, 0.587, 0.114])[:, None, None]
    grey = load_image(tmp_path / "rgb.png", channels=1)
    assert (grey - (luma * COLOUR / 255).sum(0)).abs().max() < 1.01 / 255
    Image.new("RGB", (3, 3), "white").save(tmp_path / "white.png")
    assert (load_image(tmp_path / "white.png", channels=1) == 1).all()


@pytest.mark.parametrize("shape", [(48, 36), (36, 48), (20, 20), (7, 90), (13, 29)])
@pytest.mark.parametrize("size", [8, 20, 33])
def test_a_square_is_torchvisions_resize_and_crop(tmp_path, shape, size):
    smooth(*shape).save(tmp_path / "x.png")
    x = torch.from_numpy(np.array(smooth(*shape))).permute(2, 0, 1)
    theirs = transforms.Compose([transforms.Resize(size, antialias=True),
                                 transforms.CenterCrop(size)])(x)
    assert torch.equal(load_image(tmp_path / "x.png", size), theirs / 255)


@quick
@given(*4 * [st.integers(1, 40)])
def test_any_picture_gets_any_size(tmp_path_factory, h, w, H, W):
    path = tmp_path_factory.mktemp("sizes") / "x.png"
    Image.new("L", (w, h), 100).save(path)
    x = load_image(path, (H, W))  # grey all over, and so without the black of a border
    assert x.shape == (1, H, W) and (x == 100 / 255).all()


def test_scaling_down_averages(tmp_path):
    board = np.indices((64, 64)).sum(0) % 2 * 255
    Image.fromarray(board.astype(np.uint8)).save(tmp_path / "x.png")
    assert (load_image(tmp_path / "x.png", 8) - 0.5).abs().max() < 0.02


def test_a_rectangle_cuts_what_is_too_much(tmp_path):
    x = np.zeros((10, 40), np.uint8)
    x[:, 10:30] = 255  # the centre is white
    Image.fromarray(x).save(tmp_path / "x.png")
    assert (load_image(tmp_path / "x.png", (10, 20)) == 1).all()
    assert load_image(tmp_path / "x.png", [5, 20]).shape == (1, 5, 20)


def damaged(folder):
    "Files that no decoder can read."
    write(folder, whole_png=smooth(), whole_jpg=smooth())
    for ending in "png", "jpg":
        raw = (folder / f"whole.{ending}").read_bytes()
        (folder / f"cut.{ending}").write_bytes(raw[:len(raw) // 2])
        (folder / f"whole.{ending}").unlink()
    (folder / "text.jpg").write_text("not a picture")
    (folder / "empty.png").touch()
    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(
            ">I", zlib.crc32(kind + body))
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 50_000, 50_000, 8, 0, 0, 0, 0))
    (folder / "bomb.png").write_bytes(
        b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", b""))
    return sorted(path.name for path in folder.iterdir())


def test_a_picture_that_cannot_be_read_is_named(tmp_path):
    for name in damaged(tmp_path):
        said = f"^{re.escape(str(tmp_path / name))} cannot be read as a picture .*"
        with pytest.raises(ValueError, match=said) as caught:
            load_image(tmp_path / name)
        assert "\n" not in str(caught.value)


def test_load_image_says_what_is_wrong(tmp_path):
    GREY.save(tmp_path / "x.png")
    for path, said in (tmp_path, "is a folder: see load_images"), \
            (tmp_path / "none.png", "does not exist"):
        full = f"^path must be a picture, and {re.escape(str(path))} {said}$"
        with pytest.raises(FileNotFoundError, match=full): load_image(path)
    Image.fromarray(np.float32([[0, 7]])).save(tmp_path / "float.tif")
    with pytest.raises(ValueError, match="float.tif must hold finite values in"):
        load_image(tmp_path / "float.tif")


@pytest.mark.parametrize("options,said", [
    (dict(size=0), "size must be a whole number of at least 1, not 0"),
    (dict(size=2.5), "size must be a whole number of at least 1, not 2.5"),
    (dict(size="28"), "size must be a whole number of at least 1, not '28'"),
    (dict(size=(28, 0)), "size must be a whole number of at least 1, not 0"),
    (dict(size=(28,)), r"size must be a side or \(height, width\), not \(28,\)"),
    (dict(size=(1, 2, 3)), r"size must be a side or .*, not \(1, 2, 3\)"),
    (dict(channels=2), "channels must be 1, 3 or None, not 2"),
    (dict(channels="RGB"), "channels must be 1, 3 or None, not 'RGB'"),
])
def test_a_form_that_no_picture_has_is_refused(tmp_path, options, said):
    write(tmp_path, x_png=GREY)
    for load, path in (load_image, tmp_path / "x.png"), (load_images, tmp_path):
        with pytest.raises(ValueError, match=f"^{said}$"): load(path, **options)


def test_a_folder_in_alphabetical_order(tmp_path):
    for i in (2, 0, 1): Image.fromarray(BYTES[i, 0].numpy()).save(tmp_path / f"{i}.png")
    (tmp_path / "notes.txt").write_text("not a picture, and not said to be one")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        images, labels = load_images(str(tmp_path))
    assert torch.equal(images, X[:3]) and images.dtype == torch.float32
    assert labels is None


def test_one_picture_is_a_folder_too(tmp_path):
    images, labels = load_images(write(tmp_path / "one", x_png=RGB))
    assert torch.equal(images, COLOUR[None] / 255) and labels is None


def test_sub_folders_are_labels_as_in_torchvision(tmp_path):
    for i, name in enumerate(["b", "a", "a-b", "c"]):
        write(tmp_path / name, **{
            f"{k}_png": Image.fromarray(BYTES[2 * i + k, 0].numpy()) for k in range(2)})
    write(tmp_path / "a" / "deeper", x_png=Image.fromarray(BYTES[9, 0].numpy()))
    (tmp_path / "d").mkdir()  # empty
    images, labels = load_images(tmp_path)
    theirs = datasets.ImageFolder(tmp_path, transforms.ToTensor(), allow_empty=True)
    images = images.expand(-1, 3, -1, -1)
    assert torch.equal(images, torch.stack([x for x, y in theirs]))
    assert labels.tolist() == theirs.targets == [0, 0, 0, 1, 1, 2, 2, 3, 3]
    assert labels.dtype == torch.int64


def test_what_is_hidden_is_left_out(tmp_path):
    write(tmp_path / ".trash", x_png=GREY)
    write(tmp_path / "a", x_png=GREY)
    write(tmp_path / "a" / ".thumbnails", x_png=RGB)
    (tmp_path / "a" / "._x.png").write_bytes(b"as macOS leaves it")
    (tmp_path / "._x.png").write_bytes(b"as macOS leaves it")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        images, labels = load_images(tmp_path)
    assert images.shape == (1, 1, 24, 24) and labels.tolist() == [0]
    assert len(load_images(tmp_path / ".trash")[0]) == 1  # but it can be asked for


def test_pictures_beside_sub_folders_take_the_labels_away(tmp_path):
    write(write(tmp_path, x_png=GREY) / "a", y_png=GREY)
    with pytest.warns(UserWarning, match="has pictures beside its sub-folders: labels"):
        images, labels = load_images(tmp_path)
    assert len(images) == 2 and labels is None


def test_grey_and_colour_together(tmp_path):
    write(tmp_path, a_png=GREY, b_png=RGB)
    images, _ = load_images(tmp_path)
    both = torch.stack([COLOUR[:1].expand(3, -1, -1), COLOUR])
    assert torch.equal(images, both / 255)
    assert load_images(tmp_path, channels=1)[0].shape == (2, 1, 24, 24)
    (tmp_path / "b.png").unlink()
    write(tmp_path, b_png=GREY.convert("RGB"))
    assert load_images(tmp_path)[0].shape == (2, 1, 24, 24)  # grey in content


def test_eight_and_sixteen_bits_together(tmp_path):
    deep = Image.fromarray(COLOUR[1].numpy().astype(np.uint16) * 257)
    images, _ = load_images(write(tmp_path, a_png=GREY, b_png=deep))
    torch.testing.assert_close(images, COLOUR[:2, None] / 255)


def test_pictures_of_several_sizes_need_one(tmp_path):
    write(tmp_path, a_png=GREY, b_png=GREY, c_png=smooth())
    a, c = tmp_path / "a.png", tmp_path / "c.png"
    said = f"{a} has 24x24 pixels and {c} 48x36: give size, and all are brought to it"
    with pytest.raises(ValueError, match=f"^{re.escape(said)}$"): load_images(tmp_path)
    images, _ = load_images(tmp_path, size=(16, 12))
    assert images.shape == (3, 3, 16, 12)
    for x, name in zip(images, "abc"):
        assert torch.equal(x, load_image(tmp_path / f"{name}.png", (16, 12), 3))


def test_what_cannot_be_read_is_named_once_and_left_out(tmp_path):
    names = damaged(tmp_path / "a")
    write(tmp_path / "b", x_png=GREY)
    with pytest.warns(UserWarning) as told: images, labels = load_images(tmp_path)
    assert len(told) == 1 and len(images) == 1 and labels.tolist() == [1]
    first = ", ".join(str(tmp_path / "a" / name) for name in names[:3])
    assert str(told[0].message) == (f"{len(names)} of {len(names) + 1} files cannot be "
                                    f"read and are left out: {first} ...")


def test_a_folder_without_a_picture_is_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "deep" / "empty").mkdir(parents=True)
    damaged(tmp_path / "damaged")
    (tmp_path / "file").touch()
    for name in "empty", "deep", "damaged":
        said = f"^{re.escape(str(tmp_path / name))} holds no picture that can be read"
        with warnings.catch_warnings(), pytest.raises(FileNotFoundError, match=said):
            warnings.simplefilter("ignore")
            load_images(tmp_path / name)
    with pytest.raises(FileNotFoundError, match="^folder must .*none does not exist$"):
        load_images(tmp_path / "none")
    said = "^folder must be .*file is a file: see load_image$"
    with pytest.raises(ValueError, match=said): load_images(tmp_path / "file")


def test_a_folder_of_floats_must_be_in_the_range(tmp_path):
    Image.fromarray(np.float32([[0, 7]])).save(tmp_path / "x.tif")
    with pytest.raises(ValueError, match="must hold finite values in .0, 1.*by 255"):
        load_images(tmp_path)


def test_a_slow_folder_shows_its_progress(tmp_path, monkeypatch, capfd):
    write(tmp_path, **{f"{i}_png": GREY for i in range(10)})
    read = Image.open
    monkeypatch.setattr(Image, "open", lambda path: time.sleep(0.15) or read(path))
    load_images(tmp_path)
    assert capfd.readouterr().err == ""
    load_images(tmp_path, progress=True)
    assert "reading" in capfd.readouterr().err


def test_a_folder_that_does_not_fit_is_refused(tmp_path, monkeypatch):
    write(tmp_path, a_png=GREY, b_png=GREY)
    monkeypatch.setattr(data, "available_memory", lambda: 2 * 24 * 24 * 4 - 1)
    with pytest.raises(ValueError, match="would take .* GB as"): load_images(tmp_path)
    assert load_images(tmp_path, size=23)[0].shape == (2, 1, 23, 23)


def test_a_folder_is_data(tmp_path):
    write(tmp_path / "a", x_png=GREY)
    write(tmp_path / "b", x_png=RGB, y_png=RGB)
    loader = make_loader(load_images(tmp_path, size=8), 2)
    assert [(x.shape, y.tolist()) for x, y in loader] == [
        ((2, 3, 8, 8), [0, 1]), ((1, 3, 8, 8), [1])]
    folder = datasets.ImageFolder(tmp_path)  # PIL images: a map-style data set
    assert make_loader(folder).images.shape == (3, 3, 24, 24)

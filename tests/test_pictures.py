"""Chapter 9: a folder of pictures, from files of any kind to images of one shape."""
import os
import re
import struct
import subprocess
import sys
import time
import warnings
import zlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from PIL import Image
from torchvision import datasets, transforms

from vae_nbdev import data
from vae_nbdev.data import make_loader
from vae_nbdev.pictures import load_image, load_images

quick = settings(deadline=None, max_examples=40, derandomize=True)
generator = lambda seed=0: torch.Generator().manual_seed(seed)
BYTES = torch.randint(256, (10, 1, 6, 5), generator=generator(), dtype=torch.uint8)
COLOUR = torch.randint(256, (3, 24, 24), generator=generator(2), dtype=torch.uint8)


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
    for i in (2, 0, 1): Image.fromarray(BYTES[i, 0].numpy()).save(tmp_path / f"{i}.{'PNG' if i else 'png'}")
    (tmp_path / "notes.txt").write_text("not a picture, and not said to be one")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        images, labels = load_images(str(tmp_path))
    assert torch.equal(images, BYTES[:3] / 255) and images.dtype == torch.float32
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
    said = (f"{a} has 24x24 pixels and {c} 48x36: give size (on the command line "
            "--image-size), and all are brought to it")
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


@pytest.mark.parametrize("n", [1, 3, 4])
def test_up_to_three_broken_files_are_named(tmp_path, n):
    write(tmp_path, x_png=GREY)
    paths = [tmp_path / f"broken{i}.png" for i in range(n)]
    for path in paths: path.touch()
    said = f"{n} of {n + 1} files cannot be read and are left out: {', '.join(map(str, paths[:3]))}{' ...' if n > 3 else ''}"
    with pytest.warns(UserWarning, match=f"^{re.escape(said)}$"): load_images(tmp_path)


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


def test_links_to_folders_are_followed(tmp_path):
    write(tmp_path / "elsewhere", x_png=GREY)
    (tmp_path / "data").mkdir()
    os.symlink(tmp_path / "elsewhere", tmp_path / "data" / "a")
    assert load_images(tmp_path / "data")[1].tolist() == [0]


def test_a_folder_is_read_without_torchvision(tmp_path):
    """Its import takes seconds, and all that is needed of it is a scale and a cut."""
    write(tmp_path, x_png=RGB)
    code = ("import sys; from vae_nbdev import load_images; "
            f"load_images({str(tmp_path)!r}, 8); assert 'torchvision' not in sys.modules")
    subprocess.run([sys.executable, "-c", code], check=True)

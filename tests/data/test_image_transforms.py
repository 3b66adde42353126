"""One picture: reading it, and what training and tests make of it."""

import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from octvideo.config.notation import parse_rand_augment
from octvideo.data.augment import Augmentation, RandAugment, RandomErasing
from octvideo.data.clips import AllViews
from octvideo.data.image_transforms import ImageTransform, PCANoise
from octvideo.data.protocol import CentreCrop, Protocol
from octvideo.data.read.image import ImageError, read_image
from octvideo.data.sources import FileList, source_of
from octvideo.data.transforms import normalize

EIGVAL = [0.2175, 0.0188, 0.0045]
EIGVEC = [[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]]


def smooth(height: int, width: int) -> Image.Image:
    """A picture whose values tell where they are: red is the column, green the row."""
    y, x = np.mgrid[0:height, 0:width]
    pixels = np.stack([255 * x / width, 255 * y / height, np.full_like(x, 128)], -1)
    return Image.fromarray(pixels.astype(np.uint8))


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "CMYK", "RGBA", "1", "LA", "I;16"])
def test_every_mode_becomes_rgb(tmp_path: Path, mode: str) -> None:
    path = tmp_path / ("x.jpg" if mode == "CMYK" else "x.png")
    Image.new(mode, (12, 8)).save(path)
    picture = read_image(str(path))
    assert (picture.mode, picture.size) == ("RGB", (12, 8))


def test_grey_of_16_bits_keeps_its_shades(tmp_path: Path) -> None:
    grey = np.arange(256, dtype=np.uint16).reshape(16, 16)
    for file in ("x.png", "x.pgm"):
        if file == "x.png":
            Image.fromarray(grey * 257).save(tmp_path / file)
        else:  # big-endian, by definition
            content = b"P5 16 16 65535\n" + (grey * 257).astype(">u2").tobytes()
            (tmp_path / file).write_bytes(content)
        pixels = np.asarray(read_image(str(tmp_path / file)))
        assert np.array_equal(pixels, np.repeat(grey[..., None], 3, axis=2))


def test_pictures_are_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the top is at the right
    smooth(20, 30).save(tmp_path / "x.jpg", exif=exif)
    assert read_image(str(tmp_path / "x.jpg")).size == (20, 30)


@pytest.mark.parametrize("kind", ["missing", "folder", "pipe", "empty", "text", "cut", "changed"])
def test_what_is_no_picture_is_named(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "x.jpg"
    data = io.BytesIO()
    smooth(64, 64).save(data, "PNG" if kind == "changed" else "JPEG")
    content = data.getvalue()
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind != "missing":
        middle = len(content) // 2
        broken = content[:middle] + b"xxxx" + content[middle + 4 :]
        path.write_bytes(
            {"empty": b"", "text": b"hello", "cut": content[:middle], "changed": broken}[kind]
        )
    with pytest.raises(ImageError) as error:
        read_image(str(path))
    assert str(error.value).startswith(f"{path}: ")
    assert error.value.reason
    if kind in ("empty", "text"):
        assert error.value.reason.startswith("does not begin like any of JPEG, PNG")


def test_absurdly_large_pictures_are_refused_before_they_are_decoded(tmp_path: Path) -> None:
    Image.new("1", (8, 8)).save(tmp_path / "x.png")
    content = bytearray((tmp_path / "x.png").read_bytes())
    content[16:24] = struct.pack(">II", 20_000, 6_000)
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    (tmp_path / "x.png").write_bytes(content)
    with pytest.raises(ImageError, match="20000x6000 pixels, more than"):
        read_image(str(tmp_path / "x.png"))


@pytest.mark.parametrize(("height", "width"), [(300, 400), (401, 300), (256, 256), (90, 1000)])
@pytest.mark.parametrize(("size", "ratio"), [(224, 0.875), (320, 0.875), (224, 1.0)])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_the_centre_crop_is_that_of_the_resized_picture(
    tmp_path: Path, height: int, width: int, size: int, ratio: float, interpolation: str
) -> None:
    """Against the usual way: resize all of it with Pillow, then cut."""
    picture = smooth(height, width)
    short = round(size / ratio + 0.4999)
    scale = short / min(height, width)
    h, w = (short if n == min(height, width) else int(n * scale + 1e-9) for n in (height, width))
    how = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
    whole = np.asarray(picture.resize((w, h), how[interpolation]))
    top, left = -(-(h - size) // 2), -(-(w - size) // 2)
    wanted = whole[top : top + size, left : left + size].astype(int)
    picture.save(tmp_path / "x.png")
    protocol = Protocol(1, 1, centre_crop=CentreCrop(size, ratio, interpolation)).of_images()
    files = FileList.from_rows([(str(tmp_path / "x.png"), 0)])
    crop = AllViews(files, source_of("imagenet"), protocol)[0]["frames"]
    assert crop.dtype == torch.uint8
    assert np.abs(crop[:, 0].permute(1, 2, 0).numpy() - wanted).max() <= 1


def test_a_training_picture_is_a_region_resized_and_half_are_mirrored() -> None:
    picture, mirrored, areas = smooth(200, 300), 0, []
    for seed in range(60):
        view = ImageTransform(crop_size=64).view(picture, np.random.default_rng(seed))[:, 0]
        left, right = (float(view[0, :, x].float().mean()) for x in (0, -1))
        top, bottom = (float(view[1, y].float().mean()) for y in (0, -1))
        assert top < bottom
        mirrored += left > right
        areas.append(abs(right - left) * (bottom - top) / 255**2 * (64 / 63) ** 2)
    assert 15 <= mirrored <= 45
    assert 0.06 <= min(areas) < 0.25
    assert 0.75 < max(areas) <= 1.03


def test_jitter_stays_within_its_factors_and_changes_colours() -> None:
    grey = Image.new("RGB", (32, 32), (100, 100, 100))
    jitter = ImageTransform(crop_size=8, color_jitter=0.4).view
    values = [float(jitter(grey, np.random.default_rng(seed)).float().mean()) for seed in range(60)]
    # Of an even grey only the brightness is changed.
    assert 58 <= min(values) < 75
    assert 125 < max(values) <= 140
    colour = Image.new("RGB", (32, 32), (150, 100, 50))
    spreads = []
    for seed in range(60):
        view = jitter(colour, np.random.default_rng(seed)).float().mean((1, 2, 3))
        spreads.append(float((view[0] - view[2]) / view.mean()))
    assert min(spreads) < 0.75
    assert max(spreads) > 1.25


def test_pca_noise_has_the_colours_of_its_vectors() -> None:
    noise = PCANoise(0.1, EIGVAL, EIGVEC)
    pixels = np.full((1, 2, 2, 3), 128, np.uint8)
    offsets = np.array(
        [noise(pixels, np.random.default_rng(n))[0, 0, 0].astype(float) - 128 for n in range(2000)]
    )
    assert np.abs(offsets.mean(0)).max() < 0.6
    wanted = np.sqrt(((255 * 0.1 * np.array(EIGVEC) * EIGVAL) ** 2).sum(1))
    assert offsets.std(0) == pytest.approx(wanted, rel=0.12)
    assert np.array_equal(noise(pixels, np.random.default_rng(1))[0, 1, 1] - 128.0, offsets[1])
    bright = np.full((1, 1, 1, 3), 255, np.uint8)
    assert all(noise(bright, np.random.default_rng(n)).min() > 200 for n in range(50))


def test_rand_augment_takes_the_place_of_jitter_and_noise() -> None:
    picture = smooth(64, 64)
    rand = RandAugment(parse_rand_augment("rand-m9-n2"))
    options = {"crop_size": 32, "augmentation": Augmentation(rand)}
    noise = PCANoise(5.0, EIGVAL, EIGVEC)
    for seed in range(8):
        plain = ImageTransform(**options).view(picture, np.random.default_rng(seed))
        both = ImageTransform(**options, color_jitter=0.4, noise=noise)
        assert torch.equal(plain, both.view(picture, np.random.default_rng(seed)))


def test_erasing_makes_float_pictures_and_spares_a_clean_copy() -> None:
    erasing = RandomErasing(1.0, "const", mean=(0.5,) * 3)
    transform = ImageTransform(crop_size=32, augmentation=Augmentation(erasing=erasing))
    view = transform.view(smooth(64, 64), np.random.default_rng(0))
    assert view.dtype == torch.float32
    assert (view == 127.5).any()
    clean = transform.view(smooth(64, 64), np.random.default_rng(0), clean=True)
    assert clean.dtype == torch.float32
    assert not (clean == 127.5).any()


def test_pictures_are_normalised_by_their_third_axis_from_the_end() -> None:
    batch = torch.randint(0, 256, (2, 3, 5, 7), dtype=torch.uint8)
    mean, std = [0.1, 0.2, 0.3], [0.5, 0.6, 0.7]
    out = normalize(batch, mean, std, axis=-3)
    for c in range(3):
        assert torch.allclose(out[:, c], (batch[:, c] / 255 - mean[c]) / std[c], atol=1e-6)
    assert torch.equal(normalize(batch, mean, std, True, axis=-3), out.flip(1))

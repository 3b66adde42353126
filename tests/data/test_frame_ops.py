"""Operations on frames against Pillow, a picture at a time, and against their formulas."""

import math
from collections.abc import Callable

import numpy as np
import pytest

from octvideo.data import frame_ops

Image = pytest.importorskip("PIL.Image", reason="Pillow is what the operations are those of")
from PIL import ImageEnhance, ImageOps  # noqa: E402


def pictures() -> dict[str, np.ndarray]:
    """Clips of several kinds: uint8 (T, H, W, 3)."""
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (3, 37, 52, 3), dtype=np.uint8)
    y, x = np.mgrid[0:40, 0:60]
    smooth = np.stack([3 * x + y, 200 - 2 * x - y, 90 + 2 * y], -1).astype(np.uint8)
    dark = noise // 5 + 20
    few = np.where(rng.random((2, 30, 31, 3)) < 0.1, 200, 40).astype(np.uint8)
    flat = np.full((1, 8, 9, 3), 77, np.uint8)
    tiny = rng.integers(0, 256, (2, 2, 5, 3), dtype=np.uint8)
    moving = np.stack([smooth, smooth[::-1] // 2])
    return {
        "noise": noise,
        "smooth": moving,
        "dark": dark,
        "few": few,
        "flat": flat,
        "tiny": tiny,
    }


CLIPS = pictures()
every_clip = pytest.mark.parametrize("name", CLIPS)


def by_pillow(frames: np.ndarray, operation: Callable) -> np.ndarray:
    return np.stack([np.asarray(operation(Image.fromarray(frame))) for frame in frames])


def assert_equal(ours: np.ndarray, theirs: np.ndarray) -> None:
    assert ours.dtype == np.uint8
    np.testing.assert_array_equal(ours, theirs)


@every_clip
@pytest.mark.parametrize("operation", ["invert", "equalize", "auto_contrast"])
def test_operations_without_strength(name, operation):
    theirs = getattr(ImageOps, operation.replace("_", ""))
    before = CLIPS[name].copy()
    assert_equal(getattr(frame_ops, operation)(CLIPS[name]), by_pillow(CLIPS[name], theirs))
    np.testing.assert_array_equal(CLIPS[name], before)  # nothing is done in place


@every_clip
@pytest.mark.parametrize("bits", [1, 2, 3, 4, 8])
def test_posterize(name, bits):
    theirs = by_pillow(CLIPS[name], lambda image: ImageOps.posterize(image, bits))
    assert_equal(frame_ops.posterize(CLIPS[name], bits), theirs)


def test_posterize_to_nothing_is_black():
    assert not frame_ops.posterize(CLIPS["noise"], 0).any()


@every_clip
@pytest.mark.parametrize("threshold", [0, 26, 128, 255, 256])
def test_solarize(name, threshold):
    theirs = by_pillow(CLIPS[name], lambda image: ImageOps.solarize(image, threshold))
    assert_equal(frame_ops.solarize(CLIPS[name], threshold), theirs)


@every_clip
@pytest.mark.parametrize("add", [0, 33, 110])
def test_solarize_add(name, add):
    theirs = by_pillow(
        CLIPS[name],
        lambda im: im.point(3 * [min(255, v + add) if v < 128 else v for v in range(256)]),
    )
    assert_equal(frame_ops.solarize_add(CLIPS[name], add), theirs)


@every_clip
@pytest.mark.parametrize("factor", [0.0, 0.1, 0.37, 1.0, 1.45, 1.9])
@pytest.mark.parametrize("operation", ["brightness", "contrast", "color", "sharpness"])
def test_enhancements(name, factor, operation):
    enhancer = getattr(ImageEnhance, operation.capitalize())
    theirs = by_pillow(CLIPS[name], lambda image: enhancer(image).enhance(factor))
    assert_equal(getattr(frame_ops, operation)(CLIPS[name], factor), theirs)


# --------------------------------------------------------------------------------------- geometry

MOVES = {
    "shear_x": (0.27, lambda w, h: (1, 0.27, 0, 0, 1, 0)),
    "shear_y": (-0.19, lambda w, h: (1, 0, 0, -0.19, 1, 0)),
    "translate_x": (0.123, lambda w, h: (1, 0, 0.123 * w, 0, 1, 0)),
    "translate_y": (-0.41, lambda w, h: (1, 0, 0, 0, 1, -0.41 * h)),
}


def moved_by_pillow(name: str, operation: str, resample: Image.Resampling) -> np.ndarray:
    strength, matrix = MOVES.get(operation, (23.0, None))

    def move(image: Image.Image) -> Image.Image:
        if operation == "rotate":
            return image.rotate(strength, resample=resample, fillcolor=(128, 128, 128))
        return image.transform(
            image.size,
            Image.Transform.AFFINE,
            matrix(*image.size),
            resample=resample,
            fillcolor=(128, 128, 128),
        )

    return by_pillow(CLIPS[name], move)


@pytest.mark.parametrize("name", ["noise", "smooth", "dark", "few"])
@pytest.mark.parametrize("operation", [*MOVES, "rotate"])
def test_bilinear_moves(name, operation):
    """Within 1 of 255: Pillow drops fractions."""
    strength = MOVES[operation][0] if operation in MOVES else 23.0
    ours = getattr(frame_ops, operation)(CLIPS[name], strength, "bilinear")
    theirs = moved_by_pillow(name, operation, Image.Resampling.BILINEAR)
    assert ours.dtype == np.uint8
    off = np.abs(ours.astype(int) - theirs).max(axis=(0, 3)) > 1
    # rounding decides whether a point exactly on the border is inside
    assert off.mean() < 0.002, np.argwhere(off)[:5]


@pytest.mark.parametrize("operation", [*MOVES, "rotate"])
def test_bicubic_moves_are_close_to_those_of_pillow(operation):
    """The kernels differ a little, which shows at edges alone."""
    strength = MOVES[operation][0] if operation in MOVES else 23.0
    ours = getattr(frame_ops, operation)(CLIPS["smooth"], strength, "bicubic")
    theirs = moved_by_pillow("smooth", operation, Image.Resampling.BICUBIC)
    difference = np.abs(ours.astype(int) - theirs)
    assert np.median(difference) <= 1
    assert (difference > 8).mean() < 0.02


def cubic_weight(x: float, a: float = -0.75) -> float:
    """Keys' kernel, with the parameter that torch takes."""
    x = abs(x)
    if x < 1:
        return (a + 2) * x**3 - (a + 3) * x**2 + 1
    return a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a if x < 2 else 0.0


def test_bicubic_is_keys_formula():
    frames, shift = CLIPS["noise"], 0.1  # of 52 pixels: 5.2
    ours = frame_ops.translate_x(frames, shift, "bicubic")
    width = frames.shape[2]
    for x in range(width):
        place = x + 0.5 + shift * width
        if place >= width:
            assert (ours[:, :, x] == 128).all()
            continue
        taps = range(math.floor(place - 0.5) - 1, math.floor(place - 0.5) + 3)
        value = sum(
            cubic_weight(place - 0.5 - tap)
            * frames[:, :, min(max(tap, 0), width - 1)].astype(float)
            for tap in taps
        )
        expected = np.clip(value, 0, 255)
        assert np.abs(ours[:, :, x] - expected).max() <= 0.51


def test_frames_are_moved_alike_however_many_there_are():
    frames = np.random.default_rng(1).integers(0, 256, (19, 16, 20, 3), dtype=np.uint8)
    together = frame_ops.rotate(frames, 12.0, "bicubic")
    for frame, moved in zip(frames, together, strict=True):
        np.testing.assert_array_equal(frame_ops.rotate(frame[None], 12.0, "bicubic")[0], moved)

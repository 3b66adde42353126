import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from octvideo.data.transforms import (
    TrainTransform,
    normalize,
    random_crop_params,
    random_region,
    resize_crop,
    resize_crop_uint8,
    short_side_size,
    training_view,
)

TOLERANCE = 0.02  # of 255: rounding of float32 positions
ROUNDING = 1.02  # of 255: columns and rows are rounded


def noise(t: int, h: int, w: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (t, h, w, 3), dtype=np.uint8)


def resized(frames: np.ndarray, size: tuple[int, int]) -> torch.Tensor:
    """Whole frames, by torch: float32 (3, T, h, w)."""
    video = torch.from_numpy(frames.copy()).float().permute(3, 0, 1, 2)
    return F.interpolate(video, size=size, mode="bilinear", align_corners=False)


@pytest.mark.parametrize(
    ("height", "width", "short", "expected"),
    [
        (256, 340, 256, (256, 340)),
        (240, 320, 256, (256, 341)),
        (320, 240, 256, (341, 256)),
        (720, 1280, 256, (256, 455)),
        (100, 100, 64, (64, 64)),
        (256, 256, 256, (256, 256)),
    ],
)
def test_long_side_is_rounded_down(height, width, short, expected):
    assert short_side_size(height, width, short) == expected


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_crop_equals_resize_then_crop(data):
    t, h, w = (data.draw(st.integers(1, n)) for n in (10, 41, 41))
    size = data.draw(st.integers(1, 60)), data.draw(st.integers(1, 60))
    crop_h, crop_w = (data.draw(st.integers(1, n)) for n in size)
    top = data.draw(st.integers(0, size[0] - crop_h))
    left = data.draw(st.integers(0, size[1] - crop_w))
    flip = data.draw(st.booleans())
    frames = noise(t, h, w, seed=data.draw(st.integers(0, 9)))

    ours = resize_crop(frames, size, (top, left, crop_h, crop_w), flip)

    reference = resized(frames, size)[:, :, top : top + crop_h, left : left + crop_w]
    if flip:
        reference = reference.flip(-1)
    assert ours.dtype == torch.float32
    assert ours.is_contiguous()
    torch.testing.assert_close(ours, reference, rtol=0, atol=TOLERANCE)
    whole = resize_crop_uint8(frames, size, (top, left, crop_h, crop_w), flip)
    assert whole.dtype == torch.uint8
    torch.testing.assert_close(whole.float(), reference, rtol=0, atol=ROUNDING)


@pytest.mark.parametrize("short", [256, 320, 224])
@pytest.mark.parametrize(("h", "w"), [(256, 340), (480, 270)])
def test_real_sizes(h, w, short):
    frames, size = noise(2, h, w), short_side_size(h, w, short)
    top, left = size[0] - 200, size[1] - 201
    reference = resized(frames, size)[:, :, top:, left:]
    ours = resize_crop(frames, size, (top, left, 200, 201))
    torch.testing.assert_close(ours, reference, rtol=0, atol=TOLERANCE)
    whole = resize_crop_uint8(frames, size, (top, left, 200, 201)).float()
    torch.testing.assert_close(whole, reference, rtol=0, atol=ROUNDING)
    assert abs((whole - reference).mean()) < 0.12  # halves are rounded up
    assert (whole - reference).abs().mean() < 0.35  # where rounding once is 0.25


@pytest.mark.parametrize("resize", [resize_crop, resize_crop_uint8])
def test_without_a_resize_pixels_are_exact(resize):
    frames = noise(3, 20, 30)
    crop = torch.from_numpy(frames).permute(3, 0, 1, 2)[:, :, 2:12, 7:27]
    ours = resize(frames, (20, 30), (2, 7, 10, 20))
    assert torch.equal(ours, crop.to(ours.dtype))
    assert torch.equal(resize(frames, (20, 30), (2, 7, 10, 20), flip=True), ours.flip(-1))


@pytest.mark.parametrize("resize", [resize_crop, resize_crop_uint8])
def test_reversed_channels_and_other_views_of_memory(resize):
    frames = noise(3, 20, 30)
    video = resize(frames, (24, 36), (1, 2, 20, 30))
    assert torch.equal(resize(frames[..., ::-1], (24, 36), (1, 2, 20, 30)), video.flip(0))
    part = frames[1:, 3:17, 5:]
    ours, copy = (resize(f, (21, 40), (0, 0, 21, 40)) for f in (part, part.copy()))
    assert torch.equal(ours, copy)


SPEC = TrainTransform(jitter_scales=(16, 20), crop_size=14)


def test_jitter_covers_its_range():
    rng = np.random.default_rng(0)
    draws = [random_crop_params(32, 48, rng, SPEC) for _ in range(2000)]
    assert {size for size, _, _ in draws} == {(s, math.floor(1.5 * s)) for s in range(16, 21)}
    corners = [(top, left, h, w) for (h, w), top, left in draws]
    assert all(0 <= y <= h - 14 and 0 <= x <= w - 14 for y, x, h, w in corners)
    # every offset comes, the last one too
    offsets = {(y, x) for y, x, h, _ in corners if h == 16}
    assert offsets == {(y, x) for y in range(3) for x in range(11)}


def test_inverse_uniform_jitter_prefers_small_sides():
    rng = np.random.default_rng(0)
    spec = TrainTransform(jitter_scales=(100, 400), crop_size=100, inv_uniform=True)
    sides = [random_crop_params(500, 500, rng, spec)[0][0] for _ in range(2000)]
    assert np.median(sides) == pytest.approx(2 / (1 / 100 + 1 / 400), rel=0.05)  # 160


def test_training_view_is_one_of_the_crops_of_the_resized_video():
    frames = noise(2, 32, 48)
    spec = TrainTransform(jitter_scales=(18, 18), crop_size=16, pixels="float32")
    whole = resized(frames, (18, 27))
    found = set()
    for seed in range(200):
        view = training_view(frames, np.random.default_rng(seed), spec)
        assert view.shape == (3, 2, 16, 16)
        assert view.dtype == torch.float32
        places = [
            (top, left, flip)
            for flip in (False, True)
            for top in range(3)
            for left in range(12)
            if torch.allclose(
                view.flip(-1) if flip else view,
                whole[:, :, top : top + 16, left : left + 16],
                atol=TOLERANCE,
            )
        ]
        assert len(places) == 1
        found.update(places)
    assert 0.35 < sum(flip for *_, flip in found) / len(found) < 0.65
    assert {top for top, *_ in found} == {0, 1, 2}
    assert {left for _, left, _ in found} == set(range(12))


def test_whole_numbers_are_of_the_same_crop():
    frames, spec = noise(3, 32, 48), TrainTransform(jitter_scales=(18, 30), crop_size=16)
    relative = replace(spec, relative_scales=(0.2, 0.8), relative_aspects=(0.75, 1.33))
    for seed, draw in itertools.product(range(20), (spec, relative)):
        whole, exact = (
            training_view(frames, np.random.default_rng(seed), replace(draw, pixels=pixels))
            for pixels in ("uint8", "float32")
        )
        assert (whole.dtype, whole.shape) == (torch.uint8, exact.shape)
        torch.testing.assert_close(whole.float(), exact, rtol=0, atol=ROUNDING)


@pytest.mark.parametrize("pixels", ["uint8", "float32"])
def test_without_a_flip_a_frame_of_the_crop_size_is_as_it_was(pixels):
    frames = noise(2, 16, 16)
    plain = TrainTransform(jitter_scales=(16, 16), crop_size=16, flip=False, pixels=pixels)
    video = torch.from_numpy(frames).to(getattr(torch, pixels)).permute(3, 0, 1, 2)
    for seed in range(8):
        assert torch.equal(training_view(frames, np.random.default_rng(seed), plain), video)


def test_random_regions():
    rng = np.random.default_rng(0)
    regions = [random_region(240, 320, rng, (0.08, 1.0), (3 / 4, 4 / 3)) for _ in range(1000)]
    for top, left, h, w in regions:
        assert 0 <= top <= 240 - h
        assert 0 <= left <= 320 - w
        assert 0.07 < h * w / (240 * 320) <= 1
        assert 0.74 < w / h < 1.35
    areas = [h * w / (240 * 320) for *_, h, w in regions]
    assert min(areas) < 0.12
    assert max(areas) > 0.85


@pytest.mark.parametrize(
    ("height", "width", "expected"),
    [
        (100, 1000, (0, 433, 100, 133)),
        (1000, 100, (433, 0, 133, 100)),
        (100, 110, (0, 0, 100, 110)),
    ],
)
def test_region_that_never_fits_falls_back_to_the_centre(height, width, expected):
    rng = np.random.default_rng(0)
    assert random_region(height, width, rng, (3.0, 4.0), (3 / 4, 4 / 3)) == expected


def test_relative_crop_is_resized_from_the_region_alone():
    frames = noise(2, 40, 50)
    spec = TrainTransform(
        crop_size=24,
        flip=False,
        relative_scales=(0.2, 0.8),
        relative_aspects=(0.75, 1.33),
        pixels="float32",
    )
    view = training_view(frames, np.random.default_rng(5), spec)
    y, x, h, w = random_region(40, 50, np.random.default_rng(5), (0.2, 0.8), (0.75, 1.33))
    region = resized(frames[:, y : y + h, x : x + w], (24, 24))
    torch.testing.assert_close(view, region, rtol=0, atol=TOLERANCE)


def test_impossible_transforms_are_refused():
    with pytest.raises(ValueError, match=r"TRAIN_JITTER_SCALES .*TRAIN_CROP_SIZE \(224\)"):
        TrainTransform(jitter_scales=(128, 160), crop_size=224)
    with pytest.raises(ValueError, match="TRAIN_PIXELS"):
        TrainTransform(pixels="int8")
    with pytest.raises(ValueError, match="go together"):
        TrainTransform(relative_scales=(0.08, 1.0))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_normalize(dtype):
    video = torch.randint(0, 256, (2, 3, 4, 5, 6)).to(dtype)
    before = video.clone()
    mean, std = [0.4, 0.5, 0.6], [0.2, 0.25, 0.3]
    ours = normalize(video, mean, std)
    assert ours.dtype == torch.float32
    assert torch.equal(video, before)
    for c in range(3):
        expected = (video[:, c].double() / 255 - mean[c]) / std[c]
        torch.testing.assert_close(ours[:, c].double(), expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(normalize(video[0], mean, std), ours[0])
    bgr = normalize(video, mean, std, reverse_channels=True)
    assert torch.equal(bgr, ours[:, [2, 1, 0]])  # mean and std go with their colour

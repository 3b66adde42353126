import dataclasses
from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
import torch

from octvideo.config.notation import RandAugmentSpec
from octvideo.data import augment
from octvideo.data.augment import (
    Augmentation,
    ClipTransform,
    RandAugment,
    RandomErasing,
)
from octvideo.data.read.frames import Convert
from octvideo.data.transforms import TrainTransform, normalize, training_view


def noise(t: int, h: int, w: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (t, h, w, 3), dtype=np.uint8)


# -------------------------------------------------------------------------------- RandAugment

# At magnitude 9 of 10, by hand: (without inc, with inc1); both signs where there is one.
STRENGTHS = {
    "auto_contrast": (set(), set()),
    "equalize": (set(), set()),
    "invert": (set(), set()),
    "rotate": ({27.0, -27.0}, {27.0, -27.0}),
    "posterize": ({3}, {1}),
    "solarize": ({230}, {26}),
    "solarize_add": ({99}, {99}),
    "color": ({1.72}, {1.81, 0.19}),
    "contrast": ({1.72}, {1.81, 0.19}),
    "brightness": ({1.72}, {1.81, 0.19}),
    "sharpness": ({1.72}, {1.81, 0.19}),
    "shear_x": ({0.27, -0.27}, {0.27, -0.27}),
    "shear_y": ({0.27, -0.27}, {0.27, -0.27}),
    "translate_x": ({0.405, -0.405}, {0.405, -0.405}),
    "translate_y": ({0.405, -0.405}, {0.405, -0.405}),
}


@pytest.fixture
def calls(monkeypatch) -> list[tuple]:
    """What RandAugment would do to the frames: (operation, arguments)."""
    made: list[tuple] = []

    def recording(operation):
        def apply(frames, *arguments):
            made.append((operation.apply.__name__, arguments))
            return frames

        return dataclasses.replace(operation, apply=apply)

    operations = tuple(recording(operation) for operation in augment._OPERATIONS)
    monkeypatch.setattr(augment, "_OPERATIONS", operations)
    return made


def run(spec: RandAugmentSpec, times: int, interpolation: str = "bicubic") -> None:
    rng = np.random.default_rng(0)
    for _ in range(times):
        RandAugment(spec, interpolation)(noise(1, 2, 2), rng)


@pytest.mark.parametrize("increasing", [False, True])
def test_strengths_are_those_of_the_tables(calls, increasing):
    run(RandAugmentSpec(9, 2, 0.0, increasing), 1000)
    found: dict[str, set] = {name: set() for name in STRENGTHS}
    for name, arguments in calls:
        moves = name in ("rotate", "shear_x", "shear_y", "translate_x", "translate_y")
        assert arguments[1:] == (("bicubic",) if moves else ())
        found[name] |= {round(argument, 9) for argument in arguments[:1]}
    assert found == {name: pair[increasing] for name, pair in STRENGTHS.items()}


def test_half_of_the_operations_are_skipped_and_all_are_equally_likely(calls):
    run(RandAugmentSpec(9, 3), 4000)
    counts = Counter(name for name, _ in calls)
    assert len(calls) == pytest.approx(6000, rel=0.05)
    assert set(counts) == set(STRENGTHS)
    assert all(count == pytest.approx(400, rel=0.2) for count in counts.values())


def test_weights_choose_each_operation_at_most_once(calls):
    counts: Counter = Counter()
    for _ in range(300):
        calls.clear()
        rng = np.random.default_rng(len(counts) + sum(counts.values()))
        RandAugment(RandAugmentSpec(9, 4, weighted=True))(noise(1, 2, 2), rng)
        names = [name for name, _ in calls]
        assert len(set(names)) == len(names)
        counts.update(names)
    assert not counts.keys() & {"invert", "posterize"}
    assert counts["rotate"] > counts["translate_x"] > counts["brightness"]


def test_magnitudes_are_normal_and_cut(calls):
    run(RandAugmentSpec(5, 4, magnitude_std=2.0), 3000)
    angles = np.abs([arguments[0] for name, arguments in calls if name == "rotate"]) / 30 * 10
    assert angles.mean() == pytest.approx(5, abs=0.25)
    assert angles.std() == pytest.approx(2, abs=0.25)
    calls.clear()
    run(RandAugmentSpec(10, 4, magnitude_std=2.0), 3000)
    angles = np.abs([arguments[0] for name, arguments in calls if name == "rotate"])
    assert angles.max() == 30
    assert (angles == 30).mean() == pytest.approx(0.5, abs=0.08)


def test_random_interpolation_is_either(calls):
    run(RandAugmentSpec(9, 4), 200, interpolation="random")
    assert {a[1] for name, a in calls if name == "rotate"} == {"bilinear", "bicubic"}


@pytest.mark.parametrize("seed", range(12))
def test_all_frames_are_changed_alike(seed):
    """A picture that stands still still does so afterwards."""
    still = np.repeat(noise(1, 24, 32), 10, axis=0)
    randaugment = RandAugment(RandAugmentSpec(9, 4, 0.5, True))
    out = randaugment(still, np.random.default_rng(seed))
    assert out.shape == still.shape
    assert out.dtype == np.uint8
    assert (out == out[:1]).all()
    np.testing.assert_array_equal(out, randaugment(still, np.random.default_rng(seed)))


# ----------------------------------------------------------------------------- random erasing

MEAN, STD = (0.4, 0.45, 0.5), (0.2, 0.225, 0.25)


def erased(mode: str, seed: int, count: int = 1, probability: float = 1.0) -> torch.Tensor:
    """A grey clip after erasing, as the model sees it: (3, T, H, W)."""
    video = torch.full((3, 4, 40, 60), 200.0)
    out = RandomErasing(probability, mode, count, MEAN, STD)(video, np.random.default_rng(seed))
    assert out is video
    return normalize(out, MEAN, STD)


GREY = normalize(torch.full((3, 1, 1, 1), 200.0), MEAN, STD)


def box_of(video: torch.Tensor) -> tuple[slice, slice]:
    """The smallest box around what differs from grey, which must be the same in all frames."""
    mask = (video != GREY).any(0)
    rows, columns = (mask.any(0).any(d).nonzero()[:, 0].tolist() for d in (1, 0))
    box = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    for frame in mask:
        assert frame[box].all()
        assert frame.sum() == frame[box].numel()
    return box


@pytest.mark.parametrize("mode", ["pixel", "rand", "const"])
def test_one_box_of_all_frames_is_erased(mode):
    areas, aspects, corners = [], [], set()
    for seed in range(200):
        video = erased(mode, seed)
        rows, columns = box_of(video)
        height, width = rows.stop - rows.start, columns.stop - columns.start
        areas.append(height * width / 2400)
        aspects.append(height / width)
        corners.add((rows.start, columns.start))
        inside = video[:, :, rows, columns]
        if mode == "const":
            assert inside.abs().max() < 1e-5
        elif mode == "rand":
            assert torch.equal(inside, inside[:, :, :1, :1].expand_as(inside))
            assert len(inside[:, :, 0, 0].unique()) == 12
        else:
            assert (inside[:, 0] != inside[:, 1]).any()
    assert 0.01 < min(areas) < 0.05
    assert 0.28 < max(areas) < 0.35
    assert min(aspects) < 0.45
    assert max(aspects) > 2.2
    assert len(corners) > 150


def test_noise_is_standard_normal_after_normalisation():
    parts = []
    for seed in range(40):
        video = erased("pixel", seed)
        rows, columns = box_of(video)
        parts.append(video[:, :, rows, columns].flatten(1))
    values = torch.cat(parts, 1)
    torch.testing.assert_close(values.mean(1), torch.zeros(3), rtol=0, atol=0.02)
    torch.testing.assert_close(values.std(1), torch.ones(3), rtol=0, atol=0.02)


def test_probability_and_count():
    changed = [bool((erased("const", s, probability=0.25) != GREY).any()) for s in range(800)]
    assert np.mean(changed) == pytest.approx(0.25, abs=0.05)
    shares = []
    for seed in range(300):
        shares.append(float((erased("const", seed, count=3)[0, 0] != GREY[0, 0]).float().mean()))
    # up to three boxes share the area of one
    assert max(shares) < 0.34
    assert np.mean(shares) == pytest.approx((0.02 + 1 / 3) / 2, abs=0.03)


# ---------------------------------------------------------------------------------- the order


def of(frames: np.ndarray) -> Callable[[Convert], torch.Tensor]:
    return lambda convert: convert(frames)


CROP = TrainTransform(jitter_scales=(36, 44), crop_size=32)
PRECISE = dataclasses.replace(CROP, pixels="float32")


def test_without_augmentation_the_view_is_as_ever():
    frames = noise(3, 40, 60)
    [view] = ClipTransform(CROP)(of(frames), np.random.default_rng(3))
    assert torch.equal(view, training_view(frames, np.random.default_rng(3), CROP))


def test_frames_then_crop_then_erasing(monkeypatch):
    """Each stage works on what the one before it gave, with numbers of one generator."""
    frames, rng = noise(3, 40, 60), np.random.default_rng(3)
    randaugment = RandAugment(RandAugmentSpec(9, 2, 0.5, True))
    erasing = RandomErasing(1.0, "const")
    spec = Augmentation(randaugment, erasing, copies=2)
    views = ClipTransform(PRECISE, spec)(of(frames), np.random.default_rng(3))
    for view in views:
        changed = randaugment(frames, rng)
        expected = erasing(training_view(changed, rng, PRECISE), rng)
        assert torch.equal(view, expected)
    assert not torch.equal(*views)


def test_the_first_copy_may_stay_clean():
    frames = np.full((2, 40, 60, 3), 200, np.uint8)
    erasing = RandomErasing(1.0, "const")
    spec = Augmentation(None, erasing, copies=3, clean_first=True)
    views = ClipTransform(PRECISE, spec)(of(frames), np.random.default_rng(3))
    assert [bool((view - 200).abs().max() > 1) for view in views] == [False, True, True]
    single = dataclasses.replace(spec, copies=1)
    [view] = ClipTransform(PRECISE, single)(of(frames), np.random.default_rng(3))
    assert (view - 200).abs().max() > 1

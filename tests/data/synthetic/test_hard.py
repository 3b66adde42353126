import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from octvideo.cli.synthetic import main
from octvideo.data.synthetic.hard import PATHS, RANGES, TEXTURES, HardScenes
from octvideo.data.synthetic.videos import make_synthetic

SIZE = (24, 96, 96, 24)  # frames, height, width, frames a second
# One disc on ground that does not show: what is left is the target.
ALONE = HardScenes(detail=4, contrast=1, distractors=0, camera=0, noise=0, blur=0)


def grey(frames: np.ndarray) -> np.ndarray:
    return frames.astype(float).mean(-1)


def places(name: str, seed: int) -> np.ndarray:
    """Where the target is, (T, 2): the pixels that differ from the median of all frames."""
    film = grey(ALONE.render([seed, 1], name, 24, 96, 96, 12))
    changed = np.abs(film - np.median(film, 0)) > 20
    y, x = np.mgrid[:96, :96]
    return np.array([[np.median(y[c]), np.median(x[c])] for c in changed if c.sum() > 50])


def test_classes_are_each_texture_on_each_path() -> None:
    assert len(HardScenes.classes) == len(set(HardScenes.classes)) == 24
    assert set(HardScenes.classes) == {f"{t}_{path}" for t in TEXTURES for path in PATHS}


def test_frames_depend_on_the_seed_and_on_time_alone() -> None:
    scenes = HardScenes(noise=0)
    clip = scenes.render(3, "rings_left", 7, 40, 48, 15)
    assert clip.shape == (7, 40, 48, 3)
    assert clip.dtype == np.uint8
    np.testing.assert_array_equal(clip, scenes.render(3, "rings_left", 7, 40, 48, 15))
    assert not np.array_equal(clip, scenes.render(4, "rings_left", 7, 40, 48, 15))
    np.testing.assert_array_equal(clip, scenes.render(3, "rings_left", 13, 40, 48, 30)[::2])


@pytest.mark.parametrize("path", PATHS)
def test_the_target_takes_its_path(path: str) -> None:
    right = 0
    for seed in range(10):
        step = np.diff(places(f"horizontal_{path}", seed), axis=0)
        step = step[np.abs(step).max(1) < 20]  # not where it comes back on the other side
        right += np.median(step, 0) @ PATHS[path] > 0
    assert right >= 9


def directions(texture: str, seed: int) -> np.ndarray:
    """Share of the power of fine waves along x, y, and both diagonals, of a disc at rest."""
    rng = np.random.default_rng(seed)
    disc = ALONE._disc(rng, texture, 64, np.zeros((1, 2)))
    image = np.full((64, 64, 3), 128, np.float32)
    disc.draw(image, np.array([32, 32]))
    at = np.s_[26:38, 26:38]
    power = np.abs(np.fft.fft2(grey(image)[at] - grey(image)[at].mean(), (64, 64))) ** 2
    fy, fx = np.meshgrid(*2 * [np.fft.fftfreq(64)], indexing="ij")
    angle = np.degrees(np.arctan2(fy, fx)) % 180
    total = [power[np.abs((angle - a + 90) % 180 - 90) < 20].sum() for a in (0, 90, 45, 135)]
    return np.array(total) / power.sum()


def test_textures_differ_by_the_direction_of_their_waves() -> None:
    shares = {t: np.mean([directions(t, seed) for seed in range(20)], 0) for t in TEXTURES}
    for texture, axis in (("vertical", 0), ("horizontal", 1), ("rising", 2), ("falling", 3)):
        assert shares[texture].argmax() == axis
        assert shares[texture][axis] > 0.6
    assert min(shares["chequered"][:2]) > 2 * max(shares["chequered"][2:])
    assert max(shares["rings"]) < 2.5 * min(shares["rings"])


def test_half_the_resolution_destroys_fine_textures_only() -> None:
    kept = {}
    for detail in (2, 8):
        scenes = HardScenes(detail=detail, contrast=1)
        before, after = [], []
        for seed in range(40):
            rng = np.random.default_rng(seed)
            texture = TEXTURES[seed % 4]  # horizontal, vertical, rising, falling
            disc = scenes._disc(rng, texture, 64, np.zeros((1, 2)))
            image = np.full((64, 64, 3), 128, np.float32)
            disc.draw(image, np.array([32, 32]))
            inside = grey(image)[26:38, 26:38]
            before.append(inside.var())
            after.append(inside.reshape(6, 2, 6, 2).mean((1, 3)).var())
        kept[detail] = np.sum(after) / np.sum(before)
    assert kept[2] < 0.4
    assert kept[8] > 0.75


def test_no_single_frame_and_no_mean_shows_the_class() -> None:
    """Brightness and contrast do not depend on texture or path."""
    scenes = HardScenes()
    values: dict[str, list[tuple[float, float]]] = {name: [] for name in (*TEXTURES, *PATHS)}
    for seed in range(10):
        for label, name in enumerate(HardScenes.classes):
            film = grey(scenes.render([seed, label], name, 1, 32, 32, 2))
            for key in name.split("_"):
                values[key].append((film.mean(), film.std()))
    for keys in (TEXTURES, PATHS):
        means = np.array([np.mean(values[key], 0) for key in keys])
        errors = np.array([np.std(values[key], 0) / len(values[key]) ** 0.5 for key in keys])
        assert (np.ptp(means, 0) < 4.5 * errors.mean(0)).all()


@pytest.mark.parametrize("word", [*(f"{dial}=-1" for dial in RANGES), "crf=2.5", "size=3", "noise"])
def test_wrong_dials_are_named(word: str) -> None:
    with pytest.raises(ValueError, match=word.split("=")[0]):
        HardScenes.with_dials([word])


def test_noise_and_distractors_do_what_they_say() -> None:
    def film(**dials: float) -> np.ndarray:
        return grey(HardScenes(**{"noise": 0, "camera": 0, **dials}).render(1, "rings_left", *SIZE))

    noisy = film(noise=20) - film(noise=0)
    assert 17 < noisy.std() < 22
    assert np.abs(film(distractors=6) - film(distractors=0)).mean() > 5


def test_set_on_disk_and_its_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--train", "24", "--val", "3", "--test", "1", "--short-side", "32", "32"]
    words += ["--seconds", "0.5", "0.6", "--workers", "1", "--dials", "detail=4"]
    out = tmp_path / "set"
    assert main(["--hard", "--out", str(out), *words]) == 0
    assert "HARD_OCT_I3D" in capsys.readouterr().out
    rows = [line.split() for line in (out / "train.csv").read_text().splitlines()]
    names = json.loads((out / "class_names.json").read_text())
    assert list(names) == list(HardScenes.classes)
    assert Counter(names[path.split("/")[1]] - int(label) for path, label in rows) == {0: 24}
    settings = json.loads((out / "synthetic.json").read_text())
    assert settings["hard"]["detail"] == 4
    assert main(["--hard", "--out", str(out), *words[:-1], "detail=5"]) == 2  # another set
    assert "other settings" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["--out", str(tmp_path / "easy"), "--dials", "detail=4"])
    assert not make_synthetic(
        out, num_train=24, num_val=3, num_test=1, short_side=(32, 32), seconds=(0.5, 0.6),
        drawing=HardScenes(detail=4),
    )  # fmt: skip

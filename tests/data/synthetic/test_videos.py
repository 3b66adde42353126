import json
import resource
import subprocess
import sys
import time
from collections import Counter
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from octvideo.data.synthetic import videos as synthetic
from octvideo.data.synthetic.scenes import ACTIONS, render_clip
from octvideo.data.synthetic.videos import SPLITS, make_synthetic, write_video
from support import ROOT

TOOL = ROOT / "tools" / "make_synthetic.py"
SMALL = {"num_train": 16, "num_val": 8, "num_test": 8, "short_side": (32, 48)}


def decode(path: Path) -> tuple[np.ndarray, Fraction]:
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert stream.codec_context.name == "h264"
        assert stream.codec_context.pix_fmt == "yuv420p"
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
        return np.stack(frames), stream.average_rate


def files_of(root: Path) -> dict[str, bytes]:
    files = (path for path in root.rglob("*") if path.is_file())
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in files}


def rows_of(root: Path, split: str) -> list[tuple[str, int]]:
    lines = (root / f"{split}.csv").read_text().splitlines()
    return [(path, int(label)) for path, label in (line.rsplit(" ", 1) for line in lines)]


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("synthetic") / "set"
    assert make_synthetic(root, **SMALL)
    return root


# ---- scenes -----------------------------------------------------------------------------------
@pytest.mark.parametrize("pair", range(4))
def test_twins_show_the_same_frames_in_opposite_order(pair: int) -> None:
    size = (10, 48, 64, 25)
    one, other = (render_clip([7, 1], ACTIONS[2 * pair + k], *size) for k in (0, 1))
    assert one.shape == (10, 48, 64, 3)
    assert one.dtype == np.uint8
    np.testing.assert_array_equal(one, other[::-1])
    assert not np.array_equal(one, other)


@pytest.mark.parametrize("action", ACTIONS)
def test_scene_depends_on_the_seed_and_on_time_alone(action: str) -> None:
    clip = render_clip(3, action, 7, 40, 48, 15)
    np.testing.assert_array_equal(clip, render_clip(3, action, 7, 40, 48, 15))
    assert not np.array_equal(clip, render_clip(4, action, 7, 40, 48, 15))
    # Twice the frame rate shows the same moments, and others between them.
    np.testing.assert_array_equal(clip, render_clip(3, action, 13, 40, 48, 30)[::2])


def affine_flow(frames: np.ndarray, tile: int = 16) -> tuple[float, float, float, float]:
    """Mean u, v, curl and divergence (y points down): least squares on the gradient constraint.

    In each tile the flow is affine in x and y; tiles count by the energy of their gradients, so
    that the shapes, of more contrast than the background, decide.
    """
    film = frames.astype(np.float64).mean(-1)
    film = (film[:, :-1] + film[:, 1:])[:, :, :-1] + (film[:, :-1] + film[:, 1:])[:, :, 1:]
    middle = (film[:-1] + film[1:]) / 2
    dt, (dy, dx) = np.diff(film, axis=0), np.gradient(middle, axis=(1, 2))
    y, x = np.mgrid[:tile, :tile] - (tile - 1) / 2
    total = np.zeros(4)
    for top in range(0, film.shape[1] - tile, tile // 2):
        for left in range(0, film.shape[2] - tile, tile // 2):
            at = np.s_[:, top : top + tile, left : left + tile]
            gx, gy = dx[at], dy[at]
            design = np.stack([gx, gx * x, gx * y, gy, gy * x, gy * y], -1).reshape(len(dt), -1, 6)
            gram = design.transpose(0, 2, 1) @ design + 1e3 * np.eye(6)
            right = -design.transpose(0, 2, 1) @ dt[at].reshape(len(dt), -1, 1)
            u, ux, uy, v, vx, vy = np.linalg.solve(gram, right)[..., 0].T
            energy = (gx**2 + gy**2).sum((1, 2)) ** 2
            total += (energy * np.stack([u, v, vx - uy, ux + vy])).sum(1)
    return tuple(total)


@pytest.mark.parametrize(
    ("action", "component", "sign"),
    [
        ("left", 0, -1),
        ("right", 0, 1),
        ("up", 1, -1),
        ("down", 1, 1),
        ("clockwise", 2, 1),
        ("counterclockwise", 2, -1),
        ("approach", 3, 1),
        ("recede", 3, -1),
    ],
)
def test_optical_flow_agrees_with_the_label(action: str, component: int, sign: int) -> None:
    # Different scenes for the twins; 60 frames a second keep the steps small enough for gradients.
    seeds = range(100 + ACTIONS.index(action), 220, 8)
    flows = [affine_flow(render_clip(seed, action, 30, 80, 96, 60)) for seed in seeds]
    assert np.mean([flow[component] * sign > 0 for flow in flows]) >= 0.9


@pytest.mark.parametrize("action", ACTIONS[::2])
def test_scenes_have_no_trend_in_time(action: str) -> None:
    """The first frames of a clip must not differ, on average, from its last ones.

    A test begins at the first frame of a clip: a trend would tell the label without order.
    """
    clips = np.stack([render_clip([seed, 9], action, 2, 48, 48, 0.6) for seed in range(150)])
    for statistic in (clips.mean((2, 3, 4)), clips.std((2, 3, 4))):
        change = statistic[:, 1] - statistic[:, 0]
        assert abs(change.mean()) < 3.5 * change.std() / np.sqrt(len(change))


@pytest.mark.parametrize("where", [np.s_[:, :, :64], np.s_[:, :, -64:]])
@pytest.mark.parametrize("action", ACTIONS)
def test_side_crops_see_moving_shapes(action: str, where: tuple[slice, ...]) -> None:
    for seed in range(4):
        clip = render_clip(seed, action, 9, 64, 114, 7.5)[where].astype(float)
        change = np.abs(np.diff(clip, axis=0)).mean((1, 2, 3))
        assert change.min() > 5  # grey levels from one sampled frame to the next


def test_render_clip_refuses_nonsense() -> None:
    with pytest.raises(ValueError, match=r"unknown action 'jump'.*recede"):
        render_clip(0, "jump", 8, 64, 64, 30)
    with pytest.raises(ValueError, match="0 frames"):
        render_clip(0, "left", 0, 64, 64, 30)


# ---- files ------------------------------------------------------------------------------------
@pytest.mark.parametrize("fps", [15, 30, Fraction(30000, 1001)])
def test_write_video_round_trip(tmp_path: Path, fps: float) -> None:
    frames = render_clip(1, "clockwise", 31, 48, 80, 30)
    write_video(tmp_path / "a.mp4", frames, fps, gop=12)
    write_video(tmp_path / "b.mp4", frames, fps, gop=12)
    decoded, rate = decode(tmp_path / "a.mp4")
    assert decoded.shape == frames.shape
    assert rate == fps
    luma = [film @ np.array([0.299, 0.587, 0.114]) for film in (decoded, frames)]
    assert np.abs(luma[0] - luma[1]).mean() < 4  # grey levels; colour is stored at half the size
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()
    with av.open(str(tmp_path / "a.mp4")) as container:
        keyframes = [p.is_keyframe for p in container.demux(video=0) if p.size]
    assert sum(keyframes) >= 3
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.mp4", "b.mp4"]


def test_write_video_refuses_nonsense_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ValueError, match="even sizes, got 9x8"):
        write_video(tmp_path / "a.mp4", np.zeros((2, 9, 8, 3), np.uint8), 30)
    with pytest.raises(ValueError, match="uint8"):
        write_video(tmp_path / "a.mp4", np.zeros((2, 8, 8, 3), np.float32), 30)

    def fail(self: Path, target: Path) -> None:
        raise OSError("no")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match="no"):
        write_video(tmp_path / "a.mp4", np.zeros((2, 64, 64, 3), np.uint8), 30)
    assert not list(tmp_path.iterdir())


# ---- the set ----------------------------------------------------------------------------------
def test_lists_and_files(small: Path) -> None:
    shapes, rates, lengths = set(), set(), set()
    for split, per_class in zip(SPLITS, (2, 1, 1), strict=True):
        rows = rows_of(small, split)
        assert Counter(label for _, label in rows) == dict.fromkeys(range(8), per_class)
        for path, label in rows:
            assert path.startswith(f"{split}/{ACTIONS[label]}/")
            frames, rate = decode(small / path)
            assert 32 <= min(frames.shape[1:3]) <= 48
            assert max(frames.shape[1:3]) / min(frames.shape[1:3]) < 16 / 9 + 0.1
            assert 1.4 < len(frames) / rate < 4.1
            shapes.add(frames.shape[1:3])
            rates.add(int(rate))
            lengths.add(len(frames))
    assert len(shapes) > 5
    assert any(height > width for height, width in shapes)
    assert any(height < width for height, width in shapes)
    assert rates == {15, 24, 25, 30}
    assert len(lengths) > 10
    assert json.loads((small / "class_names.json").read_text()) == dict(
        zip(ACTIONS, range(8), strict=True)
    )
    contents = [content for name, content in files_of(small).items() if name.endswith(".mp4")]
    assert len(contents) == len(set(contents)) == 32


@pytest.mark.slow
def test_processes_do_not_change_the_files(small: Path, tmp_path: Path) -> None:
    assert make_synthetic(tmp_path, **SMALL, num_workers=2)
    assert files_of(tmp_path) == files_of(small)


def test_clips_do_not_depend_on_how_many_there_are(small: Path, tmp_path: Path) -> None:
    make_synthetic(tmp_path, **{**SMALL, "num_train": 3, "num_val": 0, "num_test": 1})
    videos = {name: data for name, data in files_of(tmp_path).items() if name.endswith(".mp4")}
    assert len(videos) == 4
    assert videos.items() <= files_of(small).items()


def test_interrupted_run_is_taken_up_again(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[str] = []
    make_clip = synthetic._make_clip

    def count(clip: synthetic._Clip, **options: object) -> None:
        if len(made) == 5:
            raise KeyboardInterrupt
        make_clip(clip, **options)
        made.append(clip.path)

    monkeypatch.setattr(synthetic, "_make_clip", count)
    with pytest.raises(KeyboardInterrupt):
        make_synthetic(tmp_path, **SMALL)
    assert not (tmp_path / "synthetic.json").exists()
    assert not (tmp_path / "train.csv").exists()
    with pytest.raises(FileExistsError, match="other settings"):
        make_synthetic(tmp_path, **SMALL, seed=1)
    times = {path: (tmp_path / path).stat().st_mtime_ns for path in made}
    monkeypatch.undo()
    assert make_synthetic(tmp_path, **SMALL)
    assert times == {path: (tmp_path / path).stat().st_mtime_ns for path in made}
    assert files_of(tmp_path) == files_of(small)


def test_finished_set_is_left_alone_and_repaired(tmp_path: Path) -> None:
    options = {"num_train": 2, "num_val": 1, "num_test": 1, "short_side": (32, 32)}
    assert make_synthetic(tmp_path, **options)
    before = files_of(tmp_path)
    times = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert not make_synthetic(tmp_path, **options)
    assert times == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    (tmp_path / "train" / "right" / "00001.mp4").unlink()
    (tmp_path / "train" / "left" / "00000.mp4").write_bytes(b"")  # a loss of power
    assert make_synthetic(tmp_path, **options)
    assert files_of(tmp_path) == before


@pytest.mark.slow
def test_two_jobs_make_one_set(small: Path, tmp_path: Path) -> None:
    words = ["--train", 16, "--val", 8, "--test", 8, "--short-side", 32, 48, "--workers", 1]
    command = [sys.executable, ROOT / "tools/make_synthetic.py", "--out", tmp_path, *words]
    jobs = []
    for _ in range(2):
        jobs.append(subprocess.Popen(list(map(str, command)), stderr=subprocess.PIPE))
        deadline = time.monotonic() + 60
        while not (tmp_path / synthetic.UNFINISHED).exists() and time.monotonic() < deadline:
            time.sleep(0.01)
    assert [job.communicate(timeout=100)[1] for job in jobs] == [b"", b""]
    assert [job.returncode for job in jobs] == [0, 0]
    assert files_of(tmp_path) == files_of(small)


def test_other_settings_need_overwrite(tmp_path: Path) -> None:
    options = {"num_train": 2, "num_val": 1, "num_test": 1, "short_side": (32, 32)}
    make_synthetic(tmp_path, **options)
    (tmp_path / "notes.txt").write_text("mine")
    before = files_of(tmp_path)
    with pytest.raises(FileExistsError, match=r"other settings.*'seed': 1.*--overwrite"):
        make_synthetic(tmp_path, **options, seed=1)
    assert files_of(tmp_path) == before
    assert make_synthetic(tmp_path, **{**options, "num_train": 1}, seed=1, overwrite=True)
    after = files_of(tmp_path)
    assert after["notes.txt"] == b"mine"
    assert not any("00001" in name for name in after)
    assert after["test/left/00000.mp4"] != before["test/left/00000.mp4"]


def test_foreign_folder_is_never_touched(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "holiday.mp4").write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(FileExistsError, match=r"holds no synthetic\.json"):
            make_synthetic(tmp_path, overwrite=overwrite)
    assert files_of(tmp_path) == {"train/holiday.mp4": b"mine"}
    with pytest.raises(FileExistsError, match="not a folder"):
        make_synthetic(tmp_path / "train" / "holiday.mp4")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_val": -1}, "num_val"),
        ({"seed": -1}, "seed"),
        ({"short_side": (63, 64)}, "short_side"),
        ({"seconds": (2.0, 1.0)}, "seconds"),
    ],
)
def test_impossible_settings_write_nothing(
    tmp_path: Path, options: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        make_synthetic(tmp_path / "new", **options)
    assert not (tmp_path / "new").exists()


# ---- the tool ---------------------------------------------------------------------------------
def run_tool(*words: object, file_limit: int | None = None) -> subprocess.CompletedProcess[str]:
    def limit() -> None:
        if file_limit is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (file_limit, file_limit))

    return subprocess.run(
        [sys.executable, str(TOOL), *map(str, words)],
        capture_output=True, text=True, timeout=120, check=False, preexec_fn=limit,
    )  # fmt: skip


@pytest.mark.slow
def test_tool_makes_the_set_once(tmp_path: Path) -> None:
    words = ["--out", tmp_path / "a b", "--train", 2, "--val", 1, "--test", 1]
    words += ["--short-side", 32, 32, "--workers", 1]
    done = run_tool(*words)
    assert done.returncode == 0, done.stderr
    assert "Made: 2 training" in done.stdout
    assert f"DATA.PATH_TO_DATA_DIR '{tmp_path / 'a b'}'" in done.stdout
    assert done.stderr == ""
    assert "Already there" in run_tool(*words).stdout
    other = run_tool(*words, "--seed", 1)
    assert other.returncode == 2
    assert "--overwrite" in other.stderr
    assert "Traceback" not in other.stderr


@pytest.mark.slow
def test_tool_says_when_the_disk_refuses(tmp_path: Path) -> None:
    words = ["--out", tmp_path, "--train", 4, "--val", 0, "--test", 0, "--workers", 2]
    words += ["--short-side", 32, 32]
    full = run_tool(*words, file_limit=2000)  # bytes a file: the settings fit, a film does not
    assert full.returncode == 1
    assert full.stderr.startswith("error: cannot write the set")
    assert "Traceback" not in full.stderr
    assert not list(tmp_path.rglob("*.part"))
    assert run_tool(*words).returncode == 0

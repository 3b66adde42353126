"""Features of lists of videos: complete, resumable, never mixed."""

import os
import re
import shutil
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

import octvideo
from octvideo.api import features
from octvideo.api.features import extract_all, feature_path
from octvideo.api.loading import load_trained
from octvideo.api.protocols import protocol_of
from octvideo.data.sources import videos as reader
from octvideo.utils.errors import UserError
from support.commands import run_tool


@pytest.fixture(scope="module")
def model(small):
    return load_trained(small.cfg, small.checkpoint, small.opts)


def test_a_file_a_video(small, model, tmp_path):
    settings, out = protocol_of(model), tmp_path / "features"
    (tmp_path / "broken.mp4").write_text("no video")
    videos = [small.videos[0], str(tmp_path / "broken.mp4"), *small.videos[1:], small.videos[0]]
    bad = extract_all(videos, model, settings, out)
    assert [path for path, _ in bad] == [str(tmp_path / "broken.mp4")]
    for video in small.videos:
        with np.load(feature_path(video, out)) as saved:
            assert str(saved["path"]) == video
            wanted = octvideo.extract_features(video, model)
            np.testing.assert_allclose(saved["features"], wanted, rtol=1e-5)
    assert len(list(out.rglob("*.npz"))) == 3
    assert not list(out.rglob("*.part"))


def test_what_is_there_is_left_alone(small, model, tmp_path):
    settings = protocol_of(model)
    extract_all(small.videos[:1], model, settings, tmp_path, fast=True, per_view=True)
    [first] = tmp_path.rglob("*.npz")
    before = os.stat(first).st_mtime_ns
    extract_all(small.videos, model, settings, tmp_path, fast=True, per_view=True, num_workers=1)
    assert os.stat(first).st_mtime_ns == before
    assert len(list(tmp_path.rglob("*.npz"))) == 3
    with np.load(first) as saved:
        assert saved["features"].shape == (1, 256)
    with pytest.raises(UserError, match="fast True, now False"):
        extract_all(small.videos, model, settings, tmp_path, per_view=True)
    with pytest.raises(UserError, match="model '', now 'another'"):
        extract_all(
            small.videos, model, settings, tmp_path, fast=True, per_view=True, model_name="another"
        )


def test_one_file(small, model, tmp_path):
    settings = protocol_of(model)
    extract_all(small.videos, model, settings, tmp_path / "all.npz", fast=True)
    with np.load(tmp_path / "all.npz") as saved:
        assert saved["paths"].tolist() == small.videos
        assert saved["features"].shape == (3, 256)
        wanted = octvideo.extract_features(small.videos[2], model, fast=True)
        np.testing.assert_allclose(saved["features"][2], wanted, rtol=1e-5)
    (tmp_path / "broken.mp4").write_text("no video")
    with pytest.raises(UserError, match="nothing to write"):
        extract_all([str(tmp_path / "broken.mp4")], model, settings, tmp_path / "none.npz")


def test_damaged_files_are_made_again(small, model, tmp_path):
    settings, out = protocol_of(model), tmp_path / "all.npz"
    extract_all(small.videos, model, settings, out, fast=True)
    with np.load(out) as saved:
        wanted = saved["features"]
    parts = sorted((tmp_path / "all.npz.parts").rglob("*.npz"))
    os.truncate(parts[0], 0)  # a loss of power
    os.truncate(parts[1], 100)
    before = os.stat(parts[2]).st_mtime_ns
    assert not extract_all(small.videos, model, settings, out, fast=True)
    with np.load(out) as saved:
        np.testing.assert_array_equal(saved["features"], wanted)
    assert os.stat(parts[2]).st_mtime_ns == before
    (tmp_path / "all.npz.parts" / "features.json").write_text("{")
    with pytest.raises(UserError, match=r"features\.json is damaged"):
        extract_all(small.videos[:1], model, settings, out, fast=True)


def test_names_as_long_as_a_system_allows(small, model, tmp_path):
    names = ["x" * 242 + ".mp4", "x" * 251 + ".mp4", "y" * 250 + "x.mp4", "é" * 125 + ".mp4"]
    names.append(b"caf\xe9\x1b[2J.mp4".decode(errors="surrogateescape"))
    for name in names:
        os.symlink(small.videos[0], tmp_path / name)
    videos, settings = [str(tmp_path / name) for name in names], protocol_of(model)
    assert not extract_all([*videos, small.videos[1]], model, settings, tmp_path / "f", fast=True)
    assert len(list((tmp_path / "f").rglob("*.npz"))) == len(names) + 1
    assert not extract_all(videos, model, settings, tmp_path / "f.npz", fast=True)
    with np.load(tmp_path / "f.npz") as saved:
        assert saved["paths"].tolist() == videos


def test_features_that_are_not_finite(small, model, tmp_path, monkeypatch):
    source = Path(small.videos[0])
    odd = tmp_path / "take 1: cooking.mp4"
    shutil.copy(source, odd)
    monkeypatch.setattr(features, "rows", lambda *_: np.full((1, 4), np.nan, np.float32))
    settings = protocol_of(model)
    [(video, reason)] = extract_all([str(odd)], model, settings, tmp_path / "out", fast=True)
    assert video == str(odd)
    assert reason.startswith("the model's features are nan or inf")
    assert not list(tmp_path.rglob("*.npz"))


@pytest.mark.slow  # waits for the time limit, twice
@pytest.mark.timeout(100)
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs Linux's signals")
@pytest.mark.parametrize("fast", [True, False])
def test_a_decoder_that_hangs_or_crashes(small, model, tmp_path, monkeypatch, fast):
    get = _MultiProcessingDataLoaderIter._try_get_data
    monkeypatch.setattr(get, "__defaults__", (0.5,))  # seconds between looks for dead workers

    class Dangerous(reader.VideoReader):
        def __init__(self, path, **kwargs):
            if path.endswith("hangs.mp4"):
                re.match("(a+)+$", "a" * 60 + "b")  # years, in C: no Python signal handler runs
            if path.endswith("crashes.mp4"):
                os.kill(os.getpid(), signal.SIGSEGV)
            super().__init__(path, **kwargs)

    monkeypatch.setattr(reader, "VideoReader", Dangerous)
    settings, good = protocol_of(model), small.videos
    videos = [good[0], str(tmp_path / "hangs.mp4"), good[1], str(tmp_path / "crashes.mp4"), good[2]]
    bad = extract_all(
        videos, model, settings, tmp_path / "f.npz", fast=fast, num_workers=2, timeout=2
    )
    assert bad == [
        (videos[1], "gave up after 2 seconds"),
        (videos[3], "the process ended by SIGSEGV"),
    ]
    with np.load(tmp_path / "f.npz") as saved:
        assert saved["paths"].tolist() == good
        for video, features in zip(good, saved["features"], strict=True):
            wanted = octvideo.extract_features(video, model, fast=fast)
            np.testing.assert_allclose(features, wanted, rtol=1e-5)


@pytest.mark.slow
def test_tool(small, model, tmp_path):
    (tmp_path / "broken.mp4").write_text("no video")
    words = ["--cfg", small.cfg, "--checkpoint", small.checkpoint, "--fast"]
    # As a spreadsheet exports it: tabs, quotes, a header; and without labels, behind a prefix.
    rows = [line.split() for line in (small.data / "test.csv").read_text().splitlines()]
    lines = ["path\tlabel", *(f'"{path}"\t"{label}"' for path, label in rows[1:])]
    (tmp_path / "a.csv").write_text("\n".join(lines))
    (tmp_path / "b.csv").write_text(rows[0][0])
    words += ["--list", tmp_path / "a.csv", "--list", tmp_path / "b.csv", "--prefix", small.data]
    words += ["--out", tmp_path / "f.npz", tmp_path / "broken.mp4", "--opts", *small.opts]
    done = run_tool("extract_features.py", *words)
    assert done.returncode == 1, done.stderr
    assert "broken.mp4" in done.stderr
    assert "3 videos done, 1 without features" in done.stdout
    with np.load(tmp_path / "f.npz") as saved:
        assert saved["features"].shape == (3, 256)


@pytest.mark.timeout(60)
def test_an_image_network_on_a_picture(tmp_path):
    from PIL import Image

    Image.new("RGB", (120, 80), (200, 90, 10)).save(tmp_path / "x.jpg")
    model = octvideo.create_model("resnet26_v2", 5, octave_alpha=0.25, crop_size=64, width=8)
    best = octvideo.predict(tmp_path / "x.jpg", model, fast=True)
    assert len(best) == 5
    assert sum(score for _, score in best) == pytest.approx(1, abs=1e-5)
    features = octvideo.extract_features(tmp_path / "x.jpg", model, fast=True, per_view=True)
    assert features.shape == (1, 256)
    scores = model.head.projection(torch.from_numpy(features)).softmax(1)[0].tolist()
    assert sorted(scores, reverse=True) == pytest.approx([score for _, score in best], abs=1e-5)

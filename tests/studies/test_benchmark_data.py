import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from octvideo.data import VideoReader
from octvideo.data.protocol import Protocol
from octvideo.data.synthetic.scenes import render_clip
from octvideo.data.synthetic.videos import write_video
from octvideo.utils.errors import UserError
from studies import benchmark_data, naive_data

TOOL = Path(__file__).parents[2] / "tools" / "benchmark.py"


@pytest.fixture(scope="module")
def film(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("film") / "film.mp4"
    write_video(path, render_clip(0, "up", 90, 256, 272, 30), 30, gop=50)
    return path


def test_the_naive_path_reads_the_same_frames(film):
    protocol = Protocol(num_frames=4, sampling_rate=5, num_clips=7)
    with VideoReader(film) as reader:
        for indices in protocol.view_indices(90, 30.0):
            ours = torch.from_numpy(reader.get_frames(indices))
            naive = naive_data.read_clip(str(film), lambda count, fps, i=indices: i)
            assert torch.equal(naive, ours)


@pytest.mark.slow
def test_loader_rows(film):
    rows = benchmark_data.benchmark_loader(str(film), clips=2, rounds=1, workers=1)
    found = {(row["file"], row["kind"], row["variant"]): row for row in rows}
    prepared = "film_prepared.mp4"
    assert found.keys() == {
        *(("film.mp4", "transform", name) for name in ("naive", "ours", "ours_float32")),
        *((file, "loader", name) for file in ("film.mp4", prepared) for name in ("naive", "ours")),
    }
    assert all(row["ratio"] == 1 for row in rows if row["variant"] == "naive")
    assert all(row["cpu_ms"] * row["clips_per_s_per_core"] > 900 for row in rows)
    assert found["film.mp4", "transform", "ours_float32"]["max_difference"] < 0.255
    assert 0 < found["film.mp4", "transform", "ours"]["max_difference"] < 1.02
    assert found[prepared, "loader", "ours"]["ratio_to_source"] > 0
    assert "| film.mp4 | loader | ours |" in benchmark_data.format_data_rows(rows)


def test_other_pixels_are_not_compared_in_speed(film, monkeypatch):
    def dark(frames: torch.Tensor) -> torch.Tensor:
        return (frames.float() * 0.9 / 255 - 0.45).div(0.225).permute(3, 0, 1, 2)

    monkeypatch.setattr(naive_data, "normalized", dark)
    with pytest.raises(UserError, match="the two paths differ by"):
        benchmark_data.benchmark_loader(str(film), clips=1, rounds=1, workers=0)


@pytest.mark.slow
def test_the_test_command_counts_less_work_for_ours(film):
    command = [sys.executable, str(TOOL), "test", "--video", str(film), "--rounds", "1", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    rows = json.loads(done.stdout)
    assert [(row["file"], row["variant"]) for row in rows] == [
        (file, variant)
        for file in ("film.mp4", "film_prepared.mp4")
        for variant in ("naive", "ours", "ours_to_batches")
    ]
    assert all(row["kind"] == "views" and row["max_difference"] < 0.01 for row in rows)
    assert np.all([row["ratio"] > 2 for row in rows if row["variant"] != "naive"])

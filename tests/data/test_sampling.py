import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from octvideo.data.protocol import Protocol
from octvideo.data.sampling import (
    centre_start,
    clip_span,
    crop_offsets,
    frame_indices,
    random_clip_start,
    view_start,
)
from octvideo.models.slowfast import slow_indices


def test_views_equal_pyslowfast(shared):
    golden = json.loads((shared / "data/pyslowfast/temporal_views_golden.json").read_text())
    assert golden
    for key, clips in golden.items():
        length, span, views = map(int, key.split("/"))
        room = max(length - span, 0)
        ours = []
        for view in range(views):
            start = view_start(length, span, view, views)
            ours.append([start, start + span - 1, start / room if room else 0.0])
        assert ours == clips, key


def test_span_scales_with_the_frame_rate():
    assert clip_span(8, 8, fps=30, target_fps=30) == 64
    assert clip_span(8, 8, fps=15, target_fps=30) == 32
    assert clip_span(32, 2, fps=25, target_fps=30) == pytest.approx(53.333333)


def test_random_starts_fill_the_room():
    rng = np.random.default_rng(0)
    starts = np.array([random_clip_start(100, 64, rng) for _ in range(2000)])
    assert starts.min() >= 0
    assert starts.max() <= 36
    assert np.histogram(starts, bins=4, range=(0, 36))[0].min() > 400
    assert random_clip_start(30, 64, rng) == 0


def test_centre_start():
    assert centre_start(100, 64) == 18
    assert centre_start(30, 64) == 0


def views_of_pyslowfast(
    length: int, fps: float, frames: int, rate: int, views: int, offset: bool
) -> list[list[int]]:
    """Its arithmetic (decoder.py), for TARGET_FPS 30 and a video that is decoded as a whole."""
    size = max(1.0, rate * frames / 30 * fps)
    room = max(length - size, 0)
    clips = []
    for view in range(views):
        if not offset:
            start = room * view / views
        elif views == 1:
            start = math.floor(room / 2)
        else:
            start = view * math.floor(room / (views - 1))
        points = torch.linspace(start, start + size - 1, frames)
        clips.append(torch.clamp(points, 0, length - 1).long().tolist())
    return clips


@pytest.mark.parametrize("offset", [False, True])
def test_all_views_are_those_of_pyslowfast(offset):
    lengths = (1, 2, 7, 30, 63, 64, 65, 100, 250, 299, 300, 301, 1000)
    count = 0
    for length in lengths:
        for fps in (0.4, 5.0, 23.976, 25.0, 29.97, 30.0, 60.0):
            for frames, rate in ((1, 1), (4, 16), (8, 8), (32, 2)):
                for views in (1, 3, 10):
                    protocol = Protocol(frames, rate, num_clips=views, use_offset=offset)
                    ours = protocol.view_indices(length, fps).tolist()
                    wanted = views_of_pyslowfast(length, fps, frames, rate, views, offset)
                    assert ours == wanted, (length, fps, frames, rate, views)
                    count += views
    assert count == 13 * 7 * 4 * 14


def test_a_clip_shorter_than_a_frame_stays_in_it():
    """One frame every ten seconds: eight frames in half a second are all the same one."""
    protocol = Protocol(num_frames=8, sampling_rate=2, num_clips=3)
    rng = np.random.default_rng(0)
    clips = [*protocol.one_view().view_indices(6, 0.1), *protocol.view_indices(6, 0.1)]
    clips += [protocol.random_indices(6, 0.1, rng) for _ in range(20)]
    assert all(len(set(clip.tolist())) == 1 for clip in clips)
    assert {int(clip[0]) for clip in clips[4:]} == set(range(5))


def test_offset_views_reach_both_ends():
    assert [view_start(100, 64, v, 4, use_offset=True) for v in range(4)] == [0, 12, 24, 36]
    assert view_start(100, 64, 0, 1, use_offset=True) == 18
    assert [view_start(30, 64, v, 3, use_offset=True) for v in range(3)] == [0, 0, 0]


@given(
    length=st.integers(1, 400),
    num_frames=st.sampled_from([1, 4, 8, 16, 32]),
    rate=st.integers(1, 8),
    fps=st.sampled_from([10.0, 23.976, 25.0, 29.97, 30.0, 60.0]),
    place=st.floats(0, 1),
)
def test_frame_indices_are_a_truncated_linspace(length, num_frames, rate, fps, place):
    span = clip_span(num_frames, rate, fps, 30)
    start = max(length - span, 0) * place
    indices = frame_indices(start, span, num_frames, length)
    assert indices.dtype == np.int64
    assert indices.shape == (num_frames,)
    points = torch.linspace(start, start + span - 1, num_frames)  # float32, as in PySlowFast
    for index, point in zip(indices.tolist(), points.tolist(), strict=True):
        assert index == int(min(max(point, 0), length - 1))
    # and the same as exact arithmetic but for values within rounding of an integer
    exact = np.clip(np.linspace(start, start + span - 1, num_frames), 0, length - 1)
    clear = np.abs(exact - np.round(exact)) > 1e-3
    np.testing.assert_array_equal(indices[clear], np.trunc(exact[clear]))


def test_short_video_repeats_its_last_frame():
    assert frame_indices(0.0, 64.0, 8, length=30).tolist() == [0, 9, 18, 27, 29, 29, 29, 29]
    assert frame_indices(0.0, 64.0, 8, length=1).tolist() == [0] * 8


def test_view_indices():
    views = Protocol(num_frames=8, sampling_rate=8).view_indices(300, 30.0)
    assert views.shape == (10, 8)
    assert views[0].tolist() == list(range(0, 64, 9))
    assert views[1].tolist() == [23, 32, 41, 50, 59, 68, 77, 86]  # from 23.6
    assert views[9].tolist() == [212, 221, 230, 239, 248, 257, 266, 275]  # from 212.4


def test_jittered_frame_rate_shortens_the_clip():
    protocol, rng = Protocol(num_frames=8, sampling_rate=8), np.random.default_rng(0)
    clips = [protocol.random_indices(1000, 30.0, rng, jitter_fps=30.0) for _ in range(200)]
    spans = np.ptp(clips, axis=1)
    assert np.ptp(protocol.random_indices(1000, 30.0, rng)) == 63
    assert 31 <= min(spans) < 36  # at 60 frames per second the clip lasts 32 frames
    assert 58 < max(spans) <= 63


@pytest.mark.parametrize(("frames", "ratio"), [(32, 8), (32, 4), (8, 2), (16, 8)])
def test_slow_indices(frames, ratio):
    count = frames // ratio
    expected = [int(i * (frames - 1) / (count - 1)) for i in range(count)]
    assert list(slow_indices(frames, ratio)) == expected


@given(short=st.integers(4, 40), more=st.integers(0, 40), crop=st.integers(1, 40))
def test_three_crops(short, more, crop):
    long = short + more
    if crop > short:
        with pytest.raises(ValueError, match="does not fit"):
            crop_offsets(short, long, crop, 3)
        return
    across, along = math.ceil((short - crop) / 2), math.ceil((long - crop) / 2)
    offsets = [(across, 0), (across, along), (across, long - crop)]
    assert crop_offsets(short, long, crop, 3) == offsets
    assert crop_offsets(short, long, crop, 1) == [offsets[1]]
    if more:
        assert crop_offsets(long, short, crop, 3) == [(a, b) for b, a in offsets]


def test_other_numbers_of_crops_are_refused():
    with pytest.raises(ValueError, match=r"TEST\.NUM_SPATIAL_CROPS must be 1 or 3, got 2"):
        crop_offsets(256, 340, 256, 2)

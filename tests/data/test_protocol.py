"""The record of how a network looks at a file."""

from dataclasses import asdict

import numpy as np
import pytest
import torch

from octvideo.config import get_cfg
from octvideo.data.protocol import CentreCrop, Protocol, build_protocol


def test_the_middle_view_is_the_middle_of_clip_and_crop() -> None:
    protocol = Protocol(4, 2, num_clips=10).one_view()
    assert protocol.num_views == 1
    # 93 frames are left around a span of 8: the clip starts at 46.
    assert protocol.view_indices(100, 30.0).tolist() == [[46, 48, 50, 53]]


@pytest.mark.parametrize(("crop", "ratio", "short"), [(224, 0.875, 256), (224, 0.7, 320)])
def test_an_image_has_one_view(crop: int, ratio: float, short: int) -> None:
    protocol = Protocol(1, 1, centre_crop=CentreCrop(crop, ratio, "bicubic")).of_images()
    assert (protocol.num_views, protocol.antialias) == (1, True)
    assert (protocol.short_side, protocol.crop_size) == (short, crop)
    assert protocol.interpolation == "bicubic"
    assert protocol.view_indices(1, 30.0).tolist() == [[0]]


def test_pixels_are_normalised_by_channel() -> None:
    protocol = Protocol(2, 1, mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7), reverse_channels=True)
    video = torch.randint(0, 256, (5, 3, 2, 4, 4), dtype=torch.uint8)
    out = protocol.normalized(video)
    for channel in range(3):
        wanted = (video[:, channel] / 255 - protocol.mean[channel]) / protocol.std[channel]
        torch.testing.assert_close(out[:, 2 - channel], wanted)


def test_a_configuration_reaches_every_field() -> None:
    cfg = get_cfg()
    values = {
        "DATA.NUM_FRAMES": 1, "DATA.SAMPLING_RATE": 3, "DATA.TARGET_FPS": 25,
        "DATA.USE_OFFSET_SAMPLING": True, "DATA.SAMPLE_BY_TIME": False,
        "DATA.SQUARE_PIXELS": True, "DATA.ALLOW_PARTIAL": True, "DATA.DECODING_BACKEND": "decord",
        "DATA.MEAN": [0.1, 0.2, 0.3], "DATA.STD": [0.4, 0.5, 0.6],
        "DATA.REVERSE_INPUT_CHANNEL": True, "DATA.ENSEMBLE_METHOD": "max",
        "DATA.TEST_CROP_SIZE": 200, "DATA.TRAIN_JITTER_SCALES": [240, 280],
        "DATA.IN_VAL_CROP_RATIO": 0.5, "DATA.TEST_INTERPOLATION": "bicubic",
        "TEST.NUM_ENSEMBLE_VIEWS": 7, "TEST.NUM_SPATIAL_CROPS": 1, "TEST.PRECISION": "bf16",
        "MODEL.ARCH": "2d", "TEST.DATASET": "imagenet",
    }  # fmt: skip
    cfg.merge_from_list([x for pair in values.items() for x in pair])
    wanted = Protocol(
        1, 3, 200, 7, 1, 25, True, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6), True, "max", "decord", "bf16",
        CentreCrop(200, 0.5, "bicubic"), 240, by_time=False, square_pixels=True, allow_partial=True,
    )  # fmt: skip
    assert build_protocol(cfg) == wanted
    changed = {key for key, value in asdict(wanted).items() if value != getattr(Protocol, key, 0)}
    assert asdict(Protocol(0, 0)).keys() - changed == {"centre", "antialias", "interpolation"}


def test_random_clips_stay_inside_the_video() -> None:
    protocol, rng = Protocol(8, 4), np.random.default_rng(0)
    clips = np.stack([protocol.random_indices(50, 30.0, rng) for _ in range(100)])
    assert clips.min() == 0
    assert clips.max() == 48
    assert (np.ptp(clips, axis=1) == 31).all()
    short = [protocol.random_indices(50, 30.0, rng, jitter_fps=30.0) for _ in range(100)]
    assert 15 <= np.ptp(short, axis=1).min() < 20

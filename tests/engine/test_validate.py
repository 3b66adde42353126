"""Validation against the same numbers over all videos at once."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from octvideo.data import Protocol
from octvideo.engine.bad_videos import BadVideos
from octvideo.engine.scorer import Scorer
from octvideo.engine.validate import validate

SIZES = (5, 5, 2)  # of the batches: the last one is smaller


def test_errors_are_those_of_all_videos_together(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 2 * 8 * 8, 7)).eval()
    videos = torch.randint(0, 256, (12, 3, 2, 8, 8), dtype=torch.uint8)
    labels = torch.randint(0, 7, (12,))
    batches = [
        {"video": video, "label": label, "index": index, "bad": []}
        for video, label, index in zip(
            *(t.split(SIZES) for t in (videos, labels, torch.arange(12))), strict=True
        )
    ]
    protocol = Protocol(2, 1, crop_size=8)
    got = validate(Scorer(network, protocol), batches, BadVideos(tmp_path), F.cross_entropy)
    mean, std = (torch.tensor(x).view(3, 1, 1, 1) for x in (protocol.mean, protocol.std))
    with torch.no_grad():
        scores = network((videos / 255 - mean) / std)
    order = scores.argsort(dim=1, descending=True)
    hits = [(order[:, :k] == labels[:, None]).any(1).float().mean().item() for k in (1, 5)]
    assert got == {
        "loss": pytest.approx(F.cross_entropy(scores, labels).item(), rel=1e-5),
        "top1_err": pytest.approx(100 * (1 - hits[0])),
        "top5_err": pytest.approx(100 * (1 - hits[1])),
        "num_videos": 12,
    }

"""View v of a video is crop v % num_crops of clip v // num_crops, in every score table."""

import torch

from octvideo.engine.scorer import view_batches


def test_views_come_clip_by_clip() -> None:
    frame, column = torch.arange(4)[:, None, None], torch.arange(12)
    frames = (100 * frame + column).expand(3, 4, 4, 12).float()
    item = {
        "clips": torch.tensor([[0, 1], [2, 3]]),
        "crops": torch.tensor([[0, 0], [0, 4], [0, 8]]),
    }
    views = torch.cat([*view_batches(item, frames, crop_size=4, batch_size=4)])
    assert views.shape == (6, 3, 2, 4, 4)
    assert views[:, 0, :, 0, 0].tolist() == [
        [0, 100], [4, 104], [8, 108], [200, 300], [204, 304], [208, 308],
    ]  # fmt: skip

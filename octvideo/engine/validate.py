"""Validation during training: a test with one view of each video."""

import logging
from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from octvideo.data.clips import Batch
from octvideo.distributed.collectives import all_reduce
from octvideo.engine.bad_videos import BadVideos
from octvideo.engine.meters import top_k_correct
from octvideo.engine.nonfinite import finite_rows
from octvideo.engine.scorer import Scorer

logger = logging.getLogger("octvideo")

Progress = Callable[[int, Callable[[], dict[str, float]]], None]


@torch.no_grad()
def validate(
    scorer: Scorer,
    batches: Iterable[Batch],
    bad_videos: BadVideos,
    loss: Callable[[Tensor, Tensor], Tensor],
    progress: Progress = lambda *_: None,
) -> dict[str, float]:
    """Returns ``loss``, ``top1_err``, ``top5_err`` (percent) and ``num_videos`` of all processes.

    The result is {} if no video could be read, and ``num_videos`` and ``num_nonfinite`` alone if
    the scores of that many videos are nan or inf. Processes may have different numbers of batches,
    but all have to call it.

    Args:
        scorer: of a network in evaluation mode.
        batches: of this process, as `collate_clips` makes them.
        bad_videos: collects what could not be read.
        loss: the mean over a batch, of its scores and labels.
        progress: gets the number of batches done, and a function that returns the errors of this
            process so far; calling it waits for the device.
    """
    # loss, top-1 and top-5 hits, videos, and those of them that are not finite
    sums = torch.zeros(5, dtype=torch.float64, device=scorer.device)
    for done, batch in enumerate(batches, start=1):
        bad_videos.add(batch)
        found = scorer(batch)
        if not found.files:
            continue
        scores, labels = found.values[:, 0], batch["label"].to(scorer.device, non_blocking=True)
        sums[0] += loss(scores, labels) * len(labels)
        sums[1:3] += top_k_correct(scores, labels)
        sums[3] += len(labels)
        sums[4] += (~finite_rows(scores)).sum()
        progress(done, lambda: _errors(sums.tolist()))
    bad_videos.share()
    *_, count, lost = values = all_reduce(sums).tolist()
    if not count:
        logger.warning("Validation: none of the videos of val.csv could be read")
        return {}
    if lost:
        return {"num_videos": int(count), "num_nonfinite": int(lost)}
    return {**_errors(values), "num_videos": int(count)}


def _errors(sums: list[float]) -> dict[str, float]:
    loss, top1, top5, count, lost = sums
    if lost:
        return {}
    return {
        "loss": loss / count,
        "top1_err": 100 * (1 - top1 / count),
        "top5_err": 100 * (1 - top5 / count),
    }

"""Validation during training: one view of each video."""

import logging
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from octvideo.distributed.collectives import all_reduce
from octvideo.engine.bad_videos import BadVideos
from octvideo.engine.meters import top_k_correct
from octvideo.engine.precision import Evaluation

logger = logging.getLogger("octvideo")


@torch.no_grad()
def validate(
    evaluate: Evaluation,
    batches: Iterable[dict[str, Any]],
    to_device: Callable[[dict[str, Any]], tuple[Tensor, Tensor]],
    bad_videos: BadVideos,
    loss: Callable[[Tensor, Tensor], Tensor],
    progress: Callable[[int, Callable[[], dict[str, float]]], None] = lambda *_: None,
) -> dict[str, Any]:
    """``loss``, ``top1_err`` and ``top5_err`` (percent), ``num_videos``, of those of all processes.

    {} where none could be read; ``num_videos`` and ``num_nonfinite`` alone where scores of that
    many videos are nan or inf. Processes may have different numbers of batches, but all call it.

    Args:
        evaluate: clips -> scores (N, classes), of a model in evaluation.
        batches: of this process, as `collate_clips` makes them.
        to_device: the clips, normalised, and labels of a batch, where the model is.
        bad_videos: takes and shares what could not be read.
        loss: the mean of a batch, of its scores and labels.
        progress: gets the number of batches done, and what gives the errors so far, of this
            process; asking for them waits for the device.
    """
    # loss, top-1 and top-5 hits, number of videos, of those lost: of all processes in the end
    sums = torch.zeros(5, dtype=torch.float64, device=evaluate.device)
    for done, batch in enumerate(batches, start=1):
        bad_videos.add(batch)
        if len(batch["label"]) == 0:
            continue
        video, labels = to_device(batch)
        scores = evaluate(video)
        sums[0] += loss(scores, labels) * len(labels)
        sums[1:3] += top_k_correct(scores, labels)
        sums[3] += len(labels)
        sums[4] += (~scores.isfinite().all(dim=1)).sum()
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

"""Validation during training: one view of each video."""

import logging
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from octvideo.engine.bad_videos import BadVideos
from octvideo.engine.meters import top_k_correct
from octvideo.engine.precision import Evaluation
from octvideo.utils.dist import all_reduce

logger = logging.getLogger("octvideo")


@torch.no_grad()
def validate(
    evaluate: Evaluation,
    batches: Iterable[dict[str, Any]],
    to_device: Callable[[dict[str, Any]], tuple[Tensor, Tensor]],
    bad_videos: BadVideos,
    loss: Callable[[Tensor, Tensor], Tensor],
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
    """
    # loss, top-1 and top-5 hits, number of videos, of those lost: of all processes in the end
    sums = torch.zeros(5, dtype=torch.float64, device=evaluate.device)
    for batch in batches:
        bad_videos.add(batch)
        if len(batch["label"]) == 0:
            continue
        video, labels = to_device(batch)
        scores = evaluate(video)
        sums[0] += loss(scores, labels) * len(labels)
        sums[1:3] += top_k_correct(scores, labels)
        sums[3] += len(labels)
        sums[4] += (~scores.isfinite().all(dim=1)).sum()
    bad_videos.share()
    total, *correct, count, lost = all_reduce(sums).tolist()
    if not count:
        logger.warning("Validation: none of the videos of val.csv could be read")
        return {}
    if lost:
        return {"num_videos": int(count), "num_nonfinite": int(lost)}
    top1, top5 = (100 * (1 - hits / count) for hits in correct)
    loss_mean = total / count
    return {"loss": loss_mean, "top1_err": top1, "top5_err": top5, "num_videos": int(count)}

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
) -> dict[str, Any]:
    """``top1_err`` and ``top5_err`` (percent) and ``num_videos``, over the videos of all processes.

    {} where none could be read. Processes may have different numbers of batches, but all call it.

    Args:
        evaluate: clips -> scores (N, classes), of a model in evaluation.
        batches: of this process, as `collate_clips` makes them.
        to_device: the clips, normalised, and labels of a batch, where the model is.
        bad_videos: takes and shares what could not be read.
    """
    # top-1 and top-5 hits, number of videos: of all processes in the end
    counts = torch.zeros(3, dtype=torch.long, device=evaluate.device)
    for batch in batches:
        bad_videos.add(batch)
        if len(batch["label"]) == 0:
            continue
        video, labels = to_device(batch)
        counts[:2] += top_k_correct(evaluate(video), labels)
        counts[2] += len(labels)
    bad_videos.share()
    *correct, count = all_reduce(counts).tolist()
    if not count:
        logger.warning("Validation: none of the videos of val.csv could be read")
        return {}
    top1, top5 = (100 * (1 - hits / count) for hits in correct)
    return {"top1_err": top1, "top5_err": top5, "num_videos": count}

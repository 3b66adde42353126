"""Mixup and CutMix of a batch with itself, and label smoothing."""

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from fvcore.common.config import CfgNode
from torch import Tensor

_STREAM = 0x6D6978  # keeps these random numbers apart from those of the clips


@dataclass(frozen=True)
class Mixup:
    """Mixes sample i with sample N-1-i of a batch; PySlowFast's section MIXUP.

    With `probability`, a share is drawn for the whole batch: for mixup from beta(alpha, alpha), and
    the clips are averaged with it; for CutMix from beta(cutmix_alpha, cutmix_alpha), and a box of
    the other clip, the same in all frames, is pasted in. `switch_probability` chooses CutMix if
    both alphas are above 0. The targets are mixed by the share that a clip really keeps.
    (Zhang et al., "mixup"; Yun et al., "CutMix".)
    """

    num_classes: int
    alpha: float = 0.8
    cutmix_alpha: float = 1.0
    probability: float = 1.0
    switch_probability: float = 0.5
    label_smoothing: float = 0.1

    def __call__(
        self, video: Tensor, labels: Tensor, rng: np.random.Generator
    ) -> tuple[Tensor, Tensor]:
        """Mixes normalised video (N, 3, T, H, W) and labels (N,); targets are float32 (N, C).

        Changes the video in place. The slow pathway of a model is sampled from the same clip, so it
        sees the same mixture.
        """
        share = 1.0
        if rng.random() < self.probability:
            cuts = self.cutmix_alpha > 0 and (
                self.alpha == 0 or rng.random() < self.switch_probability
            )
            alpha = self.cutmix_alpha if cuts else self.alpha
            if alpha > 0:
                share = float(rng.beta(alpha, alpha))
                share = _cut(video, share, rng) if cuts else _blend(video, share)
        targets = smooth_one_hot(labels, self.num_classes, self.label_smoothing)
        return video, targets.lerp(targets.flip(0), 1 - share)


def build_mixup(cfg: CfgNode) -> Mixup | None:
    """Returns the mixing of the section MIXUP, or None if it is off."""
    mixup = cfg.MIXUP
    if not mixup.ENABLE:
        return None
    return Mixup(
        num_classes=cfg.MODEL.NUM_CLASSES,
        alpha=mixup.ALPHA,
        cutmix_alpha=mixup.CUTMIX_ALPHA,
        probability=mixup.PROB,
        switch_probability=mixup.SWITCH_PROB,
        label_smoothing=mixup.LABEL_SMOOTH_VALUE,
    )


def mixing_generator(seed: int, epoch: int, step: int, rank: int) -> np.random.Generator:
    """Returns the random numbers of one step, so that a resumed run mixes as it would have."""
    return np.random.default_rng([seed, epoch, step, rank, _STREAM])


def smooth_one_hot(labels: Tensor, num_classes: int, smoothing: float) -> Tensor:
    """Turns labels (N,) into (N, C): smoothing / C, plus 1 - smoothing at the label."""
    one_hot = F.one_hot(labels, num_classes).to(torch.float32)
    return one_hot * (1 - smoothing) + smoothing / num_classes


def _blend(video: Tensor, share: float) -> float:
    video.lerp_(video.flip(0), 1 - share)
    return share


def _cut(video: Tensor, share: float, rng: np.random.Generator) -> float:
    """Pastes a box of 1 - share of the area around a random point; returns the share that stays.

    Parts of the box outside the frame are lost, so more may stay than was asked for.
    """
    height, width = video.shape[-2:]
    side = math.sqrt(1 - share)
    half_h, half_w = int(height * side) // 2, int(width * side) // 2
    y, x = int(rng.integers(height)), int(rng.integers(width))
    top, bottom = max(y - half_h, 0), min(y + half_h, height)
    left, right = max(x - half_w, 0), min(x + half_w, width)
    box = video[..., top:bottom, left:right]
    box.copy_(box.flip(0))
    return 1 - (bottom - top) * (right - left) / (height * width)


def scores_and_labels(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Returns what training errors are counted on: scores (N, C) and one label (N,) per sample.

    Targets that are labels (N,) change nothing. For mixed targets (N, C) the label is the class of
    the largest share. The second largest is as good: its probability is added to the first one's.
    (PySlowFast adds the two logits.)
    """
    if targets.ndim == 1:
        return logits, targets
    first, second = targets.topk(2, dim=1).indices.split(1, dim=1)
    scores = logits.softmax(dim=1)
    scores = scores.scatter_add(1, first, scores.gather(1, second)).scatter(1, second, 0.0)
    return scores, first[:, 0]

"""Losses of MODEL.LOSS_FUNC, for labels as well as for mixed targets."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

# (logits (N, C), targets) -> mean loss (); targets are labels (N,) or shares of classes (N, C).
Loss = Callable[[Tensor, Tensor], Tensor]


def bce_logit(logits: Tensor, targets: Tensor) -> Tensor:
    """Returns the mean over samples and classes of each class's own binary cross entropy."""
    if targets.ndim == 1:
        targets = F.one_hot(targets, logits.shape[1])
    return F.binary_cross_entropy_with_logits(logits, targets.to(logits.dtype))


_LOSSES: dict[str, Loss] = {
    "cross_entropy": F.cross_entropy,
    "soft_cross_entropy": F.cross_entropy,  # -sum(targets * log_softmax) for shares
    "bce_logit": bce_logit,
}


def loss_of_scores(scores: Tensor, labels: Tensor, head_act: str, loss: Loss) -> Tensor:
    """Returns the mean loss of a model's output in evaluation, (N, C), for labels (N,).

    ``head_act`` says what the output is: probabilities ("softmax", "sigmoid"), or logits for
    ``loss``.
    A probability of 0 counts as the smallest float32, a loss of 87, so that a mean stays finite.
    """
    if head_act == "none":
        return loss(scores, labels)
    tiny = torch.finfo(torch.float32).tiny
    if head_act == "softmax":
        return -scores.gather(1, labels[:, None]).clamp_min(tiny).log().mean()
    targets = F.one_hot(labels, scores.shape[1])
    return -torch.where(targets == 1, scores, 1 - scores).clamp_min(tiny).log().mean()


def build_loss(name: str) -> Loss:
    """Returns the loss with a name of MODEL.LOSS_FUNC."""
    return _LOSSES[name]

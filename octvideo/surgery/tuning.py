"""Adapts statistics and weights of a converted network to its octaves, without labels."""

from collections.abc import Callable, Iterable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from octvideo.layers import Value, merge
from octvideo.layers.octavize import in_mode
from octvideo.surgery.tracing import Example, arguments

TEMPERATURE = 2.0


def calibrate(model: nn.Module, batches: Iterable[Example]) -> nn.Module:
    """Measures the running statistics of all batch norms again, in place, and returns the network.

    A converted network's maps have other means and variances than those it was trained with. The
    new statistics are the averages over the batches, each weighted equally. Weights do not change;
    labels are not needed.

    Args:
        batches: inputs of the network, as ``example`` of ``octavize``: some hundred images or
            clips, prepared as for a test.

    Raises:
        ValueError: there is no batch.
    """
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    momenta = {norm: norm.momentum for norm in norms}
    count = 0
    with in_mode(model, norms), torch.no_grad():
        for norm in norms:
            norm.reset_running_stats()
        for batch in batches:
            count += 1
            for norm in norms:
                norm.momentum = 1 / count
            args, kwargs = arguments(batch)
            model(*args, **kwargs)
    for norm, momentum in momenta.items():
        norm.momentum = momentum
    if not count:
        raise ValueError("calibrate needs at least one batch: the iterable was empty")
    return model


def distill(
    student: nn.Module,
    teacher: nn.Module,
    batches: Iterable[Example],
    steps: int,
    *,
    lr: float = 0.002,
    fixed_norms: bool = False,
    max_norm: float = 1.0,
    momentum: float = 0.9,
    weight_decay: float = 0.0,
    loss: Callable[[Tensor, Tensor], Tensor] | None = None,
    temperature: float = TEMPERATURE,
    progress: Callable[[int, float], None] | None = None,
) -> nn.Module:
    """Trains an octave network to answer as the vanilla one does, in place, without labels.

    SGD on the Kullback-Leibler divergence of the student's answers from the teacher's (Hinton et
    al., arXiv 1503.02531). The student's batch norms use and update the statistics of each batch,
    so `calibrate` it afterwards; behind `refit`, fix them. Dropout is off. The learning rate falls
    by a cosine to 0.

    Args:
        student: the octave network; its mode stays.
        teacher: the vanilla network, which does not change.
        batches: inputs; they start over where they end.
        steps: how many batches to take.
        lr: the first learning rate.
        fixed_norms: batch norms keep their statistics, which `refit` has made right.
        max_norm: longer gradients are shortened to it: without, a network with large outputs
            moves away from its teacher.
        loss: of the student's and the teacher's outputs, in place of the divergence of logits
            (N, K) along the last axis.
        progress: called with step and loss.

    Raises:
        ValueError: there is no batch, the networks do not return a tensor of logits and there is
            no ``loss``, or the loss is not finite: nothing is changed then.
    """
    before = {name: value.clone() for name, value in student.state_dict().items()}
    compare = loss or (lambda s, t: divergence(s, t, temperature))
    parameters = [p for p in student.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(
        parameters, lr, momentum=momentum, weight_decay=weight_decay, nesterov=momentum > 0
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    inputs = _again(batches)
    norms = [m for m in student.modules() if isinstance(m, _BatchNorm) and not fixed_norms]
    with in_mode(student, norms), in_mode(teacher):
        for step in range(steps):
            args, kwargs = arguments(next(inputs))
            with torch.no_grad():
                target = teacher(*args, **kwargs)
            if loss is None and not isinstance(target, Tensor):
                kind = type(target).__name__
                raise ValueError(f"the teacher returns a {kind} and no logits: give loss= for it")
            value = compare(student(*args, **kwargs), target)
            if not value.isfinite():
                student.load_state_dict(before)
                raise ValueError(f"the loss is {value.item()} at step {step}: set a lower lr")
            optimizer.zero_grad()
            value.backward()
            nn.utils.clip_grad_norm_(parameters, max_norm)
            optimizer.step()
            schedule.step()
            if progress is not None:
                progress(step, value.item())
    optimizer.zero_grad()
    return student


def _again(batches: Iterable[Example]) -> Iterator[Example]:
    """Yields all batches, and then all of them again."""
    count = -1
    total = 0
    while count != total:
        count = total
        for batch in batches:
            total += 1
            yield batch
    raise ValueError(f"the batches ended after {total}: give a list or a loader, not an iterator")


def divergence(student: Value, teacher: Value, temperature: float = TEMPERATURE) -> Tensor:
    """Returns KL(teacher || student) of logits (N, K), times temperature squared."""
    log_p, log_q = (
        F.log_softmax(merge(x).float() / temperature, dim=-1) for x in (student, teacher)
    )
    return F.kl_div(log_p, log_q, log_target=True, reduction="batchmean") * temperature**2

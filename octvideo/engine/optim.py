"""Optimizers and learning-rate schedules, with PySlowFast's meaning of every key."""

import math
from dataclasses import dataclass

import torch
from fvcore.common.config import CfgNode
from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from octvideo.config import lr_scale
from octvideo.distributed.launcher_env import processes_of
from octvideo.engine.lars import add_lars

Options = dict[str, object]  # of a group of parameters


@dataclass(frozen=True)
class LRSchedule:
    """Gives the learning rate at an epoch, which is a real number: 2.5 is the middle of the third.

    The policy cosine is half a cosine from ``base_lr`` at epoch 0 (with ``cosine_after_warmup``, at
    the end of the warm-up) to ``end_lr`` at ``max_epoch``; steps_with_relative_lrs is
    ``base_lr * lrs[i]`` from epoch ``steps[i]`` on. During the first ``warmup_epochs`` the rate
    rises in a line from ``warmup_start_lr`` to the policy's value at the end of the warm-up.
    """

    policy: str
    base_lr: float
    max_epoch: float
    end_lr: float = 0.0
    steps: tuple[float, ...] = ()
    lrs: tuple[float, ...] = ()
    warmup_epochs: float = 0.0
    warmup_start_lr: float = 0.0
    cosine_after_warmup: bool = False

    def __call__(self, epoch: float) -> float:
        if epoch < self.warmup_epochs:
            end = self._policy(self.warmup_epochs)
            slope = (end - self.warmup_start_lr) / self.warmup_epochs
            return self.warmup_start_lr + slope * epoch
        return self._policy(epoch)

    def _policy(self, epoch: float) -> float:
        if self.policy == "cosine":
            start = self.warmup_epochs if self.cosine_after_warmup else 0.0
            progress = (epoch - start) / (self.max_epoch - start)
            return (
                self.end_lr + (self.base_lr - self.end_lr) * (1 + math.cos(math.pi * progress)) / 2
            )
        if self.policy == "steps_with_relative_lrs":
            reached = sum(epoch >= step for step in self.steps)
            return self.base_lr * self.lrs[reached - 1]
        raise ValueError(f"SOLVER.LR_POLICY {self.policy!r}: use cosine or steps_with_relative_lrs")


def build_schedule(cfg: CfgNode) -> LRSchedule:
    """Returns the schedule of SOLVER; BASE_LR_SCALE_NUM_SHARDS multiplies rates by the nodes."""
    solver = cfg.SOLVER
    scale = lr_scale(cfg, processes_of(cfg))
    return LRSchedule(
        policy=solver.LR_POLICY,
        base_lr=solver.BASE_LR * scale,
        max_epoch=solver.MAX_EPOCH,
        end_lr=solver.COSINE_END_LR * scale,
        steps=tuple(solver.STEPS),
        lrs=tuple(solver.LRS),
        warmup_epochs=solver.WARMUP_EPOCHS,
        warmup_start_lr=solver.WARMUP_START_LR * scale,
        cosine_after_warmup=solver.COSINE_AFTER_WARMUP,
    )


def parameter_groups(
    model: nn.Module,
    weight_decay: float,
    bn_weight_decay: float,
    zero_decay_1d: bool,
    lars: bool = False,
) -> list[Options]:
    """Returns three groups, without empty ones: norm layers, the rest, 1-D without decay.

    ``apply_LARS`` and ``layer_decay`` have no effect here: PySlowFast, resuming from one of our
    checkpoints, takes the groups from the file and looks for both.
    """
    norm: list[nn.Parameter] = []
    rest: list[nn.Parameter] = []
    one_dim: list[nn.Parameter] = []
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            if not parameter.requires_grad:
                continue
            if isinstance(module, _NormBase):
                norm.append(parameter)
            elif zero_decay_1d and parameter.ndim == 1:
                one_dim.append(parameter)
            else:
                rest.append(parameter)
    groups = [
        {"params": norm, "weight_decay": bn_weight_decay, "apply_LARS": False},
        {"params": rest, "weight_decay": weight_decay, "apply_LARS": lars},
        {"params": one_dim, "weight_decay": 0.0, "apply_LARS": lars},
    ]
    return [{**group, "layer_decay": 1.0} for group in groups if group["params"]]


def build_optimizer(model: nn.Module, cfg: CfgNode) -> torch.optim.Optimizer:
    """Returns SGD, Adam or AdamW over ``parameter_groups``, with LARS if SOLVER.LARS_ON.

    Where torch has a fused one, on GPUs and CPUs, it is fused: one pass over the parameters, and no
    waiting for the loss scaler.
    """
    solver = cfg.SOLVER
    groups = parameter_groups(
        model,
        solver.WEIGHT_DECAY,
        cfg.BN.WEIGHT_DECAY,
        solver.ZERO_WD_1D_PARAM,
        solver.LARS_ON,
    )
    fused = {p.device.type for p in model.parameters()} <= {"cuda", "cpu"} or None
    optimizer = _OPTIMIZERS[solver.OPTIMIZING_METHOD](groups, solver, fused)
    if solver.LARS_ON:
        add_lars(optimizer, model)
    return optimizer


def _sgd(groups: list[Options], solver: CfgNode, fused: bool | None) -> torch.optim.Optimizer:
    return torch.optim.SGD(
        groups,
        lr=solver.BASE_LR,
        momentum=solver.MOMENTUM,
        dampening=solver.DAMPENING,
        nesterov=solver.NESTEROV,
        fused=fused,
    )


def _adam(groups: list[Options], solver: CfgNode, fused: bool | None) -> torch.optim.Optimizer:
    return torch.optim.Adam(groups, lr=solver.BASE_LR, betas=tuple(solver.BETAS), fused=fused)


def _adamw(groups: list[Options], solver: CfgNode, fused: bool | None) -> torch.optim.Optimizer:
    return torch.optim.AdamW(groups, lr=solver.BASE_LR, betas=tuple(solver.BETAS), fused=fused)


# By SOLVER.OPTIMIZING_METHOD; what of their state is saved stands in optimizer_state.py.
_OPTIMIZERS = {"sgd": _sgd, "adam": _adam, "adamw": _adamw}


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = lr

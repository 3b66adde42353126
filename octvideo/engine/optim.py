"""Optimizers and learning-rate schedules, with PySlowFast's meaning of every key."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from fvcore.common.config import CfgNode
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from octvideo.config import lr_scale
from octvideo.engine.lars import add_lars


@dataclass(frozen=True)
class LRSchedule:
    """Learning rate at an epoch, a real number: 2.5 is the middle of the third.

    cosine: half a cosine from ``base_lr`` at epoch 0 (with ``cosine_after_warmup``, at the end
    of the warm-up) to ``end_lr`` at ``max_epoch``.
    steps_with_relative_lrs: ``base_lr * lrs[i]`` from epoch ``steps[i]`` on.
    During the first ``warmup_epochs``: a line from ``warmup_start_lr`` to the policy's value at
    the end of the warm-up.
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
    """The schedule of cfg.SOLVER; BASE_LR_SCALE_NUM_SHARDS multiplies its rates by the nodes."""
    solver = cfg.SOLVER
    scale = lr_scale(cfg)
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
) -> list[dict]:
    """Three groups, empty ones left out: norm layers, the rest, 1-D parameters without decay.

    ``apply_LARS`` and ``layer_decay`` are of no use here: a PySlowFast that resumes from the
    checkpoint takes its groups from there, and looks for both.
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
    """SGD, Adam or AdamW over ``parameter_groups``, with LARS where SOLVER.LARS_ON.

    It is the fused one where torch has it, on GPUs and CPUs: one pass over the parameters, and no
    waiting for the loss scaler.
    """
    optimizer = _plain_optimizer(model, cfg)
    if cfg.SOLVER.LARS_ON:
        add_lars(optimizer, model)
    return optimizer


def _plain_optimizer(model: nn.Module, cfg: CfgNode) -> torch.optim.Optimizer:
    solver = cfg.SOLVER
    groups = parameter_groups(
        model,
        solver.WEIGHT_DECAY,
        cfg.BN.WEIGHT_DECAY,
        solver.ZERO_WD_1D_PARAM,
        solver.LARS_ON,
    )
    method, lr = solver.OPTIMIZING_METHOD, solver.BASE_LR
    kinds = {p.device.type for g in groups for p in g["params"]}
    fused = kinds <= {"cuda", "cpu"} or None
    if method == "sgd":
        return torch.optim.SGD(
            groups,
            lr=lr,
            momentum=solver.MOMENTUM,
            dampening=solver.DAMPENING,
            nesterov=solver.NESTEROV,
            fused=fused,
        )
    if method == "adam":
        return torch.optim.Adam(groups, lr=lr, betas=tuple(solver.BETAS), fused=fused)
    if method == "adamw":
        return torch.optim.AdamW(groups, lr=lr, betas=tuple(solver.BETAS), fused=fused)
    raise ValueError(f"SOLVER.OPTIMIZING_METHOD {method!r}: use sgd, adam or adamw")


def saved_state(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """The state dict for a checkpoint, which PySlowFast can resume from as well.

    Its parameters are contiguous and its optimizers not fused, and it takes both choices from the
    file: with ours it would apply the momentum of other weights, or fail.
    """
    saved = optimizer.state_dict()
    state = {
        number: {
            name: value.contiguous() if isinstance(value, Tensor) else value
            for name, value in buffers.items()
        }
        for number, buffers in saved["state"].items()
    }
    groups = [{**group, "fused": None, "foreach": None} for group in saved["param_groups"]]
    return {"state": state, "param_groups": groups}


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = lr

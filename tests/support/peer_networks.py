"""PyTorchVideo's networks of the names that we have too, and weights that suit a comparison."""

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from support.peer import import_pytorchvideo

CLASSES = 10
K1, K3 = (1, 1, 1), (3, 1, 1)
C2D = (K1, K1, K1, K1)
I3D = (K3, [K3, K1], [K3, K1], [K1, K3])
SLOW = (K1, K1, K3, K3)

# name -> (names of its checkpoint, frames, kernel of the stem, kernels of conv a)
SINGLE: dict[str, tuple[str, int, int, Any]] = {
    "c2d_r50": ("C2D_8x8_R50", 8, 1, C2D),
    "i3d_r50": ("I3D_8x8_R50", 8, 5, I3D),
    "slow_r50": ("SLOW_8x8_R50", 8, 1, SLOW),
    "slow_4x16_r50": ("SLOW_8x8_R50", 4, 1, SLOW),
}
# name -> (names of its checkpoint, frames of the slow pathway, frame ratio, fusion kernel)
DOUBLE = {
    "slowfast_4x16_r50": ("SLOWFAST_4x16_R50", 4, 8, 5),
    "slowfast_r50": ("SLOWFAST_8x8_R50", 8, 4, 7),
}


def build_peer(name: str, width: int, side: int) -> nn.Module:
    """Returns PyTorchVideo's network of a name for clips with crops of ``side`` pixels."""
    return (_single if name in SINGLE else _double)(name, width, side // 32)


def _single(name: str, width: int, side: int) -> nn.Module:
    resnet = import_pytorchvideo("models.resnet")
    _, frames, stem, kernels = SINGLE[name]
    pool = 1 if name.startswith("slow") else 2
    return resnet.create_resnet(
        model_num_class=CLASSES,
        stem_dim_out=width,
        stem_conv_kernel_size=(stem, 7, 7),
        stage_conv_a_kernel_size=kernels,
        stage1_pool=nn.MaxPool3d if pool == 2 else None,
        head_pool_kernel_size=(frames // pool, side, side),
        head_activation=nn.Softmax,
    )


def _double(name: str, width: int, side: int) -> nn.Module:
    slowfast = import_pytorchvideo("models.slowfast")
    _, frames, ratio, kernel = DOUBLE[name]
    return slowfast.create_slowfast(
        model_num_class=CLASSES,
        stem_dim_outs=(width, width // 8),
        slowfast_fusion_conv_kernel_size=(kernel, 1, 1),
        slowfast_fusion_conv_stride=(ratio, 1, 1),
        head_pool_kernel_sizes=((frames, side, side), (frames * ratio, side, side)),
        head_activation=nn.Softmax,
    )


def our_names(name: str, shared: Path) -> dict[str, str]:
    """Returns PySlowFast's name, which is ours, of each of PyTorchVideo's parameters."""
    text = (shared / "data" / "pyslowfast" / "ptv_to_pysf_names.json").read_text()
    names = json.loads(text)[{**SINGLE, **DOUBLE}[name][0]]
    return {theirs.removeprefix("model."): ours for theirs, ours in names.items()}


def pathways(name: str, x: Tensor) -> Tensor | list[Tensor]:
    """Returns PyTorchVideo's input, for which its user picks the slow pathway's frames."""
    if name in SINGLE:
        return x
    frames = x.shape[2]
    index = torch.linspace(0, frames - 1, DOUBLE[name][1]).long()
    return [x.index_select(2, index), x]


def clips_of(model: nn.Module, size: tuple[int, int]) -> Tensor:
    """Returns two clips that differ in colour: scores over all pixels would hardly differ else."""
    return torch.randn(2, 3, model.spec.num_frames, *size) + 3 * torch.randn(2, 3, 1, 1, 1)


@torch.no_grad()
def randomise(model: nn.Module, x: Tensor, std: float) -> None:
    """Gives weights that nothing cancels, the statistics of x, and a projection of ``std``."""
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            nn.init.uniform_(module.weight, 0.5, 1)
            nn.init.uniform_(module.bias, -0.5, 0.5)
            module.momentum = 1.0
    nn.init.normal_(model.head.projection.weight, std=std)
    model.train()(x)


def unsaturated(model: nn.Module) -> float:
    """Returns the deviation of a projection with which a softmax does not saturate."""
    return 2 / model.head.projection.in_features**0.5

"""The stem of a video network, and what holds the modules of a stage."""

from collections.abc import Mapping, Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from octvideo.layers import BatchNorm3d, Conv3d, conv3d_as_2d
from octvideo.models.recompute import run_and_recompute


class Stem(nn.Module):
    """conv t x7x7 / (1,2,2), BN, ReLU [, max pool 1x3x3 / (1,2,2)]. Never octave."""

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        temporal_kernel: int,
        eps: float,
        momentum: float,
        pools: bool = True,
    ) -> None:
        super().__init__()
        self.pools = pools
        t = temporal_kernel
        self.conv = Conv3d(
            channels_in, channels_out, (t, 7, 7), (1, 2, 2), (t // 2, 3, 3), bias=False
        )
        self.bn = BatchNorm3d(channels_out, eps=eps, momentum=momentum)

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, T, H, W) -> (N, C, T, H/4, W/4), without the pool (N, C, T, H/2, W/2)."""
        x = self.bn(self.conv(x))
        if self.pools:
            x = conv3d_as_2d.max_pool3d(x, (1, 3, 3), (1, 2, 2), (0, 1, 1))
        return F.relu(x, inplace=True)  # after the pool it does the same to a quarter of the values


class Pathways(nn.Module):
    """Modules in sequence for each pathway p, named ``pathway{p}_{name}`` as in PySlowFast.

    recompute: in training, what is inside a module is not kept but computed again.
    """

    def __init__(self, *pathways: Mapping[str, nn.Module], recompute: bool = False) -> None:
        super().__init__()
        self.recompute = recompute
        self.sequences = [
            [f"pathway{p}_{name}" for name in modules] for p, modules in enumerate(pathways)
        ]
        for sequence, modules in zip(self.sequences, pathways, strict=True):
            for name, module in zip(sequence, modules.values(), strict=True):
                self.add_module(name, module)

    def forward(self, xs: Sequence[Tensor]) -> list[Tensor]:
        """One value for each pathway -> the same."""
        return [self._run(x, names) for x, names in zip(xs, self.sequences, strict=True)]

    def _run(self, x: Tensor, names: list[str]) -> Tensor:
        for name in names:
            module = self.get_submodule(name)
            x = run_and_recompute(module, x) if self.recompute and self.training else module(x)
        return x

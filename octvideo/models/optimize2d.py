"""Blocks of the image networks for inference; see `optimize_for_inference`."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from octvideo.layers import Value, convert, per_frequency, pool_high
from octvideo.layers.eager import is_recorded, relu_
from octvideo.layers.fused import FusedConv, folded
from octvideo.models import densenet, mobilenet, resnet2d


def dense(x: Tensor) -> Tensor:
    """x in channels-last memory, of which a recorded network knows nothing."""
    return x if is_recorded() else x.contiguous(memory_format=torch.channels_last)


def _relu(x: Value) -> Value:
    return per_frequency(relu_, x)


class FusedStem2d(nn.Module):
    """conv, max pool, ReLU: the order of the last two does not matter, but their cost does."""

    def __init__(self, stem: resnet2d.Stem2d | densenet.Stem) -> None:
        super().__init__()
        self.conv = FusedConv(stem.conv, stem.bn)

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, H, W) -> (N, C, H/4, W/4)."""
        y = self.conv(dense(x))
        assert isinstance(y, Tensor)
        return F.max_pool2d(y, 3, 2, 1).relu_()


class _FusedBlock2d(nn.Module):
    """[relu](shortcut(x) + branch2(x)), the sum in the memory of the shortcut (or of x)."""

    def __init__(self, block: Any, c_norm: nn.Module | None, relu: bool) -> None:
        super().__init__()
        self.dim_out, self.relu = block.dim_out, relu
        self.se = block.branch2.se
        self.gates = not isinstance(self.se, nn.Identity)
        self.c = FusedConv(block.branch2.c, c_norm, relu=relu and not self.gates)

    def _sum(self, shortcut: Value, y: Value) -> Value:
        if not self.gates:
            return self.c(y, shortcut=shortcut)
        x = per_frequency(Tensor.add_, shortcut, self.se(self.c(y)))
        return _relu(x) if self.relu else x

    def _identity(self, x: Value) -> Value:
        return per_frequency(dense, convert(x, self.dim_out))


class FusedPostActBlock(_FusedBlock2d):
    """relu(shortcut(x) + branch2(x)), batch norm in its convolutions."""

    def __init__(self, block: resnet2d.PostActBlock) -> None:
        branch = block.branch2
        super().__init__(block, branch.c_bn, relu=True)
        self.branch1 = None
        self.shares_pooled = False
        if block.branch1 is not None:
            self.branch1 = FusedConv(block.branch1, block.branch1_bn)
            self.branch1_input_bn = block.branch1_input_bn
            self.shares_pooled = block.shares_pooled
        self.input_bn = branch.input_bn
        self.a = FusedConv(branch.a, branch.a_bn, relu=True)
        self.b = FusedConv(branch.b, branch.b_bn, relu=True)

    def forward(self, x: Value) -> Value:
        """(N, dim_in, H, W) -> (N, dim_out, H/stride, W/stride)."""
        x = per_frequency(dense, x)
        pooled = pool_high(x) if self.shares_pooled else None  # for both branches
        y = self.b(self.a(self.input_bn(x), pooled=pooled))
        if self.branch1 is None:
            return self._sum(self._identity(x), y)
        return self._sum(self.branch1(self.branch1_input_bn(x), pooled=pooled), y)


class FusedPreActBlock(_FusedBlock2d):
    """shortcut(x) + branch2(x). The batch norms of x stay: the sum before them is wanted, too."""

    def __init__(self, block: resnet2d.PreActBlock) -> None:
        branch = block.branch2
        super().__init__(block, None, relu=False)
        self.branch1 = None
        if block.branch1 is not None:
            self.branch1_bn, self.branch1 = block.branch1_bn, FusedConv(block.branch1)
        self.a_bn = branch.a_bn
        self.a = FusedConv(branch.a, branch.b_bn, relu=True)
        self.b = FusedConv(branch.b, branch.c_bn, relu=True)

    def forward(self, x: Value) -> Value:
        """(N, dim_in, H, W) -> (N, dim_out, H/stride, W/stride)."""
        x = per_frequency(dense, x)
        y = self.b(self.a(_relu(self.a_bn(x))))
        if self.branch1 is None:
            return self._sum(self._identity(x), y)
        return self._sum(self.branch1(_relu(self.branch1_bn(x))), y)


class FusedDenseLayer(nn.Module):
    """[x, y], the second batch norm and its ReLU in the first convolution."""

    def __init__(self, layer: densenet.DenseLayer) -> None:
        super().__init__()
        self.bn1 = layer.bn1
        self.conv1 = FusedConv(layer.conv1, layer.bn2, relu=True)
        self.conv2 = FusedConv(layer.conv2)

    def forward(self, x: Value) -> Value:
        """(N, dim_in, H, W) -> (N, dim_in + growth, H, W)."""
        x = per_frequency(dense, x)
        return densenet.concatenate(x, self.conv2(self.conv1(_relu(self.bn1(x)))))


FUSED_2D: dict[type, Any] = {
    resnet2d.Stem2d: FusedStem2d,
    densenet.Stem: FusedStem2d,
    resnet2d.PostActBlock: FusedPostActBlock,
    resnet2d.PreActBlock: FusedPreActBlock,
    densenet.DenseLayer: FusedDenseLayer,
}
# Convolution and the batch norm behind it, of modules that stay.
_PAIRS: dict[type, tuple[tuple[str, str], ...]] = {
    resnet2d.DeepStem: (("a", "a_bn"), ("b", "b_bn"), ("c", "c_bn")),
    mobilenet.ConvNorm: (("conv", "bn"),),
    mobilenet.SeparableConv: (("conv1", "bn1"), ("conv2", "bn2")),
    mobilenet.InvertedResidual: (("conv1", "bn1"), ("conv2", "bn2"), ("conv3", "bn3")),
}


def fold_norms(module: nn.Module) -> None:
    """Folds the batch norms of a module that is known into its convolutions, in place.

    A row of an octave weight makes one channel, on whatever paths: it is scaled as in vanilla.
    """
    for conv_name, norm_name in _PAIRS.get(type(module), ()):
        conv, norm = module.get_submodule(conv_name), module.get_submodule(norm_name)
        if isinstance(norm, nn.Identity):  # optimised already
            continue
        weight, bias = folded(conv, norm)
        conv.weight = nn.Parameter(weight, requires_grad=False)
        conv.bias = nn.Parameter(bias, requires_grad=False)
        setattr(module, norm_name, nn.Identity())

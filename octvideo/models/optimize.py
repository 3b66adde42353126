"""Models for inference: the same function in fewer, larger operations."""

import copy
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from octvideo.layers import NonLocal3d, OctConv3d, conv3d_as_2d
from octvideo.layers.fused import FusedConv, dense, folded, is_fusible
from octvideo.models import densenet, mobilenet, resnet2d, x3d
from octvideo.models.blocks import Bottleneck, PreActBlock, ResBlock, Transform
from octvideo.models.external import ExternalNetwork
from octvideo.models.pathways import Stem
from octvideo.models.slowfast import Fuse
from octvideo.surgery.fusing import fuse
from octvideo.surgery.tracing import Example
from octvideo.utils.errors import NonFiniteError


def optimize_for_inference(
    model: nn.Module, dtype: torch.dtype | None = None, *, example: Example | None = None
) -> nn.Module:
    """Returns a copy of a model for inference, faster, with the same outputs to rounding.

    Batch norm is folded into the convolutions, the slices of an octave weight are stored apart,
    sums and ReLU are done with the convolutions or in place. Batch norm before the first
    convolution of a pre-activation block or dense layer stays. The copy is in evaluation mode and
    has no parameters to train; what the model learns afterwards does not reach it. Its blocks are
    other modules, without the hooks that the model's may have, and overwrite what they are given:
    a hook that keeps a value has to clone it.

    On a CPU, ``octvideo.utils.memory.keep_freed_memory()`` makes it faster still.

    Args:
        model: stays as it is. Blocks that are not known here are left as they are, but see
            ``example``.
        dtype: torch.bfloat16 or torch.float16 for all weights and inputs; None: as they are.
            The model's output is in float32 all the same.
        example: an input of a network of another project, as ``octavize`` takes it. It shows which
            batch norms and ReLUs can become part of the convolutions before them. An
            `ExternalNetwork` has its own.

    Raises:
        ValueError: the network cannot take the example.
        NonFiniteError: weights are nan or inf, or become so in ``dtype``.
    """
    model = copy.deepcopy(model).eval().requires_grad_(False)
    with torch.no_grad():
        _replace(model)
        if example is None and isinstance(model, ExternalNetwork):
            example = model.spec.example(device=next(model.parameters()).device)
        if example is not None:
            fuse(model, example)
    if dtype is not None:
        model.to(dtype)
    _check_finite(model)
    return model


def _check_finite(model: nn.Module) -> None:
    """oneDNN's ReLU makes 0 of nan, so lost weights would give finite, meaningless scores."""
    for name, value in model.state_dict().items():
        if not value.isfinite().all():
            raise NonFiniteError(
                f"weights are nan or inf ({name}, {str(value.dtype).removeprefix('torch.')}): the "
                "training run diverged, or they exceed the range of fp16; use another checkpoint, "
                "or fp32"
            )


def _replace(module: nn.Module) -> None:
    for name, child in module.named_children():
        fused = _FUSED.get(type(child))
        if fused is not None and _is_fusible(child):
            setattr(module, name, fused(child))
        else:
            _fold_norms(child)
            _replace(child)


def _is_fusible(block: nn.Module) -> bool:
    return all(
        is_fusible(module) or (type(module) is OctConv3d and module.is_depthwise)  # see _step
        for module in block.modules()
        if hasattr(module, "padding_mode")
    )


class _FusedStem(nn.Module):
    """conv, max pool, ReLU: the order of the last two does not matter, but their cost does."""

    def __init__(self, stem: Stem | resnet2d.Stem2d) -> None:
        super().__init__()
        self.conv = FusedConv(stem.conv, stem.bn)
        self.pools = getattr(stem, "pools", True)

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, [T,] H, W) -> (N, C, [T,] H/4, W/4)."""
        if x.ndim == 4:
            return F.max_pool2d(self.conv(dense(x)), 3, 2, 1).relu_()
        y = self.conv.on_video(x)
        if not self.pools:
            return y.relu_()
        return conv3d_as_2d.max_pool3d(y, (1, 3, 3), (1, 2, 2), (0, 1, 1)).relu_()


class _OnVideos(nn.Module):
    """What sees whole videos, among layers that see their frames."""

    def __init__(self, *modules: nn.Module) -> None:
        super().__init__()
        self.steps = nn.Sequential(*modules)

    def forward(self, x: Tensor, num_frames: int) -> Tensor:
        """(N * T, C, H, W) -> the same."""
        batch = x.shape[0] // num_frames
        return conv3d_as_2d.frames(self.steps(conv3d_as_2d.video(x, batch)))


def _step(conv: nn.Module, norm: nn.Module, relu: bool = False) -> nn.Module:
    """Returns act(norm(conv(x))) of frames."""
    if is_fusible(conv):
        return FusedConv(conv, norm, relu)
    _fold(conv, norm)  # a depthwise convolution of two frequencies
    return _OnVideos(conv, nn.ReLU(inplace=True)) if relu else _OnVideos(conv)


def _steps(branch: Transform) -> list[nn.Module]:
    """Returns the layers of a residual branch before its last convolution."""
    if isinstance(branch, x3d.X3DTransform):
        behind = _OnVideos(branch.se, nn.SiLU(inplace=True))
        return [_step(branch.a, branch.a_bn, relu=True), _step(branch.b, branch.b_bn), behind]
    names = ["a"]
    if isinstance(branch, Bottleneck):
        names += ["b_t", "b"] if branch.factorised else ["b"]
    return [_step(getattr(branch, n), getattr(branch, f"{n}_bn"), relu=True) for n in names]


class _FusedBlock(nn.Module):
    """relu(shortcut(x) + branch2(x)), the sum in the memory of the shortcut (or of x)."""

    def __init__(self, block: ResBlock) -> None:
        super().__init__()
        branch = block.branch2
        self.input_bn = getattr(branch, "input_bn", nn.Identity())
        self.convs = nn.ModuleList(_steps(branch))
        self.se = branch.se if isinstance(branch, Bottleneck) else nn.Identity()
        self.gates = not isinstance(self.se, nn.Identity)
        self.last = FusedConv(*branch.final, relu=not self.gates)
        self.branch1 = None
        if block.branch1 is not None:
            self.branch1 = FusedConv(block.branch1, block.branch1_bn)
            self.branch1_input_bn = block.branch1_input_bn

    def forward(self, x: Tensor) -> Tensor:
        """(N, dim_in, [T,] H, W) -> (N, dim_out, [T,] H/stride, W/stride)."""
        if x.dim() == 4:
            return self._on_images(dense(x), 1)
        batch, _, num_frames, _, _ = x.shape
        y = self._on_images(conv3d_as_2d.frames(x), num_frames)
        return conv3d_as_2d.video(y, batch)

    def _on_images(self, x: Tensor, num_frames: int) -> Tensor:
        y = self.input_bn(x)
        for conv in self.convs:
            y = conv(y, num_frames)
        shortcut = x
        if self.branch1 is not None:
            shortcut = self.branch1(self.branch1_input_bn(x), num_frames)
        if self.gates:
            return F.relu(shortcut + self.se(self.last(y, num_frames)), inplace=True)
        return self.last(y, num_frames, shortcut)


class _FusedPreActBlock(nn.Module):
    """shortcut(x) + branch2(x). The batch norms of x stay: the sum before them is wanted, too."""

    def __init__(self, block: PreActBlock) -> None:
        super().__init__()
        branch = block.branch2
        self.a_bn, self.relu = branch.a_bn, block.relu
        self.a = FusedConv(branch.a, branch.b_bn, relu=True)
        self.b = FusedConv(branch.b, branch.c_bn, relu=True)
        self.c = FusedConv(branch.c)
        self.se = branch.se
        self.branch1 = None
        if block.branch1 is not None:
            self.branch1_bn, self.branch1 = block.branch1_bn, FusedConv(block.branch1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, dim_in, H, W) -> (N, dim_out, H/stride, W/stride)."""
        shortcut = x = dense(x)
        if self.branch1 is not None:
            shortcut = self.branch1(self.relu(self.branch1_bn(x)))
        y = self.b(self.a(self.relu(self.a_bn(x))))
        if isinstance(self.se, nn.Identity):
            return self.c(y, shortcut=shortcut)
        return shortcut + self.se(self.c(y))


class _FusedDenseLayer(nn.Module):
    """[x, y], the second batch norm and its ReLU in the first convolution."""

    def __init__(self, layer: densenet.DenseLayer) -> None:
        super().__init__()
        self.bn1, self.relu = layer.bn1, layer.relu
        self.conv1 = FusedConv(layer.conv1, layer.bn2, relu=True)
        self.conv2 = FusedConv(layer.conv2)

    def forward(self, x: Tensor) -> Tensor:
        """(N, dim_in, H, W) -> (N, dim_in + growth, H, W)."""
        x = dense(x)
        return torch.cat([x, self.conv2(self.conv1(self.relu(self.bn1(x))))], dim=1)


class _FusedFuse(nn.Module):
    """SlowFast's lateral connection: slow <- [slow | relu(conv(fast))]."""

    def __init__(self, fuse: Fuse) -> None:
        super().__init__()
        self.conv = FusedConv(fuse.conv_f2s, fuse.bn, relu=True)

    def forward(self, xs: list[Tensor]) -> list[Tensor]:
        """As ``Fuse``."""
        slow, fast = xs
        return [torch.cat([slow, self.conv.on_video(fast)], dim=1), fast]


# Convolution and the batch norm behind it, of modules that stay.
_PAIRS: dict[type, tuple[tuple[str, str], ...]] = {
    NonLocal3d: (("conv_out", "bn"),),
    resnet2d.DeepStem: (("a", "a_bn"), ("b", "b_bn"), ("c", "c_bn")),
    x3d.X3DStem: (("conv", "bn"),),
    x3d.X3DHead: (("conv_5", "conv_5_bn"), ("lin_5", "lin_5_bn")),
    mobilenet.ConvNorm: (("conv", "bn"),),
    mobilenet.SeparableConv: (("conv1", "bn1"), ("conv2", "bn2")),
    mobilenet.InvertedResidual: (("conv1", "bn1"), ("conv2", "bn2"), ("conv3", "bn3")),
}


def _fold_norms(module: nn.Module) -> None:
    """Folds the batch norms of a module that is known into its convolutions, in place.

    A row of an octave weight makes one channel, on whatever paths: it is scaled as in vanilla.
    """
    for conv_name, norm_name in _PAIRS.get(type(module), ()):
        conv, norm = module.get_submodule(conv_name), module.get_submodule(norm_name)
        if isinstance(norm, nn.Identity):  # optimised already
            continue
        _fold(conv, norm)
        setattr(module, norm_name, nn.Identity())


def _fold(conv: nn.Module, norm: nn.Module) -> None:
    weight, bias = folded(conv, norm)
    conv.weight = nn.Parameter(weight, requires_grad=False)
    conv.bias = nn.Parameter(bias, requires_grad=False)


_FUSED: dict[type, Callable[..., nn.Module]] = {
    Stem: _FusedStem,
    resnet2d.Stem2d: _FusedStem,
    ResBlock: _FusedBlock,
    PreActBlock: _FusedPreActBlock,
    densenet.DenseLayer: _FusedDenseLayer,
    Fuse: _FusedFuse,
}

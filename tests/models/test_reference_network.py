"""Whole networks against a second implementation: functions on a state dict, Eq. 4 by hand."""

from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from octvideo import create_model

WIDTH = 16


@dataclass
class Reference:
    """Runs a state dict with PySlowFast's names; a value is a tensor or a pair (high, low)."""

    state: dict[str, Tensor]
    blocks: tuple[int, ...]
    alpha: float = 0.0
    stages: tuple[int, ...] = ()
    strides: tuple[int, ...] = (1, 2, 2, 2)
    dilations: tuple[int, ...] = (1, 1, 1, 1)
    stride_1x1: bool = False

    def __call__(self, x: Tensor, window: tuple[int, int, int]) -> Tensor:
        x = F.conv3d(x, self.state["s1.pathway0_stem.conv.weight"], None, (1, 2, 2), self._pad(x))
        x = self.bn("s1.pathway0_stem.bn", x).relu()
        x = F.max_pool3d(x, (1, 3, 3), (1, 2, 2), (0, 1, 1))
        for stage, count in enumerate(self.blocks, 2):
            for i in range(count):
                x = self.block(stage, i, x, last=stage == 5 and i == count - 1)
            if stage == 2:
                x = self.each(lambda part: F.max_pool3d(part, (2, 1, 1)), x)
        x = F.avg_pool3d(x, window, 1).permute(0, 2, 3, 4, 1)
        weight, bias = (self.state[f"head.projection.{key}"] for key in ("weight", "bias"))
        return (x @ weight.T + bias).flatten(1, 3).mean(1)

    def _pad(self, x: Tensor) -> tuple[int, int, int]:
        return (self.state["s1.pathway0_stem.conv.weight"].shape[2] // 2, 3, 3)

    def block(self, stage: int, i: int, x, last: bool):
        name = f"s{stage}.pathway0_res{i}"
        stride = self.strides[stage - 2] if i == 0 else 1
        dilation = self.dilations[stage - 2]
        octave = stage in self.stages
        shortcut = x
        if f"{name}.branch1.weight" in self.state:
            shortcut = self.conv(f"{name}.branch1", x, octave and not last, stride)
            shortcut = self.bn(f"{name}.branch1_bn", shortcut)
        elif last or not octave:
            shortcut = self.one_tensor(x)
        name = f"{name}.branch2"
        if f"{name}.c.weight" in self.state:
            on_a, on_b = (stride, 1) if self.stride_1x1 else (1, stride)
            x = self.each(F.relu, self.bn(f"{name}.a_bn", self.conv(f"{name}.a", x, octave, on_a)))
            x = self.conv(f"{name}.b", x, octave, on_b, dilation)
            x = self.each(F.relu, self.bn(f"{name}.b_bn", x))
            x = self.bn(f"{name}.c_bn", self.conv(f"{name}.c", x, octave and not last))
        else:
            x = self.conv(f"{name}.a", x, octave, stride)
            x = self.each(F.relu, self.bn(f"{name}.a_bn", x))
            x = self.bn(f"{name}.b_bn", self.conv(f"{name}.b", x, octave and not last))
        if isinstance(x, tuple) and isinstance(shortcut, Tensor):  # into the octave, unprojected
            low = x[1].shape[1]
            shortcut = shortcut[:, low:], self.pool(shortcut[:, :low])
        if isinstance(x, tuple):
            return (x[0] + shortcut[0]).relu(), (x[1] + shortcut[1]).relu()
        return (x + shortcut).relu()

    def conv(self, name: str, x, octave: bool, stride: int = 1, dilation: int = 1):
        weight = self.state[f"{name}.weight"]
        k_t, k = weight.shape[2:4]
        padding = (k_t // 2, dilation * (k // 2), dilation * (k // 2))
        low_out = int(self.alpha * weight.shape[0]) if octave else 0
        x_h, x_l = x if isinstance(x, tuple) else (x, None)
        low_in = 0 if x_l is None else x_l.shape[1]
        groups = (x_h.shape[1] + low_in) // weight.shape[1]

        def f(x: Tensor, kernel: Tensor, stride: int = 1) -> Tensor:
            steps = (1, stride, stride)
            return F.conv3d(x, kernel, None, steps, padding, (1, dilation, dilation), groups)

        if not low_in and not low_out:
            return f(x, weight, stride)
        low_in //= groups
        if stride == 2:
            x_h = self.pool(x_h)
        y_h = f(x_h, weight[low_out:, low_in:])
        if x_l is not None:
            y = f(x_l, weight[low_out:, :low_in])
            y_h = y_h + (y if stride == 2 else self.upsample(y, y_h))
        if not low_out:
            return y_h
        y_l = f(self.pool(x_h), weight[:low_out, low_in:])
        if x_l is not None:
            y_l = y_l + f(self.pool(x_l) if stride == 2 else x_l, weight[:low_out, :low_in])
        return y_h, y_l

    def bn(self, name: str, x):
        keys = ("running_mean", "running_var", "weight", "bias")
        values = [self.state[f"{name}.{key}"] for key in keys]
        if isinstance(x, Tensor):
            return F.batch_norm(x, *values)
        low = x[1].shape[1]
        x_h = F.batch_norm(x[0], *[v[low:] for v in values])
        return x_h, F.batch_norm(x[1], *[v[:low] for v in values])

    def one_tensor(self, x) -> Tensor:
        if isinstance(x, Tensor):
            return x
        return torch.cat([self.upsample(x[1], x[0]), x[0]], 1)

    @staticmethod
    def each(fn, x):
        return fn(x) if isinstance(x, Tensor) else tuple(fn(part) for part in x)

    @staticmethod
    def pool(x: Tensor) -> Tensor:
        if min(x.shape[-2:]) == 1:  # which avg_pool3d refuses
            assert x.shape[-2:] == (1, 1)
            return x
        return F.avg_pool3d(x, (1, 2, 2), (1, 2, 2), ceil_mode=True, count_include_pad=False)

    @staticmethod
    def upsample(x: Tensor, like: Tensor) -> Tensor:
        h, w = like.shape[-2:]
        return x.repeat_interleave(2, -2).repeat_interleave(2, -1)[..., :h, :w]


@torch.no_grad()
def randomise(model: torch.nn.Module) -> None:
    """Weights and statistics that nothing cancels: no ones, no zeros."""
    for module in model.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.weight.uniform_(0.5, 1)
            module.bias.uniform_(-0.5, 0.5)
            module.running_mean.uniform_(-0.5, 0.5)
            module.running_var.uniform_(0.5, 2)
    model.head.projection.weight.normal_(std=0.3)


def compare(name: str, blocks: tuple[int, ...], size: tuple[int, int] = (64, 64), **options):
    alpha, stages = options.pop("octave_alpha", 0.0), options.pop("octave_stages", (2, 3, 4, 5))
    known = {"spatial_strides": "strides", "spatial_dilations": "dilations"}
    reference = {known[key]: options[key] for key in known.keys() & options}
    torch.manual_seed(0)
    model = create_model(
        name,
        num_classes=7,
        octave_alpha=alpha,
        octave_stages=stages,
        width_per_group=WIDTH,
        num_frames=4,
        crop_size=64,
        head_activation="none",  # a softmax of such logits would hide differences
        **options,
    ).double()
    randomise(model)
    model.eval()
    run = Reference(
        model.state_dict(),
        blocks,
        alpha,
        stages if alpha else (),
        stride_1x1=options.get("stride_1x1", False),
        **reference,
    )
    x = torch.randn(2, 3, 4, *size, dtype=torch.double)
    with torch.no_grad():
        got, want = model(x), run(x, (2, 2, 2))
    assert got.std(0).max() > 1e-3 * got.abs().max(), "an output that ignores the input"
    torch.testing.assert_close(got / want.abs().max(), want / want.abs().max())


DEPTHS = {14: (1, 1, 1, 1), 26: (2, 2, 2, 2), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}


@pytest.mark.parametrize("arch", ["c2d", "i3d"])
@pytest.mark.parametrize("depth", DEPTHS)
def test_plain_networks(arch: str, depth: int) -> None:
    compare(f"{arch}_r50", DEPTHS[depth], depth=depth)


@pytest.mark.parametrize("arch", ["c2d", "i3d"])
@pytest.mark.parametrize("stages", [(), (2, 3, 4), (2, 3, 4, 5)], ids=str)
def test_basic_blocks(arch: str, stages: tuple[int, ...]) -> None:
    compare(f"{arch}_r18", (2, 2, 2, 2), octave_alpha=0.5 if stages else 0.0, octave_stages=stages)


@pytest.mark.parametrize("stages", [(2, 3, 4, 5), (2, 3, 4), (3, 4), (5,), (2, 5)], ids=str)
@pytest.mark.parametrize("alpha", [0.1, 0.25, 0.5, 0.875])
def test_octave_networks(alpha: float, stages: tuple[int, ...]) -> None:
    compare("i3d_r50", DEPTHS[26], octave_alpha=alpha, octave_stages=stages, depth=26)


@pytest.mark.parametrize("size", [(75, 90), (97, 65), (127, 64)])
def test_odd_sizes(size: tuple[int, int]) -> None:
    compare("i3d_r50", DEPTHS[50], size, octave_alpha=0.25)


OPTIONS = [
    {"stride_1x1": True},
    {"spatial_strides": (1, 2, 2, 1), "spatial_dilations": (1, 1, 1, 2)},
    {"num_groups": 4},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("alpha", [0.0, 0.25])
def test_options(options: dict, alpha: float) -> None:
    compare("i3d_r50", DEPTHS[26], octave_alpha=alpha, depth=26, **options)

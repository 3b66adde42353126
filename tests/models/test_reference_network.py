"""Whole networks against a second implementation: functions on a state dict, Eq. 4 by hand."""

import math
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from octvideo import create_model
from octvideo.models import NonLocalPlacement

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
    pathways: tuple[int, ...] = (0,)
    temporal_pool: int = 2
    frame_ratio: int = 8
    instantiation: str = "softmax"
    nonlocal_mode: str = "cross"

    def __call__(self, xs: list[Tensor], windows: list[tuple[int, int, int]]) -> Tensor:
        xs = [self.stem(f"s1.pathway{p}_stem", x) for p, x in enumerate(xs)]
        for stage, count in enumerate(self.blocks, 2):
            xs = self.fuse(f"s{stage - 1}_fuse", xs)
            for p in range(len(xs)):
                for i in range(count):
                    xs[p] = self.block(stage, i, xs[p], stage == 5 and i == count - 1, p)
                    xs[p] = self.look_around(f"s{stage}.pathway{p}_nonlocal{i}", xs[p])
            if stage == 2:
                frames = self.temporal_pool
                xs = [self.each(lambda x, t=frames: F.max_pool3d(x, (t, 1, 1)), x) for x in xs]
        pooled = [F.avg_pool3d(x, window, 1) for x, window in zip(xs, windows, strict=True)]
        x = torch.cat(pooled, 1).permute(0, 2, 3, 4, 1)
        weight, bias = (self.state[f"head.projection.{key}"] for key in ("weight", "bias"))
        return (x @ weight.T + bias).flatten(1, 3).mean(1)

    def stem(self, name: str, x: Tensor) -> Tensor:
        weight = self.state[f"{name}.conv.weight"]
        x = F.conv3d(x, weight, None, (1, 2, 2), (weight.shape[2] // 2, 3, 3))
        return F.max_pool3d(self.bn(f"{name}.bn", x).relu(), (1, 3, 3), (1, 2, 2), (0, 1, 1))

    def fuse(self, name: str, xs: list) -> list:
        """What the fast pathway tells the slow one, behind the last high channel."""
        if len(xs) == 1:
            return xs
        slow, fast = xs
        fast = self.one_tensor(fast)  # a 1x1 kernel is the same before and after upsampling
        weight = self.state[f"{name}.conv_f2s.weight"]
        kernel = weight.shape[2]
        y = F.conv3d(fast, weight, None, (self.frame_ratio, 1, 1), (kernel // 2, 0, 0))
        y = self.bn(f"{name}.bn", y).relu()
        if isinstance(slow, Tensor):
            return [torch.cat([slow, y], 1), xs[1]]
        return [(torch.cat([slow[0], y], 1), slow[1]), xs[1]]

    def look_around(self, name: str, x):
        """The non-local block, with its whole attention matrix."""
        if f"{name}.conv_g.weight" not in self.state:
            return x
        x_h, x_l = (x, None) if isinstance(x, Tensor) else x
        if x_l is not None and self.nonlocal_mode == "cross":
            seen = x_l
        else:
            seen = F.max_pool3d(x_h, (1, 2, 2))

        def conv(part: str, value: Tensor) -> Tensor:
            weight, bias = self.state[f"{name}.{part}.weight"], self.state[f"{name}.{part}.bias"]
            return torch.einsum("oc,ncl->nol", weight.flatten(1), value) + bias[:, None]

        theta = conv("conv_theta", x_h.flatten(2))
        phi, g = conv("conv_phi", seen.flatten(2)), conv("conv_g", seen.flatten(2))
        affinity = torch.einsum("ncq,nck->nqk", theta, phi)
        if self.instantiation == "softmax":
            affinity = (affinity * phi.shape[1] ** -0.5).softmax(2)
        else:
            affinity = affinity / phi.shape[2]
        y = conv("conv_out", torch.einsum("nqk,nck->ncq", affinity, g))
        y_h = x_h + self.bn(f"{name}.bn", y.reshape(x_h.shape))
        return y_h if x_l is None else (y_h, x_l)

    def block(self, stage: int, i: int, x, last: bool, pathway: int = 0):
        name = f"s{stage}.pathway{pathway}_res{i}"
        stride = self.strides[stage - 2] if i == 0 else 1
        dilation = self.dilations[stage - 2]
        octave = stage in self.stages and pathway in self.pathways
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
            x = self.bn(f"{name}.b_bn", self.conv(f"{name}.b", x, octave and not last, 1, dilation))
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
    torch.manual_seed(0)
    model = create_model(
        name,
        **{
            "num_classes": 7,
            "width_per_group": WIDTH,
            "num_frames": 4,
            "crop_size": 64,
            "head_activation": "none",  # a softmax of such logits would hide differences
            **options,
        },
    ).double()
    randomise(model)
    model.eval()
    spec, octave = model.spec, model.spec.octave
    run = Reference(
        model.state_dict(),
        blocks,
        alpha=octave.alpha,
        stages=octave.stages if octave.alpha else (),
        strides=spec.spatial_strides,
        dilations=spec.spatial_dilations,
        stride_1x1=spec.stride_1x1,
        pathways=octave.pathways,
        temporal_pool=2 if name[0] in "ci" else 1,
        frame_ratio=getattr(spec, "frame_ratio", 0),
        instantiation=spec.non_local.instantiation,
        nonlocal_mode=octave.nonlocal_mode,
    )
    frames = spec.num_frames
    x = torch.randn(2, 3, frames, *size, dtype=torch.double)
    if name.startswith("slowfast"):
        count = frames // spec.frame_ratio
        slow = [round(i * (frames - 1) / max(count - 1, 1) - 0.5 + 1e-9) for i in range(count)]
        xs, windows = [x[:, :, slow], x], [(count, 2, 2), (frames, 2, 2)]
    else:
        side = {8: 2, 4: 4}[math.prod(spec.spatial_strides)]  # the map of a crop of 64
        xs, windows = [x], [(frames // run.temporal_pool, side, side)]
    with torch.no_grad():
        got, want = model(x), run(xs, windows)
    assert got.std(0).max() > 1e-3 * got.abs().max(), "an output that ignores the input"
    torch.testing.assert_close(got / want.abs().max(), want / want.abs().max())


DEPTHS = {14: (1, 1, 1, 1), 26: (2, 2, 2, 2), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}


@pytest.mark.parametrize("arch", ["c2d", "i3d", "slow"])
@pytest.mark.parametrize(
    "depth", [14, 26, *(pytest.param(n, marks=pytest.mark.slow) for n in (50, 101))]
)
def test_plain_networks(arch: str, depth: int) -> None:
    compare(f"{arch}_r50", DEPTHS[depth], depth=depth)


@pytest.mark.parametrize("alpha", [0.0, 0.25])
@pytest.mark.parametrize("arch", ["c2d", "i3d"])
def test_networks_without_the_pool_in_time(arch: str, alpha: float) -> None:
    """PySlowFast's slow_c2d and slow_i3d: the parameters of C2D and I3D, and no pool after res2."""
    compare(f"slow_{arch}_r50", DEPTHS[26], octave_alpha=alpha, depth=26)
    with torch.device("meta"):
        states = [create_model(f"{name}_r50").state_dict() for name in (arch, f"slow_{arch}")]
    shapes = [{key: value.shape for key, value in state.items()} for state in states]
    assert shapes[0] == shapes[1]


@pytest.mark.parametrize("arch", ["c2d", "i3d"])
@pytest.mark.parametrize("stages", [(), (2, 3, 4), (2, 3, 4, 5)], ids=str)
def test_basic_blocks(arch: str, stages: tuple[int, ...]) -> None:
    compare(f"{arch}_r18", (2, 2, 2, 2), octave_alpha=0.5 if stages else 0.0, octave_stages=stages)


@pytest.mark.parametrize("alpha", [0.0, 0.25])
def test_dilated_basic_blocks(alpha: float) -> None:
    """PySlowFast dilates the second convolution of a basic block."""
    dilated = {"spatial_strides": (1, 2, 2, 1), "spatial_dilations": (1, 1, 2, 2)}
    compare("i3d_r18", (2, 2, 2, 2), octave_alpha=alpha, **dilated)


@pytest.mark.parametrize(
    ("alpha", "stages"),
    [
        pytest.param(alpha, s, marks=[pytest.mark.slow] * (alpha not in (a, 0.875)))
        for s, a in (
            *(((2, 3, 4, 5), 0.1), ((2, 3, 4), 0.25), ((3, 4), 0.5), ((5,), 0.25), ((2, 5), 0.1)),
        )
        for alpha in (0.1, 0.25, 0.5, 0.875)
    ],
    ids=str,
)
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


# Non-local and SlowFast


@pytest.mark.parametrize("instantiation", ["softmax", "dot_product"])
@pytest.mark.parametrize(("alpha", "mode"), [(0.0, "cross"), (0.25, "cross"), (0.25, "high")])
def test_non_local_networks(instantiation: str, alpha: float, mode: str) -> None:
    placement = NonLocalPlacement(((0,), (), (0, 1), (1,)), instantiation)
    compare(
        "i3d_r50",
        DEPTHS[26],
        (75, 90),
        octave_alpha=alpha,
        nonlocal_mode=mode,
        depth=26,
        non_local=placement,
    )


@pytest.mark.parametrize(
    ("alpha", "stages", "pathways"),
    [
        (0.0, (), (0,)),
        *((0.25, (2, 3, 4, 5), pathways) for pathways in ((0,), (1,), (0, 1))),
        *((0.25, (2, 3, 4), (0,)), (0.25, (3,), (0, 1))),
        *(
            pytest.param(0.25, *form, marks=pytest.mark.slow)
            for form in (((2, 3, 4), (1,)), ((2, 3, 4), (0, 1)), ((3,), (0,)), ((3,), (1,)))
        ),
    ],
    ids=str,
)
def test_slowfast(alpha: float, stages: tuple[int, ...], pathways: tuple[int, ...]) -> None:
    compare(
        "slowfast_r50",
        DEPTHS[14],
        (75, 90),
        octave_alpha=alpha,
        octave_stages=stages,
        octave_pathways=pathways,
        depth=14,
        num_frames=16,
        width_per_group=32,
    )


@pytest.mark.parametrize(
    ("name", "alpha"),
    [
        pytest.param(name, alpha, marks=[pytest.mark.slow] * (not (alpha and "nln" in name)))
        for name in ("slowfast_r50", "slowfast_4x16_r50", "slowfast_nln_r50")
        for alpha in (0.0, 0.1)
    ],
)
def test_slowfast_of_full_depth(name: str, alpha: float) -> None:
    compare(name, DEPTHS[50], octave_alpha=alpha, num_frames=16)

"""Networks out of parts, and what their octave form computes: slowly, on maps at full resolution.

A value is one tensor whose low channels, a sorted list, are constant over 2x2 pixels. A convolution
is the paper's Eq. 4 written out on the vanilla weights, with lists of channels: pool, convolve,
upsample. Everything else acts on the low and the high channels separately, as ``OctTensor``
documents. Nothing here is taken from ``octvideo.layers``.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from support.eq4 import pool_reference, upsample_reference

ELEMENTWISE = (nn.ReLU, nn.SiLU, nn.Hardswish, nn.Identity)
NORMS = (nn.BatchNorm2d, nn.BatchNorm3d, nn.InstanceNorm2d, nn.InstanceNorm3d)
POOLS = (nn.MaxPool2d, nn.MaxPool3d, nn.AvgPool2d, nn.AvgPool3d)


class Residual(nn.Module):
    """x + body(x), in one of several spellings."""

    def __init__(self, body: nn.Module, spelling: str) -> None:
        super().__init__()
        self.body, self.spelling = body, spelling

    def forward(self, x):
        y = self.body(x)
        if self.spelling == "in place":
            y += x
            return y
        if self.spelling == "method in place":
            return y.add_(x)
        if self.spelling == "dropped":  # as in stochastic depth: some samples without the body
            noise = torch.empty([x.shape[0]] + [1] * (x.ndim - 1), dtype=x.dtype, device=x.device)
            return x + y * noise.bernoulli_(0.5)
        return x + y if self.spelling == "x first" else torch.add(y, x)


class Dense(nn.Module):
    """[x | body(x)] along the channels, or the reverse."""

    def __init__(self, body: nn.Module, x_first: bool) -> None:
        super().__init__()
        self.body, self.x_first = body, x_first

    def forward(self, x):
        y = self.body(x)
        return torch.cat((x, y) if self.x_first else [y, x], dim=1)


class Halves(nn.Module):
    """One half of the channels passes through the body, the other does not."""

    def __init__(self, body: nn.Module, by_split: bool) -> None:
        super().__init__()
        self.body, self.by_split = body, by_split

    def forward(self, x):
        a, b = x.split(x.shape[1] // 2, dim=1) if self.by_split else x.chunk(2, 1)
        return torch.cat([a, self.body(b)], 1)


class Twice(nn.Module):
    """body(body(x))."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x):
        return self.body(self.body(x))


class Skip(nn.Module):
    """A U-Net's step: down, body, up to the size of x, and a concatenation with x."""

    def __init__(self, down: nn.Module, body: nn.Module, mode: str) -> None:
        super().__init__()
        self.down, self.body, self.mode = down, body, mode

    def forward(self, x):
        y = self.body(self.down(x))
        return torch.cat([F.interpolate(y, size=x.shape[2:], mode=self.mode), x], 1)


class Gate(nn.Module):
    """Squeeze and excitation."""

    def __init__(self, channels: int, ndim: int, expands: bool = False) -> None:
        super().__init__()
        self.expands = expands
        self.down, self.up = nn.Linear(channels, 3), nn.Linear(3, channels)
        self.axes = tuple(range(2, ndim + 2))

    def forward(self, x):
        gate = self.up(F.relu(self.down(x.mean(self.axes)))).sigmoid()
        gate = gate.reshape(*gate.shape, *[1] * len(self.axes))
        return x * (gate.expand_as(x) if self.expands else gate)


class ChannelsLast(nn.Module):
    """A layer norm over the channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)

    def forward(self, x):
        return self.norm(x.movedim(1, -1)).movedim(-1, 1)


class Functional(nn.Module):
    """A 1x1 convolution by function."""

    def __init__(self, channels: int, ndim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(channels, channels, *[1] * ndim) / channels**0.5)

    def forward(self, x):
        return (F.conv2d if self.weight.ndim == 4 else F.conv3d)(x, self.weight)


class Classifier(nn.Module):
    """The mean over space and time, and a linear layer."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.linear = nn.Linear(channels, 4)

    def forward(self, x):
        return self.linear(x.flatten(2).mean(-1) if isinstance(x, Tensor) else self.means(x))

    def means(self, x):
        return x.mean((*range(2, x.dim()),))


@dataclass
class Slow:
    """A value: ``low`` are its low channels; ``left``: it has just left the octave."""

    x: Tensor
    low: list[int]
    left: bool = False

    @property
    def high(self) -> list[int]:
        return [c for c in range(self.x.shape[1]) if c not in set(self.low)]

    @property
    def small(self) -> Tensor:
        """The low channels at half the resolution."""
        return self.x[:, self.low][..., ::2, ::2]

    def each(self, fn: Callable[[Tensor, list[int]], Tensor]) -> "Slow":
        """Applies fn(map, its channels) to both."""
        high = fn(self.x[:, self.high], self.high)
        if not self.low:
            return Slow(high, [], self.left)
        return whole(high, fn(self.small, self.low), self.low, self.high)


def whole(high: Tensor, small: Tensor, low_at: list[int], high_at: list[int]) -> Slow:
    x = high.new_empty(high.shape[0], len(low_at) + len(high_at), *high.shape[2:])
    x[:, high_at], x[:, low_at] = high, upsample_reference(small, high)
    return Slow(x, low_at)


def halved(x: Tensor) -> Tensor:
    return pool_reference(x) if x.shape[1] else x[..., ::2, ::2]


def pooled(x: Tensor) -> Tensor:
    return upsample_reference(pool_reference(x), x)


class SlowOctave:
    """Computes a network's octave form.

    Args:
        low: of the name of each octave convolution: its low output channels; a depthwise one has
            those of its input.
        pools: the plain convolutions that pool for their stride.
    """

    def __init__(self, model: nn.Module, low: dict[str, list[int]], pools: set[str]) -> None:
        self.names = {module: name for name, module in model.named_modules()}
        self.low, self.pools, self.model = low, pools, model

    def __call__(self, x: Tensor) -> Tensor:
        return self.run(self.model, Slow(x, [])).x

    def run(self, part: nn.Module, v: Slow) -> Slow:
        if isinstance(part, nn.Sequential):
            for child in part:
                v = self.run(child, v)
            return v
        if isinstance(part, (nn.Conv2d, nn.Conv3d)):
            return self.convolve(part, v)
        if isinstance(part, ELEMENTWISE):
            return v.each(lambda t, channels: part(t))
        if isinstance(part, NORMS):
            return v.each(lambda t, channels: _norm(part, t, channels))
        if isinstance(part, POOLS):
            return _window(part, v)
        return getattr(self, type(part).__name__.lower())(part, v)

    def convolve(self, conv, v: Slow) -> Slow:
        name = self.names[conv]
        if name not in self.low:  # a vanilla layer, of one tensor
            return Slow(conv(v.x), [])
        depthwise = 1 < conv.groups == conv.in_channels
        times = conv.out_channels // conv.in_channels
        low_out = self.low[name]
        if depthwise:
            low_out = [c * times + k for c in v.low for k in range(times)]
        if not v.low and not low_out:
            stays = name not in self.pools or conv.stride[-1] == 1
            y = conv(v.x) if stays else _same_size(conv, pool_reference(v.x), dense(conv), True)
            return Slow(y, [], v.left)
        weight, halves = dense(conv), conv.stride[-1] == 2
        high_out = [c for c in range(conv.out_channels) if c not in set(low_out)]

        def f(x: Tensor, to: list[int], frm: list[int]) -> Tensor:
            return _same_size(conv, x, weight[to][:, frm])

        x_h, x_l = v.x[:, v.high], v.small
        if halves:
            y_h = f(pool_reference(x_h), high_out, v.high)
            y_h = y_h + f(x_l, high_out, v.low)
            x_h, x_l = pool_reference(x_h), halved(x_l)
        else:
            y_h = f(x_h, high_out, v.high)
            y_h = y_h + upsample_reference(f(x_l, high_out, v.low), y_h)
        bias = 0 if conv.bias is None else conv.bias.reshape(1, -1, *[1] * (v.x.ndim - 2))
        y_h = y_h + (bias if conv.bias is None else bias[:, high_out])
        if not low_out:
            return Slow(y_h, [], left=True)
        y_l = f(pool_reference(x_h), low_out, v.high) + f(x_l, low_out, v.low)
        y_l = y_l + (bias if conv.bias is None else bias[:, low_out])
        return whole(y_h, y_l, low_out, high_out)

    def groupnorm(self, norm: nn.GroupNorm, v: Slow) -> Slow:
        size, count = norm.num_channels // norm.num_groups, len(v.low)
        if count % size or v.low != list(range(count)):
            return Slow(norm(v.x), [])
        return v.each(
            lambda t, at: F.group_norm(t, len(at) // size, norm.weight[at], norm.bias[at], norm.eps)
        )

    def residual(self, part: Residual, v: Slow) -> Slow:
        y = self.run(part.body, v)
        if part.spelling == "dropped":
            noise = torch.empty(v.x.shape[0], *[1] * (v.x.ndim - 1), dtype=v.x.dtype)
            noise.bernoulli_(0.5)
            y = y.each(lambda t, channels: t * noise)
        if bool(v.low) == bool(y.low):
            same = v.low == y.low
            return Slow(v.x + y.x, v.low if same else y.low, v.left and y.left) if same else (
                self._unlike(part, v, y)
            )  # fmt: skip
        octave, other = (v, y) if v.low else (y, v)
        if other.left or (other is y and "in place" in part.spelling):
            return Slow(v.x + y.x, [])
        return octave.each(
            lambda t, at: t + (other.x[:, at] if at == octave.high else (
                pool_reference(other.x[:, at])))
        )  # fmt: skip

    def _unlike(self, part: Residual, v: Slow, y: Slow) -> Slow:
        """Two octave values of other low channels: the second one is merged, split and pooled."""
        a, b = (v, y) if part.spelling in ("x first", "dropped") else (y, v)
        other = b.x.clone()
        other[:, a.low] = pooled(other[:, a.low])
        return Slow(a.x + other, a.low)

    def dense(self, part: Dense, v: Slow) -> Slow:
        y = self.run(part.body, v)
        return _cat([v, y] if part.x_first else [y, v])

    def halves(self, part: Halves, v: Slow) -> Slow:
        half = v.x.shape[1] // 2
        low = [[c for c in v.low if c < half], [c - half for c in v.low if c >= half]]
        if half in (len(low[0]), len(low[1])):
            low = [[], []]
        a, b = Slow(v.x[:, :half], low[0], v.left), Slow(v.x[:, half:], low[1], v.left)
        return _cat([a, self.run(part.body, b)])

    def twice(self, part: Twice, v: Slow) -> Slow:
        return self.run(part.body, self.run(part.body, v))

    def skip(self, part: Skip, v: Slow) -> Slow:
        y = self.run(part.body, self.run(part.down, v))
        size = v.x.shape[2:]
        half = (*size[:-2], *(-(-n // 2) for n in size[-2:]))
        if y.low:
            high = F.interpolate(y.x[:, y.high], size, mode=part.mode)
            y = whole(high, F.interpolate(y.small, half, mode=part.mode), y.low, y.high)
        else:
            y = Slow(F.interpolate(y.x, size, mode=part.mode), [], y.left)
        return _cat([y, v])

    def gate(self, part: Gate, v: Slow) -> Slow:
        means = v.each(lambda t, at: t.mean(part.axes, keepdim=True).expand_as(t)).x
        means = means.flatten(2)[..., 0]
        gate = part.up(F.relu(part.down(means))).sigmoid()
        gate = gate.reshape(*gate.shape, *[1] * len(part.axes))
        return v.each(lambda t, at: t * gate[:, at])

    def classifier(self, part: Classifier, v: Slow) -> Slow:
        axes = tuple(range(2, v.x.ndim))
        means = v.each(lambda t, at: t.mean(axes, keepdim=True).expand_as(t)).x
        return Slow(part.linear(means.flatten(2)[..., 0]), [])

    def _merged(self, part: nn.Module, v: Slow) -> Slow:
        return Slow(part(v.x), [])

    channelslast = functional = convtranspose2d = convtranspose3d = _merged


def dense(conv) -> Tensor:
    """The weight (out, in, ...) of a convolution with groups, zeros between the groups."""
    weight = conv.weight
    full = weight.new_zeros(conv.out_channels, conv.in_channels, *weight.shape[2:])
    rows, columns = conv.out_channels // conv.groups, conv.in_channels // conv.groups
    for g in range(conv.groups):
        out = slice(g * rows, (g + 1) * rows)
        full[out, g * columns : (g + 1) * columns] = weight[out]
    return full


def _same_size(conv, x: Tensor, weight: Tensor, biased: bool = False) -> Tensor:
    """Convolves with stride 1 in space, and pads to keep the size."""
    sums = [d * (k - 1) for k, d in zip(conv.kernel_size, conv.dilation, strict=True)]
    pads = [(s // 2, s - s // 2) for s in sums]
    if conv.padding != "same" and len(sums) == 3:  # time is as the layer has it
        pads[0] = (conv.padding[0], conv.padding[0])
    flat = [n for pair in reversed(pads) for n in pair]
    if not weight.numel():
        x, weight = x.new_zeros(x.shape[0], 1, *x.shape[2:]), (
            weight.new_zeros(weight.shape[0], 1, *weight.shape[2:])
        )  # fmt: skip
    mode = {"zeros": "constant"}.get(conv.padding_mode, conv.padding_mode)
    if any(flat):
        x = F.pad(x, flat, mode=mode)
    function = F.conv2d if x.ndim == 4 else F.conv3d
    stride = (*conv.stride[:-2], 1, 1)
    return function(x, weight, conv.bias if biased else None, stride, 0, conv.dilation)


def _norm(norm, t: Tensor, at: list[int]) -> Tensor:
    """Batch or instance norm of some channels, whose running statistics it updates."""
    affine = [None if p is None else p[at] for p in (norm.weight, norm.bias)]
    if isinstance(norm, (nn.InstanceNorm2d, nn.InstanceNorm3d)):
        return F.instance_norm(t, None, None, *affine, eps=norm.eps)
    mean, var = norm.running_mean[at], norm.running_var[at]
    y = F.batch_norm(t, mean, var, *affine, norm.training, norm.momentum, norm.eps)
    norm.running_mean[at], norm.running_var[at] = mean, var
    return y


def _window(part, v: Slow) -> Slow:
    """Pooling: the low map keeps half the size of the high one, rounded up."""
    high = part(v.x[:, v.high])
    if not v.low:
        return Slow(high, [], v.left)
    want = [-(-n // 2) for n in high.shape[-2:]]
    options = {"ceil_mode": True, "kernel_size": part.kernel_size, "stride": part.stride}
    options["padding"] = part.padding
    ndim = v.x.ndim - 2
    if isinstance(part, (nn.AvgPool2d, nn.AvgPool3d)):
        function = F.avg_pool2d if ndim == 2 else F.avg_pool3d
        options["count_include_pad"] = False
    else:
        function = F.max_pool2d if ndim == 2 else F.max_pool3d
    small = part(v.small)
    if [*small.shape[-2:]] != want:
        small = function(v.small, **options)[..., : want[0], : want[1]]
    return whole(high, small, v.low, v.high) if [*small.shape[-2:]] == want else (
        Slow(part(v.x), [])
    )  # fmt: skip


def _cat(values: list[Slow]) -> Slow:
    low, start = [], 0
    for value in values:
        low += [start + c for c in value.low]
        start += value.x.shape[1]
    return Slow(torch.cat([value.x for value in values], 1), low)

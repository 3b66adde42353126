"""Random networks of many parts, octavized anyhow, compute what the paper's equation says."""

import copy
import zlib

import pytest
import torch
from hypothesis import HealthCheck, Phase, assume, given, settings
from hypothesis import strategies as st
from torch import nn

from octvideo import octavize, optimize_for_inference
from octvideo.layers import OctConv2d, OctConv3d
from support import slow_octave as parts

CONVS = {2: nn.Conv2d, 3: nn.Conv3d}
WIDTHS = (8, 12, 16)


class Builder:
    """Draws networks: ``side`` and ``width`` are those of the map that the next part takes."""

    def __init__(self, draw, ndim: int) -> None:
        self.draw, self.ndim = draw, ndim
        self.side, self.width = draw(st.integers(9, 14)), draw(st.sampled_from(WIDTHS))

    def pick(self, *choices):
        return self.draw(st.sampled_from(choices))

    def kind(self, name: str) -> type:
        return getattr(nn, f"{name}{self.ndim}d")

    def network(self) -> nn.Module:
        stem = self.pick("3x3", "1x1", "stride 2")
        layers = [self.conv(3, self.width, kernel=1 if stem == "1x1" else 3, stem=True)]
        layers += [self.part(2) for _ in range(self.draw(st.integers(2, 6)))]
        if self.pick(True, False):
            layers.append(parts.Classifier(self.width))
        return nn.Sequential(*layers)

    def part(self, depth: int) -> nn.Module:
        """Any part; it may change side and width."""
        choices = ["keep", "keep", "conv", "stride", "pool", "dense", "skip", "unpadded", "up"]
        if self.side < 8:
            choices = ["keep", "conv", "dense", "up"]
        kind = self.pick(*choices)
        before = self.width
        if kind == "keep":
            return self.keep(before, depth)
        if kind == "conv":
            self.width = self.pick(*WIDTHS)
            return self.conv(before, self.width)
        if kind == "stride":
            self.width, self.side = self.pick(before, *WIDTHS), -(-self.side // 2)
            return self.conv(before, self.width, stride=2)
        if kind == "unpadded":
            self.side -= 2
            return self.kind("Conv")(before, before, (3, 3) if self.ndim == 2 else (1, 3, 3))
        if kind == "up":
            if self.side > 10:
                return nn.Identity()
            self.side *= 2
            space = (2, 2) if self.ndim == 2 else (1, 2, 2)
            return self.kind("ConvTranspose")(before, before, space, space)
        if kind == "pool":
            return self.window()
        body = self.body(before, depth - 1)
        self.width = 2 * before
        if kind == "dense":
            return parts.Dense(body, self.pick(True, False))
        down = self.conv(before, before, stride=2)
        return parts.Skip(down, body, self.pick("nearest", "smooth").replace(
            "smooth", "bilinear" if self.ndim == 2 else "trilinear"))  # fmt: skip

    def window(self) -> nn.Module:
        kernel, stride, padding = self.pick((2, 2, 0), (3, 2, 1), (3, 1, 1), (3, 2, 0))
        options = {"ceil_mode": self.pick(True, False)}
        name = self.pick("MaxPool", "AvgPool")
        if name == "AvgPool":
            options["count_include_pad"] = self.pick(True, False)
        if self.ndim == 3:
            kernel, stride = (1, kernel, kernel), (1, stride, stride)
            padding = (0, padding, padding)
        layer = self.kind(name)(kernel, stride, padding, **options)
        before = torch.zeros(1, 1, *(2,) * (self.ndim - 2), self.side, self.side)
        self.side = layer(before).shape[-1]
        return layer

    def body(self, width: int, depth: int) -> nn.Module:
        """A few parts that keep side and width, at least one of them a convolution."""
        more = [self.keep(width, depth) for _ in range(self.draw(st.integers(0, 2)))]
        return nn.Sequential(self.conv(width, width), *more)

    def keep(self, width: int, depth: int) -> nn.Module:
        """Any part that keeps side and width."""
        choices = ["norm", "norm", "act", "gate", "conv", "bottleneck"]
        choices += ["channels last", "functional"]
        if depth > 0:
            choices += ["residual", "residual", "halves", "twice"]
        kind = self.pick(*choices)
        if kind == "norm":
            return self.norm(width)
        if kind == "act":
            return self.pick(nn.ReLU(), nn.ReLU(inplace=True), nn.SiLU(), nn.Hardswish())
        if kind == "gate":
            return parts.Gate(width, self.ndim, self.pick(True, False))
        if kind == "conv":
            return self.conv(width, width)
        if kind == "bottleneck":
            inner = self.pick(*WIDTHS)
            return nn.Sequential(self.conv(width, inner), nn.ReLU(), self.conv(inner, width))
        if kind == "channels last":
            return parts.ChannelsLast(width)
        if kind == "functional":
            return parts.Functional(width, self.ndim)
        if kind == "halves":
            return parts.Halves(self.body(width // 2, depth - 1), self.pick(True, False))
        body = self.body(width, depth - 1)
        if kind == "twice":
            return parts.Twice(body)
        spellings = ("x first", "body first", "in place", "method in place", "dropped")
        return parts.Residual(body, self.pick(*spellings))

    def norm(self, width: int) -> nn.Module:
        name = self.pick("BatchNorm", "BatchNorm", "GroupNorm", "InstanceNorm")
        if name == "GroupNorm":
            return nn.GroupNorm(self.pick(1, 2, width // 2), width)
        if name == "InstanceNorm":
            return self.kind(name)(width, affine=self.pick(True, False))
        return self.kind(name)(width)

    def conv(self, c_in: int, c_out: int, kernel: int = 0, stride: int = 1, stem: bool = False):
        kernel = kernel or self.pick(1, 2, 3, 3, 5)
        if kernel == 2 and stride == 2:
            kernel = 3
        dilation = self.pick(1, 2) if kernel == 3 else 1
        groups = 1
        if not stem:
            groups = self.pick(1, 1, 1, 2, 4, c_in if c_out % c_in == 0 else 1)
            groups = groups if c_in % groups == c_out % groups == 0 else 1
        mode = self.pick("zeros", "zeros", "reflect", "replicate", "circular")
        padding = dilation * (kernel - 1) // 2
        if padding > 1 or self.side < 6:
            mode = "zeros"
        if stride == 1 and (kernel == 2 or self.pick(True, False)):
            padding = "same"
        if self.ndim == 3:
            frames = self.pick(1, 3) if mode == "zeros" else 1
            if isinstance(padding, int):
                padding = (frames // 2, padding, padding)
            kernel, stride = (frames, kernel, kernel), (1, stride, stride)
            dilation = (1, dilation, dilation)
        return self.kind("Conv")(
            c_in, c_out, kernel, stride, padding, dilation, groups, self.pick(True, False), mode
        )


@st.composite
def cases(draw):
    """A network, an example, alpha, placement, and whether to train."""
    ndim = draw(st.sampled_from([2, 2, 3]))
    torch.manual_seed(draw(st.integers(0, 1000)))
    builder = Builder(draw, ndim)
    side = builder.side
    model = builder.network().double()
    shape = (2, 3, *(2,) * (ndim - 2), side, side + draw(st.integers(0, 1)))
    where = draw(st.sampled_from(["default", "end", "*", "some", "some"]))
    if where == "some":
        salt = draw(st.integers(0, 1000))
        where = lambda name: zlib.crc32(f"{salt}{name}".encode()) % 3 > 0  # noqa: E731
    alpha = draw(st.sampled_from([0.125, 0.25, 0.5, 0.75]))
    return model, torch.randn(shape, dtype=torch.double), alpha, where, draw(st.booleans())


@torch.no_grad()
def randomise(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, (nn.BatchNorm2d, nn.BatchNorm3d, nn.GroupNorm)):
            module.weight.uniform_(0.5, 1.5)
            module.bias.normal_()
        if isinstance(module, (nn.BatchNorm2d, nn.BatchNorm3d)):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 1.5)


def low_channels(layer) -> list[int]:
    """Those that the placement chose."""
    return [c for start, stop in layer.layout.low for c in range(start, stop)]


def value_and_gradients(model, run, x):
    torch.manual_seed(7)
    y = run(x)
    assert isinstance(y, torch.Tensor)
    weights = torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view_as(y)
    (y * weights).sum().backward()
    return y.detach(), {name: p.grad for name, p in model.named_parameters()}


def examples(number: int):
    return settings(
        max_examples=number,
        deadline=None,
        derandomize=True,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )


@examples(12)
@given(cases())
@pytest.mark.filterwarnings("ignore:Using padding='same'")
def test_random_network(case) -> None:
    check(*case)


@pytest.mark.slow
@examples(300)
@given(cases())
@pytest.mark.filterwarnings("ignore:Using padding='same'")
def test_many_random_networks(case) -> None:
    check(*case)


def trains(model, x) -> bool:
    """Whether the vanilla network has gradients: a sum in place can destroy what ReLU has kept."""
    try:
        value_and_gradients(model, model, x)
    except RuntimeError as error:
        if "inplace operation" not in str(error):
            raise
        return False
    return True


def check(model, x, alpha, placement, training) -> None:
    randomise(model)
    model.train(training)
    state = copy.deepcopy(model.state_dict())
    assume(trains(copy.deepcopy(model), x))
    octave = octavize(model, alpha, example=x[:1], placement=placement)
    assert list(octave.state_dict()) == list(state)
    octave.load_state_dict(state, strict=True)
    layers = {n: m for n, m in octave.named_modules() if isinstance(m, (OctConv2d, OctConv3d))}
    slow = parts.SlowOctave(
        model,
        {name: low_channels(layer) for name, layer in layers.items()},
        {name for name, layer in layers.items() if layer.pools_plain},
    )
    want, want_grads = value_and_gradients(model, slow, x)
    got, grads = value_and_gradients(octave, octave, x)
    torch.testing.assert_close(got, want, atol=1e-9, rtol=1e-9)
    for name, grad in grads.items():
        assert grad is not None, name
        other = want_grads[name]
        other = torch.zeros_like(grad) if other is None else other
        torch.testing.assert_close(grad, other, atol=1e-7, rtol=1e-7, msg=name)
    for name, value in octave.state_dict().items():
        if "num_batches" not in name:
            torch.testing.assert_close(value, model.state_dict()[name], atol=1e-9, rtol=1e-9)


@examples(40)
@given(cases())
@pytest.mark.filterwarnings("ignore:Using padding='same'")
def test_optimized_for_inference(case) -> None:
    """Batch norms and ReLUs move into convolutions only where nothing else sees their inputs."""
    model, x, alpha, placement, _ = case
    randomise(model)
    octave = octavize(model.eval(), alpha, example=x[:1], placement=placement).eval()
    for network in (model, octave):
        fast = optimize_for_inference(network, example=x[:1])
        with torch.no_grad():
            torch.manual_seed(7)  # some parts draw
            want = network(x)
            torch.manual_seed(7)
            torch.testing.assert_close(fast(x), want, atol=1e-9, rtol=1e-9)


@examples(5)
@given(cases())
@pytest.mark.filterwarnings("ignore:Using padding='same'")
def test_alpha_zero_is_the_vanilla_network(case) -> None:
    model, x, _, placement, _ = case
    model.eval()
    octave = octavize(model, 0.0, placement=placement)
    results = []
    for network in (octave, model):
        torch.manual_seed(7)  # some parts draw
        results.append(network(x))
    assert torch.equal(*results)

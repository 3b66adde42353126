"""What torch's functions do with octave values, against what they do with the merged tensor."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from octvideo.layers import BatchNorm2d, OctBatchNorm2d, OctTensor, merge, pool, strict, upsample
from octvideo.layers.layout import Layout
from octvideo.layers.oct_tensor import MergeError
from support.eq4 import make_input

HIGH, LOW = 5, 3


def value(size: tuple[int, int] = (8, 12), ndim: int = 2) -> OctTensor:
    return OctTensor(*make_input((HIGH, LOW), ndim, size))


# Upsampling repeats pixels, so what acts on single pixels commutes with it.
POINTWISE: dict[str, Callable[[Any], Any]] = {
    "relu": torch.relu,
    "F.relu": F.relu,
    "in place": lambda x: F.relu(x, inplace=True),
    "method": lambda x: x.relu(),
    "module": nn.ReLU6(inplace=True),
    "gelu": F.gelu,
    "sigmoid": torch.sigmoid,
    "clamp": lambda x: x.clamp(-1, 1),
    "to": lambda x: x.to(torch.float32).double(),
    "dropout": nn.Dropout(0.5).eval(),
    "number": lambda x: 2 * x + 1,
    "divided": lambda x: x / 4 - 1,
    "itself": lambda x: x + x,
    "in place, itself": lambda x: x.mul_(x),
    "gate of each channel": lambda x: x * torch.arange(8.0).view(1, 8, *[1] * (x.dim() - 2)),
    "gate from the left": lambda x: torch.arange(8.0).view(8, *[1] * (x.dim() - 2)) * x,
    "gate of each sample": lambda x: x * torch.rand(2, *[1] * (x.dim() - 1), generator=seed()),
    "prelu": lambda x: F.prelu(x, torch.linspace(0, 1, 8).double()),
    "batch norm": lambda x: F.batch_norm(
        x, torch.arange(8.0).double(), torch.arange(1.0, 9).double(), torch.arange(8.0).double()
    ),
}


def seed() -> torch.Generator:
    return torch.Generator().manual_seed(3)


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("size", [(8, 12), (7, 9), (1, 1)], ids=str)
@pytest.mark.parametrize("name", POINTWISE)
def test_pointwise(name: str, size: tuple[int, int], ndim: int) -> None:
    x = value(size, ndim)
    want = POINTWISE[name](x.merged())
    with strict():
        got = POINTWISE[name](x)
    assert isinstance(got, OctTensor)
    torch.testing.assert_close(got.merged(), want)


def test_it_unpacks_like_a_pair_and_looks_like_a_tensor() -> None:
    x = value((7, 9))
    high, low = x
    assert high is x.high
    assert low is x.low
    assert x.shape == x.size() == x.merged().shape == (2, 8, 7, 9)
    assert (x.size(1), x.dim(), x.ndim, x.dtype, x.device.type) == (8, 4, 4, torch.double, "cpu")
    assert tuple(x.channels) == (HIGH, LOW)
    twin = copy.deepcopy(x)
    assert torch.equal(twin.low, low)
    assert twin.low is not low
    with pytest.raises(AttributeError, match="flavour"):
        _ = x.flavour


def test_a_plain_map_is_split_for_a_sum() -> None:
    """In either order, also in place: what has low channels keeps them."""
    x, plain = value(), torch.randn(2, 8, 8, 12, dtype=torch.double)
    kept = plain.clone()
    want_h, want_l = x.high + plain[:, LOW:], x.low + pool(plain[:, :LOW])
    with strict():
        for y in (x + plain, plain + x, torch.add(plain, x)):
            torch.testing.assert_close(tuple(y), (want_h, want_l))
        assert torch.equal(plain, kept), "a part of it was overwritten"


def test_a_method_in_place_changes_the_plain_tensor() -> None:
    """Whoever calls it need not take the result."""
    x, plain = value(), torch.randn(2, 8, 8, 12, dtype=torch.double)
    want = plain + x.merged()
    plain.add_(x)
    assert torch.equal(plain, want)


def test_in_place_and_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Exporters may lose what is written into one of two maps: the value takes new ones."""
    monkeypatch.setattr("octvideo.layers.oct_tensor.is_recorded", lambda: True)
    other = value()
    in_place: dict[str, Callable[[OctTensor], object]] = {
        "method": lambda x: x.relu_(),
        "function": lambda x: torch.relu_(x),
        "sum": lambda x: x.add_(other),
    }
    for name, act in in_place.items():
        x = value()
        maps, before = (x.high, x.low), (x.high.clone(), x.low.clone())
        want = x + other if name == "sum" else x.relu()
        x.pooled()
        act(x)
        for got, wanted in zip(x, want, strict=True):
            torch.testing.assert_close(got, wanted)
        torch.testing.assert_close(x.pooled(), pool(want.high))
        assert all(torch.equal(a, b) for a, b in zip(maps, before, strict=True)), name


def test_who_has_left_the_octave_decides_a_sum() -> None:
    """The result of a convolution to plain channels, through its batch norm and ReLU."""
    x, plain = value(), torch.randn(2, 8, 8, 12, dtype=torch.double)
    left = F.relu(BatchNorm2d(8).double().eval()(OctTensor(plain, None)))
    want = plain / (1 + 1e-5) ** 0.5
    for y in (x + left, left + x):
        assert isinstance(y, Tensor)
        torch.testing.assert_close(y, x.merged() + want.relu())
    with strict():  # there is nothing to merge
        assert isinstance(left + plain, Tensor)
        assert isinstance(F.conv2d(left, torch.ones(1, 8, 1, 1, dtype=torch.double)), Tensor)
        assert isinstance(left.flatten(1), Tensor)


@pytest.mark.parametrize("size", [(8, 12), (16, 16), (7, 10), (14, 30)], ids=str)
@pytest.mark.parametrize(
    "window",
    [
        lambda x: F.max_pool2d(x, 2),
        lambda x: F.max_pool2d(x, 3, 2, 1),
        lambda x: F.avg_pool2d(x, 2),
        lambda x: F.avg_pool2d(x, 3, 1, 1),
        nn.MaxPool2d(2, ceil_mode=True),
    ],
)
def test_pooling_keeps_the_low_map_half_as_large(window, size: tuple[int, int]) -> None:
    x = value(size)
    with strict():
        y = window(x)
    assert torch.equal(y.high, window(x.high))
    assert y.low.shape[2:] == tuple((n + 1) // 2 for n in y.high.shape[2:])
    if all(n % 8 == 0 for n in size):  # no window at a border
        assert torch.equal(y.low, window(x.low))
    assert torch.isfinite(y.low).all()


def test_interpolation_keeps_the_low_map_half_as_large() -> None:
    x = value((7, 9))
    with strict():
        for y in (F.interpolate(x, scale_factor=2), F.interpolate(x, size=(14, 18))):
            assert torch.equal(y.high, F.interpolate(x.high, size=(14, 18)))
            assert torch.equal(y.low, F.interpolate(x.low, size=(7, 9)))


def test_concatenation() -> None:
    x, y, plain = value(), value(), torch.randn(2, 4, 8, 12, dtype=torch.double)
    with strict():
        z = torch.cat([x, plain, y], dim=1)
    assert torch.equal(z.high, torch.cat([x.high, plain, y.high], 1))
    assert torch.equal(z.low, torch.cat([x.low, y.low], 1))
    assert torch.equal(torch.cat([x, y], 0), torch.cat([x.merged(), y.merged()], 0))


@pytest.mark.parametrize("ndim", [2, 3])
def test_means_over_space(ndim: int) -> None:
    x = value((8, 12), ndim)
    space = tuple(range(2, x.dim()))
    adaptive = F.adaptive_avg_pool2d if ndim == 2 else F.adaptive_avg_pool3d
    with strict():
        torch.testing.assert_close(x.mean(space), x.merged().mean(space))
        torch.testing.assert_close(adaptive(x, 1), adaptive(x.merged(), 1))
        torch.testing.assert_close(
            x.mean((-1, -2), keepdim=True), x.merged().mean((-1, -2), keepdim=True)
        )


def test_everything_else_sees_one_tensor() -> None:
    x = value((7, 9))
    weight = torch.randn(4, 8, 3, 3, dtype=torch.double)
    for f in (
        lambda x: F.conv2d(x, weight),
        lambda x: x.flatten(1),
        lambda x: x[:, ::2],
        torch.var,
    ):
        assert torch.equal(f(x), f(merge(x)))
        with strict(), pytest.raises(MergeError, match="would merge"):
            f(x)
    other = OctTensor(*make_input((HIGH + 1, LOW - 1), 2, (7, 9)))
    torch.testing.assert_close(x + other, x.merged() + other.merged())


def test_gradients_pass() -> None:
    x_h, x_l = (part.requires_grad_() for part in make_input((HIGH, LOW), 2))
    y = F.max_pool2d(F.relu(OctTensor(x_h, x_l) * 3), 2)
    y.merged().square().sum().backward()
    assert x_h.grad.any()
    assert x_l.grad.any()


def test_norms_of_known_and_of_learned_channels_agree() -> None:
    known, learned = OctBatchNorm2d((HIGH, LOW)).double(), BatchNorm2d(8).double()
    x = value()
    for y, z in zip(known(x), learned(x), strict=True):
        assert torch.equal(y, z)
    for name, buffer in known.named_buffers():
        assert torch.equal(buffer, learned.get_buffer(name)), name


def layered(size: tuple[int, int] = (8, 12)) -> OctTensor:
    """Five high and three low channels, of which the tensor has 1, 4 and 5 as low ones."""
    x = value(size)
    return OctTensor(x.high, x.low, Layout(8, ((1, 2), (4, 6))))


def at(x: Tensor, channels: list[int]) -> Tensor:
    return x[:, channels]


def test_a_layout_orders_the_channels() -> None:
    """Merged, averaged, gated, cut and normalised, each channel is where the layout says."""
    x = layered((7, 9))
    low, high = [1, 4, 5], [0, 2, 3, 6, 7]
    merged = merge(x)
    assert torch.equal(at(merged, high), x.high)
    torch.testing.assert_close(at(merged, low), upsample(x.low, x.high.shape[-2:]))
    means = x.mean((2, 3))
    torch.testing.assert_close(at(means, high), x.high.mean((2, 3)))
    torch.testing.assert_close(at(means, low), x.low.mean((2, 3)))
    gate = torch.randn(2, 8, 1, 1, dtype=torch.double)
    torch.testing.assert_close(merge(x * gate), merged * gate)
    with strict():
        parts = [x[:, :5], x[:, 5:]]
        assert [tuple(part.channels) for part in parts] == [(3, 2), (2, 1)]
        assert isinstance(x[:, 2:4], Tensor)
        for again in (torch.cat(parts, 1), torch.cat(torch.split(x, [5, 3], 1), 1)):
            assert again.layout == x.layout
            assert torch.equal(merge(again), merged)


def test_statistics_of_a_layout() -> None:
    """Batch norm in training, as a module and as a function: the running statistics too."""
    x, norm = layered(), nn.BatchNorm2d(8).double()
    nn.init.uniform_(norm.weight)
    ours = BatchNorm2d(8).double()
    ours.load_state_dict(norm.state_dict())
    y = ours(x)
    for part, channels in ((x.high, [0, 2, 3, 6, 7]), (x.low, [1, 4, 5])):
        one = nn.BatchNorm2d(len(channels)).double()
        one.weight.data = norm.weight.data[channels]
        want = one(part)
        got = y.low if part is x.low else y.high
        torch.testing.assert_close(got, want)
        torch.testing.assert_close(ours.running_var[channels], one.running_var)
    mean, var = torch.zeros(8, dtype=torch.double), torch.ones(8, dtype=torch.double)
    z = F.batch_norm(x, mean, var, norm.weight, norm.bias, True)
    torch.testing.assert_close(merge(z), merge(y))
    torch.testing.assert_close(var, ours.running_var)


def test_sums_of_different_layouts() -> None:
    """The second takes the layout of the first; nothing is added to another channel."""
    x, y = layered(), layered()
    y.layout = Layout(8, ((0, 3),))
    z = x + y
    assert z.layout == x.layout
    torch.testing.assert_close(z.high, x.high + at(merge(y), [0, 2, 3, 6, 7]))
    torch.testing.assert_close(z.low, x.low + pool(at(merge(y), [1, 4, 5])))


def test_group_norm_of_whole_groups() -> None:
    x = OctTensor(*make_input((6, 2), 2))
    norm = nn.GroupNorm(4, 8).double()
    nn.init.uniform_(norm.bias)
    with strict():
        y = norm(x)
    torch.testing.assert_close(y.low, F.group_norm(x.low, 1, bias=norm.bias[:2]))
    torch.testing.assert_close(y.high, F.group_norm(x.high, 3, bias=norm.bias[2:]))
    assert torch.equal(merge(nn.GroupNorm(2, 8).double()(x)), nn.GroupNorm(2, 8).double()(merge(x)))


def _masked(x: Any) -> Any:
    x[x < 0] = 0.5
    return x


def _summed(x: Any) -> Any:
    x[:, 2:4] += 1
    return x


def _into_another(x: Any) -> Any:
    y = x.clone()
    torch.add(x, x, out=y)
    return y


WRITES: dict[str, Callable[[Any], Any]] = {
    "method": lambda x: (x.masked_fill_(x < 0, 0.5), x)[1],
    "copy": lambda x: (x.copy_(torch.ones(x.shape)), x)[1],
    "copy of a value": lambda x: (x.copy_(x * 2), x)[1],
    "mask": _masked,
    "channels": _summed,
    "power": lambda x: (x.pow_(2), x.remainder_(0.5), x)[2],
    "out": _into_another,
}


@pytest.mark.parametrize("make", [value, layered], ids=["value", "layered"])
@pytest.mark.parametrize("name", WRITES)
def test_what_is_written_into_a_value_is_in_it(name: str, make: Callable[[], OctTensor]) -> None:
    """Also by functions that merge it, for those who do not take their result."""
    x = make()
    want = WRITES[name](x.merged().clone())
    torch.testing.assert_close(merge(WRITES[name](x)), want)


def test_comparisons_masks_and_attributes_of_a_tensor() -> None:
    x, scale = layered(), torch.randn(8, 12, 12, dtype=torch.double)
    x.high[0, 0] = 0
    one = merge(x)
    for f in (
        lambda x: x == 0,
        lambda x: x != 0,
        lambda x: ~(x > 0) | (x < -1) & (x != -2),
        lambda x: x.mT,
        lambda x: x.data.mul(3),
        lambda x: torch.tensor(len(x)),
        lambda x: scale[0] @ x.mT,
        lambda x: x.abs() ** scale[:, :1, :1].abs(),
        lambda x: x.clamp(min=scale[:, :1, :1]),
    ):
        assert torch.equal(merge(f(x)), f(one))
    mask = torch.rand(one.shape) < 0.5
    for y in (x * mask, mask * x):
        torch.testing.assert_close(tuple(y), tuple(x * mask.double()))


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("kind", ["avg", "max"])
def test_a_window_as_large_as_the_map(kind: str, ndim: int) -> None:
    """Means over space by F.avg_pool2d(x, x.shape[2:]), as squeeze-and-excitation often has it."""
    x = OctTensor(*make_input((HIGH, LOW), ndim, (7, 9)), Layout(8, ((1, 2), (4, 6))))
    adaptive = getattr(F, f"adaptive_{kind}_pool{ndim}d")
    window = getattr(F, f"{kind}_pool{ndim}d")
    with strict():
        got = window(x, x.shape[2:])
        assert torch.equal(got, window(x, kernel_size=x.shape[2:], stride=x.shape[2:]))
        torch.testing.assert_close(got, adaptive(x, 1))

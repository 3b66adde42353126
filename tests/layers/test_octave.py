"""Octave convolution against the paper's Eq. 4, written out with torch.nn.functional."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from octvideo.layers import Channels, OctConv3d, OctTensor, conv3d_as_2d, merge, per_frequency
from support.eq4 import (
    CASES,
    FRAMES,
    LAYERS,
    Case,
    all_cases,
    both_dims,
    eq4,
    half,
    make_input,
    parts,
    require_grad,
)

PLAIN = {2: nn.Conv2d, 3: nn.Conv3d}


# The operator


@both_dims
@all_cases
def test_equals_eq4_with_gradients(case: Case, ndim: int) -> None:
    layer = case.build(ndim)
    x = require_grad(make_input(case.c_in, ndim))
    got, want = layer(x), eq4(layer, case, x)
    assert type(got) is type(want)
    inputs = [*parts(x), *layer.parameters()]
    grads = []
    for y in (got, want):
        weights = [torch.linspace(-1, 1, p.numel(), dtype=p.dtype).view_as(p) for p in parts(y)]
        loss = sum((p * w).sum() for p, w in zip(parts(y), weights, strict=True))
        grads.append(torch.autograd.grad(loss, inputs))
    torch.testing.assert_close(parts(got), parts(want))
    torch.testing.assert_close(grads[0], grads[1])


@both_dims
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("h", range(5, 32))
def test_every_size(h: int, stride: int, ndim: int) -> None:
    case = Case((3, 2), (2, 2), stride=stride, frames=(1, 1))
    layer = case.build(ndim)
    for w in range(5, 32, 13 if h % 5 else 1):
        x = make_input(case.c_in, ndim, (h, w), n=1)
        y_h, y_l = layer(x)
        h_out, w_out = (h, w) if stride == 1 else (half(h), half(w))
        assert y_h.shape[-2:] == (h_out, w_out)
        assert y_l.shape[-2:] == (half(h_out), half(w_out))
        torch.testing.assert_close((y_h, y_l), eq4(layer, case, x))


@settings(max_examples=60, deadline=None)
@given(
    ndim=st.sampled_from([2, 3]),
    size=st.tuples(st.integers(3, 31), st.integers(3, 31)),
    c_in=st.tuples(st.integers(1, 5), st.integers(0, 4)),
    c_out=st.tuples(st.integers(1, 5), st.integers(0, 4)),
    kernel=st.sampled_from([1, 3, 5]),
    stride=st.sampled_from([1, 2]),
    frames=st.tuples(st.sampled_from([1, 3]), st.sampled_from([1, 2])),
)
def test_any_layer_on_any_size(ndim, size, c_in, c_out, kernel, stride, frames) -> None:
    if not (c_in[1] or c_out[1]):
        return
    case = Case(c_in, c_out, kernel=kernel, stride=stride, frames=frames)
    layer, x = case.build(ndim), make_input(c_in, ndim, size, n=1)
    torch.testing.assert_close(parts(layer(x)), parts(eq4(layer, case, x)))


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("c_in", [(4, 2), (6, 0)])
@pytest.mark.parametrize("c_out", [(3, 2), (5, 0)])
def test_gradcheck(c_in, c_out, stride: int) -> None:
    layer = Case(c_in, c_out, stride=stride).build(2)
    x = require_grad(make_input(c_in, 2, (5, 4), n=1))
    names = [name for name, _ in layer.named_parameters()]

    def run(*tensors: Tensor):
        params = dict(zip(names, tensors[: len(names)], strict=True))
        value = tensors[len(names) :] if c_in[1] else tensors[-1]
        return torch.func.functional_call(layer, params, (value,))

    assert torch.autograd.gradcheck(run, (*layer.parameters(), *parts(x)))


@both_dims
def test_equals_the_vanilla_layer_where_nothing_varies_in_space(ndim: int) -> None:
    """There pooling and upsampling are identities: one weight, one order of channels."""
    oct_layer = Case((5, 3), (4, 6), kernel=1, frames=(3, 1)).build(ndim)
    kernel = (3, 1, 1) if ndim == 3 else 1
    padding = (1, 0, 0) if ndim == 3 else 0
    plain = PLAIN[ndim](8, 10, kernel, padding=padding).double()
    plain.load_state_dict(oct_layer.state_dict())
    frames = (FRAMES,) if ndim == 3 else ()
    flat = torch.randn(2, 8, *frames, 1, 1, dtype=torch.double)
    x_l, x_h = flat[:, :3], flat[:, 3:]
    y = merge(oct_layer((x_h.expand(*x_h.shape[:-2], 6, 8), x_l.expand(*x_l.shape[:-2], 3, 4))))
    torch.testing.assert_close(y, plain(flat).expand_as(y))


@both_dims
def test_groups_stay_apart(ndim: int) -> None:
    """Both frequencies of group 1 of the input reach only group 1 of both outputs."""
    case = Case((6, 2), (4, 8), groups=2, bias=False)
    layer = case.build(ndim)
    x_h, x_l = make_input(case.c_in, ndim)
    x_h[:, :3], x_l[:, :1] = 0, 0
    y_h, y_l = layer((x_h, x_l))
    assert not y_h[:, :2].any()
    assert not y_l[:, :4].any()
    assert y_h[:, 2:].all()
    assert y_l[:, 4:].all()


@both_dims
@pytest.mark.parametrize("name", ["pair", "pair stride 2", "first", "last", "depthwise"])
def test_bias_is_added_once(name: str, ndim: int) -> None:
    case = CASES[name]
    layer = case.build(ndim)
    nn.init.zeros_(layer.weight)
    low = case.c_out[1]
    y = parts(layer(make_input(case.c_in, ndim)))
    for part, bias in zip(y, (layer.bias[low:], layer.bias[:low]), strict=False):
        want = bias.reshape(1, -1, *[1] * (part.ndim - 2)).expand_as(part)
        torch.testing.assert_close(part, want)


@both_dims
def test_a_depthwise_layer_has_two_paths(ndim: int) -> None:
    assert set(CASES["depthwise"].build(ndim).kernels()) == {"h2h", "l2l"}
    assert set(CASES["first"].build(ndim).kernels()) == {"h2h", "h2l"}
    assert set(CASES["last"].build(ndim).kernels()) == {"h2h", "l2h"}
    assert set(CASES["pair"].build(ndim).kernels()) == {"h2h", "h2l", "l2h", "l2l"}


# One weight; alpha 0


@both_dims
@all_cases
def test_one_weight_of_the_vanilla_shape(case: Case, ndim: int) -> None:
    layer = case.build(ndim)
    kernel = (case.kernel,) * 2 if ndim == 2 else (case.frames[0], case.kernel, case.kernel)
    plain = PLAIN[ndim](sum(case.c_in), sum(case.c_out), kernel, groups=case.groups, bias=case.bias)
    shapes = {key: value.shape for key, value in plain.state_dict().items()}
    assert {key: value.shape for key, value in layer.state_dict().items()} == shapes
    plain.load_state_dict(layer.state_dict(), strict=True)
    if case.groups != sum(case.c_in):
        assert sum(k.numel() for k in layer.kernels().values()) == layer.weight.numel()


PLAIN_OPTIONS = [
    {"kernel_size": 3, "padding": 1},
    {"kernel_size": 1, "bias": False},
    {"kernel_size": 3, "stride": 2, "padding": 1},
    {"kernel_size": 2, "stride": 3},  # a plain layer may change the size as it likes
    {"kernel_size": 3, "padding": 2, "dilation": 2, "groups": 2},
    {"kernel_size": 3, "padding": 1, "groups": 4},
]


@both_dims
@pytest.mark.parametrize("options", PLAIN_OPTIONS, ids=str)
def test_alpha_zero_is_the_plain_layer_bit_for_bit(options: dict, ndim: int) -> None:
    torch.manual_seed(3)
    plain = PLAIN[ndim](4, 8, **options)
    torch.manual_seed(3)
    layer = LAYERS[ndim](4, 8, **options, alpha_in=0.0, alpha_out=0.0)
    assert plain.state_dict().keys() == layer.state_dict().keys()
    for key, value in plain.state_dict().items():
        assert torch.equal(value, layer.state_dict()[key]), f"initial {key}"
    layer.load_state_dict(plain.state_dict(), strict=True)

    x = torch.randn(2, 4, *(7,) * ndim)

    def results(module: nn.Module) -> list[Tensor]:
        module.zero_grad()
        x_own = x.clone().requires_grad_()
        y = module(x_own)
        y.square().sum().backward()
        return [y.detach(), x_own.grad, *[p.grad.clone() for p in module.parameters()]]

    with conv3d_as_2d.disabled():
        for want, got in zip(results(plain), results(layer), strict=True):
            assert torch.equal(want, got)
    for want, got in zip(results(plain), results(layer), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-4)


def test_temporal_arguments_of_the_plain_layer() -> None:
    plain = nn.Conv3d(4, 6, (5, 7, 7), (1, 2, 2), (2, 3, 3))
    layer = OctConv3d(4, 6, (5, 7, 7), (1, 2, 2), (2, 3, 3))
    layer.load_state_dict(plain.state_dict())
    x = torch.randn(1, 4, 4, 12, 13)
    with conv3d_as_2d.disabled():
        assert torch.equal(layer(x), plain(x))
    torch.testing.assert_close(layer(x), plain(x))


@both_dims
def test_default_init_gives_each_kernel_its_own_fan(ndim: int) -> None:
    """Default of torch: uniform within 1/sqrt(fan_in), here the fan of the kernel."""
    torch.manual_seed(0)
    layer = LAYERS[ndim](64, 64, 3, padding=1, alpha_in=0.25, alpha_out=0.25)
    fans = {"h2h": 48, "h2l": 48, "l2h": 16, "l2l": 16}
    for name, kernel in layer.kernels().items():
        bound = (fans[name] * 3**ndim) ** -0.5
        assert 0.98 * bound < kernel.abs().max() <= bound, name


def test_forms_of_the_arguments() -> None:
    layer = OctConv3d(64, 128, (3, 1, 1), padding=(1, 0, 0), alpha_in=0.1, alpha_out=0.25)
    assert layer.channels_in == Channels(58, 6)
    assert layer.channels_out == (96, 32)
    assert layer.weight.shape == (128, 64, 3, 1, 1)
    text = repr(layer)
    assert "(58, 6) -> (96, 32)" in text
    assert "bias=True" in text


# Formats and devices


@both_dims
@pytest.mark.parametrize("name", ["pair", "pair stride 2", "first", "last", "depthwise"])
def test_channels_last(name: str, ndim: int) -> None:
    case = CASES[name]
    layer = case.build(ndim)
    x = make_input(case.c_in, ndim)
    want = parts(layer(x))
    memory_format = torch.channels_last if ndim == 2 else torch.channels_last_3d
    x = per_frequency(lambda part: part.contiguous(memory_format=memory_format), x)
    torch.testing.assert_close(parts(layer.to(memory_format=memory_format)(x)), want)


@both_dims
@all_cases
def test_meta_device(case: Case, ndim: int) -> None:
    layer = case.build(ndim)
    x = make_input(case.c_in, ndim)
    want = [part.shape for part in parts(layer(x))]
    y = layer.to("meta")(per_frequency(lambda part: part.to("meta"), x))
    assert [part.shape for part in parts(y)] == want
    assert all(part.is_meta for part in parts(y))


def test_cases_cover_strides_and_frequencies() -> None:
    """The table above holds every combination of pair / first / last with both strides."""
    kinds = {(bool(c.c_in[1]), bool(c.c_out[1]), c.stride) for c in CASES.values()}
    assert kinds == {
        (i, o, s) for i, o, s in itertools.product([True, False], [True, False], [1, 2]) if i or o
    }


@pytest.mark.parametrize("shares_pooled", [False, True])
@pytest.mark.parametrize("channels_in", [(48, 16), (64, 0)])
def test_a_training_step_keeps_no_copy_of_the_inputs(
    channels_in: tuple[int, int], shares_pooled: bool
) -> None:
    """What the backward pass wants of a 1x1x1 layer are x_h, x_l and the weight."""
    layer = OctConv3d(channels_in, (48, 16), 1, bias=False)
    high, low = channels_in
    x_h = torch.randn(2, high, 4, 8, 8).to(memory_format=torch.channels_last_3d)
    x_l = torch.randn(2, low, 4, 4, 4).to(memory_format=torch.channels_last_3d)
    parts = [x_h.requires_grad_(), *([x_l.requires_grad_()] if low else [])]
    kept: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        x = OctTensor(*parts) if low else x_h
        if shares_pooled and low:
            x.pooled()
        outputs = layer(x)
    owned = {t.untyped_storage().data_ptr() for t in (*parts, layer.weight)}
    owned |= {0}  # torch 2.4 keeps an empty tensor
    assert not kept.keys() - owned, {p: n for p, n in kept.items() if p not in owned}
    sum(y.square().sum() for y in outputs).backward()
    assert all(t.grad is not None for t in (*parts, layer.weight))

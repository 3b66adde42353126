"""Octave layers where torch's layers are expected: arguments, padding, and torch's own tools."""

import inspect
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from octvideo import create_model
from octvideo.layers import OctBatchNorm2d, OctBatchNorm3d, OctConv2d, OctConv3d, conv3d_as_2d
from support.eq4 import CASES, LAYERS, Case, both_dims, make_input, parts

PLAIN = {2: nn.Conv2d, 3: nn.Conv3d}
NORMS = {2: (OctBatchNorm2d, nn.BatchNorm2d), 3: (OctBatchNorm3d, nn.BatchNorm3d)}


@both_dims
def test_arguments_in_the_order_of_torch(ndim: int) -> None:
    for ours, theirs in ((LAYERS[ndim], PLAIN[ndim]), NORMS[ndim]):
        wanted = list(inspect.signature(theirs).parameters)
        known = inspect.signature(ours).parameters
        got = [name for name, p in known.items() if p.kind != p.KEYWORD_ONLY]
        assert got == wanted[: len(got)]
        assert {"device", "dtype"} <= set(got)
    options = (3, 1, 2, 2, 4, False, "circular", "cpu", torch.float64)
    plain, layer = PLAIN[ndim](8, 8, *options), LAYERS[ndim](8, 8, *options)
    layer.load_state_dict(plain.state_dict())
    x = torch.randn(2, 8, *(6,) * ndim, dtype=torch.double)
    torch.testing.assert_close(layer(x), plain(x))


@both_dims
def test_device_and_dtype(ndim: int) -> None:
    options = {"device": "meta", "dtype": torch.bfloat16}
    conv = LAYERS[ndim](8, 8, 3, padding=1, alpha_in=0.5, **options)
    norm = NORMS[ndim][0](8, alpha=0.5, **options)
    for tensor in (*conv.parameters(), *norm.parameters(), norm.running_var):
        assert (tensor.device.type, tensor.dtype) == ("meta", torch.bfloat16)


PADDINGS = [
    {"padding": "same"},
    {"padding": "same", "kernel_size": 4},
    {"padding": "same", "dilation": 2},
    {"padding": "valid"},
    {"padding": 1, "padding_mode": "reflect"},
    {"padding": "same", "padding_mode": "circular", "kernel_size": 4},
    {"padding": 2, "padding_mode": "replicate", "stride": 2},
]


@both_dims
@pytest.mark.parametrize("options", PADDINGS, ids=str)
def test_padding_of_plain_layers(options: dict, ndim: int) -> None:
    options = {"kernel_size": 3, **options}
    plain = PLAIN[ndim](4, 6, **options).double()
    x = torch.randn(2, 4, *(7,) * ndim, dtype=torch.double)
    own = [LAYERS[ndim](4, 6, **options)] + [conv3d_as_2d.Conv3d(4, 6, **options)] * (ndim == 3)
    for layer in own:
        layer.double().load_state_dict(plain.state_dict())
        torch.testing.assert_close(layer(x), plain(x))


@both_dims
@pytest.mark.parametrize("mode", ["zeros", "reflect", "replicate", "circular"])
@pytest.mark.parametrize("kernel", [3, 4])
def test_each_path_pads_its_own_map(mode: str, kernel: int, ndim: int) -> None:
    layer = LAYERS[ndim]((5, 3), (4, 6), kernel, padding="same", padding_mode=mode).double()
    x_h, x_l = make_input((5, 3), ndim, (8, 12))

    def f(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        amounts = [(kernel - 1) // 2, kernel // 2] * ndim
        x = F.pad(x, amounts, "constant" if mode == "zeros" else mode)
        return (F.conv2d if ndim == 2 else F.conv3d)(x, weight, bias)

    w, bias_l, bias_h = layer.weight, layer.bias[:6], layer.bias[6:]
    scale = (1,) * (ndim - 2) + (2, 2)
    pool = F.avg_pool2d if ndim == 2 else F.avg_pool3d
    from_low = f(x_l, w[6:, :3]).repeat_interleave(2, -1).repeat_interleave(2, -2)
    y_h = f(x_h, w[6:, 3:], bias_h) + from_low
    y_l = f(x_l, w[:6, :3], bias_l) + f(pool(x_h, scale), w[:6, 3:])
    torch.testing.assert_close(layer((x_h, x_l)), (y_h, y_l))


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"padding": "sane"}, "sane"),
        ({"padding_mode": "mirror"}, "mirror"),
        ({"padding": "same", "stride": 2}, "stride"),
        ({"padding": "valid", "alpha_in": 0.5}, "valid"),
    ],
)
def test_paddings_that_do_not_go(options: dict, word: str) -> None:
    with pytest.raises(ValueError, match=word):
        OctConv2d(8, 8, 3, **options)


# torch's tools


@both_dims
@pytest.mark.parametrize("name", sorted(CASES))
def test_symbolic_trace(name: str, ndim: int) -> None:
    layer, x = CASES[name].build(ndim), make_input(CASES[name].c_in, ndim)
    traced = torch.fx.symbolic_trace(layer)
    torch.testing.assert_close(parts(traced(x)), parts(layer(x)), rtol=0, atol=0)


def test_symbolic_trace_of_a_small_network() -> None:
    model = nn.Sequential(
        OctConv3d(4, 8, 3, padding=1, alpha_out=0.25),
        OctBatchNorm3d(8, alpha=0.25),
        OctConv3d((6, 2), 4, 1),
    )
    x = torch.randn(2, 4, 2, 7, 6)
    for mode in (True, False):
        traced = torch.fx.symbolic_trace(model.train(mode))
        torch.testing.assert_close(traced(x), model(x))


@both_dims
@pytest.mark.parametrize("name", ["pair", "pair stride 2", "first", "last", "depthwise"])
def test_function_transforms(name: str, ndim: int) -> None:
    """torch.func's gradient is autograd's, and those of single samples are of batches of one."""
    case: Case = CASES[name]
    layer, x = case.build(ndim), make_input(case.c_in, ndim)
    singles = tuple(part[:, None] for part in parts(x))
    singles = singles if case.c_in[1] else singles[0]
    together = vmap(layer)(singles)
    wanted = layer(x)
    for got, want in zip(parts(together), parts(wanted), strict=True):
        torch.testing.assert_close(got[:, 0], want)

    def loss(parameters: dict[str, Tensor], x: object) -> Tensor:
        return sum(y.square().sum() for y in parts(functional_call(layer, parameters, (x,))))

    parameters = {key: value.detach() for key, value in layer.named_parameters()}
    loss(dict(layer.named_parameters()), x).backward()
    whole = grad(loss)(parameters, x)
    each = vmap(grad(loss), in_dims=(None, 0))(parameters, singles)
    for key, parameter in layer.named_parameters():
        torch.testing.assert_close(whole[key], parameter.grad)
        torch.testing.assert_close(each[key].sum(0), parameter.grad)
    layer.zero_grad()
    first = tuple(part[:1] for part in parts(x))
    loss(dict(layer.named_parameters()), first if case.c_in[1] else first[0]).backward()
    for key, parameter in layer.named_parameters():
        torch.testing.assert_close(each[key][0], parameter.grad)


def test_gradients_of_single_clips_through_a_network() -> None:
    torch.manual_seed(0)
    options = {"depth": 14, "width_per_group": 8, "num_frames": 4, "crop_size": 32}
    model = create_model("i3d_r50", 5, 0.25, **options).eval()
    nn.init.normal_(model.head.projection.weight)
    parameters = {key: value.detach() for key, value in model.named_parameters()}
    clips = torch.randn(3, 1, 3, 4, 32, 32)

    def loss(parameters: dict[str, Tensor], clip: Tensor) -> Tensor:
        return functional_call(model, parameters, (clip,)).square().sum()

    each = vmap(grad(loss), in_dims=(None, 0))(parameters, clips)
    model(clips[1]).square().sum().backward()
    for key, parameter in model.named_parameters():
        torch.testing.assert_close(each[key][1], parameter.grad, rtol=1e-3, atol=1e-6, msg=key)


# Batch norm of one value a channel


def test_one_value_is_normalised_by_the_running_statistics() -> None:
    norm = OctBatchNorm2d((3, 2))
    norm.running_mean.uniform_(-1, 1)
    norm.running_var.uniform_(0.5, 2)
    before = {key: value.clone() for key, value in norm.state_dict().items()}
    x_h, x_l = torch.randn(1, 3, 2, 2), torch.randn(1, 2, 1, 1, requires_grad=True)
    with pytest.warns(UserWarning, match=r"one value a channel, \(1, 2, 1, 1\)"):
        y_h, y_l = norm((x_h, x_l))
    wanted = (x_l[0, :, 0, 0] - before["running_mean"][:2]) / (
        before["running_var"][:2] + 1e-5
    ) ** 0.5
    torch.testing.assert_close(y_l[0, :, 0, 0], wanted)
    torch.testing.assert_close(y_h.mean((0, 2, 3)), torch.zeros(3), atol=1e-6, rtol=0)
    after = norm.state_dict()
    for key in ("running_mean", "running_var"):
        assert torch.equal(after[key][:2], before[key][:2])
        assert not torch.isclose(after[key][2:], before[key][2:]).any()
    y_l.sum().backward()
    assert x_l.grad.abs().min() > 0


def test_statistics_that_were_never_kept() -> None:
    with pytest.raises(ValueError, match="more than 1 value"):
        OctBatchNorm2d(2, track_running_stats=False)(torch.randn(1, 2, 1, 1))


@pytest.mark.parametrize("alpha", [0, 0.25])
@pytest.mark.parametrize("name", ["c2d_nln_r50", "slowfast_4x16_r50", "resnet26_v2"])
def test_one_clip_and_a_last_map_of_one_pixel(name: str, alpha: float) -> None:
    torch.manual_seed(0)
    options = {"depth": 50, "width_per_group": 8, "num_frames": 2, "crop_size": 16}
    if "slowfast" in name:
        options = {**options, "num_frames": 8}
    if "resnet" in name:
        options = {"width": 8}
    model = create_model(name, 5, alpha, **options).train()
    shape = (16, 16) if "resnet" in name else (options["num_frames"], 16, 16)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        model(torch.randn(1, 3, *shape)).logsumexp(1).sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())

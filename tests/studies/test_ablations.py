"""Each variant of the operator against its equation, and networks made of it."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from octvideo import create_model, optimize_for_inference
from octvideo.layers.fused import FusedConv
from octvideo.utils.complexity import count
from studies.ablations import Ablation, ablate
from support.eq4 import (
    CASES,
    Case,
    both_dims,
    make_input,
    parts,
    pool_reference,
    upsample_reference,
)

VARIANTS = {
    "max": Ablation("max"),
    "strided": Ablation("strided_conv"),
    "upsample first": Ablation(upsample_first=True),
    "no h2l": Ablation(paths="no_h2l"),
    "no l2h": Ablation(paths="no_l2h"),
    "strided, no l2h": Ablation("strided_conv", True, "no_l2h"),
}
every_variant = pytest.mark.parametrize("ablation", VARIANTS.values(), ids=VARIANTS.keys())


def ablated(case: Case, ndim: int, ablation: Ablation) -> nn.Module:
    layer = nn.Sequential(case.build(ndim))
    ablate(layer, ablation)
    return layer[0]


def equation(layer: Any, case: Case, x: Any, ablation: Ablation) -> tuple[Tensor, ...]:
    """Eq. 4 of the variant, every path by itself, the weight cut by hand; one group."""
    x_h, x_l = (x, None) if isinstance(x, Tensor) else x
    low_in, low_out, pad = case.c_in[1], case.c_out[1], case.dilation * (case.kernel // 2)

    def f(x: Tensor, kernel: Tensor, spatial: int = 1) -> Tensor:
        if x.ndim == 4:
            return F.conv2d(x, kernel, None, spatial, pad, case.dilation)
        k_t, s_t = case.frames
        stride, padding = (s_t, spatial, spatial), (k_t // 2, pad, pad)
        return F.conv3d(x, kernel, None, stride, padding, (1, case.dilation, case.dilation))

    def down(x: Tensor) -> Tensor:
        if ablation.downsample == "avg":
            return pool_reference(x)
        kernel = (2, 2) if x.ndim == 4 else (1, 2, 2)
        op = F.max_pool2d if x.ndim == 4 else F.max_pool3d
        return op(x, kernel, kernel, ceil_mode=True)

    def f_down(x: Tensor, kernel: Tensor, times: int) -> Tensor:
        if ablation.downsample == "strided_conv":
            return f(x, kernel, 2**times)
        for _ in range(times):
            x = down(x)
        return f(x, kernel)

    w, s = layer.weight, int(case.stride == 2)
    both = bool(low_in and low_out)
    y_h = f_down(x_h, w[low_out:, low_in:], s)
    if x_l is not None and not (both and ablation.paths == "no_l2h"):
        if s:
            y_h = y_h + f(x_l, w[low_out:, :low_in])
        elif ablation.upsample_first:
            y_h = y_h + f(upsample_reference(x_l, x_h), w[low_out:, :low_in])
        else:
            y_h = y_h + upsample_reference(f(x_l, w[low_out:, :low_in]), x_h)
    lows = []
    if low_out and x_l is not None:
        lows.append(f_down(x_l, w[:low_out, :low_in], s))
    if low_out and not (both and ablation.paths == "no_h2l"):
        lows.append(f_down(x_h, w[:low_out, low_in:], s + 1))
    biases = layer.bias.split([low_out, layer.bias.numel() - low_out])
    outputs = [(y_h, biases[1]), *([(sum(lows), biases[0])] if low_out else [])]
    return tuple(y + b.reshape(1, -1, *[1] * (y.ndim - 2)) for y, b in outputs)


NAMES = ("pair", "pair 1x1", "pair stride 2", "first", "first stride 2", "last", "last stride 2",
         "temporal and spatial stride", "dilation")  # fmt: skip


@every_variant
@both_dims
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", [(9, 12), (8, 7)], ids=str)
def test_equation(name: str, ndim: int, ablation: Ablation, size: tuple[int, int]) -> None:
    case = CASES[name]
    layer, x = ablated(case, ndim, ablation), make_input(case.c_in, ndim, size)
    got, want = parts(layer(x)), equation(layer, case, x, ablation)
    assert len(got) == len(want)
    for y, wanted in zip(got, want, strict=True):
        torch.testing.assert_close(y, wanted)


def test_variants_differ() -> None:
    torch.manual_seed(0)
    plain, x = CASES["pair"].build(2), make_input((5, 3), 2)
    seen = [plain(x)]
    for ablation in VARIANTS.values():
        layer = ablated(CASES["pair"], 2, ablation)
        layer.load_state_dict(plain.state_dict())
        y = layer(x)
        for other in seen:
            assert any(not torch.allclose(a, b) for a, b in zip(y, other, strict=True))
        seen.append(y)


@both_dims
@pytest.mark.parametrize("name", ["groups", "groups stride 2", "depthwise", "depthwise stride 2"])
def test_groups(name: str, ndim: int) -> None:
    """Upsampling first and 1x1 kernels: what a pixel repeated gives is the paper's operator."""
    case = Case(**{**vars(CASES[name]), "kernel": 1})
    layer, x = ablated(case, ndim, Ablation(upsample_first=True)), make_input(case.c_in, ndim)
    plain = case.build(ndim)
    plain.load_state_dict(layer.state_dict())
    for y, wanted in zip(layer(x), plain(x), strict=True):
        torch.testing.assert_close(y, wanted)


def test_a_fused_convolution_refuses_it() -> None:
    with pytest.raises(ValueError, match="AblatedOctConv2d"):
        FusedConv(ablated(CASES["pair"], 2, Ablation("max")))


@pytest.mark.slow
@pytest.mark.timeout(120)
@every_variant
@pytest.mark.parametrize("name", ["c2d_r50", "resnet26_v2", "resnet26_v1b", "mobilenet_v1_075"])
def test_networks(name: str, ablation: Ablation) -> None:
    """Made for inference they give the same, and not what the paper's network gives."""
    is_video = name == "c2d_r50"
    options = {"width_per_group": 8, "num_frames": 4, "crop_size": 32} if is_video else {}
    options |= {"width": 16} if name.startswith("resnet") else {}
    torch.manual_seed(0)
    paper = create_model(name, 5, octave_alpha=0.25, head_activation="none", **options)
    torch.manual_seed(0)
    model = create_model(name, 5, octave_alpha=0.25, head_activation="none", **options)
    ablate(model, ablation)
    assert all(map(torch.equal, paper.state_dict().values(), model.state_dict().values()))
    x = torch.randn(2, 3, *((4,) if is_video else ()), 32, 32, dtype=torch.double)
    paper, model = paper.double().eval(), model.double().eval()
    with torch.no_grad():
        want = model(x)
        got = optimize_for_inference(model)(x)
        assert (got - want).abs().max() <= 1e-9 * want.abs().max()
        if not (name.startswith("mobilenet") and ablation.upsample_first):  # its paths are 1x1
            assert (paper(x) - want).abs().max() > 1e-6 * want.abs().max()


@pytest.mark.slow
def test_multiply_adds() -> None:
    """Upsampling first costs more, a missing path less."""

    def macs(ablation: Ablation) -> int:
        with torch.device("meta"):
            model = create_model("resnet26_v2", octave_alpha=0.5)
            ablate(model, ablation)
        return count(model, (1, 3, 64, 64)).macs

    paper = macs(Ablation())
    assert macs(Ablation("max")) == macs(Ablation("strided_conv")) == paper
    assert macs(Ablation(upsample_first=True)) > paper
    assert macs(Ablation(paths="no_h2l")) < paper
    assert macs(Ablation(paths="no_l2h")) < paper


def test_a_variant_that_is_not_known() -> None:
    with pytest.raises(ValueError, match="paths 'none'"):
        ablate(create_model("resnet26_v2", octave_alpha=0.25), Ablation(paths="none"))

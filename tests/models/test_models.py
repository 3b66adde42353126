"""Every model: forward, gradients, state dict, placement of the octave, head, options."""

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from octvideo import create_model, list_models
from octvideo.config import load_cfg
from octvideo.layers import Conv3d, OctConv3d
from octvideo.models import (
    NonLocalPlacement,
    OctavePlacement,
    ResNetSpec,
    SlowFastSpec,
    build,
    build_model,
)
from octvideo.models.from_cfg import spec_of
from octvideo.models.slowfast import select_frames, slow_indices
from octvideo.utils.errors import UserError
from support import ROOT, every_model, narrowed

SMALL = {"num_classes": 5, "crop_size": 64}
FORMS = [(0.0, (2, 3, 4, 5))] + [(a, s) for a in (0.1, 0.5) for s in ((2, 3, 4, 5), (2, 3, 4))]

OTHER_CLIPS = {
    "r2plus1d_r50": (16, 4, 224),
    "csn_r101": (32, 2, 224),
    "x3d_xs": (4, 12, 160),
    "x3d_s": (13, 6, 160),
    "x3d_m": (16, 5, 224),
    "x3d_l": (16, 5, 312),
}
every_form = pytest.mark.parametrize(
    ("alpha", "stages"),
    [pytest.param(*form, marks=[pytest.mark.slow] * (form in FORMS[1:4])) for form in FORMS],
    ids=str,
)


def small(name: str, alpha: float = 0.0, stages: tuple[int, ...] = (2, 3, 4, 5), **options: Any):
    torch.manual_seed(0)
    options = {**SMALL, **narrowed(name), "num_frames": frames_of(name), **options}
    return create_model(name, octave_alpha=alpha, octave_stages=stages, **options)


def frames_of(name: str) -> int:
    return 8 if name.startswith("slowfast") else 4


def clip_of(model: nn.Module, size: tuple[int, int] = (64, 64)) -> Tensor:
    return clip(size, frames=model.spec.num_frames)


def clip(size: tuple[int, int] = (64, 64), n: int = 2, frames: int = 4) -> Tensor:
    return torch.randn(n, 3, frames, *size, generator=torch.Generator().manual_seed(1))


def octave_convs(model: nn.Module) -> dict[str, OctConv3d]:
    return {name: m for name, m in model.named_modules() if isinstance(m, OctConv3d)}


def test_names() -> None:
    names = list_models()
    assert names == sorted(names)
    assert {f"{arch}_r{d}" for arch in ("c2d", "i3d", "slow") for d in (18, 50, 101)} <= set(names)
    assert {"c2d_nln_r50", "i3d_nln_r50", "slowfast_r50", "slowfast_4x16_r50"} <= set(names)


@every_model
def test_a_model_knows_the_clip_that_it_is_made_for(name: str) -> None:
    spec = create_model(name, **narrowed(name)).spec
    if name in OTHER_CLIPS:
        assert (spec.num_frames, spec.sampling_rate, spec.crop_size) == OTHER_CLIPS[name]
        return
    wanted = (8, 8) if "4x16" not in name else (4, 16)
    assert (spec.num_frames, spec.sampling_rate) == ((32, 2) if "slowfast" in name else wanted)
    slow = spec.pathways()[0]
    assert (slow.num_frames, slow.num_frames * wanted[1]) == (wanted[0], 64)


@every_model
@every_form
def test_forward_and_gradients(name: str, alpha: float, stages: tuple[int, ...]) -> None:
    # Momentum 1: statistics of the last batch; with others the products of five blocks overflow.
    # Where the last batch norms start at 0, nothing before them has a gradient.
    model = small(name, alpha, stages, bn_momentum=1.0, zero_init_final_bn=False)
    for size in ((64, 64), (57, 83)):
        model.zero_grad()
        logits = model.train()(clip_of(model, size))
        assert logits.shape == (2, 5)
        F.cross_entropy(logits, torch.tensor([0, 3])).backward()
        for key, parameter in model.named_parameters():
            assert parameter.grad is not None, key
            assert parameter.grad.isfinite().all(), key
            # The batch norm, and the softmax over keys, take such a bias out again.
            assert parameter.grad.any() or ("nonlocal" in key and "bias" in key), key
        for key, layer in octave_convs(model).items():
            low_out, low_in = layer.channels_out.low, layer.channels_in.low
            for rows in (layer.weight.grad[:low_out], layer.weight.grad[low_out:]):
                for path in (rows[:, :low_in], rows[:, low_in:]):
                    assert path.any() or not path.numel(), f"a path of {key} has no gradient"

        with torch.no_grad():
            scores = model.eval()(clip_of(model, size))
        assert scores.shape == (2, 5)
        assert (scores >= 0).all()
        torch.testing.assert_close(scores.sum(1), torch.ones(2))


@every_model
def test_zero_init_reaches_both_frequencies(name: str) -> None:
    model = small(name, 0.5, zero_init_final_bn=True)
    last = "branch2.b_bn" if name.endswith("r18") else "branch2.c_bn"
    norms = {key: m for key, m in model.named_modules() if isinstance(m, _BatchNorm)}
    count = sum(sum(pathway.block_counts()) for pathway in model.spec.pathways())
    assert sum(key.endswith(last) for key in norms) == count
    for key, norm in norms.items():
        is_zero = key.endswith(last) or "nonlocal" in key
        assert torch.equal(norm.weight, torch.full_like(norm.weight, not is_zero)), key
        assert not norm.bias.any()
    F.cross_entropy(model(clip_of(model)), torch.tensor([0, 3])).backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.isfinite().all(), key
    for key, norm in norms.items():
        if key.endswith(last):
            low = norm.channels.low if norm.channels else 0
            assert norm.weight.grad[low:].any(), key
            assert norm.weight.grad[:low].any() or not low, key


@pytest.mark.parametrize("bn", [False, True])
@pytest.mark.parametrize("conv", [False, True])
@pytest.mark.parametrize("function", ["bottleneck_transform", "basic_transform"])
def test_what_starts_at_zero(bn: bool, conv: bool, function: str) -> None:
    """RESNET.ZERO_INIT_FINAL_BN is for non-local blocks too, as in PySlowFast."""
    opts = {
        "MODEL.ARCH": "i3d",
        "RESNET.DEPTH": 18,
        "RESNET.WIDTH_PER_GROUP": 8,
        "RESNET.TRANS_FUNC": function,
        "RESNET.NUM_BLOCK_TEMP_KERNEL": [[2]] * 4,
        "RESNET.ZERO_INIT_FINAL_BN": bn,
        "RESNET.ZERO_INIT_FINAL_CONV": conv,
        "NONLOCAL.LOCATION": [[[]], [[0]], [[1]], [[]]],
        "OCTAVE.ENABLE": True,
    }
    model = build_model(load_cfg(opts=[x for pair in opts.items() for x in pair]))
    last = "c" if function == "bottleneck_transform" else "b"
    zero = {key for key, value in model.named_parameters() if not value.any()}
    names = {key for key, _ in model.named_parameters() if key.endswith("weight")}
    norms = {k for k in names if k.endswith((f"branch2.{last}_bn.weight", "nonlocal0.bn.weight"))}
    norms |= {k for k in names if k.endswith("nonlocal1.bn.weight")}
    convs = {k for k in names if k.endswith(f"branch2.{last}.weight")}
    assert (len(norms), len(convs)) == (10, 8)
    assert zero & names == (norms if bn else set()) | (convs if conv else set())


def test_slowfast_strides_on_its_3x3_convolutions(caplog: pytest.LogCaptureFixture) -> None:
    """PySlowFast's SlowFast does not look at RESNET.STRIDE_1X1, which its other networks do."""
    for file, wanted in (("SLOWFAST_4x16_R50", (1, 2)), ("I3D_8x8_R50", (2, 1))):
        caplog.clear()
        path = ROOT / "configs" / "Kinetics" / f"{file}.yaml"
        cfg = load_cfg(path, ["RESNET.STRIDE_1X1", True])
        assert ("RESNET.STRIDE_1X1 is ignored" in caplog.text) is (wanted == (1, 2))
        with torch.device("meta"):
            block = build_model(cfg).s3.pathway0_res0.branch2
        assert (block.a.stride[1], block.b.stride[1]) == wanted


@pytest.mark.parametrize("alpha", [0.0, 0.25])
def test_init_statistics(alpha: float) -> None:
    """Kaiming normal on fan_out: the standard deviation is sqrt(2 / fan_out) of each kernel."""
    model = small("i3d_r50", alpha, width_per_group=64, depth=14)
    for key, layer in octave_convs(model).items():
        low_out, low_in = layer.channels_out.low, layer.channels_in.low
        area = layer.weight[0, 0].numel()
        for rows in (layer.weight[:low_out], layer.weight[low_out:]):
            for kernel in (rows[:, :low_in], rows[:, low_in:]):
                if kernel.numel():
                    want = (2 / (kernel.shape[0] * area)) ** 0.5
                    assert kernel.std().item() == pytest.approx(want, rel=0.15), key
    projection = model.head.projection
    assert projection.weight.std().item() == pytest.approx(0.01, rel=0.1)
    assert not projection.bias.any()


@every_model
@every_form
def test_loads_the_vanilla_state_dict(name: str, alpha: float, stages: tuple[int, ...]) -> None:
    vanilla, model = small(name), small(name, alpha, stages)
    shapes = {key: value.shape for key, value in vanilla.state_dict().items()}
    octave = {key: value.shape for key, value in model.state_dict().items()}
    assert list(octave) == list(shapes)
    differing = {key for key in shapes if shapes[key] != octave[key]}
    assert all("nonlocal" in key for key in differing)
    if not differing:
        model.load_state_dict(vanilla.state_dict(), strict=True)
        vanilla.load_state_dict(model.state_dict(), strict=True)


@every_model
def test_small_alpha_is_the_vanilla_network(name: str) -> None:
    """An alpha that gives no layer a low channel changes nothing, bit for bit."""
    vanilla, model = small(name), small(name, 1e-6)
    for key, value in vanilla.state_dict().items():
        assert torch.equal(value, model.state_dict()[key]), f"initial {key}"
    for train in (True, False):
        torch.manual_seed(0)
        want = vanilla.train(train)(clip_of(model))
        torch.manual_seed(0)
        assert torch.equal(model.train(train)(clip_of(model)), want)


@every_model
def test_list_of_pathways(name: str) -> None:
    model = small(name, 0.25).eval()
    x = clip_of(model)
    frames = {"slowfast_4x16_r50": [0]}.get(name, [0, 7])
    xs = [x[:, :, frames], x] if name.startswith("slowfast") else [x]
    assert torch.equal(model(xs), model(x))
    with pytest.raises(ValueError, match="takes"):
        model([x, x, x])


@every_model
@pytest.mark.parametrize("stages", [(2, 3, 4, 5), (2, 3, 4)], ids=str)
def test_placement(name: str, stages: tuple[int, ...]) -> None:
    """Section by section: which convolutions take and give low channels."""
    model = small(name, 0.5, stages)
    blocks = model.spec.block_counts()
    last_conv = "b" if name.endswith("r18") else "c"
    kinds = (OctConv3d, Conv3d)
    convs = {k: m for k, m in model.named_modules() if isinstance(m, kinds) and "_res" in k}
    assert len(convs) == sum(key.endswith(".weight") and value.ndim == 5 and "_res" in key
                             for key, value in model.state_dict().items())  # fmt: skip
    for key, layer in convs.items():
        if "pathway1" in key or ".se." in key:  # the fast one, and what sees no maps
            assert isinstance(layer, Conv3d), key
            continue
        stage, block = int(key[1]), int(key.split("_res")[1].split(".")[0])
        conv = key.rsplit(".", 1)[1]
        enters, leaves = conv in ("a", "branch1"), conv in ("branch1", last_conv)
        first_of_stage = block == 0 and enters
        ends_network = stage == 5 and block == blocks[3] - 1 and leaves
        source = stage - 1 if first_of_stage else stage
        assert isinstance(layer, OctConv3d) == (source in stages or stage in stages), key
        if isinstance(layer, Conv3d):
            continue
        assert bool(layer.channels_in.low) == (source in stages), key
        assert bool(layer.channels_out.low) == (stage in stages and not ends_network), key
        fuse = f"s{stage - 1}_fuse"
        lateral = 0
        if first_of_stage and hasattr(model, fuse):
            lateral = model.get_submodule(fuse).channels
        assert layer.channels_in.low in (0, (layer.channels_in.total - lateral) // 2), key
        assert layer.channels_out.low in (0, layer.channels_out.total // 2), key


def test_channel_divisor() -> None:
    with torch.device("meta"):
        model = create_model("i3d_r50", octave_alpha=0.1, channel_divisor=8, width_per_group=64)
    lows = {layer.channels_out.low for layer in octave_convs(model).values()}
    assert lows == {0, 8, 16, 24, 48, 104, 208}  # 6 12 25 51 102 204 of 64 .. 2048


def test_r18_has_the_widths_of_he_et_al() -> None:
    with torch.device("meta"):
        model = create_model("c2d_r18", num_classes=3)
    for stage, width in zip((2, 3, 4, 5), (64, 128, 256, 512), strict=True):
        for i in range(2):
            block = model.get_submodule(f"s{stage}.pathway0_res{i}")
            assert block.branch2.a.weight.shape[0] == block.branch2.b.weight.shape[0] == width
            assert (block.branch1 is not None) == (stage > 2 and i == 0)
    assert model.head.projection.in_features == 512


@pytest.mark.parametrize(
    ("name", "depth", "kernels"),
    [
        ("c2d_r50", 50, [[1] * 3, [1] * 4, [1] * 6, [1] * 3]),
        ("i3d_r50", 50, [[3] * 3, [3, 1, 3, 1], [3, 1, 3, 1, 3, 1], [1, 3, 1]]),
        ("i3d_r50", 14, [[3], [3], [3], [1]]),
    ],
)
def test_temporal_kernels(name: str, depth: int, kernels: list[list[int]]) -> None:
    model = small(name, depth=depth)
    for stage, wanted in enumerate(kernels, 2):
        got = [b.branch2.a.kernel_size[0] for b in model.get_submodule(f"s{stage}").children()]
        assert got == wanted
    assert model.s1.pathway0_stem.conv.kernel_size == (5 if name[0] == "i" else 1, 7, 7)


def test_number_of_blocks_with_temporal_kernels() -> None:
    spec = ResNetSpec(num_block_temp_kernel=(3, 2, 3, 0))
    got = [spec.temporal_kernels(stage) for stage in (2, 3, 4, 5)]
    assert got == [[3, 3, 3], [3, 1, 1, 1], [3, 1, 3, 1, 1, 1], [1, 1, 1]]


# The head


@pytest.mark.parametrize("alpha", [0.0, 0.5])
@pytest.mark.parametrize("size", [(256, 256), (256, 320), (224, 224)], ids=str)
def test_head_is_fully_convolutional(alpha: float, size: tuple[int, int]) -> None:
    """Scores are the mean over all 4x7x7 windows of the features of each window's softmax."""
    model = small("i3d_r50", alpha, depth=14, num_frames=8, crop_size=224).eval()
    nn.init.normal_(model.head.projection.weight)
    seen: list[Tensor] = []
    model.s5.register_forward_hook(lambda module, args, output: seen.append(output[0]))
    with torch.no_grad():
        scores = model(clip(size, n=1, frames=8))
    features = seen[0]
    h, w = features.shape[-2:]
    assert features.shape == (1, 512, 4, size[0] // 32, size[1] // 32)
    weight, bias = model.head.projection.weight, model.head.projection.bias
    probabilities = [
        F.softmax(weight @ features[0, :, :, i : i + 7, j : j + 7].mean((1, 2, 3)) + bias, 0)
        for i in range(h - 6)
        for j in range(w - 6)
    ]
    torch.testing.assert_close(scores[0], torch.stack(probabilities).mean(0))


def test_training_gives_logits() -> None:
    model = small("i3d_r18", 0.5, dropout_rate=0.0)
    for module in model.modules():  # the same statistics in both modes
        if isinstance(module, _BatchNorm):
            module.eval()
    logits = model(clip())
    torch.testing.assert_close(model.eval()(clip()), logits.softmax(1))


@pytest.mark.parametrize(
    ("activation", "function"), [("sigmoid", torch.sigmoid), ("none", lambda x: x)]
)
def test_head_activation(activation: str, function) -> None:
    model = small("c2d_r18", head_activation=activation, dropout_rate=0.0).eval()
    scores = model(clip())
    model.head.train()
    torch.testing.assert_close(scores, function(model(clip())))


def test_dropout_is_off_in_evaluation_only() -> None:
    model = small("c2d_r18", dropout_rate=0.5).eval()
    assert torch.equal(model(clip()), model(clip()))
    model.head.train()
    assert not torch.equal(model(clip()), model(clip()))


# From a configuration


def test_build_model_takes_its_options_from_the_configuration() -> None:
    options = {
        "OCTAVE.ENABLE": True, "OCTAVE.ALPHA": 0.25, "OCTAVE.STAGES": [2, 3, 4],
        "OCTAVE.CHANNEL_DIVISOR": 4, "MODEL.NUM_CLASSES": 9, "MODEL.DROPOUT_RATE": 0.2,
        "MODEL.FC_INIT_STD": 0.02, "MODEL.HEAD_ACT": "sigmoid",
        "RESNET.DEPTH": 101, "RESNET.WIDTH_PER_GROUP": 8, "RESNET.NUM_GROUPS": 2,
        "RESNET.STRIDE_1X1": True, "RESNET.INPLACE_RELU": False,
        "RESNET.NUM_BLOCK_TEMP_KERNEL": [[3], [4], [23], [3]],
        "RESNET.SPATIAL_STRIDES": [[1], [2], [2], [1]],
        "RESNET.SPATIAL_DILATIONS": [[1], [1], [1], [2]],
        "DATA.NUM_FRAMES": 4, "DATA.TRAIN_CROP_SIZE": 64, "DATA.SAMPLING_RATE": 3,
        "NONLOCAL.LOCATION": [[[]], [[0]], [[22]], [[]]], "NONLOCAL.GROUP": [[1], [2], [1], [1]],
        "NONLOCAL.INSTANTIATION": "dot_product",
        "BN.EPSILON": 1e-4, "BN.MOMENTUM": 0.2,
    }  # fmt: skip
    opts = [word for key, value in options.items() for word in (key, str(value))]
    model = build_model(load_cfg(ROOT / "configs" / "Kinetics" / "I3D_8x8_R50.yaml", opts))
    assert model.spec == ResNetSpec(
        arch="i3d",
        depth=101,
        num_classes=9,
        octave=OctavePlacement(0.25, (2, 3, 4), 4),
        non_local=NonLocalPlacement(((), (0,), (22,), ()), "dot_product", (1, 2, 1, 1)),
        num_frames=4,
        sampling_rate=3,
        crop_size=64,
        width_per_group=8,
        num_groups=2,
        spatial_strides=(1, 2, 2, 1),
        spatial_dilations=(1, 1, 1, 2),
        num_block_temp_kernel=(3, 4, 23, 3),
        stride_1x1=True,
        inplace_relu=False,
        zero_init_final_bn=True,
        bn_eps=1e-4,
        bn_momentum=0.2,
        dropout_rate=0.2,
        fc_init_std=0.02,
        head_activation="sigmoid",
    )
    assert model(clip()).shape == (2, 9)
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm)]
    assert {(m.eps, m.momentum) for m in norms} == {(1e-4, 0.2)}


def test_build_model_of_slowfast() -> None:
    file = ROOT / "configs" / "Kinetics" / "OCT_SLOWFAST_8x8.yaml"
    options = {
        "DATA.NUM_FRAMES": 8, "DATA.TRAIN_CROP_SIZE": 64, "DATA.SAMPLING_RATE": 5,
        "SLOWFAST.ALPHA": 2, "SLOWFAST.BETA_INV": 4, "SLOWFAST.FUSION_CONV_CHANNEL_RATIO": 3,
        "SLOWFAST.FUSION_KERNEL_SZ": 3, "RESNET.WIDTH_PER_GROUP": 16, "RESNET.DEPTH": 14,
        "RESNET.NUM_BLOCK_TEMP_KERNEL": [[1, 0], [1, 1], [1, 1], [1, 1]],
        "RESNET.SPATIAL_STRIDES": [[1, 1], [2, 2], [2, 2], [1, 1]],
        "RESNET.SPATIAL_DILATIONS": [[1, 1], [1, 1], [1, 1], [2, 1]],
        "NONLOCAL.LOCATION": [[[], []], [[0], []], [[], [0]], [[], []]],
        "NONLOCAL.POOL": [[[1, 2, 2], [2, 1, 1]]] * 4, "NONLOCAL.INSTANTIATION": "softmax",
        "NONLOCAL.GROUP": [[1, 1], [4, 1], [1, 2], [1, 1]],
        "OCTAVE.PATHWAYS": [0, 1], "OCTAVE.NONLOCAL_MODE": "high", "OCTAVE.ALPHA": 0.25,
    }  # fmt: skip
    opts = [word for key, value in options.items() for word in (key, str(value))]
    model = build_model(load_cfg(file, opts))
    assert model.spec == SlowFastSpec(
        depth=14,
        octave=OctavePlacement(0.25, pathways=(0, 1), nonlocal_mode="high"),
        non_local=NonLocalPlacement(((), (0,), (), ()), groups=(1, 4, 1, 1)),
        num_frames=8,
        sampling_rate=5,
        crop_size=64,
        width_per_group=16,
        spatial_strides=(1, 2, 2, 1),
        spatial_dilations=(1, 1, 1, 2),
        num_block_temp_kernel=(1, 1, 1, 1),
        zero_init_final_bn=True,
        frame_ratio=2,
        beta_inv=4,
        fusion_ratio=3,
        fusion_kernel=3,
        fast_num_block_temp_kernel=(0, 1, 1, 1),
        fast_non_local=NonLocalPlacement(
            ((), (), (0,), ()), groups=(1, 1, 2, 1), pools=((2, 1, 1),) * 4
        ),
    )
    assert model(clip(frames=8)).shape == (2, 400)
    assert model.s2.pathway1_res0.branch2.a.kernel_size == (1, 1, 1)
    assert model.s3.pathway1_res0.branch2.a.kernel_size == (3, 1, 1)
    assert model.s2_fuse.conv_f2s.weight.shape == (3 * 16, 16, 3, 1, 1)


@pytest.mark.parametrize(
    ("opts", "message"),
    [
        ("NONLOCAL.LOCATION [[[]],[[1,4]],[[]],[[]]]", "res3 of depth 50 has the blocks 0..3"),
        ("RESNET.DEPTH 51", "no depth 51"),
    ],
)
def test_a_configuration_that_makes_no_network(opts: str, message: str) -> None:
    file = ROOT / "configs" / "Kinetics" / "I3D_8x8_R50.yaml"
    with pytest.raises(UserError, match=message):
        build_model(load_cfg(file, opts.split()))


def test_without_octave_alpha_means_nothing() -> None:
    file = ROOT / "configs" / "Kinetics" / "OCT_I3D_8x8.yaml"
    assert spec_of(load_cfg(file)).octave.alpha == 0.1
    assert spec_of(load_cfg(file, ["OCTAVE.ENABLE", "False"])).octave.alpha == 0


# Wrong use


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width_per_group": 12}, "the width 12 of the slow pathway is not divisible by beta_inv"),
        ({"num_frames": 30}, "num_frames 30 is not a multiple of frame_ratio 4"),
        ({"fusion_kernel": 4}, "the fusion kernel must be odd, got 4"),
        ({"arch": "i3d"}, "a SlowFast network has arch 'slowfast', got 'i3d'"),
        ({"fast_non_local": NonLocalPlacement(((3,), (), (), ()))}, "res2 of depth 50 has the bl"),
    ],
)
def test_wrong_options_of_slowfast(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        create_model("slowfast_r50", **options)


@pytest.mark.parametrize("frames", [(6,), (12,), (0,), (1, 8), (2, 4), (3, 8)], ids=str)
def test_clips_that_slowfast_can_not_take(frames: tuple[int, ...]) -> None:
    model = small("slowfast_r50", depth=14)  # 8 frames, one of 4 for the slow pathway
    xs = [clip(frames=n) for n in frames]
    with pytest.raises(ValueError, match="SlowFast with 8 frames takes at most so many, a mult"):
        model(xs if len(xs) > 1 else xs[0])


def test_shorter_clips_of_slowfast() -> None:
    model = small("slowfast_r50", 0.25, depth=14).eval()
    assert model(clip(frames=4)).shape == (2, 5)


@pytest.mark.parametrize(("frames", "ratio"), [(32, 8), (32, 4), (160, 4), (64, 4), (8, 8)])
def test_frames_of_the_slow_pathway(frames: int, ratio: int) -> None:
    """PySlowFast's rule, word for word; (160, 4) shows that it is in float32."""
    x = torch.arange(frames)[None, None, :, None, None].expand(1, 3, -1, 2, 2)
    wanted = torch.linspace(0, frames - 1, frames // ratio).long()
    assert torch.equal(select_frames(x, slow_indices(x.shape[2], ratio)), x.index_select(2, wanted))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "i3d_r51"}, "unknown model 'i3d_r51'; known: .*i3d_r50"),
        ({"widht": 3}, "no option widht for .*; known: .*width_per_group"),
        ({"octave": OctavePlacement()}, "no option octave for .*; known: "),
        ({"octave_alpha": 1.0}, r"alpha must be in \[0, 1\), got 1.0"),
        ({"octave_alpha": -0.1}, r"alpha must be in \[0, 1\), got -0.1"),
        ({"octave_stages": (1, 2)}, r"stages must be among 2, 3, 4, 5, got \(1, 2\)"),
        ({"channel_divisor": 0}, "divisor must be at least 1, got 0"),
        ({"depth": 51}, "bottleneck_transform has no depth 51; depths: 14, 18, 26, 50, 101"),
        ({"arch": "c3d"}, "unknown arch 'c3d'; known: c2d, i3d, slow"),
        ({"octave_pathways": (2,)}, r"pathways must be among 0, 1, got \(2,\)"),
        ({"nonlocal_mode": "low"}, "unknown nonlocal_mode 'low'; known: cross, high"),
        ({"transform": "x"}, "unknown transform 'x'; known: bottleneck_transform"),
        ({"head_activation": "tanh"}, "unknown head activation 'tanh'; known: softmax"),
        ({"num_classes": "4"}, "num_classes must be a whole number, at least 0, got '4'"),
        ({"name": "resnet50_v2", "num_classes": 4.0}, "num_classes must be a whole .* got 4.0"),
        ({"name": "densenet121", "growth": 0}, "growth must be a whole number, at least 1, got 0"),
    ],
)
def test_wrong_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        create_model(**{"name": "i3d_r50", **options})


@pytest.mark.parametrize("name", ["i3d_r18", "slowfast_r50"])
@pytest.mark.parametrize(
    ("clips", "message"),
    [
        (torch.zeros(3, 32, 32, 32), r"float clips \(N, 3, T, H, W\), got torch.float32 \(3, 32,"),
        (torch.zeros(1, 3, 32, 32, 32, dtype=torch.uint8), "got torch.uint8 .* normalise pixels"),
        (torch.zeros(1, 32, 3, 32, 32), r"got torch.float32 \(1, 32, 3, 32, 32\)"),
    ],
)
def test_what_is_no_batch_of_clips(name: str, clips: torch.Tensor, message: str) -> None:
    model = small(name, num_frames=32)
    with pytest.raises(ValueError, match=message):
        model(clips)
    with pytest.raises(ValueError, match=message):
        model([clips])


def test_spec_is_frozen_and_reusable() -> None:
    spec = ResNetSpec(arch="c2d", depth=14, width_per_group=8, num_classes=2)
    with pytest.raises(AttributeError, match="cannot assign"):
        spec.depth = 50  # type: ignore[misc]
    model = build(replace(spec, octave=OctavePlacement(0.5)))
    assert isinstance(model(clip()), Tensor)

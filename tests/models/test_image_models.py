"""Every image network: forward, gradients, state dict, placement, options, configuration."""

import re
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from octvideo import create_model
from octvideo.config import load_cfg
from octvideo.layers import OctConv2d
from octvideo.layers.glore import GloRe2d
from octvideo.models import (
    OctavePlacement,
    ResNet2dSpec,
    build_model,
    optimize_for_inference,
)
from octvideo.models.build import IMAGE_MODELS
from octvideo.utils.errors import UserError
from octvideo.weights import inflate_kernels

SLOW = re.compile("resnet(50|101|152|200)_v|resnext101|se_resnet152|mobilenet_v(1_100|2_1125)")
every_model = pytest.mark.parametrize(
    "name",
    [
        pytest.param(n, marks=[pytest.mark.slow] * (SLOW.match(n) is not None))  # only larger
        for n in sorted(IMAGE_MODELS)
    ],
)
RESNETS = [n for n, spec in IMAGE_MODELS.items() if isinstance(spec, ResNet2dSpec)]
ALPHAS = (0.0, 0.25)


def small(name: str, alpha: float = 0.0, **options: Any) -> nn.Module:
    """A narrow one, where the width can be set."""
    torch.manual_seed(0)
    if isinstance(spec := IMAGE_MODELS[name], ResNet2dSpec):
        options = {"width": 16, "groups": min(spec.groups, 4), **options}
    return create_model(name, 5, octave_alpha=alpha, **options)


def images(size: tuple[int, int] = (64, 64)) -> Tensor:
    return torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(1))


def octave_convs(model: nn.Module) -> dict[str, OctConv2d]:
    return {name: m for name, m in model.named_modules() if isinstance(m, OctConv2d)}


@every_model
@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.timeout(120)
def test_forward_and_gradients(name: str, alpha: float) -> None:
    model = small(name, alpha, bn_momentum=1.0)
    for module in model.modules():
        if isinstance(module, GloRe2d):  # at 0, as it starts, nothing before it has a gradient
            nn.init.ones_(module.bn.weight)
    for size in ((64, 64), (57, 83)):
        model.zero_grad()
        logits = model.train()(images(size))
        assert logits.shape == (2, 5)
        F.cross_entropy(logits, torch.tensor([0, 3])).backward()
        for key, parameter in model.named_parameters():
            assert parameter.grad is not None, key
            assert parameter.grad.isfinite().all(), key
        for key, layer in octave_convs(model).items():
            layer_grad, kernels = layer.weight.grad, layer.kernels()
            layer.weight.data, kept = layer_grad, layer.weight.data  # slices of the gradient
            assert all(k.any() for k in layer.kernels().values()), key
            assert len(kernels) == len(layer.kernels())
            layer.weight.data = kept
        with torch.no_grad():
            scores = model.eval()(images(size))
        torch.testing.assert_close(scores.sum(1), torch.ones(2))
        clips = model(images(size).unsqueeze(2))
        assert torch.equal(clips, scores)
        assert torch.equal(model([images(size)]), scores)


@every_model
def test_an_octave_network_has_the_vanilla_state_dict(name: str) -> None:
    with torch.device("meta"):
        vanilla, octave = small(name), small(name, 0.25)
    shapes = {key: value.shape for key, value in vanilla.state_dict().items()}
    assert {key: value.shape for key, value in octave.state_dict().items()} == shapes
    assert sum(not layer.is_plain for layer in octave_convs(octave).values()) > 4
    assert all(layer.is_plain for layer in octave_convs(vanilla).values())


@every_model
def test_small_alpha_is_the_vanilla_network(name: str) -> None:
    vanilla, model = small(name).eval(), small(name, 1e-6).eval()
    with torch.no_grad():
        assert torch.equal(vanilla(images()), model(images()))


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=[pytest.mark.slow] * ("152" in n or "200" in n)) for n in RESNETS],
)
def test_placement(name: str) -> None:
    """The authors' rule: conv1 plain, res2..res4 octave, res5 plain; the last stride is a pool."""
    with torch.device("meta"):
        model = small(name, 0.25)
    strided = 0
    for key, layer in octave_convs(model).items():
        stage, block = int(key[1]), key.split(".")[1]
        if stage == 1 or "glore" in key:  # the light block of the stem, and the reasoning units
            continue
        enters = block == "pathway0_res0" and key.endswith((".a", ".branch1"))
        low_in = (stage - 1 if enters else stage) in (2, 3, 4)
        assert bool(layer.channels_in.low) == low_in, key
        assert bool(layer.channels_out.low) == (stage in (2, 3, 4)), key
        if layer.stride == (2, 2):
            strided += 1
            assert layer.pools_plain == (layer.is_plain and stage == 5), key
            spec = model.spec
            assert key.endswith((f"branch2.{spec.stride_on}", "branch1")), key
    assert strided == 6


def test_options_and_inputs_that_make_no_network() -> None:
    with pytest.raises(ValueError, match="depth of a 2D ResNet must be one of 26, 50"):
        create_model("resnet50_v2", depth=34)
    with pytest.raises(ValueError, match="are for post-activation networks"):
        create_model("resnet26_v2", zero_init_final_bn=True)
    with pytest.raises(ValueError, match="has no option num_frames for resnet50_v2"):
        create_model("resnet50_v2", num_frames=8)
    model = small("resnet26_v2")
    with pytest.raises(ValueError, match=r"got torch.float32 \(2, 3, 4, 64, 64\)"):
        model(torch.zeros(2, 3, 4, 64, 64))
    with pytest.raises(ValueError, match="takes one tensor, got a list of 2"):
        model([images(), images()])


def test_zero_init_and_recomputation() -> None:
    model = small("resnet26_v1b", 0.25, zero_init_final_bn=True)
    zeros = [key for key, value in model.named_parameters() if "bn.weight" in key and not value[0]]
    assert len(zeros) == 8
    assert all(key.endswith("branch2.c_bn.weight") for key in zeros)
    again = small("resnet26_v1b", 0.25, zero_init_final_bn=True, act_checkpoint=True)
    for net in (model, again):
        F.cross_entropy(net(images()), torch.tensor([0, 3])).backward()
    for (key, a), b in zip(model.named_parameters(), again.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, msg=key)
    for key, value in model.state_dict().items():
        torch.testing.assert_close(again.state_dict()[key], value, msg=key)


def test_init_statistics() -> None:
    """MSRA, average fan: sqrt(2 / (1 + 1/16) / ((fan_in + fan_out) / 2)) of each kernel."""
    model = create_model("resnet50_v1b", octave_alpha=0.25, fc_init_std=0.02)
    for key, layer in octave_convs(model).items():
        for kernel in layer.kernels().values():
            fan = (kernel.shape[0] + kernel.shape[1]) * kernel[0, 0].numel() / 2
            assert kernel.std().item() == pytest.approx((2 / 1.0625 / fan) ** 0.5, rel=0.15), key
    assert model.head.projection.weight.std().item() == pytest.approx(0.02, rel=0.05)


CFG = ["MODEL.ARCH=2d", "DATA.NUM_FRAMES=1"]


def test_build_model_takes_its_options_from_the_configuration() -> None:
    options = [
        *("MODEL.MODEL_NAME=resnet26_v1b", "MODEL.NUM_CLASSES=7", "MODEL.DROPOUT_RATE=0.1"),
        *("MODEL.FC_INIT_STD=0.02", "MODEL.HEAD_ACT=none", "MODEL.ACT_CHECKPOINT=True"),
        *("BN.EPSILON=0.001", "BN.MOMENTUM=0.2", "RESNET.ZERO_INIT_FINAL_BN=True"),
        *("DATA.TRAIN_CROP_SIZE=64", "OCTAVE.ENABLE=True", "OCTAVE.ALPHA=0.5"),
        *("OCTAVE.STAGES=[2,3,4]", "OCTAVE.CHANNEL_DIVISOR=2"),
    ]
    model = build_model(load_cfg(opts=[*CFG, *options]))
    assert model.spec == ResNet2dSpec(
        depth=26,
        num_classes=7,
        octave=OctavePlacement(0.5, (2, 3, 4), 2),
        crop_size=64,
        bn_eps=0.001,
        bn_momentum=0.2,
        dropout_rate=0.1,
        fc_init_std=0.02,
        head_activation="none",
        zero_init_final_bn=True,
        act_checkpoint=True,
    )


def test_a_configuration_without_a_network() -> None:
    with pytest.raises(
        UserError, match=r"'resnet51' is no image network; .* set one of .*resnet50"
    ):
        build_model(load_cfg(opts=[*CFG, "MODEL.MODEL_NAME=resnet51"]))


@pytest.mark.timeout(120)
@pytest.mark.parametrize("alpha", [0.0, 0.25])
def test_inflated_it_sees_in_a_still_video_what_it_sees_in_the_image(alpha: float) -> None:
    image = small("resnet50_v1b", alpha, head_activation="none")
    for _ in range(2):
        image(images())  # statistics that are not those of the start
    sizes = {"width_per_group": 16, "crop_size": 64, "head_activation": "none"}
    octave = {"octave_alpha": alpha, "octave_stages": (2, 3, 4), "pool_stride": True}
    video = create_model("c2d_r50", 5, **octave, **sizes).eval()
    shapes = {key: value.shape for key, value in video.state_dict().items()}
    video.load_state_dict(inflate_kernels(image.state_dict(), shapes))
    with torch.no_grad():
        wanted = image.eval()(images())
        got = video(images().unsqueeze(2).expand(-1, -1, 8, -1, -1))
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-4)  # logits of about 4


@pytest.mark.timeout(120)
@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["resnet26_v1b", "resnet26_v2", "se_resnet50", "glore_resnet50", "resnext50_32x4d"]
)
def test_compiled_whole_and_optimized(name: str) -> None:
    model = small(name, 0.25).eval()
    with torch.no_grad():
        wanted = model(images())
        torch.testing.assert_close(optimize_for_inference(model)(images()), wanted)
        torch._dynamo.reset()
        compiled = torch.compile(model, backend="eager", fullgraph=True, dynamic=False)
        torch.testing.assert_close(compiled(images()), wanted)


@pytest.mark.parametrize(
    ("x", "got"),
    [
        (torch.zeros(3, 32, 32), r"torch.float32 \(3, 32, 32\): of one image"),
        (torch.zeros(2, 3, 32, 32, dtype=torch.uint8), r"torch.uint8 \(2, 3, 32, 32\): .* pixels"),
    ],
)
def test_what_are_no_images_is_told(x, got):
    with pytest.raises(ValueError, match=got):
        small("resnet26_v1b")(x)

"""The networks that ``studies.octavize_bench`` examines: their names, and how to build them."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from octvideo import create_model
from octvideo.config.published import published_input
from octvideo.models.libraries import make_network

FULL = 224  # pixels of a side, for the ratio of multiply-adds
SMALL = 64  # pixels of a side for the checks, if the network takes so few

# Of torchvision's other networks, larger ones of these families, only the ratio is counted.
TORCHVISION = (
    "alexnet convnext_tiny densenet121 efficientnet_b0 efficientnet_v2_s googlenet inception_v3 "
    "maxvit_t mnasnet0_5 mobilenet_v2 mobilenet_v3_large mobilenet_v3_small regnet_x_400mf "
    "regnet_y_400mf resnet18 resnet50 resnext50_32x4d shufflenet_v2_x0_5 squeezenet1_0 "
    "squeezenet1_1 vgg11_bn vit_b_16 wide_resnet50_2 deeplabv3_mobilenet_v3_large "
    "deeplabv3_resnet50 fcn_resnet50 lraspp_mobilenet_v3_large mc3_18 r2plus1d_18 r3d_18 s3d"
)
TIMM = (
    "resnet10t resnet26d seresnet50 ecaresnet26t skresnet18 resnest14d res2net50_14w_8s "
    "resnetv2_50 nf_resnet26 regnetz_005 dla34 dpn48b hrnet_w18_small densenet121 ese_vovnet19b_dw "
    "selecsls42 cspresnet50 darknet17 efficientnet_b0 tf_efficientnet_lite0 mixnet_s "
    "mobilenetv3_small_050 mobilenetv4_conv_small ghostnet_050 fbnetc_100 mobileone_s0 repvgg_a0 "
    "rexnet_100 xception41 inception_v4 inception_resnet_v2 hgnetv2_b0 repghostnet_050 starnet_s1 "
    "fasternet_t0 lcnet_050 botnet26t_256 mobilevit_xxs convnext_atto mixer_s32_224 "
    "vit_tiny_patch16_224"
)
PYTORCHVIDEO = "slow_r50 c2d_r50 i3d_r50 r2plus1d_r50 csn_r101 x3d_xs x3d_s x3d_m slowfast_r50"
OWN = "i3d_r50 c2d_r50 slow_r50 slowfast_4x16_r50 x3d_s resnet50_v1b resnet50_v2 mobilenet_v2_100"
LARGE = ("maskrcnn", "keypointrcnn", "swin", "mvit", "regnet_y_128gf", "vit_h", "vit_l", "vit_b_32")


@dataclass(frozen=True)
class Network:
    """A network and its inputs.

    Attributes:
        name: "library/name".
        build: makes it, vanilla and with random weights, for a number of pixels.
        frames: of a clip; 0 for images.
        full: pixels of a side for the ratio.
        example: makes the network's input of clips or images (N, 3, [T,] H, W).
        is_examined: whether all checks are made, or only the ratio is counted.
    """

    name: str
    build: Callable[[int], nn.Module]
    frames: int = 0
    full: int = FULL
    example: Callable[[Tensor], Any] = lambda x: x
    is_examined: bool = True

    def inputs(self, number: int, side: int) -> Any:
        """Returns random inputs (number, 3, [frames,] side, side) as the network takes them."""
        frames = (self.frames,) if self.frames else ()
        return self.example(torch.randn(number, 3, *frames, side, side))


def networks() -> list[Network]:
    """Returns the networks of the libraries that are installed here, and our own."""
    return [*_torchvision(), *_timm(), *_pytorchvideo(), *_own()]


def _torchvision() -> list[Network]:
    try:
        from torchvision import models
    except ImportError:
        return []
    found = []
    for part in (models, models.segmentation, models.video):
        for name in models.list_models(module=part):
            if not name.startswith(LARGE):
                frames = 8 if part is models.video else 0
                frames = 16 if name == "s3d" else frames
                network = Network(f"torchvision/{name}", _of_torchvision(name), frames)
                found.append(replace(network, is_examined=name in TORCHVISION.split()))
    return found


def _of_torchvision(name: str) -> Callable[[int], nn.Module]:
    def build(side: int) -> nn.Module:
        from torchvision import models

        options: dict[str, Any] = {"weights": None}
        if "deeplab" in name or "fcn_" in name or "lraspp" in name:
            options["weights_backbone"] = None
        if name in ("googlenet", "inception_v3"):
            options["init_weights"] = False
        if name == "inception_v3":
            options["aux_logits"] = False  # it takes no small images in training
        network: nn.Module = models.get_model(name, **options)
        return network

    return build


def _timm() -> list[Network]:
    try:
        import timm  # noqa: F401
    except ImportError:
        return []
    return [
        Network(
            f"timm/{name}", partial(_of_timm, name), full=256 if name.endswith("_256") else FULL
        )
        for name in TIMM.split()
    ]


def _of_timm(name: str, side: int) -> nn.Module:
    import timm

    network: nn.Module = timm.create_model(name)
    return network


def _pytorchvideo() -> list[Network]:
    try:
        import pytorchvideo  # noqa: F401
    except ImportError:
        return []
    found = []
    for name in PYTORCHVIDEO.split():
        full = f"pytorchvideo/{name}"
        published = published_input(full)
        frames = published.num_frames if published else 8

        def build(side: int, full: str = full, frames: int = frames) -> nn.Module:
            return make_network(full, {}, (frames, side), 400)

        example: Callable[[Tensor], Any] = _pathways if "slowfast" in name else (lambda x: x)
        found.append(Network(full, build, frames, example=example))
    return found


def _pathways(x: Tensor) -> list[Tensor]:
    return [x[:, :, ::4], x]


def _own() -> list[Network]:
    found = []
    for name in OWN.split():
        with torch.device("meta"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            spec: Any = create_model(name).spec
        frames = 0 if spec.is_image else spec.num_frames

        def build(side: int, name: str = name, frames: int = frames) -> nn.Module:
            return create_model(name, **({"crop_size": side} if frames else {}))

        found.append(Network(f"octvideo/{name}", build, frames))
    return found

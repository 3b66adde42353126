"""Models by name, and networks of their specifications."""

import difflib
import fnmatch
from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypedDict, TypeVar

from octvideo.config.published import LIBRARIES, library_of, published_input
from octvideo.models.classifier import Classifier, Network
from octvideo.models.densenet import DENSENETS, DenseNet, DenseNetSpec
from octvideo.models.external import ExternalSpec, build_external
from octvideo.models.image import ImageSpec
from octvideo.models.libraries import is_function
from octvideo.models.mobilenet import MOBILENETS, MobileNet, MobileNetSpec
from octvideo.models.placement import octavized
from octvideo.models.record import OCTAVE_OPTIONS
from octvideo.models.resnet2d import RESNETS_2D, ResNet2d, ResNet2dSpec
from octvideo.models.slowfast import SlowFast, SlowFastSpec
from octvideo.models.spec import NL5, NonLocalPlacement, ResNetSpec, VideoSpec
from octvideo.models.video_resnet import VideoResNet
from octvideo.models.x3d import X3D, X3DS, X3DSpec
from octvideo.utils.plain import from_plain

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from octvideo.layers.layout import Runs

Spec = VideoSpec | ImageSpec | ExternalSpec
_S = TypeVar("_S", bound=Spec)

OCT, OCT_ALPHA = "oct_", 0.125  # names of octave networks, and their alpha: OCTAVE.ALPHA's default
# What each specification is of.
_NETWORKS: dict[type[VideoSpec] | type[ImageSpec], Callable[..., Classifier]] = {
    ResNetSpec: VideoResNet,
    SlowFastSpec: SlowFast,
    X3DSpec: X3D,
    ResNet2dSpec: ResNet2d,
    DenseNetSpec: DenseNet,
    MobileNetSpec: MobileNet,
}
_VARIANTS = {
    "r14": partial(ResNetSpec, depth=14),
    "r18": partial(ResNetSpec, depth=18, transform="basic_transform", expansion=1),
    "r50": partial(ResNetSpec, depth=50),
    "r101": partial(ResNetSpec, depth=101),
}
# As in the recipes, a non-local block starts as the identity.
_nln = partial(ResNetSpec, non_local=NonLocalPlacement(NL5), zero_init_final_bn=True)
_slowfast_8x8 = partial(SlowFastSpec, frame_ratio=4, fusion_kernel=7)
# The clip of each (num_frames, sampling_rate) is that of its specification, 8 x 8 or 32 x 2.
_VIDEO_MODELS: dict[str, VideoSpec] = {
    **{
        f"{arch}_{name}": variant(arch=arch)
        for arch in ("c2d", "i3d", "slow")
        for name, variant in _VARIANTS.items()
    },
    "slow_c2d_r50": ResNetSpec(arch="slow_c2d"),
    "slow_i3d_r50": ResNetSpec(arch="slow_i3d"),
    "c2d_nln_r50": _nln(arch="c2d"),
    "i3d_nln_r50": _nln(arch="i3d"),
    "slow_4x16_r50": ResNetSpec(arch="slow", num_frames=4, sampling_rate=16),
    "slowfast_4x16_r50": SlowFastSpec(),
    "slowfast_r50": _slowfast_8x8(),
    "slowfast_r101": _slowfast_8x8(depth=101, fusion_kernel=5),
    "slowfast_nln_r50": _slowfast_8x8(
        fusion_kernel=5,
        non_local=NonLocalPlacement(NL5, "dot_product"),
        zero_init_final_bn=True,
    ),
    "r2plus1d_r50": ResNetSpec(arch="r2plus1d", num_frames=16, sampling_rate=4),
    "csn_r101": ResNetSpec(arch="csn", depth=101, num_frames=32, sampling_rate=2),
    **X3DS,
}
IMAGE_MODELS: dict[str, ImageSpec] = {**RESNETS_2D, **DENSENETS, **MOBILENETS}
_MODELS: dict[str, Spec] = {**_VIDEO_MODELS, **IMAGE_MODELS}


class NetworkOptions(TypedDict, total=False):
    """Options of ``create_model``: the octave, and fields of the specification of a network.

    Not every network has every field; ``vars(model.spec)`` has those of a model.
    """

    # The octave; see ``OctavePlacement``.
    octave_stages: tuple[int, ...] | None
    channel_divisor: int
    octave_pathways: tuple[int, ...]
    nonlocal_mode: str
    pool_stride: bool
    octave_channels: "tuple[tuple[str, Runs], ...]"
    # Clips, head and training.
    num_frames: int
    sampling_rate: int
    crop_size: int
    input_channels: int
    dropout_rate: float
    head_activation: str
    fc_init_std: float
    zero_init_final_bn: bool
    zero_init_final_conv: bool
    bn_eps: float
    bn_momentum: float
    inplace_relu: bool
    act_checkpoint: bool
    # Architecture; see ``ResNetSpec``, ``SlowFastSpec``, ``X3DSpec``, ``ResNet2dSpec``,
    # ``DenseNetSpec`` and ``MobileNetSpec``.
    arch: str
    depth: int
    transform: str
    width_per_group: int
    expansion: int
    num_groups: int
    spatial_strides: tuple[int, ...]
    spatial_dilations: tuple[int, ...]
    num_block_temp_kernel: tuple[int, ...] | None
    stride_1x1: bool
    non_local: NonLocalPlacement
    frame_ratio: int
    beta_inv: int
    fusion_ratio: int
    fusion_kernel: int
    fast_spatial_dilations: tuple[int, ...]
    fast_num_block_temp_kernel: tuple[int, ...] | None
    fast_non_local: NonLocalPlacement
    width_factor: float
    depth_factor: float
    bottleneck_factor: float
    dim_c1: int
    dim_c5: int
    scale_res2: bool
    bn_lin5: bool
    channelwise: bool
    pytorchvideo: bool
    pre_activation: bool
    width: int
    inner_ratio: int
    groups: int
    stem: str
    stride_on: str
    squeeze: bool
    input_bn: bool
    glore_blocks: tuple[int, ...]
    growth: int
    bottleneck: int
    version: int
    multiplier: float
    # Networks of other projects; see ``ExternalSpec``.
    options: "Mapping[str, object] | tuple[str, ...]"


def list_models(pattern: str = "*") -> list[str]:
    """Returns the names that ``create_model`` takes, sorted.

    pattern: with wildcards, such as "*r50" or "oct_*". Each network has a name of its octave form,
    "oct_" before its own, with the alpha of OCTAVE.ALPHA's default unless one is given.
    """
    names = [*_MODELS, *(f"{OCT}{name}" for name in _MODELS)]
    return sorted(fnmatch.filter(names, pattern))


def named_spec(name: str) -> Spec:
    """Returns the specification that a name of `list_models` stands for, or an external one.

    Raises:
        ValueError: an unknown name; the message lists similar ones.
    """
    if is_external(name):
        return _external(name)
    bare = name.removeprefix(OCT)
    if bare not in _MODELS:
        near = difflib.get_close_matches(bare, _MODELS, cutoff=0.5)
        guess = f" Did you mean {' or '.join(near)}?" if near else ""
        raise ValueError(
            f"unknown model {name!r}; known: {', '.join(sorted(_MODELS))}, each also with {OCT!r} "
            f"before it; networks of other projects as {'/NAME, '.join(LIBRARIES)}/NAME or "
            f"package.module:function.{guess}"
        )
    spec = _MODELS[bare]
    return spec if bare == name else with_options(spec, octave_alpha=OCT_ALPHA)


def is_external(name: str) -> bool:
    """Returns whether a name is of another project: "timm/resnet50", "package.module:function"."""
    return library_of(name) is not None or is_function(name)


def _external(name: str) -> ExternalSpec:
    """An external network with the clips that its library has published."""
    published = published_input(name)
    if published is None:
        return ExternalSpec(name)
    return ExternalSpec(
        name,
        num_classes=1000 if published.num_frames == 1 else 400,
        num_frames=published.num_frames,
        sampling_rate=published.sampling_rate,
        crop_size=published.crop_size,
    )


def with_options(
    spec: _S,
    num_classes: int | None = None,
    octave_alpha: float | None = None,
    **options: "Unpack[NetworkOptions]",
) -> _S:
    """Returns a specification with other values; None leaves a value as it is.

    Raises:
        ValueError: the network has no such option, or the value is none of its values.
    """
    given: dict[str, Any] = {"num_classes": num_classes, "octave_alpha": octave_alpha, **options}
    given = {name: value for name, value in given.items() if value is not None}
    octave = {OCTAVE_OPTIONS[name]: given.pop(name) for name in OCTAVE_OPTIONS.keys() & given}
    known = {field.name for field in fields(spec)} - {"octave", "name"}
    if unknown := set(given) - known:
        raise ValueError(
            f"create_model has no option {', '.join(sorted(unknown))} for "
            f"{name_of(spec) or type(spec).__name__}; "
            f"known: {', '.join(sorted({*known, *OCTAVE_OPTIONS}))}"
        )
    octave = {k: tuple(v) if isinstance(v, list) else v for k, v in octave.items()}
    return replace(spec, octave=replace(spec.octave, **octave), **given)


def spec_from_dict(values: object) -> Spec | None:
    """Returns the specification that ``spec.to_dict()`` has made ``values`` of.

    None if they are of no network of octvideo.

    Raises:
        ValueError: a field is unknown, not of its type, or out of range.
    """
    if not isinstance(values, Mapping):
        return None
    kinds: dict[str, type[Spec]] = {kind.__name__: kind for kind in (*_NETWORKS, ExternalSpec)}
    if (kind := kinds.get(str(values.get("network")))) is None:
        return None
    return from_plain(kind, {key: v for key, v in values.items() if key != "network"})


def name_of(spec: Spec) -> str | None:
    """Returns the name of a network in `list_models`, whatever its classes, octave and width.

    None if it has none.
    """
    free = {"num_classes", "width", "width_per_group", "bn_eps", "input_channels", "non_local",
            "fast_non_local"}  # fmt: skip
    free |= OCTAVE_OPTIONS.keys()
    found = (n for n, known in _MODELS.items() if not spec.differences(known, without=free))
    return next(found, None)


def build(spec: Spec) -> Network:
    """Builds a network with random weights, on the CPU; for 0 classes, without a last layer."""
    if isinstance(spec, ExternalSpec):
        return build_external(spec)
    network = _build(replace(spec, num_classes=spec.num_classes or 1))
    if not spec.num_classes:
        network.reset_classifier(0)
    return network


def _build(spec: VideoSpec | ImageSpec) -> Classifier:
    network = _NETWORKS[type(spec)](spec)
    octavized(network)
    network.init_weights()
    return network

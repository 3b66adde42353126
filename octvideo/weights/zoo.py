"""The models that are known by name: configuration, weights, class names, numbers and origin.

MODEL_ZOO.md is written from this table (``python tools/model_zoo.py``).
"""

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from octvideo.utils.errors import UserError

if TYPE_CHECKING:
    from typing_extensions import Unpack

PACKAGED = Path(__file__).with_name("packaged")  # weights that come with octvideo
_FB = "https://dl.fbaipublicfiles.com"
_PYSLOWFAST = f"{_FB}/pyslowfast/model_zoo/kinetics400"
_PYTORCHVIDEO = f"{_FB}/pytorchvideo/pysf_model_zoo/kinetics"
_HUB = f"{_FB}/pytorchvideo/model_zoo/kinetics"  # what PyTorchVideo's hub downloads

STATUSES = {
    "trained": "trained with octvideo",
    "converted": "trained elsewhere; octvideo reads the file as it is published",
    "config-only": "no weights are published yet",
}
ORIGINS = {
    "paper": "reported in the paper for its own training, not measured with octvideo",
    "upstream": "reported by the project that published the weights, not measured with octvideo",
    "measured here": "measured with octvideo",
}


@dataclass(frozen=True)
class ZooEntry:
    """A model of the zoo.

    config: file under configs/, without its ending.
    model, options: what ``create_model`` takes for the same network. address: of the weights, or
    the name of a file in ``PACKAGED``; sha256 is None where it is not known.
    inflate: the weights are of a 2D network. class_names: what `octvideo.data.labels` knows.
    num_frames, sampling_rate, crop_size, num_clips, num_crops: the views of a test.
    mean, std: of R, G, B in [0, 1], that inputs are normalised with. interpolation: of the resize
    of images. top1, top5: percent; origin
    says whose they are.
    """

    name: str
    config: str
    model: str
    status: str
    options: Mapping[str, Any] = field(default_factory=dict)
    address: str | None = None
    sha256: str | None = None
    inflate: bool = False
    data: str = "Kinetics-400"
    class_names: str | None = "kinetics400"
    num_classes: int = 400
    num_frames: int = 8
    sampling_rate: int = 8
    crop_size: int = 256
    num_clips: int = 10
    num_crops: int = 3
    mean: tuple[float, ...] = (0.45, 0.45, 0.45)
    std: tuple[float, ...] = (0.225, 0.225, 0.225)
    interpolation: str = "bilinear"
    top1: float | None = None
    top5: float | None = None
    origin: str | None = None

    def __post_init__(self) -> None:
        assert self.status in STATUSES, self.name
        assert (self.origin is None) == (self.top1 is None), self.name
        assert self.origin is None or self.origin in ORIGINS, self.name
        assert (self.address is None) == (self.status == "config-only"), self.name

    @property
    def is_packaged(self) -> bool:
        """Returns whether the weights come with octvideo."""
        return self.address is not None and "://" not in self.address

    @property
    def is_image_network(self) -> bool:
        """Returns whether it takes images; False for one whose kernels are to be inflated."""
        return self.num_frames == 1


class _Clip(TypedDict, total=False):
    """The clip of a video network, in fields of ``ZooEntry``."""

    num_frames: int
    sampling_rate: int
    crop_size: int


class _Pixels(TypedDict, total=False):
    """How an image network is given its pixels, in fields of ``ZooEntry``."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str


_SLOWFAST: _Clip = {"num_frames": 32, "sampling_rate": 2}
_4X16: _Clip = {"num_frames": 4, "sampling_rate": 16}


def _published(
    stem: str,
    model: str,
    source: str,
    top1: float,
    top5: float | None,
    file: str = "",
    **more: "Unpack[_Clip]",
) -> ZooEntry:
    """Weights of PySlowFast's or PyTorchVideo's zoo; file: their name of them, or the address, if
    another.
    """
    folder, ending = {"pysf": (_PYSLOWFAST, "pkl"), "ptv": (_PYTORCHVIDEO, "pyth")}[source]
    return ZooEntry(
        name=f"{stem.lower()}_k400_{source}",
        config=f"Kinetics/{stem}",
        model=model,
        status="converted",
        address=file if file.startswith(_FB) else f"{folder}/{file or stem}.{ending}",
        top1=top1,
        top5=top5,
        origin="upstream",
        **more,
    )


# Size -> frames, rate, test crop; top-1 of PySlowFast's weights; top-1, top-5 of PyTorchVideo's.
_X3D = {
    "XS": (4, 12, 182, 69.5, 69.12, 88.63),
    "S": (13, 6, 182, 73.5, 73.33, 91.27),
    "M": (16, 5, 256, 76.2, 75.94, 92.72),
    "L": (16, 5, 356, 77.5, 77.44, 93.31),
}


def _x3ds() -> Iterator[ZooEntry]:
    """Yields PySlowFast's and PyTorchVideo's weights of X3D, which differ in a batch norm."""
    for size, (frames, rate, crop, theirs, top1, top5) in _X3D.items():
        clip: _Clip = {"num_frames": frames, "sampling_rate": rate, "crop_size": crop}
        stem = f"X3D_{size}"
        file = f"{_FB}/pyslowfast/x3d_models/{stem.lower()}.pyth"
        yield _published(stem, stem.lower(), "pysf", theirs, None, file, **clip)
        entry = _published(stem, stem.lower(), "ptv", top1, top5, f"{_HUB}/{stem}.pyth", **clip)
        yield replace(entry, config=f"Kinetics/{stem}_PTV", options={"pytorchvideo": True})


def _of_the_paper(config: str, model: str, top1: float, alpha: float = 0.0) -> ZooEntry:
    """Returns the entry of a row of the paper's Table 6."""
    data, _, stem = config.partition("/")
    options: dict[str, object] = {"octave_alpha": alpha} if alpha else {}
    if alpha and "IN1K" in stem:
        options |= {"octave_stages": (2, 3, 4), "pool_stride": True}
    is_600 = data == "Kinetics600"
    return ZooEntry(
        name=f"{stem.lower()}_k{600 if is_600 else 400}",
        config=config,
        model=model,
        status="config-only",
        options=options,
        data="Kinetics-600" if is_600 else "Kinetics-400",
        class_names="kinetics600" if is_600 else "kinetics400",
        num_classes=600 if is_600 else 400,
        **(_SLOWFAST if model.startswith("slowfast") else {}),
        top1=top1,
        origin="paper",
    )


# Their networks in configs/ImageNet.
_CONFIGS = {
    **{f"resnet{depth}_v2": f"RESNET{depth}" for depth in (26, 50, 101, 200)},
    "resnext50_32x4d": "RESNEXT50",
    "resnext101_32x4d": "RESNEXT101",
    "resnet152_v1f": "RESNET152",
    "se_resnet152_v1e": "SE_RESNET152",
}
# The authors' ablation: file, our name, top-1 and top-5 by alpha, in one centre crop of 224.
_ABLATION: tuple[tuple[str, str, dict[float, tuple[float, float]]], ...] = (
    ("a01_densenet-121", "densenet121", {0.125: (76.1, 93.0), 0.25: (75.9, 93.1)}),
    (
        *("a02_resnet-26", "resnet26_v2"),
        {0.125: (75.8, 92.6), 0.25: (76.1, 92.6), 0.5: (75.5, 92.5), 0.75: (74.6, 92.1)},
    ),
    (
        *("a03_resnet-50", "resnet50_v2"),
        {0.125: (78.2, 93.9), 0.25: (78.0, 93.8), 0.5: (77.4, 93.6), 0.75: (76.7, 93.0)},
    ),
    (
        *("a04_resnext-50_32x4d", "resnext50_32x4d"),
        {0.25: (78.8, 94.2), 0.5: (78.4, 94.0), 0.75: (77.5, 93.6)},
    ),
    (
        *("a05_se-resnet-50", "se_resnet50"),
        {0.125: (78.7, 94.1), 0.25: (78.4, 94.0), 0.5: (77.9, 93.8), 0.75: (77.4, 93.5)},
    ),
    (
        *("a06_resnet-101", "resnet101_v2"),
        {0.125: (79.2, 94.4), 0.25: (79.2, 94.4), 0.5: (78.7, 94.1)},
    ),
    ("a07_resnext-101_32x4d", "resnext101_32x4d", {0.25: (79.6, 94.5), 0.5: (78.9, 94.4)}),
    (
        *("a08_resnet-200", "resnet200_v2"),
        {0.125: (80.0, 94.9), 0.25: (79.8, 94.8), 0.5: (79.5, 94.7)},
    ),
)
_OTHERS = (
    ("mobilenet_v1_075", "mobilenet_v1_075", "0.375", 70.5, 89.5),
    ("mobilenet_v1_100", "mobilenet_v1_100", "0.5", 72.5, 90.6),
    ("mobilenet_v2_100", "mobilenet_v2_100", "0.375", 72.0, 90.7),
    ("mobilenet_v2_1125", "mobilenet_v2_1125", "0.5", 73.0, 91.2),
    ("resnet152_v1f", "resnet152_v1f", "0.125", 81.4, 95.4),
    ("se-resnet152_v1e", "se_resnet152_v1e", "0.125", 81.6, 95.7),
)
_OCTCONV = f"{_FB}/octconv"
# As Intel's Open Model Zoo has them for the same addresses.
_OCTCONV_SHA256 = {
    "a01_densenet-121_alpha-0.125":
        "93fcdf376c2ee7e9278e2c4a9d8a0a30e35d92051ad4889fb5d5c1855ea31ca4",
    "a02_resnet-26_alpha-0.250":
        "29fba1f4f421f86bebcc5bd99c0d1936c20c63b3e5bb20b48665106469bd54b0",
    "a03_resnet-50_alpha-0.125":
        "1ad2c754a5569d6c297c10601fd62feed4d5fe36354167697315e644f5c913d4",
    "a04_resnext-50_32x4d_alpha-0.250":
        "e4f4d8438cb1cf6e349eb0e583e5cc6bf2754fe6093dc24471e893eb3b8c3944",
    "a05_se-resnet-50_alpha-0.125":
        "a080ed21c747b877697ca8a91843d2d83b15d1ad4702a09cd74126a3fcdffc52",
    "a06_resnet-101_alpha-0.125":
        "28fe5741d60232fa303292c632f8665cb10ed2f7c32617dae575bad14d4ac45a",
    "a07_resnext-101_32x4d_alpha-0.250":
        "00c2c7d7048eb0c07509414b4aff845cd1cc6f92b8414a2837b2344e6c6400d3",
    "a08_resnet-200_alpha-0.125":
        "d9ce49aa73e3f0f31ac659ddf812ff8a79242a058e6b53a7140c756d83413e58",
}  # fmt: skip


def _of_the_authors(
    file: str, model: str, alpha: float, top1: float, top5: float, **more: "Unpack[_Pixels]"
) -> ZooEntry:
    """Returns the entry of one of the authors' MXNet networks."""
    stem = file.rpartition("/")[2].rpartition(".")[0]
    return ZooEntry(
        name=f"oct_{model}_a{alpha}_in1k_mxnet",
        config=f"ImageNet/OCT_{_CONFIGS.get(model, model.upper())}_A{alpha}",
        model=model,
        status="converted",
        options={"octave_alpha": alpha},
        address=f"{_OCTCONV}/{file}",
        sha256=_OCTCONV_SHA256.get(stem),
        data="ImageNet-1k",
        class_names=None,
        num_classes=1000,
        num_frames=1,
        sampling_rate=1,
        crop_size=224,
        num_clips=1,
        num_crops=1,
        top1=top1,
        top5=top5,
        origin="upstream",
        **more,
    )


def _authors_networks() -> Iterator[ZooEntry]:
    # Their test programs: (x - (124, 117, 104)) * .0167 in the ablation, ImageNet's usual values
    # in the rest; the short side to 256, and a centre crop. As in the configurations.
    old: _Pixels = {"mean": (0.48627, 0.45882, 0.40784), "std": (0.23483,) * 3,
                   "interpolation": "bicubic"}  # fmt: skip
    usual: _Pixels = {"mean": (0.48502, 0.45796, 0.40760), "std": (0.22899, 0.224, 0.225)}
    for file, model, scores in _ABLATION:
        for alpha, (top1, top5) in scores.items():
            address = f"ablation/{file}_alpha-{alpha:.3f}.tar"
            yield _of_the_authors(address, model, alpha, top1, top5, **old)
    for file, model, share, top1, top5 in _OTHERS:
        address = f"others/{file}_alpha-{share}.params"
        yield _of_the_authors(address, model, float(share), top1, top5, **usual)


def _of_the_demo(config: str, model: str, top1: float, sha256: str, alpha: float = 0.0) -> ZooEntry:
    """Returns the entry of a small network that comes with octvideo, trained by its own command."""
    options: dict[str, object] = {"width_per_group": 8, "sampling_rate": 4, "crop_size": 64}
    name = f"{config.lower()}_synthetic"
    return ZooEntry(
        name=name,
        config=f"Synthetic/{config}",
        model=model,
        status="trained",
        options=options | ({"octave_alpha": alpha} if alpha else {}),
        address=f"{name}.pyth",
        sha256=sha256,
        data="synthetic actions",
        class_names=None,
        num_classes=8,
        sampling_rate=4,
        crop_size=64,
        top1=top1,
        origin="measured here",
    )


_ENTRIES = (
    _of_the_demo(
        *("I3D", "i3d_r14", 99.4),
        "aa24bd2cf11adc4f11a52fe628dc1b44031b7c084e26986d7cf16685964e896a",
    ),
    _of_the_demo(
        *("OCT_I3D", "i3d_r14", 100.0),
        "f10bb01891fddb6b276b7519b046b262821761fd73d9b038a47d6bd1d97a06e4",
        alpha=0.25,
    ),
    _of_the_demo(
        *("C2D", "c2d_r14", 47.5),
        "069269df13ea1f69247d5cb7ea7f3f80f3131b4456f1b52d28150406fa1afefd",
    ),
    _published("C2D_NOPOOL_8x8_R50", "slow_c2d_r50", "pysf", 67.2, 87.8),
    _published("C2D_8x8_R50", "c2d_r50", "ptv", 71.46, 89.68),
    _published("I3D_8x8_R50", "i3d_r50", "pysf", 73.5, 90.8),
    _published("I3D_8x8_R50", "i3d_r50", "ptv", 73.27, 90.70),
    _published("I3D_NLN_8x8_R50", "i3d_nln_r50", "pysf", 74.0, 91.1),
    _published("SLOW_4x16_R50", "slow_4x16_r50", "pysf", 72.7, 90.3, "SLOWONLY_4x16_R50", **_4X16),
    _published("SLOW_4x16_R50", "slow_4x16_r50", "ptv", 72.40, 90.18, **_4X16),
    _published("SLOW_8x8_R50", "slow_r50", "pysf", 74.8, 91.6, "SLOWONLY_8x8_R50"),
    _published("SLOW_8x8_R50", "slow_r50", "ptv", 74.58, 91.63),
    _published("SLOWFAST_4x16_R50", "slowfast_4x16_r50", "pysf", 75.6, 92.0, **_SLOWFAST),
    _published("SLOWFAST_4x16_R50", "slowfast_4x16_r50", "ptv", 75.34, 91.89, **_SLOWFAST),
    _published("SLOWFAST_8x8_R50", "slowfast_r50", "pysf", 77.0, 92.6, **_SLOWFAST),
    _published("SLOWFAST_8x8_R50", "slowfast_r50", "ptv", 76.94, 92.69, **_SLOWFAST),
    *_x3ds(),
    _published(
        *("R2PLUS1D_16x4_R50", "r2plus1d_r50", "ptv", 76.01, 92.23),
        f"{_HUB}/R2PLUS1D_16x4_R50.pyth",
        num_frames=16,
        sampling_rate=4,
    ),
    _published(
        *("CSN_32x2_R101", "csn_r101", "ptv", 77.00, 92.90),
        f"{_HUB}/CSN_32x2_R101.pyth",
        **_SLOWFAST,
    ),
    ZooEntry(
        name="r50_in1k_pysf",
        config="Kinetics/I3D_8x8_R50_IN1K",
        model="i3d_r50",
        status="converted",
        address=f"{_PYSLOWFAST}/R50_IN1K.pyth",
        inflate=True,
        data="ImageNet-1k",
        class_names=None,
        num_classes=1000,
    ),
    _of_the_paper("Kinetics/I3D_8x8_R50", "i3d_r50", 72.6),
    _of_the_paper("Kinetics/OCT_I3D_8x8", "i3d_r50", 73.6, 0.1),
    _of_the_paper("Kinetics/OCT_I3D_8x8_A0.2", "i3d_r50", 73.1, 0.2),
    _of_the_paper("Kinetics/OCT_I3D_8x8_A0.5", "i3d_r50", 72.1, 0.5),
    _of_the_paper("Kinetics/C2D_8x8_R50_IN1K", "c2d_r50", 71.9),
    _of_the_paper("Kinetics/OCT_C2D_8x8_IN1K", "c2d_r50", 73.8, 0.1),
    _of_the_paper("Kinetics/I3D_8x8_R50_IN1K", "i3d_r50", 73.3),
    _of_the_paper("Kinetics/OCT_I3D_8x8_IN1K", "i3d_r50", 74.6, 0.1),
    _of_the_paper("Kinetics/I3D_NLN_8x8_R50_IN1K", "i3d_nln_r50", 74.7),
    _of_the_paper("Kinetics/OCT_I3D_NLN_8x8_IN1K", "i3d_nln_r50", 75.7, 0.1),
    _of_the_paper("Kinetics/SLOWFAST_4x16_R50", "slowfast_4x16_r50", 75.6),
    _of_the_paper("Kinetics/OCT_SLOWFAST_4x16", "slowfast_4x16_r50", 76.2, 0.1),
    _of_the_paper("Kinetics/OCT_SLOWFAST_4x16_A0.2", "slowfast_4x16_r50", 75.8, 0.2),
    _of_the_paper("Kinetics600/I3D_8x8_R50_IN1K", "i3d_r50", 74.3),
    _of_the_paper("Kinetics600/OCT_I3D_8x8_IN1K", "i3d_r50", 76.0, 0.1),
    *_authors_networks(),
)

_BY_NAME = {entry.name: entry for entry in _ENTRIES}
assert len(_BY_NAME) == len(_ENTRIES)


def zoo_entries() -> list[ZooEntry]:
    """Returns the whole zoo, in the order of the table."""
    return list(_ENTRIES)


def list_pretrained() -> list[str]:
    """Names of the entries that have weights, sorted; what ``pretrained`` takes."""
    return sorted(entry.name for entry in _ENTRIES if entry.address)


def zoo_entry(name: str) -> ZooEntry:
    """Returns the entry of a name.

    Raises:
        UserError: there is none; the message has the nearest names.
    """
    if name not in _BY_NAME:
        near = difflib.get_close_matches(name.lower(), list_pretrained(), cutoff=0.5)
        guess = f"; did you mean {' or '.join(near)}?" if near else "."
        raise UserError(
            f"the zoo has no {name!r}, and there is no file of that name{guess} "
            "octvideo.list_pretrained() and MODEL_ZOO.md have all names"
        )
    return _BY_NAME[name]


def zoo_address(source: Path | str) -> tuple[str, str | None]:
    """Address and SHA-256 of the weights that are meant, where ``source`` is a name; else "".

    A file of that name takes precedence.

    Raises:
        UserError: the weights of that name are not published.
    """
    if str(source) not in _BY_NAME or Path(source).is_file():
        return "", None
    entry = _BY_NAME[str(source)]
    if not entry.address:
        raise UserError(
            f"{entry.name} has no weights yet: train it with configs/{entry.config}.yaml, or "
            "choose one of octvideo.list_pretrained()"
        )
    address = str(PACKAGED / entry.address) if entry.is_packaged else entry.address
    return address, entry.sha256

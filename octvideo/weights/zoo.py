"""The models that are known by name: configuration, weights, class names, numbers and origin.

MODEL_ZOO.md is written from this table (``python tools/model_zoo.py``).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from octvideo.utils.errors import UserError

_FB = "https://dl.fbaipublicfiles.com"
_PYSLOWFAST = f"{_FB}/pyslowfast/model_zoo/kinetics400"
_PYTORCHVIDEO = f"{_FB}/pytorchvideo/pysf_model_zoo/kinetics"

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

    config: file under configs/, without its ending. model, options: what ``create_model`` takes
    for the same network. address: of the weights; sha256 is None where it is not known.
    inflate: the weights are of a 2D network. class_names: what `octvideo.data.labels` knows.
    num_frames, sampling_rate, crop_size, num_clips, num_crops: the views of a test.
    top1, top5: percent; origin says whose they are.
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
    top1: float | None = None
    top5: float | None = None
    origin: str | None = None

    def __post_init__(self) -> None:
        assert self.status in STATUSES, self.name
        assert (self.origin is None) == (self.top1 is None), self.name
        assert self.origin is None or self.origin in ORIGINS, self.name
        assert (self.address is None) == (self.status == "config-only"), self.name


_SLOWFAST: dict[str, Any] = {"num_frames": 32, "sampling_rate": 2}
_4X16: dict[str, Any] = {"num_frames": 4, "sampling_rate": 16}


def _published(
    stem: str, model: str, source: str, top1: float, top5: float, file: str = "", **more: Any
) -> ZooEntry:
    """Weights of PySlowFast's or PyTorchVideo's zoo; file: their name of them, if another."""
    folder, ending = {"pysf": (_PYSLOWFAST, "pkl"), "ptv": (_PYTORCHVIDEO, "pyth")}[source]
    return ZooEntry(
        name=f"{stem.lower()}_k400_{source}",
        config=f"Kinetics/{stem}",
        model=model,
        status="converted",
        address=f"{folder}/{file or stem}.{ending}",
        top1=top1,
        top5=top5,
        origin="upstream",
        **more,
    )


def _of_the_paper(config: str, model: str, top1: float, alpha: float = 0.0) -> ZooEntry:
    """A row of Table 6 of the paper."""
    data, _, stem = config.partition("/")
    options: dict[str, Any] = {"octave_alpha": alpha} if alpha else {}
    if alpha and "IN1K" in stem:
        options["octave_stages"] = (2, 3, 4)
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


_ENTRIES = (
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
)

_BY_NAME = {entry.name: entry for entry in _ENTRIES}
assert len(_BY_NAME) == len(_ENTRIES)


def zoo_entries() -> list[ZooEntry]:
    """The whole zoo, in the order of the table."""
    return list(_ENTRIES)


def list_pretrained() -> list[str]:
    """Names of the entries that have weights, sorted; what ``pretrained`` takes."""
    return sorted(entry.name for entry in _ENTRIES if entry.address)


def zoo_entry(name: str) -> ZooEntry:
    """The entry of a name.

    Raises:
        UserError: there is none; the message lists those that have weights.
    """
    if name not in _BY_NAME:
        raise UserError(
            f"the zoo has no {name!r}, and there is no file of that name; it has weights "
            f"for {', '.join(list_pretrained())}"
        )
    return _BY_NAME[name]

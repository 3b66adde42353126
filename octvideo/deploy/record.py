"""What an exported file says about itself, so that whoever runs it needs nothing else."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import octvideo
from octvideo.data.protocol import Protocol
from octvideo.models.build import Spec, spec_from_dict
from octvideo.utils.plain import from_plain, to_plain

KEY = "octvideo"  # of the record among the metadata of a file
INPUTS = ("clips", "frames", "pathways")
MAX_CLASSES = 10**6


@dataclass(frozen=True)
class Record:
    """How an exported network is used.

    inputs: "clips", normalised float32 (N, 3, T, S, S), of image networks (N, 3, S, S); "frames",
    pixels uint8 (N, T, S, S, 3), of image networks (N, S, S, 3); "pathways", the two clips slow
    and fast of SlowFast. T and S are num_frames and crop_size.
    dynamic_size: the sides may be any from crop_size on.
    logits: the scores come before the activation. features: a second output, (N, C).
    precision: of weights and layers, "fp32" or "int8".
    source: where the weights come from.
    """

    protocol: Protocol
    inputs: str = "clips"
    is_image: bool = False
    num_frames: int = 1
    crop_size: int = 224
    num_classes: int = 1000
    frame_ratio: int = 1
    dynamic_size: bool = False
    logits: bool = False
    features: bool = False
    spec: Spec | None = None
    class_names: tuple[str, ...] = ()
    licence: str = ""
    source: str = ""
    precision: str = "fp32"

    def __post_init__(self) -> None:
        if self.inputs not in INPUTS:
            raise ValueError(f"inputs must be one of {', '.join(INPUTS)}, got {self.inputs!r}")
        if self.class_names and len(self.class_names) != self.num_classes:
            raise ValueError(
                f"there are {len(self.class_names)} class names for {self.num_classes} classes"
            )

    def shape(self, batch: int = 1) -> tuple[int, ...]:
        """Returns the shape of the (fast) input."""
        clips = self.clips_shape(batch)
        return (batch, *clips[2:], 3) if self.inputs == "frames" else clips

    def clips_shape(self, batch: int, size: Sequence[int] | None = None) -> tuple[int, ...]:
        """Returns the shape of the normalised clips (or images) that the input is made of.

        size: (H, W); None: crop_size.
        """
        time = () if self.is_image else (self.num_frames,)
        return (batch, 3, *time, *(size or (self.crop_size, self.crop_size)))

    @property
    def input_shape(self) -> list[str | int]:
        """The shape of the (fast) input, with names of what may vary."""
        named: list[str | int] = ["batch", *self.shape()[1:]]
        if self.dynamic_size:
            end = len(named) - (self.inputs == "frames")
            named[end - 2 : end] = ["height", "width"]
        return named

    @property
    def input_names(self) -> tuple[str, ...]:
        return ("slow", "fast") if self.inputs == "pathways" else (self.inputs,)

    @property
    def output_names(self) -> tuple[str, ...]:
        return ("scores", "features") if self.features else ("scores",)

    def to_json(self, sha256: str | None = None) -> str:
        """Returns the record as text, first what readers in other languages want to know.

        sha256: what stands in the place of the file's own; see `seal`.
        """
        own = {k: v for k, v in to_plain(replace(self, spec=None)).items() if k != "spec"}
        content = {
            "version": octvideo.__version__,
            "input_shape": self.input_shape,
            "octave_alpha": self.spec.octave.alpha if self.spec else None,
            **({"sha256": sha256} if sha256 else {}),
            **own,
            "spec": self.spec and self.spec.to_dict(),
        }
        return json.dumps(content)


def record_from_json(text: str) -> tuple[Record, object]:
    """Returns the record of a file, and its SHA-256, or None if it has none.

    Raises:
        ValueError: the text is not a record, or a value is of another type or out of range.
    """
    content = json.loads(text)
    if not isinstance(content, Mapping):
        raise ValueError(f"the record must be a dict, got {content!r:.60}")
    values = dict(content)
    digest = values.pop("sha256", None)
    for name in ("version", "input_shape", "octave_alpha"):  # for other readers
        values.pop(name, None)
    spec = spec_from_dict(values.pop("spec", None))
    record = from_plain(_Plain, values)
    limits = {"num_frames": 1024, "crop_size": 4096, "num_classes": MAX_CLASSES}
    for name, limit in limits.items():
        if not 0 < getattr(record, name) <= limit:
            raise ValueError(f"{name} must be 1 to {limit}, got {getattr(record, name)}")
    return Record(**{**vars(record), "spec": spec}), digest


@dataclass(frozen=True)
class _Plain(Record):
    """A record without its spec, whose class depends on a name in the file."""

    spec: None = None

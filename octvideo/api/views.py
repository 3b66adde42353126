"""How a model looks at a video: which clips and crops, and in which values."""

from dataclasses import replace
from typing import Any

from fvcore.common.config import CfgNode
from torch import nn

from octvideo.data.protocol import CentreCrop, Protocol, build_protocol
from octvideo.models.image import ImageSpec
from octvideo.utils.errors import UserError
from octvideo.weights.zoo import ZooEntry

_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class ViewSettings(Protocol):
    """The protocol of a model: see ``Protocol``."""

    @classmethod
    def of_cfg(cls, cfg: CfgNode) -> "ViewSettings":
        return cls(**vars(build_protocol(cfg)))

    @classmethod
    def of_entry(cls, entry: ZooEntry) -> "ViewSettings":
        return cls(
            entry.num_frames,
            entry.sampling_rate,
            entry.crop_size,
            entry.num_clips,
            entry.num_crops,
            mean=entry.mean,
            std=entry.std,
            centre_crop=CentreCrop(entry.crop_size, interpolation=entry.interpolation)
            if entry.is_image_network
            else None,
        )

    @classmethod
    def of_model(cls, model: nn.Module, sampling_rate: int | None = None) -> "ViewSettings":
        """What a model of octvideo knows of itself; ``sampling_rate`` wins over it.

        A network for crops of 224 is tested with 256, as is the habit; any other with its own, as
        are image networks, whose colours are then normalised as is usual for ImageNet.

        Raises:
            UserError: not a model of octvideo, or a sampling_rate below 1.
        """
        if sampling_rate is not None and sampling_rate < 1:
            raise UserError(f"sampling_rate must be at least 1, got {sampling_rate}")
        known: ViewSettings | None = getattr(model, "view_settings", None)
        if known is not None:
            return replace(known, sampling_rate=sampling_rate or known.sampling_rate)
        spec: Any = getattr(model, "spec", None)
        if not hasattr(spec, "num_frames") or not hasattr(spec, "crop_size"):
            raise UserError(
                f"{type(model).__name__} is not a model of octvideo.create_model: give the "
                "settings of its views (settings=ViewSettings(...))"
            )
        sampling_rate = sampling_rate or getattr(spec, "sampling_rate", None)
        if sampling_rate is None:
            raise UserError(
                "the distance of the frames of a clip is not known for this model: give it, as "
                "sampling_rate=8 for an 8x8 network"
            )
        if isinstance(spec, ImageSpec):
            return cls(1, 1, spec.crop_size, mean=_IMAGENET_MEAN, std=_IMAGENET_STD,
                       centre_crop=CentreCrop(spec.crop_size))  # fmt: skip
        side = 256 if spec.crop_size == 224 else spec.crop_size
        return cls(spec.num_frames, sampling_rate, side)

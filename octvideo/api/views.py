"""How a model looks at a video: which clips and crops, and in which values."""

from dataclasses import dataclass, replace
from typing import Any

from fvcore.common.config import CfgNode
from torch import nn

from octvideo.config import clip_counts_of_test, has_pictures, short_side_of_test
from octvideo.data.pictures import CentreCrop
from octvideo.data.sampling import ClipSampling
from octvideo.models.image import ImageSpec
from octvideo.utils.errors import UserError
from octvideo.weights.zoo import ZooEntry

_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class ViewSettings:
    """The keys of a configuration that a test of a model depends on.

    num_frames frames, sampling_rate frames at target_fps apart, are a clip; the short side is
    resized to short_side (None: crop_size); num_clips clips and num_crops crops (1 or 3) are the
    views of a video, whose scores are joined by ensemble, "sum" (here: the mean) or "max".
    precision of the network: "fp32", "bf16" or "fp16". centre_crop: the one view of an
    image, for image networks. by_time: see `ClipSampling`. square_pixels: see `VideoReader`.
    allow_partial: of a damaged video, the frames that decode are used.
    """

    num_frames: int
    sampling_rate: int
    crop_size: int = 256
    num_clips: int = 10
    num_crops: int = 3
    target_fps: float = 30.0
    use_offset: bool = False
    mean: tuple[float, ...] = (0.45, 0.45, 0.45)
    std: tuple[float, ...] = (0.225, 0.225, 0.225)
    reverse_channels: bool = False
    ensemble: str = "sum"
    backend: str = "pyav"
    precision: str = "fp32"
    centre_crop: CentreCrop | None = None
    short_side: int | None = None
    by_time: bool = True
    square_pixels: bool = False
    allow_partial: bool = False

    def sampling(self) -> ClipSampling:
        return ClipSampling(
            self.num_frames,
            self.sampling_rate,
            self.target_fps,
            use_offset=self.use_offset,
            by_time=self.by_time,
        )

    @classmethod
    def of_cfg(cls, cfg: CfgNode) -> "ViewSettings":
        return cls(
            num_frames=cfg.DATA.NUM_FRAMES,
            sampling_rate=cfg.DATA.SAMPLING_RATE,
            crop_size=cfg.DATA.TEST_CROP_SIZE,
            num_clips=clip_counts_of_test(cfg)[-1],
            num_crops=cfg.TEST.NUM_SPATIAL_CROPS,
            target_fps=cfg.DATA.TARGET_FPS,
            use_offset=cfg.DATA.USE_OFFSET_SAMPLING,
            by_time=cfg.DATA.SAMPLE_BY_TIME,
            square_pixels=cfg.DATA.SQUARE_PIXELS,
            mean=tuple(cfg.DATA.MEAN),
            std=tuple(cfg.DATA.STD),
            reverse_channels=cfg.DATA.REVERSE_INPUT_CHANNEL,
            ensemble=cfg.DATA.ENSEMBLE_METHOD,
            backend=cfg.DATA.DECODING_BACKEND,
            precision=cfg.TEST.PRECISION,
            allow_partial=cfg.DATA.ALLOW_PARTIAL,
            centre_crop=_centre_crop(cfg),
            short_side=None
            if (side := short_side_of_test(cfg)) == cfg.DATA.TEST_CROP_SIZE
            else side,
        )

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


def _centre_crop(cfg: CfgNode) -> CentreCrop | None:
    """The view of a picture in a test."""
    if not (has_pictures(cfg, "test") or has_pictures(cfg)) or cfg.MODEL.ARCH != "2d":
        return None
    data = cfg.DATA
    return CentreCrop(data.TEST_CROP_SIZE, data.IN_VAL_CROP_RATIO, data.TEST_INTERPOLATION)

"""What a network is, as a record that is saved with its weights and compared with another's.

The shapes of weights do not say it: an octave network has those of the vanilla one, and of every
other alpha. So weights that fit may still compute something else.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

from octvideo.utils.plain import plain_value, to_plain

if TYPE_CHECKING:
    from octvideo.models.spec import OctavePlacement

# Fields that a trained network may change and still compute the same from the same weights: how
# it is trained, for which clips it is made, and what becomes of its logits.
FREE = frozenset(
    {"num_frames", "sampling_rate", "crop_size", "head_activation"}
    | {"dropout_rate", "bn_momentum", "inplace_relu", "act_checkpoint"}
    | {"zero_init_final_bn", "zero_init_final_conv", "fc_init_std"}
)
# Options of ``create_model`` for the fields of ``OctavePlacement``.
OCTAVE_OPTIONS = {
    "octave_alpha": "alpha",
    "octave_stages": "stages",
    "channel_divisor": "channel_divisor",
    "octave_pathways": "pathways",
    "nonlocal_mode": "nonlocal_mode",
    "pool_stride": "pool_stride",
    "octave_channels": "channels",
}
# The configuration's key of each option or field. MODEL.MODEL_NAME fixes those without one and,
# of an image network, all but _OF_IMAGES.
KEYS = {
    "network": "MODEL.MODEL_NAME",
    "name": "MODEL.MODEL_NAME",
    "options": "MODEL.OPTIONS",
    "arch": "MODEL.ARCH",
    "num_classes": "MODEL.NUM_CLASSES",
    "num_frames": "DATA.NUM_FRAMES",
    "sampling_rate": "DATA.SAMPLING_RATE",
    "crop_size": "DATA.TRAIN_CROP_SIZE",
    "input_channels": "DATA.INPUT_CHANNEL_NUM",
    "depth": "RESNET.DEPTH",
    "transform": "RESNET.TRANS_FUNC",
    "width": "RESNET.WIDTH_PER_GROUP",
    "width_per_group": "RESNET.WIDTH_PER_GROUP",
    "expansion": "RESNET.EXPANSION",
    "num_groups": "RESNET.NUM_GROUPS",
    "spatial_strides": "RESNET.SPATIAL_STRIDES",
    "spatial_dilations": "RESNET.SPATIAL_DILATIONS",
    "fast_spatial_dilations": "RESNET.SPATIAL_DILATIONS",
    "num_block_temp_kernel": "RESNET.NUM_BLOCK_TEMP_KERNEL",
    "fast_num_block_temp_kernel": "RESNET.NUM_BLOCK_TEMP_KERNEL",
    "stride_1x1": "RESNET.STRIDE_1X1",
    "non_local": "NONLOCAL.LOCATION",
    "fast_non_local": "NONLOCAL.LOCATION",
    "bn_eps": "BN.EPSILON",
    "frame_ratio": "SLOWFAST.ALPHA",
    "beta_inv": "SLOWFAST.BETA_INV",
    "fusion_ratio": "SLOWFAST.FUSION_CONV_CHANNEL_RATIO",
    "fusion_kernel": "SLOWFAST.FUSION_KERNEL_SZ",
    "width_factor": "X3D.WIDTH_FACTOR",
    "depth_factor": "X3D.DEPTH_FACTOR",
    "bottleneck_factor": "X3D.BOTTLENECK_FACTOR",
    "dim_c1": "X3D.DIM_C1",
    "dim_c5": "X3D.DIM_C5",
    "scale_res2": "X3D.SCALE_RES2",
    "bn_lin5": "X3D.BN_LIN5",
    "channelwise": "X3D.CHANNELWISE_3x3x3",
    "pytorchvideo": "X3D.PYTORCHVIDEO",
    "octave_alpha": "OCTAVE.ALPHA",
    "octave_stages": "OCTAVE.STAGES",
    "channel_divisor": "OCTAVE.CHANNEL_DIVISOR",
    "octave_pathways": "OCTAVE.PATHWAYS",
    "nonlocal_mode": "OCTAVE.NONLOCAL_MODE",
    "pool_stride": "OCTAVE.POOL_STRIDE",
}
_OF_IMAGES = {
    "network",
    "name",
    "options",
    "num_classes",
    "input_channels",
    "width",
    "bn_eps",
    *OCTAVE_OPTIONS,
}


_SHOWN = 200  # characters of a value


@dataclass(frozen=True)
class Difference:
    """One thing in which two networks differ: an option of ``create_model``, and both values."""

    option: str
    key: str
    mine: object
    other: object

    def __str__(self) -> str:
        """Returns it in options: "octave_alpha was 0.25, is 0.5"."""
        return f"{self.option} was {_short(self.mine)}, is {_short(self.other)}"

    @property
    def in_keys(self) -> str:
        """Returns it in keys of a configuration: "OCTAVE.ALPHA was 0.25, is 0.5"."""
        values = plain_value(self.mine), plain_value(self.other)
        key = self.key
        if self.option == "octave_alpha" and not all(values):
            key, values = "OCTAVE.ENABLE", (bool(self.mine), bool(self.other))
        return f"{key} was {_short(values[0])}, is {_short(values[1])}"


def _short(value: object) -> str:
    """The low channels of a whole network would fill the screen."""
    text = str(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


class NetworkSpec:
    """What every specification of a network, a frozen dataclass, can do."""

    if TYPE_CHECKING:
        num_classes: int
        octave: OctavePlacement

    is_image = False

    def to_dict(self) -> dict[str, object]:
        """Returns the record as plain values, which ``spec_from_dict`` reads."""
        return {"network": type(self).__name__, **to_plain(self)}

    def differences(self, other: "NetworkSpec", without: Iterable[str] = ()) -> list[Difference]:
        """Lists what makes ``other`` another network: the same weights compute something else.

        This is the one judge of whether weights belong to a network, whatever their shapes say.
        Fields without effect do not count, such as the stages of a vanilla network; nor do those
        that only one of two kinds of networks has.

        Args:
            without: options that may differ.
        """
        mine, others = self._facts(), other._facts()
        return [
            Difference(name, self._key(name), value, others[name])
            for name, value in mine.items()
            if name in others and name not in without and value != others[name]
        ]

    def _facts(self) -> dict[str, object]:
        """Returns what the same weights compute depends on, by option of ``create_model``."""
        facts: dict[str, object] = {"network": type(self).__name__}
        for field in fields(self):  # type: ignore[arg-type]
            value = getattr(self, field.name)
            if field.name == "octave":
                facts |= self.octave_options()
            elif field.name.endswith("non_local") and not any(value.blocks):
                facts[field.name] = None
            elif field.name not in FREE:
                facts[field.name] = value
        return facts

    def _key(self, option: str) -> str:
        is_fixed = option not in KEYS or (self.is_image and option not in _OF_IMAGES)
        return f"MODEL.MODEL_NAME ({option})" if is_fixed else KEYS[option]

    def octave_options(self) -> dict[str, object]:
        """Returns the octave as options of ``create_model``, without those that have no effect."""
        octave = self.octave
        if not (octave.alpha and octave.stages):
            return {"octave_alpha": 0.0}
        options = {option: getattr(octave, name) for option, name in OCTAVE_OPTIONS.items()}
        if self.is_image:
            options["pool_stride"] = True  # always
        if not any(s - 1 in octave.stages and s not in octave.stages for s in (3, 4, 5)):
            del options["pool_stride"]  # no plain stage follows an octave one
        return options


def in_keys(differences: Sequence[Difference]) -> str:
    """Returns the differences in keys of a configuration: "KEY was A, is B; ..."."""
    return "; ".join(difference.in_keys for difference in differences)


def in_options(differences: Sequence[Difference]) -> str:
    """Returns the differences in options of ``create_model``: "option was A, is B; ..."."""
    return "; ".join(map(str, differences))

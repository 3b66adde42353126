"""Networks of other projects in a configuration: their names, and what follows from a name.

MODEL.ARCH external builds the network that MODEL.MODEL_NAME names: "torchvision/r2plus1d_18",
"timm/resnet50", "pytorchvideo/x3d_m", or "package.module:function" of the user's own code.
"""

from collections.abc import Collection, Iterator

from fvcore.common.config import CfgNode

from octvideo.config.keys import get_cfg, value_of
from octvideo.config.published import LIBRARIES, published_input
from octvideo.config.values import show
from octvideo.utils.errors import UserError

_NAMES = ", ".join(f"{library}/NAME" for library in LIBRARIES)
EXTERNAL_NAMES = f"{_NAMES} or package.module:function"
# What an external network decides itself; ones that change its octave are refused, in its spec.
_DECIDED = ("RESNET", "NONLOCAL", "SLOWFAST")
_DECIDED_KEYS = ("MODEL.DROPOUT_RATE", "MODEL.ACT_CHECKPOINT", "BN.EPSILON", "BN.MOMENTUM")
# What every library says of its networks.
_ALL_FORMATS = tuple(
    f"DATA.{name}" for name in ("NUM_FRAMES", "TRAIN_CROP_SIZE", "TEST_CROP_SIZE", "MEAN", "STD")
)


def takes_images(cfg: CfgNode) -> bool:
    """Returns whether the network takes images; an external one does where clips are one frame."""
    arch = cfg.MODEL.ARCH
    return bool(arch == "2d" or (arch == "external" and cfg.DATA.NUM_FRAMES == 1))


def follow_published(cfg: CfgNode, given: Collection[str]) -> Iterator[str]:
    """Sets the input format of a library's network where it is not ``given``, and says so.

    What is given stays, and a line says where it differs from what the weights of the library
    were trained with.

    Raises:
        UserError: the library is missing, or has no such network.
    """
    name = cfg.MODEL.MODEL_NAME
    if cfg.MODEL.ARCH != "external":
        return
    try:
        published = published_input(name)
    except UserError:
        if set(_ALL_FORMATS) <= set(given):  # nothing is asked; who builds the network will say it
            return
        raise
    if published is None:
        return
    for key, value in published.keys().items():
        section, word = key.split(".")
        old = cfg[section][word]
        if key not in given:
            cfg[section][word] = value
        if old != value and key not in given:
            yield f"{key} is {show(value)}, as published for {name}"
        elif old != value:
            yield f"{key} is {show(old)}, but {name} was published with {show(value)}"


def ignored_keys(cfg: CfgNode) -> Iterator[str]:
    """Yields a remark where keys were changed that an external network decides."""
    defaults = get_cfg()
    keys = [f"{section}.{name}" for section in _DECIDED for name in cfg[section]]
    keys += _DECIDED_KEYS
    if changed := [key for key in keys if value_of(cfg, key) != value_of(defaults, key)]:
        yield (
            f"the code of MODEL.MODEL_NAME {cfg.MODEL.MODEL_NAME} decides what "
            f"{', '.join(changed)} say{'s' if len(changed) == 1 else ''}: ignored; MODEL.OPTIONS "
            "are the arguments of that code"
        )

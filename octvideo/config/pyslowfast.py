"""What PySlowFast's configuration files say in another way than octvideo's.

Single values are in ``unsupported.py`` (REPLACED_VALUES); here are those that depend on each other.
"""

from collections.abc import Collection, Iterator
from typing import NamedTuple

from fvcore.common.config import CfgNode

# MODEL.MODEL_NAME ResNet_nopool is the ResNet of these architectures.
WITHOUT_POOL = {"c2d": "slow_c2d", "i3d": "slow_i3d"}
# Depths that octvideo has PySlowFast's image network of, as resnet50_v1b.
IMAGE_DEPTHS = (26, 50, 101, 152, 200)


class Replaced(NamedTuple):
    """A key whose value is read as something else."""

    key: str
    value: str
    instead: str


def translate(cfg: CfgNode, given: Collection[str]) -> Iterator[Replaced]:
    """Puts octvideo's terms in the place of PySlowFast's, and says which; ``given``: keys set."""
    model = cfg.MODEL
    if "MODEL.MODEL_NAME" not in given and model.ARCH != "slowfast":
        # PySlowFast's first files do not name it.
        model.MODEL_NAME = "X3D" if model.ARCH == "x3d" else "ResNet"
    if model.MODEL_NAME == "PTVX3D":
        model.MODEL_NAME, cfg.X3D.PYTORCHVIDEO = "X3D", True
        yield Replaced("MODEL.MODEL_NAME", "PTVX3D", "X3D with X3D.PYTORCHVIDEO True")
    if model.MODEL_NAME == "ResNet_nopool":
        model.MODEL_NAME, model.ARCH = "ResNet", WITHOUT_POOL.get(model.ARCH, model.ARCH)
        yield Replaced("MODEL.MODEL_NAME", "ResNet_nopool", f"ResNet of MODEL.ARCH {model.ARCH}")
    if "MODEL.MODEL_NAME" in given and (name := image_network(cfg)):
        model.MODEL_NAME = name
        yield Replaced("MODEL.MODEL_NAME", "ResNet", name)
        yield from _image_view(cfg)


def image_network(cfg: CfgNode) -> str | None:
    """Returns octvideo's name of PySlowFast's ResNet of MODEL.ARCH 2d, or None."""
    resnet = cfg.RESNET
    is_plain = (
        resnet.TRANS_FUNC == "bottleneck_transform"
        and resnet.NUM_GROUPS == 1
        and not resnet.STRIDE_1X1
        and [stage[:1] for stage in resnet.SPATIAL_STRIDES] == [[1], [2], [2], [2]]
        and all(stage[:1] == [1] for stage in resnet.SPATIAL_DILATIONS)
        and not any(blocks for stage in cfg.NONLOCAL.LOCATION for blocks in stage)
    )
    is_resnet = (cfg.MODEL.ARCH, cfg.MODEL.MODEL_NAME) == ("2d", "ResNet")
    if is_resnet and is_plain and resnet.DEPTH in IMAGE_DEPTHS:
        return f"resnet{resnet.DEPTH}_v1b"
    return None


def _image_view(cfg: CfgNode) -> Iterator[Replaced]:
    """Sets the test of PySlowFast's ResNets on images: TEST_CROP_SIZE is the short side.

    Its files have 256, and TRAIN_CROP_SIZE, 224, is the crop, as was usual for the weights that it
    publishes. (Its code has the two in the other order, which leaves 16 rows of an image.) With
    AUG.ENABLE it tests as octvideo does.
    """
    data = cfg.DATA
    if not cfg.AUG.ENABLE and data.TEST_CROP_SIZE > data.TRAIN_CROP_SIZE:
        short = data.TEST_CROP_SIZE
        data.TEST_CROP_SIZE = data.TRAIN_CROP_SIZE
        data.IN_VAL_CROP_RATIO = data.TRAIN_CROP_SIZE / short
        instead = f"a crop of {data.TEST_CROP_SIZE} from images with a short side of {short}"
        yield Replaced("DATA.TEST_CROP_SIZE", str(short), instead)

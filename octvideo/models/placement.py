"""Where our networks are octave: what `OctavePlacement` says, in names of their convolutions."""

import re
from typing import TYPE_CHECKING

import torch
from torch import nn

from octvideo.layers import Placement, octavize, split_channels
from octvideo.models.densenet import DenseNetSpec
from octvideo.models.mobilenet import OUTPUTS, MobileNetSpec
from octvideo.models.resnet2d import DEPTHS, ResNet2dSpec
from octvideo.models.spec import VideoSpec
from octvideo.surgery import octavize as octavize_any

if TYPE_CHECKING:
    from octvideo.models.build import Spec
    from octvideo.models.classifier import Classifier

# Without squeeze-and-excitation, which sees the mean of a map.
_BLOCK = re.compile(
    r"s(?P<stage>[2-5])\.pathway(?P<path>\d)_res(?P<block>\d+)\.(?P<conv>branch1|branch2\.[a-z_]+)"
)
_GLORE = re.compile(r"s(?P<stage>[2-5])\.pathway0_glore\d+\.extend")
_DENSE = re.compile(r"s(?P<stage>[2-5])\.(block\d+\.conv[12]|transition\.conv)")
_MOBILE = re.compile(r"s(?P<stage>[1-5])\.block(?P<block>\d+)\.(?P<conv>.+)")


def octavized(network: "Classifier") -> nn.Module:
    """Makes one of our networks octave, in place, as its ``spec.octave`` says."""
    spec = network.spec
    octave = spec.octave
    size = (32, 32) if isinstance(spec, VideoSpec) else (64, 64)
    frames = (spec.num_frames,) if isinstance(spec, VideoSpec) else ()
    example = torch.zeros(1, spec.input_channels, *frames, *size)
    if octave.channels:
        pool_stride = octave.pool_stride or spec.is_image
        return octavize_any(
            network,
            example=example,
            placement=dict(octave.channels),
            pool_stride=pool_stride,
            inplace=True,
        )
    rules = rules_of(spec)
    placement = Placement(
        rules.is_octave, octave.alpha, octave.channel_divisor, rules.pools, octave.nonlocal_mode
    )
    return octavize(network, placement, example)


class _Rules:
    """Stage s{k} is octave if it is among the stages; the last convolutions of s5 are not."""

    spec: "Spec"

    def __init__(self, spec: "Spec") -> None:
        self.spec = spec

    def is_octave(self, name: str) -> bool:
        raise NotImplementedError

    def pools(self, name: str) -> bool:
        return False

    def has(self, stage: int) -> bool:
        return stage in self.spec.octave.stages


class _ResNetRules(_Rules):
    """Residual networks of videos and images, by PySlowFast's names."""

    spec: VideoSpec | ResNet2dSpec

    def __init__(self, spec: VideoSpec | ResNet2dSpec) -> None:
        super().__init__(spec)
        if isinstance(spec, ResNet2dSpec):
            self.last_block, self.always_pools = DEPTHS[spec.depth][3] - 1, True
            self.final = "branch2.c"
        else:
            self.last_block, self.always_pools = spec.block_counts()[3] - 1, False
            self.final = f"branch2.{spec.final}"

    def is_octave(self, name: str) -> bool:
        if match := _GLORE.fullmatch(name):
            return self.has(int(match["stage"]))
        match = _BLOCK.fullmatch(name)
        if not match or not self._in_octave_pathway(match):
            return False
        stage, block = int(match["stage"]), int(match["block"])
        # The head takes one tensor: the last block of all leaves the octave.
        is_last = (stage, block) == (5, self.last_block)
        return self.has(stage) and not (is_last and match["conv"] in ("branch1", self.final))

    def pools(self, name: str) -> bool:
        """Returns whether it is in the block that leaves the octave, and that is to pool."""
        match = _BLOCK.fullmatch(name)
        if not match or not (self.always_pools or self.spec.octave.pool_stride):
            return False
        stage = int(match["stage"])
        if match["block"] != "0" or not self.has(stage - 1) or self.has(stage):
            return False
        octave = self.spec.octave
        arrives = split_channels(self._width(stage - 1), octave.alpha, octave.channel_divisor)
        return arrives.low > 0 and self._in_octave_pathway(match)

    def _width(self, stage: int) -> int:
        if isinstance(self.spec, ResNet2dSpec):
            return 4 * self.spec.width * 2 ** (stage - 2)
        return self.spec.width(stage)

    def _in_octave_pathway(self, match: "re.Match[str]") -> bool:
        return int(match["path"]) in self.spec.octave.pathways


class _DenseNetRules(_Rules):
    """Every layer of a stage makes high and low channels, so each frequency grows by its own."""

    def is_octave(self, name: str) -> bool:
        match = _DENSE.fullmatch(name)
        return match is not None and self.has(int(match["stage"]))


class _MobileNetRules(_Rules):
    """As the authors' code has it. Stages 2..5 are the resolutions 1/4..1/32; 1/2 goes with 2.

    In V1, a block's output is octave where the stage that takes it is. In V2, only the expanded
    tensor between a block's 1x1 convolutions is.
    """

    spec: MobileNetSpec

    def is_octave(self, name: str) -> bool:
        match = _MOBILE.fullmatch(name)
        if not match:
            return False
        stage, conv = int(match["stage"]), match["conv"]
        if self.spec.version == 2:
            return conv == "conv1" and self.has(max(stage, 2))
        is_last = int(match["block"]) == len(OUTPUTS[1][stage - 1]) - 1
        return conv == "conv2" and self.has(stage + is_last)

    def pools(self, name: str) -> bool:
        """Returns whether it is depthwise, in a network that is octave anywhere."""
        match = _MOBILE.fullmatch(name)
        depthwise = "conv1" if self.spec.version == 1 else "conv2"
        if match is None or match["conv"] != depthwise:
            return False
        return self.spec.is_octave


def rules_of(spec: "Spec") -> _Rules:
    if isinstance(spec, DenseNetSpec):
        return _DenseNetRules(spec)
    if isinstance(spec, MobileNetSpec):
        return _MobileNetRules(spec)
    assert isinstance(spec, VideoSpec | ResNet2dSpec)
    return _ResNetRules(spec)

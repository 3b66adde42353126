"""What the image networks share: their specification, head and first weights."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from octvideo.layers import OctConv2d, Value, merge
from octvideo.models.blocks import HEAD_ACTIVATIONS
from octvideo.models.classifier import Classifier
from octvideo.models.record import NetworkSpec
from octvideo.models.spec import OctavePlacement, check_counts

AUTHORS_STAGES = OctavePlacement(stages=(2, 3, 4))


@dataclass(frozen=True)
class ImageSpec(NetworkSpec):
    """What every image network is built from.

    ``octave``: the authors' rule is res2, res3, res4 (or what has their resolution); the last
    stage is plain. ``crop_size``: side of the images that the network is trained on; it takes any.
    """

    num_classes: int = 1000
    octave: OctavePlacement = AUTHORS_STAGES
    crop_size: int = 224
    input_channels: int = 3
    bn_eps: float = 1e-5
    bn_momentum: float = 0.1
    dropout_rate: float = 0.0
    fc_init_std: float = 0.01
    head_activation: str = "softmax"

    num_frames = 1  # an image is a clip of one frame
    sampling_rate = 1
    is_image = True

    def __post_init__(self) -> None:
        check_counts(self, "num_classes", "crop_size", "input_channels")

    @property
    def is_octave(self) -> bool:
        """Whether any layer has low channels."""
        return any(self.octave.split(1024, stage).low for stage in self.octave.stages)


def images_of(x: Tensor | Sequence[Tensor]) -> Tensor:
    """Images (N, C, H, W) of those, of clips of one frame (N, C, 1, H, W), or of a list of one."""
    if not isinstance(x, Tensor):
        if len(x) != 1:
            raise ValueError(f"an image network takes one tensor, got a list of {len(x)}")
        x = x[0]
    if x.ndim == 5 and x.shape[2] == 1:
        return x.squeeze(2)
    if x.ndim != 4 or not x.is_floating_point():
        raise ValueError(
            "an image network takes float images (N, C, H, W) or clips of one frame "
            f"(N, C, 1, H, W), got {x.dtype} {tuple(x.shape)}: of one image make image[None], and "
            "normalise pixels (octvideo.data.normalize)"
        )
    return x


class ImageHead(nn.Module):
    """Global average pool, dropout, linear layer; the activation in evaluation only."""

    def __init__(
        self, channels: int, num_classes: int, dropout_rate: float, activation: str
    ) -> None:
        super().__init__()
        if activation not in HEAD_ACTIVATIONS:
            known = ", ".join(HEAD_ACTIVATIONS)
            raise ValueError(f"unknown head activation {activation!r}; known: {known}")
        self.dropout = nn.Dropout(dropout_rate)
        self.projection = nn.Linear(channels, num_classes)
        self.activation = HEAD_ACTIVATIONS[activation]

    def forward(self, x: Value, pre_logits: bool = False) -> Tensor:
        """Maps (N, C, H, W) -> logits in training, activations in evaluation (N, num_classes).

        ``pre_logits``: the input of the linear layer (N, C) instead.
        """
        y = merge(x)
        y = y.to(torch.promote_types(y.dtype, torch.float32)).mean((2, 3))
        if pre_logits:
            return y
        y = self.projection(self.dropout(y.to(self.projection.weight.dtype)))
        y = y.to(torch.promote_types(y.dtype, torch.float32))  # autocast's half ends here
        return y if self.training else self.activation(y)


class ImageNetwork(Classifier, nn.Module):
    """What every image network does: ``forward_features``, then ``head``."""

    head: ImageHead

    def forward(self, x: Tensor | Sequence[Tensor]) -> Tensor:
        """Images (N, 3, H, W), or clips of one frame (N, 3, 1, H, W) -> (N, num_classes).

        Logits in training, probabilities in evaluation (``head_activation``).
        """
        return self.forward_head(self.forward_features(x))

    def forward_features(self, x: Tensor | Sequence[Tensor]) -> Value:
        """Images, as in ``forward`` -> the maps that the head averages, (N, C, H/32, W/32)."""
        raise NotImplementedError

    def forward_head(self, x: Value, pre_logits: bool = False) -> Tensor:
        """Maps of ``forward_features`` -> (N, num_classes), as in ``forward``.

        ``pre_logits``: what the last layer sees, (N, C) instead.
        """
        return self.head(x, pre_logits)


@torch.no_grad()
def init_image_weights(model: nn.Module, fc_std: float) -> None:
    """MSRA with the average fan, as the authors' code: each octave kernel on its own fans.

    The standard deviation is sqrt(gain / fan), with fan = (fan_in + fan_out) / 2 and the gain of
    a leaky ReLU of slope 1/4, MXNet's default. Linear layers named ``head.projection`` are
    normal(0, fc_std). Batch norm starts as the identity, biases at 0.
    """
    for name, module in model.named_modules():
        if isinstance(module, _BatchNorm):
            if module.affine:
                nn.init.ones_(module.weight)
                nn.init.zeros_(module.bias)
        elif isinstance(module, OctConv2d):
            for kernel in module.kernels().values():
                _msra(kernel)
        elif isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Linear)):
            if name == "head.projection":
                nn.init.normal_(module.weight, std=fc_std)
            else:
                _msra(module.weight)
        bias = getattr(module, "bias", None)
        if isinstance(bias, nn.Parameter):
            nn.init.zeros_(bias)


def _msra(weight: Tensor) -> None:
    fan = (weight.shape[0] + weight.shape[1]) / 2 * weight[0, 0].numel()
    nn.init.normal_(weight, std=(2 / (1 + 0.25**2) / fan) ** 0.5)

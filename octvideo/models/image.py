"""What the image networks share: their specification and the way from images to scores."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from octvideo.models.classifier import Classifier
from octvideo.models.heads import ImageHead
from octvideo.models.init import init_image_weights
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
        """Returns whether any layer has low channels."""
        return any(self.octave.split(1024, stage).low for stage in self.octave.stages)


def images_of(x: Tensor | Sequence[Tensor]) -> Tensor:
    """Returns images (N, C, H, W) of these, of clips (N, C, 1, H, W), or of a list of one."""
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


class ImageNetwork(Classifier):
    """What every image network does: ``forward_features``, then ``head``."""

    spec: ImageSpec
    head: ImageHead

    def init_weights(self) -> None:
        """Draws the first weights."""
        init_image_weights(self, self.spec.fc_init_std)

    def forward(self, x: Tensor | Sequence[Tensor]) -> Tensor:
        """Images (N, 3, H, W), or clips of one frame (N, 3, 1, H, W) -> (N, num_classes).

        Logits in training, probabilities in evaluation (``head_activation``).
        """
        return self.forward_head(self.forward_features(x))

    def forward_features(self, x: Tensor | Sequence[Tensor]) -> Tensor:
        """Images, as in ``forward`` -> the maps that the head averages, (N, C, H/32, W/32)."""
        raise NotImplementedError

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Maps of ``forward_features`` -> (N, num_classes), as in ``forward``.

        ``pre_logits``: what the last layer sees, (N, C) instead.
        """
        return self.head(x, pre_logits)

"""Networks as users write them, for MODEL.MODEL_NAME support.own_networks:video and the like."""

from typing import Any

import torch
from torch import Tensor, nn


def _small(dims: int, classes: int, width: int) -> nn.Sequential:
    """Four convolutions with batch norm and ReLU, and a linear layer, in two or three dims."""
    conv: Any = (nn.Conv2d, nn.Conv3d)[dims - 2]
    norm: Any = (nn.BatchNorm2d, nn.BatchNorm3d)[dims - 2]
    pool: Any = (nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d)[dims - 2]
    layers: list[nn.Module] = []
    for channels, step in ((3, 2), (width, 1), (width, 1), (width, 2)):
        stride = (1, step, step)[3 - dims :]
        layers += [conv(channels, width, 3, stride, 1, bias=False), norm(width), nn.ReLU()]
    return nn.Sequential(*layers, pool(1), nn.Flatten(), nn.Dropout(0.1), nn.Linear(width, classes))


def video(width: int = 8) -> nn.Module:
    """A video network of 11 classes, whatever is wanted."""
    return _small(3, 11, width)


def image(width: int = 8, num_classes: int = 7) -> nn.Module:
    return _small(2, num_classes, width)


class _Of(nn.Module):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network


class _Probabilities(_Of):
    def forward(self, x: Tensor) -> Tensor:
        return self.network(x).softmax(1)


class _Named(_Of):
    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"out": self.network(x)}


class _TwoHeads(_Of):
    """Scores of two layers, of which neither alone decides the number of classes."""

    def __init__(self) -> None:
        super().__init__(video())
        self.other = nn.Linear(3, 11)

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x) + self.other(x.mean((2, 3, 4)))


class _Maps(_Of):
    def forward(self, x: Tensor) -> Tensor:
        return self.network[:12](x)


def probabilities() -> nn.Module:
    return _Probabilities(video())


def named_scores() -> nn.Module:
    return _Named(video())


def two_heads() -> nn.Module:
    return _TwoHeads()


def maps() -> nn.Module:
    return _Maps(video())


def no_network() -> Any:
    return torch.zeros(3)

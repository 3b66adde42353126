"""Heads: from the last maps to scores."""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from octvideo.layers import conv3d_as_2d
from octvideo.layers.eager import is_recorded
from octvideo.models.classifier import NoClassifier
from octvideo.utils.errors import check_known

HEAD_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "softmax": partial(torch.softmax, dim=-1),
    "sigmoid": torch.sigmoid,
    "none": nn.Identity(),
}


class Head(nn.Module):
    """Average pool of each pathway, dropout, linear layer: fully convolutional.

    The window of each pathway is the size of its map at the training crop, at stride 1, so a
    larger test crop gives several positions. In training their logits are averaged, in
    evaluation their activations (PySlowFast's ResNetBasicHead).
    """

    def __init__(
        self,
        channels: int,
        num_classes: int,
        windows: Sequence[tuple[int, int, int]],
        dropout_rate: float,
        activation: str,
    ) -> None:
        super().__init__()
        check_known("head activation", activation, HEAD_ACTIVATIONS)
        self.windows = windows
        self.dropout = nn.Dropout(dropout_rate)
        self.projection: nn.Linear | NoClassifier = nn.Linear(channels, num_classes)
        self.activation = HEAD_ACTIVATIONS[activation]

    def forward(self, xs: Sequence[Tensor], pre_logits: bool = False) -> Tensor:
        """Maps (N, C_p, T_p, H, W) -> logits in training, activations in evaluation (N, K).

        ``pre_logits``: the input of the linear layer, averaged over positions, (N, C) instead.
        """
        x = self.pooled(xs)
        if pre_logits:
            return x.to(torch.promote_types(x.dtype, torch.float32)).mean((2, 3, 4))
        x = x.permute(0, 2, 3, 4, 1).to(self.projection.weight.dtype)
        x = self.projection(self.dropout(x))
        x = x.to(torch.promote_types(x.dtype, torch.float32))  # autocast's half ends here
        if not self.training:
            x = self.activation(x)
        return x.mean((1, 2, 3))

    def pooled(self, xs: Sequence[Tensor]) -> Tensor:
        """Maps of each pathway -> inputs of the last layer, (N, C, T', H', W')."""
        pooled = [self._pool(x, w) for x, w in zip(xs, self.windows, strict=True)]
        return torch.cat(pooled, dim=1) if len(pooled) > 1 else pooled[0]

    @staticmethod
    def _pool(x: Tensor, window: tuple[int, int, int]) -> Tensor:
        """A map smaller than the window is averaged whole; in float32, as CPUs have no other."""
        x = x.to(torch.promote_types(x.dtype, torch.float32))
        if is_recorded():
            return _pool_any_size(x, window)
        t, h, w = (min(n, size) for n, size in zip(window, x.shape[2:], strict=True))
        return conv3d_as_2d.avg_pool3d(x, (t, h, w))


def _pool_any_size(x: Tensor, window: tuple[int, int, int]) -> Tensor:
    """The same in operations that a recorded network can be run with at every size."""
    y = conv3d_as_2d.avg_pool3d(conv3d_as_2d.grown(x, window, 0.0), window)
    for n, size in zip(x.shape[2:], window, strict=True):
        if int(n) < size:
            y = y * (size / (n.clamp(max=size) if isinstance(n, Tensor) else n))
    return y


class ImageHead(nn.Module):
    """Global average pool, dropout, linear layer; the activation in evaluation only."""

    def __init__(
        self, channels: int, num_classes: int, dropout_rate: float, activation: str
    ) -> None:
        super().__init__()
        check_known("head activation", activation, HEAD_ACTIVATIONS)
        self.dropout = nn.Dropout(dropout_rate)
        self.projection: nn.Linear | NoClassifier = nn.Linear(channels, num_classes)
        self.activation = HEAD_ACTIVATIONS[activation]

    def forward(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Maps (N, C, H, W) -> logits in training, activations in evaluation (N, num_classes).

        ``pre_logits``: the input of the linear layer (N, C) instead.
        """
        y = x.to(torch.promote_types(x.dtype, torch.float32)).mean((2, 3))
        if pre_logits:
            return y
        y = self.projection(self.dropout(y.to(self.projection.weight.dtype)))
        y = y.to(torch.promote_types(y.dtype, torch.float32))  # autocast's half ends here
        return y if self.training else self.activation(y)

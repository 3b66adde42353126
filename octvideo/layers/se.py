"""Squeeze-and-excitation (Hu et al., "Squeeze-and-Excitation Networks", CVPR 2018)."""

import torch
from torch import Tensor, nn

from octvideo.layers.value import Channels, Value


class SqueezeExcite(nn.Module):
    """x * sigmoid(fc2(relu(fc1(mean(x))))), the mean over all positions.

    Of an octave value the means of both frequencies are squeezed together, and each frequency
    has a gate of its own (the authors' code). All channels are ordered [L | H].
    """

    def __init__(self, channels: int | Channels, reduction: int = 16) -> None:
        super().__init__()
        self.channels = Channels(channels) if isinstance(channels, int) else channels
        inner = self.channels.total // reduction
        self.fc1 = nn.Linear(self.channels.total, inner)
        self.fc2 = nn.Linear(inner, self.channels.total)

    def forward(self, x: Value) -> Value:
        """The shapes of the input."""
        parts = (x,) if isinstance(x, Tensor) else (x[1], x[0])
        means = torch.cat([part.flatten(2).mean(2) for part in parts], dim=1)
        gates = self.fc2(self.fc1(means).relu()).sigmoid()
        gates = gates[(...,) + (None,) * (parts[0].ndim - 2)]
        if isinstance(x, Tensor):
            return x * gates
        gate_l, gate_h = gates.split([self.channels.low, self.channels.high], dim=1)
        return x[0] * gate_h, x[1] * gate_l

"""Squeeze-and-excitation (Hu et al., "Squeeze-and-Excitation Networks", CVPR 2018)."""

from torch import Tensor, nn


class SqueezeExcite(nn.Module):
    """x * sigmoid(fc2(relu(fc1(mean(x))))), the mean over all positions."""

    def __init__(self, channels: int, reduction: int = 16) -> None:
        super().__init__()
        inner = channels // reduction
        self.fc1 = nn.Linear(channels, inner)
        self.fc2 = nn.Linear(inner, channels)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, [T,] H, W) -> the same."""
        space = tuple(range(2, x.dim()))
        gates = self.fc2(self.fc1(x.mean(space)).relu()).sigmoid()
        return x * gates[(...,) + (None,) * len(space)]

"""The global reasoning unit (Chen et al., "Graph-Based Global Reasoning Networks", CVPR 2019)."""

from torch import Tensor, nn

from octvideo.layers.conv3d_as_2d import Conv2d
from octvideo.layers.norm import BatchNorm2d


class GloRe2d(nn.Module):
    """x + BN(extend(V' P)), where V = state(x) P^T / positions is reasoned about as a graph:

        V' = W_s relu(V + V A)

    state (``inner`` channels) and the projection P (``nodes`` channels) are 1x1 convolutions of
    x, A mixes the nodes of the graph and W_s their states. The division keeps the unit the same
    for images of any size (option "normalize" of the unit's own code).

    Args:
        channels: of x and of the result.
        inner, nodes: by default half and a quarter of the channels.
    """

    def __init__(
        self,
        channels: int,
        inner: int | None = None,
        nodes: int | None = None,
        eps: float = 1e-5,
        momentum: float = 0.1,
    ) -> None:
        super().__init__()
        inner = inner or channels // 2
        nodes = nodes or channels // 4
        self.state = Conv2d(channels, inner, 1)
        self.projection = Conv2d(channels, nodes, 1)
        self.mix_nodes = nn.Conv1d(nodes, nodes, 1)
        self.mix_states = nn.Conv1d(inner, inner, 1, bias=False)
        self.extend = Conv2d(inner, channels, 1, bias=False)
        self.bn = BatchNorm2d(channels, eps, momentum)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> the same."""
        state, projection = self.state(x), self.projection(x)
        height, width = state.shape[-2:]
        state, projection = state.flatten(2), projection.flatten(2)
        graph = state @ projection.mT / (height * width)  # (N, inner, nodes)
        graph = graph + self.mix_nodes(graph.mT).mT
        y = self.mix_states(graph.relu()) @ projection
        y = self.bn(self.extend(y.unflatten(2, (height, width))))
        return x + y

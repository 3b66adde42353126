"""Non-local block: every position looks at all others in space and time.

Source: "Non-local Neural Networks" (Wang et al., CVPR 2018), with PySlowFast's parameter names.
For octave values, the reading of the "Drop an Octave" paper that fits its Table 6 best: the high
frequency asks and the low one, which has the size of a pooled map already, answers.
"""

import math
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from octvideo.layers import conv3d_as_2d
from octvideo.layers.channels import Channels
from octvideo.layers.checks import check_value
from octvideo.layers.eager import is_recorded
from octvideo.layers.norm import BatchNorm3d
from octvideo.layers.oct_tensor import OctTensor, maps_of

INSTANTIATIONS = ("softmax", "dot_product")
OCTAVE_MODES = ("cross", "high")


class NonLocal3d(nn.Module):
    """Non-local block with a residual connection, on K positions of p for Q positions of x:

        p = max_pool(x),  c = channels of theta, phi and g (half of x's)
        softmax:      z = x + bn(conv_out(g(p) softmax(theta(x)^T phi(p) / sqrt(c))^T))
        dot_product:  z = x + bn(conv_out(g(p) (theta(x)^T phi(p) / K)^T))

    On an octave value z_h is computed so and z_l = x_l; with ``octave_mode`` "cross", x is x_h
    and p is x_l (not pooled in space again), with "high" both come from x_h.

    Args:
        channels: a count, or the pair (high, low) of an octave value.
        instantiation: "softmax" or "dot_product".
        pool_size: kernel and stride (T, H, W) of the max pool.
        groups: the frames are cut into so many equal parts, which do not see each other.
        octave_mode: "cross" or "high".
        eps, momentum: of the batch norm. Its weight starts at 0, so that a new block is the
            identity (section 4.1 of the paper).
    """

    def __init__(
        self,
        channels: int | tuple[int, int],
        instantiation: str = "softmax",
        pool_size: tuple[int, int, int] = (1, 2, 2),
        groups: int = 1,
        octave_mode: str = "cross",
        eps: float = 1e-5,
        momentum: float = 0.1,
    ) -> None:
        super().__init__()
        for value, known in ((instantiation, INSTANTIATIONS), (octave_mode, OCTAVE_MODES)):
            if value not in known:
                raise ValueError(f"NonLocal3d: {value!r} is not one of {', '.join(known)}")
        self.instantiation, self.groups, self.octave_mode = instantiation, groups, octave_mode
        self.window, self.eps, self.momentum = pool_size, eps, momentum
        self.set_channels(Channels(channels) if isinstance(channels, int) else Channels(*channels))

    def set_channels(self, channels: Channels) -> None:
        """Makes the layers, with new weights, for values of these channels."""
        self.channels = channels
        self.is_cross = channels.low > 0 and self.octave_mode == "cross"
        t, h, w = self.window
        self.pool_size = (t, 1, 1) if self.is_cross else (t, h, w)
        outer = channels.high
        inner = max(outer // 2, 1)
        seen = channels.low if self.is_cross else outer
        self.conv_theta = conv3d_as_2d.Conv3d(outer, inner, 1)
        self.conv_phi = conv3d_as_2d.Conv3d(seen, inner, 1)
        self.conv_g = conv3d_as_2d.Conv3d(seen, inner, 1)
        self.conv_out = conv3d_as_2d.Conv3d(inner, outer, 1)
        self.bn = BatchNorm3d(outer, eps=self.eps, momentum=self.momentum)
        nn.init.zeros_(self.bn.weight)

    def forward(self, x: Any) -> Any:
        """The shapes of the input: (N, C, T, H, W), or a pair or an OctTensor of them."""
        if isinstance(x, OctTensor) and x.low is None:
            x = x.high
        check_value(x, self.channels, 5, self)
        if isinstance(x, Tensor):
            return self._respond(x, x)
        x_l, x_h = maps_of(x)
        y_h = self._respond(x_h, x_l if self.is_cross else x_h)
        return OctTensor(y_h, x_l) if isinstance(x, OctTensor) else (y_h, x_l)

    def _respond(self, x: Tensor, source: Tensor) -> Tensor:
        """x and what it sees in ``source``."""
        y = self._attend(self._fold(x), self._fold(source))
        return x + self.bn(self.conv_out(self._unfold(y, x.shape[0])))

    def _attend(self, x: Tensor, source: Tensor) -> Tensor:
        """(N, C, T, H, W) and (N, C', T, H', W') -> (N, inner, T, H, W)."""
        if max(self.pool_size) > 1:
            source = self._pool(source)
        theta, phi, g = (
            conv(value).flatten(2)
            for conv, value in (
                (self.conv_theta, x),
                (self.conv_phi, source),
                (self.conv_g, source),
            )
        )
        if self.instantiation == "softmax":
            q, k, v = (value.transpose(1, 2).unsqueeze(1) for value in (theta, phi, g))
            y = F.scaled_dot_product_attention(q, k, v).squeeze(1).transpose(1, 2)
        else:  # the product is associative: (c, c) in the middle, never (Q, K)
            scale = phi.shape[2] ** -0.5  # on both, as the sum over K may overflow fp16
            y = ((g * scale) @ (phi * scale).transpose(1, 2)) @ theta
        return y.unflatten(2, x.shape[2:])

    def _pool(self, x: Tensor) -> Tensor:
        """A map smaller than the window is pooled whole."""
        if is_recorded():
            return conv3d_as_2d.max_pool3d(
                conv3d_as_2d.grown(x, self.pool_size, -math.inf), self.pool_size
            )
        t, h, w = (min(n, size) for n, size in zip(x.shape[2:], self.pool_size, strict=True))
        return conv3d_as_2d.max_pool3d(x, (t, h, w))

    def _fold(self, x: Tensor) -> Tensor:
        """(N, C, T, H, W) -> (N * groups, C, T / groups, H, W)."""
        if self.groups == 1:
            return x
        if x.shape[2] % self.groups:
            raise ValueError(
                f"NonLocal3d: {x.shape[2]} frames cannot be cut into {self.groups} equal groups"
            )
        return x.unflatten(2, (self.groups, -1)).transpose(1, 2).flatten(0, 1)

    def _unfold(self, x: Tensor, batch: int) -> Tensor:
        """The inverse of ``_fold``."""
        if self.groups == 1:
            return x
        return x.unflatten(0, (batch, self.groups)).transpose(1, 2).flatten(2, 3)

    def extra_repr(self) -> str:
        mode = f", {'cross' if self.is_cross else 'high'}" if self.channels.low else ""
        return (
            f"{tuple(self.channels)}, {self.instantiation}, pool_size={self.pool_size}, "
            f"groups={self.groups}{mode}"
        )

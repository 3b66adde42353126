"""Multigrid convolution, the operator that the paper compares octave convolution with.

Source: Ke, Maire, Yu, "Multigrid Neural Architectures" (CVPR 2017, arXiv 1611.07661), on the two
grids of an octave value.
"""

from typing import Any

import torch.nn.functional as F
from torch import Tensor

from octvideo.layers import OctConv2d, upsample
from octvideo.layers.resample import join_groups


class MGConv2d(OctConv2d):
    """Multigrid convolution: each grid convolves itself and what the other grid is at its size:

        y_h = f([upsample(x_l, 2) | x_h]; W_h)
        y_l = f([x_l | max_pool(x_h, 2)]; W_l)

    It differs from an octave convolution of the same arguments and weight in two places: x_l is
    upsampled before f, so y_h costs what it costs without an octave (a layer costs 1 - 3/4 alpha
    of the vanilla one, not 1 - 3/4 alpha (2 - alpha)), and x_h is max-pooled. Spatial stride 2
    max-pools both grids first, as multigrid networks do. A depthwise convolution has no other
    grid's channels, and without low channels it is the plain convolution.
    """

    def convolve(
        self, x_h: Tensor, x_l: Tensor | None, pooled: Any = None, layout: Any = None
    ) -> tuple[Tensor, Tensor | None]:
        """x_h, x_l -> y_h, y_l, as ``OctConv2d``; the other arguments are not used."""
        if x_l is None and not self.channels_out.low:
            return super().convolve(x_h, x_l, pooled)
        if self.stride[-1] == 2:
            x_h, x_l = _max_pool(x_h), None if x_l is None else _max_pool(x_l)
        w_l, w_h, bias_l, bias_h = self._by_output(layout)
        if self.is_depthwise:
            assert x_l is not None
            return self._path(x_h, w_h, bias_h), self._path(x_l, w_l, bias_l)
        high = x_h if x_l is None else self._joined(upsample(x_l, x_h.shape[-2:]), x_h)
        y_h = self._path(high, w_h, bias_h)
        if not self.channels_out.low:
            return y_h, None
        low = _max_pool(x_h)
        low = low if x_l is None else self._joined(x_l, low)
        return y_h, self._path(low, w_l, bias_l)

    def _joined(self, x_l: Tensor, x_h: Tensor) -> Tensor:
        return join_groups(x_l, x_h, self.groups)


def _max_pool(x: Tensor) -> Tensor:
    """(..., H, W) -> (..., ceil(H/2), ceil(W/2))."""
    return F.max_pool2d(x, 2, ceil_mode=True)

"""Variants of octave convolution for ablation studies, beside the paper's operator."""

from typing import Any, NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from octvideo.layers import OctConv2d, OctConv3d, conv3d_as_2d, pool, upsample
from octvideo.utils.errors import check_known

DOWNSAMPLES = ("avg", "max", "strided_conv")
PATHS = ("both", "no_h2l", "no_l2h")


class Ablation(NamedTuple):
    """What differs from the paper's operator; the defaults are the paper's.

    ``downsample``: how maps are halved, by average, by maximum, or by the stride of the
    convolution itself. ``upsample_first``: x_l is upsampled before its convolution, not after.
    ``paths``: which ways between the frequencies there are.
    """

    downsample: str = "avg"
    upsample_first: bool = False
    paths: str = "both"


PAPER = Ablation()


def check_ablation(ablation: Ablation) -> None:
    """Raises ValueError for a value that is not known."""
    check_known("downsample", ablation.downsample, DOWNSAMPLES)
    check_known("paths", ablation.paths, PATHS)


class _AblatedOctConv:
    """Octave convolution, path by path, with one or several things changed:

        y_h = f(x_h; W_hh) + upsample(f(x_l; W_lh), 2)     f(upsample(x_l, 2); W_lh)
        y_l = f(x_l; W_ll) + f(down(x_h, 2); W_hl)         f with stride 2 for f(down(x, 2))

    Spatial stride 2 halves where the paper's operator does, also twice: by strided convolution
    that is a stride of 4. Without a way between frequencies the kernel stays in the weight,
    unused; in a layer that starts or ends the octave, where it is the only way, it stays in use.
    """

    ablation: Ablation

    def convolve(
        self: Any, x_h: Tensor, x_l: Tensor | None, pooled: Any = None, layout: Any = None
    ) -> tuple[Tensor, Tensor | None]:
        """x_h, x_l -> y_h, y_l, as ``OctConv3d``; the other arguments are not used."""
        kernels, halvings = self.kernels(), int(self.stride[-1] == 2)
        if x_l is not None and self.channels_out.low and self.ablation.paths != "both":
            kernels.pop(self.ablation.paths.removeprefix("no_"), None)
        _, _, bias_l, bias_h = self._by_output(layout)
        y_h = self._halved(x_h, halvings, kernels["h2h"], bias_h)
        if "l2h" in kernels:
            y_h = y_h + self._raised(x_l, kernels["l2h"], y_h)
        if not self.channels_out.low:
            return y_h, None
        if "l2l" not in kernels:
            return y_h, self._halved(x_h, halvings + 1, kernels["h2l"], bias_l)
        y_l = self._halved(x_l, halvings, kernels["l2l"], bias_l)
        if "h2l" in kernels:
            y_l = y_l + self._halved(x_h, halvings + 1, kernels["h2l"])
        return y_h, y_l

    def _halved(
        self: Any, x: Tensor, times: int, kernel: Tensor, bias: Tensor | None = None
    ) -> Tensor:
        """f(x halved so many times)."""
        if self.ablation.downsample == "strided_conv":
            stride = (*self.stride[:-2], 2**times, 2**times)
            return self._conv(x, kernel, bias, stride, self.groups_of(x.shape[1]))
        for _ in range(times):
            x = pool(x) if self.ablation.downsample == "avg" else _max_pool(x)
        return self._path(x, kernel, bias)

    def _raised(self: Any, x_l: Tensor, kernel: Tensor, y_h: Tensor) -> Tensor:
        """f(x_l) at the size of y_h, which with stride 2 it has already."""
        size = y_h.shape[-2:]
        if self.ablation.upsample_first:
            return self._path(upsample(x_l, size), kernel)
        return upsample(self._path(x_l, kernel), size)


def _max_pool(x: Tensor) -> Tensor:
    """(..., H, W) -> (..., ceil(H/2), ceil(W/2))."""
    return conv3d_as_2d.per_channel(lambda y: F.max_pool2d(y, 2, ceil_mode=True), x)


class AblatedOctConv2d(_AblatedOctConv, OctConv2d):
    __doc__ = _AblatedOctConv.__doc__


class AblatedOctConv3d(_AblatedOctConv, OctConv3d):
    __doc__ = _AblatedOctConv.__doc__


_ABLATED: dict[type, type] = {OctConv2d: AblatedOctConv2d, OctConv3d: AblatedOctConv3d}


def ablate(model: nn.Module, ablation: Ablation) -> None:
    """Makes every octave convolution inside the model the variant, with the same parameters.

    ``PAPER`` leaves the model as it is.
    """
    check_ablation(ablation)
    if ablation == PAPER:
        return
    for module in model.modules():
        if type(module) in _ABLATED and not (module.is_plain and not module.pools_plain):
            # The attributes are the same, only forward differs.
            module.__class__ = _ABLATED[type(module)]
            module.__dict__["ablation"] = ablation

"""Convolutions for inference: batch norm folded in, sum and ReLU done with the convolution.

They work on images or on the frames of videos (see ``octvideo.layers.conv3d_as_2d``), in 2D. On a
CPU a convolution, its sum and its ReLU are one operation of oneDNN, with the weight in the order
that it likes best; these are the operations that torch.compile generates code with. Elsewhere sum
and ReLU are done in place.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from octvideo.layers import conv3d_as_2d
from octvideo.layers.eager import is_recorded
from octvideo.layers.oct_tensor import OctTensor, Value, convert
from octvideo.layers.octave import OctConv2d, OctConv3d
from octvideo.layers.resample import join_groups, pool, upsample
from octvideo.layers.torch_private import (
    has_onednn,
    onednn_conv,
    onednn_conv_add_,
    onednn_weight,
)


class FusedConv(nn.Module):
    """act(shortcut + norm(conv(x))) of octave values; act is ReLU, or nothing.

    Made from an (octave) convolution and the batch norm behind it, in evaluation. Eq. 4 with
    u = [x_l | pool(x_h)], as in ``OctConv3d``; the upsampled L -> H path is added to the shortcut,
    or takes its place, and the other paths are added onto that.
    """

    def __init__(self, conv: Any, norm: Any = None, relu: bool = False) -> None:
        super().__init__()
        if not is_fusible(conv):
            raise ValueError(f"{type(conv).__name__} of these channels cannot be fused")
        weight, bias = folded(conv, norm)
        if isinstance(conv, (OctConv2d, OctConv3d)):
            weight, bias = conv.by_frequency(weight, bias)
        options = (conv.padding, conv.dilation, conv.groups)
        self.groups = conv.groups
        is_octave = isinstance(conv, (OctConv2d, OctConv3d)) and (
            not conv.is_plain or conv.pools_plain
        )
        self.low = self.l2h = None
        self.low_channels, self.layout = 0, None
        self.pools_first = is_octave and conv.stride[-1] == 2
        if not is_octave:
            self.high = _Step(weight, bias, conv.stride, *options, relu)
            return
        stride = (*conv.stride[:-2], 1, 1)
        low_in, split = conv.channels_in.low // conv.groups, [*reversed(conv.channels_out)]
        (w_l, w_h), (bias_l, bias_h) = weight.split(split), bias.split(split)
        if low_in and not self.pools_first:
            self.l2h = _Step(w_h[:, :low_in], None, stride, *options, relu=False)
            w_h = w_h[:, low_in:]
        self.high = _Step(w_h, bias_h, stride, *options, relu)
        if split[0]:
            self.low, self.low_channels = _Step(w_l, bias_l, stride, *options, relu), split[0]
            self.layout = conv.layout

    def forward(self, x: Value, num_frames: int = 1, shortcut: Value | None = None) -> Value:
        """Images (N, C, H, W), or the frames of videos (N * T, C, H, W) with T ``num_frames``.

        All are in channels-last memory. ``shortcut`` is overwritten, where it is split as the
        output is.
        """
        x = x.high if isinstance(x, OctTensor) and x.low is None else x
        x_h, x_l = x if isinstance(x, OctTensor) else (x, None)
        y_h, y_l = self._sums(shortcut)
        u: Tensor | None = None
        if self.low is not None or self.pools_first:
            pooled = x.pooled() if isinstance(x, OctTensor) else pool(x)
            u = pooled if x_l is None else join_groups(x_l, pooled, self.groups)
        if self.pools_first:
            assert u is not None
            x_h, u = u, pool(u) if self.low is not None else u
        elif self.l2h is not None:
            y_h = _add_upsampled(y_h, self.l2h(x_l, num_frames), x_h.shape[-2:])
        y_h = self.high(x_h, num_frames, y_h)
        if self.low is not None:
            return OctTensor(y_h, self.low(u, num_frames, y_l), self.layout)
        return y_h if x_l is None or shortcut is not None else OctTensor(y_h, None)

    def _sums(self, shortcut: Value | None) -> tuple[Tensor | None, Tensor | None]:
        """The maps that the outputs are added to."""
        if shortcut is None:
            return None, None
        y: Any = dense(convert(shortcut, self.low_channels, self.layout))  # type: ignore[arg-type]
        return (y.high, y.low) if isinstance(y, OctTensor) else (y, None)

    def on_video(self, x: Any) -> Any:
        """``forward`` of videos (N, C, T, H, W)."""
        batch, _, num_frames, _, _ = x.shape
        return conv3d_as_2d.video(self(conv3d_as_2d.frames(x), num_frames), batch)


@conv3d_as_2d.for_each_frequency
def dense(x: Tensor) -> Tensor:
    """Returns images in channels-last memory, of which a recorded network knows nothing."""
    return x if is_recorded() else x.contiguous(memory_format=torch.channels_last)


def is_fusible(conv: Any) -> bool:
    """Returns whether a convolution pads as oneDNN does and, if octave, is the paper's operator.

    A depthwise one of two frequencies is not.
    """
    if conv.padding_mode != "zeros" or isinstance(conv.padding, str):
        return False
    if not isinstance(conv, (OctConv2d, OctConv3d)):
        return True
    return type(conv) in (OctConv2d, OctConv3d) and (conv.is_plain or not conv.is_depthwise)


def folded(conv: Any, norm: Any) -> tuple[Tensor, Tensor]:
    """Returns weight and bias of a convolution that does what conv and norm do in evaluation."""
    weight = conv.weight.detach().clone()
    bias = weight.new_zeros(len(weight)) if conv.bias is None else conv.bias.detach().clone()
    if norm is None or isinstance(norm, nn.Identity):
        return weight, bias
    scale, shift = torch.rsqrt(norm.running_var + norm.eps), torch.zeros_like(bias)
    if norm.affine:
        scale, shift = scale * norm.weight.detach(), norm.bias.detach()
    bias = (bias - norm.running_mean) * scale + shift
    return weight * scale.view(-1, *[1] * (weight.ndim - 1)), bias


def _add_upsampled(x: Tensor | None, low: Tensor, size: torch.Size) -> Tensor:
    """x + upsample(low, size), in x where there is one."""
    if x is None:
        return upsample(low, size)
    if is_recorded():  # an exporter may lose what is added to a view in place
        return x + upsample(low, size)
    if size[0] % 2 or size[1] % 2:
        return x.add_(upsample(low, size))
    h, w = low.shape[2:]  # each pixel of low is added to 2x2 of x
    x.unflatten(3, (w, 2)).unflatten(2, (h, 2)).add_(low[:, :, :, None, :, None])
    return x


class _Step(nn.Module):
    """act(y + conv(x) + bias) of plain images or frames; the y that is given is overwritten.

    weight: (C_out, C_in / groups, [k_t,] k_h, k_w); the other arguments as in torch.
    """

    weight: Tensor
    bias: Tensor | None

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor | None,
        stride: tuple[int, ...],
        padding: tuple[int, ...],
        dilation: tuple[int, ...],
        groups: int,
        relu: bool,
    ) -> None:
        super().__init__()
        self.view = "images"
        if weight.ndim == 5 and conv3d_as_2d.is_in_space(weight, padding) and stride[0] == 1:
            weight = weight.squeeze(2)
            stride, padding, dilation = stride[1:], padding[1:], dilation[1:]
        elif weight.ndim == 5 and conv3d_as_2d.is_in_time(weight, padding) and stride[1:] == (1, 1):
            self.view, weight = "rows", weight.squeeze(-1)
            stride, padding, dilation = (stride[0], 1), (padding[0], 0), (dilation[0], 1)
        elif weight.ndim == 5:
            self.view = "videos"
        self.register_buffer("weight", weight.contiguous())
        self.register_buffer("bias", bias)
        self.padding, self.stride, self.dilation = [*padding], [*stride], [*dilation]
        self.groups, self.relu = groups, relu
        self._packed: tuple[Any, Tensor | None] = (None, None)

    def forward(self, x: Tensor, num_frames: int, y: Tensor | None = None) -> Tensor:
        """(N * T, C_in, H, W) -> (N * T', C_out, H', W'); a recorded video stays one."""
        if x.ndim == 5:
            return self._finish(self._conv3d(x), y)
        if self.view == "images":
            return self._run(x, y)
        batch = x.shape[0] // num_frames
        if self.view == "videos":
            z = conv3d_as_2d.frames(self._conv(conv3d_as_2d.video(x, batch)))
            return self._finish(z, y)
        z = self._run(_rows(x, batch), None if y is None else _rows(y, batch))
        return z.permute(0, 2, 3, 1).reshape(-1, *x.shape[2:], z.shape[1]).permute(0, 3, 1, 2)

    def _run(self, x: Tensor, y: Tensor | None) -> Tensor:
        if not _has_onednn(x):
            return self._finish(self._conv(x), y)
        options = (self.stride, self.padding, self.dilation, self.groups)
        weight = self._pack(x)
        if y is None:
            return onednn_conv(x, weight, self.bias, options, self.relu)
        return onednn_conv_add_(y, x, weight, self.bias, options, self.relu)

    def _pack(self, x: Tensor) -> Tensor:
        """The weight as oneDNN wants it for inputs like x; the last one is kept."""
        shape, weight = self._packed
        if weight is None or shape != x.shape or weight.dtype != x.dtype:
            options = (self.stride, self.padding, self.dilation, self.groups)
            weight = onednn_weight(self.weight, options, x.shape)
            self._packed = (x.shape, weight)
        return weight

    def _conv(self, x: Tensor) -> Tensor:
        conv = F.conv2d if x.ndim == 4 else F.conv3d
        options = (self.stride, self.padding, self.dilation, self.groups)
        if not torch.is_autocast_enabled(x.device.type):  # a record would keep the context
            return conv(x, self.weight, self.bias, *options)
        # The weight's type is that of the step, as it is for the operations of oneDNN.
        with torch.autocast(x.device.type, enabled=False):
            return conv(x, self.weight, self.bias, *options)

    def _conv3d(self, x: Tensor) -> Tensor:
        """As ``_conv``, of a video, whatever the view that the weight is for."""
        axis = {"images": 0, "rows": 2, "videos": None}[self.view]
        weight, padding = self.weight, [*self.padding]
        stride, dilation = [*self.stride], [*self.dilation]
        if axis is not None:  # the one that the view has no kernel in
            weight = weight.unsqueeze(2 + axis)
            for values, value in ((padding, 0), (stride, 1), (dilation, 1)):
                values.insert(axis, value)
        return F.conv3d(x, weight, self.bias, stride, padding, dilation, self.groups)

    def _finish(self, z: Tensor, y: Tensor | None) -> Tensor:
        y = z if y is None else y.add_(z)
        return y.relu_() if self.relu else y

    # The packed weight is made again after .to(), load_state_dict, copy.deepcopy and pickle.

    def _apply(self, fn: Any, recurse: bool = True) -> "_Step":
        self._packed = (None, None)
        return super()._apply(fn, recurse)

    def _load_from_state_dict(self, *args: Any) -> None:
        self._packed = (None, None)
        super()._load_from_state_dict(*args)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_packed": (None, None)}


def _rows(x: Tensor, batch: int) -> Tensor:
    """(N * T, C, H, W) -> (N, C, T, H * W), both in channels-last memory."""
    _, c, h, w = x.shape
    return x.permute(0, 2, 3, 1).reshape(batch, -1, h * w, c).permute(0, 3, 1, 2)


def _has_onednn(x: Tensor) -> bool:
    if torch.compiler.is_compiling() or torch.jit.is_tracing():  # a trace cannot hold them
        return False
    return has_onednn(x)

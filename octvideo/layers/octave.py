"""Octave convolution: part of the channels at half the spatial resolution.

Source: "Drop an Octave: Reducing Spatial Redundancy in Convolutional Neural Networks with
Octave Convolution" (Chen et al., ICCV 2019, arXiv 1904.05049).

A layer takes and gives octave values: ``OctTensor``, or plain pairs ``(x_h, x_l)`` where a pair is
what it is given. It holds one weight of the vanilla shape whose channels are ordered [L | H], low
first, so its state dict has the keys and shapes of the vanilla layer (the paper's Fig. 2b: an
octave kernel has exactly the parameters of the vanilla one).
"""

import math
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import torch
import torch.fx
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from octvideo.layers import conv3d_as_2d
from octvideo.layers.channels import Channels, as_channels
from octvideo.layers.checks import check_arguments, check_value
from octvideo.layers.eager import is_eager
from octvideo.layers.layout import Layout
from octvideo.layers.oct_tensor import OctTensor, Value
from octvideo.layers.resample import add_upsampled, join_groups, pool

for leaf in ("pool", "add_upsampled"):
    torch.fx.wrap(leaf)  # what they do depends on their inputs, which torch.fx does not know

Layer = TypeVar("Layer", bound="_OctConvNd")
_COPIED = (
    "in_channels",
    "out_channels",
    "kernel_size",
    "stride",
    "padding",
    "dilation",
    "groups",
    "padding_mode",
)


def recompute_joined(path: Callable[..., Tensor], *inputs: Any) -> Tensor:
    """Runs ``path``, a convolution of cat(x_l, pool(x_h)), and does not keep the concatenation.

    The convolution's gradient needs its input, but x_h and x_l are kept for other paths already, so
    the backward pass concatenates them again. The convolution itself does not run again:
    recomputing ends with the last tensor needed.
    """
    if is_eager() and torch.is_grad_enabled() and isinstance(inputs[0], Tensor):
        if inputs[0].is_meta:  # where nothing takes memory, and torch 2.4 cannot recompute
            return path(*inputs)
        return checkpoint(
            path, *inputs, use_reentrant=False, preserve_rng_state=False, determinism_check="none"
        )
    return path(*inputs)


def _repeat(value: int | Iterable[int], ndim: int, word: str) -> tuple[int, ...]:
    numbers = (value,) * ndim if isinstance(value, int) else tuple(value)
    if len(numbers) != ndim:
        raise ValueError(f"{word} must be one number or {ndim}, got {value}")
    return numbers


class _OctConvNd(nn.Module):
    """Octave convolution (paper, Eq. 4), f a convolution, H -> H, L -> H, L -> L, H -> L:

        y_h = f(x_h; W_hh) + upsample(f(x_l; W_lh), 2)
        y_l = f(x_l; W_ll) + f(pool(x_h, 2); W_hl)

    Spatial stride 2 (the authors' rule): pool x_h and the x_l of W_ll first, then convolve with
    stride 1; the x_l of W_lh has the size of y_h already. A temporal stride stays in f.
    A depthwise convolution (groups = in_channels) has only the paths W_hh and W_ll.

    The four paths are three convolutions, with stride 2 two, as on u = [x_l | pool(x_h, 2)] two
    paths are one: y_l = f(u; [W_ll | W_hl]), and with stride 2 y_h = f(u; [W_lh | W_hh]) and
    y_l = f(pool(u, 2); [W_ll | W_hl]).

    Without low channels on both sides it is exactly the plain convolution, stride included
    (``pool_stride``: with the stride as above, as the authors' code has it in every layer).

    Args:
        in_channels, out_channels: a count, split by alpha_in / alpha_out, or the pair
            ``(high, low)`` itself.
        kernel_size, stride, padding, dilation: as in torch, "same" and "valid" included; space
            must keep its size (2 * padding = dilation * (kernel - 1), or "same") where low
            channels are involved, and the spatial stride is 1 or 2.
        groups: used by all four paths.
        bias: added once to y_h and once to y_l.
        padding_mode: as in torch, around the map that a path convolves.
        device, dtype: of the parameters, as in torch.
        alpha_in, alpha_out: share of low channels, in [0, 1); 0 means a plain tensor there.
        pool_stride: a plain convolution with spatial stride 2 pools, too, and has stride 1.
    """

    ndim: int

    def __init__(
        self,
        in_channels: int | tuple[int, int],
        out_channels: int | tuple[int, int],
        kernel_size: int | Iterable[int],
        stride: int | Iterable[int] = 1,
        padding: str | int | Iterable[int] = 0,
        dilation: int | Iterable[int] = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        alpha_in: float = 0.0,
        alpha_out: float = 0.0,
        pool_stride: bool = False,
    ) -> None:
        super().__init__()
        self.channels_in: Channels | None = as_channels(in_channels, alpha_in)
        self.channels_out = as_channels(out_channels, alpha_out)
        self.kernel_size = _repeat(kernel_size, self.ndim, "kernel_size")
        self.stride = _repeat(stride, self.ndim, "stride")
        self.padding: Any = padding  # a word stays one, as in torch
        if not isinstance(padding, str):
            self.padding = _repeat(padding, self.ndim, "padding")
        self.dilation = _repeat(dilation, self.ndim, "dilation")
        self.groups, self.padding_mode, self.pool_stride = groups, padding_mode, pool_stride
        self.in_octavized = False
        self.layout: Layout | None = None  # of the output, where values know theirs
        self.layout_in: Layout | None = None  # of the input that it has learned from
        self.rows: Tensor | None = None  # the order [L | H] of the weight, where it is another
        self.columns: Tensor | None = None
        self._device = torch.device("cpu")  # where indices are made
        self.in_channels, self.out_channels = self.channels_in.total, self.channels_out.total
        check_arguments(self, self.channels_in)
        shape = (self.channels_out.total, self.channels_in.total // groups, *self.kernel_size)
        options: dict[str, Any] = {"device": device, "dtype": dtype}
        self.weight = nn.Parameter(torch.empty(shape, **options))
        self.bias = nn.Parameter(torch.empty(shape[0], **options)) if bias else None
        self.reset_parameters()

    @classmethod
    def of(
        cls: type[Layer],
        conv: Any,
        low: int | Layout,
        pool_stride: bool = False,
    ) -> Layer:
        """Makes the octave layer of a vanilla convolution, with its parameters.

        It learns the low channels of its input from what it is given; ``low`` are those of its
        output, which of a depthwise convolution follow the input: their number, or their layout
        where values know theirs.
        """
        layer = cls.__new__(cls)
        nn.Module.__init__(layer)
        layer.channels_in = None
        layer.layout, layer.layout_in = None if isinstance(low, int) else low, None
        count = low if isinstance(low, int) else low.num_low
        layer.channels_out = Channels(conv.out_channels - count, count)
        for name in _COPIED:
            setattr(layer, name, conv3d_as_2d.plain(getattr(conv, name)))
        layer.pool_stride, layer.in_octavized = pool_stride, True
        for index in ("rows", "columns"):
            layer.register_buffer(index, None, persistent=False)
        layer._device = conv.weight.device
        layer.weight, layer.bias = conv.weight, conv.bias
        layer.train(conv.training)
        return layer

    @property
    def is_depthwise(self) -> bool:
        return self.groups > 1 and self.groups == self.in_channels

    @property
    def is_plain(self) -> bool:
        """Whether there are no low channels on either side."""
        return not (self.channels_in and self.channels_in.low) and not self.channels_out.low

    @property
    def pools_plain(self) -> bool:
        """Whether a plain convolution pools for its spatial stride, as octave ones do."""
        return self.pool_stride and self.is_plain and self.stride[-2:] == (2, 2)

    def groups_of(self, channels: int) -> int:
        """Returns the groups of a path that starts from this many channels."""
        return channels if self.is_depthwise else self.groups

    def kernels(self) -> dict[str, Tensor]:
        """Returns the slices of the weight for the paths that exist of h2h, l2h, h2l, l2l."""
        low_out = self.channels_out.low
        low_in = self.channels_in.low // self.groups if self.channels_in else 0
        if self.is_depthwise:
            paths = {"h2h": self.weight[low_out:], "l2l": self.weight[:low_out]}
        else:
            paths = {
                "h2h": self.weight[low_out:, low_in:],
                "l2h": self.weight[low_out:, :low_in],
                "h2l": self.weight[:low_out, low_in:],
                "l2l": self.weight[:low_out, :low_in],
            }
        return {name: kernel for name, kernel in paths.items() if kernel.numel()}

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draws as torch's convolutions do, each kernel on its own fan."""
        for kernel in self.kernels().values():
            nn.init.kaiming_uniform_(kernel, a=math.sqrt(5))
        if self.bias is not None:
            bound = 1 / math.sqrt(self.weight[0].numel())
            nn.init.uniform_(self.bias, -bound, bound)

    def forward(self, x: Any) -> Any:
        """(N, c_h, [T,] H, W) and (N, c_l, [T,] ceil(H/2), ceil(W/2)) -> the same, / stride.

        A tensor, a pair or an ``OctTensor`` -> a tensor where the output has no low channels, else
        a pair; of an ``OctTensor``, and in an octavized network, an ``OctTensor``.
        """
        if isinstance(x, OctTensor) and x.low is None:
            x = x.high
        if self.in_octavized:
            x_h, x_l = (x.high, x.low) if isinstance(x, OctTensor) else (x, None)
        else:
            assert self.channels_in is not None  # given to the constructor
            check_value(x, self.channels_in, self.ndim + 2, self)
            # By the layer's channels rather than by the type of x, which torch.fx does not know.
            x_h, x_l = x if self.channels_in.low else (x, None)
        layout = x.layout if isinstance(x, OctTensor) else None
        pooled = x.pooled if isinstance(x, OctTensor) else None
        y_h, y_l = self.convolve(x_h, x_l, pooled, layout)
        if isinstance(x, OctTensor) or (self.in_octavized and y_l is not None):
            return OctTensor(y_h, y_l, self._layout_out(layout))
        return y_h if y_l is None else (y_h, y_l)

    def convolve(
        self,
        x_h: Tensor,
        x_l: Tensor | None,
        pooled: Callable[[], Tensor] | None = None,
        layout: Layout | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Eq. 4: x_h, x_l -> y_h, y_l. ``pooled`` returns pool(x_h), which others share.

        ``layout`` of the input, where its channels are not [L | H] in the order of the weight.
        """
        pool_h = pooled or (lambda: pool(x_h))
        has_low, halves = self.channels_out.low > 0, self.stride[-2:] == (2, 2)
        if self.is_depthwise and x_l is not None:
            return self._depthwise(x_h, x_l, layout)
        if x_l is None and not has_low:  # a plain convolution, which has a stride of its own
            if halves and self.pool_stride:
                return self._path(pool_h(), self.weight, self.bias), None
            return self._conv(x_h, self.weight, self.bias, self.stride, self.groups), None
        w_l, w_h, bias_l, bias_h = self._by_output(layout)
        if halves:
            # The low map has the size of y_h already: it and the pooled high map are one input.
            u = self._join(x_l, pool_h())
            y_h = self._path(u, w_h, bias_h)
            return y_h, self._path(pool(u), w_l, bias_l) if has_low else None
        # High output: H -> H at full resolution, L -> H convolved small and then upsampled.
        low_in = self._low_channels(x_l) // self.groups
        w_lh, w_hh = w_h.split([low_in, self.weight.shape[1] - low_in], dim=1)
        y_h = self._path(x_h, w_hh, bias_h)
        if x_l is not None:
            y_h = add_upsampled(y_h, self._path(x_l, w_lh))
        if not has_low:
            return y_h, None
        # Low output: L -> L and H -> L are one convolution of [x_l | pool(x_h)].
        once = [pool_h()]
        return y_h, recompute_joined(self._low_path, x_h, x_l, once, w_l, bias_l)

    def _low_channels(self, x_l: Tensor | None) -> int:
        """Those of the input: as constructed, and in an octavized network those of its value."""
        if x_l is None:
            return 0
        return x_l.shape[1] if self.in_octavized else self.channels_in.low  # type: ignore[union-attr]

    def learn_input(self, x: Value) -> None:
        """Takes the channels of the input from a value, in an octavized network.

        They are for those who ask about the layer; the forward pass looks at its own input.

        Raises:
            ValueError: the layer cannot be octave for such an input.
        """
        channels = x.channels if isinstance(x, OctTensor) else Channels(x.shape[1])
        if self.is_depthwise:
            low = self.out_channels // self.in_channels * channels.low
            self.channels_out = Channels(self.out_channels - low, low)
        self.channels_in = channels
        check_arguments(self, channels)
        layout = x.layout if isinstance(x, OctTensor) else None
        groups = [] if layout is None or self.is_depthwise else layout.in_groups(self.groups)
        if len({group.num_low for group in groups}) > 1:
            name = type(self).__name__
            raise ValueError(f"{name}: its {self.groups} groups differ in their low channels")
        if self.layout is not None:
            self.layout_in = layout
            self.rows, self.columns = self._order_of(layout, self._device)

    def _join(self, x_l: Tensor | None, pooled: Tensor) -> Tensor:
        """u = [x_l | pool(x_h)]."""
        return pooled if x_l is None else join_groups(x_l, pooled, self.groups)

    def _low_path(
        self,
        x_h: Tensor,
        x_l: Tensor | None,
        once: list[Tensor],
        kernel: Tensor,
        bias: Tensor | None,
    ) -> Tensor:
        """y_l, with stride 1. ``once`` has pool(x_h) for the first pass: it is not kept either."""
        if once:
            pooled = once.pop()
        else:
            with torch.no_grad():  # for its values alone
                pooled = pool(x_h)
            pooled.requires_grad_(x_h.requires_grad)  # a padding is kept as in the first pass
        return self._path(self._join(x_l, pooled), kernel, bias)

    def _depthwise(self, x_h: Tensor, x_l: Tensor, layout: Layout | None) -> tuple[Tensor, Tensor]:
        if self.stride[-1] == 2:
            x_h, x_l = pool(x_h), pool(x_l)
        low = self._low_channels(x_l) * self.weight.shape[0] // self.groups
        w_l, w_h, bias_l, bias_h = self._by_output(layout, low)
        return self._path(x_h, w_h, bias_h), self._path(x_l, w_l, bias_l)

    def _by_output(
        self, layout: Layout | None, low: int | None = None
    ) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
        """Cuts the weight and the biases for y_l and y_h: w_l, w_h, bias_l, bias_h.

        The columns of both are [L | H], in each group.
        """
        low = self.channels_out.low if low is None else low
        rows, columns = self.rows, self.columns
        if self.layout is not None and layout != self.layout_in:
            rows, columns = self._order_of(layout, self.weight.device)
        weight, bias = _ordered(self.weight, self.bias, rows, columns)
        sizes = [low, weight.shape[0] - low]
        w_l, w_h = weight.split(sizes)
        bias_l, bias_h = (None, None) if bias is None else bias.split(sizes)
        return w_l, w_h, bias_l, bias_h

    def by_frequency(self, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        """Returns a weight like this layer's, with rows and columns ordered [L | H]."""
        weight, bias_ = _ordered(weight, bias, self.rows, self.columns)
        assert bias_ is not None
        return weight, bias_

    def _layout_out(self, layout: Layout | None) -> Layout | None:
        """Returns the layout of the output for one of the input."""
        if self.layout is not None and self.is_depthwise and layout is not None:
            return layout.repeated(self.out_channels // self.in_channels)
        return self.layout

    def _order_of(
        self, layout: Layout | None, device: torch.device
    ) -> tuple[Tensor | None, Tensor | None]:
        """Returns the rows and columns of the weight as [L | H]; None where they are so already."""
        out, rows, columns = self._layout_out(layout), None, None
        if out is not None and not out.is_first:
            rows = torch.tensor(out.indices(), device=device)
        if layout is not None and not self.is_depthwise:
            groups = layout.in_groups(self.groups)
            order = torch.tensor([group.indices() for group in groups], device=device)
            if not all(group.is_first for group in groups):
                columns = order[0]
                if self.groups > 1:
                    columns = order.repeat_interleave(self.out_channels // self.groups, 0)
        return rows, columns

    def _path(self, x: Tensor, kernel: Tensor, bias: Tensor | None = None) -> Tensor:
        stride = (*self.stride[:-2], 1, 1)
        return self._conv(x, kernel, bias, stride, self.groups_of(x.shape[1]))

    def _conv(
        self, x: Tensor, kernel: Tensor, bias: Tensor | None, stride: tuple[int, ...], groups: int
    ) -> Tensor:
        conv = conv3d_as_2d.conv2d if self.ndim == 2 else conv3d_as_2d.conv3d
        x, padding = conv3d_as_2d.padded(x, self)
        return conv(x, kernel, bias, stride, padding, self.dilation, groups)

    def extra_repr(self) -> str:
        c_in = tuple(self.channels_in) if self.channels_in else self.in_channels
        text = f"{c_in} -> {tuple(self.channels_out)}, {self.kernel_size}"
        for name in ("stride", "padding", "dilation", "groups"):
            text += f", {name}={getattr(self, name)!r}"
        if self.padding_mode != "zeros":
            text += f", padding_mode={self.padding_mode!r}"
        return text + f", bias={self.bias is not None}"


def _ordered(
    weight: Tensor, bias: Tensor | None, rows: Tensor | None, columns: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    if columns is not None and columns.ndim == 2:  # each row has an order of its own
        weight = weight[torch.arange(len(columns), device=weight.device)[:, None], columns]
    elif columns is not None:
        weight = weight[:, columns]
    if rows is not None:
        weight, bias = weight[rows], None if bias is None else bias[rows]
    return weight, bias


class OctConv2d(_OctConvNd):
    __doc__ = _OctConvNd.__doc__
    ndim = 2


class OctConv3d(_OctConvNd):
    __doc__ = _OctConvNd.__doc__
    ndim = 3

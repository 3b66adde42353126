"""Batch norm of octave values, of one process or of all processes of a run together."""

import warnings
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.fx import Proxy
from torch.nn.modules.batchnorm import _BatchNorm

from octvideo.layers.channels import Channels, as_channels
from octvideo.layers.checks import check_value
from octvideo.layers.layout import Layout
from octvideo.layers.oct_tensor import OctTensor

Vectors = list[Tensor | None]  # running mean and variance, weight, bias: (C,) each


class _BatchNormNd(_BatchNorm):
    """Batch norm of a tensor or an octave value, each frequency with its own statistics.

    One weight, bias, running mean and running variance of all channels, ordered [L | H], as the
    vanilla layer has them.

    One value a channel, as of a low-frequency map of 1x1 of one clip, has no variance. In training
    the running statistics normalise it, with a warning, and are not updated; torch raises.

    ``synchronized`` (see ``synchronize_batch_norm``): in training the statistics are those of the
    batches of all processes together, also where these differ in size.
    """

    ndim: int
    synchronized = False
    channels: Channels | None = None  # of the input, where it is known
    layout: Layout | None = None  # of the input, where it is not [L | H]
    device = torch.device("cpu")  # where indices are made
    order: Tensor

    def forward(self, x: Any) -> Any:
        """The shapes of the input."""
        x_h, x_l = (x.high, x.low) if isinstance(x, OctTensor) else (x, None)
        if not isinstance(x, OctTensor):
            return self._normalize_both(x_h, x_l, 0)[0]
        y_h, y_l = self._normalize_both(x_h, x_l, 0 if x_l is None else x_l.shape[1], x.layout)
        return OctTensor(y_h, y_l, x.layout)

    def _normalize_both(
        self, x_h: Tensor, x_l: Tensor | None, low: int, layout: Layout | None = None
    ) -> tuple[Tensor, Tensor | None]:
        momentum = self._count_batch()
        vectors: Vectors = [self.running_mean, self.running_var, self.weight, self.bias]
        order = None
        if layout is not None and not layout.is_first:  # copies, ordered [L | H]
            order = self._order_of(layout, x_h.device)
            vectors = [None if t is None else t[order] for t in vectors]
        if self.synchronized and self.training and _num_processes() > 1:
            ys = self._normalize_together(x_h, x_l, momentum, vectors)
        elif x_l is None:
            ys = self._normalize(x_h, vectors, momentum), None
        else:
            of_low, of_high = (
                [None if t is None else t[part] for t in vectors]
                for part in (slice(0, low), slice(low, None))
            )
            y_l = self._normalize(x_l, of_low, momentum)
            ys = self._normalize(x_h, of_high, momentum), y_l
        if order is not None and self.training:
            for own, copy in zip((self.running_mean, self.running_var), vectors, strict=False):
                if own is not None and copy is not None:
                    own[order] = copy
        return ys

    def _order_of(self, layout: Layout, device: torch.device) -> Tensor:
        """Returns the channels as [L | H]."""
        if layout != self.layout:
            return torch.tensor(layout.indices(), device=device)
        return self.order

    def learn_input(self, x: object) -> None:
        """Takes the channels of an octave value, in an octavized network."""
        if not isinstance(x, OctTensor):
            return
        self.channels = x.channels
        if x.layout is not None and not x.layout.is_first:
            self.layout = x.layout
            order = torch.tensor(x.layout.indices(), device=self.device)
            self.register_buffer("order", order, persistent=False)

    def _count_batch(self) -> float:
        """Counts this batch in training and returns the weight of its statistics."""
        if not self.training or self.num_batches_tracked is None:
            return 0.0
        self.num_batches_tracked.add_(1)
        if self.momentum is not None:
            return self.momentum
        return 1.0 / self.num_batches_tracked.item()

    def _normalize(self, x: Tensor, vectors: Vectors, momentum: float) -> Tensor:
        mean, var, weight, bias = vectors
        training = self.training or mean is None
        if training and mean is not None and not isinstance(x, Proxy) and _is_one_value(x):
            warnings.warn(
                f"{type(self).__name__} got one value a channel, {tuple(x.shape)}, which has no "
                "variance: its running statistics normalise it, and stay as they are. Larger "
                "batches, clips or crops avoid that",
                stacklevel=2,
            )
            training = False
        return F.batch_norm(x, mean, var, weight, bias, training, momentum, self.eps)

    def _normalize_together(
        self, x_h: Tensor, x_l: Tensor | None, momentum: float, vectors: Vectors
    ) -> tuple[Tensor, Tensor | None]:
        parts = (x_h,) if x_l is None else (x_l, x_h)
        running_mean, running_var, weight, bias = vectors
        *ys, mean, var = _SyncBatchNorm.apply(weight, bias, self.eps, *parts)
        if running_mean is not None and running_var is not None:
            running_mean.lerp_(mean.to(running_mean), momentum)
            running_var.lerp_(var.to(running_var), momentum)
        return (ys[0], None) if x_l is None else (ys[1], ys[0])

    def extra_repr(self) -> str:
        return super().extra_repr() + (", synchronized" if self.synchronized else "")


class BatchNorm2d(_BatchNormNd):
    __doc__ = _BatchNormNd.__doc__
    ndim = 2


class BatchNorm3d(_BatchNormNd):
    __doc__ = _BatchNormNd.__doc__
    ndim = 3


class _OctBatchNorm(_BatchNormNd):
    """Batch norm of octave values whose channels are known: a count split by alpha, or a pair.

    It takes and gives plain pairs (high, low), or ``OctTensor``. Otherwise as ``BatchNorm3d``.
    """

    def __init__(
        self,
        num_features: int | tuple[int, int],
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        alpha: float = 0.0,
    ) -> None:
        channels = as_channels(num_features, alpha)
        super().__init__(channels.total, eps, momentum, affine, track_running_stats, device, dtype)
        self.channels = channels

    def forward(self, x: Any) -> Any:
        """The shapes of the input."""
        has_left = isinstance(x, OctTensor) and x.low is None
        channels = self.channels or Channels(self.num_features)
        check_value(x.high if has_left else x, channels, self.ndim + 2, self)
        low = channels.low  # rather than the type of x, which torch.fx does not know
        x_h, x_l = x if low or has_left else (x, None)
        y_h, y_l = self._normalize_both(x_h, x_l, low)
        if isinstance(x, OctTensor):
            return OctTensor(y_h, y_l)
        return y_h if y_l is None else (y_h, y_l)


class OctBatchNorm2d(_OctBatchNorm):
    __doc__ = _OctBatchNorm.__doc__
    ndim = 2


class OctBatchNorm3d(_OctBatchNorm):
    __doc__ = _OctBatchNorm.__doc__
    ndim = 3


_PLAIN = {
    nn.BatchNorm2d: BatchNorm2d,
    nn.BatchNorm3d: BatchNorm3d,
    nn.SyncBatchNorm: BatchNorm2d,  # the number of axes makes no difference
}


def batch_norm_of(layer: _BatchNorm) -> _BatchNormNd | None:
    """Makes the layer that does the same for tensors and octave values, with its parameters.

    None for a kind of batch norm that is not known.
    """
    if isinstance(layer, _BatchNormNd):
        return layer
    if type(layer) not in _PLAIN:
        return None
    new = _PLAIN[type(layer)](
        layer.num_features, layer.eps, layer.momentum, layer.affine, layer.track_running_stats
    )
    if layer.running_mean is not None:
        new.device = layer.running_mean.device
    new.synchronized = type(layer) is nn.SyncBatchNorm
    new.train(layer.training)
    for kind in ("_parameters", "_buffers"):
        getattr(new, kind).update(getattr(layer, kind))
    return new


def synchronize_batch_norm(model: nn.Module) -> nn.Module:
    """Makes every batch norm of the model, in place, one over all processes; returns the model.

    Parameters, buffers and their names stay. It takes the place of torch's
    ``SyncBatchNorm.convert_sync_batchnorm``, which knows no octave values and no CPU. To be called
    before hooks are registered on batch-norm layers.

    Raises:
        TypeError: a kind of batch norm that cannot be synchronised.
    """
    if isinstance(model, _BatchNorm):
        return _synchronized(model)
    for name, child in model.named_children():
        setattr(model, name, synchronize_batch_norm(child))
    return model


def _synchronized(layer: _BatchNorm) -> _BatchNormNd:
    new = batch_norm_of(layer)
    if new is None:
        raise TypeError(f"{type(layer).__name__} cannot be synchronised by octvideo")
    new.synchronized = True
    return new


def _num_processes() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


class _SyncBatchNorm(torch.autograd.Function):
    """Batch norm over all processes: one collective in the forward and one in the backward pass,
    whatever the number of frequencies.

    weight, bias: (C,), or None; parts: (N, c, [T,] H, W), low before high, with C channels
    together. Gives the normalised parts, then mean and (Bessel-corrected) variance of the joint
    batch, both float64 (C,).
    """

    @staticmethod
    def forward(
        ctx: Any, weight: Tensor | None, bias: Tensor | None, eps: float, *parts: Tensor
    ) -> tuple[Tensor, ...]:
        sizes = [part.shape[1] for part in parts]
        counts = _per_channel(parts)
        local = [_mean_and_variance(part) for part in parts]
        mean, var = (torch.cat(kind).double() for kind in zip(*local, strict=True))
        sums = torch.stack([counts, counts * mean, counts * (var + mean.square())])
        dist.all_reduce(sums)
        count, mean = sums[0], sums[1] / sums[0]
        var = (sums[2] / count - mean.square()).clamp_(min=0)
        tensors = (mean.to(local[0][0]), var.to(local[0][0]), weight, bias)
        ys = [
            F.batch_norm(x, m, v, w, b, training=False, eps=eps)
            for x, m, v, w, b in zip(parts, *(_split(t, sizes) for t in tensors), strict=True)
        ]
        ctx.save_for_backward(weight, tensors[0], (var + eps).rsqrt(), count, *parts)
        var = var * (count / (count - 1).clamp_(min=1))
        ctx.mark_non_differentiable(mean, var)
        return *ys, mean, var

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        weight, mean, inv_std, count, *parts = ctx.saved_tensors
        sizes = [part.shape[1] for part in parts]
        centred = [x - _as(m, x) for x, m in zip(parts, mean.split(sizes), strict=True)]
        pairs = list(zip(grads[: len(parts)], centred, strict=True))
        # of dy, and of dy * (x - mean)
        own = torch.stack(
            [
                torch.cat([dy.sum(_but_channels(dy), dtype=x.dtype) for dy, x in pairs]),
                torch.cat([(dy * x).sum(_but_channels(x)) for dy, x in pairs]),
            ]
        )
        sums = own.to(torch.float64, copy=True)
        dist.all_reduce(sums)
        scale = inv_std if weight is None else inv_std * weight
        # dx = scale * (dy - mean(dy) - (x - mean) / std^2 * mean(dy * (x - mean)))
        slope = -scale * inv_std.square() * sums[1] / count
        shift = -scale * sums[0] / count
        for (dy, x), *factors in zip(
            pairs, *(t.to(mean).split(sizes) for t in (scale, slope, shift)), strict=True
        ):
            a, b, c = (_as(t, x) for t in factors)
            x.mul_(b).add_(c).addcmul_(dy.to(x.dtype), a)
        inputs = [x.to(part.dtype) for (_, x), part in zip(pairs, parts, strict=True)]
        if weight is None:
            return None, None, None, *inputs
        return (own[1] * inv_std).to(weight), own[0].to(weight), None, *inputs


def _is_one_value(x: Tensor) -> bool:
    return x.shape[0] == 1 and x.shape[2:].numel() == 1


def _mean_and_variance(x: Tensor) -> tuple[Tensor, Tensor]:
    """Of each channel, in float32 at least, without Bessel's correction; 0 of no elements."""
    zeros = x.new_zeros(x.shape[1], dtype=torch.promote_types(x.dtype, torch.float32))
    if not x.numel():
        return zeros, zeros
    # The running statistics that it is given make the result float32, also of x in half.
    return torch.ops.aten.batch_norm_update_stats(x, zeros, zeros.clone(), 0.0)


def _per_channel(parts: tuple[Tensor, ...]) -> Tensor:
    """How many elements each channel has, float64 (C,), made without waiting for the device."""
    counts = [(x.shape[1], x.numel() // x.shape[1]) for x in parts]
    device = parts[0].device
    return torch.cat([torch.full((c,), n, dtype=torch.float64, device=device) for c, n in counts])


def _split(t: Tensor | None, sizes: list[int]) -> tuple[Tensor | None, ...]:
    return (None,) * len(sizes) if t is None else t.split(sizes)


def _but_channels(x: Tensor) -> tuple[int, ...]:
    return (0, *range(2, x.ndim))


def _as(t: Tensor, x: Tensor) -> Tensor:
    """(C,) in a shape that goes with x (N, C, ...)."""
    return t.view(1, -1, *[1] * (x.ndim - 2))

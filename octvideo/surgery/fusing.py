"""Any network for inference: batch norms and ReLUs move into the convolutions before them."""

from collections import Counter, defaultdict
from collections.abc import Iterator

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from octvideo.layers import BatchNorm2d, BatchNorm3d, OctConv2d, OctConv3d, Value, conv3d_as_2d
from octvideo.layers.fused import FusedConv, dense, is_fusible
from octvideo.layers.norm import OctBatchNorm2d, OctBatchNorm3d
from octvideo.surgery.tracing import Call, Example, trace_layers

# These types, and what only gives them another constructor: see `_computes_as`.
_CONVS = (nn.Conv2d, nn.Conv3d, conv3d_as_2d.Conv2d, conv3d_as_2d.Conv3d, OctConv2d, OctConv3d)
_NORMS = (
    *(nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm, BatchNorm2d, BatchNorm3d),
    *(OctBatchNorm2d, OctBatchNorm3d),
)


class _Fused(nn.Module):
    """``FusedConv`` in the place of a layer of another network, for images or for videos."""

    def __init__(self, conv: nn.Module, norm: nn.Module, relu: bool) -> None:
        super().__init__()
        self.fused = FusedConv(conv, norm, relu)
        self.sees_videos = isinstance(conv, (nn.Conv3d, OctConv3d))

    def forward(self, x: Value) -> Value:
        """(N, C, [T,] H, W) -> (N, C_out, [T',] H', W')."""
        if not self.sees_videos:
            x = dense(x)  # type: ignore[arg-type]
        y: Value = self.fused.on_video(x) if self.sees_videos else self.fused(x)
        return y


def _computes_as(layer: nn.Module, kinds: tuple[type[nn.Module], ...]) -> bool:
    """Returns whether a layer is of these kinds, or derived from one with the same forward pass."""
    own = type(layer)
    return any(
        isinstance(layer, kind)
        and own.forward is kind.forward
        and getattr(own, "_conv_forward", None) is getattr(kind, "_conv_forward", None)
        for kind in kinds
    )


def fuse(model: nn.Module, example: Example) -> int:
    """Moves batch norms, and the ReLUs behind them, into the convolutions before them, in place.

    It does so where one example shows that nothing else sees the values between them, and that each
    of them runs once. Identities take the place of the layers that are gone.

    Args:
        model: in evaluation mode.

    Returns:
        The number of convolutions that have taken a batch norm in.

    Raises:
        ValueError: the network cannot take the example.
    """
    places: dict[nn.Module, list[str]] = defaultdict(list)
    for name, module in model.named_modules(remove_duplicate=False):
        places[module].append(name)

    def put(old: nn.Module, new: nn.Module) -> None:
        for name in places[old]:
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, new)

    count = 0
    for conv, norm, relu in _chains(*trace_layers(model, example, (*_CONVS, *_NORMS, nn.ReLU))):
        put(conv, _Fused(conv, norm, relu is not None))
        put(norm, nn.Identity())
        if relu is not None:
            put(relu, nn.Identity())
        count += 1
    return count


def _chains(
    calls: list[Call], returned: set[Call]
) -> Iterator[tuple[nn.Module, _BatchNorm, nn.Module | None]]:
    """Yields convolution, batch norm and perhaps ReLU, where nothing else sees what is between."""
    runs = Counter(call.layer for call in calls)

    def only_user(call: Call, *kinds: type[nn.Module]) -> Call | None:
        """Returns the layer of these kinds that alone sees what a call gives."""
        if len(call.users) != 1 or call in returned:
            return None
        user = call.users[0]
        if user.layer is None or runs[user.layer] != 1 or user.inputs != [call]:
            return None
        return user if _computes_as(user.layer, kinds) else None

    for call in calls:
        conv = call.layer
        if conv is None or not _computes_as(conv, _CONVS):
            continue
        if runs[conv] != 1 or not is_fusible(conv):
            continue
        norm = only_user(call, *_NORMS)
        if norm is None or not isinstance(norm.layer, _BatchNorm):
            continue
        if norm.layer.running_mean is None:
            continue
        relu = only_user(norm, nn.ReLU)
        yield conv, norm.layer, None if relu is None else relu.layer

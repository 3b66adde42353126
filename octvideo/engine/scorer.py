"""Scores files with a network, view by view: a test, a validation, predictions and features."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol as Structure
from typing import cast

import torch
from torch import Tensor, nn

from octvideo.data.clips import Batch, Item, view
from octvideo.data.protocol import Protocol
from octvideo.engine.precision import Evaluation
from octvideo.utils.errors import UserError


@dataclass(frozen=True)
class Scores:
    """What a network gives for some files: indices in their list, and (files, views, classes)."""

    files: list[int]
    values: Tensor  # float32, where the network is


class Scorer:
    """Normalises pixels, cuts views out of them, and runs a network on batches of views.

    Only runs the network, which has to be in evaluation mode: nothing is registered on it or
    changed in it, so several threads may share one.

    Args:
        network: clips (N, 3, T, S, S) -> (N, classes), or (N, C) of ``Features``.
        protocol: mean, standard deviation, crop size and precision.
        batch_size: views in a forward pass.
        compiled: the network is compiled for one batch size, up to which batches are padded.

    Raises:
        ValueError: batch_size is below 1.
    """

    def __init__(
        self, network: nn.Module, protocol: Protocol, batch_size: int = 8, compiled: bool = False
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        self.protocol, self.batch_size = protocol, batch_size
        self.device = next(network.parameters(), torch.empty(0)).device
        self.evaluate = Evaluation(network, self.device, protocol.precision, compiled)

    @torch.inference_mode()
    def __call__(self, item: Item | Batch) -> Scores:
        """Scores an item of a data set or loader: one file with its views, or a batch of files.

        Files that could not be read are not in the result.
        """
        if "clips" in item:  # frames (3, U, H, W), which all views of the file share
            frames = self._normalized(item["frames"])
            values = torch.cat([self._scores(views) for views in self._views(item, frames)])
            return Scores([item["index"]], values[None])
        if "video" not in item or not len(item["video"]):
            return Scores([], torch.empty(0, 1, 0, device=self.device))
        scores = self._scores(self._normalized(item["video"]))
        return Scores(item["index"].tolist(), scores[:, None])

    def _scores(self, clips: Tensor) -> Tensor:
        # Image networks of other projects take no clips of one frame.
        is_image = self.protocol.centre_crop is not None and clips.shape[2] == 1
        return self.evaluate(clips[:, :, 0] if is_image else clips)

    def _normalized(self, pixels: Tensor) -> Tensor:
        return self.protocol.normalized(pixels.to(self.device, non_blocking=True))

    def _views(self, item: Item, frames: Tensor) -> Iterator[Tensor]:
        """Yields the views of a file in order, (B, 3, T, S, S) with B up to batch_size."""
        return view_batches(item, frames, item["size"], self.batch_size)


def view_batches(item: Item, frames: Tensor, crop_size: int, batch_size: int) -> Iterator[Tensor]:
    """Yields the views of a file in order, in batches of (at most) batch_size: (B, 3, T, S, S).

    They are cut from ``frames`` (3, U, H, W), which are normalised once for all views.
    """
    views = [(clip, crop) for clip in item["clips"] for crop in item["crops"]]
    for start in range(0, len(views), batch_size):
        part = views[start : start + batch_size]
        shape = (len(part), frames.shape[0], item["clips"].shape[1], crop_size, crop_size)
        batch = frames.new_empty(shape)
        for (clip, crop), out in zip(part, batch, strict=True):
            out.copy_(view(frames, clip, crop, crop_size))
        yield batch


class _Headed(Structure):
    def forward_features(self, x: Tensor) -> Tensor: ...

    def forward_head(self, x: Tensor, pre_logits: bool) -> Tensor: ...


class Features(nn.Module):
    """Runs a network up to its last layer: (N, 3, T, H, W) -> (N, C), averaged over positions.

    The network is in evaluation mode already.

    Raises:
        UserError: it lacks the methods ``forward_features(clips)`` and
            ``forward_head(x, pre_logits=True)``, which the networks of octvideo and timm have.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        for name in ("forward_features", "forward_head"):
            if not callable(getattr(network, name, None)):
                raise UserError(
                    f"{type(network).__name__} has no method {name}: to extract features, a "
                    "network needs forward_features(clips) and forward_head(x, pre_logits=True), "
                    "as the networks of octvideo and timm have them"
                )
        self.network = cast(_Headed, network)  # as was just seen
        self.training = False  # its own alone: eval() would reach into the network

    def forward(self, clips: Tensor) -> Tensor:
        return self.network.forward_head(self.network.forward_features(clips), pre_logits=True)

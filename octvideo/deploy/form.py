"""The network as it is exported, with the inputs and outputs of the file."""

import copy
from typing import Any

import torch
from torch import Tensor, nn

from octvideo.data.protocol import Protocol
from octvideo.deploy.record import Record
from octvideo.models import optimize_for_inference
from octvideo.models.classifier import Classifier
from octvideo.models.external import ExternalNetwork
from octvideo.models.heads import HEAD_ACTIVATIONS
from octvideo.models.slowfast import SlowFast, slow_indices
from octvideo.utils.errors import UserError


class ExportForm(nn.Module):
    """Runs a network on the inputs that a `Record` describes -> scores, or (scores, features).

    The network is a copy, optimised for inference; the one that was given stays as it is.

    Raises:
        UserError: the network cannot give what the record wants.
    """

    def __init__(self, network: nn.Module, record: Record) -> None:
        super().__init__()
        if record.features and not isinstance(network, Classifier):
            raise UserError(
                f"{type(network).__name__} cannot be exported with features: only networks of "
                "octvideo can, without features=True"
            )
        self.network = with_logits(network) if record.logits else network
        self.network = optimize_for_inference(self.network)
        self.record = record
        self.takes_pathways = isinstance(network, SlowFast) or record.frame_ratio > 1
        pixels = record.protocol.mean, record.protocol.std
        mean, std = (torch.tensor(v, dtype=torch.float32) for v in pixels)
        self.register_buffer("scale", 1 / (255 * std), persistent=False)
        self.register_buffer("shift", -mean / std, persistent=False)
        self.eval()

    scale: Tensor
    shift: Tensor

    def forward(self, *inputs: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        x: Tensor | list[Tensor] = inputs[0] if len(inputs) == 1 else list(inputs)
        if self.record.inputs == "frames":
            x = self._clips(inputs[0])
        if self.takes_pathways and isinstance(x, Tensor):
            x = pathways(x, self.record.frame_ratio)
        if not self.record.features:
            scores: Tensor = self.network(x)
            return scores
        network: Any = self.network  # a Classifier, as was seen
        maps = network.forward_features(x)
        return network.forward_head(maps), network.forward_head(maps, pre_logits=True)

    def _clips(self, frames: Tensor) -> Tensor:
        """Normalises pixels, uint8 (N, [T,] H, W, 3) -> (N, 3, [T,] H, W)."""
        x = frames.to(torch.float32) * self.scale + self.shift
        if self.record.protocol.reverse_channels:
            x = x.flip(-1)
        return x.permute(0, x.ndim - 1, *range(1, x.ndim - 1))


def with_logits(network: nn.Module) -> nn.Module:
    """Returns a copy whose head has no activation.

    Raises:
        UserError: the network is not one of octvideo's, so its last activation is not known.
    """
    network = copy.deepcopy(network)
    owner: Any = network
    if isinstance(network, Classifier):
        owner = network.head
    elif not isinstance(network, ExternalNetwork):
        raise UserError(
            f"{type(network).__name__} is not a network of octvideo.create_model, so its scores "
            "are exported as they are: without logits"
        )
    del owner.activation  # a module cannot become a function in place
    owner.activation = HEAD_ACTIVATIONS["none"]
    return network


def pathways(fast: Tensor, ratio: int) -> list[Tensor]:
    """Returns the slow clips (N, 3, T / ratio, H, W) and the fast ones (N, 3, T, H, W)."""
    index = torch.tensor(slow_indices(fast.shape[2], ratio), device=fast.device)
    return [fast.index_select(2, index), fast]


def pixels_of(clips: Tensor, protocol: Protocol) -> Tensor:
    """Returns the pixels, uint8 (N, [T,] H, W, 3), of normalised clips (N, 3, [T,] H, W)."""
    x = clips.permute(0, *range(2, clips.ndim), 1)
    if protocol.reverse_channels:
        x = x.flip(-1)
    mean, std = (x.new_tensor(v) for v in (protocol.mean, protocol.std))
    return ((x * std + mean) * 255).round().clamp(0, 255).to(torch.uint8)


def inputs_of(clips: Tensor, record: Record) -> list[Tensor]:
    """Returns the inputs of the file for normalised clips (N, 3, [T,] S, S)."""
    if record.inputs == "frames":
        return [pixels_of(clips, record.protocol)]
    return pathways(clips, record.frame_ratio) if record.inputs == "pathways" else [clips]

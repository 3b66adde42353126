"""Networks as files that run without octvideo: ONNX, OpenVINO, torch.export."""

import copy
import logging
import os
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from octvideo.api.inference import in_evaluation
from octvideo.api.loading import load
from octvideo.api.protocols import protocol_of
from octvideo.data.protocol import Protocol
from octvideo.deploy import ExportedNetwork, Record, export_network, format_of
from octvideo.models.slowfast import SlowFastSpec
from octvideo.utils.errors import UserError

logger = logging.getLogger("octvideo")


def export(
    model: str | os.PathLike[str] | nn.Module,
    path: str | os.PathLike[str],
    format: str | None = None,
    *,
    inputs: str = "clips",
    logits: bool = False,
    features: bool = False,
    crop_size: int | None = None,
    dynamic_size: bool = False,
    settings: Protocol | None = None,
    licence: str = "",
    source: str | None = None,
    tolerance: float = 1e-4,
) -> float:
    """Writes a model as a file that runs without octvideo, for any number of clips at a time.

    The file is opened in its own runtime and compared with the model, on one clip and on three,
    before it gets its name. It carries a record of how it is used: protocol, class names, network,
    alpha, licence. ``octvideo.load`` opens it again, for `predict` and its like.

    Args:
        model: a model, or what ``load`` takes. It stays as it is.
        path: ``*.onnx``, ``*.xml`` (OpenVINO, with a ``*.bin`` beside it) or ``*.pt2``
            (torch.export).
        format: "onnx", "openvino" or "pt2"; None: as the path says.
        inputs: "clips", normalised float32 (N, 3, T, S, S), of image networks (N, 3, S, S);
            "frames", pixels uint8 (N, T, S, S, 3), of image networks (N, S, S, 3), which the file
            normalises; "pathways", of SlowFast the slow and the fast clip, as PySlowFast gives
            them. With the first two SlowFast picks its slow frames itself.
        logits: the scores before softmax or sigmoid, averaged over positions; otherwise the scores
            are the model's own, probabilities.
        features: a second output, what the last layer sees, (N, C).
        crop_size: S; None: that of the model's test.
        dynamic_size: the sides may be any from ``crop_size`` on, with onnx and openvino. ONNX
            Runtime is slower then, see docs/EXPORT.md.
        settings: the protocol to keep in the file, instead of the model's own.
        licence: a text to keep in the file.
        source: the same, of where the weights come from; None: the name that ``model`` is given by.
        tolerance: the largest difference allowed, relative to the largest score.

    Returns:
        The largest difference found.

    Raises:
        UserError: a package is missing (says which extra), the path has no suffix of a format or
            cannot be written, the model cannot be exported so, or the file differs from it.
    """
    path = Path(path)
    name = format_of(path, format)
    network = _on_cpu(model if isinstance(model, nn.Module) else load(model))
    record = _record(network, settings or protocol_of(network), inputs, crop_size, logits, licence)
    if source is None:
        source = "" if isinstance(model, nn.Module) else Path(model).name
    record = replace(record, features=features, source=source, dynamic_size=dynamic_size)
    difference = export_network(network, record, path, tolerance)
    logger.info("%s (%s) differs from the model by %.1e at most", path, name, difference)
    return difference


def _on_cpu(model: nn.Module) -> nn.Module:
    """Returns the model in evaluation, on the CPU.

    Raises:
        UserError: its weights are not in float32, or it is exported already.
    """
    if isinstance(model, ExportedNetwork):
        raise UserError(f"{model.path} is exported already: export its checkpoint again")
    tensors = [*model.parameters(), *model.buffers()]
    if half := next((t.dtype for t in tensors if t.is_floating_point() and t.itemsize < 4), None):
        raise UserError(f"the model's weights are in {half}: export the model in float32")
    network = in_evaluation(model)
    is_away = any(t.device.type != "cpu" for t in tensors)
    return copy.deepcopy(network).cpu() if is_away else network


def _record(
    network: nn.Module,
    protocol: Protocol,
    inputs: str,
    crop_size: int | None,
    logits: bool,
    licence: str,
) -> Record:
    spec = getattr(network, "spec", None)
    is_image = protocol.centre_crop is not None if spec is None else spec.is_image
    ratio = spec.frame_ratio if isinstance(spec, SlowFastSpec) else 1
    if inputs == "pathways" and ratio == 1:
        raise UserError("inputs='pathways' is for SlowFast: this network takes one clip")
    side = protocol.crop_size
    if is_image and protocol.centre_crop is not None:
        side = protocol.centre_crop.crop_size
    try:
        record = Record(
            protocol,
            inputs=inputs,
            is_image=is_image,
            num_frames=protocol.num_frames,
            crop_size=crop_size or side,
            num_classes=0,
            frame_ratio=ratio,
            logits=logits,
            spec=spec,
            licence=licence,
        )
    except ValueError as error:
        raise UserError(str(error)) from error
    names = tuple(getattr(network, "class_names", None) or ())
    num_classes = _num_classes(network, record.clips_shape(1))
    return replace(record, num_classes=num_classes, class_names=names)


def _num_classes(network: nn.Module, shape: tuple[int, ...]) -> int:
    """Returns K, of the scores (N, K) of a network.

    Raises:
        UserError: it does not take such clips, or gives something else.
    """
    name = type(network).__name__
    try:
        with torch.inference_mode():
            scores = network(torch.zeros(shape))
    except (RuntimeError, ValueError, TypeError) as error:
        raise UserError(
            f"{name} does not take clips of shape {shape}, as its protocol says: {error}. "
            "Give the right crop_size=, or settings= (for images with a centre_crop)"
        ) from error
    if not isinstance(scores, torch.Tensor) or scores.ndim != 2:
        found = tuple(scores.shape) if isinstance(scores, torch.Tensor) else type(scores).__name__
        raise UserError(f"{name} gives {found}, where an exported network has scores (N, classes)")
    return scores.shape[1]

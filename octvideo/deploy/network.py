"""Exported files in place of a network; each runs in the runtime of its format."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from octvideo.deploy.files import format_of
from octvideo.deploy.form import inputs_of
from octvideo.deploy.openvino_core import openvino_core
from octvideo.deploy.pt2 import open_pt2
from octvideo.deploy.record import KEY, Record, record_from_json
from octvideo.deploy.seal import check_seal
from octvideo.models.build import Spec
from octvideo.utils.errors import UserError, first_line
from octvideo.utils.extras import import_extra

_HINTS = {"fp32": "f32", "bf16": "bf16"}  # OpenVINO's names

Run = Callable[[Sequence[np.ndarray]], Sequence[np.ndarray]]


class ExportedNetwork(nn.Module):
    """Runs an exported file: normalised clips (N, 3, T, S, S) -> scores (N, classes).

    It takes the place of a network in `predict`, `extract_features` and in a test, so it has the
    attributes that they need: ``spec``, ``protocol``, ``class_names``. It runs on the CPU.

    Args:
        run: maps the input arrays of the file to its output arrays.
        precision: in which it computes.
    """

    spec: Spec | None

    def __init__(self, record: Record, run: Run, path: Path, precision: str = "fp32") -> None:
        super().__init__()
        self.record, self._run, self.path, self.precision = record, run, path, precision
        self.spec, self.protocol = record.spec, record.protocol
        if record.class_names:
            self.class_names = list(record.class_names)
        self.training = False

    def run(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """Returns the outputs of the file for its own inputs; `Record` has their shapes."""
        found = self._run([x.contiguous().numpy() for x in inputs])
        return [torch.from_numpy(np.asarray(y)) for y in found]

    @torch.compiler.disable
    def forward(self, clips: Tensor) -> Tensor:
        """Normalised clips (N, 3, T, S, S), of images (N, 3, S, S) -> scores (N, classes).

        Raises:
            UserError: the file was exported for clips of another size or length.
        """
        return self._outputs(clips)[0]

    def forward_features(self, clips: Tensor) -> Tensor:
        """Clips, as in ``forward`` -> features (N, C).

        Raises:
            UserError: as in ``forward``, or the file gives no features.
        """
        if not self.record.features:
            raise UserError(
                f"{self.path} gives scores alone: export the network with features=True (octvideo "
                "export --features)"
            )
        return self._outputs(clips)[1]

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Returns the features as they are.

        Raises:
            ValueError: ``pre_logits`` is False.
        """
        if not pre_logits:
            raise ValueError(f"{self.path}: call the network itself for scores")
        return x

    def __deepcopy__(self, memo: dict[int, object]) -> "ExportedNetwork":
        return self  # nothing in it changes

    def train(self, mode: bool = True) -> "ExportedNetwork":
        """Stays in evaluation.

        Raises:
            UserError: it cannot be trained.
        """
        if mode:
            raise UserError(f"{self.path} is exported and cannot be trained: train its checkpoint")
        return self

    def in_precision(self, precision: str) -> "ExportedNetwork":
        """Returns the network itself if it computes in ``precision``, otherwise opens it again.

        Raises:
            UserError: as in ``open_exported``.
        """
        return self if precision == self.precision else open_exported(self.path, precision)

    def _outputs(self, clips: Tensor) -> list[Tensor]:
        if self.record.logits:
            raise UserError(
                f"{self.path} gives logits, whose mean over views is no score: export the network "
                "without logits"
            )
        size = self._size_of(clips)
        want = self.record.clips_shape(len(clips), size)
        if tuple(clips.shape) != want:
            raise UserError(
                f"{self.path} is exported for {_described(want)} and cannot take "
                f"{_described(clips.shape)}"
            )
        return self.run(inputs_of(clips.float(), self.record))

    def _size_of(self, clips: Tensor) -> Sequence[int] | None:
        """Returns the (H, W) of clips if they may have it; None: the record's own."""
        side, size = self.record.crop_size, clips.shape[-2:]
        if not self.record.dynamic_size:
            return None
        if min(size) < side:
            raise UserError(
                f"{self.path} takes sides from {side} pixels on, not {size[0]}x{size[1]}"
            )
        return size


def _described(shape: Sequence[int]) -> str:
    time = f"{shape[2]} frames of " if len(shape) == 5 else ""
    return f"{time}{shape[-2]}x{shape[-1]} pixels"


def open_exported(path: str | os.PathLike[str], precision: str = "fp32") -> ExportedNetwork:
    """Opens an exported file in its runtime, which runs nothing but the network's operations.

    precision: "fp32"; "bf16" of OpenVINO files, on processors that have it.

    Raises:
        UserError: the runtime is missing, the file is damaged or not written by octvideo, or it
            cannot be run in this precision.
    """
    path = Path(path)
    name = format_of(path)
    if not path.is_file():
        raise UserError(f"there is no file {path}")
    if precision == "fp32":
        text, run = _OPENERS[name](path)
    elif name == "openvino" and precision == "bf16":
        text, run = _open_openvino(path, precision)
    else:
        raise UserError(
            f"{path} cannot be run in {precision}: exported files are run in fp32, and OpenVINO "
            "files in bf16 as well"
        )
    if not text:
        raise UserError(
            f"{path} does not say how it is used, so it was not made by octvideo.export: run it "
            "in its own runtime, or export the network again"
        )
    try:
        record, digest = record_from_json(text)
    except (ValueError, TypeError, RecursionError) as error:
        raise UserError(f"{path} has a damaged record ({error}): export it again") from error
    check_seal(path, digest)
    return ExportedNetwork(record, run, path, precision)


def _damaged(path: Path, error: Exception) -> UserError:
    return UserError(
        f"{path} cannot be opened: it is damaged, or not written for this version of its runtime "
        f"({first_line(error)})"
    )


def _refused(path: Path, inputs: Sequence[np.ndarray], error: Exception) -> UserError:
    shapes = " and ".join(str(x.shape) for x in inputs)
    return UserError(f"{path} cannot be run on {shapes}: {first_line(error)}")


def _open_onnx(path: Path) -> tuple[str | None, Run]:
    runtime = import_extra("onnxruntime", "onnx", str(path))
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 4  # errors are raised
    state = runtime.capi.onnxruntime_pybind11_state
    kinds = ("Fail", "InvalidProtobuf", "InvalidGraph", "InvalidArgument", "NotImplemented")
    damages = tuple(getattr(state, kind) for kind in (*kinds, "NoSuchFile", "RuntimeException"))
    try:
        session = runtime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except damages as error:
        raise _damaged(path, error) from error
    names = [value.name for value in session.get_inputs()]
    record = session.get_modelmeta().custom_metadata_map.get(KEY)

    def run(inputs: Sequence[np.ndarray]) -> Sequence[np.ndarray]:
        try:
            return session.run(None, dict(zip(names, inputs, strict=True)))
        except damages as error:
            raise _refused(path, inputs, error) from error

    return record, run


def _open_openvino(path: Path, precision: str = "fp32") -> tuple[str | None, Run]:
    core = openvino_core(str(path))
    if precision == "bf16" and "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        raise UserError(f"{path} cannot be run in bf16: this processor does not have it; use fp32")
    options = {"INFERENCE_NUM_THREADS": torch.get_num_threads(), "PERFORMANCE_HINT": "LATENCY",
               "INFERENCE_PRECISION_HINT": _HINTS[precision]}  # fmt: skip
    if not path.with_suffix(".bin").is_file():
        raise UserError(
            f"{path} needs its weights beside it: there is no {path.with_suffix('.bin')}"
        )
    try:
        model = core.read_model(path)
        record = model.get_rt_info([KEY]).astype(str) if model.has_rt_info([KEY]) else None
        network = core.compile_model(model, "CPU", options)
    except RuntimeError as error:
        raise _damaged(path, error) from error

    def run(inputs: Sequence[np.ndarray]) -> Sequence[np.ndarray]:
        # A request of its own, as threads may share the network.
        try:
            results = network.create_infer_request().infer([*inputs])
        except RuntimeError as error:
            raise _refused(path, inputs, error) from error
        return [results[i] for i in range(len(network.outputs))]

    return record, run


_OPENERS: dict[str, Callable[[Path], tuple[str | None, Run]]] = {
    "onnx": _open_onnx,
    "openvino": _open_openvino,
    "pt2": open_pt2,
}

"""Exported files in int8, for ONNX Runtime and OpenVINO: static quantisation by NNCF.

onnxruntime also has a quantiser, but the runtime has no fast 3D kernels for the integer operations
that it writes: an I3D took 3.5 times as long as in float. NNCF's files run as fast as float or
faster.
"""

import contextlib
import logging
import os
import sys
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from octvideo.deploy.files import format_of, parts_of
from octvideo.deploy.network import ExportedNetwork, open_exported
from octvideo.deploy.openvino_core import openvino_core
from octvideo.deploy.record import KEY
from octvideo.deploy.seal import BLANK, seal
from octvideo.utils.errors import UserError
from octvideo.utils.extras import import_extra

LAYERS = ("Conv", "Gemm", "MatMul", "Convolution", "GroupConvolution")  # operations of both formats
_COMPARED = 8  # clips that sensitivity is measured on
_GROUPS = 16  # of layers, at most; each has one sensitivity


class Quantiser:
    """Writes an exported network with weights and layers in int8.

    Weights have one scale a channel. They use 7 of the 8 bits, because processors without VNNI add
    two products of 8 bits in 16, which could overflow. The ranges of activations are those that
    occur in the calibration.

    Args:
        source: the exported network in float.
        calibration: inputs of the file, one clip at a time.

    Attributes:
        layers: the names of its convolutions and linear layers, in their order.

    Raises:
        UserError: a package is missing, or the network cannot be quantised.
    """

    def __init__(self, source: ExportedNetwork, calibration: Sequence[Sequence[Tensor]]) -> None:
        form, record = format_of(source.path), source.record
        if form not in _FORMATS:
            raise UserError(f"{source.path} cannot be quantised: export it as *.onnx or *.xml")
        if record.precision != "fp32":
            raise UserError(
                f"{source.path} is in {record.precision} already: quantise the float file"
            )
        os.environ.setdefault("NNCF_CI", "1")  # it would report its use over the network
        self._nncf: Any = import_extra("nncf", "int8", "int8")
        self._nncf.set_log_level(logging.ERROR)
        self._read, self._layers, self._save = _FORMATS[form]
        self.source, self._inputs = source, calibration
        names = record.input_names
        self._data = [
            dict(zip(names, (x.numpy() for x in inputs), strict=True)) for inputs in calibration
        ]
        self.layers = [*self._layers(self._read(source.path))]

    def write(self, path: Path, in_float: Collection[str] = ()) -> None:
        """Writes the file of the same format, with some layers left in float."""
        nncf = self._nncf
        from nncf.quantization.range_estimator import RangeEstimatorParametersSet

        # Scores differ half as much as with NNCF's own mean ranges and correction of biases.
        parameters = nncf.AdvancedQuantizationParameters(
            overflow_fix=nncf.OverflowFix.ENABLE,
            disable_bias_correction=True,
            activations_range_estimator_params=RangeEstimatorParametersSet.MINMAX,
        )
        with contextlib.redirect_stdout(sys.stderr):  # its progress
            model = nncf.quantize(
                self._read(self.source.path),
                nncf.Dataset(self._data),
                preset=nncf.QuantizationPreset.MIXED,
                subset_size=len(self._data),
                ignored_scope=nncf.IgnoredScope(names=[*in_float]),
                advanced_parameters=parameters,
            )
        parts_of(path)[-1].unlink(missing_ok=True)  # old weights may still be mapped into memory
        self._save(model, replace(self.source.record, precision="int8").to_json(BLANK), path)
        seal(path)

    def by_sensitivity(self, path: Path) -> list[list[str]]:
        """Returns groups of neighbouring layers, the most sensitive group first.

        The most sensitive group is the one that, left in float, brings the scores nearest to the
        float file's. Layers are grouped because each measurement costs a quantisation.

        path: a file that is overwritten for each group.
        """
        size = -(-len(self.layers) // _GROUPS)
        groups = [self.layers[i : i + size] for i in range(0, len(self.layers), size)]
        inputs = self._inputs[:_COMPARED]
        wanted = [self.source.run(x)[0] for x in inputs]
        errors = []
        for group in groups:
            self.write(path, group)
            network = open_exported(path)
            pairs = zip(inputs, wanted, strict=True)
            errors.append(sum(float((network.run(x)[0] - y).square().sum()) for x, y in pairs))
        return [groups[i] for i in np.argsort(errors, kind="stable")]


def int8_layers(path: Path) -> tuple[int, int]:
    """Returns how many convolutions and linear layers of a file have weights in int8, and all."""
    read, layers, _ = _FORMATS[format_of(path)]
    found = layers(read(path))
    return sum(found.values()), len(found)


def _onnx_layers(model: Any) -> dict[str, bool]:
    """Returns for each layer whether its weights are in int8."""
    graph = model.graph
    makers = {name: node for node in graph.node for name in node.output}
    kinds = {x.name: x.data_type for x in graph.initializer}
    found = {}
    for node in (node for node in graph.node if node.op_type in LAYERS):
        maker = makers.get(node.input[1])
        stored = maker.input[0] if maker and maker.op_type == "DequantizeLinear" else ""
        found[node.name] = kinds.get(stored) == 3  # onnx.TensorProto.INT8
    return found


def _openvino_layers(model: Any) -> dict[str, bool]:
    """Returns for each layer whether its weights are in int8."""
    found = {}
    for node in model.get_ops():
        if node.get_type_name() in LAYERS:
            weight = node.input_value(1).get_node()
            while weight.get_input_size():
                weight = weight.input_value(0).get_node()
            name = node.get_friendly_name()
            found[name] = weight.get_element_type().to_string() == "i8"
    return found


def _read_onnx(path: Path) -> Any:
    return import_extra("onnx", "onnx", str(path)).load(path)


def _save_onnx(model: Any, record: str, path: Path) -> None:
    for entry in model.metadata_props:
        if entry.key == KEY:
            entry.value = record
    import_extra("onnx", "onnx", str(path)).save(model, path)


def _read_openvino(path: Path) -> Any:
    return openvino_core(str(path)).read_model(path)


def _save_openvino(model: Any, record: str, path: Path) -> None:
    model.set_rt_info(record, [KEY])
    import_extra("openvino", "openvino", str(path)).save_model(model, path, compress_to_fp16=False)


_FORMATS: dict[
    str, tuple[Callable[[Path], Any], Callable[[Any], dict[str, bool]], Callable[..., None]]
] = {
    "onnx": (_read_onnx, _onnx_layers, _save_onnx),
    "openvino": (_read_openvino, _openvino_layers, _save_openvino),
}

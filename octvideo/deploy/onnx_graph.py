"""Networks as ONNX graphs without arithmetic of shapes.

torch's exporter records the network for one batch size that occurs nowhere else, with every size
known: that takes a fraction of the time that it needs for symbolic sizes, and leaves no nodes that
compute them. Where that batch size stands in the graph, any batch size is put afterwards.
"""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from octvideo.deploy.form import ExportForm, inputs_of
from octvideo.deploy.record import KEY, Record
from octvideo.deploy.seal import BLANK, seal
from octvideo.utils.extras import import_extra

if TYPE_CHECKING:
    from onnxscript import ir

OPSET = 18
_BATCH = 13  # a prime: sizes that are multiples of it come from the batch
_REPEAT = {"coordinate_transformation_mode": "asymmetric", "mode": "nearest",
           "nearest_mode": "floor"}  # fmt: skip
_LARGEST = 2**31  # values of a weight that is computed beforehand


def onnx_program(form: ExportForm, record: Record, flat: bool = True) -> "ir.Model":
    """Returns the graph of a network, an ``onnx_ir.Model``, for any batch size.

    flat: videos are upsampled as images with more channels. ONNX Runtime has a fast function for
    these; its general one took 37 % of the time of an Oct-I3D. OpenVINO would have to reorder its
    memory. Pooling stays 3D: as images, ONNX Runtime loses in reordering what it gains.

    Raises:
        UserError: a package is missing.
    """
    for module in ("onnx", "onnxscript"):
        import_extra(module, "onnx", "an export to onnx or openvino")
    from onnxscript import ir, optimizer

    inputs = tuple(inputs_of(torch.zeros(record.clips_shape(_BATCH)), record))
    with _quiet():
        program = torch.onnx.export(
            form,
            inputs,
            dynamo=True,
            optimize=False,
            verbose=False,
            opset_version=OPSET,
            input_names=record.input_names,
            output_names=record.output_names,
        )
    assert program is not None
    model: ir.Model = program.model
    optimizer.optimize(model, input_size_limit=_LARGEST, output_size_limit=_LARGEST)
    graph = model.graph
    _any_batch(graph)
    for node in [node for node in graph if node.op_type == "Resize"]:
        if not (record.dynamic_size and _resize_to_partner(graph, node)):
            _resize(graph, node, flat)
    for name in [name for name, value in graph.initializers.items() if not value.uses()]:
        del graph.initializers[name]  # left over from constants that were folded
    for node in graph:
        node.metadata_props.clear()  # lines of source code, of no use elsewhere
        for value in (v for v in node.outputs if v not in graph.outputs):
            value.metadata_props.clear()
            value.shape = None  # it was recorded for one batch size
    for value in graph.outputs:
        value.shape = ir.Shape(["batch", *_sizes(value)[1:]])
    for value in graph.inputs:
        sides = record.input_shape[-3 if record.inputs == "frames" else -2 :]
        value.shape = ir.Shape(["batch", *_sizes(value)[1 : -len(sides)], *sides])
    return model


def save_onnx(model: "ir.Model", record: Record, path: Path) -> None:
    """Writes a graph and its record."""
    from onnxscript import ir

    model.metadata_props[KEY] = record.to_json(BLANK)
    model.producer_name = KEY
    ir.save(model, path)
    seal(path)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps torch's exporter from logging that torchvision is missing."""
    log = logging.getLogger("torch.onnx")
    before = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(before)


def _any_batch(graph: "ir.Graph") -> None:
    """Lets every Reshape find the batch size by itself."""
    for node in graph:
        wanted = node.inputs[1] if node.op_type == "Reshape" else None
        if wanted is None or wanted.const_value is None:
            continue
        shape = wanted.const_value.numpy()
        if not len(shape) or shape[0] <= 0 or shape[0] % _BATCH:
            continue
        shape = np.array([-1, *_sizes(node.outputs[0])[1:]], np.int64)
        node.replace_input_with(1, _constant(graph, f"{node.outputs[0].name}_shape", shape))


def _resize(graph: "ir.Graph", node: "ir.Node", flat: bool) -> None:
    """Rewrites an upsampling with factors; sizes would include that of the batch.

    From n to 2 n - 1 pixels, it becomes one by 2 of which the last pixel is cut off.
    """
    x, y = node.inputs[0], node.outputs[0]
    assert x is not None  # it is what Resize resizes
    before, after = _sizes(x), _sizes(y)
    factors = [-(-b // a) for a, b in zip(before, after, strict=True)]
    whole = [a * f for a, f in zip(before, factors, strict=True)]
    cut = [i for i, (a, b) in enumerate(zip(whole, after, strict=True)) if a != b]
    is_nearest = node.attributes.get_string("mode", "nearest") == "nearest"
    if not is_nearest or any(factors[i] != 2 or whole[i] != after[i] + 1 for i in cut):
        return
    steps = _Steps(graph, y.name)
    is_flat = flat and len(before) == 5 and factors[2] == 1
    value = steps.as_images(x) if is_flat else x
    value = steps.add(
        "Resize",
        [value, None, steps.constant("factors", np.array(factors[is_flat:], np.float32))],
        **_REPEAT,
    )
    if is_flat:
        value = steps.reshape(value, [-1, *whole[1:]])
    if cut:
        bounds = {"starts": [0] * len(cut), "ends": [after[i] for i in cut], "axes": cut}
        inputs = [steps.constant(k, np.array(v, np.int64)) for k, v in bounds.items()]
        value = steps.add("Slice", [value, *inputs])
    steps.replace(node, value)


def _resize_to_partner(graph: "ir.Graph", node: "ir.Node") -> bool:
    """Rewrites an upsampling to the size of the value that it is added to or joined with.

    Returns whether that was possible.
    """
    x, y, uses = node.inputs[0], node.outputs[0], list(node.outputs[0].uses())
    if len(uses) != 1 or uses[0].node.op_type not in ("Add", "Concat"):
        return False
    user = uses[0].node
    partners = [
        value
        for value in user.inputs
        if value is not None and value is not y and _sizes(value)[2:] == _sizes(y)[2:]
        if (maker := value.producer()) is None or maker.op_type != "Resize"
    ]
    if not partners:
        return False
    steps = _Steps(graph, y.name)
    shapes = [steps.add("Shape", [x], end=2), steps.add("Shape", [partners[0]], start=2)]
    inputs = [x, None, None, steps.add("Concat", shapes, axis=0)]
    steps.replace(node, steps.add("Resize", inputs, **_REPEAT), before=user)
    return True


def _sizes(value: "ir.Value") -> list[int]:
    """Returns the shape of a value, which was recorded with all sizes known."""
    assert value.shape is not None
    return [*value.shape.numpy()]


class _Steps:
    """Nodes that take the place of another one."""

    def __init__(self, graph: "ir.Graph", name: str | None) -> None:
        self.graph, self.name = graph, name
        self.nodes: list[ir.Node] = []

    def constant(self, what: str, values: np.ndarray) -> "ir.Value":
        return _constant(self.graph, f"{self.name}_{what}{len(self.nodes)}", values)

    def add(
        self, operation: str, inputs: "Sequence[ir.Value | None]", **attributes: str | int
    ) -> "ir.Value":
        from onnxscript import ir

        node = ir.node(operation, inputs, attributes)
        node.outputs[0].name = f"{self.name}_{operation}{len(self.nodes)}"
        self.nodes.append(node)
        return node.outputs[0]

    def as_images(self, value: "ir.Value") -> "ir.Value":
        """(N, C, T, H, W) -> (N, C * T, H, W)."""
        _, channels, frames, *size = _sizes(value)
        return self.reshape(value, [-1, channels * frames, *size])

    def replace(self, node: "ir.Node", value: "ir.Value", before: "ir.Node | None" = None) -> None:
        """Puts the new nodes, which end in ``value``, in the place of an old one, or ``before``."""
        from onnxscript import ir

        self.graph.insert_before(before or node, self.nodes)
        value.shape = node.outputs[0].shape
        ir.convenience.replace_all_uses_with(node.outputs[0], value, replace_graph_outputs=True)
        self.graph.remove(node, safe=True)

    def reshape(self, value: "ir.Value", shape: list[int]) -> "ir.Value":
        return self.add("Reshape", [value, self.constant("shape", np.array(shape, np.int64))])


def _constant(graph: "ir.Graph", name: str, values: np.ndarray) -> "ir.Value":
    from onnxscript import ir

    value = ir.Value(name=name, const_value=ir.tensor(values, name=name))
    value.shape, value.type = (
        ir.Shape(values.shape),
        ir.TensorType(ir.DataType.from_numpy(values.dtype)),
    )
    graph.register_initializer(value)
    return value

"""Writes a network in the form that a runtime runs fastest, and checks what was written.

A file gets its name only when its own runtime has reproduced the network's scores. Until then it is
in a hidden folder beside its place.
"""

import logging
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from octvideo.data.transforms import normalize
from octvideo.deploy.files import format_of
from octvideo.deploy.form import ExportForm, inputs_of
from octvideo.deploy.network import open_exported
from octvideo.deploy.onnx_graph import onnx_program, save_onnx
from octvideo.deploy.record import KEY, Record
from octvideo.deploy.seal import BLANK, seal
from octvideo.layers import eager
from octvideo.models.libraries import FOREIGN_ERRORS
from octvideo.utils.errors import UserError
from octvideo.utils.extras import import_extra

logger = logging.getLogger("octvideo")

BATCHES = (1, 3)  # a file must be right for any number of clips


def export_network(
    network: nn.Module, record: Record, path: Path, tolerance: float = 1e-4
) -> float:
    """Writes a network to ``path`` in the format that its suffix names.

    Returns the largest difference of a score (or feature) from the network's own, relative to the
    largest of them.

    Args:
        network: in evaluation mode and on the CPU; it stays as it is.
        tolerance: a larger difference is refused.

    Raises:
        UserError: a package is missing, the folder cannot be written, the network cannot be
            exported, or the file differs from the network.
    """
    name = format_of(path)
    if record.dynamic_size and name == "pt2":
        raise UserError(f"{path} is for one size: only onnx and openvino can have a dynamic one")
    write = _WRITERS[name]
    form = ExportForm(network, record)
    with staged(path) as part:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of exporters about themselves
            write(form, record, part)
        difference = _difference(network, form, record, part)
        if not difference <= tolerance:
            raise UserError(
                f"{path} would differ from the network by {difference:.1e} of its largest score, "
                f"more than the tolerance, {tolerance:.1e}: nothing is written"
            )
    return difference


@contextmanager
def staged(path: Path) -> Iterator[Path]:
    """Yields a path in a hidden folder on the same disk; at the end its files move to ``path``.

    After an error nothing moves.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        folder = tempfile.TemporaryDirectory(prefix=f".{path.stem[:50]}.", dir=path.parent)
    except OSError as error:
        raise UserError(f"{path.parent} cannot be written to: {error.strerror}") from error
    with folder as name:
        yield Path(name, path.name)
        for file in sorted(Path(name).iterdir(), reverse=True):  # the .xml after its .bin
            with open(file, "rb+") as written:
                os.fsync(written.fileno())
            file.replace(path.with_name(file.name))


@torch.no_grad()
def _difference(network: nn.Module, form: ExportForm, record: Record, part: Path) -> float:
    """Returns how far the file is from the network, at worst; nan where it gives no numbers."""
    runtime, worst = open_exported(part), 0.0
    generator = torch.Generator().manual_seed(0)
    shapes = [record.clips_shape(batch) for batch in BATCHES]
    if record.dynamic_size:
        side = record.crop_size
        shapes.append(record.clips_shape(2, (side + 32, side + 75)))  # even and odd maps
    for shape in shapes:
        pixels = torch.randint(256, shape, generator=generator, dtype=torch.uint8)
        protocol, axis = record.protocol, 1 - len(shape)  # of the colours
        clips = normalize(pixels, protocol.mean, protocol.std, protocol.reverse_channels, axis)
        try:
            got = runtime.run(inputs_of(clips, record))
        except UserError as refusal:
            if shape[-1] == record.crop_size or not record.dynamic_size:
                raise
            raise UserError(
                f"the network cannot be exported for clips of any size: leave out dynamic_size "
                f"(--dynamic-size). {refusal}"
            ) from refusal
        for want, given in zip(_expected(network, form, record, clips), got, strict=True):
            error = (torch.as_tensor(given) - want).abs().max() / want.abs().max()
            worst = max(worst, float(error)) if worst == worst and error == error else float("nan")
    return worst


def _expected(network: nn.Module, form: ExportForm, record: Record, clips: Tensor) -> list[Tensor]:
    """Returns what the file has to give, from the network itself unless only the form gives it."""
    try:
        if record.logits or record.features or record.inputs == "frames":
            found = form(*inputs_of(clips, record))
            return list(found) if isinstance(found, tuple) else [found]
        return [network(clips)]
    except FOREIGN_ERRORS as error:
        if not record.dynamic_size:
            raise
        raise UserError(
            f"the network does not take {tuple(clips.shape[-2:])} pixels ({error}): export it "
            "without a dynamic size"
        ) from error


def _write_onnx(form: ExportForm, record: Record, path: Path) -> None:
    program = onnx_program(form, record, flat=not record.dynamic_size)
    save_onnx(program, record, path)


def _write_openvino(form: ExportForm, record: Record, path: Path) -> None:
    openvino = import_extra("openvino", "openvino", f"{path.name}")
    between = path.with_suffix(".onnx")
    program = onnx_program(form, record, flat=False)
    save_onnx(program, record, between)
    model = openvino.convert_model(between)
    model.set_rt_info(record.to_json(BLANK), [KEY])
    openvino.save_model(model, path, compress_to_fp16=False)
    del model
    seal(path)
    between.unlink()


def _write_pt2(form: ExportForm, record: Record, path: Path) -> None:
    batch = torch.export.Dim("batch")
    inputs = example_inputs(record, 2)
    shapes = tuple({0: batch} for _ in inputs)
    with eager.recorded_as_run():
        program = torch.export.export(form, inputs, dynamic_shapes=(shapes,), strict=False)
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # of no use elsewhere
    torch.export.save(program, path, extra_files={KEY: record.to_json()})


def example_inputs(record: Record, batch: int) -> tuple[Tensor, ...]:
    """Returns inputs of the file that are zero in normalised clips."""
    return tuple(inputs_of(torch.zeros(record.clips_shape(batch)), record))


_WRITERS: dict[str, Callable[[ExportForm, Record, Path], None]] = {
    "onnx": _write_onnx,
    "openvino": _write_openvino,
    "pt2": _write_pt2,
}

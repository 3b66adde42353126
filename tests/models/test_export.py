"""Networks as they are, recorded by torch, give what they give in eager mode.

What `octvideo.export` writes of them is in tests/deploy.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from octvideo import create_model
from octvideo.models import NonLocalPlacement, optimize_for_inference
from support import liven, narrowed

pytestmark = pytest.mark.filterwarnings("ignore")

NARROW = {"depth": 14, "width_per_group": 8, "head_activation": "none", "crop_size": 64}
NETWORKS = {
    "i3d": ("i3d_r50", 0.0, {**NARROW, "num_frames": 4}),
    "oct_i3d": ("i3d_r50", 0.25, {**NARROW, "num_frames": 4}),
    "oct_nln": (
        *("c2d_r50", 0.25),
        {**NARROW, "num_frames": 4, "non_local": NonLocalPlacement(((), (0,), (0,), (0,)))},
    ),
    "oct_slowfast": (
        *("slowfast_4x16_r50", 0.25),
        {**NARROW, "width_per_group": 32, "num_frames": 16},
    ),
    "oct_x3d": (
        *("x3d_xs", 0.25),
        {**narrowed("x3d_xs"), "head_activation": "none", "crop_size": 64, "num_frames": 4},
    ),
    "oct_r2plus1d": ("r2plus1d_r50", 0.25, {**NARROW, "num_frames": 4}),
    "oct_csn": ("csn_r101", 0.25, {**NARROW, "num_frames": 8}),
    "oct_resnet": ("resnet26_v2", 0.25, {"width": 8, "head_activation": "none"}),
}
# These have all layers of the others. Whether the one that is exported is optimized:
QUICK = {"oct_nln": False, "oct_slowfast": True, "oct_resnet": True}
every_network = pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.slow] * (name not in QUICK)) for name in NETWORKS],
)
as_it_is_and_optimized = pytest.mark.parametrize("optimized", [False, True])


def build(name: str, optimized: bool = False) -> tuple[nn.Module, Callable[..., Tensor]]:
    """The network, and how its inputs are made for a side of the crop."""
    torch.manual_seed(0)
    kind, alpha, options = NETWORKS[name]
    model = liven(create_model(kind, 5, alpha, **options))
    for module in model.modules():  # so that a branch is neither nothing nor everything
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.affine:
            nn.init.constant_(module.weight, 0.5)
    frames = () if kind.startswith("resnet") else (options["num_frames"],)
    if optimized:
        model = optimize_for_inference(model)

    def clips(height: int, width: int) -> Tensor:
        generator = torch.Generator().manual_seed(height + width)
        return torch.randn(1, 3, *frames, height, width, generator=generator)

    return model, clips


def check(got: Tensor | np.ndarray, want: Tensor) -> None:
    scale = want.abs().max().item()
    torch.testing.assert_close(torch.as_tensor(got), want, rtol=0, atol=1e-4 * scale)
    assert want.std() > 0.01 * scale


# Of a side of 32 the last map is one pixel, 64 is the training crop, and 70 has odd maps.


@as_it_is_and_optimized
@every_network
def test_a_trace_is_right_at_other_sizes(name, optimized) -> None:
    model, clips = build(name, optimized)
    with torch.enable_grad():
        traced = torch.jit.trace(model, clips(32, 32), check_trace=False)
    with torch.no_grad():
        for x in (clips(32, 32), clips(96, 70), torch.cat([clips(40, 33), -clips(40, 33)])):
            check(traced(x), model(x))


def test_a_trace_of_full_maps_refuses_smaller_ones() -> None:
    model, clips = build("oct_i3d")
    traced = torch.jit.trace(model, clips(64, 64), check_trace=False)
    check(traced(clips(70, 96)).detach(), model(clips(70, 96)).detach())
    with pytest.raises(RuntimeError):
        traced(clips(32, 32))


@every_network
def test_gradients_through_a_trace(name) -> None:
    model, clips = build(name)
    x = clips(64, 64)
    traced = torch.jit.trace(model, x, check_trace=False)
    gradients = []
    for function in (model, traced):
        own = x.clone().requires_grad_()
        function(own).square().sum().backward()
        gradients.append(own.grad)
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-3, atol=1e-6)


def onnx_outputs(path: Path, *inputs: Tensor) -> list[np.ndarray]:
    runtime = pytest.importorskip("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = 1
    session = runtime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return [session.run(None, {name: x.numpy()})[0] for x in inputs]


@pytest.mark.parametrize(
    ("name", "optimized"),
    [
        pytest.param(name, optimized, marks=[pytest.mark.slow] * (QUICK.get(name) != optimized))
        for name in NETWORKS
        for optimized in (False, True)
    ],
)
def test_onnx_by_tracing(name, optimized, tmp_path) -> None:
    """``dynamo=False``, the exporter up to torch 2.8, for inputs of any size."""
    pytest.importorskip("onnx", reason="needs octvideo[onnx]")
    model, clips = build(name, optimized)
    path = tmp_path / "model.onnx"
    last = clips(64, 64).ndim
    axes = {"x": {0: "batch", last - 2: "height", last - 1: "width"}}
    torch.onnx.export(
        model, (clips(64, 64),), path, dynamo=False, input_names=["x"], dynamic_axes=axes
    )
    inputs = [clips(64, 64), clips(96, 70), torch.cat([clips(64, 64), -clips(64, 64)])]
    for got, x in zip(onnx_outputs(path, *inputs), inputs, strict=True):
        with torch.no_grad():
            check(got, model(x))


@pytest.mark.parametrize(
    ("name", "optimized"),
    [("oct_resnet", True), pytest.param("oct_i3d", False, marks=pytest.mark.slow)],
)
def test_torch_export_has_a_guard(name, optimized) -> None:
    model, clips = build(name, optimized)
    x = clips(64, 64)
    with torch.no_grad():
        program = torch.export.export(model, (x,), strict=False)
        check(program.module()(x), model(x))
        with pytest.raises((RuntimeError, AssertionError)):
            program.module()(clips(96, 64))

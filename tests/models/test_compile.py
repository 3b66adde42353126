"""torch.compile takes every network whole, in training and in evaluation.

The graphs are traced only (backend "eager"): what a break would break is the tracing. Shallow
networks have every kind of layer and connection; the full depth is for `make test-all`.
"""

import copy
import logging
from typing import Any

import pytest
import torch

from octvideo import create_model
from octvideo.models import NonLocalPlacement, ResNetSpec, optimize_for_inference
from support import VIDEO_MODELS, narrowed

SMALL = {"crop_size": 32, "num_classes": 5}
# With one block a stage, the first two have every kind of layer; tracing octave ones takes longest.
EVERY_STAGE = (2, 3, 4, 5)
SHALLOW = [
    ("slowfast_nln_r50", 0.25, (2, 3)),
    pytest.param("x3d_xs", 0.25, (2, 3), marks=pytest.mark.slow),
    *(
        pytest.param(name, alpha, EVERY_STAGE, marks=pytest.mark.slow)
        for name, alpha in (
            *(("slowfast_nln_r50", 0.25), ("x3d_xs", 0.25), ("slow_r18", 0.25)),
            *(("r2plus1d_r50", 0.25), ("csn_r101", 0.25), ("i3d_nln_r50", 0.25)),
            *(("i3d_r50", 0.0), ("slowfast_r50", 0.0)),
        )
    ),
]
every_shallow = pytest.mark.parametrize(("name", "alpha", "stages"), SHALLOW)


@pytest.fixture(autouse=True)
def quiet_tracing(monkeypatch: pytest.MonkeyPatch) -> None:
    """pytest keeps every record of torch's trace log, which costs half of the time."""
    monkeypatch.setattr(logging.getLogger("torch.__trace"), "disabled", True)


def shallow(name: str, **options: Any) -> torch.nn.Module:
    """One block a stage; a non-local block after res3 and res4 where the network has any."""
    options = {**narrowed(name, 8), **options}
    spec = create_model(name, **SMALL, **options).spec
    if not isinstance(spec, ResNetSpec):
        return create_model(name, **{**SMALL, "depth_factor": 0.2, **options})
    options["depth"] = 10 if spec.transform == "basic_transform" else 14
    if any(spec.non_local.blocks):
        blocks = ((), (0,), (0,), ())
        options["non_local"] = NonLocalPlacement(blocks, spec.non_local.instantiation)
    return create_model(name, **{**SMALL, **options})


def assert_whole(model: torch.nn.Module) -> None:
    """One graph in each mode; fullgraph makes a break an error."""
    clip = torch.rand(2, 3, model.spec.num_frames, 32, 32)
    for training in (True, False):
        torch._dynamo.reset()
        model.train(training)
        compiled = torch.compile(model, backend="eager", fullgraph=True, dynamic=False)
        with torch.set_grad_enabled(training):
            assert compiled(clip).shape == (2, 5)


@pytest.mark.slow
@every_shallow
def test_no_graph_breaks(name: str, alpha: float, stages: tuple[int, ...]) -> None:
    assert_whole(shallow(name, octave_alpha=alpha, octave_stages=stages))


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in VIDEO_MODELS if "r101" not in name])
def test_no_graph_breaks_at_full_depth(name: str) -> None:
    """The 101 layers are more of the same."""
    assert_whole(create_model(name, octave_alpha=0.25, **SMALL, **narrowed(name, 8)))


@every_shallow
def test_optimized_models(name: str, alpha: float, stages: tuple[int, ...]) -> None:
    model = optimize_for_inference(shallow(name, octave_alpha=alpha, octave_stages=stages))
    clip = torch.rand(2, 3, model.spec.num_frames, 32, 32)
    torch._dynamo.reset()
    compiled = torch.compile(model, backend="eager", fullgraph=True, dynamic=False)
    with torch.inference_mode():
        torch.testing.assert_close(compiled(clip), model(clip))


def test_a_break_would_be_found() -> None:
    class Breaks(torch.nn.Module):
        spec = create_model("i3d_r18", **SMALL, width_per_group=8).spec

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            torch._dynamo.graph_break()
            return x.mean((2, 3, 4)).repeat(1, 2)[:, :5]

    with pytest.raises(torch._dynamo.exc.Unsupported):
        assert_whole(Breaks())


@pytest.mark.slow
def test_another_number_of_frames_is_traced_anew() -> None:
    """What the slow pathway takes of a clip is a constant of the graph, not of the network."""
    model = shallow("slowfast_r50").eval()
    torch._dynamo.reset()
    compiled = torch.compile(model, backend="eager", fullgraph=True, dynamic=False)
    for frames in (32, 16):
        clip = torch.rand(2, 3, frames, 32, 32)
        torch.testing.assert_close(compiled(clip), model(clip))


def loss_and_all(model: torch.nn.Module, clip: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """The loss of a training step, all gradients, and the buffers after it."""
    torch.manual_seed(2)  # dropout
    loss = model.train()(clip).square().sum()
    loss.backward()
    return loss, *(p.grad for p in model.parameters()), *(b.clone() for b in model.buffers())


def assert_same_step(a: torch.nn.Module, b: torch.nn.Module, tolerance: float) -> None:
    clip = torch.rand(2, 3, 4, 32, 32)
    for x, y in zip(loss_and_all(a, clip), loss_and_all(b, clip), strict=True):
        torch.testing.assert_close(x, y, rtol=tolerance, atol=tolerance)


@pytest.mark.slow
def test_the_traced_step_is_the_step() -> None:
    """Gradients and batch-norm statistics, with the backward pass traced as well."""
    torch.manual_seed(0)
    model = shallow("i3d_r18", octave_alpha=0.25, num_frames=4)
    twin = copy.deepcopy(model)
    torch._dynamo.reset()
    twin.compile(backend="aot_eager", fullgraph=True, dynamic=False)
    assert_same_step(model, twin, 1e-5)
    assert model.state_dict().keys() == twin.state_dict().keys()


@pytest.mark.slow  # a minute of a C++ compiler
def test_compiled_for_the_cpu() -> None:
    torch.manual_seed(0)
    # Without dropout: the compiler draws its numbers in another way.
    model = shallow("i3d_nln_r50", octave_alpha=0.25, num_frames=4, dropout_rate=0.0)
    twin = copy.deepcopy(model)
    torch._dynamo.reset()
    twin.compile(fullgraph=True, dynamic=False)
    assert_same_step(model, twin, 1e-4)
    clip = torch.rand(2, 3, 4, 32, 32)
    with torch.inference_mode():
        torch.testing.assert_close(twin.eval()(clip), model.eval()(clip), rtol=1e-4, atol=1e-4)

"""Batch norm over processes against the layer of one process on the joint batch."""

import copy
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from octvideo import create_model
from octvideo.layers import (
    BatchNorm3d,
    OctBatchNorm2d,
    OctBatchNorm3d,
    per_frequency,
    synchronize_batch_norm,
)
from support.processes import run_processes

HIGH, LOW = 5, 3
SIZES = (3, 1, 2)  # clips of each process


def octave_input(n: int = sum(SIZES), frames: tuple[int, ...] = (2,)) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    randn = partial(torch.randn, dtype=torch.float64, generator=generator)
    return 2 * randn(n, HIGH, *frames, 7, 6) + 30, randn(n, LOW, *frames, 4, 3) - 1


LAYERS = {
    "octave 3D": lambda: (OctBatchNorm3d((HIGH, LOW)), octave_input()),
    "octave 2D": lambda: (OctBatchNorm2d((HIGH, LOW)), octave_input(frames=())),
    "plain": lambda: (nn.BatchNorm3d(HIGH), octave_input()[0]),
    "cumulative": lambda: (OctBatchNorm3d((HIGH, LOW), momentum=None), octave_input()),
    "not affine": lambda: (OctBatchNorm3d((HIGH, LOW), affine=False), octave_input()),
    "no statistics": lambda: (
        OctBatchNorm3d((HIGH, LOW), track_running_stats=False),
        octave_input(),
    ),
}


def make(name: str) -> tuple[nn.Module, Tensor | tuple[Tensor, Tensor]]:
    layer, x = LAYERS[name]()
    generator = torch.Generator().manual_seed(1)
    for parameter in layer.double().parameters():
        parameter.data = torch.rand(parameter.shape, dtype=torch.float64, generator=generator) + 0.5
    return layer, x


def two_steps(layer: nn.Module, x) -> dict[str, Tensor]:
    """Outputs, gradients and state after two batches whose outputs count differently."""
    for factor in (1.0, 0.5):
        parts = [p.clone().requires_grad_() for p in ([x] if isinstance(x, Tensor) else x)]
        y = layer(parts[0] if isinstance(x, Tensor) else tuple(p * factor for p in parts))
        ys = [y] if isinstance(y, Tensor) else y
        sum((y.pow(3) * y.cos()).sum() for y in ys).backward()
    found = {f"dx{i}": part.grad for i, part in enumerate(parts)}
    found.update({f"y{i}": y.detach() for i, y in enumerate(ys)})
    found.update({name: p.grad for name, p in layer.named_parameters()})
    found.update(dict(layer.named_buffers()))
    return found


def of_process(rank: int) -> dict[str, dict[str, Tensor]]:
    part = slice(sum(SIZES[:rank]), sum(SIZES[: rank + 1]))
    found = {}
    for name in LAYERS:
        layer, x = make(name)
        layer = synchronize_batch_norm(layer)
        found[name] = two_steps(layer, per_frequency(lambda x: x[part], x))
    return found


@pytest.mark.timeout(60)
def test_equals_the_layer_of_one_process_on_the_joint_batch(tmp_path: Path) -> None:
    """Also where processes have different numbers of clips, and the mean is far from zero."""
    parts = run_processes(of_process, len(SIZES), tmp_path, timeout=50)
    for name in LAYERS:
        want = two_steps(*make(name))
        for key, value in want.items():
            of_ranks = [part[name][key] for part in parts]
            if key.startswith(("dx", "y")):
                got = torch.cat(of_ranks)
            elif key in ("weight", "bias"):  # summed over the own samples only, as for DDP
                got = sum(of_ranks)
            else:
                got = of_ranks[0]
                assert all(torch.equal(got, other) for other in of_ranks), (name, key)
            torch.testing.assert_close(got, value, msg=lambda m, n=name, k=key: f"{n} {k}: {m}")


def in_half(rank: int) -> tuple[Tensor, ...]:
    layer = synchronize_batch_norm(OctBatchNorm3d((HIGH, LOW)))
    x = tuple(
        part[2 * rank : 2 * rank + 2]
        .bfloat16()
        .contiguous(memory_format=torch.channels_last_3d)
        .requires_grad_()
        for part in octave_input()
    )
    y = layer(x)
    assert all(part.dtype == torch.bfloat16 for part in y)
    assert all(part.is_contiguous(memory_format=torch.channels_last_3d) for part in y)
    sum(part.float().pow(3).sum() for part in y).backward()
    for part in x:
        assert part.grad.dtype == torch.bfloat16
        assert part.grad.is_contiguous(memory_format=torch.channels_last_3d)
    return (*(part.detach().float() for part in y), layer.running_var)


@pytest.mark.timeout(60)
def test_bf16_values_have_float32_statistics(tmp_path: Path) -> None:
    parts = run_processes(in_half, 3, tmp_path, timeout=50)
    layer = OctBatchNorm3d((HIGH, LOW))
    y = layer(tuple(part.bfloat16().float() for part in octave_input()))
    for got, want in zip(zip(*parts, strict=True), y, strict=False):
        torch.testing.assert_close(torch.cat(got), want, rtol=1e-2, atol=1e-2)
    torch.testing.assert_close(parts[0][-1], layer.running_var, rtol=1e-4, atol=1e-4)


def compiled(rank: int) -> None:
    layer, x = make("octave 3D")
    x = per_frequency(lambda x: x[rank : rank + 2], x)
    want = two_steps(synchronize_batch_norm(copy.deepcopy(layer)), x)
    synchronize_batch_norm(layer).compile(backend="aot_eager", fullgraph=True, dynamic=False)
    for key, value in two_steps(layer, x).items():
        torch.testing.assert_close(value, want[key])


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_torch_compile_takes_it_whole(tmp_path: Path) -> None:
    run_processes(compiled, 2, tmp_path, timeout=150)


def test_one_process_runs_the_usual_layer() -> None:
    layer, x = make("octave 3D")
    synced = synchronize_batch_norm(copy.deepcopy(layer))
    for mode in (True, False):
        got, want = synced.train(mode)(x), layer.train(mode)(x)
        assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))


def test_a_whole_model_keeps_its_state_and_its_parameters() -> None:
    model = create_model("slowfast_r50", octave_alpha=0.25, width_per_group=8)
    names, own = list(model.state_dict()), {id(p) for p in model.parameters()}
    was = {key: value.clone() for key, value in model.state_dict().items()}
    synchronize_batch_norm(model)
    assert list(model.state_dict()) == names
    assert {id(p) for p in model.parameters()} == own
    assert all(torch.equal(value, was[key]) for key, value in model.state_dict().items())
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    assert norms
    assert all(isinstance(m, BatchNorm3d) and m.synchronized for m in norms)
    assert "synchronized" in repr(norms[0])


def test_what_can_not_be_synchronised_is_refused() -> None:
    with pytest.raises(TypeError, match="BatchNorm1d cannot be synchronised"):
        synchronize_batch_norm(nn.Sequential(nn.BatchNorm1d(3)))


def test_torchs_own_conversion_of_an_octave_layer_is_loud() -> None:
    """It knows no pairs; that it fails at once is better than another result."""
    layer = nn.SyncBatchNorm.convert_sync_batchnorm(OctBatchNorm3d((HIGH, LOW)))
    with pytest.raises((AttributeError, ValueError)):
        layer(octave_input())

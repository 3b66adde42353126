"""Activation checkpointing: less is kept, and nothing else changes."""

import copy

import pytest
import torch

from octvideo import create_model
from octvideo.config import load_cfg
from octvideo.models import build_model
from support import narrowed

SMALL = {"crop_size": 32, "num_classes": 5}
NARROW = {"width_per_group": 8, "depth": 14}
NETWORKS = [
    ("i3d_r50", {**NARROW, "num_frames": 8}),
    ("slowfast_r50", {**NARROW, "num_frames": 16}),
    ("csn_r101", {**NARROW, "num_frames": 8}),
    ("x3d_m", {**narrowed("x3d_m"), "num_frames": 4}),
]


def pair(name: str, **options) -> tuple[torch.nn.Module, torch.nn.Module]:
    """The same network without and with checkpointing, in training."""
    options = {**SMALL, "octave_alpha": 0.25, **options}
    plain = create_model(name, **options)
    saving = create_model(name, **options, act_checkpoint=True)
    saving.load_state_dict(plain.state_dict())
    return plain.train(), saving.train()


def step(model: torch.nn.Module, clip: torch.Tensor, dtype=None) -> int:
    """One backward pass; returns the bytes of what was kept for it, parameters left out."""
    kept: dict[int, int] = {}
    own = {p.data_ptr() for p in (*model.parameters(), *model.buffers())}

    def keep(x: torch.Tensor) -> torch.Tensor:
        if x.untyped_storage().data_ptr() not in own:
            kept[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    torch.manual_seed(3)  # dropout
    with (
        torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x),
        torch.autocast("cpu", dtype or torch.bfloat16, enabled=dtype is not None),
    ):
        loss = model(clip).float().square().sum()
    size = sum(kept.values())
    loss.backward()
    return size


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
@pytest.mark.parametrize(("name", "options"), NETWORKS)
def test_gradients_and_statistics_are_equal(name, options, dtype):
    plain, saving = pair(name, **options)
    clip = torch.rand(2, 3, options["num_frames"], 32, 32)
    for _ in range(2):
        step(plain, clip, dtype)
        step(saving, clip, dtype)
    for a, b in zip(plain.parameters(), saving.parameters(), strict=True):
        assert torch.equal(a.grad, b.grad)
    for (key, a), b in zip(plain.state_dict().items(), saving.state_dict().values(), strict=True):
        assert torch.equal(a, b), key
        assert not key.endswith("num_batches_tracked") or a == 2


def test_less_is_kept():
    plain, saving = pair("i3d_r50", **NARROW, num_frames=4)
    clip = torch.rand(2, 3, 4, 32, 32)
    assert step(saving, clip) < 0.5 * step(plain, clip)


@pytest.mark.slow
def test_compiled_it_is_the_same_step():
    plain, saving = pair("i3d_r18", **{**NARROW, "depth": 10}, num_frames=4)
    torch._dynamo.reset()
    saving.compile(backend="aot_eager", fullgraph=True, dynamic=False)
    clip = torch.rand(2, 3, 4, 32, 32)
    step(plain, clip)
    step(saving, clip)
    for a, b in zip(plain.parameters(), saving.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-5, atol=1e-5)
    for a, b in zip(plain.buffers(), saving.buffers(), strict=True):
        torch.testing.assert_close(a, b)


def test_the_key_of_the_configuration():
    model = build_model(
        load_cfg(opts=["MODEL.ARCH", "i3d", "MODEL.ACT_CHECKPOINT", True, "RESNET.DEPTH", 14])
    )
    assert model.s1.recompute
    assert model.s5.recompute
    assert copy.deepcopy(model).s3.recompute

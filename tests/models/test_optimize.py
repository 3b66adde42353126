"""Models made for inference give what the models give that they are made from."""

import copy
import platform
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

import octvideo
from octvideo import create_model, optimize_for_inference
from octvideo.layers import NonLocal3d, conv3d_as_2d
from octvideo.models import ResNetSpec, build
from octvideo.models.spec import NL5, NonLocalPlacement, OctavePlacement
from support import every_model, narrowed

FORMS = [
    *((0.0, (2, 3, 4, 5)), (0.25, (2, 3, 4, 5))),
    pytest.param(0.5, (2, 3, 4), marks=pytest.mark.slow),
    pytest.param(0.1, (3, 5), marks=pytest.mark.slow),
]


def trained(model: nn.Module) -> nn.Module:
    """Statistics and weights of batch norm as training might leave them."""
    generator = torch.Generator().manual_seed(0)
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            for tensor, low, high in (
                (module.weight.data, 0.5, 1.5),
                (module.bias.data, -0.2, 0.2),
                (module.running_mean, -0.2, 0.2),
                (module.running_var, 0.5, 1.5),
            ):
                tensor.uniform_(low, high, generator=generator)
    blocks = [module for module in model.modules() if isinstance(module, NonLocal3d)]
    if blocks:
        # They multiply three values: without statistics of their own they leave float32.
        model.eval()
        for block in blocks:
            block.bn.train().momentum = 1.0
        with torch.no_grad():
            model(clip_of(model, (model.spec.crop_size,) * 2))
    return model.eval()


def small(name: str, alpha: float, stages: tuple[int, ...]) -> nn.Module:
    torch.manual_seed(0)
    frames = 8 if name.startswith("slowfast") else 4
    options = {"num_classes": 7, **narrowed(name), "crop_size": 64, "num_frames": frames}
    return trained(create_model(name, octave_alpha=alpha, octave_stages=stages, **options))


def clip_of(model: nn.Module, size: tuple[int, int], n: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(n, 3, model.spec.num_frames, *size, generator=generator)


def logits(model: nn.Module, x: Tensor) -> Tensor:
    """What goes into the softmax, which would hide differences."""
    seen: list[Tensor] = []
    hook = model.head.projection.register_forward_hook(lambda _m, _x, y: seen.append(y))
    with hook, torch.no_grad():
        model(x)
    return seen[0]


@every_model
@pytest.mark.parametrize(("alpha", "stages"), FORMS, ids=str)
def test_same_outputs(name: str, alpha: float, stages: tuple[int, ...]) -> None:
    model = small(name, alpha, stages)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    optimized = optimize_for_inference(model)
    for size, n in (((64, 64), 2), ((70, 90), 1), ((64, 64), 2)):
        x = clip_of(model, size, n)
        kept = x.clone()
        want, got = logits(model, x), logits(optimized, x)
        assert torch.isfinite(want).all()
        assert (got - want).abs().max() <= 1e-4 * want.abs().max()
        assert torch.equal(x, kept), "the input was changed"
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert not any(isinstance(m, _BatchNorm) for m in optimized.modules())
    assert not any(p.requires_grad for p in optimized.parameters())


@pytest.mark.parametrize("alpha", [0.0, 0.25])
def test_groups(alpha: float) -> None:
    model = trained(build(ResNetSpec(
        num_classes=5, width_per_group=8, num_groups=4, crop_size=64, num_frames=4,
        octave=OctavePlacement(alpha, channel_divisor=8),
        non_local=NonLocalPlacement(NL5, groups=(1, 2, 2, 1)),
    )))  # fmt: skip
    x = clip_of(model, (64, 64))
    want, got = logits(model, x), logits(optimize_for_inference(model), x)
    assert (got - want).abs().max() <= 1e-4 * want.abs().max()


def test_depthwise_octave_blocks() -> None:
    placement = OctavePlacement(0.25, stages=(2,))
    model = trained(build(ResNetSpec(
        num_classes=5, width_per_group=1, num_groups=8, crop_size=64, num_frames=4, depth=14,
        octave=placement,
    )))  # fmt: skip
    assert any(m.is_depthwise and not m.is_plain for m in model.modules() if hasattr(m, "is_plain"))
    x = clip_of(model, (64, 64))
    want, got = logits(model, x), logits(optimize_for_inference(model), x)
    assert (got - want).abs().max() <= 1e-4 * want.abs().max()


@pytest.mark.parametrize("name", ["i3d_nln_r50", "slowfast_r50"])
@pytest.mark.parametrize("alpha", [0.0, 0.25])
def test_bfloat16(name: str, alpha: float) -> None:
    model = small(name, alpha, (2, 3, 4))
    optimized = optimize_for_inference(model, torch.bfloat16)
    assert {p.dtype for p in optimized.state_dict().values()} == {torch.bfloat16}
    x = clip_of(model, (64, 64))
    with torch.no_grad():
        want, got = model(x), optimized(x.bfloat16())
    assert got.dtype == torch.float32
    assert torch.isfinite(got).all()
    want, got = logits(model, x), logits(optimized, x.bfloat16())
    assert torch.cosine_similarity(got.flatten(), want.flatten(), dim=0) > 0.995


def test_without_onednn(monkeypatch: pytest.MonkeyPatch) -> None:
    """The way of devices that have none of its operations."""
    model = small("i3d_r50", 0.25, (2, 3, 4))
    x = clip_of(model, (64, 64))
    monkeypatch.setattr("octvideo.layers.fused._has_onednn", lambda _x: False)
    want, got = logits(model, x), logits(optimize_for_inference(model), x)
    assert (got - want).abs().max() <= 1e-4 * want.abs().max()


def test_folding_changes_a_network_by_rounding_alone() -> None:
    for name, alpha in (("i3d_nln_r50", 0.0), ("slowfast_r50", 0.25), ("i3d_r18", 0.25)):
        model = small(name, alpha, (2, 3, 4))
        x = clip_of(model, (64, 64))
        want = logits(model, x)
        with conv3d_as_2d.disabled():
            got = logits(model, x)
        assert (got - want).abs().max() <= 1e-5 * want.abs().max()


def test_octave_in_the_fast_pathway() -> None:
    """Its lateral convolution has a stride in time and two frequencies."""
    for pathways in ((0, 1), (1,)):
        options = {"num_classes": 7, "width_per_group": 32, "crop_size": 64, "num_frames": 8}
        model = trained(
            create_model("slowfast_r50", octave_alpha=0.25, octave_pathways=pathways, **options)
        )
        x = clip_of(model, (64, 64))
        want, got = logits(model, x), logits(optimize_for_inference(model), x)
        assert (got - want).abs().max() <= 1e-4 * want.abs().max()


def test_after_use_it_can_be_copied_saved_loaded_and_optimised(tmp_path: Path) -> None:
    model, other = (small("i3d_nln_r50", 0.25, (2, 3, 4)) for _ in range(2))
    for parameter in other.parameters():
        parameter.data.mul_(1.1)
    x = clip_of(model, (64, 64))
    optimized, of_other = map(optimize_for_inference, (model, other))
    want, want_other = logits(optimized, x), logits(of_other, x)
    assert not torch.allclose(want, want_other)
    assert torch.equal(logits(copy.deepcopy(optimized), x), want)
    assert torch.equal(logits(optimize_for_inference(optimized), x), want)
    torch.save(optimized, tmp_path / "model.pt")
    assert torch.equal(logits(torch.load(tmp_path / "model.pt", weights_only=False), x), want)
    optimized.load_state_dict(of_other.state_dict())
    assert torch.equal(logits(optimized, x), want_other)


def test_under_autocast() -> None:
    for name in ("i3d_nln_r50", "slowfast_r50"):
        model = small(name, 0.25, (2, 3, 4))
        x = clip_of(model, (64, 64))
        optimized = optimize_for_inference(model)
        with torch.autocast("cpu", torch.bfloat16):
            got = logits(optimized, x)
        want = logits(model, x)
        assert torch.cosine_similarity(got.flatten(), want.flatten(), dim=0) > 0.99


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="not on this processor")
def test_onednn_is_used_where_it_is_on() -> None:
    optimized = optimize_for_inference(small("c2d_r50", 0.25, (2, 3, 4)))
    x = clip_of(optimized, (64, 64))
    with torch.backends.mkldnn.flags(enabled=False):
        want = logits(optimized, x)
        assert not any(s._packed[1] is not None for s in steps(optimized))
    got = logits(optimized, x)
    assert sum(s._packed[1] is not None for s in steps(optimized)) > 50
    assert (got - want).abs().max() <= 1e-4 * want.abs().max()


def steps(model: nn.Module) -> list[Any]:
    return [m for m in model.modules() if hasattr(m, "_packed")]


def test_export_with_any_batch_size() -> None:
    model = small("i3d_r18", 0.25, (2, 3, 4))
    x = clip_of(model, (64, 64))
    batch = torch.export.Dim("batch", min=2, max=8)
    exported = torch.export.export(model, (x,), dynamic_shapes={"x": {0: batch}}).module()
    five = torch.cat([x, x, x[:1]])
    with torch.no_grad():
        torch.testing.assert_close(exported(five), model(five))


def test_an_optimized_model_is_exported() -> None:
    """Of one clip, whose memory is in channels-last and in plain order at once."""
    model = optimize_for_inference(small("i3d_r18", 0.25, (2, 3, 4)))
    x = clip_of(model, (64, 64))[:1]
    with torch.no_grad():
        exported = torch.export.export(model, (x,)).module()
        torch.testing.assert_close(exported(x), model(x))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore::DeprecationWarning")
def test_an_optimized_model_is_traced() -> None:
    model = optimize_for_inference(small("i3d_r18", 0.25, (2, 3, 4)))
    x = clip_of(model, (64, 64))
    with torch.no_grad():
        traced = torch.jit.trace(model, x)
        torch.testing.assert_close(traced(x), model(x))


def test_is_public() -> None:
    assert octvideo.optimize_for_inference is optimize_for_inference

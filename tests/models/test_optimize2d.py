"""Image networks made for inference give what the networks give that they are made from."""

from typing import Any

import pytest
import torch
from test_optimize import logits
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from octvideo import optimize_for_inference
from octvideo.layers import OctBatchNorm2d
from octvideo.models.densenet import DenseNet, DenseNetSpec
from octvideo.models.mobilenet import MobileNet, MobileNetSpec
from octvideo.models.resnet2d import ResNet2d, ResNet2dSpec
from octvideo.models.spec import OctavePlacement

V2: dict[str, Any] = {"pre_activation": True, "bn_eps": 1e-4}
NETWORKS: dict[str, tuple[type[nn.Module], type, dict[str, Any]]] = {
    "v1b": (ResNet2d, ResNet2dSpec, {}),
    "v2": (ResNet2d, ResNet2dSpec, V2),
    "v1f": (ResNet2d, ResNet2dSpec, {"stem": "light", "stride_on": "c"}),
    "se v1e": (
        ResNet2d,
        ResNet2dSpec,
        {"stem": "3x3", "stride_on": "c", "squeeze": True, "input_bn": True},
    ),
    "resnext": (ResNet2d, ResNet2dSpec, {"inner_ratio": 2, "groups": 4, **V2}),
    "se v2": (ResNet2d, ResNet2dSpec, {"squeeze": True, **V2}),
    "glore": (ResNet2d, ResNet2dSpec, {"glore_blocks": (1,), **V2}),
    "densenet": (DenseNet, DenseNetSpec, {"width": 16, "growth": 8}),
    "mobilenet v1": (MobileNet, MobileNetSpec, {"multiplier": 0.25}),
    "mobilenet v2": (MobileNet, MobileNetSpec, {"multiplier": 0.25, "version": 2}),
}
WITH_NORMS = {"v2", "resnext", "se v2", "glore", "densenet", "se v1e"}  # before a convolution


def build(name: str, alpha: float, stages: tuple[int, ...] = (2, 3, 4)) -> nn.Module:
    network, spec, options = NETWORKS[name]
    if spec is ResNet2dSpec:
        options = {"depth": 26, "width": 16, **options}
    divisor = 4 if name == "resnext" else 1
    torch.manual_seed(0)
    octave = OctavePlacement(alpha, stages, divisor)
    model = network(spec(num_classes=7, crop_size=64, octave=octave, **options)).eval()
    generator = torch.Generator().manual_seed(0)
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            module.running_mean.uniform_(-0.2, 0.2, generator=generator)
            module.running_var.uniform_(0.5, 1.5, generator=generator)
            if module.affine:
                module.weight.data.uniform_(0.5, 1.5, generator=generator)
                module.bias.data.uniform_(-0.2, 0.2, generator=generator)
    return model


def images(height: int = 64, width: int = 70, n: int = 2) -> Tensor:
    return torch.randn(n, 3, height, width, generator=torch.Generator().manual_seed(1))


@pytest.mark.timeout(60)
@pytest.mark.parametrize("alpha", [0.0, 0.25, 0.5])
@pytest.mark.parametrize("name", NETWORKS)
def test_same_outputs(name: str, alpha: float) -> None:
    """In double precision, where nothing but the arithmetic itself can differ."""
    model = build(name, alpha).double()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    optimized = optimize_for_inference(model)
    for size in ((64, 70), (97, 65), (64, 70)):
        x = images(*size).double()
        kept, want = x.clone(), logits(model, x)
        assert (logits(optimized, x) - want).abs().max() <= 1e-9 * want.abs().max()
        assert torch.equal(x, kept), "the input was changed"
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert not any(p.requires_grad for p in optimized.parameters())
    twice = optimize_for_inference(optimized)
    assert torch.equal(logits(twice, x), logits(optimized, x))


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", ["v1b", "v2", "densenet", "mobilenet v2"])
def test_same_outputs_by_the_library_for_float32(name: str) -> None:
    for alpha, stages in ((0.0, (2, 3, 4)), (0.25, (2, 3, 4)), (0.5, (2, 3, 4, 5))):
        if name == "densenet" and 5 in stages:
            stages = (2, 3, 4)  # its last stage is plain
        model = build(name, alpha, stages)
        want, got = logits(model, images()), logits(optimize_for_inference(model), images())
        assert (got - want).abs().max() <= 1e-4 * want.abs().max()


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", NETWORKS)
def test_batch_norm_is_folded_where_it_can_be(name: str) -> None:
    model = build(name, 0.25)
    optimized = optimize_for_inference(model)
    norms = [m for m in optimized.modules() if isinstance(m, _BatchNorm)]
    assert len(norms) < sum(isinstance(m, _BatchNorm) for m in model.modules()) * 0.6
    assert bool(norms) == (name in WITH_NORMS)
    assert name != "se v1e" or not any(m.affine for m in norms if isinstance(m, OctBatchNorm2d))


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", ["v1b", "v2", "mobilenet v1"])
def test_bfloat16(name: str) -> None:
    model = build(name, 0.25)
    optimized = optimize_for_inference(model, torch.bfloat16)
    want, got = logits(model, images()), logits(optimized, images().bfloat16())
    assert torch.cosine_similarity(got.float().flatten(), want.flatten(), dim=0) > 0.99

"""Where torch has lost a private name, the same is computed without it."""

from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from octvideo.layers import OctConv2d
from octvideo.layers.eager import is_recorded
from octvideo.layers.fused import FusedConv
from octvideo.layers.torch_private import call_as_written, has_onednn, lerp_, norms

without_a_list = pytest.mark.parametrize("name", [None, "_foreach_norm", "_foreach_lerp_"])


@without_a_list
def test_lists_of_tensors(monkeypatch: pytest.MonkeyPatch, name: str | None) -> None:
    if name is not None:
        monkeypatch.delattr(torch, name)
    tensors = [torch.randn(3, 4), torch.randn(5)]
    torch.testing.assert_close(norms(tensors), [t.norm() for t in tensors])
    ends = [torch.randn(3, 4), torch.randn(5)]
    wanted = [t * 0.75 + end * 0.25 for t, end in zip(tensors, ends, strict=True)]
    lerp_(tensors, ends, 0.25)
    torch.testing.assert_close(tensors, wanted)


def test_transforms_of_functions(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[bool] = []

    def function(x: torch.Tensor) -> torch.Tensor:
        seen.append(is_recorded())
        return x * 2

    torch.func.vmap(function)(torch.ones(2))
    function(torch.ones(2))
    assert seen == [True, False]
    monkeypatch.delattr(torch._C._functorch, "peek_interpreter_stack")
    assert not is_recorded()
    conv = OctConv2d(8, 8, 3, padding=1, alpha_out=0.5)
    conv(torch.randn(1, 8, 6, 6))[0].sum().backward()
    assert conv.weight.grad is not None


def test_a_compiled_module_is_called_as_written() -> None:
    module, seen = nn.Linear(3, 2), []
    module.compile(backend=lambda graph, inputs: pytest.fail("compiled"))
    module.register_forward_hook(lambda *_: seen.append(True))
    x = torch.randn(4, 3)
    torch.testing.assert_close(call_as_written(module, x), module.forward(x))
    assert seen == [True]
    torch.testing.assert_close(call_as_written(torch.neg, x), -x)  # without the private name


def fused(call: Callable[[FusedConv, torch.Tensor], torch.Tensor]) -> torch.Tensor:
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(16).eval()
    step = FusedConv(nn.Conv2d(8, 16, 3, padding=1), norm, relu=True).eval()
    x = torch.randn(2, 8, 9, 7).to(memory_format=torch.channels_last)
    with torch.inference_mode():
        return call(step, x)


@pytest.mark.parametrize("add", [False, True])
def test_operations_of_onednn(monkeypatch: pytest.MonkeyPatch, add: bool) -> None:
    def call(step: FusedConv, x: torch.Tensor) -> torch.Tensor:
        y = torch.ones(2, 16, 9, 7).to(memory_format=torch.channels_last)
        return step(x, shortcut=y) if add else step(x)

    wanted = fused(call)
    monkeypatch.setattr(torch.ops, "mkldnn", SimpleNamespace())
    assert not has_onednn(torch.ones(1))
    torch.testing.assert_close(fused(call), wanted)

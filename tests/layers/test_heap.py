"""Gradients write into their own memory alone, by the checks of glibc in a second process."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

CHECKS = "libc_malloc_debug.so.0"
# The heap is checked wherever memory is freed; what is kept lies behind the gradients.
CODE = """
import sys, torch
from octvideo.layers import OctConv2d, OctConv3d
for ndim, channels, size in ((2, 2, 8), (2, 4, 8), (2, 6, 56), (3, 2, 8), (3, 4, 8), (3, 6, 56)):
    print(ndim, channels, size, file=sys.stderr, flush=True)  # the last line says which one failed
    layer, shape = (OctConv2d, (48,)) if ndim == 2 else (OctConv3d, (4,))
    conv = layer(channels, 8, 1, stride=(1, 2, 2)[-ndim:], bias=False).to(
        memory_format=(torch.channels_last, torch.channels_last_3d)[ndim - 2]
    )
    kept = []
    for step in range(30):
        x = torch.randn(*shape, channels, *(12,) * (ndim - 2), size, size)
        x = x.contiguous(memory_format=(torch.channels_last, torch.channels_last_3d)[ndim - 2])
        conv(x).sum().backward()
        wanted = x[..., ::2, ::2].transpose(0, 1).flatten(1).sum(1)
        torch.testing.assert_close(conv.weight.grad[0].flatten(), wanted, rtol=1e-3, atol=1e-2)
        conv.weight.grad = None
        kept = [*kept[-12:], *(torch.empty(n) for n in (1, 3, 7, 15, 31, 63))]
"""


@pytest.mark.slow
def test_strided_pointwise_convolutions_of_few_channels() -> None:
    env = {**os.environ, "LD_PRELOAD": CHECKS, "MALLOC_CHECK_": "3"}
    probe = subprocess.run(["true"], env=env, capture_output=True, text=True, check=False)
    if probe.stderr or not sys.platform.startswith("linux"):
        pytest.skip(f"needs {CHECKS} of glibc")
    env["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parents[2]), env.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", CODE], env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr

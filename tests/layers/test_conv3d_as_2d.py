"""Video operations as 2D operations on views, against torch's own 3D operations."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from octvideo.layers import conv3d_as_2d

# kernel, stride, padding, dilation, groups
CONVS = {
    "1x1x1": ((1, 1, 1), (1, 1, 1), (0, 0, 0), (1, 1, 1), 1),
    "1x1x1 strided": ((1, 1, 1), (2, 2, 2), (0, 0, 0), (1, 1, 1), 1),
    "1x1x1 groups": ((1, 1, 1), (1, 2, 2), (0, 0, 0), (1, 1, 1), 2),
    "1x3x3": ((1, 3, 3), (1, 1, 1), (0, 1, 1), (1, 1, 1), 1),
    "1x3x3 strided": ((1, 3, 3), (2, 2, 2), (0, 1, 1), (1, 1, 1), 1),
    "1x3x3 dilated, groups": ((1, 3, 3), (1, 1, 1), (0, 2, 2), (1, 2, 2), 2),
    "3x1x1": ((3, 1, 1), (1, 1, 1), (1, 0, 0), (1, 1, 1), 1),
    "5x1x1 strided": ((5, 1, 1), (4, 1, 1), (2, 0, 0), (1, 1, 1), 1),
    "3x1x1 strided in space": ((3, 1, 1), (1, 2, 2), (1, 0, 0), (1, 1, 1), 4),
    "3x1x1 dilated": ((3, 1, 1), (1, 1, 1), (2, 0, 0), (2, 1, 1), 1),
    "3x3x3": ((3, 3, 3), (1, 2, 2), (1, 1, 1), (1, 1, 1), 1),
    "1x1x1 padded": ((1, 1, 1), (1, 1, 1), (1, 1, 1), (1, 1, 1), 1),
}
LAYOUTS = (torch.contiguous_format, torch.channels_last_3d)


def clip(channels: int = 4, frames: int = 5, size: tuple[int, int] = (6, 7)) -> Tensor:
    return torch.randn(2, channels, frames, *size, dtype=torch.double)


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@pytest.mark.parametrize("conv", CONVS.values(), ids=CONVS)
def test_conv3d(conv: tuple, layout: torch.memory_format) -> None:
    kernel, stride, padding, dilation, groups = conv
    x = clip().contiguous(memory_format=layout)
    weight = torch.randn(8, 4 // groups, *kernel, dtype=torch.double)
    bias = torch.randn(8, dtype=torch.double)
    results = []
    for fn in (F.conv3d, conv3d_as_2d.conv3d):
        inputs = [t.clone().requires_grad_() for t in (x, weight, bias)]
        y = fn(*inputs, stride, padding, dilation, groups)
        y.square().sum().backward()
        results.append([y, *(t.grad for t in inputs)])
    for want, got in zip(*results, strict=True):
        assert got.shape == want.shape
        torch.testing.assert_close(got, want)


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@pytest.mark.parametrize(
    ("kernel", "stride", "padding"),
    [
        ((1, 3, 3), (1, 2, 2), (0, 1, 1)),
        ((1, 2, 2), None, (0, 0, 0)),
        ((2, 1, 1), None, (0, 0, 0)),
        ((3, 1, 1), (2, 1, 1), (1, 0, 0)),
        ((2, 2, 2), None, (0, 0, 0)),
        ((1, 3, 3), (2, 2, 2), (0, 1, 1)),
    ],
)
def test_max_pool3d(kernel: tuple, stride: tuple | None, padding: tuple, layout) -> None:
    x = clip().contiguous(memory_format=layout)
    want = F.max_pool3d(x, kernel, stride, padding)
    assert torch.equal(conv3d_as_2d.max_pool3d(x, kernel, stride, padding), want)


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@pytest.mark.parametrize("kernel", [(5, 6, 7), (2, 3, 4), (1, 6, 7), (5, 1, 1)])
def test_avg_pool3d(kernel: tuple[int, int, int], layout: torch.memory_format) -> None:
    results = []
    for fn in (lambda x: F.avg_pool3d(x, kernel, 1), lambda x: conv3d_as_2d.avg_pool3d(x, kernel)):
        torch.manual_seed(0)
        x = clip().contiguous(memory_format=layout).requires_grad_()
        y = fn(x)
        y.square().sum().backward()
        results.append((y, x.grad))
    for want, got in zip(*results, strict=True):
        torch.testing.assert_close(got, want)


def test_a_video_in_channels_last_memory_is_not_copied() -> None:
    x = clip().contiguous(memory_format=torch.channels_last_3d)
    frames = conv3d_as_2d.frames(x)
    assert frames.data_ptr() == x.data_ptr()
    assert frames.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(frames[7], x[1, :, 2])
    video = conv3d_as_2d.video(frames, batch=2)
    assert video.data_ptr() == x.data_ptr()
    assert torch.equal(video, x)


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("frames", [1, 4])
def test_axes_of_size_1_have_the_strides_of_channels_last_memory(batch: int, frames: int) -> None:
    """As torch decides by the strides which of its algorithms it takes."""
    x = torch.randn(batch, 6, frames, 4, 3).contiguous(memory_format=torch.channels_last_3d)
    for view in (conv3d_as_2d.frames(x), conv3d_as_2d.rows(x)):
        assert view.data_ptr() == x.data_ptr()
        want = torch.empty(view.shape).contiguous(memory_format=torch.channels_last)
        assert view.stride() == want.stride()
    assert conv3d_as_2d.video(conv3d_as_2d.frames(x), batch).stride() == x.stride()


@pytest.mark.parametrize("conv", list(CONVS)[:10])
def test_the_result_is_in_channels_last_memory(conv: str) -> None:
    kernel, *options, groups = CONVS[conv]
    y = conv3d_as_2d.conv3d(
        clip(), torch.randn(8, 4 // groups, *kernel).double(), None, *options, groups
    )
    assert y.is_contiguous(memory_format=torch.channels_last_3d)


def test_the_switch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Turned off, F.conv3d and F.max_pool3d are called with the video as it is."""
    seen = []
    for name in ("conv3d", "max_pool3d"):
        monkeypatch.setattr(F, name, lambda x, *_args, **_kwargs: seen.append(x))
    x, weight = clip(), torch.randn(8, 4, 1, 3, 3)
    with conv3d_as_2d.disabled():
        assert not conv3d_as_2d.enabled
        conv3d_as_2d.conv3d(x, weight)
        conv3d_as_2d.max_pool3d(x, (1, 2, 2))
    assert conv3d_as_2d.enabled
    assert [id(each) for each in seen] == [id(x)] * 2


def test_conv3d_module_has_the_parameters_of_torch() -> None:
    layer, plain = conv3d_as_2d.Conv3d(3, 8, (5, 7, 7), (1, 2, 2), (2, 3, 3)), torch.nn.Conv3d
    reference = plain(3, 8, (5, 7, 7), (1, 2, 2), (2, 3, 3))
    reference.load_state_dict(layer.state_dict(), strict=True)
    x = clip(3, 4, (20, 21)).float()
    torch.testing.assert_close(layer(x), reference(x))

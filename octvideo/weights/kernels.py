"""The kernels of 2D networks as those of video networks, and back.

A 2D kernel becomes a video kernel by W3d[:, :, t] = W2d / kt for each of its kt frames (Carreira
and Zisserman, "Quo Vadis, Action Recognition?"): on a video that stands still, the video network
then computes what the 2D network computes on a frame.
"""

from collections.abc import Mapping

from torch import Size, Tensor


def is_2d(state: Mapping[str, Tensor]) -> bool:
    """Returns whether a network (under our names) has 2D kernels."""
    stem = state.get("s1.pathway0_stem.conv.weight")
    return stem is not None and stem.ndim == 4


def has_one_frame(state: Mapping[str, Tensor]) -> bool:
    """Returns whether all kernels have three dimensions, with one frame in time.

    This holds for video networks without temporal convolution and for PySlowFast's image networks.
    """
    kernels = [value for value in state.values() if value.ndim == 5]
    return bool(kernels) and all(kernel.shape[2] == 1 for kernel in kernels)


def squeeze_kernels(state: Mapping[str, Tensor], shapes: Mapping[str, Size]) -> dict[str, Tensor]:
    """Turns kernels (out, in, 1, h, w) into (out, in, h, w) where the model has 2D kernels.

    ``shapes`` are the model's. Everything else is returned as it is.
    """
    return {
        key: value.squeeze(2)
        if value.ndim == 5 and value.shape[2] == 1 and len(shapes.get(key, ())) == 4
        else value
        for key, value in state.items()
    }


def inflate_kernels(state: Mapping[str, Tensor], shapes: Mapping[str, Size]) -> dict[str, Tensor]:
    """Turns kernels (out, in, h, w) or (out, in, 1, h, w) into the model's (out, in, kt, h, w).

    ``shapes`` are the model's. Everything else is returned as it is.
    """
    return {key: _inflated(value, shapes.get(key, Size())) for key, value in state.items()}


def _inflated(weight: Tensor, shape: Size) -> Tensor:
    if len(shape) != 5 or not (weight.ndim == 4 or (weight.ndim == 5 and weight.shape[2] == 1)):
        return weight
    frames = shape[2]
    kernel = weight if weight.ndim == 5 else weight.unsqueeze(2)
    return kernel.repeat(1, 1, frames, 1, 1) / frames

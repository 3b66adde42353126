"""Mean energy spectra of the high and the low group of a layer (Fig. 4 of "Drop an Octave")."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from octvideo.api.inference import twin
from octvideo.api.predict import load_views
from octvideo.api.protocols import protocol_of
from octvideo.data import VideoError
from octvideo.data.clips import collate_clips
from octvideo.data.read.image import ENDINGS
from octvideo.layers import OctTensor
from octvideo.models.image import ImageSpec
from octvideo.utils.errors import UserError
from octvideo.utils.files import whole_file

VIDEOS = (".mp4", ".mkv", ".webm", ".avi", ".mov")
GROUPS = ("high", "low")
_DECADES = 8  # that the colours span at most


def energy_spectrum(x: Tensor) -> np.ndarray:
    """Returns the mean over maps of |FFT|^2 / pixels: (..., H, W) -> float64 (H, W).

    Frequency 0 is in the middle.

    The sum of the result is the mean over maps of their sum of squares (Parseval).
    """
    spectrum = torch.fft.fft2(x.double(), norm="ortho").abs().square()
    return torch.fft.fftshift(spectrum.flatten(0, -3).mean(0)).cpu().numpy()


def radial_profile(spectrum: np.ndarray, pixel: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Returns the mean energy of a centred spectrum (H, W) by distance from frequency 0.

    pixel: size of the map's pixels, in pixels of the high map. The result is frequencies, in
    cycles per pixel of the high map, and energies, for min(H, W) // 2 + 1 rings.
    """
    height, width = spectrum.shape
    rings = min(height, width)
    y, x = (np.fft.fftshift(np.fft.fftfreq(n)) for n in (height, width))
    ring = np.rint(np.hypot(y[:, None], x[None]) * rings).astype(int)
    count = rings // 2 + 1
    inside = ring < count
    sums, sizes = (
        np.bincount(ring[inside], weights, minlength=count) for weights in (spectrum[inside], None)
    )
    return np.arange(count) / rings / pixel, sums / sizes


@torch.inference_mode()
def layer_spectra(model: nn.Module, layer: str, batches: Iterable[Tensor]) -> dict[str, np.ndarray]:
    """Returns the mean spectra of a layer's output for batches of inputs of one size.

    Returns:
        high and, if the layer gives an octave value, low: centred spectra (H, W);
        high_frequency, high_energy and so on: see ``radial_profile``; inputs: how many there were.

    Raises:
        UserError: the model has no such layer, it gives no maps, or there are no inputs.
    """
    model = twin(model)  # for the hook, and for evaluation mode
    try:
        module = model.get_submodule(layer)
    except AttributeError as error:
        names = [name for name, child in model.named_modules() if name and name.count(".") < 2]
        raise UserError(f"there is no layer {layer!r}; layers: {', '.join(names)}") from error
    sums: dict[str, np.ndarray] = {}
    seen = 0

    def add(_module: nn.Module, _inputs: Any, output: Any) -> None:
        while isinstance(output, list) and output:  # of the slow pathway, or the only one
            output = output[0]
        parts = (output,) if isinstance(output, Tensor) else output
        if isinstance(output, OctTensor):
            parts = (output.high,) if output.low is None else tuple(output)
        if not isinstance(parts, tuple) or any(part.ndim < 4 for part in parts):
            raise UserError(f"the layer {layer} gives no maps (N, C, [T,] H, W)")
        for name, part in zip(GROUPS, parts, strict=False):
            sums[name] = sums.get(name, 0.0) + energy_spectrum(part) * len(part)

    with module.register_forward_hook(add):
        for batch in batches:
            model(batch)
            seen += len(batch)
    if not seen or not sums:
        raise UserError(f"there was nothing to give to the layer {layer}")
    result: dict[str, np.ndarray] = {"inputs": np.array(seen)}
    for name, total in sums.items():
        result[name] = total / seen
        frequency, energy = radial_profile(result[name], 1 if name == "high" else 2)
        result |= {f"{name}_frequency": frequency, f"{name}_energy": energy}
    return result


def inputs_of(
    model: Any, folder: Path | None, limit: int, size: int | None = None
) -> Iterator[Tensor]:
    """Yields batches of one: the images, or the middle clips of the videos, of a folder, by name.

    Files that the network cannot take are skipped. Without a folder, ``limit`` inputs of random
    edges are made from a fixed seed. ``size``: side of the crop.

    Raises:
        UserError: the folder has no such files, or one of them cannot be read.
    """
    is_image = isinstance(model.spec, ImageSpec)
    settings = protocol_of(model)
    size = size or model.spec.crop_size
    device = next(model.parameters()).device
    if folder is None:
        yield from (x.to(device) for x in _edges(model.spec, is_image, limit, size))
        return
    endings = ENDINGS if is_image else VIDEOS
    files = sorted(f for f in folder.rglob("*") if f.suffix.lower() in endings)[:limit]
    if not files:
        raise UserError(f"{folder} has no files that end in {', '.join(endings)}")
    crop = settings.centre_crop and replace(settings.centre_crop, crop_size=size)
    settings = replace(settings, crop_size=size, short_side=None, centre_crop=crop)
    for file in files:
        try:
            batch = collate_clips([load_views(file, settings, fast=True)])
        except VideoError as error:
            raise UserError(str(error)) from error
        yield settings.normalized(batch["video"].to(device))


def _edges(spec: Any, is_image: bool, count: int, size: int) -> Iterator[Tensor]:
    """Yields half planes of random position and direction, the same in all frames."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:size, :size] / size - 0.5
    for _ in range(count):
        angle, place = rng.uniform(0, 2 * np.pi), rng.uniform(-0.3, 0.3)
        plane = (np.cos(angle) * x + np.sin(angle) * y > place).astype(np.float32) * 2 - 1
        shape = (1, spec.input_channels, *(() if is_image else (spec.num_frames,)), size, size)
        yield torch.from_numpy(plane).expand(shape)


def frequency_edges(count: int, pixel: int) -> tuple[float, float]:
    """Returns where the first bin of a centred spectrum starts and the last one ends.

    The unit is cycles per pixel of the high map; every bin has its frequency in its middle.
    """
    bins = np.fft.fftshift(np.fft.fftfreq(count, pixel))
    half = 0.5 / count / pixel
    return bins[0] - half, bins[-1] + half


def draw_spectra(figure: Any, spectra: dict[str, np.ndarray], layer: str) -> Any:
    """Draws the spectrum of each group, in one colour scale, and both over distance from 0."""
    names: Sequence[str] = [name for name in GROUPS if name in spectra]
    figure.set_size_inches(4 * len(names) + 5, 4)
    *maps, curve = figure.subplots(1, len(names) + 1)
    logs = [np.log10(spectra[name] + 1e-12) for name in names]
    top = max(log.max() for log in logs)
    bottom = max(min(log.min() for log in logs), top - _DECADES)
    for axes, name, log in zip(maps, names, logs, strict=True):
        pixel = 1 if name == "high" else 2
        (height, width), scale = log.shape, {"vmin": bottom, "vmax": top}
        extent = (*frequency_edges(width, pixel), *frequency_edges(height, pixel))
        image = axes.imshow(log, extent=extent, origin="lower", interpolation="nearest", **scale)
        axes.set(
            title=f"{layer}, {name}",
            xlabel="horizontal cycles per pixel",
            ylabel="vertical cycles per pixel",
            xlim=(-0.55, 0.55),
            ylim=(-0.55, 0.55),
        )
        curve.semilogy(spectra[f"{name}_frequency"], spectra[f"{name}_energy"], label=name)
    figure.colorbar(image, ax=maps, label="log10 of the mean energy")
    curve.set(
        title="by distance from 0", xlabel="cycles per pixel of the high map", ylabel="mean energy"
    )
    curve.legend()
    return figure


def write_spectra(spectra: dict[str, np.ndarray], layer: str, out: Path) -> list[Path]:
    """Writes out.npz and, if matplotlib is installed, out.png; returns what it wrote."""
    out.parent.mkdir(parents=True, exist_ok=True)
    paths = [out.with_name(f"{out.name}.npz")]
    with whole_file(paths[0]) as part, open(part, "wb") as file:
        np.savez(file, layer=layer, **spectra)
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return paths
    figure = Figure(layout="constrained")
    figure.get_layout_engine().set(w_pad=0.1, h_pad=0.1)  # inches
    draw_spectra(figure, spectra, layer)
    paths.append(out.with_name(f"{out.name}.png"))
    with whole_file(paths[1]) as part, open(part, "wb") as file:
        figure.savefig(file, format="png", dpi=120)
    return paths

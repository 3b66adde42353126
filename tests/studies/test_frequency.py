"""Spectra of maps whose frequencies are known."""

import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from octvideo.utils.errors import UserError
from studies.frequency import draw_spectra, energy_spectrum, layer_spectra, radial_profile
from support.commands import run_tool


def wave(size: int, cycles: tuple[int, int], frames: int | None = None) -> Tensor:
    """cos of so many cycles over the height and the width: (2, 3, [T,] size, size)."""
    y, x = torch.meshgrid(*[torch.arange(size) / size] * 2, indexing="ij")
    plane = torch.cos(2 * torch.pi * (cycles[0] * y + cycles[1] * x))
    return plane.expand(2, 3, *([] if frames is None else [frames]), size, size)


@pytest.mark.parametrize("frames", [None, 2])
@pytest.mark.parametrize(("size", "cycles"), [(16, (0, 5)), (16, (3, 0)), (15, (2, 4))])
def test_a_wave_is_two_peaks(size: int, cycles: tuple[int, int], frames: int | None) -> None:
    x = wave(size, cycles, frames)
    spectrum, middle = energy_spectrum(x), size // 2
    peaks = {(middle + s * cycles[0], middle + s * cycles[1]) for s in (1, -1)}
    assert set(zip(*np.nonzero(spectrum > 1e-6), strict=True)) == peaks
    assert spectrum.sum() == pytest.approx(size**2 / 2)  # Parseval: the mean of cos^2 is 1/2
    frequency, energy = radial_profile(spectrum)
    wanted = np.hypot(*cycles) / size
    assert abs(frequency[energy.argmax()] - wanted) <= 0.5 / size


def test_energy_of_noise_is_flat() -> None:
    noise = torch.randn(8, 64, 16, 16, generator=torch.Generator().manual_seed(0))
    _, energy = radial_profile(energy_spectrum(noise))
    np.testing.assert_allclose(energy, 1, atol=0.1)


class Waves(nn.Module):
    """A layer that gives 6 cycles in H and 3 in L, over 16 pixels of H."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        self.layer((wave(16, (0, 6)) * x.mean(), wave(8, (3, 0))))
        return x


def test_groups_of_a_layer_are_on_one_axis() -> None:
    spectra = layer_spectra(Waves(), "layer", [torch.ones(2, 3), 2 * torch.ones(2, 3)])
    assert spectra["inputs"] == 4
    assert spectra["high"].shape == (16, 16)
    assert spectra["low"].shape == (8, 8)
    for name, cycles in (("high", 6), ("low", 3)):
        peak = spectra[f"{name}_energy"].argmax()
        assert spectra[f"{name}_frequency"][peak] == pytest.approx(cycles / 16)
    assert spectra["high"].sum() == pytest.approx((1 + 4) / 2 * 16**2 / 2)  # the mean of both


def test_the_figure_has_every_frequency_in_its_place() -> None:
    """Matplotlib itself is asked for the value at the frequencies of two oblique waves."""
    pytest.importorskip("matplotlib")
    from matplotlib.backend_bases import MouseEvent
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    spectra = {"high": energy_spectrum(wave(16, (5, 2))), "low": energy_spectrum(wave(9, (2, -3)))}
    for name, pixel in (("high", 1), ("low", 2)):
        frequency, energy = radial_profile(spectra[name], pixel)
        spectra |= {f"{name}_frequency": frequency, f"{name}_energy": energy}
    figure = Figure()
    canvas = FigureCanvasAgg(figure)
    draw_spectra(figure, spectra, "s3")
    canvas.draw()
    high, low, curve, *_ = figure.axes
    for axes, size, pixel, (y, x) in ((high, 16, 1, (5, 2)), (low, 9, 2, (2, -3))):
        [image] = axes.images
        step = 1 / size / pixel
        for u in np.arange(-4, 5):
            for v in np.arange(-4, 5) if size == 9 else np.arange(-7, 8):
                point = axes.transData.transform((u * step, v * step))
                value = image.get_cursor_data(MouseEvent("motion_notify_event", canvas, *point))
                assert (value > 0) == ((u, v) in ((x, y), (-x, -y))), (u, v)
        assert axes.get_xlabel()
        assert axes.get_ylabel()
        assert axes.get_ylim()[0] < axes.get_ylim()[1]
    assert high.images[0].get_clim() == low.images[0].get_clim()
    assert curve.get_xlabel()


def test_errors() -> None:
    with pytest.raises(UserError, match="no layer 'other'; layers: layer"):
        layer_spectra(Waves(), "other", [torch.ones(1, 3)])
    with pytest.raises(UserError, match="nothing to give"):
        layer_spectra(Waves(), "layer", [])
    with pytest.raises(UserError, match="gives no maps"):
        layer_spectra(nn.Sequential(nn.Linear(3, 3)), "0", [torch.ones(1, 3)])


def analyze(*options: object) -> subprocess.CompletedProcess[str]:
    return run_tool("analyze.py", "frequency", *options)


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_tool(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for i in range(3):
        Image.fromarray(rng.integers(0, 255, (80, 90, 3), np.uint8)).save(tmp_path / f"{i}.png")
    network = ("--network", "resnet26_v2", "--alpha", ".25", "--layer", "s3.pathway0_res0")
    done = analyze(
        *network, "--data", tmp_path, "--limit", 2, "--size", 64, "--out", tmp_path / "s"
    )
    assert done.returncode == 0, done.stderr
    with np.load(tmp_path / "s.npz") as saved:
        assert saved["inputs"] == 2
        assert saved["high"].shape == (8, 8)
        assert saved["low"].shape == (4, 4)
    if (tmp_path / "s.png").exists():  # with matplotlib
        assert Image.open(tmp_path / "s.png").size > (500, 300)
    else:
        assert "pip install" in done.stderr
    assert "no layer" in analyze(*network[:4], "--layer", "s9", "--out", tmp_path / "t").stderr

"""The pictures of the documents: files of the right kind, size and content."""

import re
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from octvideo.data.synthetic.scenes import ACTIONS
from studies.pictures import OF_A_RUN, PICTURES, draw_actions
from support import ROOT

IMAGES = ROOT / "docs" / "images"


def pictures() -> list[object]:
    slow = {"costs.svg"}  # it builds and counts 13 networks
    marks = {name: [pytest.mark.slow] if name in slow else [] for name in PICTURES}
    return [pytest.param(name, marks=marks[name]) for name in PICTURES]


@pytest.mark.parametrize("name", pictures())
def test_a_picture_is_the_one_in_the_documents(tmp_path: Path, name: str) -> None:
    draw: Callable[[Path], None] = PICTURES[name]
    draw(tmp_path / name)
    assert (tmp_path / name).stat().st_size < 150_000
    if name.endswith(".svg"):
        assert (tmp_path / name).read_text() == (IMAGES / name).read_text()
    else:
        with Image.open(tmp_path / name) as ours, Image.open(IMAGES / name) as theirs:
            assert ours.format == "PNG"
            assert ours.size == theirs.size
            pixels = [np.asarray(image.convert("RGB")).astype(int) for image in (ours, theirs)]
        # The palette may depend on the version of Pillow.
        assert np.abs(pixels[0] - pixels[1]).mean() < 2


def test_every_picture_is_drawn_by_the_command_and_shown_somewhere() -> None:
    pages = "\n".join(p.read_text() for p in [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
    shown = set(re.findall(r"images/([\w.]+)", pages))
    assert all(path.stat().st_size < 150_000 for path in IMAGES.iterdir())
    assert {path.name for path in IMAGES.iterdir()} == {*PICTURES, OF_A_RUN} == shown


def test_the_operator_has_its_four_paths_and_one_weight() -> None:
    text = " ".join(ElementTree.parse(IMAGES / "operator.svg").getroot().itertext())
    for path in ("HH", "HL", "LH", "LL"):
        assert text.count(path) == 2  # the path, and its block of the weight
    assert text.count("pool") == text.count("upsample") == 1


def test_an_action_and_its_twin_show_the_same_frames_in_opposite_order(tmp_path: Path) -> None:
    side, count = 32, 4
    draw_actions(tmp_path / "strip.png", side, count)
    with Image.open(tmp_path / "strip.png") as image:
        sheet = np.asarray(image.convert("RGB")).astype(int)
    for row in range(len(ACTIONS) // 2):
        line = sheet[8 + row * (side + 2) :][:side]
        middle = sheet.shape[1] // 2
        block = 124 + count * (side + 2)
        assert middle == block + 8
        first, second = (
            [line[:, 8 + block * twin + 124 + k * (side + 2) :][:, :side] for k in range(count)]
            for twin in (0, 1)
        )
        for one, other in zip(first, reversed(second), strict=True):
            assert np.array_equal(one, other)
        assert not np.array_equal(first[0], first[-1])

"""The configurations of SHREC'17: vanilla and octave twins, for clips of 32 frames."""

import pytest

from octvideo import summary
from octvideo.config import load_cfg
from octvideo.config.keys import leaf_values
from octvideo.models import build_model
from support import ROOT

FOLDER = ROOT / "configs" / "SHREC17"


@pytest.mark.parametrize("name", ["I3D_CPU", "I3D_R50"])
def test_an_octave_recipe_is_its_vanilla_twin(name: str) -> None:
    vanilla, octave = (
        dict(leaf_values(load_cfg(FOLDER / f"{prefix}{name}.yaml"))) for prefix in ("", "OCT_")
    )
    differ = {key for key in vanilla if vanilla[key] != octave[key]}
    assert differ == {"OCTAVE.ENABLE", "OCTAVE.ALPHA", "OUTPUT_DIR"}
    assert vanilla["DATA.NUM_FRAMES"] * vanilla["DATA.SAMPLING_RATE"] == 32
    assert not vanilla["DATA.RANDOM_FLIP"]


def test_the_network_for_a_cpu_is_small() -> None:
    networks = [build_model(load_cfg(FOLDER / f"{p}I3D_CPU.yaml")) for p in ("", "OCT_")]
    counts = {sum(p.numel() for p in network.parameters()) for network in networks}
    assert counts == {310_442}
    assert summary(networks[1]).ratio < 1

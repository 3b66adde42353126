"""The configurations of SHREC'17: vanilla and octave twins, for clips of 32 frames."""

import pytest
import torch

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


def test_the_head_sees_the_whole_map_at_the_crop_of_training() -> None:
    """Its strides make maps larger than a 32nd; softmax at each position cost 9 points here."""
    cfg = load_cfg(FOLDER / "I3D_CPU.yaml")
    network = build_model(cfg).eval()
    sizes: list[torch.Size] = []
    network.s5.register_forward_hook(lambda m, x, maps: sizes.append(maps[0].shape))
    with torch.no_grad():
        network(torch.zeros(1, 3, cfg.DATA.NUM_FRAMES, 48, 48))
    assert network.head.windows == [tuple(sizes[0][2:])]

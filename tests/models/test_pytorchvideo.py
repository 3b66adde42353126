"""PyTorchVideo's own networks, with the same weights, give the same probabilities."""

from pathlib import Path

import pytest
import torch

from octvideo import create_model
from octvideo.layers import Placement, octavize
from octvideo.models.placement import rules_of
from support.peer_networks import (
    CLASSES,
    DOUBLE,
    SINGLE,
    build_peer,
    clips_of,
    our_names,
    pathways,
    randomise,
    unsaturated,
)


def compare(name: str, width: int, side: int, size: tuple[int, int], shared: Path) -> None:
    torch.manual_seed(0)
    theirs = build_peer(name, width, side).eval()
    ours = create_model(name, CLASSES, width_per_group=width, crop_size=side)
    x = clips_of(ours, size)
    randomise(ours, x, unsaturated(ours))
    names = our_names(name, shared)
    state, own = theirs.state_dict(), ours.eval().state_dict()
    assert state.keys() == names.keys()
    theirs.load_state_dict({key: own[names[key]] for key in state}, strict=True)

    with torch.no_grad():
        got, want = ours(x), theirs(pathways(name, x))
    assert got.shape == want.shape == (2, CLASSES)
    assert (want[0] - want[1]).abs().max() > 1e-3, "scores that do not depend on the clip"
    torch.testing.assert_close(got, want, atol=1e-5, rtol=0)


@pytest.mark.parametrize("size", [(64, 64), (96, 113)], ids=str)
@pytest.mark.parametrize("name", [*SINGLE, *DOUBLE])
def test_narrow_networks(name: str, size: tuple[int, int], shared: Path) -> None:
    compare(name, 16, 64, size, shared)


@pytest.mark.slow
@pytest.mark.parametrize("size", [(224, 224), (256, 256)], ids=str)
@pytest.mark.parametrize("name", [*SINGLE, *DOUBLE])
def test_networks_at_full_size(name: str, size: tuple[int, int], shared: Path) -> None:
    compare(name, 64, 224, size, shared)


@pytest.mark.parametrize("alpha", [0.1, 0.5])
@pytest.mark.parametrize("name", ["i3d_r50", "slowfast_4x16_r50"])
def test_octavized_they_are_ours(name: str, alpha: float, shared: Path) -> None:
    """Their code, which has never heard of octaves, with the same weights and placement."""
    torch.manual_seed(0)
    theirs = build_peer(name, 16, 64)
    ours = create_model(name, CLASSES, alpha, width_per_group=16, crop_size=64)
    x = clips_of(ours, (64, 64))
    randomise(ours, x, unsaturated(ours))
    names = our_names(name, shared)
    own = ours.eval().state_dict()
    keys = list(theirs.state_dict())
    rules = rules_of(ours.spec)
    placement = Placement(
        lambda conv: rules.is_octave(names[f"{conv}.weight"].removesuffix(".weight")), alpha
    )
    octavize(theirs, placement, pathways(name, x))
    assert list(theirs.state_dict()) == keys
    theirs.load_state_dict({key: own[names[key]] for key in keys}, strict=True)
    with torch.no_grad():
        got, want = theirs.eval()(pathways(name, x)), ours(x)
    assert (want[0] - want[1]).abs().max() > 1e-3, "scores that do not depend on the clip"
    torch.testing.assert_close(got, want, atol=1e-5, rtol=0)

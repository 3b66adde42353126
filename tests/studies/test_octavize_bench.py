"""Everybody's networks become octave, and nothing breaks: where their libraries are installed."""

import logging
from functools import cache

import pytest
import torch

from octvideo import octavize
from octvideo.layers import OctConv2d, OctConv3d
from studies.octavize_bench import CHEAP, RECORDED, examine, is_good
from studies.octavize_networks import OWN, PYTORCHVIDEO, TIMM, TORCHVISION, Network, networks
from support.peer import import_pytorchvideo

LISTS = {
    "torchvision": TORCHVISION,
    "timm": TIMM,
    "pytorchvideo": PYTORCHVIDEO,
    "octvideo": OWN,
}
NAMES = [f"{library}/{name}" for library, names in LISTS.items() for name in names.split()]
COMPILED = [  # one of each kind that compiles in seconds
    "torchvision/squeezenet1_1",
    "torchvision/r3d_18",
    "timm/resnet10t",
    "timm/darknet17",
    "octvideo/resnet50_v1b",
    "pytorchvideo/c2d_r50",
]
WITHOUT_GAIN = ["torchvision/vit_b_16", "timm/vit_tiny_patch16_224", "timm/mixer_s32_224"]

pytestmark = pytest.mark.slow


@cache
def installed() -> dict[str, Network]:
    return {network.name: network for network in networks()}


def network(name: str) -> Network:
    library = name.partition("/")[0]
    if library == "pytorchvideo":
        import_pytorchvideo("models.hub")
    pytest.importorskip(library)
    return installed()[name]


@pytest.mark.parametrize("name", NAMES)
def test_network(name: str) -> None:
    line = examine(network(name), recorded=False)
    assert {check: line[check] for check in CHEAP if not is_good(line[check])} == {}


@pytest.mark.parametrize("name", COMPILED)
def test_compile_and_export(name: str) -> None:
    line = examine(network(name))
    assert {check: line[check] for check in RECORDED} == dict.fromkeys(RECORDED, "ok")


@pytest.mark.parametrize("name", WITHOUT_GAIN)
def test_without_convolutions_to_gain_from(name: str, caplog: pytest.LogCaptureFixture) -> None:
    found = network(name)
    vanilla = found.build(found.full)
    with caplog.at_level(logging.WARNING, "octvideo"):
        same = octavize(vanilla, 0.25, example=found.inputs(1, found.full))
    assert len(caplog.records) == 1
    assert type(vanilla).__name__ in caplog.text
    assert not any(isinstance(module, (OctConv2d, OctConv3d)) for module in same.modules())
    for key, value in vanilla.state_dict().items():
        assert torch.equal(same.state_dict()[key], value), key

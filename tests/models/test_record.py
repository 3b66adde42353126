"""The record of a network: saved, read, and compared with another's, whatever made the two."""

from dataclasses import fields, replace
from typing import Any

import pytest

from octvideo.config import load_cfg
from octvideo.models.build import (
    NetworkOptions,
    list_models,
    name_of,
    named_spec,
    spec_from_dict,
    with_options,
)
from octvideo.models.from_cfg import spec_of
from octvideo.models.record import OCTAVE_OPTIONS, in_keys, in_options
from support import ROOT

I3D, RESNET = "configs/Synthetic/OCT_I3D.yaml", "configs/Synthetic/OCT_RESNET26.yaml"
SLOWFAST = "configs/Kinetics/OCT_SLOWFAST_4x16.yaml"


def spec(config: str, **changes: Any) -> Any:
    opts = [word for key, value in changes.items() for word in (key.replace("__", "."), value)]
    return spec_of(load_cfg(ROOT / config, list(map(str, opts))))


ALL, FEW = {"OCTAVE__STAGES": [2, 3, 4, 5]}, {"OCTAVE__STAGES": [2, 3, 4]}
HALF, OFF = {"OCTAVE__ALPHA": 0.5}, {"OCTAVE__ENABLE": False}
POOLS = {"OCTAVE__POOL_STRIDE": True}


@pytest.mark.parametrize(
    ("config", "theirs", "ours", "told"),
    [
        # Of a run that is resumed, and of a test.
        (I3D, {}, {}, ""),
        (I3D, {}, HALF, "OCTAVE.ALPHA was 0.25, is 0.5"),
        (I3D, {}, OFF, "OCTAVE.ENABLE was True, is False"),
        (I3D, OFF, {}, "OCTAVE.ENABLE was False, is True"),
        (I3D, {**OFF, **HALF}, OFF, ""),  # what is off has no effect
        (I3D, {"OCTAVE__ALPHA": 0}, OFF, ""),
        (I3D, {}, {"MODEL__NUM_CLASSES": 9}, "MODEL.NUM_CLASSES was 8, is 9"),
        (I3D, {}, {"RESNET__DEPTH": 50}, "RESNET.DEPTH was 14, is 50"),
        (I3D, {}, {"MODEL__ARCH": "c2d"}, "MODEL.ARCH was i3d, is c2d"),
        (I3D, {}, {"BN__EPSILON": 0.001}, "BN.EPSILON was 1e-05, is 0.001"),
        (I3D, {}, {"RESNET__STRIDE_1X1": True}, "RESNET.STRIDE_1X1 was False, is True"),
        (
            *(I3D, {}, {"OCTAVE__CHANNEL_DIVISOR": 4}),
            "OCTAVE.CHANNEL_DIVISOR was 1, is 4",
        ),
        (SLOWFAST, {}, {"SLOWFAST__ALPHA": 4}, "SLOWFAST.ALPHA was 8, is 4"),
        (SLOWFAST, {}, {"OCTAVE__PATHWAYS": [0, 1]}, "OCTAVE.PATHWAYS was [0], is [0, 1]"),
        # Without effect where all stages are octave, and always on in 2D.
        (I3D, ALL, {**ALL, **POOLS}, ""),
        (I3D, FEW, {**FEW, **POOLS}, "OCTAVE.POOL_STRIDE was False, is True"),
        (RESNET, FEW, {**FEW, **POOLS}, ""),
        (I3D, FEW, ALL, "OCTAVE.STAGES was [2, 3, 4], is [2, 3, 4, 5]"),
        # How it is trained, for which clips, and what becomes of its logits.
        (I3D, {}, {"MODEL__DROPOUT_RATE": 0.1, "RESNET__ZERO_INIT_FINAL_BN": False}, ""),
        (I3D, {}, {"DATA__NUM_FRAMES": 4, "DATA__SAMPLING_RATE": 2, "BN__MOMENTUM": 0.2}, ""),
        (I3D, {}, {"MODEL__HEAD_ACT": "none", "MODEL__ACT_CHECKPOINT": True}, ""),
        (
            *(RESNET, {}, {"MODEL__MODEL_NAME": "resnet50_v1b"}),
            "MODEL.MODEL_NAME (depth) was 26, is 50",
        ),
    ],
)
def test_what_makes_another_network(config: str, theirs: Any, ours: Any, told: str) -> None:
    differences = spec(config, **theirs).differences(spec(config, **ours))
    assert in_keys(differences) == told
    back = spec(config, **ours).differences(spec(config, **theirs))
    assert [(d.option, d.other, d.mine) for d in back] == [
        (d.option, d.mine, d.other) for d in differences
    ]


INFLATED = {"network", "arch", "num_classes"}  # what inflation and fine-tuning change


@pytest.mark.parametrize(
    ("theirs", "ours", "told"),
    [
        (ALL, ALL, ""),
        ({**ALL, **POOLS}, ALL, ""),
        (FEW, {**FEW, **POOLS}, ""),  # our recipes
        (FEW, FEW, "pool_stride was True, is False"),
        ({**ALL, **HALF}, ALL, "octave_alpha was 0.5, is 0.25"),
        (FEW, ALL, "octave_stages was (2, 3, 4), is (2, 3, 4, 5)"),
        ({**OFF, **HALF}, ALL, "octave_alpha was 0.0, is 0.25"),
        ({**OFF, **HALF}, OFF, ""),
    ],
)
def test_what_an_inflated_network_keeps(theirs: Any, ours: Any, told: str) -> None:
    image, video = spec(RESNET, **theirs), spec(I3D, RESNET__DEPTH=26, **ours)
    differences = image.differences(video, without=INFLATED)
    assert in_options(differences) == told


@pytest.mark.parametrize("name", list_models())
def test_a_record_is_read_as_it_was_saved(name: str) -> None:
    saved = named_spec(name)
    assert spec_from_dict(saved.to_dict()) == saved
    assert not named_spec(name_of(saved) or "").differences(
        with_options(saved, octave_alpha=0.0), without={"non_local", "fast_non_local"}
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"depth": "50"}, "depth must be int, got '50'"),
        ({"depth": True}, "depth"),
        ({"depth": 51}, "51"),
        ({"bn_eps": None}, "bn_eps"),
        ({"spatial_strides": [1, 2, "2", 2]}, "spatial_strides"),
        ({"octave": {"alpha": 2.0}}, "2.0"),
        ({"octave": {"stages": 3}}, r"octave\.stages"),
        ({"non_local": []}, "non_local"),
        ({"a": 1}, "a is no field of ResNetSpec"),
    ],
)
def test_a_damaged_record_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        spec_from_dict({**named_spec("i3d_r50").to_dict(), **change})
    assert spec_from_dict({"network": "of another project", **change}) is None
    assert spec_from_dict(None) is None


def test_the_options_are_the_fields_of_all_networks() -> None:
    specs = [named_spec(name) for name in [*list_models(), "package.module:function"]]
    known = {field.name for each in specs for field in fields(each)}
    known -= {"octave", "num_classes", "name"}
    octave = OCTAVE_OPTIONS.keys() - {"octave_alpha"}
    assert NetworkOptions.__annotations__.keys() - {"ablation"} == known | octave
    assert set(OCTAVE_OPTIONS.values()) == {f.name for f in fields(specs[0].octave)} - {"ablation"}


def test_names_with_wildcards() -> None:
    names = list_models("oct*")
    assert "oct_i3d_r50" in names
    assert all(name.startswith("oct_") for name in names)
    assert [f"oct_{name}" for name in list_models("i3d*")] == list_models("oct_i3d*")
    octave, vanilla = named_spec("oct_i3d_r50"), named_spec("i3d_r50")
    assert octave == replace(vanilla, octave=replace(vanilla.octave, alpha=0.125))
    with pytest.raises(ValueError, match="Did you mean i3d_r50"):
        named_spec("oct_i3d_50")
